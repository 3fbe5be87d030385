"""Read the variables out of a CTranslate2 `model.bin`, without running it.

Little endian throughout. A header (format version, name of the specification, its revision, number of variables), then
each variable (name, rank, dimensions, type, bytes), then aliases: pairs of an alias and the name it stands for. A name
is a length of two bytes and that many bytes, the last of them zero. Values are views of the file's bytes.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: The format versions whose layout is the one above.
VERSIONS = (5, 6)
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


class Ct2FormatError(ValueError):
    """Not a `model.bin`, a damaged one, or one of a version that is not read here."""


@dataclass(frozen=True)
class Ct2Model:
    """`spec` and `revision` name what the variables mean; `variables` holds aliases, too."""

    spec: str
    revision: int
    variables: dict[str, NDArray[Any]]


def read(data: bytes) -> Ct2Model:
    """The whole file. Raises `Ct2FormatError`."""
    file = _Reader(memoryview(data))
    try:
        if (version := file.integer("I")) not in VERSIONS:
            raise Ct2FormatError(f"not a CTranslate2 model of version {VERSIONS[0]} to {VERSIONS[-1]}")
        spec, revision = file.text(), file.integer("I")
        variables = dict(file.variable() for _ in range(file.integer("I")))
        for _ in range(file.integer("I")):
            alias, name = file.text(), file.text()
            variables[alias] = variables[name]
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise Ct2FormatError(f"not a CTranslate2 model, or a damaged one: {error!r}") from error
    if file.at != len(data):
        raise Ct2FormatError(f"{len(data) - file.at} bytes follow the model of version {version}")
    return Ct2Model(spec, revision, variables)


class _Reader:
    """A place in the file that moves on with each value read."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def integer(self, kind: str) -> int:
        """An unsigned number: B, H or I for one, two or four bytes."""
        value: int = struct.unpack_from(f"<{kind}", self.data, self.at)[0]
        self.at += struct.calcsize(kind)
        return value

    def text(self) -> str:
        return bytes(self.raw(self.integer("H"))).decode().removesuffix("\0")

    def raw(self, length: int) -> memoryview:
        if self.at + length > len(self.data):
            raise Ct2FormatError(f"a value of {length} bytes runs past the end of a CTranslate2 model")
        self.at += length
        return self.data[self.at - length : self.at]

    def variable(self) -> tuple[str, NDArray[Any]]:
        name = self.text()
        shape = [self.integer("I") for _ in range(self.integer("B"))]
        kind, raw = self.integer("B"), self.raw(self.integer("I"))
        if kind not in DTYPES:
            raise Ct2FormatError(f"variable {name} has the unknown type {kind}")
        try:
            return name, np.frombuffer(raw, DTYPES[kind]).reshape(shape)
        except ValueError as error:
            raise Ct2FormatError(f"variable {name} is damaged: {error}") from error
