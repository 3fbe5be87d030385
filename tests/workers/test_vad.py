import io
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from workers import checkpoints, wheels
from workers.vad import HOP, SileroVAD, dense

DATA = Path(__file__).parents[1] / "data"
TORCHSCRIPT = "silero_vad/data/silero_vad.jit"


@pytest.fixture(scope="module")
def vad() -> SileroVAD:
    return SileroVAD(checkpoints.load(checkpoints.fetch("silero-vad"))[1])


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The network as its authors run it, out of the same wheel."""
    wheel = wheels.fetch(checkpoints.CATALOGUE["silero-vad"].wheel)
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        return torch.jit.load(io.BytesIO(wheels.members(wheel, [TORCHSCRIPT])[TORCHSCRIPT]))


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def hops(name: str) -> Tensor:
    """`[hops, 512]` of real speech."""
    audio, rate = soundfile.read(DATA / name, dtype="float32")
    assert rate == 16_000
    return torch.from_numpy(audio[: len(audio) // HOP * HOP]).view(-1, HOP)


def alone(vad: SileroVAD, audio: Tensor) -> Tensor:
    """Probabilities of one recording in one slot."""
    state, active = vad.state(1), torch.tensor([True])
    return torch.cat([vad.step(state, hop[None], active) for hop in audio])


def assert_same(ours: Tensor, expected: Tensor, within: float = 1e-5) -> None:
    torch.testing.assert_close(ours, expected, atol=within, rtol=0.0)


@pytest.mark.weights
@pytest.mark.parametrize("name", ["beckett.wav", "counting.wav", "season_of_light.wav"])
def test_probabilities_are_the_authors(vad: SileroVAD, theirs: Any, name: str) -> None:
    audio = hops(name)
    theirs.reset_states()
    expected = torch.tensor([theirs(hop[None], 16_000).item() for hop in audio])
    assert expected.max() > 0.9  # it is speech
    assert_same(alone(vad, audio), expected, 1e-4)


@pytest.mark.weights
def test_pauses_between_sentences_are_heard(vad: SileroVAD) -> None:
    """Six sentences of two words, each followed by a pause."""
    speech = torch.repeat_interleave(alone(vad, hops("beckett.wav")) > 0.5, 1)
    starts = (speech[1:] & ~speech[:-1]).sum() + speech[0]
    assert int(starts) == 6


@pytest.mark.weights
def test_silence_and_rubbish_are_no_speech(vad: SileroVAD) -> None:
    generator = torch.Generator().manual_seed(1)
    assert alone(vad, torch.zeros(100, HOP)).max() < 0.2
    assert alone(vad, torch.randn(100, HOP, generator=generator) * 0.3).max() < 0.5
    assert alone(vad, torch.full((100, HOP), 0.5)).max() < 0.5  # a constant


@pytest.mark.weights
def test_slots_do_not_hear_each_other(vad: SileroVAD) -> None:
    recordings = [hops(name)[:90] for name in ("beckett.wav", "counting.wav", "before_us.wav")]
    state, active = vad.state(3), torch.ones(3, dtype=torch.bool)
    together = torch.stack(
        [vad.step(state, torch.stack(hop), active) for hop in zip(*recordings, strict=True)]
    )
    for slot, recording in enumerate(recordings):
        assert_same(together[:, slot], alone(vad, recording))


@pytest.mark.weights
def test_an_idle_slot_waits_whatever_it_is_given(vad: SileroVAD) -> None:
    """Two slots hear the same recording, each at its own pace; NaN stands where nothing was said."""
    audio = hops("counting.wav")
    expected = alone(vad, audio)
    state, place, heard = vad.state(2), [0, 0], [[], []]  # type: tuple[Any, list[int], list[list[Tensor]]]
    generator = torch.Generator().manual_seed(5)
    while min(place) < len(audio):
        wanted = torch.rand(2, generator=generator) < torch.tensor([0.4, 0.8])
        active = wanted & torch.tensor([at < len(audio) for at in place])
        rows = [
            audio[at] if on else torch.full((HOP,), torch.nan) for at, on in zip(place, active, strict=True)
        ]
        result = vad.step(state, torch.stack(rows), active)
        assert (result[~active] == 0).all()
        for slot in torch.nonzero(active)[:, 0].tolist():
            heard[slot].append(result[slot])
            place[slot] += 1
    for slot in range(2):
        assert_same(torch.stack(heard[slot]), expected)


@pytest.mark.weights
def test_reset_makes_a_slot_new_and_leaves_the_others(vad: SileroVAD) -> None:
    audio = hops("counting.wav")
    state, active = vad.state(2), torch.ones(2, dtype=torch.bool)
    for hop in audio[:40]:
        vad.step(state, hop.expand(2, -1), active)
    vad.reset(state, torch.tensor([True, False]))
    after = torch.stack(
        [vad.step(state, torch.stack([a, b]), active) for a, b in zip(audio, audio[40:], strict=False)]
    )
    expected = alone(vad, audio)
    assert_same(after[:, 0], expected[: len(after)])
    assert_same(after[:, 1], expected[40:])


@pytest.mark.weights
def test_a_row_put_back_goes_on_as_it_did(vad: SileroVAD) -> None:
    audio, state, active = hops("beckett.wav")[:40], vad.state(2), torch.tensor([False, True])
    for hop in audio[:20]:
        vad.step(state, hop.expand(2, -1), active)
    other = vad.state(3)
    vad.restore(other, 2, vad.rows(state)[1])
    for hop in audio[20:]:
        expected = vad.step(state, hop.expand(2, -1), active)[1]
        assert_same(vad.step(other, hop.expand(3, -1), torch.tensor([False, False, True]))[2], expected)
    with pytest.raises(ValueError, match="none of this detector"):
        vad.restore(other, 0, vad.rows(state)[1][:-1])
    assert not vad.rows(other)[0].any()


@pytest.mark.parametrize("frames, stride", [(4, 1), (4, 2), (2, 2), (1, 1)])
def test_a_small_convolution_is_a_matrix(frames: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(2)
    kernel, x = torch.randn(5, 3, 3, generator=generator), torch.randn(2, frames, 3, generator=generator)
    expected = F.conv1d(x.transpose(1, 2), kernel, stride=stride, padding=1).transpose(1, 2)
    assert_same((x.flatten(1) @ dense(kernel, frames, stride).T).view_as(expected), expected)


def test_another_checkpoint_is_refused() -> None:
    with pytest.raises(KeyError, match="stft_conv"):
        SileroVAD({"weight": torch.zeros(1)})
