"""Our Whisper against the library's, with the same weights: features in, tokens out."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor
from transformers import GenerationConfig, WhisperForConditionalGeneration
from transformers import WhisperConfig as TheirConfig

from workers import checkpoints, int8
from workers.drafting import Task, transcribe
from workers.features import SAMPLES_PER_FRAME
from workers.models.decoder import Hint
from workers.models.whisper import FINAL_MARGIN_S, MARGIN_S, Whisper, WhisperConfig, fused

DATA = Path(__file__).parents[2] / "data"
SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "num_mel_bins": 80,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 80,
    "max_source_positions": 200,
    "max_target_positions": 64,
    "eos_token_id": 50,
    "bos_token_id": 50,
    "pad_token_id": 50,
    "decoder_start_token_id": 51,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
TOKENS: dict[str, Any] = {
    "lang_to_id": {"<|en|>": 52, "<|de|>": 53},
    "task_to_id": {"transcribe": 55, "translate": 54},
    "prev_sot_token_id": 56,
    "no_timestamps_token_id": 58,
    "suppress_tokens": [3, 4],
    "begin_suppress_tokens": [5, 50],
    "alignment_heads": [[0, 1], [2, 3]],
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same weights in our module and in the library's."""

    ours: Whisper
    theirs: WhisperForConditionalGeneration


def pair(config: dict[str, Any], state: dict[str, Tensor] | None) -> Pair:
    theirs = WhisperForConditionalGeneration(TheirConfig(**config)).eval()
    if state is None:
        generator = torch.Generator().manual_seed(7)
        for weight in theirs.parameters():
            mean, spread = (0.0, 0.15) if weight.dim() > 1 else (1.0, 0.1)
            weight.data.normal_(mean, spread, generator=generator)
        theirs.tie_weights()
    else:
        missing, unexpected = theirs.load_state_dict(state, strict=False)
        assert (missing, unexpected) == (["proj_out.weight"], [])
        theirs.tie_weights()
    theirs.generation_config = GenerationConfig(is_multilingual=True, **config)
    ours = Whisper(WhisperConfig.from_dict(config)).eval()
    ours.load_state_dict(fused(theirs.state_dict()))
    return Pair(ours, theirs)


@pytest.fixture(scope="module")
def small() -> Pair:
    return pair({**SMALL, **TOKENS, "model_type": "whisper"}, None)


@pytest.fixture(scope="module")
def real() -> Pair:
    config, state = checkpoints.load(checkpoints.fetch("whisper-base"))
    return pair(config, {name: value.float() for name, value in state.items()})


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def speech(name: str) -> Tensor:
    return torch.from_numpy(soundfile.read(DATA / name, dtype="float32")[0])


def noise(samples: int, seed: int = 1) -> Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def tokens(rows: int, length: int, vocabulary: int = 50) -> Tensor:
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(3))


def assert_same(ours: Tensor, expected: Tensor, within: float = 2e-5) -> None:
    torch.testing.assert_close(ours, expected, atol=within, rtol=0.0)


def whole(model: Whisper, rows: list[Tensor], text: Tensor) -> Tensor:
    """Logits of all positions in one pass."""
    heard = model.listen(rows, [False] * len(rows))
    positions = torch.arange(text.shape[1]).expand(len(text), -1)
    cross = model.cross(heard.states, heard.count)
    return model.logits(model.decode(text, positions, model.cache(len(text), 64), cross)[0])


def thirty_seconds(model: Whisper, audio: Tensor) -> Tensor:
    """Features of the window that the library insists on."""
    limit = model.config.max_source_positions * SAMPLES_PER_FRAME
    return model.features(torch.nn.functional.pad(audio, (0, limit - len(audio)))[None])


# --- the same as the library's --------------------------------------------------------------------------------------


def test_a_small_model_is_the_librarys(small: Pair) -> None:
    limit = small.ours.config.max_source_positions * SAMPLES_PER_FRAME
    audio, text = noise(limit), tokens(1, 9)
    expected = small.theirs(small.ours.features(audio[None]), decoder_input_ids=text).logits
    assert_same(whole(small.ours, [audio], text), expected, 1e-4)


@pytest.mark.weights
def test_the_real_model_is_the_librarys(real: Pair) -> None:
    audio = speech("quick_brown_fox.wav")
    features, text = thirty_seconds(real.ours, audio), tokens(1, 12, 50_000)
    theirs = real.theirs(features, decoder_input_ids=text).logits
    cross = real.ours.cross(real.ours.encoder(features))
    hidden, _ = real.ours.decode(text, torch.arange(12)[None], real.ours.cache(1, 12), cross)
    assert theirs.abs().max() > 5  # so that 1e-3 says something
    assert_same(real.ours.logits(hidden), theirs, 1e-3)


