"""Read graphs and weights out of an ONNX Runtime `.ort` file, without running it.

The file is a flatbuffer whose schema is ONNX Runtime's `ort.fbs`; the slots below are the places of the fields in it
that we need. Tensors are views of the file's bytes.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from flatbuffers import number_types  # type: ignore[import-untyped]
from flatbuffers.table import Table  # type: ignore[import-untyped]
from numpy.typing import NDArray

IDENTIFIER = b"ORTM"
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


class OrtFormatError(ValueError):
    """Not an `.ort` file, or one that holds what this reader doesn't know."""


@dataclass(frozen=True)
class Node:
    """One operation: its inputs by name, empty where an optional input is left out."""

    name: str
    op: str
    inputs: tuple[str, ...]
    graphs: tuple["Graph", ...]  # the branches of an If


@dataclass(frozen=True)
class Graph:
    """Operations in order, and the constants that they name. Inner graphs also see the constants of outer ones."""

    nodes: tuple[Node, ...]
    initializers: dict[str, NDArray[Any]]

    def walk(self) -> Iterator[Node]:
        """All nodes, those of inner graphs included."""
        for node in self.nodes:
            yield node
            for graph in node.graphs:
                yield from graph.walk()

    def constants(self) -> dict[str, NDArray[Any]]:
        """All initialisers by name, those of inner graphs included."""
        found = dict(self.initializers)
        for node in self.nodes:
            for graph in node.graphs:
                found |= graph.constants()
        return found


def read(data: bytes) -> Graph:
    """The main graph of an `.ort` file. Raises `OrtFormatError`."""
    if data[4:8] != IDENTIFIER:
        raise OrtFormatError("not an ONNX Runtime .ort file")
    try:
        session = _Table(Table(data, int.from_bytes(data[:4], "little")))
        return _graph(session.child(1).child(7))  # InferenceSession.model, Model.graph
    except OrtFormatError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise OrtFormatError(f"damaged .ort file: {error}") from error


class _Table:
    """A flatbuffer table, its fields by their place in the schema."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def _offset(self, slot: int) -> int:
        return int(self._table.Offset(4 + 2 * slot))

    def _start(self, slot: int) -> int:
        """Where a field that is there begins."""
        return int(self._table.Pos) + self._offset(slot)

    def child(self, slot: int) -> "_Table":
        return _Table(Table(self._table.Bytes, self._table.Indirect(self._start(slot))))

    def number(self, slot: int) -> int:
        return int(self._table.Get(number_types.Int32Flags, self._start(slot))) if self._offset(slot) else 0

    def string(self, slot: int) -> str:
        return bytes(self._table.String(self._start(slot))).decode() if self._offset(slot) else ""

    def _elements(self, slot: int) -> range:
        if not (offset := self._offset(slot)):
            return range(0)
        start = self._table.Vector(offset)
        return range(start, start + 4 * self._table.VectorLen(offset), 4)

    def children(self, slot: int) -> "list[_Table]":
        return [_Table(Table(self._table.Bytes, self._table.Indirect(at))) for at in self._elements(slot)]

    def strings(self, slot: int) -> tuple[str, ...]:
        return tuple(bytes(self._table.String(at)).decode() for at in self._elements(slot))

    def array(self, slot: int, dtype: Any) -> NDArray[Any]:
        """A vector of numbers, as a view of the file."""
        if not (offset := self._offset(slot)):
            return np.empty(0, dtype)
        count, start = self._table.VectorLen(offset), self._table.Vector(offset)
        return np.frombuffer(self._table.Bytes, dtype, count, start)


def _graph(table: _Table) -> Graph:
    tensors = dict(_tensor(tensor) for tensor in table.children(0))  # Graph.initializers
    return Graph(tuple(_node(node) for node in table.children(2)), tensors)  # Graph.nodes


def _node(table: _Table) -> Node:
    # Node: name 0, op_type 5, inputs 8, attributes 10; Attribute: type 2 (5 is a graph), g 7
    inner = tuple(_graph(a.child(7)) for a in table.children(10) if a.number(2) == 5)
    return Node(table.string(0), table.string(5), table.strings(8), inner)


def _tensor(table: _Table) -> tuple[str, NDArray[Any]]:
    # Tensor: name 0, dims 2, data_type 3, raw_data 4
    name, kind = table.string(0), table.number(3)
    if kind not in DTYPES:
        raise OrtFormatError(f"tensor {name} has the unknown type {kind}")
    raw, shape = table.array(4, np.uint8), table.array(2, np.int64)
    return name, raw.view(DTYPES[kind]).reshape(tuple(int(n) for n in shape))
