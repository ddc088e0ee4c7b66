"""A student's memory in a worker, and a stand-in for it that the library can train: assignment 7.

The model, the stories, the loss and the answers stay in the grader's process. Only the memory's own functions run in
the worker. They see rows, states and parameters, and no token. What they return is checked for its shape and dtype.
"""

import ast
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent

import numpy as np

from tinylm2 import layers
from tinylm2.memories import MEMORIES
from tutorials.assignments import handout
from tutorials.assignments.checks import Assignment
from tutorials.assignments.client import Client, Failed

FILE = "memory"                                          # what the worker calls the student's functions by
EXAMINED = ("first_forward", "read_forward", "read_backward", "write_forward", "write_backward")
NEEDED = (*EXAMINED, "param_shapes", "state_shapes", "first_backward")
SOLUTION = Path(__file__).with_name("a7_solution.py")
LARGEST = 4096                                           # numbers of state per block and story
DECLARED = '''"""What a memory declares."""

import importlib

from tinylm2.model import Config


def declared(cfg):
    """Shapes and starting numbers."""
    mine, cfg = importlib.import_module("my_a7"), Config(**cfg)
    return {"params": mine.param_shapes(cfg), "state": mine.state_shapes(cfg),
            "vectors": dict(getattr(mine, "VECTORS", {}))}
'''
CONFIG = '''"""The letters of a model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Sizes of a model, as in the library."""

    V: int
    D: int = 32
    L: int = 2
    H: int = 2
    G: int = 2
    F: int = 78
    N: int = 16
    T: int = 32
    K: int = 0                                           # D / H where none is given
    base: float = 10000.0                                # of RoPE
    scaling: object = None
    eps: float = 1e-5                                    # of the norms

    def __post_init__(self):
        object.__setattr__(self, "K", self.K or self.D // self.H)
'''
LETTERS = "VDLHGFNTK"


class OwnMemory(Assignment):
    """An assignment whose functions stand in no file of the library: the student says what they compute."""

    def students_file(self, *, solved=False):
        """The model solution; or its signatures and docstrings, which say what each function must do."""
        source = SOLUTION.read_text(encoding="utf-8")
        if solved:
            return source
        lines, tree, text = source.splitlines(), ast.parse(source), source
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                body = "\n".join(lines[node.body[0].end_lineno:node.end_lineno])
                stub = indent(f'raise NotImplementedError("{self.title}: write {node.name}")', "    ")
                text = text.replace(body, stub, 1)
        start = text.index("VECTORS = ")
        return f"{text[:start]}{'VECTORS = {}':<57}{text[text.index('# what gains', start):]}"

    def library(self):
        """{path: text} of what a memory may use: the pairs of ops and layers, and primitives; no finished memory."""
        wanted = {(file, name) for file in ("ops", "layers", "memories/primitives", "gradcheck", "backend")
                  for name in handout.module(file).definitions}
        return handout.library(handout.closure(wanted)) | {"tinylm2/model.py": CONFIG}


class MemoryClient(Client):
    """A worker for a student's memory."""

    def beside(self):
        """The library beside the solution, its files, and the functions of the assignment that are given: none."""
        files = self.assignment.library() | {f"tinylm2/{FILE}.py": DECLARED}
        return files, [FILE, "model", "ops"], []

    def declared(self, cfg):
        """{"params", "state", "vectors"}: shapes and numbers, checked.  Raises Failed."""
        found = self.ask("function", file=FILE, name="declared", arguments=(_letters(cfg),))
        for kind, function in (("params", "param_shapes"), ("state", "state_shapes")):
            shapes = found.get(kind) if isinstance(found, dict) else None
            if not isinstance(shapes, dict) or not all(map(_shape, shapes.values())):
                raise Failed(function, f"{function} must return a dict of shapes, {{name: (length, ...)}}")
            found[kind] = {name: tuple(shape) for name, shape in shapes.items()}
        taken = layers.output_gate_shapes(cfg)
        wrong = [name for name in found["params"] if not name.startswith("mem.") or name in taken]
        if wrong:
            raise Failed("param_shapes", f"param_shapes has {wrong[0]!r:.40}, expected names such as mem.Wq, other "
                         "than mem.Wout and mem.bout")
        if sum(map(_size, found["state"].values())) > LARGEST:
            raise Failed("state_shapes", f"the state has more than {LARGEST} numbers per block")
        return found

    def forward(self, slot, name, inputs, **constants):
        """A forward's outputs; its cache stays in the worker, under the slot."""
        return self.ask("forward", slot=slot, file=FILE, name=name, inputs=inputs, constants=constants)

    def backward(self, slot, name, upstreams):
        """What a backward returns for the cache of a slot."""
        return self.ask("backward", slot=slot, file=FILE, name=name, upstreams=upstreams)


def _shape(shape):
    return isinstance(shape, tuple | list) and len(shape) <= 4 and all(type(n) is int and 0 < n < 10**5 for n in shape)


def _letters(cfg):
    return {letter: getattr(cfg, letter) for letter in LETTERS}


def _size(shape):
    return int(np.prod(shape))


