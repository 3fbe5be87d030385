"""Re-decoding of real speech with the real weights, step by step, as the engine would drive it.

`Listener` feeds a recognizer's slots in steps and keeps what each slot was told; it checks the recognizer's contract
(`workers/recognizer.py`) at every step.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from wire.strides import HELD
from workers import checkpoints
from workers.drafting import Task, Transcript, transcribe
from workers.models.decoder import Opening
from workers.models.moonshine import Moonshine, MoonshineConfig, fused
from workers.recognizer import NO_FLUSH, Batch, Hypothesis, SlotOptions, Spec
from workers.redecode import OVERDUE_STEPS, Redecoder, Rules, _cut_short, _Due, end_of_turn
from workers.slots import Slots
from workers.vad import HOP, SileroVAD
from workers.words import Word, join

pytestmark = [pytest.mark.weights, pytest.mark.timeout(120)]

DATA = Path(__file__).parents[1] / "data"
TRANSCRIPTS: dict[str, str] = json.loads((DATA / "transcripts.json").read_text())
SLOTS = 3
CHUNK = 2 * HOP
Samples = NDArray[np.float32]


# --------------------------------------------------------------------------------------------------------------
# listening


@dataclass
class Heard:
    """What one slot was told."""

    settled: list[Word] = field(default_factory=list)
    tail: tuple[Word, ...] = ()
    partials: list[tuple[int, str]] = field(default_factory=list)  # (heard_ms, settled and tail) at each news
    at_ms: list[int] = field(default_factory=list)
    speech: list[float] = field(default_factory=list)
    flushes: list[int] = field(default_factory=list)
    failed: bool = False

    @property
    def text(self) -> str:
        return join([word.text for word in self.settled])


class Listener:
    """Steps a recognizer. `feed` gives each slot its next chunk; `flush` asks until it is answered."""

    def __init__(self, recognizer: Redecoder, width: int = CHUNK) -> None:
        self.recognizer = recognizer
        self._width = width
        self.heard = [Heard() for _ in range(recognizer.spec.slots)]
        self._fresh = np.ones(recognizer.spec.slots, bool)
        self.fed = [0] * recognizer.spec.slots

    def step(
        self,
        chunks: Mapping[int, Samples],
        flush_ms: Mapping[int, int] | None = None,
        options: Mapping[int, SlotOptions] | None = None,
    ) -> list[Hypothesis | None]:
        slots = self.recognizer.spec.slots
        audio, samples = np.full((slots, self._width), np.nan, np.float32), np.zeros(slots, np.int64)
        flush = np.full(slots, NO_FLUSH, np.int64)
        for slot, chunk in chunks.items():
            audio[slot, : len(chunk)], samples[slot] = chunk, len(chunk)
            self.fed[slot] += len(chunk)
        for slot, at_ms in (flush_ms or {}).items():
            flush[slot] = at_ms
        reset, self._fresh = self._fresh, np.zeros(slots, bool)
        batch = Batch(audio, samples, reset, np.zeros(slots, np.int64), flush, options or {})
        results = self.recognizer.step(batch)
        assert len(results) == slots
        for slot, result in enumerate(results):
            if result is not None:
                self._hear(self.heard[slot], result)
        return results

    def reset(self, slot: int) -> None:
        self._fresh[slot], self.heard[slot], self.fed[slot] = True, Heard(), 0

    def flush(self, slot: int, at_ms: int) -> None:
        """Flush and step until the answer is there."""
        self.step({}, {slot: at_ms})
        for _ in range(5):
            if self.heard[slot].flushes and self.heard[slot].flushes[-1] == at_ms:
                return
            self.step({})
        raise AssertionError(f"no answer to the flush at {at_ms}")

    def finish(self, slot: int) -> Heard:
        self.flush(slot, self.fed[slot] // 16)
        return self.heard[slot]

    def _hear(self, heard: Heard, news: Hypothesis) -> None:
        heard.failed |= news.failed
        if news.failed:
            return
        for observation in news.observations:
            assert 0.0 <= observation.speech <= 1.0
            assert observation.at_ms > (heard.at_ms[-1] if heard.at_ms else 0)
            heard.at_ms.append(observation.at_ms)
            heard.speech.append(observation.speech)
        heard.settled += news.settled
        heard.tail = heard.tail if news.tail is None else news.tail
        assert 0.0 <= news.end_of_turn <= 1.0
        words = [*heard.settled, *heard.tail]
        for word in words:
            assert word.start_ms < word.end_ms
            assert 0.0 <= word.confidence <= 1.0
        assert all(a.start_ms <= b.start_ms for a, b in pairwise(words))
        if news.settled or news.tail:
            heard.partials.append((news.heard_ms, join([word.text for word in words])))
        if news.flushed_ms is not None:
            floor = heard.flushes[-1] if heard.flushes else 0
            assert news.flushed_ms >= floor
            heard.flushes.append(news.flushed_ms)


def listen(recognizer: Redecoder, audio: Samples, sizes: Iterator[int] | None = None) -> Heard:
    """The whole of `audio` through slot 0, then a flush at its end."""
    listener = Listener(recognizer)
    for chunk in chunks(audio, sizes):
        listener.step({0: chunk})
    return listener.finish(0)


def chunks(audio: Samples, sizes: Iterator[int] | None = None) -> Iterator[Samples]:
    at = 0
    while at < len(audio):
        size = next(sizes) if sizes else CHUNK
        yield audio[at : at + size]
        at += size


def clip(name: str) -> Samples:
    audio, rate = soundfile.read(DATA / name, dtype="float32")
    assert rate == 16_000
    return np.asarray(audio, np.float32)


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def wrong(said: str, heard: str) -> float:
    """Word error rate, on lower-case words alone."""
    return float(jiwer.wer(plain(said), plain(heard)))


@dataclass(frozen=True)
class Weights:
    config: dict[str, Any]
    state: dict[str, Tensor]
    vad: dict[str, Tensor]
    pieces: list[bytes]

    def redecoder(self, kind: type[Moonshine] = Moonshine, rules: Rules | None = None) -> Redecoder:
        model = kind(MoonshineConfig.from_dict(self.config))
        model.load_state_dict(fused(self.state))
        spec = Spec("moonshine-tiny-en", "MIT", SLOTS, CHUNK, hop_ms=32)
        return Redecoder(spec, model.eval(), SileroVAD(self.vad), self.pieces, rules)


@pytest.fixture(scope="module")
def weights() -> Weights:
    folder = checkpoints.fetch("moonshine-tiny-en")
    config, state = checkpoints.load(folder)
    _, vad = checkpoints.load(checkpoints.fetch("silero-vad"))
    return Weights(config, state, vad, checkpoints.pieces(folder))


@pytest.fixture(scope="module")
def recognizer(weights: Weights) -> Redecoder:
    built = weights.redecoder()
    built.warm_up()
    return built


# --------------------------------------------------------------------------------------------------------------
# words


@pytest.mark.parametrize("name", ["beckett.wav", "counting.wav", "hello_world.wav", "quick_brown_fox.wav"])
def test_real_speech_becomes_its_words(recognizer: Redecoder, name: str) -> None:
    heard = listen(recognizer, clip(name))
    assert wrong(TRANSCRIPTS[name], heard.text) <= 0.1
    assert heard.settled[-1].end_ms <= len(clip(name)) / 16 + 1


def test_settled_words_are_each_told_once_and_are_as_good_as_a_decode_of_the_whole(
    weights: Weights, recognizer: Redecoder
) -> None:
    name = "season_of_light.wav"
    audio, listener = clip(name), Listener(recognizer)
    told: list[str] = []
    for chunk in chunks(audio):
        listener.step({0: chunk})
        settled = [word.text for word in listener.heard[0].settled]
        assert settled[: len(told)] == told
        told = settled
    assert len(told) > 15  # long before the flush
    heard = listener.finish(0)
    assert heard.tail == ()
    ends = [word.end_ms for word in heard.settled]
    assert ends == sorted(ends)
    [whole] = transcribe(recognizer._model, [Task(torch.from_numpy(audio))])
    text = b"".join(weights.pieces[token] for token in whole.tokens).decode()
    assert wrong(TRANSCRIPTS[name], heard.text) <= wrong(TRANSCRIPTS[name], text) + 0.01


def test_news_come_at_least_twice_a_second_while_someone_speaks(recognizer: Redecoder) -> None:
    heard = listen(recognizer, clip("quick_brown_fox.wav"))
    times = [at_ms for at_ms, _ in heard.partials]
    assert times[0] <= 1000
    assert max(b - a for a, b in pairwise(times)) <= Rules.partial_ms + 64


def test_pace_changes_no_word(recognizer: Redecoder) -> None:
    audio = clip("counting.wav")
    steady = listen(recognizer, audio)
    for seed in range(2):
        sizes = np.random.default_rng(seed).integers(1, CHUNK + 1, len(audio)).tolist()
        ragged = listen(recognizer, audio, iter(sizes))
        assert [word.text for word in ragged.settled] == [word.text for word in steady.settled]
        assert ragged.settled == steady.settled
        assert ragged.at_ms == steady.at_ms
        assert ragged.speech == pytest.approx(steady.speech, abs=1e-5)


def test_neighbours_do_not_matter(recognizer: Redecoder) -> None:
    names = ["quick_brown_fox.wav", "hello_world.wav", "counting.wav"]
    alone = [listen(recognizer, clip(name)) for name in names]
    listener = Listener(recognizer)
    streams = [list(chunks(clip(name))) for name in names]
    for number in range(max(map(len, streams))):
        listener.step({slot: stream[number] for slot, stream in enumerate(streams) if number < len(stream)})
    together = [listener.finish(slot) for slot in range(len(names))]
    for mine, theirs in zip(alone, together, strict=True):
        assert [word.text for word in theirs.settled] == [word.text for word in mine.settled]
        for a, b in zip(mine.settled, theirs.settled, strict=True):
            assert (a.start_ms, a.end_ms) == (b.start_ms, b.end_ms)
            assert a.confidence == pytest.approx(b.confidence, abs=1e-3)


def test_a_reset_slot_remembers_nothing(recognizer: Redecoder) -> None:
    alone = listen(recognizer, clip("hello_world.wav"))
    listener = Listener(recognizer)
    for chunk in chunks(clip("counting.wav")[:30_000]):
        listener.step({0: chunk})
    listener.reset(0)
    for chunk in chunks(clip("hello_world.wav")):
        listener.step({0: chunk})
    again = listener.finish(0)
    assert again.settled == alone.settled
    assert again.at_ms == alone.at_ms
    assert again.speech == alone.speech


def test_turns_follow_each_other_with_nothing_lost_or_doubled(recognizer: Redecoder) -> None:
    """A flush in each pause, as endpointing asks for."""
    audio = clip("beckett.wav")
    listener, quiet = Listener(recognizer), 0
    for chunk in chunks(audio):
        [news, *_] = listener.step({0: chunk})
        speech = [hop.speech for hop in news.observations] if news else []
        quiet = 0 if any(value > 0.4 for value in speech) else quiet + len(speech)
        if quiet == 14:  # 448 ms
            listener.flush(0, listener.heard[0].at_ms[-1])
    heard = listener.finish(0)
    assert len(heard.flushes) >= 4
    assert len(heard.settled) == 12
    assert wrong(TRANSCRIPTS["beckett.wav"], heard.text) <= 0.2  # two words alone are harder than a sentence


@pytest.mark.parametrize("at_ms", [0, 50, 700, 1500, 2888])
def test_every_flush_is_answered_and_later_words_start_after_it(recognizer: Redecoder, at_ms: int) -> None:
    audio = clip("quick_brown_fox.wav")
    listener = Listener(recognizer)
    for chunk in chunks(audio[: 16 * at_ms]):
        listener.step({0: chunk})
    listener.flush(0, at_ms)
    before = len(listener.heard[0].settled)
    for chunk in chunks(audio[16 * at_ms :]):
        listener.step({0: chunk})
    heard = listener.finish(0)
    assert heard.flushes == [at_ms, len(audio) // 16]
    assert all(word.start_ms < at_ms for word in heard.settled[:before])
    assert all(word.start_ms >= at_ms for word in heard.settled[before:])
    assert wrong(TRANSCRIPTS["quick_brown_fox.wav"], heard.text) <= 0.25  # a word may have been cut in two


@pytest.mark.parametrize("ago_ms", [500, 2000])
def test_a_flush_in_the_past_loses_and_doubles_nothing_after_it(recognizer: Redecoder, ago_ms: int) -> None:
    hello, gap = clip("hello_world.wav"), np.zeros(8_000, np.float32)
    audio = np.concatenate([hello, gap, clip("quick_brown_fox.wav")])
    listener, at_ms = Listener(recognizer), (len(hello) + 4_000) // 16
    asked = False
    for chunk in chunks(audio):
        listener.step({0: chunk})
        if not asked and listener.fed[0] // 16 >= at_ms + ago_ms:
            listener.flush(0, at_ms)
            asked = True
    heard = listener.finish(0)
    assert plain(join([word.text for word in heard.settled[:2]])) == "hello world"
    assert wrong("hello world " + TRANSCRIPTS["quick_brown_fox.wav"], heard.text) <= 0.1


# --------------------------------------------------------------------------------------------------------------
# key terms

#: In espeak's voice, tiny hears neither of the two names in it.
RARE = "kubernetes.wav"
TERMS = SlotOptions(keyterms=("Kubernetes", "Proxmox", "Saskatchewan", "Featherstonehaugh"))


def with_terms(recognizer: Redecoder, audio: Samples, options: SlotOptions) -> str:
    listener = Listener(recognizer)
    for number, chunk in enumerate(chunks(audio)):
        listener.step({0: chunk}, options={0: options} if number == 0 else None)
    return listener.finish(0).text


def test_a_term_is_missed_without_and_found_with(recognizer: Redecoder) -> None:
    without = listen(recognizer, clip(RARE)).text
    assert not {"kubernetes", "proxmox"} & set(plain(without).split())
    assert with_terms(recognizer, clip(RARE), TERMS).endswith(" Kubernetes on the Proxmox cluster.")


def test_terms_that_nobody_says_change_nothing(recognizer: Redecoder) -> None:
    for name in ("quick_brown_fox.wav", "season_of_light.wav"):
        assert with_terms(recognizer, clip(name), TERMS) == listen(recognizer, clip(name)).text


def test_terms_change_while_the_session_goes_on_and_are_compiled_once(weights: Weights) -> None:
    recognizer, audio = weights.redecoder(), clip(RARE)
    listener = Listener(recognizer)
    texts, compiled = list[str](), list[object]()
    for options in (SlotOptions(), TERMS, replace(TERMS, vad_threshold=0.3), SlotOptions()):
        for number, chunk in enumerate(chunks(np.concatenate([audio, np.zeros(32_000, np.float32)]))):
            listener.step({0: chunk}, options={0: options} if number == 0 else None)
        listener.flush(0, listener.fed[0] // 16)
        texts.append(plain(join([word.text for word in listener.heard[0].settled])))
        listener.heard[0].settled.clear()
        compiled.append(recognizer._terms[0][1])
    assert ["kubernetes" in text for text in texts] == [False, True, True, False]
    assert compiled[1] is compiled[2] is not None
    assert compiled[0] is compiled[3] is None


def test_where_terms_are_context_they_get_no_bonus(weights: Weights) -> None:
    model = Moonshine(MoonshineConfig.from_dict(weights.config))
    model.load_state_dict(fused(weights.state))
    spec = Spec("moonshine-tiny-en", "MIT", SLOTS, CHUNK, hop_ms=32)
    prompted = Redecoder(spec, model.eval(), SileroVAD(weights.vad), weights.pieces, None, lambda *_: [])
    assert "kubernetes" not in plain(with_terms(prompted, clip(RARE), TERMS))


def test_a_new_occupant_has_no_terms(recognizer: Redecoder) -> None:
    with_terms(recognizer, clip(RARE), TERMS)
    assert recognizer._terms[0][1] is not None
    assert "kubernetes" not in plain(listen(recognizer, clip(RARE)).text)
    assert recognizer._terms[0][1] is None


# --------------------------------------------------------------------------------------------------------------
# long speech


def breathless(vad: SileroVAD, *names: str) -> Samples:
    """Clips run together, their pauses cut out where the VAD hears none."""
    parts = []
    for name in names:
        hops = clip(name)[: len(clip(name)) // HOP * HOP].reshape(-1, HOP)
        state, active = vad.state(1), torch.tensor([True])
        with torch.inference_mode():
            speech = [float(vad.step(state, torch.from_numpy(hop)[None], active)) for hop in hops]
        voiced = [n for n, value in enumerate(speech) if value > 0.3]
        keep = sorted({m for n in voiced for m in range(n - 2, n + 3) if 0 <= m < len(hops)})
        parts.append(hops[keep].ravel())
    return np.concatenate(parts)


@pytest.mark.timeout(180)
def test_long_speech_without_a_pause_loses_and_doubles_nothing(weights: Weights) -> None:
    recognizer = weights.redecoder(rules=replace(Rules(), partial_ms=1920))
    names = [
        "best_of_times.wav",
        "season_of_light.wav",
        "before_us.wav",
        "quick_brown_fox.wav",
        "beckett.wav",
    ]
    audio = breathless(recognizer._listener._vad, *names)
    assert len(audio) > 25 * 16_000
    listener, longest = Listener(recognizer), 0
    for chunk in chunks(audio):
        listener.step({0: chunk})
        window = recognizer._windows[0]
        longest = max(longest, window.end - window.start)
    assert longest <= (Rules.window_ms + 1920 + 100) * 16  # a window, and what comes until the next decode
    heard = listener.finish(0)
    assert wrong(" ".join(TRANSCRIPTS[name] for name in names), heard.text) <= 0.06


# --------------------------------------------------------------------------------------------------------------
# what is not speech


def tone(seconds: float) -> Samples:
    return np.sin(np.arange(int(seconds * 16_000)) * 0.3).astype(np.float32)


@pytest.mark.parametrize("kind", ["silence", "offset", "square", "noise", "clipped"])
def test_what_is_not_speech_harms_nothing(recognizer: Redecoder, kind: str) -> None:
    count, random = 10 * 16_000, np.random.default_rng(5)
    audio = {
        "silence": np.zeros(count, np.float32),
        "offset": np.full(count, 0.9, np.float32),
        "square": np.sign(tone(10)),
        "noise": random.uniform(-1, 1, count).astype(np.float32),
        "clipped": np.clip(tone(10) * 100, -1, 1),
    }[kind]
    heard = listen(recognizer, audio)
    assert len(heard.speech) == count // HOP
    assert np.isfinite(heard.speech).all()
    assert len(heard.settled) <= 20
    if kind == "silence":
        assert not heard.settled
        assert not heard.partials
    window = recognizer._windows[0]
    assert len(window._audio) <= 16_000 * 30


def test_long_silence_is_forgotten_and_speech_after_it_heard(recognizer: Redecoder) -> None:
    audio = np.concatenate([np.zeros(20 * 16_000, np.float32), clip("quick_brown_fox.wav")])
    listener, longest = Listener(recognizer), 0
    for chunk in chunks(audio):
        listener.step({0: chunk})
        longest = max(longest, recognizer._windows[0].end - recognizer._windows[0].start)
    heard = listener.finish(0)
    assert wrong(TRANSCRIPTS["quick_brown_fox.wav"], heard.text) == 0.0
    assert heard.settled[0].start_ms >= 19_800  # the VAD takes a moment, and the first word may lie in it
    assert longest <= 5 * 16_000


def test_loud_clipped_speech_is_still_understood(recognizer: Redecoder) -> None:
    heard = listen(recognizer, np.clip(clip("quick_brown_fox.wav") * 20, -1, 1))
    assert wrong(TRANSCRIPTS["quick_brown_fox.wav"], heard.text) <= 0.25


# --------------------------------------------------------------------------------------------------------------
# a slot that fails; too much to do

MAGIC = 0.876543


class Fragile(Moonshine):
    """Breaks on audio that holds MAGIC."""

    def encode(self, audio: Tensor, samples: Tensor) -> Tensor:
        if bool((audio == torch.tensor(MAGIC, dtype=torch.float32)).any()):
            raise RuntimeError("cannot encode this")
        return super().encode(audio, samples)


def test_a_slot_that_cannot_be_decoded_fails_alone(weights: Weights, recognizer: Redecoder) -> None:
    fragile = weights.redecoder(Fragile)
    good, bad = clip("quick_brown_fox.wav"), clip("quick_brown_fox.wav").copy()
    bad[20_000] = MAGIC
    alone = listen(recognizer, good)
    listener = Listener(fragile)
    failures: list[int] = []
    for one, other in zip(chunks(good), chunks(bad), strict=True):
        results = listener.step({0: one, 2: other} if not failures else {0: one})
        failures += [slot for slot, result in enumerate(results) if result is not None and result.failed]
    assert failures == [2]
    assert listener.finish(0).settled == alone.settled
    listener.reset(2)  # and its slot serves the next
    for chunk in chunks(clip("hello_world.wav")):
        listener.step({2: chunk})
    assert plain(listener.finish(2).text) == "hello world"


def test_flushes_go_before_partials_when_there_is_too_much_to_do(weights: Weights) -> None:
    hurried = weights.redecoder(rules=replace(Rules(), budget_ms=1))  # one slot a step
    audio = clip("quick_brown_fox.wav")[: CHUNK * 30]
    listener = Listener(hurried)
    for chunk in chunks(audio):
        listener.step(dict.fromkeys(range(SLOTS), chunk))
    now_ms = len(audio) // 16
    served: list[int] = []
    chunk = clip("quick_brown_fox.wav")[CHUNK * 30 : CHUNK * 31]
    results = listener.step({0: chunk}, dict.fromkeys((1, 2), now_ms))
    while len(served) < 3:
        served += [slot for slot, news in enumerate(results) if news is not None and news.tail is not None]
        results = listener.step({0: chunk})
    assert sorted(served[:2]) == [1, 2]
    assert served[2] == 0  # and its partial is not forgotten
    assert listener.heard[1].flushes == listener.heard[2].flushes == [now_ms]
    for slot in (1, 2):
        assert wrong("the quick brown fox jumps over", listener.heard[slot].text) <= 0.35


def test_no_slot_starves(weights: Weights) -> None:
    hurried = weights.redecoder(rules=replace(Rules(), budget_ms=1))
    listener = Listener(hurried)
    for chunk in chunks(clip("quick_brown_fox.wav")):
        listener.step(dict.fromkeys(range(SLOTS), chunk))
    assert all(len(heard.partials) >= 2 for heard in listener.heard)
    for slot in range(SLOTS):
        assert wrong(TRANSCRIPTS["quick_brown_fox.wav"], listener.finish(slot).text) <= 0.12


def test_what_was_told_in_company_is_told_again_alone(weights: Weights) -> None:
    """Too many sessions for the budget: a replay is told how far each step went, and where it was held back."""
    audio = (clip("quick_brown_fox.wav") * 32767).astype(np.int16)
    hurried = weights.redecoder(rules=replace(Rules(), budget_ms=1))
    first, strides = through(hurried, audio, [None] * SLOTS)
    assert any(stride & HELD for stride in strides)
    again, _ = through(weights.redecoder(), audio, [strides])
    assert again == first


def through(
    recognizer: Redecoder, audio: NDArray[np.int16], sessions: Sequence[bytes | None]
) -> tuple[list[object], bytes]:
    """What the last of these sessions (a replay, where it has strides) was told of its words; its steps' strides."""
    slots, names = Slots(recognizer.spec), [str(number) for number in range(len(sessions))]
    for name, strides in zip(names, sessions, strict=True):
        slots.seat(name, 1, 0, SlotOptions(), strides=strides)
    told, taken, at = list[object](), bytearray(), 0
    while at < len(audio) or recognizer.behind or slots.replaying:
        for name in names:
            slots.feed(name, audio[at : at + 2 * CHUNK])
        at += 2 * CHUNK
        while (plan := slots.plan(recognizer.behind)) is not None:
            count = int(plan.batch.samples[len(names) - 1])
            for name, _, news in slots.deliver(plan, recognizer.step(plan.batch)):
                if name == names[-1]:
                    taken.append(count // CHUNK | (HELD if news.held else 0))
                    told += [(news.settled, news.tail, news.heard_ms)] if news.tail is not None else []
            if at < len(audio):  # as on a machine that has no time for more steps
                break
    return told, bytes(taken)


def test_slots_that_race_ahead_take_no_turn_from_one_in_real_time(weights: Weights) -> None:
    rules = replace(Rules(), budget_ms=1, window_ms=3_000, keep_ms=1_000, limit_ms=4_000)  # one slot a step
    ahead = 8 * CHUNK
    listener = Listener(weights.redecoder(rules=rules), ahead)
    audio = clip("quick_brown_fox.wav")
    racing = np.tile(audio[CHUNK * 8 : CHUNK * 30], 12)  # without a pause
    news = []
    for number, chunk in enumerate(list(chunks(audio))[:26]):
        piece = racing[number * ahead :][:ahead]
        results = listener.step({0: chunk, 1: piece, 2: piece})
        if results[0] is not None and results[0].tail is not None:
            news.append(number)
    assert len(news) >= 3
    assert max(np.diff(news)) <= Rules.partial_ms * 16 // CHUNK + SLOTS, news


def test_a_partial_is_not_kept_waiting_by_pauses_for_ever(weights: Weights) -> None:
    recognizer = weights.redecoder(rules=replace(Rules(), budget_ms=1))
    line = [_Due(0, 2, 5_000, 5_000), _Due(1, 1, 16_000, 16_000), _Due(2, 0, 0, 1_000)]
    recognizer._due_since = {0: 0, 1: 3, 2: 4}
    for steps, order in ((5, [2, 1, 0]), (OVERDUE_STEPS - 1, [2, 1, 0]), (OVERDUE_STEPS, [2, 0, 1])):
        recognizer._steps = steps
        assert [item.slot for item in sorted(line, key=recognizer._urgency)] == order


def test_what_found_no_room_is_done_without_new_audio(weights: Weights) -> None:
    hurried = weights.redecoder(rules=replace(Rules(), budget_ms=1))
    listener = Listener(hurried)
    for chunk in chunks(clip("quick_brown_fox.wav")[: CHUNK * 20]):
        listener.step(dict.fromkeys(range(SLOTS), chunk))
    for _ in range(SLOTS):
        if hurried.behind:
            listener.step({})
    assert not hurried.behind
    newest = [heard.partials[-1][0] for heard in listener.heard]
    assert all(heard_ms >= listener.fed[0] // 16 - Rules.partial_ms for heard_ms in newest)


def test_the_last_sound_is_heard_to_its_end(recognizer: Redecoder) -> None:
    """However a partial falls: one that ends just where the speech does would miss «ten»."""
    audio = clip("counting.wav")
    for lead in range(0, 480, 96):
        heard = listen(recognizer, np.concatenate([np.zeros(lead * 16, np.float32), audio]))
        assert plain(heard.text).endswith("nine ten")


def test_a_deaf_threshold_hears_nothing(recognizer: Redecoder) -> None:
    listener, options = Listener(recognizer), {0: SlotOptions(vad_threshold=1.0)}
    for chunk in chunks(clip("hello_world.wav")):
        listener.step({0: chunk}, options=options)
        options = {}
    assert listener.finish(0).settled == []
    assert max(listener.heard[0].speech) > 0.5  # observations are told as they are


# --------------------------------------------------------------------------------------------------------------
# the end of a turn


def words(*texts: str) -> Sequence[Word]:
    return [Word(text, 100 * n, 100 * n + 50, 0.8) for n, text in enumerate(texts)]


def test_belief_that_the_turn_is_over_asks_for_a_closed_sentence() -> None:
    assert end_of_turn([], 1.0) == 0.0
    assert end_of_turn(words("Yes."), 1.0) == pytest.approx(0.8)
    assert end_of_turn(words("Really?"), 0.5) == pytest.approx(0.4)
    assert end_of_turn(words("好。"), 1.0) == end_of_turn(words("है।"), 1.0) == pytest.approx(0.8)
    assert end_of_turn(words("and", "then"), 1.0) == pytest.approx(0.1)


def test_warming_up_leaves_no_trace(recognizer: Redecoder) -> None:
    before = listen(recognizer, clip("hello_world.wav")).settled
    recognizer.warm_up()
    assert listen(recognizer, clip("hello_world.wav")).settled == before


# --------------------------------------------------------------------------------------------------------------
# decodes that went wrong, windows that are too long


class Short(Moonshine):
    """Takes four seconds at most."""

    max_samples = 4 * 16_000

    def encode(self, audio: Tensor, samples: Tensor) -> Tensor:
        assert audio.shape[1] <= self.max_samples
        return super().encode(audio, samples)


def test_what_is_longer_than_the_model_takes_is_heard_in_pieces(weights: Weights) -> None:
    rules = replace(Rules(), window_ms=2_000, keep_ms=500, limit_ms=3_000, context_ms=0)
    recognizer, audio = weights.redecoder(Short, rules), clip("season_of_light.wav")
    rows = np.zeros((SLOTS, len(audio)), np.float32)
    rows[1] = audio
    one = np.arange(SLOTS) == 1
    flush = np.where(one, len(audio) // 16, NO_FLUSH)
    batch = Batch(rows, np.where(one, len(audio), 0), one, np.zeros(SLOTS, np.int64), flush)
    settled, nothing = list[Word](), np.zeros(SLOTS, np.int64)
    for _ in range(40):
        news = recognizer.step(batch)[1]
        if news is not None:
            settled += news.settled
            if news.flushed_ms is not None:
                break
        quiet = np.full(SLOTS, NO_FLUSH)
        batch = Batch(np.zeros((SLOTS, CHUNK), np.float32), nothing, one & ~one, nothing, quiet)
    else:
        raise AssertionError("the flush was never answered")
    found = plain(join([word.text for word in settled])).split()
    places = [found.index(said) for said in ("light", "darkness", "hope", "winter", "despair")]
    assert places == sorted(places)


def transcript(probability: float, silence: float = 0.0, end: float = 1.0) -> Transcript:
    tokens = [*range(10), *range(10)]
    attention = np.zeros((22, 4), np.float32)  # two tokens stood before
    opening = Opening((1,), silence=silence)
    return Transcript(tokens, np.full(20, probability, np.float32), attention, end, opening)


def test_words_that_the_model_hardly_believes_are_noise(weights: Weights) -> None:
    recognizer = weights.redecoder(rules=replace(Rules(), silence=0.4, doubt=0.3, nonsense=0.1))
    noise = {(p, s): recognizer._is_noise(transcript(p, s)) for p in (0.05, 0.2, 0.9) for s in (0.1, 0.8)}
    assert [pair for pair, is_noise in noise.items() if is_noise] == [(0.05, 0.1), (0.05, 0.8), (0.2, 0.8)]
    assert not weights.redecoder()._is_noise(transcript(0.01, 0.99))  # Moonshine tells no silence: not asked


def test_a_decode_without_an_end_is_cut_where_it_repeats_itself() -> None:
    cut = _cut_short(transcript(0.5, end=0.0))
    assert cut.tokens == list(range(10))
    assert len(cut.probabilities) == 10
    assert len(cut.attention) == 12
    whole = replace(transcript(0.5), tokens=list(range(20)))
    assert _cut_short(whole) is whole
