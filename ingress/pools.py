"""Which pools are served now, as far as this node knows: a session for one that nobody serves is refused at once, and
`/v1/models` tells what there is.

Workers report every few seconds. A pool whose workers have just gone silent is still waited for: they may be restarted,
and an offer waits for them (`ADMISSION_TIMEOUT_S`). While nobody has reported at all, nothing is known and nobody is
refused: at the start of a stack ingress may be faster than the workers.
"""

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
    _heard_at: float | None = None

    def heard(
        self,
        loads: Mapping[str, Mapping[str, WorkerLoad]],
        now: float,
        waiting: Mapping[str, int] | None = None,
    ) -> None:
        """Pool -> worker -> its load, and pool -> offers that wait for a worker, at `now`."""
        self._loads, self._waiting, self._heard_at = loads, waiting or {}, now
        self._seen.update((pool, now) for pool, workers in loads.items() if workers)

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

    def page(self, default: str, now: float) -> dict[str, Any] | None:
        """What `/v1/models` tells: every pool that there can be, and the model of who names none (`default`); None
        before anything was heard. `age_s`: how old the news are.
        """
        if self._heard_at is None:
            return None
        served = self.served(now)
        return {
            "default_speech_model": default,
            "age_s": round(now - self._heard_at, 1),
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
