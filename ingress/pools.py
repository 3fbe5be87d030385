"""Which pools are served now, as far as this node knows: a session for one that nobody serves is refused at once.

Workers report every few seconds. A pool whose workers have just gone silent is still waited for: they may be restarted,
and an offer waits for them (`ADMISSION_TIMEOUT_S`). While nobody has reported at all, nothing is known and nobody is
refused: at the start of a stack ingress may be faster than the workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wire.entries import WorkerLoad
from wire.errors import ClientError, invalid_parameter

#: A pool without a worker is waited for this long, in seconds.
PATIENCE_S = 30.0


@dataclass
class Pools:
    """Fed with what workers report; times in seconds of a clock that never goes back."""

    _seen: dict[str, float] = field(default_factory=dict)

    def heard(self, loads: Mapping[str, Mapping[str, WorkerLoad]], now: float) -> None:
        """Pool -> worker -> its load, at `now`."""
        self._seen.update((pool, now) for pool, workers in loads.items() if workers)

    def served(self, now: float) -> tuple[str, ...]:
        """Pools that somebody serves, or did a moment ago."""
        return tuple(sorted(pool for pool, at in self._seen.items() if now - at <= PATIENCE_S))

    def refusal(self, pool: str, model: str, now: float) -> ClientError | None:
        """Why a session for `pool` must be refused (3006): nobody serves it, and others are served."""
        served = self.served(now)
        return unserved(pool, model, served) if served and pool not in served else None


def unserved(pool: str, model: str, served: tuple[str, ...]) -> ClientError:
    """The model cannot be had here; what can."""
    what = f"'{model}' needs the pool '{pool}', which is not deployed here. Deployed: {', '.join(served)}"
    return invalid_parameter("speech_model", f"Value error, {what}")
