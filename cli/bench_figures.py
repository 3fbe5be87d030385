"""What a session's times say: which final answers which phrase, how long it took, whether it gets worse.

Wall times are seconds of one clock; places in the audio are ms. Pure.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Heard:
    """One Turn message with words: when it came, and the places of its words."""

    at_s: float
    final: bool
    order: int
    first_start_ms: int
    last_start_ms: int
    last_end_ms: int
    text: str


@dataclass
class Record:
    """All that a client saw of one session.

    `sent_s[i]`: when chunk i was sent; `late_ms[i]`: how much later than due. `end_ms`: from Terminate to the server's
    close, everything that was still to come included.
    """

    phrases: tuple[tuple[int, int], ...]
    chunk_ms: int
    sent_s: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    forced_s: list[float] = field(default_factory=list)
    turns: list[Heard] = field(default_factory=list)
    begin_ms: float | None = None
    end_ms: float | None = None
    error: str | None = None
    #: Of a session with an error: from connecting to it, and the code that the server told.
    failed_ms: float | None = None
    code: int | None = None

    def sent_at(self, place_ms: float) -> float:
        """When the audio at this place was sent."""
        return self.sent_s[min(max(0, int(place_ms - 1) // self.chunk_ms), len(self.sent_s) - 1)]


@dataclass(frozen=True)
class Answer:
    """What became of one phrase. Delays in ms; None where no message came.

    final_ms          from sending the phrase's last audio to the final that covers it
    after_word_ms     the same, from the end of that final's last word, as the server has it
    first_partial_ms  from sending the phrase's first audio to the first message with a word of it
    early             the final came before the phrase was over: it ended in sound that gave no word; it has no final_ms
    gaps_ms           between messages while the phrase was spoken, its begin and end included
    """

    end_s: float
    final_ms: float | None
    after_word_ms: float | None
    first_partial_ms: float | None
    gaps_ms: tuple[float, ...]
    early: bool = False


def covering(turns: Sequence[Heard], phrase: tuple[int, int], tolerance_ms: int = 100) -> Heard | None:
    """The final that covers a phrase: the last one whose last word begins within it; if none does (the phrase was
    joined with the next), the first final that goes beyond it."""
    start, end = phrase[0] - tolerance_ms, phrase[1] + tolerance_ms
    finals = [turn for turn in turns if turn.final]
    within = [turn for turn in finals if start <= turn.last_start_ms < end]
    beyond = [turn for turn in finals if turn.last_start_ms >= end and turn.first_start_ms < end]
    return within[-1] if within else beyond[0] if beyond else None


def answers(record: Record) -> list[Answer]:
    """One for each phrase whose end was sent."""
    found = []
    for phrase in record.phrases:
        if phrase[1] > len(record.sent_s) * record.chunk_ms:
            break
        start_s, end_s = record.sent_at(phrase[0] + 1), record.sent_at(phrase[1])
        final = covering(record.turns, phrase)
        early = final is not None and final.at_s < end_s
        if early:
            final = None
        first = next(
            (turn for turn in record.turns if turn.at_s > start_s and turn.last_end_ms > phrase[0]), None
        )
        during = [turn.at_s for turn in record.turns if start_s < turn.at_s < end_s]
        times = [start_s, *during, end_s]
        found.append(
            Answer(
                end_s,
                (final.at_s - end_s) * 1000 if final else None,
                (final.at_s - record.sent_at(final.last_end_ms)) * 1000 if final else None,
                (first.at_s - start_s) * 1000 if first else None,
                tuple((b - a) * 1000 for a, b in itertools.pairwise(times)),
                early,
            )
        )
    return found


def percentile(values: Sequence[float], part: float) -> float | None:
    """The nearest-rank percentile, a value that was measured; None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, int(np.ceil(part / 100 * len(ordered))) - 1))]


def middle(rounds: Sequence[Mapping[str, Any]], worst: Sequence[str] = ()) -> dict[str, Any]:
    """Of the same figures measured several times: the median of each number, the most of those in `worst`.

    What is no number is the last round's. `spread` says the least and the most of each number that was not the same.
    """
    found: dict[str, Any] = {}
    spreads: dict[str, tuple[float, float]] = {}
    for name, last in rounds[-1].items():
        if isinstance(last, Mapping):
            found[name] = middle([one[name] for one in rounds])
            spreads |= {f"{name} {part}": two for part, two in found[name].pop("spread").items()}
            continue
        values = [one[name] for one in rounds if isinstance(one[name], int | float)]
        if not values or isinstance(last, bool):
            found[name] = last
            continue
        whole = all(isinstance(value, int) for value in values)
        middling = max(values) if name in worst else statistics.median(values)
        found[name] = round(middling) if whole else round(middling, 4)
        if min(values) != max(values):
            spreads[name] = min(values), max(values)
    return found | {"spread": spreads}


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The least and the most, rounded as figures are told."""
    return round(min(values), 1), round(max(values), 1)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of y over x; 0 for fewer than three points."""
    if len(points) < 3:
        return 0.0
    x, y = np.asarray(points, dtype=float).T
    spread = x - x.mean()
    scale = float((spread**2).sum())
    return float((spread * (y - y.mean())).sum() / scale) if scale else 0.0


def slope_and_error(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The least-squares slope and its standard error, as if the points did not hang together; 0, 0 for too few."""
    if len(points) < 3:
        return 0.0, 0.0
    x, y = np.asarray(points, dtype=float).T
    spread, found = x - x.mean(), slope(points)
    rest = y - y.mean() - found * spread
    scale = float((spread**2).sum())
    return found, float(np.sqrt((rest**2).sum() / (len(points) - 2) / scale)) if scale else 0.0


def quantile_of_buckets(buckets: Sequence[tuple[float, float]], part: float) -> float | None:
    """A percentile from a histogram's cumulative (upper bound, count) buckets, linear within a bucket."""
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return None
    wanted, low, before = total * part / 100, 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (wanted - before) / max(count - before, 1e-9)
        low, before = bound, count
    return low
