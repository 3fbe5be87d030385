"""This node's recordings, performed: who is recorded, what their sessions come to, how they end, how much there is.

    begin -> note* -> end, for each session that is recorded;  run for the node's life, flush once after it
    has -> go_on, where it comes from another node, which does let_go

Nothing here may hurt a session (`wire/scribe.py` tells how).
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Sequence

from ingress.consent import Policy, Record
from ingress.session import Append, Effect, Reply
from ingress.tape import Tape
from wire import metrics
from wire.archive import Archive
from wire.entries import AudioEntry
from wire.errors import BusUnavailable
from wire.recorded import RECOVERED, Connection, SessionEnd, SessionFacts
from wire.scribe import Scribe

logger = logging.getLogger(__name__)

#: How often the total of all recordings is looked at, in seconds.
TIDY_S = 5.0


class Recorder:
    """See the module. `instance` is the node's name."""

    def __init__(self, archive: Archive, policy: Policy, instance: str) -> None:
        self._archive = archive
        self._policy = policy
        self._instance = instance
        self._writer = f"ingress {instance}"
        self._scribe = Scribe(archive, Tape)
        self._now_s, self._tapes = self._scribe.now_s, self._scribe.tapes
        #: What the offers of recorded sessions say.
        self.mark = archive.mark

    def why(self, key: bool | None, asked: bool | None) -> str:
        """Why a session is recorded, "" if it is not (`ingress/consent.py`)."""
        return self._policy.why(key, asked, random.random())

    async def begin(self, facts: SessionFacts) -> bool:
        """Whether a recording could be begun; without one the session goes on all the same."""
        try:
            await self._archive.begin(facts, self._policy.keep_s, self._policy.session_bytes)
        except BusUnavailable as error:
            logger.warning("Session is not recorded", extra={"reason": str(error)})
            return False
        self._scribe.open(facts.id, self._writer)
        metrics.RECORDED_SESSIONS.labels(facts.why).inc()
        logger.info("Session is recorded", extra={"why": facts.why})
        return True

    async def has(self, session: str) -> bool:
        """Whether the session, which comes from another node, is recorded. Raises BusUnavailable."""
        return await self._archive.exists(session)

    def go_on(self, session: str, log: Sequence[AudioEntry], told: Sequence[str]) -> None:
        """A recorded session comes from another node: what happens here is written, too.

        If that one was killed, it has not written what it noted last. What of that still lies in Redis, the session's
        `log` and what its client was `told`, is written once more, apart, for readers to fill in what is missing.
        """
        # It may have been here before, and a writer's batches are numbered from 0.
        writer = f"{self._writer} {secrets.token_hex(4)}"
        self._scribe.open(session, RECOVERED + writer)
        self.note(session, None, [*map(Append, log), *map(Reply, told)])
        self._scribe.open(session, writer)

    def let_go(self, session: str) -> None:
        """The session goes on on another node, which will say how it ends."""
        self._scribe.close(session)

    def note(self, session: str, given: object, effects: Sequence[Effect]) -> None:
        """An input of the session, and what followed. Nothing for one that is not recorded."""
        if session in self._tapes:
            self._tapes[session].note(self._now_s(), given, effects)

    def connection(self, session: str, happened: str) -> None:
        """What became of the client's connection, as `wire.recorded.Connection` has it."""
        self.note(session, Connection(self._now_s(), happened), ())

    def end(self, session: str, outcome: str, audio_ms: int) -> None:
        """The session is over."""
        self._scribe.close(session, SessionEnd(self._scribe.now_s(), outcome, audio_ms))

    async def run(self, missed: Callable[[BusUnavailable], None]) -> None:
        """Write for ever, and keep all recordings together within their limit; `missed` is told of failed tries."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._scribe.run(missed))
            if self._policy.record is not Record.OFF:
                tasks.create_task(self._tidying(missed))

    async def flush(self) -> None:
        """What is left to write, once, at the end. Raises BusUnavailable."""
        await self._scribe.flush()

    async def _tidying(self, missed: Callable[[BusUnavailable], None]) -> None:
        while True:
            try:
                metrics.RECORDINGS_BYTES.set(await self._archive.tidy(self._policy.total_bytes))
                await self._archive.forget_told(self._instance)
            except BusUnavailable as error:
                missed(error)
            await asyncio.sleep(TIDY_S)
