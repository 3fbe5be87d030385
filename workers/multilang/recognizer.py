"""What the multilang pool serves: multilingual Whisper, re-decoded as speech goes on, with Silero VAD."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from workers.models.whisper import loaded
from workers.redecode import Redecoder, Rules, spec_of
from workers.vad import SileroVAD

#: Whisper's encoder is dearer than Moonshine's, so news come at half the rate and windows are shorter. It writes in one
#: language for the length of its prefix, so that the turn before is no context for the next one. It says more tokens a
#: second, and has room for 448: a window is cut at a share of them. What it takes noises for it does not believe
#: itself; the three last numbers lie between what such words were seen to have and what real ones have.
RULES = Rules(
    partial_ms=640,
    window_ms=10_000,
    keep_ms=3_000,
    limit_ms=16_000,
    context_ms=0,
    breath_ms=250,
    budget_ms=10_000,
    tokens_per_s=10.0,
    window_tokens=160,
    cut_short=True,
    silence=0.4,
    doubt=0.3,
    nonsense=0.15,
)


def build(  # noqa: PLR0913 every part of a recognizer, by name
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    vad_weights: Mapping[str, Tensor],
    pieces: Sequence[bytes],
    *,
    name: str,
    licence: str,
    slots: int,
    partial_ms: int = RULES.partial_ms,
    precision: str = "float32",
) -> Redecoder:
    """A recognizer from a Whisper checkpoint (`config.json`, state dict, vocabulary) and Silero's state dict.

    `precision`: float32, int8, or auto, which takes int8 where the processor has 8-bit dot products.
    Raises ValueError, KeyError or RuntimeError for a checkpoint of another architecture.
    """
    model = loaded(config, weights, precision)
    spec = replace(spec_of(name, licence, slots), languages=tuple(model.config.languages))
    rules = replace(RULES, partial_ms=partial_ms)
    return Redecoder(spec, model.eval(), SileroVAD(vad_weights), pieces, rules)
