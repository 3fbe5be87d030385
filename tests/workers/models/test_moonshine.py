import dataclasses
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor
from transformers import MoonshineConfig as TheirConfig
from transformers import MoonshineForConditionalGeneration

from workers import checkpoints
from workers.models.moonshine import MIN_SAMPLES, Moonshine, MoonshineConfig, frames, fused

DATA = Path(__file__).parents[2] / "data"
SMALL = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 3,
    "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4,
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same weights in our module and in the library's."""

    ours: Moonshine
    theirs: MoonshineForConditionalGeneration


def pair(config: TheirConfig, state: dict[str, Tensor] | None) -> Pair:
    theirs = MoonshineForConditionalGeneration(config).eval()
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
    ours = Moonshine(MoonshineConfig.from_dict(config.to_dict())).eval()
    ours.load_state_dict(fused(theirs.state_dict()))
    return Pair(ours, theirs)


@pytest.fixture(scope="module")
def small() -> Pair:
    return pair(TheirConfig.from_dict(SMALL), None)


@pytest.fixture(scope="module")
def real() -> Pair:
    config, state = checkpoints.load(checkpoints.fetch("moonshine-tiny-en"))
    return pair(TheirConfig.from_dict(config), state)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def speech(name: str, seconds: float | None = None) -> Tensor:
    audio, rate = soundfile.read(DATA / name, dtype="float32")
    assert rate == 16_000
    return torch.from_numpy(audio)[None, : int(seconds * rate) if seconds else None]


def assert_same(ours: Tensor, expected: Tensor, within: float = 2e-5) -> None:
    torch.testing.assert_close(ours, expected, atol=within, rtol=0.0)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def count(*samples: int) -> Tensor:
    return torch.tensor(samples)


def tokens(rows: int, length: int, vocabulary: int = 96) -> Tensor:
    return torch.randint(3, vocabulary, (rows, length), generator=torch.Generator().manual_seed(3))


def whole(model: Moonshine, audio: Tensor, text: Tensor, samples: Tensor | None = None) -> Tensor:
    """Logits of all positions in one pass."""
    samples = count(*[audio.shape[1]] * len(audio)) if samples is None else samples
    cross = model.cross(model.encode(audio, samples), frames(samples))
    positions = torch.arange(text.shape[1]).expand(len(text), -1)
    return model.logits(model.decode(text, positions, model.cache(len(text), 64), cross)[0])


# --- the same as the library's --------------------------------------------------------------------------------------


def test_a_small_model_is_the_librarys(small: Pair) -> None:
    audio, text = noise(2, 30_000), tokens(2, 9)
    states = small.ours.encode(audio, count(30_000, 30_000))
    assert_same(states, small.theirs.model.encoder(audio).last_hidden_state)
    expected = small.theirs(audio, decoder_input_ids=text).logits
    assert_same(whole(small.ours, audio, text), expected)


@pytest.mark.weights
def test_the_real_model_is_the_librarys(real: Pair) -> None:
    audio = speech("best_of_times.wav")
    text = torch.tensor([greedy(real.ours, audio)])
    ours, theirs = whole(real.ours, audio, text), real.theirs(audio, decoder_input_ids=text).logits
    assert theirs.abs().max() > 10  # so that 1e-4 says something
    assert_same(ours, theirs, 1e-4)


@pytest.mark.weights
def test_alignment_is_the_librarys_cross_attention(real: Pair) -> None:
    audio, text = speech("quick_brown_fox.wav"), tokens(1, 6, 32_000)
    real.theirs.set_attn_implementation("eager")
    outputs = real.theirs(audio, decoder_input_ids=text, output_attentions=True)
    expected = sum(
        outputs.cross_attentions[layer][:, head] for layer, head in real.ours.config.alignment_heads
    )
    cross = real.ours.cross(real.ours.encode(audio, count(audio.shape[1])))
    _, attention = real.ours.decode(
        text, torch.arange(6)[None], real.ours.cache(1, 8), cross, need_attention=True
    )
    assert isinstance(expected, Tensor)
    assert attention is not None
    assert_same(attention, expected, 1e-4)


# --- real speech ----------------------------------------------------------------------------------------------------


def greedy(model: Moonshine, audio: Tensor) -> list[int]:
    """Start token, then the likeliest token each time, up to the end token."""
    config = model.config
    cross = model.cross(model.encode(audio, count(audio.shape[1])))
    cache, found = model.cache(1, 128), [config.bos_token_id]
    while found[-1] != config.eos_token_id and len(found) < 128:
        newest, position = torch.tensor([[found[-1]]]), torch.tensor([[len(found) - 1]])
        hidden, _ = model.decode(newest, position, cache, cross)
        found.append(int(model.logits(hidden[:, -1]).argmax()))
    return found


