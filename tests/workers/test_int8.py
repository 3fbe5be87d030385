"""8-bit layers: close to float32, independent of the batch, exact for weights that were published in 8 bits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workers.int8 import LOSSLESS, Int8Linear, chosen, supported

pytestmark = pytest.mark.skipif(not supported(), reason="this processor has no 8-bit dot products")


def _published(outputs: int, inputs: int, scale: float, zero: int) -> Tensor:
    """Weights as a quantised checkpoint holds them: whole steps of one scale, the whole range in use."""
    steps = torch.randint(0, 256, (outputs, inputs)).float()
    steps[0, 0], steps[-1, -1] = 0, 255
    return (steps - zero) * scale


@given(rows=st.integers(1, 9), inputs=st.sampled_from([16, 36, 288]), outputs=st.sampled_from([8, 96, 288]))
def test_a_row_does_not_depend_on_its_batch(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(rows * inputs + outputs)
    layer = Int8Linear(torch.randn(outputs, inputs), torch.randn(outputs))
    x = torch.randn(rows, inputs) * torch.logspace(-3, 3, rows)[:, None]
    together = layer(x)
    for row in range(rows):
        assert torch.equal(layer(x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("bias", [True, False])
def test_close_to_float32(bias: bool) -> None:
    torch.manual_seed(1)
    exact = torch.nn.Linear(288, 1152, bias=bias)
    x = torch.randn(2, 40, 288)
    with torch.inference_mode():
        got = Int8Linear(exact.weight.detach(), exact.bias)(x)
        wanted = exact(x)
    assert got.shape == wanted.shape
    assert float((got - wanted).norm() / wanted.norm()) < 0.02


def test_weights_published_in_8_bits_come_back_exactly() -> None:
    torch.manual_seed(2)
    parts = [_published(32, 48, scale, zero) for scale, zero in ((0.01, 128), (0.003, 77), (0.02, 140))]
    layer = Int8Linear(torch.cat(parts), None, parts=3)
    # A row that picks one input: its product with the weights is that column, and the activation 127/127 is exact.
    picked = layer(torch.eye(48))
    assert float((picked - torch.cat(parts).T).abs().max()) < LOSSLESS * 10


def test_other_weights_get_a_scale_for_each_output() -> None:
    torch.manual_seed(3)
    weight = torch.randn(64, 32) * torch.logspace(-3, 2, 64)[:, None]
    picked = Int8Linear(weight, None)(torch.eye(32)).T
    assert float(((picked - weight).abs().amax(1) / weight.abs().amax(1)).max()) < 1 / 127


def test_silence_is_no_trouble() -> None:
    layer = Int8Linear(torch.randn(8, 16), None)
    assert torch.equal(layer(torch.zeros(3, 16)), torch.zeros(3, 8))


def test_auto_takes_8_bits_where_they_are_fast() -> None:
    assert (chosen("int8"), chosen("float32"), chosen("auto")) == (
        True,
        False,
        True,
    )  # skipped where they are not
