"""Which pools are served now, as far as this node knows: a session for one that nobody serves is refused at once, and
`/v1/models` tells what there is.

Workers report every few seconds. A pool whose workers have just gone silent is still waited for: they may be restarted,
and an offer waits for them (`ADMISSION_TIMEOUT_S`). While nobody has reported at all, nothing is known and nobody is
refused: at the start of a stack ingress may be faster than the workers.

Room is counted in slots: those that workers have, less all offers in Redis, taken or not. It is not known while a pool
has fewer slots than it had a moment ago: a worker is being restarted, and is waited for.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wire.entries import WorkerLoad
from wire.errors import ClientError, invalid_parameter
from wire.speech_models import MODELS, POOLS

#: A pool without a worker is waited for this long, in seconds.
PATIENCE_S = 30.0


@dataclass
class Pools:
    """Fed with what workers report; times in seconds of a clock that never goes back."""

    _seen: dict[str, float] = field(default_factory=dict)
    _loads: Mapping[str, Mapping[str, WorkerLoad]] = field(default_factory=dict)
    _waiting: Mapping[str, int] = field(default_factory=dict)
    _offered: Mapping[str, int] = field(default_factory=dict)
    _most: dict[str, tuple[int, float]] = field(default_factory=dict)  # slots that a pool had, and when last
    heard_at: float | None = None

    def heard(
        self,
        loads: Mapping[str, Mapping[str, WorkerLoad]],
        now: float,
        waiting: Mapping[str, int] | None = None,
        offered: Mapping[str, int] | None = None,
    ) -> None:
        """Pool -> worker -> its load, pool -> offers that wait for a worker, pool -> all offers, at `now`."""
        self._loads, self._waiting, self._offered, self.heard_at = loads, waiting or {}, offered or {}, now
        self._seen.update((pool, now) for pool, workers in loads.items() if workers)
        for pool in loads:
            most, at = self._most.get(pool, (0, now))
            if self.slots(pool) >= most or now - at > PATIENCE_S:
                self._most[pool] = (self.slots(pool), now)

    def age_s(self, now: float) -> float:
        """How old the news are; infinite while there are none."""
        return math.inf if self.heard_at is None else now - self.heard_at

    def slots(self, pool: str) -> int:
        """Of all its workers."""
        return sum(load.slots for load in self._loads.get(pool, {}).values())

    def room(self, pool: str) -> int | None:
        """Sessions that its workers can take on besides those offered when it was heard of; below 0: some wait.

        None: that is not known, because nobody has reported, or because some worker has just gone.
        """
        slots = self.slots(pool)
        if not slots or slots < self._most[pool][0]:
            return None
        return sum(load.most for load in self._loads[pool].values()) - self._offered.get(pool, 0)

    def served(self, now: float) -> tuple[str, ...]:
        """Pools that somebody serves, or did a moment ago."""
        return tuple(sorted(pool for pool, at in self._seen.items() if now - at <= PATIENCE_S))

    def refusal(self, pool: str, model: str, now: float) -> ClientError | None:
        """Why a session for `pool` must be refused (3006): nobody serves it, and others are served."""
        served = self.served(now)
        return unserved(pool, model, served) if served and pool not in served else None

    def spare(self, pool: str) -> int:
        """Slots that are left when all who wait for a worker have one, as far as is known; negative: too few."""
        loads = self._loads.get(pool, {})
        return sum(load.free for load in loads.values()) - self._waiting.get(pool, 0)

    def replays(self, pool: str) -> int:
        """Replays in its slots, of whatever node, as far as workers have told."""
        return sum(load.replays for load in self._loads.get(pool, {}).values())

    def page(self, default: str, now: float) -> dict[str, Any] | None:
        """What `/v1/models` tells: every pool that there can be, and the model of who names none (`default`); None
        before anything was heard. `age_s`: how old the news are.
        """
        if self.heard_at is None:
            return None
        served = self.served(now)
        return {
            "default_speech_model": default,
            "age_s": round(self.age_s(now), 1),
            "pools": [self._pool(pool, pool in served) for pool in POOLS],
        }

    def _pool(self, pool: str, served: bool) -> dict[str, Any]:
        """`load` is the share of slots in use, `backlog_ms` the most audio that a session's worker has not stepped."""
        loads = list(self._loads.get(pool, {}).values())
        slots, free = sum(load.slots for load in loads), sum(load.free for load in loads)
        return {
            "pool": pool,
            "deployed": served,
            "speech_models": [name for name, model in MODELS.items() if model.pool == pool],
            "models": _each(load.model for load in loads),
            "licences": _each(load.licence for load in loads),
            "languages": _each(code for load in loads for code in load.languages),
            "workers": len(loads),
            "slots": slots,
            "free": free,
            "waiting": self._waiting.get(pool, 0),
            "load": round((slots - free) / slots, 3) if slots else None,
            "backlog_ms": max((load.backlog_ms for load in loads), default=0),
        }


def _each(names: Iterable[str]) -> list[str]:
    """Every name once, in a fixed order."""
    return sorted({name for name in names if name})


def unserved(pool: str, model: str, served: tuple[str, ...]) -> ClientError:
    """The model cannot be had here; what can."""
    what = f"'{model}' needs the pool '{pool}', which is not deployed here. Deployed: {', '.join(served)}"
    return invalid_parameter("speech_model", f"Value error, {what}")
