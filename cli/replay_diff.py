"""Two transcripts of one recording, word by word: changed, missing, added, moved in time; errors and delays.

Words are compared without capitals and punctuation. The alignment is one with the fewest changes (Levenshtein), up to
EXACT_CELLS pairs of words; of longer transcripts, those between their common stretches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from statistics import quantiles

from wire.delays import of_finals, plain
from wire.recordings import Recording

#: A word is moved if it begins so many ms earlier or later.
MOVED_MS = 100
EXACT_CELLS = 4_000_000


class Change(StrEnum):
    """What became of a word."""

    SAME = "same"
    MOVED = "moved"
    CHANGED = "changed"
    MISSING = "missing"
    ADDED = "added"


_PLAIN = (Change.CHANGED, Change.MISSING, Change.ADDED)


@dataclass(frozen=True)
class Spoken:
    """A word of a final. `start_ms` and `end_ms` in audio time."""

    text: str
    start_ms: int
    end_ms: int = 0

    @property
    def plain(self) -> str:
        return plain(self.text)


@dataclass(frozen=True)
class Pair:
    """A word of the one beside that of the other, None where there is none."""

    change: Change
    first: Spoken | None
    second: Spoken | None


@dataclass(frozen=True)
class Comparison:
    """`identical`: each final, in text and in the times of its words. Delays in ms, from last word to final, sorted.

    `turns`: how many finals each has.
    """

    pairs: tuple[Pair, ...]
    identical: bool
    delays_ms: tuple[tuple[float, ...], tuple[float, ...]]
    turns: tuple[int, int] = (0, 0)

    @property
    def slight(self) -> list[str]:
        """In words, what differs although the same words were said at about the same time."""
        both = [(one.first, one.second) for one in self.pairs if one.first and one.second]
        apart = [
            most
            for first, second in both
            if (most := max(abs(first.start_ms - second.start_ms), abs(first.end_ms - second.end_ms)))
        ]
        written = sum(first.text != second.text and first.plain == second.plain for first, second in both)
        told = [f"{self.turns[0]} turns, not {self.turns[1]}"] if self.turns[0] != self.turns[1] else []
        told += [f"{written} words are written in another way"] if written else []
        told += [f"{len(apart)} words begin or end up to {max(apart)} ms apart"] if apart else []
        if not (told or self.identical or any(self.count(change) for change in _PLAIN)):
            told = ["the same words are parted into turns in another way"]
        return told

    def count(self, change: Change) -> int:
        return sum(pair.change is change for pair in self.pairs)

    @property
    def error_rate(self) -> float:
        """Changed, missing and added words per word of the first; 0 of nothing is 0."""
        words = sum(pair.first is not None for pair in self.pairs)
        wrong = len(self.pairs) - self.count(Change.SAME) - self.count(Change.MOVED)
        return wrong / words if words else float(wrong > 0)


def compare(first: Recording, second: Recording) -> Comparison:
    one, other = words(first), words(second)
    return Comparison(
        tuple(align(one, other)),
        _finals(first) == _finals(second),
        (_delays(first), _delays(second)),
        (len(first.finals), len(second.finals)),
    )


def words(recording: Recording) -> list[Spoken]:
    """Those of all finals, in order."""
    return [
        Spoken(str(word.get("text", "")), int(word.get("start", 0)), int(word.get("end", 0)))
        for final in recording.finals
        for word in final.fields.get("words") or ()
    ]


def percentile(delays_ms: Sequence[float], percent: int) -> float | None:
    """Of sorted delays; None of none."""
    if len(delays_ms) < 2:
        return delays_ms[0] if delays_ms else None
    return quantiles(delays_ms, n=100, method="inclusive")[percent - 1]


def _finals(recording: Recording) -> list[tuple[object, ...]]:
    return [
        (
            final.fields.get("turn_order"),
            final.fields.get("transcript"),
            tuple((word["text"], word["start"], word["end"]) for word in final.fields.get("words") or ()),
        )
        for final in recording.finals
    ]


def _delays(recording: Recording) -> tuple[float, ...]:
    totals = [way.total_ms for _, way in of_finals(recording)]
    return tuple(sorted(total for total in totals if total is not None))


# ---------------------------------------------------------------------------------------------------------------------
# alignment


def align(first: Sequence[Spoken], second: Sequence[Spoken]) -> Iterator[Pair]:
    """All words of both, in order."""
    if len(first) * len(second) <= EXACT_CELLS:
        yield from _nearest(first, second)
        return
    plains = [word.plain for word in first], [word.plain for word in second]
    for op, i, to_i, j, to_j in SequenceMatcher(None, *plains, autojunk=False).get_opcodes():
        if op == "equal":
            yield from (_beside(*pair) for pair in zip(first[i:to_i], second[j:to_j], strict=True))
        else:
            yield from _nearest(first[i:to_i], second[j:to_j])


def _nearest(first: Sequence[Spoken], second: Sequence[Spoken]) -> list[Pair]:
    """The alignment with the fewest changes."""
    ours, theirs = [word.plain for word in first], [word.plain for word in second]
    rows = [list(range(len(theirs) + 1))]
    for i, word in enumerate(ours, start=1):
        above, row = rows[-1], [i]
        for j, other in enumerate(theirs, start=1):
            row.append(min(above[j - 1] + (word != other), above[j] + 1, row[j - 1] + 1))
        rows.append(row)
    pairs, i, j = list[Pair](), len(ours), len(theirs)
    while i or j:
        if i and j and rows[i][j] == rows[i - 1][j - 1] + (ours[i - 1] != theirs[j - 1]):
            i, j = i - 1, j - 1
            pairs.append(_beside(first[i], second[j]))
        elif i and rows[i][j] == rows[i - 1][j] + 1:
            i -= 1
            pairs.append(Pair(Change.MISSING, first[i], None))
        else:
            j -= 1
            pairs.append(Pair(Change.ADDED, None, second[j]))
    return pairs[::-1]


def _beside(first: Spoken, second: Spoken) -> Pair:
    if first.plain != second.plain:
        return Pair(Change.CHANGED, first, second)
    moved = abs(first.start_ms - second.start_ms) >= MOVED_MS
    return Pair(Change.MOVED if moved else Change.SAME, first, second)
