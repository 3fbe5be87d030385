"""Strategy for native transducers: every frame is encoded once, words are append-only.

    listen    VAD over every hop, batched over slots; where speech sets in, a slot's *stream* begins, a little before
    step      chunks of all streams that have one, of any age, in one batch for each look-ahead (`streaming.py`)
    settle    a word stands as soon as the next one begins; the newest is the tail
    flush     the turn ended: the stream hears silence after it, and all words settle. No real audio is waited for
    stop      the stream ends with the turn, or after a sound without words; the next speech begins a new one

So a model's state never outlives a turn, and in silence nothing is computed. What a stream says follows from its audio
alone, from where it begins on: how audio came in steps, who sat beside it, which worker it was make no difference. Who
takes over at the begin of a turn needs no state but the voice detector's (`memory.py`).

A stream never runs ahead of the endpointing, which hears a step's hops when the step is over: of the last pause it
takes what was heard in an earlier step. So no turn ends before what its stream has heard, save those that are cut for
their length in the middle of speech; there the stream goes on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from workers import tags
from workers.biasing import Vocabulary
from workers.boosting import Boost
from workers.bpe import speller
from workers.listening import Listener
from workers.models.fastconformer import FastConformer
from workers.recognizer import NO_FLUSH, Batch, Hypothesis, Memory, Observation, Quiet, SlotOptions, Spec
from workers.redecode import end_of_turn
from workers.stream import Stream, timed
from workers.streaming import Labels, Stepper
from workers.vad import HOP, SileroVAD
from workers.window import SAMPLES_PER_MS, Window
from workers.words import Word

#: One hop: chunks of the model have lengths of their own.
CHUNK_SAMPLES = HOP
#: A second of audio in one step, when steps are long.
CATCH_UP = 32
#: How often a quiet session tells where another worker may go on, in ms: a whole number of hops, and of leads' grain.
QUIET_EVERY_MS = 1_024
#: `mode` of a session -> look-ahead, given the deployment's (protocol 2.2: what `mode` trades is delay for accuracy).
SHORTEST, LONGEST = 1, 13


@dataclass(frozen=True)
class Rules:
    """In audio time. `late_ms`: measured on spoken digits, see DECISIONS."""

    lead_ms: int = 480  # heard before speech sets in
    pause_ms: int = 192  # silence after which nobody is speaking
    tail_ms: int = 320  # silence that a stream hears after the end of a turn
    noise_ms: int = 800  # silence after a sound without words, with which its stream ends
    late_ms: int = 96  # a word may be told so long after it ended


def lookaheads(lookahead: int) -> dict[str, int]:
    """What each mode of a session asks for, where the deployment has this look-ahead."""
    return {
        "min_latency": min(SHORTEST, lookahead),
        "balanced": lookahead,
        "max_accuracy": max(LONGEST, lookahead),
    }


@dataclass
class _News:
    """What a step has to tell of a slot."""

    settled: list[Word] = field(default_factory=list)
    tail: tuple[Word, ...] | None = None
    flushed_ms: int | None = None
    memory: Memory | None = None
    language: tuple[str | None, float] = (None, 0.0)


class Transducer:
    """A `Recognizer` around a FastConformer with an RNN-T, and Silero VAD.

    `spec.chunk_samples` is CHUNK_SAMPLES. `network`: of the deployment's look-ahead, ready; `prompts`: language code ->
    prompt, where the model takes any. `modes`: whether a session's `mode` chooses its look-ahead.
    """

    def __init__(
        self,
        spec: Spec,
        network: FastConformer,
        vad: SileroVAD,
        pieces: Sequence[bytes],
        rules: Rules | None = None,
        *,
        prompts: Mapping[str, int] | None = None,
        modes: bool = True,
    ) -> None:
        self.rules, self.behind = rules or Rules(), False
        self._listener = Listener(spec, vad, self.rules.pause_ms)
        self._pieces, self._prompts = pieces, prompts or {}
        self._texts = [piece.decode(errors="replace") for piece in pieces]
        self.lookahead = network.frames - 1
        self._modes = lookaheads(self.lookahead) if modes else {}
        wanted = sorted({self.lookahead, *self._modes.values()})
        networks = [network if one == self.lookahead else network.at(one) for one in wanted]
        state = network.state(spec.slots, max(one.left for one in networks))
        self.spec = replace(spec, state_bytes=state.bytes_per_slot)
        self._boost = Boost(spec.slots, state.seen.device)
        self.steppers = {one.frames - 1: Stepper(one, spec.slots, state, self._boost) for one in networks}
        self._vocabulary = Vocabulary(pieces, speller(pieces), network.config.blank_token_id)
        self._terms: list[tuple[str, ...]] = [()] * spec.slots
        self._tags = network.config.num_prompts > 0
        self._otherwise = network.config.default_prompt_id
        self._streams: list[Stream | None] = [None] * spec.slots
        self._done = [0] * spec.slots  # speech up to here was no speech
        self._heard = [0] * spec.slots  # in steps before this one
        self._language: list[tuple[str | None, float]] = [(None, 0.0)] * spec.slots

    @property
    def _lead(self) -> int:
        """Samples that a stream may begin before the newest hop."""
        return self.rules.lead_ms * SAMPLES_PER_MS + HOP

    def warm_up(self) -> None:
        """Every shape once; on CUDA, every graph is captured."""
        steppers = list(self.steppers.values())
        pool = torch.cuda.graph_pool_handle() if steppers[0].device.type == "cuda" else None
        for stepper in steppers:
            stepper.warm_up(pool)
        self._listener.warm_up()

    def step(self, batch: Batch) -> list[Hypothesis | None]:
        """Listen to the batch's audio, take the chunks that are due, answer flushes."""
        for slot in self._listener.accept(batch):
            self._streams[slot], self._done[slot], self._heard[slot] = None, 0, 0
            self._language[slot] = None, 0.0
            self._prefer(slot, ())
        for slot, options in batch.options.items():
            self._prefer(slot, options.keyterms)
        observations = self._listener.listen(self._forget)
        news: dict[int, _News] = {}
        slots: Sequence[int] = range(self.spec.slots)
        while due := self._due(slots, news):
            self._advance(due, news)
            self._answer(news)
            slots = due  # nobody else has a chunk now that had none before
        self._answer(news)
        windows = self._listener.windows
        self._heard = [window.heard for window in windows]
        self.behind = any(self._is_due(slot) for slot in range(self.spec.slots))
        return [self._report(slot, observations[slot], news.get(slot)) for slot in range(self.spec.slots)]

    def _quiet(self, slot: int) -> Quiet | None:
        """About once a second, where nobody speaks and nothing is open: all that another worker needs."""
        window = self._listener.windows[slot]
        silent = window.heard - window.last_speech >= self.rules.noise_ms * SAMPLES_PER_MS
        due = window.ms(window.heard) % QUIET_EVERY_MS == 0
        if not due or not silent or self._streams[slot] is not None or self._onset(slot) is not None:
            return None
        return self._listener.silence(slot, self._lead)

    def _prefer(self, slot: int, terms: tuple[str, ...]) -> None:
        """Key terms of a session, from its next chunk on."""
        if terms != self._terms[slot]:
            self._terms[slot] = terms
            self._boost.set(slot, self._vocabulary.compile(terms))

    # ------------------------------------------------------------------------------------------------- streams

    def _forget(self, slot: int, window: Window) -> None:
        """Forget silence that no stream will begin with."""
        if (
            self._streams[slot] is None
            and window.heard - window.start > 2 * self._lead
            and not self._onset(slot)
        ):
            window.cut(window.heard - self._lead)

    def _onset(self, slot: int) -> int | None:
        """Where the first speech begins that nobody has dealt with."""
        window = self._listener.windows[slot]
        after = max(window.turn_from, self._done[slot])
        return next((begin for begin, end in window.speech if end > after), None)

    def _due(self, slots: Iterable[int], news: Mapping[int, _News]) -> list[int]:
        """Those of them that have a chunk; none after its flush was answered in this step."""
        due = []
        for slot in slots:
            if slot in news and news[slot].flushed_ms is not None:
                continue
            if self._streams[slot] is None and (onset := self._onset(slot)) is not None:
                self._begin(slot, onset)
            self._end(slot)
            if self._is_due(slot):
                due.append(slot)
        return due

    def _end(self, slot: int) -> None:
        """Where a flush is asked for: no real audio follows, unless the stream has heard some already."""
        stream, window = self._streams[slot], self._listener.windows[slot]
        if stream is not None and window.flush_ms != NO_FLUSH:
            stream.ended = stream.ended or stream.heard <= window.position(window.flush_ms)

    def _begin(self, slot: int, onset: int) -> None:
        window = self._listener.windows[slot]
        begin = max(window.turn_from, window.start, onset - self.rules.lead_ms * SAMPLES_PER_MS)
        if window.flush_ms != NO_FLUSH and begin >= window.position(window.flush_ms):
            return  # of the next turn
        stepper = self.steppers[self._modes.get(window.options.mode, self.lookahead)]
        stepper.reset(np.array([slot]), np.array([self._prompt(window.options)]))
        self._streams[slot] = Stream(begin, stepper)

    def _prompt(self, options: SlotOptions) -> int:
        return tags.prompt(options.language, self._prompts, self._otherwise)

    def _is_due(self, slot: int) -> bool:
        stream, window = self._streams[slot], self._listener.windows[slot]
        if stream is None:
            return False
        if window.flush_ms == NO_FLUSH:
            return stream.wants <= max(self._heard[slot], window.last_speech)
        tail = self.rules.tail_ms * SAMPLES_PER_MS
        return stream.ended and stream.covered < window.position(window.flush_ms) + tail

    def _advance(self, due: Sequence[int], news: dict[int, _News]) -> None:
        """One chunk of each of these slots, a batch for each look-ahead."""
        batches = [
            (stepper, [slot for slot in due if self._of(slot).stepper is stepper])
            for stepper in self.steppers.values()
        ]
        for stepper, rows in batches:
            if not rows:
                continue
            said = stepper.step(np.array(rows), np.stack([self._chunk(slot) for slot in rows]))
            for place, slot in enumerate(rows):
                self._absorb(slot, said, place, news.setdefault(slot, _News()))

    def _of(self, slot: int) -> Stream:
        stream = self._streams[slot]
        if stream is None:
            raise RuntimeError(f"slot {slot} has no stream")
        return stream

    def _chunk(self, slot: int) -> NDArray[np.float32]:
        """What the next chunk hears: silence before the stream's begin, and after the end of an ended turn."""
        stream, window = self._of(slot), self._listener.windows[slot]
        start = stream.covered - stream.stepper.lead
        stop = start + stream.stepper.width
        until = min(stop, window.end)
        if window.flush_ms != NO_FLUSH:
            until = min(until, window.position(window.flush_ms))
        chunk = np.zeros(stop - start, np.float32)
        first = max(start, stream.begin)
        if until > first:
            chunk[first - start : until - start] = window.audio(first, until)
        return chunk

    # ------------------------------------------------------------------------------------------------- words

    def _absorb(self, slot: int, said: Labels, place: int, news: _News) -> None:
        """Labels become tokens of the stream; words before the newest one settle."""
        stream, window = self._of(slot), self._listener.windows[slot]
        new = np.flatnonzero(said.token[place] >= 0)
        parts = (said.token[place, new], said.frame[place, new], said.odds[place, new])
        stream.hear(*(part.tolist() for part in parts))
        window.decoded_to = max(window.turn_from, stream.heard - self.rules.late_ms * SAMPLES_PER_MS)
        if len(new):
            self._spell(slot, stream, window)
            # Those of an ended turn settle together, with what time there is for all of them.
            standing = 0 if stream.ended else len(window.tail) - 1
            news.settled += window.settle(self._settle(stream, window, standing))
        news.tail, news.language = tuple(window.tail), self._language[slot]
        needed = max(window.turn_from, stream.covered - stream.stepper.lead)
        if needed - window.start > 4 * self.spec.sample_rate:
            window.cut(needed - 2 * self.spec.sample_rate)  # so much tells where speech ended
        self._stop(slot, stream, window)

    def _stop(self, slot: int, stream: Stream, window: Window) -> None:
        """It was no speech: a stream ends that has heard silence for so long, and no word before it."""
        after = max(window.turn_from, self._done[slot])
        ends = [end for begin, end in window.speech if end > after and begin < stream.heard]
        spoken = window.told or stream.tokens or window.flush_ms != NO_FLUSH
        if ends and not spoken and ends[-1] + self.rules.noise_ms * SAMPLES_PER_MS <= stream.heard:
            self._streams[slot], self._done[slot] = None, stream.heard

    def _spell(self, slot: int, stream: Stream, window: Window) -> None:
        """The stream's tokens as the window's tail, tags taken out of them."""
        held = self._read_tags(slot, stream) if self._tags else 0
        count = len(stream.tokens) - held
        words = stream.words(self._pieces, count, window.ms(stream.begin))
        floor = window.prefix[-1].end_ms if window.prefix else window.ms(window.turn_from)
        spans = [(window.ms(begin), window.ms(end)) for begin, end in window.speech]
        known_ms = window.flush_ms if stream.ended else window.ms(stream.heard)
        until_ms = window.flush_ms if stream.ended else window.ms(window.decoded_to)
        window.tail = timed(words, spans, floor, known_ms, until_ms)
        window.tail_tokens = stream.tokens[: sum(word.tokens for word in words)]
        window.end_of_turn = end_of_turn(window.tail, 1.0)

    def _read_tags(self, slot: int, stream: Stream) -> int:
        """Take the tags out, and note the language. Returns how many tokens at the end may become one."""
        found = tags.read([self._texts[token] for token in stream.tokens], stream.odds)
        if found.language is not None:
            self._language[slot] = found.language, found.confidence
        stream.keep([*found.words, *range(len(stream.tokens) - found.held, len(stream.tokens))])
        return found.held

    def _settle(self, stream: Stream, window: Window, count: int) -> int:
        """The stream may forget the tokens of the first `count` words of the tail. Returns the count, if positive."""
        count = max(0, count)
        stream.drop(sum(word.tokens for word in window.tail[:count]))
        return count

    # ------------------------------------------------------------------------------------------------- flushes

    def _answer(self, news: dict[int, _News]) -> None:
        """Flushes of slots that have heard enough."""
        for slot, window in enumerate(self._listener.windows):
            if window.flush_ms == NO_FLUSH or self._is_due(slot) or self._begins(slot):
                continue
            told = news.setdefault(slot, _News())
            told.flushed_ms = window.flush_ms
            if window.flush_ms > window.ms(window.turn_from):
                self._finish(slot, window, told)
            window.flush_ms = NO_FLUSH

    def _begins(self, slot: int) -> bool:
        """Whether a stream is still to begin that belongs to the turn."""
        window = self._listener.windows[slot]
        if self._streams[slot] is not None or (onset := self._onset(slot)) is None:
            return False
        begin = max(window.turn_from, window.start, onset - self.rules.lead_ms * SAMPLES_PER_MS)
        return begin < window.position(window.flush_ms)

    def _finish(self, slot: int, window: Window, told: _News) -> None:
        """All words before the end settle; the next turn begins there, with a stream of its own."""
        at_ms, stream = window.flush_ms, self._streams[slot]
        at = window.position(at_ms)
        told.language = self._language[slot]
        goes_on = stream is not None and not stream.ended
        if stream is not None:
            window.decoded_to = max(window.decoded_to, at)
            self._spell(slot, stream, window)
            ending = len(window.tail) if not goes_on else sum(word.start_ms < at_ms for word in window.tail)
            told.settled += window.settle(self._settle(stream, window, ending))
        told.tail = tuple(window.tail)
        window.forget_words(len(window.prefix))
        window.words.clear()
        window.turn_from, window.end_of_turn = at, 0.0
        window.onset = max(window.onset, at)
        window.last_speech = window.last_speech if window.last_speech > at else 0
        self._language[slot] = None, 0.0
        if goes_on:
            return
        self._streams[slot], window.tail, window.tail_tokens = None, [], []
        window.decoded_to, self._done[slot] = at, at
        window.cut(min(at, window.heard))
        told.memory = self._listener.memory(slot)

    # ------------------------------------------------------------------------------------------------- reporting

    def _report(
        self, slot: int, observations: Sequence[Observation], news: _News | None
    ) -> Hypothesis | None:
        if not observations and news is None:
            return None
        window = self._listener.windows[slot]
        news = news or _News()
        code, sure = news.language
        given = window.options.language
        if given is not None:
            code, sure = given, 0.0
        heard_ms = news.flushed_ms if news.flushed_ms is not None else window.ms(window.decoded_to)
        return Hypothesis(
            tuple(observations),
            tuple(news.settled),
            news.tail,
            window.end_of_turn,
            news.flushed_ms,
            heard_ms,
            language=code,
            language_confidence=sure,
            memory=news.memory,
            quiet=self._quiet(slot) if observations else None,
        )
