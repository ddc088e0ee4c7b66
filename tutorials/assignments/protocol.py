"""How the grader and a solution's process talk: trees of arrays as bytes, and nothing that could run.

A message is its length, a JSON text, and the raw numbers of its arrays. What a solution sends is never unpickled and
never evaluated: a dtype is one of a short list, and whatever is neither a number, a text, an array nor a tree of them
arrives as a `Unsupported` that only says what it was.
"""

import json
import math
import struct
from dataclasses import dataclass

import numpy as np

LIMIT = 1 << 28                                          # bytes a message may have
DTYPES = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "float32", "float64", "complex64", "complex128"}
_LENGTHS = struct.Struct("<QQ")                          # of the JSON text, and of the arrays behind it


class ProtocolError(ValueError):
    """What arrived is no message."""


@dataclass(frozen=True)
class Unsupported:
    """Something that does not travel, by its type: "generator", "array of object"."""

    kind: str


def send(stream, tree):
    """Write one message."""
    arrays = []
    text = json.dumps(_encode(tree, arrays)).encode()
    body = b"".join(arrays)
    stream.write(_LENGTHS.pack(len(text), len(body)) + text + body)
    stream.flush()


def receive(stream):
    """Read one message.  EOFError when the other side is gone, ProtocolError when it sent something else."""
    text_length, body_length = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    if text_length + body_length > LIMIT:
        raise ProtocolError(f"a message of {text_length + body_length} bytes, expected at most {LIMIT}")
    text, body = _exactly(stream, text_length), _exactly(stream, body_length)
    try:
        return _decode(json.loads(text), _Reader(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"not a message: {type(error).__name__}: {error}") from None


def _exactly(stream, n):
    data = stream.read(n)
    if len(data) < n:
        raise EOFError
    return data


def _encode(tree, arrays):
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    if isinstance(tree, np.ndarray | np.generic):
        array = np.asarray(tree)
        if array.dtype.name not in DTYPES:
            return {"foreign": f"array of {array.dtype.name}"}
        arrays.append(array.tobytes())
        return {"array": [array.dtype.name, list(array.shape)]}
    if isinstance(tree, tuple | list):
        return {"tuple" if isinstance(tree, tuple) else "list": [_encode(part, arrays) for part in tree]}
    if isinstance(tree, dict):
        return {"dict": {str(key): _encode(part, arrays) for key, part in tree.items()}}
    return {"foreign": type(tree).__name__}


class _Reader:
    """Arrays one after another from the bytes behind the text."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def array(self, dtype, shape):
        if dtype not in DTYPES or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"an array {shape} of {dtype}")
        x = np.frombuffer(self.body, dtype, math.prod(shape), self.at).reshape(shape)
        self.at += x.nbytes
        return x.copy()                                  # frombuffer's own cannot be written to


def _decode(node, reader):
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "array":
        return reader.array(*content)
    if kind in ("tuple", "list"):
        parts = [_decode(part, reader) for part in content]
        return tuple(parts) if kind == "tuple" else parts
    if kind == "dict":
        return {key: _decode(part, reader) for key, part in content.items()}
    if kind == "foreign":
        return Unsupported(str(content))
    raise ValueError(f"a {kind}")
