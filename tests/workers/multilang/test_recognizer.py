"""What the multilang pool builds out of a checkpoint: languages, scripts; nothing out of noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from numpy.typing import NDArray

from cli.bench_names import OTHERS
from tests.hearing import Told, told
from tests.noises import every
from tests.spoken import LANGUAGES, clip
from workers import checkpoints, int8
from workers.multilang.recognizer import RULES, build
from workers.recognizer import SlotOptions
from workers.redecode import CHUNK_SAMPLES, Redecoder
from workers.turns import TurnRules
from workers.vad import HOP

DATA = Path(__file__).parents[2] / "data"
pytestmark = [pytest.mark.weights, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def recognizer(whisper_base: dict[str, Any]) -> Redecoder:
    built_once = built(whisper_base, slots=8, precision="auto")
    built_once.warm_up()
    return built_once


def built(whisper_base: dict[str, Any], **options: Any) -> Redecoder:
    return build(**whisper_base, **{"name": "base", "licence": "MIT", "slots": 2, **options})


def padded(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """With silence before and after, as a session has it."""
    return np.concatenate([np.zeros(8_000, np.float32), sound, np.zeros(24_000, np.float32)])


def english(name: str) -> NDArray[np.float32]:
    return padded(soundfile.read(DATA / name, dtype="float32")[0])


def heard(recognizer: Redecoder, sound: NDArray[np.float32], **options: Any) -> Told:
    return told(recognizer, {"it": sound}, options={"it": SlotOptions(**options)})["it"]


# --- what it is -----------------------------------------------------------------------------------------------------


def test_it_is_what_it_was_asked_to_be(whisper_base: dict[str, Any]) -> None:
    recognizer = built(whisper_base, slots=5, partial_ms=700)
    spec = recognizer.spec
    assert (spec.model, spec.licence, spec.slots, spec.sample_rate) == ("base", "MIT", 5, 16_000)
    assert len(spec.languages) == 99
    assert {"en", "fr", "ja", "haw"} <= set(spec.languages)
    assert (spec.chunk_samples, spec.hop_ms) == (CHUNK_SAMPLES, 32) == (2 * HOP, 32)
    assert recognizer.rules.partial_ms == 700
    assert built(whisper_base).rules == RULES


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_it_understands_speech_in_every_precision(whisper_base: dict[str, Any], precision: str) -> None:
    if precision == "int8" and not int8.supported():
        pytest.skip("this processor has no exact 8-bit products")
    found = heard(built(whisper_base, precision=precision), english("quick_brown_fox.wav"))
    assert found.text == "the quick brown fox jumps over the lazy dog"
    assert found.languages[-1][0] == "en"
    assert found.languages[-1][1] > 0.9
    assert found.partials


def test_a_folder_in_the_hubs_layout_is_the_same(whisper_base: dict[str, Any], tmp_path: Path) -> None:
    """Config, tokens and tokenizer as `save_pretrained` leaves them: in three files, with the published names."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    theirs = WhisperForConditionalGeneration(WhisperConfig(**whisper_base["config"]))
    theirs.load_state_dict(
        {name: value.float() for name, value in whisper_base["weights"].items()}, strict=False
    )
    theirs.tie_weights()
    keys = ("lang_to_id", "task_to_id", "no_timestamps_token_id", "alignment_heads", "prev_sot_token_id")
    theirs.generation_config = GenerationConfig(**{key: whisper_base["config"][key] for key in keys})
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(
        (checkpoints.locate("whisper-base") / "tokenizer.json").read_bytes()
    )
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert "model.encoder.conv1.weight" in saved
    config, weights = checkpoints.load(checkpoints.locate(str(tmp_path)))
    pieces = checkpoints.pieces(tmp_path)
    loaded = build(config, weights, whisper_base["vad_weights"], pieces, name="mine", licence="?", slots=1)
    assert heard(loaded, english("hello_world.wav")).text == "hello world"


@pytest.mark.parametrize(
    "fault, error",
    [
        ({"config": {"activation_function": "relu"}}, ValueError),
        ({"config": {"lang_to_id": None}}, ValueError),
        ({"weights": {}}, RuntimeError),
        ({"weights": {"model.decoder.layers.0.encoder_attn.k_proj.weight": torch.zeros(1)}}, KeyError),
        ({"vad_weights": {"conv": torch.zeros(1)}}, KeyError),
    ],
)
def test_another_architecture_is_refused(
    whisper_base: dict[str, Any], fault: dict[str, Any], error: type[Exception]
) -> None:
    broken = {**whisper_base, **fault}
    if "config" in fault:
        broken["config"] = {**whisper_base["config"], **fault["config"]}
    with pytest.raises(error):
        built(broken)


# --- languages ------------------------------------------------------------------------------------------------------


