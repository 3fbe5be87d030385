"""Silero VAD v6 at 16 kHz, as one batched step over all slots: the probability that a hop of 32 ms holds speech.

The published network (an STFT as a convolution, four convolutions, an LSTM cell, one output) sees 64 samples of context
and 512 new ones at a time. Over so few frames each convolution is a small matrix, so that a step is eight products.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HOP = 512  # samples, 32 ms
CONTEXT = 64
WINDOW, STRIDE = 256, 128  # of the STFT
FRAMES = 4  # of the STFT in one step
STRIDES = (1, 2, 2, 1)  # of the four convolutions, each of width 3 with a border of 1


@dataclass(frozen=True)
class VadState:
    """What the network remembers of each slot, slot on axis 0; written in place by `step` and `reset`."""

    context: Tensor  # [S, 64]: the last samples
    hidden: Tensor  # [S, 128]
    cell: Tensor  # [S, 128]


class SileroVAD(nn.Module):
    """Speech probability per hop, for any number of slots at once. Use under `torch.inference_mode()`."""

    hop = HOP
    stft: Tensor
    conv1: Tensor
    conv2: Tensor
    conv3: Tensor
    conv4: Tensor
    bias1: Tensor
    bias2: Tensor
    bias3: Tensor
    bias4: Tensor
    lstm: Tensor
    lstm_bias: Tensor
    out: Tensor
    out_bias: Tensor

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        """From a state dict named like the published `silero_vad_16k.safetensors`; KeyError if it is another."""
        super().__init__()
        weights, frames = {}, FRAMES
        weights["stft"] = state_dict["stft_conv.weight"][:, 0]
        for index, stride in enumerate(STRIDES, start=1):
            weights[f"conv{index}"] = dense(state_dict[f"conv{index}.weight"], frames, stride)
            frames = (frames - 1) // stride + 1
            weights[f"bias{index}"] = state_dict[f"conv{index}.bias"].repeat(frames)
        parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        inputs, recurrent, bias, other_bias = (state_dict[f"lstm_cell.{part}"] for part in parts)
        weights["lstm"], weights["lstm_bias"] = torch.cat([inputs, recurrent], dim=1), bias + other_bias
        weights["out"], weights["out_bias"] = (
            state_dict["final_conv.weight"][:, :, 0],
            state_dict["final_conv.bias"],
        )
        for name, value in weights.items():
            self.register_buffer(name, value.float().contiguous(), persistent=False)

    def state(self, slots: int) -> VadState:
        """The state of as many slots, all as at the start of a recording."""
        width = self.lstm.shape[1] // 2
        blank = self.lstm.new_zeros
        return VadState(blank(slots, CONTEXT), blank(slots, width), blank(slots, width))

    def reset(self, state: VadState, mask: Tensor) -> None:
        """Start the slots in `mask` `[S]` bool over."""
        for part in (state.context, state.hidden, state.cell):
            part.masked_fill_(mask[:, None], 0.0)

    def rows(self, state: VadState) -> Tensor:
        """Each slot's state as a row, `[S, N]`, a copy."""
        return torch.cat([state.context, state.hidden, state.cell], dim=1)

    def restore(self, state: VadState, slot: int, row: Tensor) -> None:
        """Put a row of `rows` back. Raises ValueError for one of another width, and changes nothing."""
        parts = (state.context, state.hidden, state.cell)
        if len(row) != sum(part.shape[1] for part in parts):
            raise ValueError(f"a row of {len(row)} numbers is none of this detector")
        at = 0
        for part in parts:
            part[slot] = row[at : at + part.shape[1]]
            at += part.shape[1]

    def step(self, state: VadState, audio: Tensor, active: Tensor) -> Tensor:
        """Probabilities `[S]` for one hop of `audio` `[S, 512]` float32 in [-1, 1].

        Slots that are not `active` `[S]` bool keep their state, whatever stands in their audio, and get 0.
        """
        hidden, cell = self._lstm(self._features(state.context, audio), state)
        probability = F.linear(F.relu(hidden), self.out, self.out_bias).sigmoid_()[:, 0]
        mask = active[:, None]
        for part, new in ((state.context, audio[:, -CONTEXT:]), (state.hidden, hidden), (state.cell, cell)):
            part.copy_(torch.where(mask, new, part))
        return torch.where(active, probability, 0.0)

    def _features(self, context: Tensor, audio: Tensor) -> Tensor:
        """`[S, 128]`: magnitudes of four windows, the last one mirrored at the end, through the convolutions."""
        mirrored = audio[:, -CONTEXT - 1 : -1].flip(1)
        windows = torch.cat([context, audio, mirrored], dim=1).unfold(1, WINDOW, STRIDE)
        real, imaginary = F.linear(windows.flatten(0, 1), self.stft).chunk(
            2, dim=1
        )  # flat: one product, not many
        x = (real * real).addcmul_(imaginary, imaginary).sqrt_().view(len(audio), -1)
        x = F.relu(F.linear(x, self.conv1, self.bias1))
        x = F.relu(F.linear(x, self.conv2, self.bias2))
        x = F.relu(F.linear(x, self.conv3, self.bias3))
        return F.relu(F.linear(x, self.conv4, self.bias4))

    def _lstm(self, x: Tensor, state: VadState) -> tuple[Tensor, Tensor]:
        """The new hidden and cell state; gates in torch's order: input, forget, candidate, output."""
        gates = F.linear(torch.cat([x, state.hidden], dim=1), self.lstm, self.lstm_bias)
        admit, keep, candidate, show = gates.chunk(4, dim=1)
        cell = admit.sigmoid() * candidate.tanh() + keep.sigmoid() * state.cell
        return show.sigmoid() * cell.tanh(), cell


def dense(kernel: Tensor, frames: int, stride: int) -> Tensor:
    """A convolution of width 3 and border 1 over so few frames, as one matrix `[frames_out * out, frames * in]`."""
    outputs, inputs, _ = kernel.shape
    frames_out = (frames - 1) // stride + 1
    matrix = kernel.new_zeros(frames_out, outputs, frames, inputs)
    for to in range(frames_out):
        for tap in range(3):
            if 0 <= (frm := to * stride + tap - 1) < frames:
                matrix[to, :, frm] = kernel[:, :, tap]
    return matrix.reshape(frames_out * outputs, frames * inputs)