class Remote:
    """The interface of a memory, each call answered by a worker.  Raises Failed where an answer does not fit.

    A cache is the number of a slot. Slots are used again from the first one on when a story begins.
    """

    WRITE_USES_READ = False
    PAIRS = {}

    def __init__(self, client):
        self.client, self.slots, self.known = client, 0, {}
        self.__name__ = "a memory of your own"

    def declared(self, cfg):
        if cfg not in self.known:
            self.known[cfg] = self.client.declared(cfg)
        return self.known[cfg]

    @property
    def VECTORS(self):
        vectors = {"mem.bout": -1.0}
        for found in self.known.values():
            vectors |= {name: float(x) for name, x in found["vectors"].items() if isinstance(x, int | float)}
        return vectors

    def param_shapes(self, cfg):
        return {**self.declared(cfg)["params"], **layers.output_gate_shapes(cfg)}

    def state_shapes(self, cfg):
        return self.declared(cfg)["state"]

    def cost(self, cfg):
        return 0, 0

    def looks(self, read, write):
        return {}

    def first_forward(self, p, *, cfg, B):
        outputs, slot = self._forward("first", (_given(p),), cfg=cfg, B=B)
        return self._state("first_forward", outputs, cfg, B, _dtype(p)), slot

    def first_backward(self, dstate, cache):
        slot, p = cache
        return self._params("first_backward", self.client.backward(slot, "first", (dstate,)), p)

    def read_forward(self, n, state, p, *, cfg):
        outputs, slot = self._forward("read", (n, state, _given(p)), cfg=cfg)
        (y,) = self._tuple("read_forward", outputs, 1)
        return self._array("read_forward", "y", y, n.shape, n.dtype), (*slot, n, state)

    def read_backward(self, dy, cache):
        slot, p, n, state = cache
        dn, dstate, dp = self._tuple("read_backward", self.client.backward(slot, "read", (dy,)), 3)
        return (self._like("read_backward", "dn", dn, n), self._all_like("read_backward", "dstate", dstate, state),
                self._params("read_backward", dp, p))

    def write_forward(self, seg, state, p, *, cfg, pad=None):
        n, _, k, v = seg
        outputs, slot = self._forward("write", ((n, None, k, v), state, _given(p)), cfg=cfg, pad=pad)
        return self._state("write_forward", outputs, cfg, len(n), n.dtype), (*slot, (n, None, k, v), state)

    def write_backward(self, dstate, cache):
        slot, p, seg, state = cache
        dstate = tuple(np.zeros_like(x) if d is None else d for d, x in zip(dstate, state, strict=True))
        name = "write_backward"
        dseg, dold, dp = self._tuple(name, self.client.backward(slot, "write", (dstate,)), 3)
        return (self._all_like(name, "dseg", dseg, seg), self._all_like(name, "dstate", dold, state),
                self._params(name, dp, p))

    # ---------------------------------------------------------------------------------------------- what must come back

    def _forward(self, name, inputs, *, cfg, **constants):
        slot, self.slots = self.slots, self.slots + 1
        outputs = self.client.forward(slot, name, inputs, cfg=_letters(cfg), **constants)
        return outputs, (slot, inputs[-1])

    def begin(self):
        """A new story: the caches of the last one are no longer needed."""
        self.slots = 0

    def _tuple(self, function, found, length):
        if not isinstance(found, tuple) or len(found) != length:
            raise Failed(function, f"{function} must return {length} things" + (" and a cache" if "forward" in function
                                                                               else ""))
        return found

    def _array(self, function, name, x, shape, dtype):
        if not isinstance(x, np.ndarray) or x.shape != shape:
            raise Failed(function, f"{function}: {name} has shape {getattr(x, 'shape', None)}, expected {shape}")
        if x.dtype != dtype:
            raise Failed(function, f"{function}: {name} is {x.dtype} where the arguments are {dtype}")
        return x

    def _state(self, function, outputs, cfg, B, dtype):
        (state,) = self._tuple(function, outputs, 1)
        shapes = self.state_shapes(cfg)
        state = self._tuple(f"{function}: the state", state, len(shapes))
        return tuple(self._array(function, name, x, (B, *shape), dtype)
                     for (name, shape), x in zip(shapes.items(), state, strict=True))

    def _like(self, function, name, d, x):
        return np.zeros_like(x) if d is None else self._array(function, name, d, x.shape, x.dtype)

    def _all_like(self, function, name, ds, xs):
        ds = (None,) * len(xs) if ds is None else self._tuple(f"{function}: {name}", ds, len(xs))
        return tuple(None if d is None or x is None else self._like(function, f"{name}[{i}]", d, x)
                     for i, (d, x) in enumerate(zip(ds, xs, strict=True)))

    def _params(self, function, dp, p):
        if not isinstance(dp, dict) or not set(dp) <= set(p):
            raise Failed(function, f"{function} must return a dict of gradients by the names of p")
        return {name: self._like(function, f"d{name}", d, p[name]) for name, d in dp.items() if d is not None}


def _given(p):
    """What a memory sees of its block's parameters: its own, and those of the self-attention."""
    return {name: W for name, W in p.items() if name.startswith(("mem.", "attn.W"))}


def _dtype(p):
    return next(iter(p.values())).dtype


@contextmanager
def registered(name, memory):
    """A memory in the library's table, under a name, while it is trained."""
    MEMORIES[name] = memory
    try:
        yield
    finally:
        del MEMORIES[name]