def test_each_turn_has_its_own_language(recognizer: Redecoder) -> None:
    pause = np.zeros(32_000, np.float32)
    clips = [
        english("quick_brown_fox.wav"),
        clip("zh", "pangrama")[0],
        pause,
        clip("pt", "pangrama")[0],
        pause,
    ]
    found = heard(recognizer, np.concatenate(clips))
    assert len(found.finals) == 3
    assert list(dict.fromkeys(code for code, _ in found.languages if code in {"en", "zh", "pt"})) == [
        "en",
        "zh",
        "pt",
    ]
    assert "fox" in found.finals[0].transcript
    assert "天" in found.finals[1].transcript
    assert "cachorro" in found.finals[2].transcript


def test_a_language_that_is_given_is_not_looked_for(recognizer: Redecoder) -> None:
    sound = padded(clip("it", "ciao_mondo")[0])  # alone it is taken for Spanish
    found = heard(recognizer, sound, language="it")
    assert {code for code, _ in found.languages} == {"it"}
    assert "mondo" in found.text


def test_candidates_bound_what_may_be_heard(recognizer: Redecoder) -> None:
    found = heard(recognizer, padded(clip("it", "ciao_mondo")[0]), languages=("it", "en", "de"))
    assert {code for code, _ in found.languages} <= {"it", "en", "de"}
    assert found.languages[-1][0] == "it"


def test_words_of_a_script_without_spaces_have_times_of_their_own(recognizer: Redecoder) -> None:
    found = heard(recognizer, padded(clip("zh", "pangrama")[0]))
    words = [word for turn in found.finals for word in turn.words]
    assert len(words) > 6
    assert max(len(word.text) for word in words) <= 6
    assert all(0 < word.end - word.start < 1_500 for word in words)
    assert "".join(word.text for word in words).startswith("天地")


def test_neighbours_do_not_matter(recognizer: Redecoder) -> None:
    clips = {code: padded(clip(code, LANGUAGES[code][0])[0]) for code in ("en", "fr", "ja", "pt")}
    together = told(recognizer, clips)
    for code in ("fr", "ja"):
        assert heard(recognizer, clips[code]).text == together[code].text


@pytest.mark.parametrize("seed", range(2))
def test_a_crowd_in_a_hurry_loses_no_word(recognizer: Redecoder, seed: int) -> None:
    names = ["quick_brown_fox.wav", "beckett.wav", "hello_world.wav", "before_us.wav"]
    for name, found in told(recognizer, {name: english(name) for name in names}, seed).items():
        alone = heard(recognizer, english(name))
        assert abs(len(found.text.split()) - len(alone.text.split())) <= 2, name


# --- what is no speech ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.4, 0.05])
def test_silence_noise_and_music_give_no_turn(recognizer: Redecoder, threshold: float) -> None:
    """A minute of each; with a threshold that lets most of the VAD's doubts through, the model's own have to do."""
    sounds = every(60.0 if threshold == 0.4 else 20.0)
    rules, options = TurnRules(vad_threshold=threshold), SlotOptions(vad_threshold=threshold)
    names = list(sounds)
    for start in range(0, len(names), 8):
        some = {name: sounds[name] for name in names[start : start + 8]}
        for name, found in told(recognizer, some, options=dict.fromkeys(some, options), rules=rules).items():
            assert (found.finals, found.partials) == ([], []), name


# --- key terms ------------------------------------------------------------------------------------------------------


def test_key_terms_that_are_missed_without_are_found_with(recognizer: Redecoder) -> None:
    """In a voice of espeak-ng, base hears "Cuba neat sun the proc smacks cluster"."""
    terms = ("Kubernetes", "Proxmox", *OTHERS[:98])
    without = heard(recognizer, english("kubernetes.wav"), language="en").text
    assert "kubernetes" not in without
    assert "proxmox" not in without
    assert (
        "proxmox cluster" in heard(recognizer, english("kubernetes.wav"), language="en", keyterms=terms).text
    )


@pytest.mark.parametrize("name", ["quick_brown_fox.wav", "season_of_light.wav"])
def test_a_hundred_terms_that_nobody_says_change_nothing(recognizer: Redecoder, name: str) -> None:
    without = heard(recognizer, english(name), language="en").text
    assert heard(recognizer, english(name), language="en", keyterms=OTHERS).text == without


@pytest.mark.parametrize("threshold", [0.4, 0.05])
def test_of_silence_noise_and_music_no_term_is_made(recognizer: Redecoder, threshold: float) -> None:
    sounds = every(15.0)
    rules = TurnRules(vad_threshold=threshold)
    options = SlotOptions(vad_threshold=threshold, language="en", keyterms=OTHERS)
    names = list(sounds)
    for start in range(0, len(names), 8):
        some = {name: sounds[name] for name in names[start : start + 8]}
        for name, found in told(recognizer, some, options=dict.fromkeys(some, options), rules=rules).items():
            assert (found.finals, found.partials) == ([], []), name
