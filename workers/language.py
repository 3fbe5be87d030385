"""Which language a turn is in: what each decode heard, weighed, and what was spoken before.

A model that tells languages tells them badly from half a second of speech and well from three. So each decode of an
open turn adds what it heard, weighed by how much speech it had; the language of the turn before counts as much as a
second of speech, for people rarely change languages between two sentences. Until the language *stands*, no word of the
turn settles; from then on it is the turn's language, and the next turn is asked again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Most that one decode counts, in seconds of speech.
MOST_S = 3.0
#: What the language of the turn before counts, in seconds of speech.
LOYALTY_S = 1.0
#: A language stands after so much speech, or after this much if it is this sure.
STANDS_MS = 3_000
EARLY_MS, EARLY = 1_000, 0.95


@dataclass
class Belief:
    """One slot's. `language` and `confidence` are of the newest decode; None and 0 where the model tells none."""

    language: str | None = None
    confidence: float = 0.0
    stands: bool = False
    before: str | None = None
    heard: dict[str, float] = field(default_factory=dict)

    def prior(self) -> dict[str, float]:
        """What speaks for each language already, in seconds."""
        prior = dict(self.heard)
        if self.before is not None:
            prior[self.before] = prior.get(self.before, 0.0) + LOYALTY_S
        return prior

    def hear(self, language: str | None, languages: Mapping[str, float], voiced_ms: int) -> None:
        """A decode of `voiced_ms` of speech was opened in `language`; `languages` is what it heard, if it was asked."""
        self.language = language
        if not languages or language is None:
            return
        weight = weigh(voiced_ms)
        self.confidence = combined(languages, weight, self.prior()).get(language, 0.0)
        for code, share in languages.items():
            self.heard[code] = self.heard.get(code, 0.0) + weight * share
        early = voiced_ms >= EARLY_MS and self.confidence >= EARLY
        self.stands = self.stands or early or voiced_ms >= STANDS_MS

    def finish(self) -> None:
        """The turn is over; the next one may be in another language."""
        if self.heard and self.language is not None:
            self.before = self.language
        self.forget()

    def forget(self) -> None:
        """What was heard in the open turn was no speech."""
        self.language, self.confidence, self.stands = None, 0.0, False
        self.heard.clear()


def weigh(voiced_ms: int) -> float:
    """What a decode of so much speech counts, in seconds."""
    return min(MOST_S, max(0.1, voiced_ms / 1000))


def combined(heard: Mapping[str, float], weight: float, prior: Mapping[str, float]) -> dict[str, float]:
    """Probabilities of the codes in `heard`, likeliest first, with what spoke for them before."""
    sums = {code: weight * share + prior.get(code, 0.0) for code, share in heard.items()}
    total = sum(sums.values()) or 1.0
    return {code: value / total for code, value in sorted(sums.items(), key=lambda pair: -pair[1])}
