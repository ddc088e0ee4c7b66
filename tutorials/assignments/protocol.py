"""The messages between the grader and a worker: trees of arrays as bytes, with nothing that could run.

A frame is two lengths, a JSON text and the raw numbers of its arrays. Nothing is unpickled or evaluated. What the
worker sends is not trusted: both lengths are checked before anything is read, and the tree is checked for its depth,
its number of nodes, its dtypes and its shapes. `checked` then compares a message with the fields of its kind.

Arguments do not travel. They lie in memory that both processes share, and the message says where. So the grader itself
sees what a function did to its arguments, and need not ask.
"""

import json
import math
import mmap
import os
import re
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

TEXT_LIMIT = 1 << 18                                     # bytes of a message's JSON text
BODY_LIMIT = 24 << 20                                    # bytes of its arrays
DEPTH_LIMIT, NODE_LIMIT, AXES_LIMIT, STRING_LIMIT = 16, 4096, 8, 1000
SHARED_SIZE = 64 << 20                                   # bytes of address space; only what is used takes memory
DTYPES = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "float32", "float64", "complex64", "complex128"}
WORD = re.compile(r"[A-Za-z_]\w{0,59}", re.ASCII)        # the name of a type
SORT = re.compile(rf"(array of )?{WORD.pattern}|array with \d+ axes|int of more than 18 digits", re.ASCII)
_LENGTHS = struct.Struct("<QQ")                          # of the JSON text, and of the arrays behind it


class ProtocolError(ValueError):
    """What arrived is no message."""


class TooLarge(ValueError):
    """What should be sent is more than a message may hold."""


@dataclass(frozen=True)
class Unsupported:
    """A value that cannot be sent, by its type: "generator", "array of object"."""

    kind: str


# -------------------------------------------------------------------------------------------------------------- frames


def frame(tree, shared=None):
    """One message as bytes.  Raises TooLarge."""
    encoder = _Encoder(shared)
    text = json.dumps(encoder.node(tree)).encode()
    if len(text) > TEXT_LIMIT:
        raise TooLarge(f"a text of {len(text)} bytes, expected at most {TEXT_LIMIT}")
    body = [array.tobytes() for array in encoder.arrays]
    return b"".join([_LENGTHS.pack(len(text), encoder.bytes), text, *body])


def receive(read, shared=None):
    """Read one message with read(n), which returns n bytes.  Raises ProtocolError where something else arrived."""
    text_length, body_length = _LENGTHS.unpack(read(_LENGTHS.size))
    if text_length > TEXT_LIMIT or body_length > BODY_LIMIT:
        raise ProtocolError(f"a message of {text_length} and {body_length} bytes")
    text, body = read(text_length), read(body_length)
    try:
        tree = json.loads(text, parse_int=_whole)
        decoder = _Decoder(body, shared)
        tree = decoder.tree(tree, 0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"not a message: {type(error).__name__}") from None
    if decoder.at != body_length:
        raise ProtocolError("bytes that belong to no array")
    return tree


def _whole(digits):
    """A whole number of at most 18 digits: reading a longer one takes time that grows with its square."""
    if len(digits) > 19:
        raise ValueError("a number with too many digits")
    return int(digits)


class _Encoder:
    """Turns a tree into JSON, and collects its arrays."""

    def __init__(self, shared):
        self.shared, self.arrays, self.bytes, self.nodes = shared, [], 0, 0

    def node(self, tree, depth=0):
        self.nodes += 1
        if self.nodes > NODE_LIMIT or depth > DEPTH_LIMIT:
            raise TooLarge(f"a tree with more than {NODE_LIMIT} parts, or deeper than {DEPTH_LIMIT}")
        if type(tree) is int and abs(tree) >= 10**18:
            return {"unsupported": "int of more than 18 digits"}
        if tree is None or type(tree) in (bool, int, float):
            return tree
        if type(tree) is str:
            return tree[:STRING_LIMIT]
        if isinstance(tree, np.ndarray | np.generic):
            return self._array(np.asarray(tree))
        if isinstance(tree, tuple | list):
            return {"tuple" if isinstance(tree, tuple) else "list": [self.node(part, depth + 1) for part in tree]}
        if isinstance(tree, dict):
            return {"dict": {str(key)[:100]: self.node(part, depth + 1) for key, part in tree.items()}}
        return {"unsupported": type(tree).__name__[:60]}

    def _array(self, x):
        if x.dtype.name not in DTYPES:
            return {"unsupported": f"array of {x.dtype.name}"[:60]}
        if x.ndim > AXES_LIMIT:
            return {"unsupported": f"array with {x.ndim} axes"}
        if self.shared and (place := self.shared.place_of(x)) is not None:
            return {"shared": [x.dtype.name, list(x.shape), list(x.strides), place]}
        self.bytes += x.nbytes
        if self.bytes > BODY_LIMIT:
            raise TooLarge(f"arrays of more than {BODY_LIMIT} bytes")
        self.arrays.append(x)
        return {"array": [x.dtype.name, list(x.shape)]}


