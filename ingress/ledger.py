"""What the audio logs of this node's sessions should hold: every entry since the last checkpoint, to be written again.

Entries of a session are numbered from 1, without a gap; the number is the entry's id in Redis. So an entry that is
written twice is there once, and a reader sees where something is missing. What stands before the checkpoint is not
needed by anybody and let go. Two limits, in bytes: of one session and of the node; beyond them the oldest entries of
the session that grows are let go, and that session cannot be restored any more until its next checkpoint.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from wire.entries import AudioEntry, AudioFrame, Saved, unpack_checkpoint

#: What an order of another node's is taken to hold.
_ORDER_BYTES = 1_000


@dataclass(frozen=True)
class Log:
    """What a session needs in Redis, as far as its node knows (`Bus.restore`). `checkpoint` is packed, b"" for none."""

    generation: int
    checkpoint: bytes
    entries: Sequence[tuple[int, AudioEntry]]


@dataclass(slots=True)
class _Account:
    last: int = 0  # number of the newest entry
    written: int = 0  # number of the newest that Redis has taken
    needed: int = 1  # number of the first that whoever takes the session over needs
    generation: int = 0  # of the checkpoint
    checkpoint: bytes = b""
    bytes: int = 0
    entries: deque[tuple[int, AudioEntry, int]] = field(default_factory=deque)


class Ledger:
    """`number` every entry before it is written, `written` after; `saved` and `drop` let go what is not needed."""

    def __init__(self, most_bytes: int, most_session_bytes: int) -> None:
        #: What is held of all sessions.
        self.bytes = 0
        self._most_bytes = most_bytes
        self._most_session_bytes = most_session_bytes
        self._accounts: dict[str, _Account] = {}

    def number(self, session: str, entry: AudioEntry, size: int) -> int:
        """The entry's number. It is held from now on; `size` in bytes."""
        account = self._accounts.get(session)
        if account is None:
            account = self._accounts[session] = _Account()
        account.last = number = account.last + 1
        account.entries.append((number, entry, size))
        account.bytes += size
        self.bytes += size
        while account.bytes > self._most_session_bytes or self.bytes > self._most_bytes:
            if not account.entries:
                break
            self._let_go(account)
        return number

    def adopt(
        self,
        session: str,
        generation: int,
        checkpoint: bytes,
        last: int,
        entries: Sequence[tuple[int, AudioEntry]],
    ) -> None:
        """A session that another node had: what Redis has of its log, up to number `last`. Raises EntryError."""
        entry_id = unpack_checkpoint(checkpoint).entry_id if checkpoint else ""
        account = self._accounts[session] = _Account(last, last, int(entry_id.partition("-")[0] or 0) + 1)
        account.generation, account.checkpoint = generation, checkpoint
        for number, entry in entries:
            size = len(entry.pcm) if isinstance(entry, AudioFrame) else _ORDER_BYTES
            account.entries.append((number, entry, size))
            account.bytes += size
            self.bytes += size

    def written(self, session: str, number: int) -> None:
        """Redis has taken the entry, and all before it."""
        account = self._accounts.get(session)
        if account is not None and number > account.written:
            account.written = number

    def last_written(self, session: str) -> int:
        """Number of the newest entry that Redis has taken; 0 for none."""
        account = self._accounts.get(session)
        return account.written if account else 0

    def saved(self, saved: Saved) -> None:
        """A worker has written a checkpoint. Raises EntryError for one that cannot be read."""
        account = self._accounts.get(saved.session)
        if account is None or saved.generation < account.generation:
            return
        entry_id = unpack_checkpoint(saved.packed).entry_id
        needed = int(entry_id.partition("-")[0] or 0) + 1
        if needed < account.needed:
            return  # of a holder that began from an older one
        account.generation, account.checkpoint, account.needed = saved.generation, saved.packed, needed
        while account.entries and account.entries[0][0] < needed:
            self._let_go(account)

    def log(self, session: str) -> Log | None:
        """What is to be written anew; None where something of it was let go."""
        account = self._accounts.get(session) or _Account()
        first = account.entries[0][0] if account.entries else account.last + 1
        if first > account.needed:
            return None
        return Log(
            account.generation, account.checkpoint, [(number, entry) for number, entry, _ in account.entries]
        )

    def drop(self, session: str) -> None:
        """The session is over."""
        if (account := self._accounts.pop(session, None)) is not None:
            self.bytes -= account.bytes

    def _let_go(self, account: _Account) -> None:
        _, _, size = account.entries.popleft()
        account.bytes -= size
        self.bytes -= size
