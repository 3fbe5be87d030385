"""Sessions through a recognizer, slots and turns, without processes and wire: what each of them is told."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workers.recognizer import Hypothesis, Recognizer, SlotOptions
from workers.slots import Samples, Slots
from workers.turns import Effect, Finished, Flush, Turn, TurnRules, TurnTracker


@dataclass
class Told:
    """What one session was told: finals and partials, and the language of each decode."""

    finals: list[Turn] = field(default_factory=list)
    partials: list[Turn] = field(default_factory=list)
    languages: list[tuple[str, float]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(turn.transcript for turn in self.finals)


class _Session:
    def __init__(self, slots: Slots, name: str, rules: TurnRules) -> None:
        self.slots, self.name = slots, name
        self.turns = TurnTracker(rules, 0)
        self.told = Told()
        self.over = False

    def hear(self, news: Hypothesis) -> None:
        assert not news.failed
        if news.language is not None and (news.tail is not None or news.flushed_ms is not None):
            self.told.languages.append((news.language, news.language_confidence))
        self.perform(self.turns.advance(news))

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Flush(at_ms):
                    self.slots.flush(self.name, at_ms)
                case Turn(end_of_turn=True):
                    self.told.finals.append(effect)
                case Turn():
                    self.told.partials.append(effect)
                case Finished():
                    self.over = True


def told(
    recognizer: Recognizer,
    clips: Mapping[str, Samples],
    seed: int | None = None,
    options: Mapping[str, SlotOptions] | None = None,
    rules: TurnRules | None = None,
) -> dict[str, Told]:
    """One session per clip, all at the same time. With a seed, audio comes in random pieces, faster than words;
    without, in pieces of 100 ms, as from a microphone."""
    rng, slots = random.Random(seed), Slots(recognizer.spec)
    sessions = {name: _Session(slots, name, rules or TurnRules()) for name in clips}
    longest = {name: 1_600 if seed is None else rng.choice([800, 4_800, 16_000, 40_000]) for name in clips}
    fed, ended = dict.fromkeys(clips, 0), set[str]()
    for name in clips:
        slots.seat(name, 1, 0, (options or {}).get(name, SlotOptions()))
    while open_ones := [name for name, session in sessions.items() if not session.over]:
        for name in open_ones:
            count = longest[name] if seed is None else rng.randrange(longest[name])
            slots.feed(name, clips[name][fed[name] : fed[name] + min(count, slots.room(name))])
            fed[name] = slots.fed(name)
            if fed[name] == len(clips[name]) == slots.stepped(name) and name not in ended:
                ended.add(name)
                sessions[name].perform(sessions[name].turns.finish(fed[name] // 16))
            elif fed[name] == len(clips[name]):
                slots.cut(name)
        if (plan := slots.plan(recognizer.behind)) is not None:
            for name, _, hypothesis in slots.deliver(plan, recognizer.step(plan.batch)):
                sessions[name].hear(hypothesis)
    return {name: session.told for name, session in sessions.items()}
