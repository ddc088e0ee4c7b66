"""A GGUF file: its settings and its tensors, read here; quantised tensors become float32 through the package gguf.

Every length is held against the bytes that are left before anything is read or allocated.
"""

import struct
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinylm2.errors import BadInput
from tinylm2.interop.tensors import file_size, widened

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
PLAIN = {0: "<f4", 1: "<f2", 30: "<u2", 28: "<f8"}       # F32, F16, BF16, F64
ROWS = 2048                                              # that are made float32 at a time
EXTRA = "expected the package gguf: pip install 'tinylm2[gguf]'"


class GGUF:
    """`settings` by key, `shapes` by tensor name (rows first), `read(name)`.  BadInput where the file is not sound."""

    def __init__(self, path: Any) -> None:
        self.path, self.size = Path(path), file_size(Path(path))
        with open(self.path, "rb") as self._file:
            magic, version, tensors, keys = self._unpack("4sIQQ")
            if magic != b"GGUF" or version not in (2, 3):
                raise self.bad(f"found {magic!r} version {version}", "GGUF version 2 or 3")
            self.settings = {}
            for _ in range(self._count(keys, 13)):
                key = self._string()
                self.settings[key] = self._value(*self._unpack("I"))
            self.entries = {}
            for _ in range(self._count(tensors, 24)):
                name = self._string()
                (axes,) = self._unpack("I")
                if not 1 <= axes <= 4:
                    raise self.bad(f"{name:.60} has {axes} axes", "1 to 4")
                shape = self._unpack(f"{axes}Q")[::-1]
                self.entries[name] = (shape, *self._unpack("IQ"))
            align = self.settings.get("general.alignment", 32)
            if type(align) is not int or not 1 <= align <= 2**20:
                raise self.bad(f"found general.alignment {align!r:.20}", "a power of two")
            self.start = -(-self._file.tell() // align) * align
        for name, (shape, kind, offset) in self.entries.items():
            size = prod(shape[:-1]) * self._row_bytes(name, shape[-1], kind)
            if self.start + offset + size > self.size:
                raise self.bad(f"{name:.60} ends at {self.start + offset + size}", f"at most {self.size}")

    def bad(self, found: Any, expected: Any) -> BadInput:
        """The error of this file."""
        return BadInput(f"{self.path}: {found}, expected {expected}")

    @property
    def shapes(self) -> dict:
        return {name: shape for name, (shape, _, _) in self.entries.items()}

    def read(self, name: str) -> Any:
        """The tensor as float32."""
        shape, kind, offset = self.entries[name]
        rows, row = prod(shape[:-1]), self._row_bytes(name, shape[-1], kind)
        with open(self.path, "rb") as file:
            file.seek(self.start + offset)
            if kind in PLAIN:
                return widened(np.fromfile(file, PLAIN[kind], prod(shape)).reshape(shape))
            library, kinds = _library(), _library().GGMLQuantizationType
            y = np.empty((rows, shape[-1]), np.float32)
            for first in range(0, rows, ROWS):
                raw = np.fromfile(file, np.uint8, min(ROWS, rows - first) * row).reshape(-1, row)
                y[first:first + ROWS] = library.quants.dequantize(raw, kinds(kind))
        return y.reshape(shape)

    def _row_bytes(self, name, length, kind):
        """Bytes of one row of a tensor."""
        if kind in PLAIN:
            return length * np.dtype(PLAIN[kind]).itemsize
        library = _library()
        try:
            block, size = library.GGML_QUANT_SIZES[library.GGMLQuantizationType(kind)]
            library.quants.dequantize(np.zeros((1, size), np.uint8), library.GGMLQuantizationType(kind))
        except (KeyError, ValueError, NotImplementedError):
            raise self.bad(f"{name:.60} has the number format {kind}", "one that the package gguf knows") from None
        if length % block:
            raise self.bad(f"{name:.60} has rows of {length}", f"a multiple of {block}")
        return length // block * size

    def _unpack(self, form):
        raw = self._file.read(struct.calcsize("<" + form))
        try:
            return struct.unpack("<" + form, raw)
        except struct.error:
            raise self.bad("found the end of the file", "a whole GGUF file") from None

    def _count(self, n, least):
        """A number of things of at least so many bytes each, which must still be there."""
        if n * least > self.size - self._file.tell():
            raise self.bad(f"found a count of {n}", "no more than the file can hold")
        return n

    def _string(self):
        (n,) = self._unpack("Q")
        return self._file.read(self._count(n, 1)).decode("utf-8", "replace")

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            kind, n = self._unpack("IQ")
            if kind == STRING:
                return [self._string() for _ in range(self._count(n, 8))]
            if kind in NUMBERS:
                return list(self._unpack(f"{self._count(n, struct.calcsize(NUMBERS[kind]))}{NUMBERS[kind]}"))
        elif kind in NUMBERS:
            return self._unpack(NUMBERS[kind])[0]
        raise self.bad(f"found a value of type {kind}", "numbers, text, or a list of them")


def _library():
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise BadInput(f"found quantised weights, {EXTRA}") from None
    return gguf
