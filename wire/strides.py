"""How far each step of a recorded session went, for a replay: the same steps see the same audio, and say the same.

What a model hears is ruled by audio time, but a machine that has little time takes more audio in a step, and then less
is decoded; and what is due may be held back in favour of other sessions. A replay takes what the recorded steps took,
and waits where they did. Strides are numbers of UNIT_MS, one for each step, 0 for steps that had no new audio, and HELD
more where something was held back; as text they are compressed, in base64, for a query.
"""

import base64
import binascii
import zlib
from collections.abc import Iterable, Sequence

from wire.recorded import Stepped, Taken
from wire.recordings import Recording

#: What a step takes where the machine has time: a chunk of the pools' models.
UNIT_MS = 64
#: Beside how far a step went: something that was due had to wait for a later one.
HELD = 0x80
#: Most steps of one session, and most letters that they may take; longer ones are replayed a unit a step.
MAX_STRIDES, MAX_TEXT = 200_000, 40_000


def of(recording: Recording) -> bytes:
    """The session's strides; none where several workers held it: what each heard again is not told."""
    if len(recording.of(Taken)) != 1:
        return b""
    steps = recording.of(Stepped)
    return bytes(_stride(step) for step in _whole(steps))


def _stride(step: Stepped) -> int:
    return min(HELD - 1, -(-(step.to_ms - step.from_ms) // UNIT_MS)) | (HELD if step.held else 0)


def _whole(steps: Sequence[Stepped]) -> Iterable[Stepped]:
    """Up to where some are missing."""
    reached_ms = 0
    for step in steps:
        if step.from_ms != reached_ms or step.to_ms < reached_ms:
            return
        reached_ms = step.to_ms
        yield step


def pack(strides: bytes) -> str:
    """For a query; "" for more than it can hold."""
    text = base64.urlsafe_b64encode(zlib.compress(strides[: MAX_STRIDES + 1], 9)).decode()
    return text if strides and len(strides) <= MAX_STRIDES and len(text) <= MAX_TEXT else ""


def unpack(text: str) -> bytes:
    """Raises ValueError."""
    if len(text) > MAX_TEXT:
        raise ValueError("too long")
    try:
        unpacker = zlib.decompressobj()
        strides = unpacker.decompress(base64.urlsafe_b64decode(text.encode()), MAX_STRIDES)
    except (binascii.Error, zlib.error, ValueError):
        raise ValueError("no strides of a recorded session") from None
    if unpacker.unconsumed_tail or not (unpacker.eof or not text):
        raise ValueError("no strides of a recorded session")
    return strides