@pytest.mark.weights
@pytest.mark.parametrize("name", ["quick_brown_fox.wav", "beckett.wav", "counting.wav"])
def test_greedy_tokens_are_the_librarys(real: Pair, name: str) -> None:
    """With the margin as long as the library's window: silence up to 30 s."""
    audio = speech(name)
    padded = torch.nn.functional.pad(audio, (0, 480_000 - len(audio)))
    [found] = transcribe(real.ours, [Task(padded, hint=Hint("en"))])
    features = thirty_seconds(real.ours, audio)
    given = real.theirs.generate(features, language="en", task="transcribe", do_sample=False, num_beams=1)
    theirs = [token for token in given[0].tolist() if token < real.ours.config.end]
    assert len(theirs) > 8
    assert found.tokens == theirs


@pytest.mark.weights
def test_alignment_is_the_librarys_cross_attention(real: Pair) -> None:
    audio, text = speech("quick_brown_fox.wav"), tokens(1, 6, 50_000)
    features = thirty_seconds(real.ours, audio)
    real.theirs.set_attn_implementation("eager")
    outputs = real.theirs(features, decoder_input_ids=text, output_attentions=True)
    heads = real.ours.config.alignment_heads
    expected = sum(outputs.cross_attentions[layer][:, head] for layer, head in heads)
    cross = real.ours.cross(real.ours.encoder(features))
    _, attention = real.ours.decode(text, torch.arange(6)[None], real.ours.cache(1, 8), cross, True)
    assert isinstance(expected, Tensor)
    assert attention is not None
    assert_same(attention, expected, 1e-4)


# --- openings -------------------------------------------------------------------------------------------------------


@pytest.mark.weights
def test_the_language_is_heard(real: Pair) -> None:
    heard = real.ours.listen([speech("beckett.wav"), speech("counting.wav")], [False, False])
    cross = real.ours.cross(heard.states, heard.count)
    english, known = real.ours.open([Hint(), Hint("de")], cross)
    c = real.ours.config
    assert english.tokens == (c.start, c.languages["en"], c.transcribe, c.no_timestamps)
    assert english.language == next(iter(english.languages)) == "en"
    assert english.languages["en"] > 0.9
    assert sum(english.languages.values()) == pytest.approx(1.0)
    assert len(english.languages) == 99
    assert english.silence < 0.2
    assert (known.language, known.languages, known.silence) == ("de", {}, 0.0)
    assert known.tokens[1] == c.languages["de"]


@pytest.mark.weights
def test_candidates_bound_the_choice(real: Pair) -> None:
    heard = real.ours.listen([speech("beckett.wav")] * 3, [False] * 3)
    cross = real.ours.cross(heard.states, heard.count)
    hints = [Hint(among=("fr", "de", "xx")), Hint("it", ask=True), Hint(language="xx", among=("xx",))]
    some, told, unknown = real.ours.open(hints, cross)
    assert set(some.languages) == {"fr", "de"}
    assert some.language in {"fr", "de"}
    assert told.language == "it"  # given, though something else is heard
    assert next(iter(told.languages)) == "en"
    assert unknown.language == "en"  # a code that the model does not know is no help


@pytest.mark.weights
def test_silence_is_likelier_where_nobody_speaks(real: Pair) -> None:
    heard = real.ours.listen([speech("beckett.wav"), torch.zeros(48_000)], [False, False])
    spoken, silent = real.ours.open([Hint(), Hint()], real.ours.cross(heard.states, heard.count))
    assert silent.silence > 0.3 > spoken.silence


def test_what_was_said_before_stands_in_front(small: Pair) -> None:
    heard = small.ours.listen([noise(8_000)], [False])
    cross, c = small.ours.cross(heard.states, heard.count), small.ours.config
    [opening] = small.ours.open([Hint("de", before=tuple(range(40)))], cross)
    assert opening.tokens[0] == c.before
    assert opening.tokens[1:32] == tuple(range(9, 40))  # the newest of it, as much as half of the room holds
    assert opening.tokens[32:] == (c.start, 53, c.transcribe, c.no_timestamps)


def test_what_is_never_said_has_no_score(small: Pair) -> None:
    scores = small.ours.scores(torch.ones(2, 48), torch.tensor([True, False]))
    silent = [[place for place, score in enumerate(row.tolist()) if score == -torch.inf] for row in scores]
    assert silent == [[3, 4, 5, *range(51, 60)], [3, 4, *range(51, 60)]]  # the end may be said at once


# --- batched == alone, cached == whole ------------------------------------------------------------------------------

LENGTHS = (30_000, 300, 12_345, 29_999)


