"""Read the constant tensors out of an ONNX file, without running it.

The file is a protocol buffer after ONNX's `onnx.proto`; only the few fields are read that lead to tensors: the graph's
initialisers, and the attributes of its nodes, inner graphs included. Tensors are views of the file's bytes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class OnnxFormatError(ValueError):
    """Not an ONNX file, or a damaged one."""


def tensors(data: bytes) -> dict[str, NDArray[Any]]:
    """All named tensors that carry raw data. Raises `OnnxFormatError`."""
    try:
        graphs = [value for field, value in _fields(memoryview(data)) if field == 7]  # ModelProto.graph
        found = dict(tensor for graph in graphs for tensor in _of_graph(graph))
    except (IndexError, ValueError, TypeError) as error:
        raise OnnxFormatError(f"not an ONNX file, or a damaged one: {error}") from error
    if not graphs:
        raise OnnxFormatError("not an ONNX file")
    return found


def _of_graph(graph: memoryview) -> Iterator[tuple[str, NDArray[Any]]]:
    for field, value in _fields(graph):
        if field == 5:  # GraphProto.initializer
            yield from _tensor(value, "")
        elif field == 1:  # GraphProto.node
            yield from _of_node(value)


def _of_node(node: memoryview) -> Iterator[tuple[str, NDArray[Any]]]:
    """A Constant's tensor is named after the node's output."""
    fields = list(_fields(node))
    output = next((bytes(value).decode() for field, value in fields if field == 2), "")
    for attribute in (value for field, value in fields if field == 5):  # NodeProto.attribute
        for field, value in _fields(attribute):
            if field == 5:  # AttributeProto.t
                yield from _tensor(value, output)
            elif field == 6:  # AttributeProto.g
                yield from _of_graph(value)


def _tensor(tensor: memoryview, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
    shape: list[int] = []
    kind, raw = 0, None
    for field, value in _fields(tensor):
        if field == 1:  # TensorProto.dims, packed or one by one
            shape += [value] if isinstance(value, int) else _varints(value)
        elif field == 2:
            kind = value
        elif field == 8:
            name = bytes(value).decode() or name
        elif field == 9:
            raw = value
    if raw is not None and kind in DTYPES:
        yield name, np.frombuffer(raw, DTYPES[kind]).reshape(shape)


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: an int, or the bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            length, at = _varint(message, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"field of the unknown kind {kind}")
        if at + length > len(message):
            raise ValueError("a field runs past the end")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varints(packed: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(value)
    return values