@pytest.mark.weights
@pytest.mark.parametrize(
    "name, text",
    [
        ("beckett.wav", "Ever tried, ever failed, no matter, try again, fail again, fail better."),
        ("hello_world.wav", "Hello world."),
        ("counting.wav", "One, two, three, four, five, six, seven, eight, nine, ten."),
        (
            "best_of_times.wav",
            (
                "It was the best of times. It was the worst of times. It was the age of wisdom. "
                "It was the age of foolishness. It was the epoch of belief."
            ),
        ),
    ],
)
def test_real_speech_becomes_its_words(real: Pair, name: str, text: str) -> None:
    pieces = checkpoints.pieces(checkpoints.fetch("moonshine-tiny-en"))
    assert b"".join(pieces[token] for token in greedy(real.ours, speech(name))).decode().strip() == text


@pytest.mark.weights
def test_attention_follows_the_audio(real: Pair) -> None:
    """Ten counted numbers: each is looked at later than the one before."""
    audio = speech("counting.wav")
    found = greedy(real.ours, audio)
    cross = real.ours.cross(real.ours.encode(audio, count(audio.shape[1])))
    positions = torch.arange(len(found))[None]
    _, attention = real.ours.decode(torch.tensor([found]), positions, real.ours.cache(1, 64), cross, True)
    assert attention is not None
    assert_same(attention.sum(-1), torch.full((1, len(found)), 5.0))
    times = torch.arange(attention.shape[2], dtype=torch.float32)
    centre = (attention[0] * times).sum(-1) / attention[0].sum(-1)
    comma = found[2]
    words = [i - 1 for i, token in enumerate(found) if token not in {1, 2, comma}]
    assert len(words) == 11  # ten numbers and the full stop
    assert (
        centre[words[1:]].diff().min() > 0
    )  # the start token looks everywhere, so that the first has no place


# --- batched == alone -----------------------------------------------------------------------------------------------


LENGTHS = (30_000, MIN_SAMPLES, 12_345, 29_999)


def padded(samples: tuple[int, ...]) -> Tensor:
    """Rows of noise; behind each row's own samples stands rubbish, and in the last row not even numbers."""
    audio = noise(len(samples), max(samples) + 500)
    for row, own in enumerate(samples):
        audio[row, own:] = 99.0
    audio[-1, samples[-1] :] = torch.nan
    return audio


def test_each_row_is_encoded_as_if_alone(small: Pair) -> None:
    audio = padded(LENGTHS)
    states = small.ours.encode(audio, count(*LENGTHS))
    assert states.shape == (4, frames(30_000), 48)
    for row, own in enumerate(LENGTHS):
        alone = small.ours.encode(audio[row : row + 1, :own], count(own))
        assert_same(states[row, : frames(own)], alone[0])


def test_the_masked_encoder_is_the_same(small: Pair) -> None:
    """The path that a GPU takes: one padded batch, masks instead of separate calls."""
    audio, longest = padded(LENGTHS), max(LENGTHS)
    states = small.ours._encode_masked(audio[:, :longest], count(*LENGTHS))
    for row, own in enumerate(LENGTHS):
        alone = small.ours.encode(audio[row : row + 1, :own], count(own))
        assert_same(states[row, : frames(own)], alone[0])


def test_each_row_is_decoded_as_if_alone(small: Pair) -> None:
    audio, text = padded(LENGTHS), tokens(4, 7)
    together = whole(small.ours, audio, text, count(*LENGTHS))
    for row, own in enumerate(LENGTHS):
        alone = whole(small.ours, audio[row : row + 1, :own], text[row : row + 1])
        assert_same(together[row], alone[0])


def test_alignment_gives_padding_no_weight(small: Pair) -> None:
    config = dataclasses.replace(small.ours.config, alignment_heads=((0, 1), (2, 3)))
    model = Moonshine(config).eval()
    model.load_state_dict(small.ours.state_dict())
    cross = model.cross(model.encode(padded(LENGTHS), count(*LENGTHS)), frames(count(*LENGTHS)))
    _, attention = model.decode(tokens(4, 3), torch.arange(3).expand(4, -1), model.cache(4, 4), cross, True)
    assert attention is not None
    assert attention.shape == (4, 3, frames(30_000))
    assert_same(attention.sum(-1), torch.full((4, 3), 2.0))
    for row, own in enumerate(LENGTHS):
        assert attention[row, :, frames(own) :].abs().sum() == 0


