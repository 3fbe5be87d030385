"""What the u3pro pool builds out of a checkpoint: whole turns, early words, context that helps and invents nothing."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tests.hearing import Told, told
from tests.noises import every
from tests.spoken import character_error_rate, clip
from wire.params import parse_query
from workers.recognizer import NO_FLUSH, Batch, SlotOptions
from workers.redecode import CHUNK_SAMPLES, RETRY_MS, Redecoder
from workers.turns import TurnRules
from workers.u3pro.recognizer import RULES, build
from workers.vad import HOP

DATA = Path(__file__).parents[2] / "data"
TRANSCRIPTS: dict[str, str] = json.loads((DATA / "transcripts.json").read_text())
pytestmark = [pytest.mark.weights, pytest.mark.timeout(180)]
#: As `workers/seat.py` has it for the defaults of the family.
OPTIONS = SlotOptions(vad_threshold=0.2, first_ms=756, previous_turns=5)
Sound = NDArray[np.float32]


@pytest.fixture(scope="module")
def recognizer(whisper_base: dict[str, Any]) -> Redecoder:
    built = build(**whisper_base, name="base", licence="MIT", slots=8, precision="auto")
    built.warm_up()
    return built


def rules(mode: str = "balanced", **asked: object) -> TurnRules:
    query = [("speech_model", "universal-3-5-pro"), ("mode", mode), *((k, str(v)) for k, v in asked.items())]
    return TurnRules.of(parse_query(query).for_worker())


def sound(*names: str) -> Sound:
    gap = np.zeros(24_000, np.float32)
    read = [soundfile.read(DATA / name, dtype="float32")[0] for name in names]
    return padded(np.concatenate([part for piece in read for part in (piece, gap)]))


def padded(samples: Sound) -> Sound:
    return np.concatenate([np.zeros(8_000, np.float32), samples, np.zeros(40_000, np.float32)])


def heard(recognizer: Redecoder, samples: Sound, turns: TurnRules | None = None, **options: Any) -> Told:
    asked = {"it": replace(OPTIONS, **options)}
    return told(recognizer, {"it": samples}, options=asked, rules=turns or rules())["it"]


def rate(found: Told, *names: str) -> float:
    return character_error_rate(" ".join(TRANSCRIPTS[name] for name in names), found.text)


def test_it_is_what_it_was_asked_to_be(whisper_base: dict[str, Any]) -> None:
    recognizer = build(**whisper_base, name="base", licence="MIT", slots=5, partial_ms=700)
    spec = recognizer.spec
    assert (spec.model, spec.licence, spec.slots, spec.sample_rate) == ("base", "MIT", 5, 16_000)
    assert (spec.chunk_samples, spec.hop_ms) == (CHUNK_SAMPLES, 32) == (2 * HOP, 32)
    assert recognizer.rules == replace(RULES, partial_ms=700)


def test_another_architecture_is_refused(whisper_base: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a multilingual Whisper"):
        build(
            **whisper_base | {"config": {**whisper_base["config"], "lang_to_id": None}},
            name="x",
            licence="?",
            slots=1,
        )


def test_partials_rewrite_the_turn_and_the_final_has_it_whole(recognizer: Redecoder) -> None:
    found = heard(recognizer, sound("before_us.wav"))
    assert rate(found, "before_us.wav") < 0.02
    assert all(turn.turn_is_formatted and turn.end_of_turn_confidence == 1 for turn in found.finals)
    for turn in found.partials:
        assert turn.transcript
        assert not any(word.word_is_final for word in turn.words)


def test_a_turn_longer_than_the_window_is_stitched_without_a_seam(recognizer: Redecoder) -> None:
    names = ("best_of_times.wav", "season_of_light.wav", "before_us.wav")
    found = heard(recognizer, sound(*names), rules(min_turn_silence=4_000, max_turn_silence=4_000))
    [turn] = found.finals
    assert turn.words[-1].end - turn.words[0].start > 1.5 * RULES.window_ms
    assert rate(found, *names) < 0.02


@pytest.mark.parametrize("delay_ms, tries", [(0, 2), (500, 1)])
def test_the_first_words_come_after_the_delay_and_a_little_speech(
    recognizer: Redecoder, delay_ms: int, tries: int
) -> None:
    """How far the first partial has listened, in audio time; what it takes beside that, `steno bench` measures."""
    samples, onset_ms = sound("quick_brown_fox.wav"), None
    slots, at_ms = recognizer.spec.slots, []
    audio = np.zeros((slots, CHUNK_SAMPLES), np.float32)
    for place in range(0, len(samples) - CHUNK_SAMPLES, CHUNK_SAMPLES):
        audio[0] = samples[place : place + CHUNK_SAMPLES]
        fresh = np.arange(slots) < (1 if place == 0 else 0)
        count = np.where(np.arange(slots) == 0, CHUNK_SAMPLES, 0)
        options = {0: replace(OPTIONS, first_ms=delay_ms + 256)} if place == 0 else {}
        never = np.full(slots, NO_FLUSH, np.int64)
        [news, *_] = recognizer.step(Batch(audio, count, fresh, np.zeros(slots, np.int64), never, options))
        if news is None:
            continue
        for hop in news.observations:
            onset_ms = hop.at_ms - 32 if onset_ms is None and hop.speech >= 0.2 else onset_ms
        if news.tail:
            at_ms.append(news.heard_ms)
    assert onset_ms is not None
    assert delay_ms + 256 <= at_ms[0] - onset_ms <= delay_ms + 256 + 64 + RETRY_MS * (tries - 1)
    assert all(900 <= later - earlier <= 1_100 for earlier, later in pairwise(at_ms[:-1]))


def test_a_prompt_teaches_a_spelling(recognizer: Redecoder) -> None:
    samples = sound("counting.wav")
    assert heard(recognizer, samples, language="en").text.startswith("1")
    led = heard(recognizer, samples, language="en", prompt="We count: one, two, three.")
    assert led.text.lower().replace(",", "").strip(".") == "one two three four five six seven eight nine ten"


def test_turns_before_help_and_are_not_said_again(recognizer: Redecoder) -> None:
    """Without them "spring" was heard as "string"; with them, and no guard, "No matter." came twice."""
    names = ("best_of_times.wav", "season_of_light.wav", "before_us.wav")
    assert rate(heard(recognizer, sound(*names)), *names) < 0.01
    found = heard(recognizer, sound("beckett.wav"))
    assert [turn.transcript for turn in found.finals] == [
        *("Ever tried.", "Ever failed.", "No matter.", "Try again.", "Fail again.", "Fail better.")
    ]


def test_languages_may_change_between_turns_in_spite_of_what_was_said(recognizer: Redecoder) -> None:
    gap = np.zeros(24_000, np.float32)
    clips = [clip(code, "pangrama")[0] for code in ("pt", "zh", "fr")]
    samples = padded(np.concatenate([part for one in clips for part in (one, gap)]))
    found = heard(recognizer, samples, rules(language_detection="true", max_turn_silence=600))
    assert [turn.language_code for turn in found.finals] == ["pt", "zh", "fr"]
    assert "whisky" in found.finals[-1].transcript


def test_two_words_in_another_language_are_heard_in_it(recognizer: Redecoder) -> None:
    """After an English turn, «hola mundo» was "The world.", or was taken for noise and gave no turn at all."""
    hola = clip("es", "hola_mundo")[0]
    samples = np.concatenate([sound("quick_brown_fox.wav")[:-16_000], padded(hola)])
    found = heard(recognizer, samples, rules(max_turn_silence=600, language_detection="true"))
    assert [turn.language_code for turn in found.finals] == ["en", "es"]
    assert "mundo" in found.finals[-1].transcript


@pytest.mark.parametrize("threshold", [0.2, 0.05])
def test_nothing_is_said_in_noise_whatever_the_context(recognizer: Redecoder, threshold: float) -> None:
    """The family's own threshold is low; with a lower one, the model's own doubts have to do."""
    said = tuple(("en", TRANSCRIPTS[name]) for name in ("beckett.wav", "before_us.wav"))
    memory = {"model": "", "said": said, "before": "en", "cut_ms": 0}
    context = {"prompt": "A call to the bank.", "agent_context": "Who is it?", "memory": memory}
    options = replace(OPTIONS, vad_threshold=threshold, **context)  # type: ignore[arg-type]
    sounds = every(20.0)
    names = list(sounds)
    for start in range(0, len(names), 8):
        some = {name: sounds[name] for name in names[start : start + 8]}
        turns = rules(vad_threshold=threshold)
        for name, found in told(recognizer, some, options=dict.fromkeys(some, options), rules=turns).items():
            assert (found.finals, found.partials) == ([], []), name
