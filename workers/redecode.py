"""Strategy for encoders that see a whole utterance: decode the open turn again and again, cheaply.

    listen    VAD over every hop, batched over slots; says when a slot is due
    due       flush: the turn ended, its words are wanted        (first in line)
              pause: speech stopped a moment ago                 (so that the end of turn can be judged)
              partial: speech goes on, and it is time for news   (last in line)
    decode    the due slots in one batch, as many as the step's budget allows: the settled words are a forced
              prefix, the last hypothesis is the draft (`drafting.py`)
    settle    words on which two successive hypotheses agree stand for ever (LocalAgreement-2: Liu et al. 2020,
              arXiv 2005.11185; Machacek et al. 2023, arXiv 2307.14743); a flush settles the rest

What the model is, is none of this file's business: it drives whatever `models/decoder.py` describes, under `Rules`
that fit it. Where the model tells languages, a turn's words settle once its language stands (`language.py`).

A flush is answered without decoding when the newest hypothesis has already heard the end of the speech. The window
is cut at a settled word when speech goes on for long, so that a decode never costs more than a window. Everything is
ruled by audio time: how fast audio arrives and how it is cut into chunks changes no word, as long as the budget
suffices. When it does not, partials wait, and finals go first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from workers.biasing import Terms, Vocabulary
from workers.bpe import Encoder
from workers.drafting import Task, Transcript, transcribe
from workers.language import weigh
from workers.listening import Listener
from workers.models.decoder import EncoderDecoder, Hint
from workers.recognizer import NO_FLUSH, Batch, Hypothesis, Observation, SlotOptions, Spec
from workers.vad import HOP, SileroVAD
from workers.window import SAMPLES_PER_MS, Window
from workers.words import (
    FULL_STOPS,
    TOKENS_PER_S,
    Word,
    agreed,
    align,
    fit,
    goes_on,
    heard_once,
    spell,
    token_cap,
    twice,
)

#: Two hops: short enough to answer soon, long enough that a step's fixed cost does not show.
CHUNK_SAMPLES = 2 * HOP
#: A second of audio in one step, when steps are long.
CATCH_UP = 16

#: A partial that has waited for so many steps goes before pauses.
OVERDUE_STEPS = 16

#: Of a slot whose session gave no key terms.
NO_TERMS: tuple[tuple[str, ...], Terms | None] = (), None

#: Where first words are wanted early and the speech so far gave none, it is tried again so soon.
RETRY_MS = 128

#: An end-of-turn belief below this comes from words without a full stop (`end_of_turn`).
OPEN_SENTENCE = 0.15


@dataclass(frozen=True)
class Rules:
    """When to decode and what to keep; all in audio time. A pool sets what fits its model."""

    partial_ms: int = 320  # news while speech goes on
    pause_ms: int = 192  # silence after which a pause is decoded, before any endpoint may fire
    after_ms: int = 96  # what follows the speech must be heard for this long before its last word is believed
    lead_ms: int = 480  # audio kept before speech sets in
    window_ms: int = 12_000  # a longer window is cut at a settled word ...
    keep_ms: int = 4_000  # ... that leaves at least this much
    limit_ms: int = 20_000  # nothing settled by then: what is there must stand
    guard_ms: int = 700  # a word that ends this close to the newest audio may still be misheard
    context_ms: int = 3_000  # of the turn before, kept in front of the open one ...
    context_gap_ms: int = 1_500  # ... for as long as this after its end
    breath_ms: int = 400  # a shorter sound must come out as a closed sentence
    budget_ms: int = 8_000  # audio decoded in one step; the first due slot is always served
    tokens_per_s: float = TOKENS_PER_S  # a decode that says more has lost the audio
    window_tokens: int = 1 << 20  # a window with more settled tokens is cut, too
    whole: bool = False  # no word of a turn settles while the turn is short enough to be decoded whole
    cut_short: bool = False  # a decode is cut where it says again what the audio has once
    silence: float = 1.0  # nobody spoke, if the model thinks so with more than this probability ...
    doubt: float = 0.0  # ... and its tokens have less than this one, on average
    nonsense: float = 0.0  # nor if they have less than this, whatever the model thinks


@dataclass(frozen=True)
class _Due:
    slot: int
    rank: int  # 0 flush, 1 pause, 2 partial
    waiting: int  # samples since it fell due; among those that fell due in one step the longest goes first
    end: int  # decode the window up to here


def spec_of(name: str, licence: str, slots: int) -> Spec:
    """What a re-decoder of this model is, whatever the model."""
    return Spec(name, licence, slots, CHUNK_SAMPLES, hop_ms=HOP // SAMPLES_PER_MS, catch_up=CATCH_UP)


class Redecoder:
    """A `Recognizer` around an encoder and decoder (`models/decoder.py`) and Silero VAD.

    `context` gives the tokens of what came before the open turn, out of the session's options and the texts of the
    turns that are over; for models that take such tokens.
    """

    def __init__(
        self,
        spec: Spec,
        model: EncoderDecoder,
        vad: SileroVAD,
        pieces: Sequence[bytes],
        rules: Rules | None = None,
        context: Callable[[SlotOptions, Sequence[str]], Sequence[int]] | None = None,
    ) -> None:
        self.spec = spec
        self.rules = rules or Rules()
        self.behind = False
        self._held = set[int]()  # due, and not served in this step
        self._model = model
        self._listener = Listener(spec, vad, self.rules.pause_ms)
        self._pieces = pieces
        self._onward = torch.tensor([goes_on(piece) for piece in pieces])
        self._context = context
        # Where key terms are part of the context, a bonus on top makes them up.
        self._vocabulary = None if context else Vocabulary(pieces, Encoder(pieces).encode, model.end_token)
        self._terms = [NO_TERMS for _ in range(spec.slots)]  # as given, as compiled
        self._steps = 0
        self._due_since: dict[int, int] = {}  # slot -> the step in which what it waits for fell due

    @property
    def _windows(self) -> list[Window]:
        return self._listener.windows

    def warm_up(self) -> None:
        """One decode of a second of silence, alone and batched, so that no session pays for first calls."""
        silence = torch.zeros(16_000)
        for rows in (1, 2):
            transcribe(self._model, [Task(silence, cap=4)] * rows)
        self._listener.warm_up()

    def step(self, batch: Batch) -> list[Hypothesis | None]:
        """Listen to the batch's audio, decode what is due, answer flushes."""
        self._accept(batch)
        observations, fell_due = self._listen()
        decoded, failed = self._decode(self._in_line(fell_due, batch.hold))
        return [
            Hypothesis(failed=True)
            if slot in failed
            else self._report(slot, observations[slot], decoded.get(slot))
            for slot in range(self.spec.slots)
        ]

    # ------------------------------------------------------------------------------------------------- listening

    def _accept(self, batch: Batch) -> None:
        for slot in self._listener.accept(batch):
            self._terms[slot] = NO_TERMS
            self._due_since.pop(slot, None)
        for slot, options in batch.options.items():
            if self._vocabulary and options.keyterms != self._terms[slot][0]:
                self._terms[slot] = options.keyterms, self._vocabulary.compile(options.keyterms)

    def _listen(self) -> tuple[list[list[Observation]], dict[int, _Due]]:
        """What was heard of each slot; and which slots fell due at which hop, so that a decode ends there, however
        many hops came at once.
        """
        fell_due: dict[int, _Due] = {}

        def heard(slot: int, window: Window) -> None:
            self._forget(window)
            if slot not in fell_due and (item := self._due(slot, window)) is not None:
                fell_due[slot] = item

        return self._listener.listen(heard), fell_due

    def _forget(self, window: Window) -> None:
        """Forget silence that nobody will ask about."""
        idle = not (window.speaking or window.told or window.tail or self._unheard(window))
        if not idle or window.flush_ms != NO_FLUSH:
            return
        lead = self.rules.lead_ms * SAMPLES_PER_MS
        if window.context and window.heard - window.turn_from > self.rules.context_gap_ms * SAMPLES_PER_MS:
            window.drop_context()
        if not window.context and window.heard - window.start > 2 * lead:
            window.cut(window.heard - lead)
            window.decoded_to = max(window.decoded_to, window.start)

    # ---------------------------------------------------------------------------------------------- what is due

    def _in_line(self, fell_due: Mapping[int, _Due], hold: frozenset[int]) -> list[_Due]:
        """Due slots, most urgent first, as many as the budget covers."""
        due: list[_Due] = []
        for slot, window in enumerate(self._windows):
            if slot in hold:
                continue
            item = fell_due.get(slot) if window.flush_ms == NO_FLUSH else None
            if item is not None or (item := self._due(slot, window)) is not None:
                due.append(item)
        slots = hold | {item.slot for item in due}
        self._due_since = {slot: step for slot, step in self._due_since.items() if slot in slots}
        for item in due:
            self._due_since.setdefault(item.slot, self._steps)
        due.sort(key=self._urgency)
        budget = self.rules.budget_ms * SAMPLES_PER_MS
        line: list[_Due] = []
        for item in due:
            budget -= item.end - self._windows[item.slot].start
            if line and budget < 0:
                break
            line.append(item)
        self.behind = len(line) < len(due)
        self._held = {item.slot for item in due[len(line) :]}
        for item in line:
            del self._due_since[item.slot]
        self._steps += 1
        return line

    def _urgency(self, item: _Due) -> tuple[int, int, int]:
        """Turns go by steps, not by audio: a slot whose audio comes faster than speech would always have waited longer,
        and always have a pause that goes before another's partial.
        """
        since = self._due_since[item.slot]
        overdue = item.rank > 0 and self._steps - since >= OVERDUE_STEPS
        return 1 if overdue else 2 * item.rank, since, -item.waiting

    def _due(self, slot: int, window: Window) -> _Due | None:
        item = self._wanted(slot, window)
        # What is longer than the model takes is heard in pieces: the window is cut behind the first.
        longest = window.start + self._model.max_samples
        return item if item is None or item.end <= longest else replace(item, end=longest)

    def _wanted(self, slot: int, window: Window) -> _Due | None:
        unheard = self._unheard(window)
        if window.flush_ms != NO_FLUSH:
            end = min(window.position(window.flush_ms), window.end)
            if unheard and window.decoded_to < end and end - window.start >= self._model.min_samples:
                return _Due(slot, 0, window.end - end, end)
            return None
        if not unheard:
            return None
        if not window.speaking:
            return _Due(slot, 1, window.heard - window.last_speech, window.heard)
        since = window.heard - max(window.decoded_to, window.onset)
        # Nothing is shown of a sound that may still turn out to be a breath: the turn's first decode waits that long.
        wait_ms = window.options.partial_ms or self.rules.partial_ms
        if not window.told and not window.tail:
            first_ms, tried = window.options.first_ms, window.decoded_to > window.onset
            wait_ms = RETRY_MS if first_ms and tried else max(first_ms or wait_ms, self.rules.breath_ms)
        if since >= wait_ms * SAMPLES_PER_MS:
            return _Due(slot, 2, since, window.heard)
        return None

    def _unheard(self, window: Window) -> bool:
        """Whether the newest hypothesis has not heard the newest speech to its end."""
        after = self.rules.after_ms * SAMPLES_PER_MS
        return window.last_speech > 0 and window.decoded_to < window.last_speech + after

    # -------------------------------------------------------------------------------------------------- decoding

    def _decode(self, line: Sequence[_Due]) -> tuple[dict[int, tuple[Word, ...]], set[int]]:
        """Decode the slots in line. Returns the words that settled, per slot, and the slots that failed."""
        tasks = [
            replace(self._task(self._windows[item.slot], item), terms=self._terms[item.slot][1])
            for item in line
        ]
        transcripts = self._transcripts(tasks)
        if self.rules.cut_short:
            transcripts = [told if told is None or told.end else _cut_short(told) for told in transcripts]
        settled, failed = {}, set()
        for item, transcript in zip(line, transcripts, strict=True):
            if transcript is None:
                failed.add(item.slot)
                self._windows[item.slot] = Window()
            else:
                settled[item.slot] = self._absorb(self._windows[item.slot], item, transcript)
        return settled, failed

    def _transcripts(self, tasks: Sequence[Task]) -> list[Transcript | None]:
        """None for a row that failed."""
        try:
            return [*transcribe(self._model, tasks, self._onward)] if tasks else []
        except Exception:  # noqa: BLE001 one row must not take its neighbours along: find out which it was
            return [self._alone(task) for task in tasks]

    def _alone(self, task: Task) -> Transcript | None:
        try:
            return transcribe(self._model, [task], self._onward)[0]
        except Exception:  # noqa: BLE001 reported as `Hypothesis.failed`
            return None

    def _task(self, window: Window, item: _Due) -> Task:
        audio = torch.from_numpy(window.audio(window.start, item.end).copy())
        cap = max(4, token_cap(len(audio) / 16_000, self.rules.tokens_per_s) - len(window.prefix_tokens))
        prefix, draft = tuple(window.prefix_tokens), tuple(window.tail_tokens)
        hint, final = self._hint(window), item.rank < 2
        return Task(audio, prefix, draft, cap, hint, final, doubt=self.rules.silence, trust=self.rules.doubt)

    def _hint(self, window: Window) -> Hint:
        """The language is the session's, or the turn's once it stands; what speaks for one before that is told."""
        belief, options = window.belief, window.options
        known = options.language or (belief.language if belief.stands or window.told else None)
        prior, before = {} if known else belief.prior(), self._before(window, known)
        return Hint(known, options.languages, prior, weigh(window.voiced_ms), before, ask=not window.told)

    def _before(self, window: Window, known: str | None) -> tuple[int, ...]:
        """What came before the open turn. Turns in another language than it seems to have would mislead."""
        if self._context is None:
            return ()
        language = known or window.belief.language or window.belief.before or ""
        if window.before is None or window.before[0] != language:
            texts = [text for code, text in window.said if code == language]
            window.before = (language, tuple(self._context(window.options, texts)))
        return window.before[1]

    def _absorb(self, window: Window, item: _Due, transcript: Transcript) -> tuple[Word, ...]:
        """The new hypothesis replaces the tail; what it shares with the old one settles."""
        before, settled = window.tail, len(window.prefix_tokens)
        opening = transcript.opening
        given = window.options.language is not None
        window.belief.hear(opening.language, {} if given else opening.languages, window.voiced_ms)
        starts, ends = align(transcript.attention, self._model.frame_ms, window.ms(window.start))
        floor = window.prefix[-1].end_ms if window.prefix else window.ms(window.start)
        starts, ends = np.maximum(starts[settled:], floor), np.maximum(ends[settled:], floor)
        words = spell(self._pieces, transcript.tokens, starts, ends, transcript.probabilities)
        if self.rules.cut_short:
            words = heard_once(words)
        window.tail = fit(window.timed(words), floor, window.ms(item.end))
        window.tail_tokens = list(transcript.tokens)[: sum(word.tokens for word in words)]
        window.decoded_to = item.end
        window.end_of_turn = end_of_turn(window.tail, transcript.end)
        if self._is_breath(window) or self._is_noise(transcript):
            window.tail, window.tail_tokens, window.end_of_turn = [], [], 0.0
        if not (window.tail or window.told):
            window.belief.forget()  # of a noise
        guard = window.ms(item.end) - self.rules.guard_ms
        sure = agreed(before, window.tail)
        while sure and window.tail[sure - 1].end_ms > guard:
            sure -= 1
        if opening.languages and not (given or window.belief.stands):
            return ()  # in the wrong language, they would stand for ever
        if self.rules.whole and not self._is_long(window):
            return ()
        return window.settle(sure)

    def _is_noise(self, transcript: Transcript) -> bool:
        """Whether words were made of what is no speech: the model hardly believes them itself (Radford et al., 4.5)."""
        rules, trust = self.rules, transcript.trust
        doubted = transcript.opening.silence > rules.silence and trust < rules.doubt
        return bool(transcript.tokens) and (trust < rules.nonsense or doubted)

    def _is_breath(self, window: Window) -> bool:
        """Whether a short sound was taken for a word: the model writes one, but does not even close the sentence.

        Real short answers ("Yes.") are closed. Breaths, clicks and coughs come out as an open "You" or "I".
        """
        short = not window.told and window.voiced_ms < self.rules.breath_ms
        return short and window.end_of_turn < OPEN_SENTENCE

    # ------------------------------------------------------------------------------------------------- reporting

    def _report(
        self, slot: int, observations: Sequence[Observation], settled: tuple[Word, ...] | None
    ) -> Hypothesis | None:
        window = self._windows[slot]
        flushed = self._flushed(slot, window)
        if not observations and settled is None and flushed is None:
            return None
        tail: tuple[Word, ...] | None = None if settled is None else tuple(window.tail)
        words, heard_ms, confidence = settled or (), window.ms(window.decoded_to), window.end_of_turn
        language, sure, memory = window.belief.language, window.belief.confidence, None
        if flushed is not None and flushed <= window.ms(window.turn_from):
            window.flush_ms = NO_FLUSH  # there the turn began: all before it is settled
        elif flushed is not None:
            ending = sum(word.start_ms < flushed for word in window.tail)
            words += window.settle(ending)
            tail = ()
            window.finish(flushed, self.rules.context_ms)
            memory = self._listener.memory(slot)
        elif settled is not None:
            words += self._shorten(window)
            tail = tuple(window.tail)
        return Hypothesis(
            tuple(observations),
            words,
            tail,
            confidence,
            flushed,
            heard_ms,
            language=language,
            language_confidence=sure,
            memory=memory,
            held=slot in self._held,
        )

    def _flushed(self, slot: int, window: Window) -> int | None:
        """The flush that can be answered now: nothing that was said before it is unheard."""
        if window.flush_ms == NO_FLUSH or self._due(slot, window) is not None:
            return None
        return window.flush_ms

    def _length_ms(self, window: Window) -> int:
        return (window.decoded_to - window.start) // SAMPLES_PER_MS

    def _is_long(self, window: Window) -> bool:
        """Whether its beginning must go: too much audio, or too many settled words."""
        tokens = len(window.prefix_tokens)
        return self._length_ms(window) > self.rules.window_ms or tokens > self.rules.window_tokens

    def _shorten(self, window: Window) -> tuple[Word, ...]:
        """Cut a long window behind a settled word, in the widest gap. Returns words settled by force."""
        if not self._is_long(window):
            return ()
        length_ms = self._length_ms(window)
        forced: tuple[Word, ...] = ()
        if length_ms > self.rules.limit_ms:
            forced = window.settle(len(window.tail))
        latest = window.ms(window.decoded_to) - (0 if forced else self.rules.keep_ms)
        followers = [*window.prefix[1:], *window.tail[:1]]
        gaps = [
            (follower.start_ms - word.end_ms, number, (word.end_ms + follower.start_ms) // 2)
            for number, (word, follower) in enumerate(zip(window.prefix, followers, strict=False), start=1)
            if word.end_ms <= latest and number * 2 > len(window.prefix)
        ]
        if gaps:
            _, words, at_ms = max(gaps)
            window.forget_words(words)
            window.cut(window.position(at_ms))
        elif length_ms > self.rules.limit_ms:  # a window full of sound without a word
            window.cut(window.decoded_to - self.rules.keep_ms * SAMPLES_PER_MS)
            window.forget_words(len(window.prefix))
        return forced


def end_of_turn(words: Sequence[Word], end: float) -> float:
    """Belief that the speaker is done: the model's probability of the end token, if it closed a sentence.

    A hypothesis that ends without `.`, `?` or `!` is a thought in progress, whatever the end token says: the audio
    simply stops there.
    """
    if not words:
        return 0.0
    return end * words[-1].confidence if words[-1].text.endswith(FULL_STOPS) else 0.1 * end


def _cut_short(transcript: Transcript) -> Transcript:
    """A decode that found no end, without what it says again."""
    kept = twice(transcript.tokens)
    if kept is None:
        return transcript
    spare = len(transcript.tokens) - kept
    return replace(
        transcript,
        tokens=transcript.tokens[:kept],
        probabilities=transcript.probabilities[:kept],
        attention=transcript.attention[:-spare],
    )
