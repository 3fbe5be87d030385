"""Whisper as CTranslate2 keeps it (`ct2_format`) -> a state dict, a config and a tokenizer of the Hub's kind.

CTranslate2 fuses what is applied to the same input: queries, keys and values of a self-attention into one matrix
(`linear_0`), keys and values of a cross-attention into another (`linear_1`). Whisper's keys have no bias; theirs is
zero in the fused one. All else only has another name.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Variables = Mapping[str, NDArray[Any]]

#: Name of a part of a layer there -> its matrices here, in the order in which they are stacked.
PARTS = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "ffn/layer_norm": ("final_layer_norm",),
}
#: The same for what stands outside the layers.
OUTER = {
    "encoder/conv1": "model.encoder.conv1",
    "encoder/conv2": "model.encoder.conv2",
    "encoder/layer_norm": "model.encoder.layer_norm",
    "encoder/position_encodings/encodings": "model.encoder.embed_positions",
    "decoder/layer_norm": "model.decoder.layer_norm",
    "decoder/embeddings": "model.decoder.embed_tokens",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions",
}
ENDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def state_dict(variables: Variables) -> dict[str, NDArray[Any]]:
    """Weights under `transformers`' names, sorted by name, in the numbers they were stored in.

    Raises ValueError or KeyError for variables that are not a Whisper's.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, value in variables.items():
        stem, _, end = name.rpartition("/")
        if name in OUTER:
            found[f"{OUTER[name]}.weight"] = value
        elif stem in OUTER:
            found[f"{OUTER[stem]}.{ENDS[end]}"] = value
        elif layer := re.fullmatch(r"(encoder|decoder)/layer_(\d+)/(.+)", stem):
            room, number, part = layer.groups()
            found |= _apart(f"model.{room}.layers.{number}", PARTS[part], ENDS[end], value)
    return dict(sorted(found.items()))


def _apart(layer: str, names: tuple[str, ...], end: str, value: NDArray[Any]) -> dict[str, NDArray[Any]]:
    found = {}
    for name, part in zip(names, np.split(value, len(names)), strict=True):
        if end == "bias" and name.endswith("k_proj"):
            if part.any():
                raise ValueError(f"{layer}.{name} has a bias, and Whisper's keys have none")
            continue
        found[f"{layer}.{name}.{end}"] = part
    return found


def config(variables: Variables, theirs: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json` as `transformers` writes it, with what its `generation_config.json` says of the tokens.

    `theirs` is CTranslate2's own `config.json`, `tokenizer` the parsed `tokenizer.json`.
    """
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocabulary, width = variables["decoder/embeddings/weight"].shape
    heads = {room: int(variables[f"{room}/num_heads"]) for room in ("encoder", "decoder")}
    feed_forward = len(variables["encoder/layer_0/ffn/linear_0/weight"])
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": vocabulary,
        "num_mel_bins": variables["encoder/conv1/weight"].shape[1],
        "d_model": width,
        "encoder_layers": _layers(variables, "encoder"),
        "decoder_layers": _layers(variables, "decoder"),
        "encoder_attention_heads": heads["encoder"],
        "decoder_attention_heads": heads["decoder"],
        "encoder_ffn_dim": feed_forward,
        "decoder_ffn_dim": feed_forward,
        "activation_function": "gelu",
        "scale_embedding": bool(variables["decoder/scale_embeddings"]),
        "max_source_positions": len(variables["encoder/position_encodings/encodings"]),
        "max_target_positions": len(variables["decoder/position_encodings/encodings"]),
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "task_to_id": {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
        "lang_to_id": {name: number for name, number in ids.items() if number in theirs["lang_ids"]},
        "suppress_tokens": theirs["suppress_ids"],
        "begin_suppress_tokens": theirs["suppress_ids_begin"],
        "alignment_heads": theirs["alignment_heads"],
    }


def _layers(variables: Variables, room: str) -> int:
    found = (re.match(rf"{room}/(layer_\d+)/", name) for name in variables)
    return len({layer[1] for layer in found if layer})


def tokenizer(text: bytes) -> dict[str, Any]:
    """The parsed `tokenizer.json`; its timestamps are marked as special, for they never stand for text."""
    parsed: dict[str, Any] = json.loads(text)
    for token in parsed["added_tokens"]:
        token["special"] = True
    return parsed
