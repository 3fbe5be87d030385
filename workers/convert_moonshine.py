"""Moonshine's own files (`.ort` graphs, `tokenizer.bin`) -> a state dict, a config and a tokenizer of the Hub's kind.

Linear weights are stored as bytes with one scale and one zero point per matrix; which matrix belongs to which layer is
told only by the name of the node that multiplies by it. All else is stored as float32 under the published names.
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.ort_format import Graph, Node

PRODUCTS = {
    "MatMulIntegerToFloat": (1, 3, 5),
    "DynamicQuantizeMatMul": (1, 2, 3),
}  # weight, scale, zero point
CONFIG: dict[str, Any] = {
    "architectures": ["MoonshineForConditionalGeneration"],
    "model_type": "moonshine",
    "vocab_size": 32768,
    "hidden_size": 288,
    "intermediate_size": 1152,
    "encoder_num_hidden_layers": 6,
    "decoder_num_hidden_layers": 6,
    "encoder_num_attention_heads": 8,
    "decoder_num_attention_heads": 8,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.9},
    "bos_token_id": 1,
    "decoder_start_token_id": 1,
    "eos_token_id": 2,
    "alignment_heads": [[3, 0], [3, 1], [4, 0], [4, 2], [4, 3]],
}


def state_dict(encoder: Graph, decoder: Graph) -> dict[str, NDArray[np.float32]]:
    """Weights under `transformers`' names, sorted by name; float32, linear weights `[out, in]`."""
    found = {f"model.encoder.{name}": value for name, value in _plain(encoder).items()}
    found |= {f"model.encoder.{name}": value for name, value in _products(encoder).items()}
    group_norm = {node.op: node for node in encoder.nodes if node.name.startswith("/groupnorm/")}
    for op, name in (("Mul", "weight"), ("Add", "bias")):
        found[f"model.encoder.groupnorm.{name}"] = _constant(encoder, group_norm[op]).flatten()
    found |= _plain(decoder)
    found |= {
        n: value for n, value in _products(decoder).items() if n != "proj_out.weight"
    }  # tied to the embedding
    embedding = "model.decoder.embed_tokens.weight"
    found[embedding] = _dequantised(decoder.constants(), [f"{embedding}_merged_0_{part}" for part in _PARTS])
    return dict(sorted(found.items()))


_PARTS = ("quantized", "scale", "zero_point")


def _plain(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """Float weights that carry their published name, less what the exporter added to it."""
    cleaned = {
        re.sub(r"_merged_[01]$|_add_tensor$", "", name): value for name, value in graph.constants().items()
    }
    published = re.compile(r"[a-z][\w.]*\.(weight|bias)")
    return {n: v for n, v in cleaned.items() if v.dtype == np.float32 and v.ndim and published.fullmatch(n)}


def _products(graph: Graph) -> dict[str, NDArray[np.float32]]:
    constants = graph.constants()
    found = {}
    for node in graph.walk():
        if places := PRODUCTS.get(node.op):
            weight = _dequantised(constants, [node.inputs[place] for place in places])
            found[".".join(node.name.strip("/").split("/")[:-1]) + ".weight"] = np.ascontiguousarray(weight.T)
    return found


def _dequantised(constants: dict[str, NDArray[Any]], names: list[str]) -> NDArray[np.float32]:
    quantised, scale, zero_point = (constants[name] for name in names)
    return (quantised.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _constant(graph: Graph, node: Node) -> NDArray[Any]:
    (name,) = (name for name in node.inputs if name in graph.initializers)
    return graph.initializers[name]


def tokens(table: bytes) -> list[bytes]:
    """The entries of a `tokenizer.bin`: a length of one byte, or two from 128 on, then the token's bytes."""
    found, at = [], 0
    while at < len(table):
        length, at = table[at], at + 1
        if length >= 128:
            length, at = table[at] * 128 + length - 128, at + 1
        found.append(table[at : at + length])
        at += length
    return found


def tokenizer(table: bytes) -> dict[str, Any]:
    """A `tokenizer.json` that decodes; it holds no merges, for `tokenizer.bin` has none, and so cannot encode.

    Ids 3 to 258 are the single bytes; 0 to 2 and the entries `<<ST_n>>` never stand for text.
    """
    texts = {i: t.decode() if i < 3 or i > 258 else f"<0x{t[0]:02X}>" for i, t in enumerate(tokens(table))}
    special = [i for i, text in texts.items() if i < 3 or re.fullmatch(r"<<ST_\d+>>", text)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    steps = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "merges": []}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": texts[i], **flags} for i in special],
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": {**model, "vocab": {text: i for i, text in texts.items()}},
    }
