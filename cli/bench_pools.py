"""What the benchmarks ask of each pool: the model it is asked for by, its goals, the languages of its speakers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cli import up
from wire.speech_models import MODELS


@dataclass(frozen=True)
class PoolBench:
    """`sessions` live ones with a p95 of finals of at most so many ms, on two cores; of gaps between partials as well,
    where a goal is set for them, and of the first words of a phrase when asked for as soon as can be (`soonest`).
    """

    pool: str
    sessions: int
    final_p95_ms: float
    gap_p95_ms: float | None
    languages: tuple[str, ...]
    first_ms: float | None = None
    soonest: Mapping[str, float] = field(default_factory=dict)

    @property
    def speech_model(self) -> str:
        """What a client names to be served by this pool."""
        return next(name for name, model in MODELS.items() if model.pool == self.pool)

    def named(self, bench: str) -> str:
        """What a benchmark's files are called: the english ones have the plain name."""
        return bench if self.pool == "english" else f"{bench}-{self.pool}"


#: Polish and Hindi count in the table of errors, but nobody who loads a pool speaks them: these voices are heard so
#: badly that a short turn may give no word, which a level would count as a phrase without a final.
_EASY = ("en", "es", "fr", "it", "ja", "pt", "zh")

BENCHES = {
    bench.pool: bench
    for bench in (
        PoolBench("english", 8, 1_000.0, 1_000.0, ("en",), 700.0),
        PoolBench("multilang", 4, 1_500.0, None, _EASY),
        PoolBench(
            "u3pro", 3, 1_500.0, None, ("en", "es", "fr", "it", "pt"), 500.0, {"interruption_delay": 0}
        ),
    )
}
#: Pool -> languages of the recordings whose errors are counted, where it is more than what loads it.
HEARD = {"multilang": ("en", "es", "fr", "hi", "it", "ja", "pl", "pt", "zh")}


def of(pool: str) -> PoolBench:
    """Raises SettingsError for a pool that nobody serves."""
    up.check_pools([pool])
    return BENCHES[pool]
