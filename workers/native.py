"""What a pool serves where its model is a native transducer: from a checkpoint, or with random weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workers import dummy, tags
from workers.models.fastconformer import FastConformer, FastConformerConfig, fused
from workers.recognizer import Spec
from workers.transducer import CATCH_UP, CHUNK_SAMPLES, Transducer
from workers.vad import HOP, SileroVAD
from workers.window import SAMPLES_PER_MS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def is_native(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's `config.json` describes an encoder for a transducer; `build` tells which are served."""
    return "encoder_config" in config


def build(  # noqa: PLR0913 every part of a recognizer, by name
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    vad_weights: Mapping[str, Tensor],
    pieces: Sequence[bytes],
    *,
    name: str,
    licence: str,
    slots: int,
    lookahead: int,
    precision: str = "auto",
) -> Transducer:
    """A recognizer from a checkpoint as transformers writes it (`config.json`, state dict, vocabulary) and Silero's.

    `precision`: see `chosen`. Raises ValueError, KeyError or RuntimeError for a checkpoint of another architecture.
    """
    device = _device()
    dtype = chosen(precision, device)
    with torch.device("meta"):  # no random numbers that the weights would replace
        network = FastConformer(FastConformerConfig.from_dict(config), lookahead)
    network.load_state_dict(fused(weights), assign=True)
    network = network.requires_grad_(False).to(device, dtype).eval().ready()
    prompts = config.get("prompt_dictionary", {})
    return _around(network, vad_weights, pieces, prompts, name, licence, slots)


def random(
    reference: str,
    vad_weights: Mapping[str, Tensor],
    *,
    slots: int,
    lookahead: int,
    precision: str = "auto",
) -> Transducer:
    """A recognizer with production shapes and random weights (`dummy.py`). Raises ValueError for a name of none."""
    device = _device()
    network = dummy.build(reference, lookahead, device, chosen(precision, device))
    pieces = dummy.pieces(network.config)
    return _around(network, vad_weights, pieces, {}, reference, "random weights", slots)


def chosen(precision: str, device: str) -> torch.dtype:
    """float32, bfloat16 or float16; auto: float32 on a CPU, on a GPU bfloat16, or float16 where it has none (a T4).

    Raises ValueError for another.
    """
    if precision == "auto" and device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if precision == "auto":
        return torch.float32
    if precision not in DTYPES:
        raise ValueError(f"precision {precision}: a native transducer takes {', '.join(DTYPES)}")
    return DTYPES[precision]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _around(
    network: FastConformer,
    vad_weights: Mapping[str, Tensor],
    pieces: Sequence[bytes],
    prompts: Mapping[str, int],
    name: str,
    licence: str,
    slots: int,
) -> Transducer:
    languages = tuple(sorted(tags.PROMPTS)) if network.config.num_prompts else ("en",)
    hop_ms = HOP // SAMPLES_PER_MS
    spec = Spec(name, licence, slots, CHUNK_SAMPLES, hop_ms, catch_up=CATCH_UP, languages=languages)
    vad = SileroVAD(vad_weights).to(network.encoder_projector.weight.device)
    return Transducer(spec, network, vad, pieces, prompts=prompts)
