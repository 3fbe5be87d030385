"""One slot's way through a native transducer: which audio its chunks take, and when what it says was spoken.

    begin                    heard   covered      wants
      |-- frame | frame | ... |--------|------------|      positions of the slot's window, in samples
                               UNHEARD    the next chunk

A frame stands for 80 ms, of which the model has not yet heard UNHEARD when it makes it (its newest mel frame is centred
before the frame's end). Tokens come when a part of their sound was heard, so a word began before its first one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from workers.streaming import Stepper
from workers.window import SAMPLES_PER_MS
from workers.words import Word, fit, spell

#: Samples of an encoder frame, and of it those that it has not heard.
FRAME, UNHEARD = 1_280, 1_080
#: A word began so long before its first token at least, in ms; the first one of a stretch of speech where that begins,
#: if it is no further back than ONSET_MS. Measured on spoken digits, see DECISIONS.
EARLY_MS, ONSET_MS = 80, 480

#: (begin, end) of stretches of speech, in ms.
Spans = Sequence[tuple[int, int]]


@dataclass
class Stream:
    """From `begin` on. `ended`: its turn is over, and silence follows."""

    begin: int
    stepper: Stepper
    chunks: int = 0
    ended: bool = False
    tokens: list[int] = field(default_factory=list)  # of words that are not settled
    frames: list[int] = field(default_factory=list)  # where each was said
    odds: list[float] = field(default_factory=list)

    @property
    def covered(self) -> int:
        """Up to here frames have been made."""
        return self.begin + self.chunks * self.stepper.advance

    @property
    def heard(self) -> int:
        """Up to here the model has heard all there is."""
        return max(self.begin, self.covered - UNHEARD)

    @property
    def wants(self) -> int:
        """The position that the next chunk ends at."""
        return self.covered + self.stepper.advance - UNHEARD

    def hear(self, tokens: Sequence[int], frames: Sequence[int], odds: Sequence[float]) -> None:
        """What one more chunk said; `frames` of the chunk."""
        first = self.chunks * self.stepper.frames
        self.tokens += tokens
        self.frames += [first + frame for frame in frames]
        self.odds += odds
        self.chunks += 1

    def drop(self, count: int) -> None:
        """The first so many tokens are settled."""
        del self.tokens[:count], self.frames[:count], self.odds[:count]

    def keep(self, places: Sequence[int]) -> None:
        """Only these tokens are part of the text."""
        self.tokens = [self.tokens[at] for at in places]
        self.frames = [self.frames[at] for at in places]
        self.odds = [self.odds[at] for at in places]

    def words(self, pieces: Sequence[bytes], count: int, origin_ms: int) -> list[Word]:
        """What the first `count` tokens spell; `origin_ms`: audio time of `begin`."""
        first = origin_ms - UNHEARD // SAMPLES_PER_MS
        starts = [first + frame * FRAME // SAMPLES_PER_MS for frame in self.frames[:count]]
        ends = [start + FRAME // SAMPLES_PER_MS for start in starts]
        return spell(pieces, self.tokens[:count], starts, ends, self.odds[:count])


def timed(words: Sequence[Word], spans: Spans, floor_ms: int, known_ms: int, until_ms: int) -> list[Word]:
    """The same words where they were spoken, by what the voice detector heard up to `known_ms`.

    A word begins a little before its first token, the first one of a stretch of speech where that begins; the last one
    of a stretch lasts as long as it does. All lie in `floor_ms`..`until_ms`.
    """
    spans = [span for span in spans if span[0] < known_ms]
    moved: list[Word] = []
    for number, word in enumerate(words):
        before = moved[-1].end_ms if moved else floor_ms
        start, end = word.start_ms - EARLY_MS, word.end_ms
        onset = max((begin for begin, _ in spans if begin <= word.start_ms), default=start)
        if before <= onset and word.start_ms - onset <= ONSET_MS:
            start = onset
        follows = words[number + 1].start_ms - EARLY_MS if number + 1 < len(words) else known_ms
        over = next((until for begin, until in spans if begin <= end < until), end)
        if over < known_ms and over <= follows:
            end = over
        moved.append(replace(word, start_ms=max(before, start), end_ms=max(end, before + 1)))
    return fit(moved, floor_ms, until_ms)
