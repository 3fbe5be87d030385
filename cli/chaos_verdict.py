"""What a hurt session told, held against undisturbed ones: blow by blow, what was lost, doubled, changed; the pause.

Finals are matched by the audio of their words: where a busy machine lets a turn be cut otherwise now and then,
undisturbed sessions tell both, and both are right. Each final belongs to the last blow before it was due: as long after
its last word was spoken as undisturbed. Pure.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from cli.bench_figures import Heard, Record


@dataclass(frozen=True)
class Verdict:
    """Of one blow. `pause_ms`: how much later the most delayed final came than undisturbed; None if none came.

    `words` are those that were changed.
    """

    finals: int = 0
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    pause_ms: float | None = None
    words: tuple[str, ...] = ()

    def __add__(self, other: "Verdict") -> "Verdict":
        """Of two sessions that felt the same blow, or of two finals of one."""
        pauses = [pause for pause in (self.pause_ms, other.pause_ms) if pause is not None]
        return Verdict(
            self.finals + other.finals,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.changed + other.changed,
            max(pauses, default=None),
            self.words + other.words,
        )


def verdicts(calm: Sequence[Record], hurt: Record, blows_s: Sequence[float]) -> list[Verdict]:
    """One for each blow, given by when it fell; what came before the first one is the first one's.

    Of the `calm` sessions the last is what is expected: `lost` are its finals where nothing was told of their audio.
    But what any of them told there is not `changed`. `doubled`: of the same audio, or under the same number, once more.
    """
    found = [Verdict() for _ in blows_s]
    told = finals(hurt)

    def add(at_s: float, verdict: Verdict) -> None:
        if found:
            found[max(0, bisect_right(blows_s, at_s) - 1)] += verdict

    for wanted in finals(calm[-1]):
        delay_ms = _delay_ms(calm[-1], wanted)
        due_s = _spoken_s(hurt, wanted.last_end_ms) + delay_ms / 1000
        answer = max(told, key=lambda final: _shared_ms(final, wanted), default=None)
        if answer is None or _shared_ms(answer, wanted) <= 0:
            add(due_s, Verdict(1, lost=1))
        else:
            add(due_s, Verdict(1, pause_ms=_delay_ms(hurt, answer) - delay_ms))
    for number, final in enumerate(told):
        before = told[:number]
        if any(_is_again(final, other) for other in before):
            add(final.at_s, Verdict(doubled=1))
        elif not _was_told(final, calm):
            add(final.at_s, Verdict(changed=1, words=(final.text,)))
    return found


def unsteady(calm: Sequence[Record]) -> int:
    """How many finals of the last one the others did not all tell alike."""
    return sum(not all(_was_told(final, [record]) for record in calm) for final in finals(calm[-1]))


def disorder(record: Record) -> int:
    """How many finals were not numbered one after the other, or began before the one before had ended."""
    told = finals(record)
    wrong = sum(final.order != number for number, final in enumerate(told))
    return wrong + sum(
        after.first_start_ms < before.last_end_ms for before, after in itertools.pairwise(told)
    )


def finals(record: Record) -> list[Heard]:
    return [turn for turn in record.turns if turn.final]


def _was_told(final: Heard, records: Sequence[Record]) -> bool:
    """Whether any of them told these words there."""
    return any(
        other.text == final.text and _shared_ms(other, final) > 0
        for record in records
        for other in finals(record)
    )


def _is_again(final: Heard, before: Heard) -> bool:
    shorter_ms = min(one.last_end_ms - one.first_start_ms for one in (final, before))
    return final.order == before.order or _shared_ms(final, before) > shorter_ms / 2


def _shared_ms(one: Heard, other: Heard) -> int:
    return min(one.last_end_ms, other.last_end_ms) - max(one.first_start_ms, other.first_start_ms)


def _delay_ms(record: Record, final: Heard) -> float:
    return (final.at_s - _spoken_s(record, final.last_end_ms)) * 1000


def _spoken_s(record: Record, place_ms: float) -> float:
    """When the audio there was spoken: a client that could not send it then sent it later. 0 if nothing was sent."""
    if not record.sent_s:
        return 0.0
    late_ms = record.late_ms[min(max(0, int(place_ms - 1) // record.chunk_ms), len(record.late_ms) - 1)]
    return record.sent_at(place_ms) - late_ms / 1000
