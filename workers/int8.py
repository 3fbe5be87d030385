"""Linear layers with 8-bit weights and activations, for CPUs with 8-bit dot products (x86 VNNI).

Each row of activations is scaled by its own maximum, and products are summed exactly in 32-bit integers. So what a row
gives does not depend on its batch, which is what lets a verified draft equal plain greedy decoding; the library's own
dynamic quantisation takes one scale for the whole batch and does not have that.

Weights that were published in 8 bits, one scale to a matrix (Moonshine's are), come back exactly; others get a scale
for each output (Jacob et al. 2018, arXiv 1712.05877, section 2).
"""

import warnings

import torch
from torch import Tensor, nn

#: Above this error a matrix was not published with one scale for each of its parts.
LOSSLESS = 1e-6


def supported() -> bool:
    """Whether 8-bit products are exact and fast here. Without VNNI, x86 sums them in 16 bits, which can overflow."""
    return bool(torch.cpu._is_vnni_supported()) and "x86" in torch.backends.quantized.supported_engines  # noqa: SLF001


def chosen(precision: str) -> bool:
    """Whether a model's large products run in 8 bits: `precision` is float32, int8, or auto, which looks here."""
    return precision == "int8" or (precision == "auto" and supported())


class Int8Linear(nn.Module):
    """As `linear`, in 8 bits. `parts`: how many equal matrices are stacked in it, each with a scale of its own."""

    def __init__(self, weight: Tensor, bias: Tensor | None, parts: int = 1) -> None:
        super().__init__()
        self.outputs = len(weight)
        self.bias = bias
        with warnings.catch_warnings():
            # The tensor type is to leave torch some day; torch is pinned, and so far nothing takes its place.
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
            quantised = _by_parts(weight, parts)
            if float((quantised.dequantize() - weight).abs().max()) > LOSSLESS:
                quantised = _by_rows(weight)
            self._packed = torch.ops.quantized.linear_prepack(quantised, None)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., inputs] float32 -> [..., outputs] float32."""
        rows = x.reshape(-1, x.shape[-1])
        scale = rows.abs().amax(1, keepdim=True).clamp_min_(1e-12).mul_(1 / 127)
        y: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows / scale, 1.0, 128, self._packed
        )
        y = y.mul_(scale) if self.bias is None else torch.addcmul(self.bias, y, scale)
        return y.view(*x.shape[:-1], self.outputs)


def _by_parts(weight: Tensor, parts: int) -> Tensor:
    scales, zeros = [], []
    for part in weight.chunk(parts):
        low, high = part.min().clamp_max(0), part.max().clamp_min(0)
        scale = ((high - low) / 255).clamp_min(1e-12)
        scales.append(scale.double().expand(len(part)))
        zeros.append((-128 - low / scale).round().long().expand(len(part)))
    return torch.quantize_per_channel(weight, torch.cat(scales), torch.cat(zeros), 0, torch.qint8)


def _by_rows(weight: Tensor) -> Tensor:
    scales = (weight.abs().amax(1) / 127).clamp_min(1e-12).double()
    return torch.quantize_per_channel(
        weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
    )
