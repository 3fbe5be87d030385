"""What services measure: their /metrics, parsed, and delays estimated from histograms.

A histogram counts since its service began. To show what happens now, what was read is kept for WINDOW_S, and the oldest
of it is taken away from the newest; where nothing happened meanwhile, everything since the begin is shown.
"""

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Name of a histogram without `steno_` -> what it says, in a person's words.
DELAYS: Mapping[str, str] = {
    "begin_seconds": "Connect to Begin",
    "first_partial_seconds": "Speech to first partial",
    "end_of_turn_delay_seconds": "End of turn to its final",
    "step_seconds": "One step of the model",
    "append_seconds": "Audio to Redis",
}
#: How far back «now» reaches, and most readings that are kept.
WINDOW_S = 300.0
MAX_READINGS = 120

#: Histogram -> upper bound of a bucket in seconds -> how many lay at or below it, over all services.
Buckets = dict[str, dict[float, float]]

_LINE = re.compile(r'^steno_(\w+)_bucket\{(?:.*,)?le="([^"]+)"(?:,.*)?\} (\S+)$', re.MULTILINE)


def parse(pages: Iterable[str]) -> Buckets:
    """The histograms that matter, out of pages in Prometheus' text format, summed over labels and services."""
    found: Buckets = defaultdict(lambda: defaultdict(float))
    for page in pages:
        for name, bound, count in _LINE.findall(page):
            if name in DELAYS:
                try:
                    found[name][float(bound)] += float(count)
                except ValueError:
                    continue
    return {name: dict(buckets) for name, buckets in found.items()}


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The value below which `share` of what was counted lies, as Prometheus estimates it; None if nothing was.

    What lies beyond the last bound counts as that bound.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    wanted = share * buckets[bounds[-1]]
    below_bound = below_count = 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= wanted and count > below_count:
            if bound == float("inf"):
                return below_bound
            return below_bound + (bound - below_bound) * (wanted - below_count) / (count - below_count)
        below_bound, below_count = bound, count
    return below_bound


@dataclass
class Readings:
    """What was read lately. Times in seconds of a clock that never goes back."""

    _kept: deque[tuple[float, Buckets]] = field(default_factory=lambda: deque(maxlen=MAX_READINGS))

    def add(self, buckets: Buckets, now: float) -> None:
        while self._kept and now - self._kept[0][0] > WINDOW_S:
            self._kept.popleft()
        self._kept.append((now, buckets))

    def delays(self) -> list[dict[str, Any]]:
        """For each histogram that has counted anything: p50 and p95 in ms, how many, and since when (s; None: ever)."""
        if not self._kept:
            return []
        (then, before), (now, newest) = self._kept[0], self._kept[-1]
        rows = []
        for name, meaning in DELAYS.items():
            ever = newest.get(name, {})
            lately = _less(ever, before.get(name, {}))
            shown, window_s = (lately, now - then) if _counted(lately) else (ever, None)
            if _counted(shown):
                rows.append({"name": name, "meaning": meaning, **_summary(shown), "window_s": window_s})
        return rows


def _less(newest: Mapping[float, float], before: Mapping[float, float]) -> dict[float, float]:
    """What was counted in between; all of `newest` where a service has begun anew."""
    between = {bound: count - before.get(bound, 0.0) for bound, count in newest.items()}
    return dict(newest) if any(count < 0 for count in between.values()) else between


def _counted(buckets: Mapping[float, float]) -> float:
    return max(buckets.values(), default=0.0)


def _summary(buckets: Mapping[float, float]) -> dict[str, Any]:
    def ms(share: float) -> float | None:
        value = quantile(buckets, share)
        return None if value is None else round(value * 1000, 1)

    return {"p50_ms": ms(0.5), "p95_ms": ms(0.95), "count": int(_counted(buckets))}