class _Decoder:
    """Turns JSON into a tree; takes its arrays one after another from the bytes behind the text."""

    def __init__(self, body, shared):
        self.body, self.shared, self.at, self.nodes = body, shared, 0, 0

    def tree(self, node, depth):
        self.nodes += 1
        if self.nodes > NODE_LIMIT or depth > DEPTH_LIMIT:
            raise ValueError("too many parts")
        if isinstance(node, str):
            return node[:STRING_LIMIT]
        if not isinstance(node, dict):
            if isinstance(node, list):
                raise ValueError("a list without its kind")
            return node
        ((kind, content),) = node.items()
        if kind == "array":
            return self._array(*content)
        if kind == "shared" and self.shared:
            return self.shared.array(*content)
        if kind in ("tuple", "list"):
            parts = [self.tree(part, depth + 1) for part in _of(list, content)]
            return tuple(parts) if kind == "tuple" else parts
        if kind == "dict":
            return {key[:100]: self.tree(part, depth + 1) for key, part in _of(dict, content).items()}
        if kind == "unsupported":
            return Unsupported(content if SORT.fullmatch(_of(str, content)) else "object")
        raise ValueError("an unknown kind")

    def _array(self, dtype, shape):
        if dtype not in DTYPES or len(_of(list, shape)) > AXES_LIMIT or not all(
                type(n) is int and 0 <= n <= BODY_LIMIT for n in shape):
            raise ValueError("no such array")
        x = np.frombuffer(self.body, dtype, math.prod(shape), self.at).reshape(shape)
        self.at += x.nbytes
        return x.copy()                                  # frombuffer's own array cannot be written to


def _of(kind, value):
    if type(value) is not kind:
        raise TypeError(f"expected a {kind.__name__}")
    return value


# ------------------------------------------------------------------------------------------------------------- messages


def _words(value):
    return type(value) is list and len(value) <= 100 and all(map(_text, value))


def _text(value):
    return type(value) is str


def _line(value):
    return value is None or type(value) is int and 0 < value < 10**6


def _count(value):
    return type(value) is int


def _anything(value):
    return True


KINDS = {                                                # what a worker may say: its fields, and a test of each
    "started": {"walls": _words},                        # before any of the student's code runs
    "ready": {"missing": _words},                        # the solution is loaded; these functions are not in it
    "enters": {"function": _text},                       # one of the student's functions begins to run
    "refused": {"action": _text, "what": _text},         # the audit hook refused something
    "raised": {"function": _text, "type": _text, "text": _text, "line": _line},
    "evaluate": {},                                      # the grader is asked for a value of its function f
    "result": {"number": _count, "value": _anything},    # of the request with this number
}


def checked(message):
    """The kind of a worker's message, and its fields.  Raises ProtocolError for anything but a message of KINDS."""
    if type(message) is not dict or type(message.get("kind")) is not str or message["kind"] not in KINDS:
        raise ProtocolError("not a message of any kind")
    fields = {name: value for name, value in message.items() if name != "kind"}
    tests = KINDS[message["kind"]]
    if fields.keys() != tests.keys() or not all(test(fields[name]) for name, test in tests.items()):
        raise ProtocolError(f"not a message of the kind {message['kind']}")
    return message["kind"], fields


# -------------------------------------------------------------------------------------------------------- shared memory


class SharedMemory:
    """Memory of the grader and a worker in which a function's arguments lie.

    On Linux it is a memfd whose size is sealed: a worker that could shrink it would crash the grader. Elsewhere it is a
    file in the worker's folder.
    """

    def __init__(self, source):
        self.map = mmap.mmap(source, SHARED_SIZE)
        self.start, self.used = np.frombuffer(self.map, "uint8").__array_interface__["data"][0], 0

    @classmethod
    def create(cls, folder):
        """-> (the memory, what `join` needs to find it in the worker)."""
        if sys.platform == "linux":
            import fcntl
            fd = os.memfd_create("arguments", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, SHARED_SIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            return cls(fd), fd
        path = os.path.join(folder, "arguments")
        with open(path, "wb+") as file:
            file.truncate(SHARED_SIZE)
            return cls(file.fileno()), path

    @classmethod
    def join(cls, source):
        """The same memory in the worker."""
        fd = source if isinstance(source, int) else os.open(source, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            return cls(fd)
        finally:
            os.close(fd)

    def clear(self):
        """Make all of it free again."""
        self.used = 0

    def place(self, x, strided=False):
        """A copy of the array in this memory.  strided: every second element along each axis of a larger array."""
        wide = np.full([2 * n for n in x.shape], 77).astype(x.dtype) if strided else x
        copy = self._new(wide)
        copy[...] = wide
        if strided:
            copy = copy[tuple([slice(None, None, 2)] * x.ndim)]
            copy[...] = x
        return copy

    def _new(self, like):
        start = -(-self.used // 64) * 64
        self.used = start + like.nbytes
        if self.used > SHARED_SIZE:
            raise TooLarge(f"arguments of more than {SHARED_SIZE} bytes")
        return np.ndarray(like.shape, like.dtype, self.map, start)

    def place_of(self, x):
        """Where the array lies in this memory, or None where it does not."""
        place = x.__array_interface__["data"][0] - self.start
        return place if x.size and 0 <= place < SHARED_SIZE else None

    def array(self, dtype, shape, strides, place):
        """The array that lies at a place."""
        if dtype not in DTYPES:
            raise ValueError("no such array")
        return np.ndarray(tuple(shape), dtype, self.map, place, tuple(strides))

    def close(self):
        with suppress(BufferError):                      # some array still looks into it: it goes with the last one
            self.map.close()