# --- cached == whole ------------------------------------------------------------------------------------------------


def test_one_token_at_a_time_is_the_whole(small: Pair) -> None:
    audio, text = noise(2, 20_000), tokens(2, 12)
    cross, cache = small.ours.cross(small.ours.encode(audio, count(20_000, 20_000))), small.ours.cache(2, 12)
    steps = [small.ours.decode(text[:, i : i + 1], torch.full((2, 1), i), cache, cross)[0] for i in range(12)]
    assert_same(small.ours.logits(torch.cat(steps, 1)), whole(small.ours, audio, text))


def test_rows_at_different_positions_are_as_alone(small: Pair) -> None:
    """Row 0 goes 1, 5, 2 tokens at a time while row 1 is at other places; both end as in one pass."""
    model, audio, text = small.ours, noise(2, 20_000), tokens(2, 16)
    cross, cache = model.cross(model.encode(audio, count(20_000, 20_000))), model.cache(2, 16)
    expected = whole(model, audio, text)
    model.decode(
        text[1:, :6], torch.arange(6)[None], cache_row := model.cache(1, 16), cross.rows(torch.tensor([1]))
    )
    cache.entries[:, 1] = cache_row.entries[:, 0]
    start = torch.tensor([0, 6])
    for width in (1, 5, 2):
        positions = start[:, None] + torch.arange(width)
        hidden, _ = model.decode(text.gather(1, positions), positions, cache, cross)
        assert_same(
            model.logits(hidden), torch.stack([e[p] for e, p in zip(expected, positions, strict=True)])
        )
        start += width


def test_a_rejected_draft_leaves_no_trace(small: Pair) -> None:
    model, audio, text = small.ours, noise(1, 20_000), tokens(1, 10)
    cross, cache = model.cross(model.encode(audio, count(20_000))), model.cache(1, 16)
    model.decode(text[:, :4], torch.arange(4)[None], cache, cross)
    model.decode(tokens(1, 12).flip(1), torch.arange(4, 16)[None], cache, cross)  # a draft, refused at once
    hidden, _ = model.decode(text[:, 4:], torch.arange(4, 10)[None], cache, cross)
    assert_same(model.logits(hidden), whole(model, audio, text)[:, 4:])


def test_positions_beyond_the_table_go_on(small: Pair) -> None:
    """Rotations are computed for as many frames as the audio has."""
    audio = noise(1, 384 * 1100)
    states = small.ours.encode(audio, count(audio.shape[1]))
    assert_same(states, small.theirs.model.encoder(audio).last_hidden_state, 1e-4)


# --- shapes and bounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [MIN_SAMPLES, MIN_SAMPLES + 383, MIN_SAMPLES + 384, 16_000, 99_999])
def test_frames_are_counted_as_they_come(small: Pair, samples: int) -> None:
    states = small.ours.encode(noise(1, samples), count(samples))
    assert states.shape[1] == frames(samples) == small.ours.frames(samples) == int(frames(count(samples)))


@pytest.mark.parametrize("samples", [0, 1, 126, MIN_SAMPLES - 1])
def test_too_little_audio_is_refused(small: Pair, samples: int) -> None:
    assert frames(samples) == 0
    assert frames(count(samples)).tolist() == [0]
    with pytest.raises(ValueError, match="fewest"):
        small.ours.encode(noise(2, 2000), count(2000, samples))


def test_a_config_names_what_it_cannot_serve() -> None:
    assert MoonshineConfig.from_dict({}) == MoonshineConfig()
    assert MoonshineConfig.from_dict(TheirConfig().to_dict()) == MoonshineConfig()
    wrong: dict[str, Any] = {"decoder_num_key_value_heads": 2, "encoder_hidden_act": "relu", "vocab_size": 10}
    with pytest.raises(ValueError, match=r"encoder_hidden_act=relu|decoder_num_key_value_heads=2"):
        MoonshineConfig.from_dict(wrong)


def test_older_configs_keep_rotary_settings_elsewhere() -> None:
    config = MoonshineConfig.from_dict({"rope_theta": 500.0, "partial_rotary_factor": 0.5})
    assert (config.rope_theta, config.partial_rotary_factor) == (500.0, 0.5)


def test_half_precision_stays_close(small: Pair) -> None:
    audio, text = noise(2, 20_000), tokens(2, 6)
    model = Moonshine(small.ours.config).eval()
    model.load_state_dict(small.ours.state_dict())
    model.to(torch.bfloat16)
    half, exact = whole(model, audio.bfloat16(), text).float(), whole(small.ours, audio, text)
    assert (half - exact).norm() / exact.norm() < 0.05
