"""What the english pool serves: Moonshine, re-decoded as speech goes on, with Silero VAD."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workers import int8
from workers.models.moonshine import Moonshine, MoonshineConfig, fused
from workers.recognizer import Spec
from workers.redecode import Redecoder, Rules
from workers.vad import HOP, SileroVAD

#: Two hops: short enough to answer soon, long enough that a step's fixed cost does not show.
CHUNK_SAMPLES = 2 * HOP
#: A quarter of a second of audio in one step, when steps are long.
CATCH_UP = 4


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
    if precision == "int8" or (precision == "auto" and int8.supported()):
        model.quantise()
    spec = Spec(name, licence, slots, CHUNK_SAMPLES, hop_ms=HOP // 16, catch_up=CATCH_UP)
    return Redecoder(spec, model.eval(), SileroVAD(vad_weights), pieces, Rules(partial_ms=partial_ms))
