"""What ingress records of one session: what came, what was decided of it, and what was told (`wire/recorded.py`).

The client's secrets are left out: parameters that concern ingress alone are in no item, and Begin loses its token.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

from ingress import session
from ingress.session import Append, CloseWith, Effect, Reply
from wire.entries import AudioFrame, Control, SessionEvent
from wire.recorded import Audio, Connection, Dropped, Item, Ordered, Said, Sound, Told, sounds

_RESUMED = '"type":"Resumed"}'
_TOKEN = "resume_token"  # noqa: S105 its name in Begin


#: When something happened to a session, what it was, and what followed; of audio, the frame that it became (`noted`).
Note = tuple[float, object, Sequence[Effect]]


def noted(at_s: float, given: object, effects: Sequence[Effect]) -> Note:
    """What is kept, for a second or so, of an input and what followed. Of a message of audio that became one frame, as
    nearly all are, it is that frame, which others keep as well: all else of it is freed while it is at hand.
    """
    if given.__class__ is bytes:
        match effects:
            case [Append(AudioFrame() as frame)]:
                return at_s, frame, ()
    return at_s, given, effects


def developed(notes: Iterable[Note]) -> list[Item | Sound]:
    """A stretch of one session, as it is recorded. Frames that follow one another become one `Sound`, before what
    stands between them: whoever reads goes by the times.
    """
    times_s, frames, others = list[float](), list[AudioFrame](), list[Item]()
    for at_s, given, effects in notes:
        if given.__class__ is AudioFrame:
            times_s.append(at_s)
            frames.append(given)
        else:
            others += items(given, effects, at_s)
    return [*sounds(times_s, frames), *others]


def items(given: object, effects: Iterable[Effect], at_s: float) -> list[Item]:
    """What an input of `Session` and the effects that followed come to. `given`: a message of the client, an event of
    the worker, or anything else where time or an error was the input.

    What a client that is back is told again has been recorded when it was first told. Of a text message, the audio that
    it pushed out of decoder and resampler comes first: it lies before the place that the order is for.
    """
    if isinstance(given, Connection):
        return [given]
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
