"""What the english pool serves: Moonshine, re-decoded as speech goes on, with Silero VAD."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workers import int8
from workers.models.moonshine import Moonshine, MoonshineConfig, fused
from workers.redecode import Redecoder, Rules, spec_of
from workers.vad import SileroVAD


def build(  # noqa: PLR0913 every part of a recognizer, by name
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    vad_weights: Mapping[str, Tensor],
    pieces: Sequence[bytes],
    *,
    name: str,
    licence: str,
    slots: int,
    partial_ms: int = Rules.partial_ms,
    precision: str = "float32",
) -> Redecoder:
    """A recognizer from a Moonshine checkpoint (`config.json`, state dict, vocabulary) and Silero's state dict.

    `precision`: float32, int8, or auto, which takes int8 where the processor has 8-bit dot products.
    Raises ValueError, KeyError or RuntimeError for a checkpoint of another architecture.
    """
    torch.manual_seed(0)
    model = Moonshine(MoonshineConfig.from_dict(config))
    model.load_state_dict(fused(weights))
    if int8.chosen(precision):
        model.quantise()
    spec = replace(spec_of(name, licence, slots), languages=("en",))
    return Redecoder(spec, model.eval(), SileroVAD(vad_weights), pieces, Rules(partial_ms=partial_ms))
