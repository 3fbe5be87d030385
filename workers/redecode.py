"""Strategy for encoders that see a whole utterance: decode the open turn again and again, cheaply.

    listen    VAD over every hop, batched over slots; says when a slot is due
    due       flush: the turn ended, its words are wanted        (first in line)
              pause: speech stopped a moment ago                 (so that the end of turn can be judged)
              partial: speech goes on, and it is time for news   (last in line)
    decode    the due slots in one batch, as many as the step's budget allows: the settled words are a forced
              prefix, the last hypothesis is the draft (`drafting.py`)
    settle    words on which two successive hypotheses agree stand for ever (LocalAgreement-2: Liu et al. 2020,
              arXiv 2005.11185; Machacek et al. 2023, arXiv 2307.14743); a flush settles the rest

A flush is answered without decoding when the newest hypothesis has already heard the end of the speech. The window
is cut at a settled word when speech goes on for long, so that a decode never costs more than a window. Everything is
ruled by audio time: how fast audio arrives and how it is cut into chunks changes no word, as long as the budget
suffices. When it does not, partials wait, and finals go first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workers.drafting import Task, Transcript, transcribe
from workers.models.moonshine import MIN_SAMPLES, SAMPLES_PER_FRAME, Moonshine
from workers.recognizer import NO_FLUSH, Batch, Hypothesis, Observation, Spec
from workers.vad import HOP, SileroVAD
from workers.window import SAMPLES_PER_MS, Window
from workers.words import Word, agreed, align, fit, spell, token_cap

FRAME_MS = SAMPLES_PER_FRAME / SAMPLES_PER_MS

#: Speech ends below the threshold less this (Silero's own hysteresis).
HYSTERESIS = 0.15

#: An end-of-turn belief below this comes from words without a full stop (`end_of_turn`).
OPEN_SENTENCE = 0.15


@dataclass(frozen=True)
class Rules:
    """When to decode and what to keep; all in audio time."""

    partial_ms: int = 480  # news while speech goes on
    pause_ms: int = 192  # silence after which a pause is decoded, before any endpoint may fire
    lead_ms: int = 480  # audio kept before speech sets in
    window_ms: int = 12_000  # a longer window is cut at a settled word ...
    keep_ms: int = 4_000  # ... that leaves at least this much
    limit_ms: int = 20_000  # nothing settled by then: what is there must stand
    guard_ms: int = 700  # a word that ends this close to the newest audio may still be misheard
    context_ms: int = 3_000  # of the turn before, kept in front of the open one ...
    context_gap_ms: int = 1_500  # ... for as long as this after its end
    breath_ms: int = 400  # a shorter sound must come out as a closed sentence
    budget_ms: int = 8_000  # audio decoded in one step; the first due slot is always served


@dataclass(frozen=True)
class _Due:
    slot: int
    rank: int  # 0 flush, 1 pause, 2 partial
    waiting: int  # samples since it fell due, for fairness within a rank
    end: int  # decode the window up to here


class Redecoder:
    """A `Recognizer` around Moonshine and Silero VAD."""

    def __init__(
        self,
        spec: Spec,
        model: Moonshine,
        vad: SileroVAD,
        pieces: Sequence[bytes],
        rules: Rules | None = None,
    ) -> None:
        self.spec = spec
        self.rules = rules or Rules()
        self._model = model
        self._vad = vad
        self._vad_state = vad.state(spec.slots)
        self._pieces = pieces
        self._windows = [Window() for _ in range(spec.slots)]

    def warm_up(self) -> None:
        """One decode of a second of silence, alone and batched, so that no session pays for first calls."""
        silence = torch.zeros(16_000)
        for rows in (1, 2):
            transcribe(self._model, [Task(silence, cap=4)] * rows)
        self._vad.step(
            self._vad.state(self.spec.slots),
            torch.zeros(self.spec.slots, HOP),
            torch.ones(self.spec.slots) > 0,
        )

    def step(self, batch: Batch) -> list[Hypothesis | None]:
        """Listen to the batch's audio, decode what is due, answer flushes."""
        self._accept(batch)
        observations, fell_due = self._listen()
        decoded, failed = self._decode(self._in_line(fell_due))
        return [
            Hypothesis(failed=True)
            if slot in failed
            else self._report(slot, observations[slot], decoded.get(slot))
            for slot in range(self.spec.slots)
        ]

    # ------------------------------------------------------------------------------------------------- listening

    def _accept(self, batch: Batch) -> None:
        if batch.reset.any():
            self._vad.reset(self._vad_state, torch.from_numpy(batch.reset))
            for slot in np.flatnonzero(batch.reset).tolist():
                self._windows[slot] = Window(origin_ms=int(batch.origin_ms[slot]))
        for slot, options in batch.options.items():
            self._windows[slot].options = options
        for slot in np.flatnonzero(batch.samples).tolist():
            self._windows[slot].append(batch.audio[slot, : batch.samples[slot]])
        for slot in np.flatnonzero(batch.flush_ms != NO_FLUSH).tolist():
            self._windows[slot].flush_ms = int(batch.flush_ms[slot])

    def _listen(self) -> tuple[list[list[Observation]], dict[int, _Due]]:
        """Speech probability of every hop that is complete, one batched VAD step per round; and which slots fell due
        at which hop, so that a decode ends there, however many hops came at once.
        """
        heard: list[list[Observation]] = [[] for _ in self._windows]
        fell_due: dict[int, _Due] = {}
        while ready := [
            slot for slot, window in enumerate(self._windows) if window.end - window.heard >= HOP
        ]:
            hops, active = np.zeros((self.spec.slots, HOP), np.float32), np.zeros(self.spec.slots, bool)
            for slot in ready:
                window = self._windows[slot]
                hops[slot], active[slot] = window.audio(window.heard, window.heard + HOP), True
            with torch.inference_mode():
                speech = self._vad.step(
                    self._vad_state, torch.from_numpy(hops), torch.from_numpy(active)
                ).tolist()
            for slot in ready:
                self._hear(self._windows[slot], speech[slot])
                heard[slot].append(
                    Observation(self._windows[slot].ms(self._windows[slot].heard), speech[slot])
                )
                if slot not in fell_due and (item := self._due(slot, self._windows[slot])) is not None:
                    fell_due[slot] = item
        return heard, fell_due

    def _hear(self, window: Window, speech: float) -> None:
        """Note speech and its ends; forget silence that nobody will ask about."""
        threshold = window.options.vad_threshold - (HYSTERESIS if window.speaking else 0.0)
        voiced = speech >= max(threshold, 0.01)
        window.hear(HOP, voiced)
        if voiced:
            if not window.speaking:
                window.onset = window.heard - HOP
            window.speaking, window.last_speech = True, window.heard
        elif window.heard - window.last_speech >= self.rules.pause_ms * SAMPLES_PER_MS:
            window.speaking = False
        idle = not (window.speaking or window.told or window.tail) and window.last_speech <= window.decoded_to
        if not idle or window.flush_ms != NO_FLUSH:
            return
        lead = self.rules.lead_ms * SAMPLES_PER_MS
        if window.context and window.heard - window.turn_from > self.rules.context_gap_ms * SAMPLES_PER_MS:
            window.drop_context()
        if not window.context and window.heard - window.start > 2 * lead:
            window.cut(window.heard - lead)
            window.decoded_to = max(window.decoded_to, window.start)

    # ---------------------------------------------------------------------------------------------- what is due

    def _in_line(self, fell_due: Mapping[int, _Due]) -> list[_Due]:
        """Due slots, most urgent first, as many as the budget covers."""
        due: list[_Due] = []
        for slot, window in enumerate(self._windows):
            item = fell_due.get(slot) if window.flush_ms == NO_FLUSH else None
            if item is not None or (item := self._due(slot, window)) is not None:
                due.append(item)
        due.sort(key=lambda item: (item.rank, -item.waiting))
        budget = self.rules.budget_ms * SAMPLES_PER_MS
        line: list[_Due] = []
        for item in due:
            budget -= item.end - self._windows[item.slot].start
            if line and budget < 0:
                break
            line.append(item)
        return line

    def _due(self, slot: int, window: Window) -> _Due | None:
        unheard = window.last_speech > window.decoded_to
        if window.flush_ms != NO_FLUSH:
            end = min(window.position(window.flush_ms), window.end)
            if unheard and window.decoded_to < end and end - window.start >= MIN_SAMPLES:
                return _Due(slot, 0, window.end - end, end)
            return None
        if not unheard:
            return None
        if not window.speaking:
            return _Due(slot, 1, window.heard - window.last_speech, window.heard)
        since = window.heard - max(window.decoded_to, window.onset)
        if since >= self.rules.partial_ms * SAMPLES_PER_MS:
            return _Due(slot, 2, since, window.heard)
        return None

    # -------------------------------------------------------------------------------------------------- decoding

    def _decode(self, line: Sequence[_Due]) -> tuple[dict[int, tuple[Word, ...]], set[int]]:
        """Decode the slots in line. Returns the words that settled, per slot, and the slots that failed."""
        tasks = [self._task(self._windows[item.slot], item.end) for item in line]
        try:
            transcripts: list[Transcript | None] = [*transcribe(self._model, tasks)] if tasks else []
        except Exception:  # noqa: BLE001 one row must not take its neighbours along: find out which it was
            transcripts = [self._alone(task) for task in tasks]
        settled, failed = {}, set()
        for item, transcript in zip(line, transcripts, strict=True):
            if transcript is None:
                failed.add(item.slot)
                self._windows[item.slot] = Window()
            else:
                settled[item.slot] = self._absorb(self._windows[item.slot], item, transcript)
        return settled, failed

    def _alone(self, task: Task) -> Transcript | None:
        try:
            return transcribe(self._model, [task])[0]
        except Exception:  # noqa: BLE001 reported as `Hypothesis.failed`
            return None

    def _task(self, window: Window, end: int) -> Task:
        audio = torch.from_numpy(window.audio(window.start, end).copy())
        cap = max(4, token_cap(len(audio) / 16_000) - len(window.prefix_tokens))
        return Task(audio, tuple(window.prefix_tokens), tuple(window.tail_tokens), cap)

    def _absorb(self, window: Window, item: _Due, transcript: Transcript) -> tuple[Word, ...]:
        """The new hypothesis replaces the tail; what it shares with the old one settles."""
        before, settled = window.tail, len(window.prefix_tokens)
        starts, ends = align(transcript.attention, FRAME_MS, window.ms(window.start))
        floor = window.prefix[-1].end_ms if window.prefix else window.ms(window.start)
        starts, ends = np.maximum(starts[settled:], floor), np.maximum(ends[settled:], floor)
        words = spell(self._pieces, transcript.tokens, starts, ends, transcript.probabilities)
        window.tail = fit(window.timed(words), floor, window.ms(item.end))
        window.tail_tokens = list(transcript.tokens)
        window.decoded_to = item.end
        window.end_of_turn = end_of_turn(window.tail, transcript.end)
        if self._is_breath(window):
            window.tail, window.tail_tokens = [], []
        guard = window.ms(item.end) - self.rules.guard_ms
        sure = agreed(before, window.tail)
        while sure and window.tail[sure - 1].end_ms > guard:
            sure -= 1
        return window.settle(sure)

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
        if flushed is not None:
            ending = sum(word.start_ms < flushed for word in window.tail)
            words += window.settle(ending)
            tail = ()
            window.finish(flushed, self.rules.context_ms)
        elif settled is not None:
            words += self._shorten(window)
            tail = tuple(window.tail)
        return Hypothesis(tuple(observations), words, tail, confidence, flushed, heard_ms)

    def _flushed(self, slot: int, window: Window) -> int | None:
        """The flush that can be answered now: nothing that was said before it is unheard."""
        if window.flush_ms == NO_FLUSH or self._due(slot, window) is not None:
            return None
        return window.flush_ms

    def _shorten(self, window: Window) -> tuple[Word, ...]:
        """Cut a long window behind a settled word, in the widest gap. Returns words settled by force."""
        length_ms = (window.decoded_to - window.start) // SAMPLES_PER_MS
        if length_ms <= self.rules.window_ms:
            return ()
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
    return end * words[-1].confidence if words[-1].text.endswith((".", "?", "!")) else 0.1 * end
