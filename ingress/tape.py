"""What ingress records of one session: what came, what was decided of it, and what was told (`wire/recorded.py`).

The client's secrets are left out: parameters that concern ingress alone are in no item, and Begin loses its token.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ingress import session
from ingress.session import Append, CloseWith, Effect, Reply
from wire.entries import AudioFrame, Control, SessionEvent
from wire.recorded import BATCH_BYTES, Audio, Connection, Dropped, Item, Ordered, Said, Sound, Told

_RESUMED = '"type":"Resumed"}'
_TOKEN = "resume_token"  # noqa: S105 its name in Begin

#: A sound is cut when it has reached so many bytes: half a batch.
_MOST_BYTES = BATCH_BYTES // 2


class Tape:
    """What a node notes of one session until `take`.

    Of a message of audio that became one frame, as nearly all are, that is its sound, which others keep as well, and
    when it came: nothing is made for it, and nothing looked at again when it is no longer at hand.
    """

    __slots__ = ("_begin", "_end", "_others", "_pieces", "_sounds")

    def __init__(self) -> None:
        self._begin, self._end = 0, -1  # of the open sound: where in the audio it begins, and reaches
        self._pieces: list[Any] = []  # of it: when each came, and the piece, by turns
        self._sounds: list[Sound] = []
        self._others: list[tuple[float, object, Sequence[Effect]]] = []

    def note(self, at_s: float, given: object, effects: Sequence[Effect]) -> None:
        """An input of the session, as `items` has it, and what followed."""
        # Not by `match`, which takes twice as long: this is asked of every frame.
        if given.__class__ is bytes:
            try:
                [effect] = effects
            except ValueError:
                effect = None
            if effect.__class__ is Append and (entry := effect.entry).__class__ is AudioFrame:
                position, pcm = entry.position, entry.pcm
                if position != self._end or 2 * (position - self._begin) >= _MOST_BYTES:
                    if self._pieces:
                        self._cut()
                    self._begin = position
                self._end = position + len(pcm) // 2
                self._pieces += at_s, pcm
                return
        self._others.append((at_s, given, effects))

    def take(self, failed: Callable[[Exception], None]) -> list[Item | Sound]:
        """What it comes to; the tape is empty then. Frames that follow one another are one `Sound`, before what stands
        between them: whoever reads goes by the times. `failed`: as `wire.scribe.Tape` has it.
        """
        if self._pieces:
            self._cut()
        found: list[Item | Sound] = [*self._sounds]
        for at_s, given, effects in self._others:
            try:
                found += items(given, effects, at_s)
            except Exception as error:  # noqa: BLE001 a bug must not end the session; the rest is recorded
                failed(error)
        self._sounds, self._others = [], []
        return found

    def _cut(self) -> None:
        size = 2 * (self._end - self._begin)
        self._sounds.append(Sound(self._begin, self._pieces[::2], self._pieces[1::2], size))
        self._pieces, self._end = [], -1


def items(given: object, effects: Iterable[Effect], at_s: float) -> list[Item]:
    """What an input of `Session` and the effects that followed come to. `given`: a message of the client, an event of
    the worker, or anything else where time or an error was the input.

    What a client that is back is told again has been recorded when it was first told. Of a text message, the audio that
    it pushed out of decoder and resampler comes first: it lies before the place that the order is for.
    """
    match given, effects:
        case Connection(), _:
            return [given]
        case SessionEvent(generation=generation, sequence=sequence), [Reply(text)]:  # as nearly always
            return [Told(at_s, _without_token(text), generation, sequence)]
    performed = list(effects)
    if performed and isinstance(performed[0], Reply) and performed[0].text.endswith(_RESUMED):
        return [Connection(at_s, "resumed")]
    sound: list[Item] = [
        Audio(at_s, effect.entry.position, effect.entry.pcm)
        for effect in performed
        if isinstance(effect, Append) and isinstance(effect.entry, AudioFrame)
    ]
    said: list[Item] = [Said(at_s, given)] if isinstance(given, str) else []
    return [*sound, *said, *_decided(given, performed, at_s)]


def _decided(given: object, effects: Iterable[Effect], at_s: float) -> Iterator[Item]:
    place, text = (-1, -1), ""
    if isinstance(given, SessionEvent):
        place, text = (given.generation, given.sequence), given.text
    for effect in effects:
        match effect:
            case Append(Control(order, position, fields)):
                yield Ordered(at_s, order.name, position, fields)
            case Reply(told):
                yield Told(at_s, _without_token(told), *place)
            case session.Dropped(reason):
                yield Dropped(at_s, reason, *place, text)
            case CloseWith(code, reason):
                yield Connection(at_s, "closed", int(code), reason)
            case _:
                pass


def _without_token(text: str) -> str:
    """Only Begin holds one."""
    if _TOKEN not in text or not text.endswith('"type":"Begin"}'):
        return text
    fields = json.loads(text)
    fields["configuration"].pop(_TOKEN, None)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
