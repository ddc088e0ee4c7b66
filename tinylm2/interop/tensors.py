"""Tensors on disk: safetensors files read and written, and the number formats that published weights come in.

The format is eight bytes (the length of a header), the header (JSON: name -> dtype, shape, place), and the numbers. A
file is believed only where its header fits the bytes that follow, so a few bytes cannot claim a terabyte.
"""

import json
import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinylm2.errors import BadInput, parse_json
from tinylm2.files import replacing

LONGEST = 100_000_000                                    # bytes of a header; the format's own limit
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1"}
NAMES = {"float64": "F64", "float32": "F32", "int8": "I8"}


class Safetensors:
    """The tensors of one file: `shapes` by name, and `read(name)`.  BadInput, one line, where it is not sound."""

    def __init__(self, path: Any) -> None:
        self.path, self.entries = Path(path), {}
        size = file_size(self.path)
        with open(self.path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST):
                raise BadInput(f"{path}: found a header of {length} bytes in a file of {size}, expected safetensors")
            header = _json(file.read(length), self.path)
        self.start, end = 8 + length, 0
        places = sorted((self._checked(name, entry) for name, entry in header.items() if name != "__metadata__"),
                        key=lambda found: found[2])
        for name, dtype, (first, last), shape in places:
            if first != end or last - first != prod(shape) * np.dtype(DTYPES.get(dtype, "u1")).itemsize \
                    and dtype in DTYPES:
                raise BadInput(f"{path}: {name:.60} stands at {first} to {last}, expected {list(shape)} of {dtype} "
                               f"from {end}")
            self.entries[name], end = (dtype, first, shape), last
        if self.start + end != size:
            raise BadInput(f"{path}: found {size} bytes, expected {self.start + end}: the file is cut off or too long")

    def _checked(self, name, entry):
        """(name, dtype, (first, last), shape) of an entry of the header."""
        dtype, shape, first, last = "", (), 0, 0
        try:
            dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            sound = isinstance(dtype, str) and all(type(n) is int and 0 <= n < 2**48 for n in (*shape, first, last))
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound or first > last or len(shape) > 8:
            raise BadInput(f"{self.path}: {name:.60} is {str(entry)[:80]}, expected dtype, shape and data_offsets")
        return name, dtype, (first, last), shape

    @property
    def shapes(self) -> dict:
        return {name: shape for name, (_, _, shape) in self.entries.items()}

    def read(self, name: str) -> Any:
        """The tensor as float32; float64 and int8 stay what they are."""
        dtype, first, shape = self.entries[name]
        if dtype not in DTYPES:
            raise BadInput(f"{self.path}: {name:.60} is {dtype:.20}, expected {', '.join(DTYPES)}")
        with open(self.path, "rb") as file:
            file.seek(self.start + first)
            return widened(np.fromfile(file, DTYPES[dtype], prod(shape)).reshape(shape))


def widened(x: Any) -> Any:
    """float32 from float16, and from bfloat16 as its 16 bits, which are the upper half of a float32."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32) if x.dtype == np.float16 else x


def write_safetensors(path: Any, tensors: dict, metadata: dict | None = None) -> None:
    """Write arrays of float32, float64 or int8, each in the order of its axes whatever its strides.

    The safetensors package 0.8.0 writes the memory of an array that is not contiguous; here every array is copied
    into order first, one at a time.
    """
    header, end = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": NAMES[str(x.dtype)], "shape": list(x.shape), "data_offsets": [end, end + x.nbytes]}
        end += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)                      # the numbers begin at a multiple of eight, as readers like it
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for x in tensors.values():
            file.write(np.ascontiguousarray(x).data)


def file_size(path: Path) -> int:
    """Bytes of a plain file.  BadInput where there is none: devices and pipes are not read."""
    try:
        if not path.is_file():
            raise BadInput(f"{path}: found no such file, expected a part of the model")
        return os.path.getsize(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def _json(raw, path):
    try:
        header = parse_json(raw.decode(), path)
    except UnicodeDecodeError:
        raise BadInput(f"{path}: found a header that is no text, expected safetensors") from None
    if not isinstance(header, dict):
        raise BadInput(f"{path}: found a header that is no JSON object, expected safetensors")
    return header
