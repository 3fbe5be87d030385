"""A recording as the tests of its readers want it: two turns, two workers, everything that can happen."""

from wire.messages import Begin, Turn, Word, dump
from wire.params import SessionParams
from wire.recorded import (
    Audio,
    Connection,
    Decided,
    Dropped,
    Item,
    Missed,
    Ordered,
    Published,
    Said,
    SessionEnd,
    SessionFacts,
    Stepped,
    Taken,
    Told,
)
from wire.recordings import Recording

START_S = 1_000.0
ID = "0f6d7a3e-0000-4000-8000-000000000001"
FACTS = SessionFacts(
    ID, START_S, "english", SessionParams(sample_rate=16_000).for_worker(), "alice", "node", "0.1.0", "asked"
)
HELLO = Word(100, 400, "Hello,", 0.9, True)
THERE = Word(450, 800, "there.", 0.9, True)
BYE = Word(1_900, 2_200, "Goodbye.", 0.9, True)


def turn(order: int, end: bool, *words: Word) -> str:
    return dump(Turn(order, True, end, " ".join(word.text for word in words), 0.9, words))


def recording(*finals: tuple[Word, ...], more: tuple[Item, ...] = ()) -> Recording:
    """50 ms of audio every 50 ms, a step right after each, a final for each of `finals` a tenth of a second later."""
    told = finals or ((HELLO, THERE), (BYE,))
    items: list[Item] = [Taken(START_S, 1, "ada", "moonshine", "12ab34cd56ef78", "0.1.0")]
    items.append(Told(START_S + 0.01, dump(Begin(ID, 9_999, {"model": "some"})), 1, 0))
    for number in range(50):
        at_s, from_ms = START_S + 0.05 * (number + 1), 50 * number
        items.append(Audio(at_s, 800 * number, bytes([number, 0]) * 800))
        speech = (900,) if 2 <= number < 16 else (20,)
        step = (at_s + 0.04, 1, at_s + 0.01, at_s + 0.02, from_ms, from_ms + 50, 2, from_ms + 50, 50, speech)
        items.append(Stepped(*step))
    for order, words in enumerate(told):
        heard = next(item for item in items if isinstance(item, Stepped) and item.to_ms >= words[-1].end)
        decided_s, place = heard.at_s, (1, 2 * order + 2)
        first = turn(order, False, words[0])
        items.append(Told(decided_s, first, 1, 2 * order + 1))
        numbers = {
            "words": len(words),
            "last_word": None,
            "silence_from_ms": words[-1].end,
            "silence_until_ms": words[-1].end + 450,
            "min_turn_silence_ms": 400,
            "max_turn_silence_ms": 1280,
            "confidence": 0.9,
            "threshold": 0.4,
        }
        items.append(Decided(decided_s, 1, order, "confident", words[-1].end, words[-1].end + 50, numbers))
        published = (decided_s + 0.01, *place, "MESSAGE", decided_s, words[-1].end, order, True)
        items.append(Published(*published, order + 1, words[-1].end))
        items.append(Told(decided_s + 0.03, turn(order, True, *words), *place))
    items += more
    end = SessionEnd(START_S + 2.6, "ended", 2_500)
    return Recording(FACTS, end, tuple(sorted(items, key=lambda item: item.at_s)))


EVENTFUL: tuple[Item, ...] = (
    Said(START_S + 1.0, '{"type": "ForceEndpoint"}'),
    Ordered(START_S + 1.0, "FORCE_ENDPOINT", 16_000),
    Said(START_S + 1.2, '{"type": "UpdateConfiguration", "max_turn_silence": 900}'),
    Ordered(START_S + 1.2, "CONFIGURE", 19_200, {"max_turn_silence": 900}),
    Connection(START_S + 1.3, "lost"),
    Dropped(START_S + 1.4, "generation", 1, 9, "late"),
    Taken(START_S + 1.5, 2, "bob", "moonshine", "12ab34cd56ef78", "0.1.0", 1, 1_000, 500),
    Missed(START_S + 1.6, 3, "Redis was too slow to take them"),
    Said(START_S + 2.55, '{"type": "Terminate"}'),
    Connection(START_S + 2.6, "closed", 1000, "Session Ended"),
)