def test_each_row_is_heard_as_if_alone(small: Pair) -> None:
    rows = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    final = [False, True, False, True]
    together = small.ours.listen(rows, final)
    for row, audio in enumerate(rows):
        alone = small.ours.listen([audio], [final[row]])
        own = int(together.count[row])
        margin = FINAL_MARGIN_S if final[row] else MARGIN_S
        wanted = min(200, -(-(len(audio) + margin * 16_000) // SAMPLES_PER_FRAME))  # 200 positions
        assert own == int(alone.count) == wanted
        assert int(together.spoken[row]) == -(-len(audio) // SAMPLES_PER_FRAME)
        assert_same(together.states[row, :own], alone.states[0])


@pytest.mark.weights
def test_company_changes_no_bit_of_what_is_heard(real: Pair) -> None:
    """Rounding differs with the size of a product, and 8-bit layers turn the last bit into other words."""
    rows = [speech(name)[:21_440] for name in ("beckett.wav", "quick_brown_fox.wav", "counting.wav")]
    together, alone = real.ours.listen(rows, [False] * 3), real.ours.listen(rows[:1], [False])
    assert torch.equal(together.states[0], alone.states[0])


def test_each_row_is_decoded_as_if_alone(small: Pair) -> None:
    rows, text = [noise(length, seed) for seed, length in enumerate(LENGTHS)], tokens(4, 7)
    together = whole(small.ours, rows, text)
    for row, audio in enumerate(rows):
        assert_same(together[row], whole(small.ours, [audio], text[row : row + 1])[0])


def test_one_token_at_a_time_is_the_whole(small: Pair) -> None:
    rows, text = [noise(20_000), noise(9_000, 2)], tokens(2, 12)
    heard, cache = small.ours.listen(rows, [False, False]), small.ours.cache(2, 12)
    cross = small.ours.cross(heard.states, heard.count)
    steps = [small.ours.decode(text[:, i : i + 1], torch.full((2, 1), i), cache, cross)[0] for i in range(12)]
    assert_same(small.ours.logits(torch.cat(steps, 1)), whole(small.ours, rows, text))


@pytest.mark.weights
def test_yesterdays_words_as_a_draft_change_no_token(real: Pair) -> None:
    audio = speech("beckett.wav")
    draft: tuple[int, ...] = (50, 60, 70)
    for length in (24_000, 48_000, 96_000, len(audio)):
        plain, drafted = transcribe(
            real.ours,
            [Task(audio[:length], hint=Hint("en")), Task(audio[:length], draft=draft, hint=Hint("en"))],
        )
        assert plain.tokens == drafted.tokens
        assert drafted.attention.shape == (len(drafted.tokens), -(-length // SAMPLES_PER_FRAME))
        draft = tuple(drafted.tokens)
    assert len(draft) > 15


@pytest.mark.weights
def test_eight_bits_say_the_same(real: Pair) -> None:
    if not int8.supported():
        pytest.skip("this processor has no exact 8-bit products")
    config, state = checkpoints.load(checkpoints.fetch("whisper-base"))
    quantised = Whisper(WhisperConfig.from_dict(config)).eval()
    quantised.load_state_dict(fused(state))
    quantised.quantise()
    task = Task(speech("quick_brown_fox.wav"), hint=Hint("en"))
    [ours], [exact] = transcribe(quantised, [task]), transcribe(real.ours, [task])
    assert ours.tokens == exact.tokens
    assert ours.probabilities == pytest.approx(exact.probabilities, abs=0.1)


# --- shapes and bounds ----------------------------------------------------------------------------------------------


def test_a_window_longer_than_its_positions_is_refused(small: Pair) -> None:
    with pytest.raises(ValueError, match="64000 are the most"):
        small.ours.listen([noise(64_001)], [False])
    assert small.ours.listen([noise(64_000)], [True]).count.tolist() == [200]


def test_a_prefix_that_leaves_no_room_is_refused(small: Pair) -> None:
    with pytest.raises(ValueError, match="65 tokens stand before"):
        transcribe(small.ours, [Task(noise(8_000), prefix=tokens(1, 61)[0].tolist())])
    [found] = transcribe(small.ours, [Task(noise(8_000), prefix=tokens(1, 59)[0].tolist(), draft=(1, 2, 3))])
    assert len(found.tokens) <= 1


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"model_type": "moonshine"}, "model_type=moonshine"),
        ({"activation_function": "relu"}, "activation_function=relu"),
        ({"lang_to_id": {}}, "not a multilingual"),
    ],
)
def test_a_config_names_what_it_cannot_serve(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WhisperConfig.from_dict({**SMALL, **TOKENS, "model_type": "whisper", **wrong})


def test_a_hubs_config_lacks_what_can_be_known() -> None:
    given = {**SMALL, **TOKENS, "model_type": "whisper"}
    for key in ("prev_sot_token_id", "alignment_heads", "suppress_tokens", "begin_suppress_tokens"):
        del given[key]
    config = WhisperConfig.from_dict(given)
    assert (config.before, config.no_speech) == (56, 57)
    assert config.alignment_heads == tuple((layer, head) for layer in (1, 2) for head in range(4))
    assert config.unsaid == config.unsaid_first == ()
