"""Whether a session is recorded (docs/replay.md). Nobody is, unless the operator has set RECORD.

    off    nobody, whatever keys and clients say
    keys   sessions of API keys whose line says `record=yes`
    ask    those, and those that ask for it with `record=true`
    all    everybody

Of those that are left, RECORD_SAMPLE is the share that is recorded at random. A key whose line says `record=no`, and a
client that says `record=false`, are never recorded. A client that asks in vain is not refused: Begin tells it.
"""

from dataclasses import dataclass
from enum import StrEnum


class Record(StrEnum):
    """What RECORD may be."""

    OFF = "off"
    KEYS = "keys"
    ASK = "ask"
    ALL = "all"


@dataclass(frozen=True)
class Policy:
    """What the operator allows. `sample` is a share from 0 to 1; recordings are kept for `keep_s`.

    At most `session_bytes` of a session, and `total_bytes` of all, over all nodes.
    """

    record: Record = Record.OFF
    sample: float = 0.0
    keep_s: float = 0.0
    session_bytes: int = 0
    total_bytes: int = 0

    def why(self, key: bool | None, asked: bool | None, draw: float) -> str:
        """Why a session is recorded: all, key, asked or sampled; "" if it is not.

        `key` and `asked`: what the key's line and the client say, None for nothing; `draw`: any number from 0 to 1.
        """
        if self.record is Record.OFF or key is False or asked is False:
            return ""
        if self.record is Record.ALL:
            return "all"
        if key:
            return "key"
        if asked and self.record is Record.ASK:
            return "asked"
        return "sampled" if draw < self.sample else ""
