"""The open audio of one slot: what was heard since the last cut, the words that stand, and the present guess.

Positions are samples of the slot's audio, counted from its reset; `Window` turns them into ms of audio time.

    start            cut: everything before is final and gone
      |-- prefix words (settled) --|-- tail words (may change) --|
      |------------- audio --------------------------------------|
                                       decoded_to        heard (VAD)   end
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from workers.language import Belief
from workers.recognizer import NO_FLUSH, SlotOptions
from workers.words import MIN_WORD_MS, Word, join

SAMPLES_PER_MS = 16
#: Of what was said before so much is kept, in whole turns: more than a model's prompt holds.
SAID_CHARACTERS = 2_000
#: A turn that is over: code of its language ("" where the model tells none), and its text.
Said = tuple[str, str]
#: Audio kept before the first word of a context.
LEAD_IN_MS = 100
#: A first word that was placed before all speech lasts at most this long.
FIRST_WORD_MS = 200


@dataclass
class Window:
    """One slot's open audio. `origin_ms` is the audio time of position 0."""

    origin_ms: int = 0
    options: SlotOptions = field(default_factory=SlotOptions)
    start: int = 0
    heard: int = 0  # how far the VAD has listened
    decoded_to: int = 0  # how far the newest hypothesis has listened
    onset: int = 0  # where the newest stretch of speech began
    last_speech: int = 0  # end of the last hop with speech; 0: none since the last flush
    speaking: bool = False
    flush_ms: int = NO_FLUSH
    speech: list[tuple[int, int]] = field(
        default_factory=list
    )  # (begin, end) of what the VAD took for speech
    prefix: list[Word] = field(default_factory=list)
    prefix_tokens: list[int] = field(default_factory=list)
    tail: list[Word] = field(default_factory=list)
    tail_tokens: list[int] = field(default_factory=list)
    end_of_turn: float = 0.0
    context: int = 0  # words at the front of the prefix that belong to the turn before
    turn_from: int = 0  # where the open turn begins
    belief: Belief = field(default_factory=Belief)  # which language the open turn is in
    words: list[Word] = field(default_factory=list)  # of the open turn, settled
    said: list[Said] = field(default_factory=list)  # the turns before, as many as are context ...
    said_to_ms: int = 0  # ... up to here
    begin: int | None = None  # cut here once the audio is there (`memory.py`)
    before: tuple[str, tuple[int, ...]] | None = None  # a language, and tokens of what came before in it
    _audio: NDArray[np.float32] = field(default_factory=lambda: np.zeros(16_000, np.float32))
    _length: int = 0

    @property
    def end(self) -> int:
        """Position just past the last sample given."""
        return self.start + self._length

    def ms(self, position: int) -> int:
        """Audio time of a position."""
        return self.origin_ms + position // SAMPLES_PER_MS

    def position(self, at_ms: int) -> int:
        """Position of an audio time."""
        return max(0, at_ms - self.origin_ms) * SAMPLES_PER_MS

    def append(self, samples: NDArray[np.float32]) -> None:
        """Audio that follows what is there; grows the buffer by doubling."""
        needed = self._length + len(samples)
        if needed > len(self._audio):
            grown = np.zeros(max(needed, 2 * len(self._audio)), np.float32)
            grown[: self._length] = self._audio[: self._length]
            self._audio = grown
        self._audio[self._length : needed] = samples
        self._length = needed
        self._begin()

    def audio(self, begin: int, end: int) -> NDArray[np.float32]:
        """A view of the samples from `begin` to `end`; valid until the next `append` or `cut`."""
        return self._audio[begin - self.start : end - self.start]

    def cut(self, position: int) -> None:
        """Forget the audio before `position`."""
        position = min(max(position, self.start), self.end)
        kept = self.end - position
        self._audio[:kept] = self._audio[self._length - kept : self._length].copy()
        self.start, self._length = position, kept
        self.heard = max(self.heard, position)  # a forced cut need not fall on the border of a hop
        self.speech = [span for span in self.speech if span[1] > position]

    def hear(self, hop: int, voiced: bool) -> None:
        """The next `hop` samples hold speech, or do not."""
        if voiced and self.speech and self.speech[-1][1] == self.heard:
            self.speech[-1] = (self.speech[-1][0], self.heard + hop)
        elif voiced:
            self.speech.append((self.heard, self.heard + hop))
        self.heard += hop
        self._begin()

    def _begin(self) -> None:
        """Cut where the window of another worker began, as soon as that does not move where the next hop begins."""
        if self.begin is not None and min(self.end, self.heard) >= self.begin:
            self.cut(self.begin)
            self.begin = None

    def timed(self, words: Sequence[Word]) -> list[Word]:
        """The same words, their times mended by what the VAD heard.

        Cross-attention gives a pause to the word after it. So a word whose stretch holds a silence begins where speech
        sets in again, a word all in silence moves on to there, and the last word before a silence lasts as long as the
        speech does.
        """
        spans = [(self.ms(begin), self.ms(end)) for begin, end in self.speech]
        mended: list[Word] = []
        for number, word in enumerate(words):
            start, end = word.start_ms, word.end_ms
            within = [span for span in spans if span[0] < end and span[1] > start]
            if within and start < within[-1][0] <= end - MIN_WORD_MS:
                start = within[-1][0]
            follows = words[number + 1].start_ms if number + 1 < len(words) else self.ms(self.heard)
            onset = next((begin for begin, _ in spans if begin >= end), None)
            if not within and onset is not None and onset + MIN_WORD_MS <= follows:
                start, end = onset, min(follows, onset + end - start)
            elif (
                number == 0 and not within
            ):  # in the silence before speech: its first word, that much is sure
                onset = next((begin for begin, _ in spans if begin >= end), end)
                room = words[1].end_ms - MIN_WORD_MS if len(words) > 1 else follows  # the next one moves, too
                end = onset if onset <= room else end
                start = max(start, end - FIRST_WORD_MS)
            silent = next((until for begin, until in spans if begin <= start < until), end)
            if end < silent <= follows:
                end = silent
            mended.append(replace(word, start_ms=start, end_ms=end))
        if len(mended) > 1 and mended[0].end_ms > mended[1].start_ms:
            mended[0] = words[0]  # the next one did not move after all
        return mended

    def settle(self, count: int) -> tuple[Word, ...]:
        """The first `count` words of the tail stand from now on. Returns them."""
        settled = self.tail[:count]
        tokens = sum(word.tokens for word in settled)
        self.prefix += settled
        self.words += settled
        self.prefix_tokens += self.tail_tokens[:tokens]
        del self.tail[:count], self.tail_tokens[:tokens]
        return tuple(settled)

    def forget_words(self, count: int) -> None:
        """The first `count` settled words lie before the cut: they are no longer part of the prefix."""
        tokens = sum(word.tokens for word in self.prefix[:count])
        del self.prefix[:count], self.prefix_tokens[:tokens]
        self.context = max(0, self.context - count)

    def finish(self, at_ms: int, context_ms: int = 0) -> None:
        """A flush was answered: the next turn begins at `at_ms`, with the words that settled after it.

        Up to `context_ms` of the turn that ended stay, audio and words, as context: a short turn alone can be
        written in many ways ("fail", "fare", "fair"), and what was said before it decides.
        """
        self._remember(at_ms)
        ended = sum(word.start_ms < at_ms for word in self.prefix)
        old = sum(word.start_ms < at_ms - context_ms for word in self.prefix[:ended])
        begin_ms = self.prefix[old].start_ms if old < ended else at_ms
        if old:
            begin_ms = max(self.prefix[old - 1].end_ms, begin_ms - LEAD_IN_MS)
        self.forget_words(old)
        self.context, self.turn_from = ended - old, self.position(at_ms)
        self.cut(self.position(begin_ms) if self.context else self.turn_from)
        self.tail.clear()
        self.tail_tokens.clear()
        self.flush_ms, self.end_of_turn = NO_FLUSH, 0.0
        self.belief.finish()
        self.decoded_to = self.turn_from
        self.onset = max(self.onset, self.turn_from)
        if self.last_speech <= self.turn_from:
            self.last_speech = 0

    def _remember(self, at_ms: int) -> None:
        """The words before `at_ms` become the text of a turn that was said, unless it was known already."""
        words = [word.text for word in self.words if word.start_ms < at_ms]
        del self.words[: len(words)]
        if words and at_ms > self.said_to_ms:
            self.said.append((self.belief.language or "", join(words)))
            self.before, self.said_to_ms = None, at_ms
        spare = max(0, len(self.said) - self.options.previous_turns)
        while sum(len(text) for _, text in self.said[spare + 1 :]) > SAID_CHARACTERS:
            spare += 1
        del self.said[:spare]

    def drop_context(self) -> None:
        """What was said before is too long ago to help."""
        self.forget_words(self.context)
        self.cut(max(self.start, self.turn_from))

    @property
    def voiced_ms(self) -> int:
        """Speech of the open turn, as the VAD heard it."""
        return (
            sum(end - max(begin, self.turn_from) for begin, end in self.speech if end > self.turn_from)
            // SAMPLES_PER_MS
        )

    @property
    def told(self) -> int:
        """Settled words of the open turn."""
        return len(self.prefix) - self.context
