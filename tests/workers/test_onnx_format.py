import numpy as np
import pytest

from workers import checkpoints, wheels
from workers.onnx_format import OnnxFormatError, tensors

WHEEL = checkpoints.CATALOGUE["silero-vad"].wheel
DATA = "silero_vad/data/"


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def block(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def tensor(name: str, values: np.ndarray, kind: int, packed: bool = False) -> bytes:
    sizes = b"".join(varint(size) for size in values.shape)
    dims = block(1, sizes) if packed else b"".join(number(1, size) for size in values.shape)
    return dims + number(2, kind) + (block(8, name.encode()) if name else b"") + block(9, values.tobytes())


FLOATS = np.arange(600, dtype=np.float32).reshape(2, 300)
BYTES = np.arange(6, dtype=np.uint8).reshape(3, 2)


def test_initialisers_constants_and_inner_graphs_are_found() -> None:
    constant = block(2, b"made") + block(5, block(5, tensor("", BYTES, 2)))
    branch = block(5, block(6, block(5, tensor("inner", BYTES, 2))))
    graph = block(5, tensor("floats", FLOATS, 1, packed=True)) + block(1, constant) + block(1, branch)
    found = tensors(number(1, 8) + block(7, graph))
    assert list(found) == ["floats", "made", "inner"]
    np.testing.assert_array_equal(found["floats"], FLOATS)
    np.testing.assert_array_equal(found["made"], BYTES)
    np.testing.assert_array_equal(found["inner"], BYTES)


def test_numbers_of_fixed_width_are_skipped() -> None:
    fixed = varint(9 << 3 | 1) + bytes(8) + varint(10 << 3 | 5) + bytes(4)
    assert list(tensors(fixed + block(7, fixed + block(5, tensor("a", FLOATS, 1))))) == ["a"]


def test_tensors_of_unknown_kinds_are_left_out() -> None:
    assert tensors(block(7, block(5, tensor("text", BYTES, 8)))) == {}


@pytest.mark.parametrize("data", [b"", b"\x00\x01", b"PK\x03\x04 no protocol buffer", b"\xff" * 40])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(OnnxFormatError):
        tensors(data)


def test_a_cut_file_is_refused() -> None:
    whole = block(7, block(5, tensor("a", FLOATS, 1)))
    with pytest.raises(OnnxFormatError):
        tensors(whole[:-50])


@pytest.mark.weights
def test_a_real_file_is_read() -> None:
    content = wheels.members(wheels.fetch(WHEEL), [DATA + "silero_vad_16k_op15.onnx"])
    found = tensors(content[DATA + "silero_vad_16k_op15.onnx"])
    assert found["model.stft.forward_basis_buffer"].shape == (258, 1, 256)
    assert found["model.decoder.rnn.weight_hh"].shape == (512, 128)
    assert all(np.isfinite(values).all() for values in found.values())
