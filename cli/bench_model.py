"""What a service's processor costs with several nodes and many sessions, and where it is full. Pure.

The model is a sum: so many cores for being there, so many for each ingress node whose ticks are all used (a tick costs
as much for one frame as for ten, but none is taken in which nothing came), so many for each session. What is measured
at sizes that fit one machine gives the three by least squares; sizes left out of it say how far it may be believed.

How many ticks are used: a node writes at once what comes after a pause, and then not before a tick has passed
(`ingress/outbox.py`). Frames of many clients at phases of their own come as a Poisson process, `x` of them in a tick on
average. So from one write to the next it takes a tick and, if none came by then, which has the chance exp(-x), a wait
for the next frame, 1 / x ticks on average: 1 + exp(-x) / x ticks in all.

On a machine with fewer cores than processes fewer are used than that: a write then often takes longer than a tick.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: An ingress that gets through less of the audio than this falls behind.
KEPT = 0.95

#: A tick as ingress has it by itself (`TICK_MS`), and frames of a session in one.
TICK_MS = 2
FRAMES_A_TICK = TICK_MS / 50

#: Ingress nodes, as many of them as their ticks were used (`used`), sessions on all of them together, cores in use.
Row = tuple[int, float, int, float]


@dataclass(frozen=True)
class Costs:
    """Cores: `fixed` once, `node` for each ingress node with all its ticks in use, `session` for each session."""

    fixed: float
    node: float
    session: float

    def cores(self, nodes: float, sessions: float) -> float:
        """What so many nodes with so many sessions in all take, where they use their ticks by chance."""
        return self.at(used(nodes, sessions), sessions)

    def at(self, ticks: float, sessions: float) -> float:
        """What it takes where the ticks of so many nodes are used."""
        return self.fixed + self.node * ticks + self.session * sessions

    def most(self, per_node: float, budget: float = 1.0) -> int:
        """Sessions that so many cores hold, with a node for each `per_node` of them; 0 if an empty node is too much."""
        each = self.session + self.node * used(1, per_node) / per_node
        free = budget - self.fixed
        return max(0, math.floor(free / each)) if each > 0 else 0


def used(nodes: float, sessions: float) -> float:
    """As many nodes' ticks are used as so many nodes take that share so many sessions evenly; at most `nodes`."""
    if not (sessions > 0 and nodes > 0):
        return 0.0
    frames = FRAMES_A_TICK * sessions / nodes
    return nodes / (1 + math.exp(-frames) / frames)


def fit(rows: Sequence[Row], fixed: bool = True) -> Costs:
    """Least squares, none below zero; `fixed=False`: nothing is spent but by nodes and sessions.

    Where every row has as many nodes as the others, `fixed` and `node` cannot be told apart: all of it counts as the
    nodes'. Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("nothing was measured")
    table = np.array([(1.0, ticks, sessions) for _, ticks, sessions, _ in rows])
    cores = np.array([row[3] for row in rows])
    columns = [1, 2] if not fixed or len({row[0] for row in rows}) == 1 else [0, 1, 2]
    best, least = np.zeros(3), math.inf
    # Three unknowns: every choice of those that are not zero can be tried.
    for count in range(len(columns), 0, -1):
        for chosen in map(list, itertools.combinations(columns, count)):
            found, *_ = np.linalg.lstsq(table[:, chosen], cores, rcond=None)
            wrong = float(((table[:, chosen] @ found - cores) ** 2).sum())
            if found.min() >= 0 and wrong < least - 1e-12:
                best, least = np.zeros(3), wrong
                best[chosen] = found
    return Costs(*(round(float(value), 9) for value in best))


@dataclass(frozen=True)
class Straight:
    """A line through what so many sessions take: `fixed` cores and `session` for each, from the fewest to the most.

    `bend`: how far the slope of its lower or its upper half is from the whole's, as a share; None for under four
    points, where halves say nothing.
    """

    fixed: float
    session: float
    fewest: int
    most: int
    bend: float | None


def straight(points: Sequence[tuple[int, float]]) -> Straight | None:
    """The line through (sessions, cores), least squares; None for fewer than two sizes."""
    known = sorted(points)
    if len({sessions for sessions, _ in known}) < 2:
        return None
    slope, fixed = _line(known)
    bend = None
    if len(known) >= 4 and slope > 0:
        half = (len(known) + 1) // 2
        parts = (known[:half], known[-half:])
        bend = round(max(abs(_line(part)[0] / slope - 1) for part in parts), 3)
    return Straight(round(fixed, 6), round(slope, 9), known[0][0], known[-1][0], bend)


def line(levels: Sequence[Mapping[str, Any]]) -> Straight | None:
    """Does an ingress's processor time grow in a line? Of levels (`cli/bench_ingress.py`) of 100 sessions and more that
    keep up: who falls behind leaves work undone.
    """
    kept = [
        (level["sessions"], level["cores"]["ingress"])
        for level in levels
        if level["sessions"] >= 100 and not level["failed"] and level["served"] >= KEPT * level["sessions"]
    ]
    return straight(kept)


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    sessions, cores = (np.array(part, float) for part in zip(*points, strict=True))
    slope, fixed = np.polyfit(sessions, cores, 1)
    return float(slope), float(fixed)


def off(predicted: float, measured: float) -> float:
    """How far a prediction lies from what was measured, as a share of that: 0.1 is a tenth too much."""
    return round(predicted / measured - 1, 3) if measured else 0.0
