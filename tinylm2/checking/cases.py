"""The cases of the gradient check, for the tests and for `python -m tinylm2 gradcheck`.

A case says how to draw the arguments of one pair: small shapes, different lengths where possible, no axis of length
one. Every public pair of ops, layers, memories/primitives, model and recurrence has a case, and so has each use of it
that runs other code. The cases of a memory are made from what its file declares, so a new memory needs none here.
The course's grader uses the same `Draw`.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from tinylm2 import layers, model, ops, recurrence
from tinylm2.backend import Array
from tinylm2.gradcheck import Checker, leaves, matched
from tinylm2.memories import MEMORIES, primitives

NAMES = {memory: name for name, memory in MEMORIES.items() if memory is not None}
PARTS = {ops: "op", layers: "layer", primitives: "shared", model: "model", recurrence: "model"}
PARTS |= dict.fromkeys(NAMES, "memory")


@dataclass(frozen=True)
class Case:
    """One pair with one kind of arguments.

    draw(Draw) -> (inputs, constants). zero, single: see `gradcheck.Checker`. slope_of: the function of which backward
    gives the gradient, where it is not the forward itself.
    """

    module: ModuleType
    pair: str
    variant: str
    draw: Callable
    zero: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    slope_of: Callable | None = None

    @property
    def part(self) -> str:
        return PARTS.get(self.module, self.module.__name__)

    @property
    def name(self) -> str:
        pair = f"{NAMES[self.module]} {self.pair}" if self.module in NAMES else self.pair
        return f"{pair}, {self.variant}" if self.variant else pair

    @property
    def forward(self) -> Any:
        """The forward. It is looked up at every use, so a replaced function is the one that is checked."""
        return self.slope_of or getattr(self.module, f"{self.pair}_forward")

    @property
    def backward(self) -> Any:
        return getattr(self.module, f"{self.pair}_backward")

    def build(self, rng: Any, dtype: str = "float64") -> tuple[Any, dict]:
        """Fresh (inputs, constants): `y, cache = case.forward(*inputs, **constants)`."""
        return self.draw(Draw(rng, dtype))

    def check(self, directions: int | None = None, seed: int = 0) -> Any:
        inputs, constants = self.build(np.random.default_rng(seed))
        checker = Checker(directions=directions, seed=seed, zero=self.zero, single=self.single, op=self.name)
        return checker.check(self.forward, self.backward, *inputs, **constants)


@dataclass(frozen=True)
class Draw:
    """Random arrays of one dtype."""

    rng: np.random.Generator
    dtype: str

    def __call__(self, *shape, mean=0.0, std=1.0):
        return (mean + std * self.rng.standard_normal(shape)).astype(self.dtype)

    def W(self, *shape: Any) -> Array:
        """A matrix with std 1/sqrt(rows): products keep the size of what is multiplied."""
        return self(*shape, std=shape[0] ** -0.5)

    def positive(self, *shape: int) -> Array:
        """Numbers well above zero."""
        return abs(self(*shape)) + 0.1

    def g(self, D: int) -> Array:
        """Gains around one."""
        return self(D, mean=1.0, std=0.3)

    def ids(self, V: int, *shape: Any) -> Array:
        return self.rng.integers(0, V, shape)

    def params(self, shapes: Any) -> dict[str, Array]:
        """Parameters by name, drawn by their kind.

        Token rows are long and what a block adds to them is short: near zero, rmsnorm turns faster than a central
        difference can follow.
        """
        return {name: self._param(name, shape) for name, shape in shapes.items()}

    def _param(self, name, shape):
        part = name.rpartition(".")[2]
        if part == "g":
            return self.g(*shape)
        if part.startswith("b"):
            return self(*shape, std=0.5)
        if name == "embed.W":
            return self(*shape, std=2.0)
        return self.W(*shape) / 2 if part in ("Wo", "Wdown") else self.W(*shape)


def call(*inputs: Any, **constants: Any) -> tuple[Any, dict]:
    """The arguments as they would stand in a call."""
    return inputs, constants


# ------------------------------------------------------------------------------------------------------------------ ops

PAD = np.array([2, 0])                                   # of two stories, the first is padded

OPS = (
    Case(ops, "linear", "", lambda d: call(d(2, 3, 4), d(4, 5))),
    Case(ops, "embedding", "", lambda d: call(d(6, 4), ids=np.array([[0, 3, 3], [5, 0, 3]]))),
    Case(ops, "rmsnorm", "", lambda d: call(d(2, 3, 4), d(4))),
    Case(ops, "rope", "", lambda d: call(d(2, 5, 3, 4))),
    Case(ops, "rope", "from a later position", lambda d: call(d(2, 5, 3, 4), start=7)),
    Case(ops, "rope", "all at one position", lambda d: call(d(2, 5, 3, 4), start=7, step=0)),
    Case(ops, "rope", "scaled", lambda d: call(d(2, 5, 3, 6), base=50.0, scaling=(8.0, 0.5, 1.5, 16))),
    Case(ops, "attend", "", lambda d: call(d(2, 3, 2, 4), d(2, 5, 2, 4), d(2, 5, 2, 4))),
    Case(ops, "attend", "causal", lambda d: call(d(2, 5, 2, 4), d(2, 5, 2, 4), d(2, 5, 2, 4), causal=True)),
    Case(ops, "attend", "causal, last rows",
         lambda d: call(d(2, 3, 2, 4), d(2, 5, 2, 4), d(2, 5, 2, 4), causal=True)),
    Case(ops, "attend", "causal, padded",
         lambda d: call(d(2, 5, 2, 4), d(2, 5, 2, 4), d(2, 5, 2, 4), causal=True, pad=PAD)),
    Case(ops, "attend", "padded", lambda d: call(d(2, 3, 2, 4), d(2, 5, 2, 4), d(2, 5, 2, 4), pad=PAD)),
    Case(ops, "attend", "grouped heads", lambda d: call(d(2, 3, 6, 4), d(2, 5, 2, 4), d(2, 5, 2, 4))),
    Case(ops, "sigmoid", "", lambda d: call(d(3, 4, std=2))),
    Case(ops, "tanh", "", lambda d: call(d(3, 4))),
    Case(ops, "silu", "", lambda d: call(d(3, 4, std=2))),
    Case(ops, "cross_entropy", "",
         lambda d: call(d(2, 3, 5), targets=d.ids(5, 2, 3), weights=np.array([[0, 1, 2], [1, 0, 1]], d.dtype))),
)

# --------------------------------------------------------------------------------------------------------------- layers

CFG = model.Config(V=7, D=8, L=2, H=4, G=2, F=6, N=3, T=5)
B, D, H, G, K, F, N, T = 2, CFG.D, CFG.H, CFG.G, CFG.K, CFG.F, CFG.N, CFG.T
Wqkv, Wo = (D, (H + 2 * G) * K), (H * K, D)


def _attention(**constants):
    def draw(d):
        past = (d(B, 3, G, K), d(B, 3, G, K)) if "start" in constants else None
        return call(d(B, T, D), past, d.W(*Wqkv), d.W(*Wo), **{"heads": (H, G), **constants})
    return draw


LAYERS = (
    Case(layers, "self_attention", "", _attention()),
    Case(layers, "self_attention", "padded", _attention(pad=PAD)),
    Case(layers, "self_attention", "last rows", _attention(last=2)),
    Case(layers, "self_attention", "after a past", _attention(start=3)),
    Case(layers, "self_attention", "after a past, padded", _attention(start=0, pad=PAD)),
    Case(layers, "self_attention", "another base", _attention(base=50.0)),
    Case(layers, "feed_forward", "", lambda d: call(d(B, T, D), d.W(D, 2 * F), d.W(F, D))),
    Case(layers, "output_gate", "", lambda d: call(d(B, T, D), d(B, T, D), d(B, T, D), d.W(D, D), d(D))),
)

# ----------------------------------------------------------------------------------------------- primitives of memories

PRIMITIVES = (
    Case(primitives, "attend_lse", "", lambda d: call(d(2, 3, 2, 4), d(2, 5, 2, 4), d(2, 5, 2, 4))),
    Case(primitives, "attend_lse", "grouped, padded",
         lambda d: call(d(2, 3, 4, 4), d(2, 5, 2, 4), d(2, 5, 2, 4), pad=PAD)),
    Case(primitives, "recall", "", lambda d: call(d.positive(2, 3, 5), d(2, 5, 4), d.positive(2, 5), eps=0.1)),
    Case(primitives, "scan", "", lambda d: call(d(2, 5, 3), d(2, 6, 3))),
    Case(primitives, "set_rms", "", lambda d: call(d(2, 3, 4), rms=0.5)),
    Case(primitives, "elu1", "", lambda d: call(d(3, 4))),
    Case(primitives, "dpfp", "", lambda d: call(d(3, 4))),
    Case(primitives, "dpfp", "three turns", lambda d: call(d(3, 4), nu=3)),
    Case(primitives, "unit_rows", "", lambda d: call(d(B, T, D), d.W(D, D), heads=H)),
)

# ------------------------------------------------------------------------------------------------------------- memories

MEMORY_N = 7                                             # more than T, so that a window keeps some old positions
LETTERS = {"B": B, "T": T, "D": D, "C": D // 2, "H": H, "G": G, "K": K, "F": F, "N": MEMORY_N, "QKV": Wqkv[1],
           "HK": Wo[0]}


def _state(d, memory, cfg):
    positive = getattr(memory, "POSITIVE", ())
    return tuple((d.positive if name in positive else d)(B, *shape) for name, shape in memory.state_shapes(cfg).items())


def memory_cases(name: str) -> Iterator:
    """A case for every pair of a memory: those of the interface, and those in its PAIRS."""
    memory, cfg = MEMORIES[name], replace(CFG, memory=name, N=MEMORY_N)
    place = cfg.memories.index(memory)

    def p(d):
        return d.params(model.params_of(model.param_shapes(cfg), cfg, place))

    def state(d):
        return _state(d, memory, cfg)

    def seg(d):
        return d(B, T, D), d(B, T, D), d(B, T, G, K), d(B, T, G, K)

    interface = {
        "first": lambda d: call(p(d), cfg=cfg, B=B),
        "read": lambda d: call(d(B, T, D), state(d), p(d), cfg=cfg),
        "keys": lambda d: call(state(d), p(d), cfg=cfg),
        "write": lambda d: call(seg(d), state(d), p(d), cfg=cfg),
        "enter": lambda d: call(d(B, T, D), state(d), cfg=cfg),
        "leave": lambda d: call(d(B, 2 + cfg.N, D), last=2),
    }
    for pair, draw in interface.items():
        if hasattr(memory, f"{pair}_forward"):
            yield from _with_padding(memory, pair, draw)
    for pair, (shapes, constants) in memory.PAIRS.items():
        yield from _with_padding(memory, pair, lambda d, shapes=shapes, constants=constants: call(
            *(d(*(LETTERS[letter] for letter in shape.split())) for shape in shapes), **constants(cfg)))


def _with_padding(memory, pair, draw):
    """The case, and one with padding if the pair takes `pad`. Arrays without a gradient must have slope zero."""
    padded = "pad" in inspect.signature(getattr(memory, f"{pair}_forward")).parameters
    for variant, extra in (("", {}), *([("padded", {"pad": PAD})] if padded else [])):
        def drawn(d, extra=extra):
            inputs, constants = draw(d)
            return inputs, constants | extra
        case = Case(memory, pair, variant, drawn)
        try:
            zero = _without_gradient(case)
        except Exception:                                # the check itself will report it
            zero = ()
        yield replace(case, zero=zero)


def _named(case):
    inputs, _ = case.build(np.random.default_rng(0))
    names = list(inspect.signature(getattr(case.module, f"{case.pair}_forward")).parameters)
    return dict(zip(names, inputs, strict=False))


def _without_gradient(case):
    """Names of the arrays for which backward returns no gradient: the checker then expects slopes of zero."""
    inputs, constants = case.build(np.random.default_rng(0))
    *outputs, cache = case.forward(*inputs, **constants)
    gradients = case.backward(*outputs, cache)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    names = _named(case)
    return tuple(name for (key, x), g in zip(names.items(), gradients, strict=True)
                 for (name, _), found in zip(leaves(x, key), matched(key, x, g), strict=True) if found is None)


# ---------------------------------------------------------------------------------------------------------------- model

SMALL = replace(CFG, D=4, H=2)                           # each entry needs two more stories
GROUPED: dict[str, Any] = {"D": CFG.D, "H": CFG.H}


def _states(d, cfg):
    return tuple(None if memory is None else _state(d, memory, cfg) for memory in cfg.memories)


def _block(constants=None, **variant):
    cfg = replace(SMALL, **variant)
    shapes = model.params_of(model.param_shapes(cfg), cfg, 0)
    return lambda d: call(d(B, T, cfg.D), _states(d, cfg)[0], d.params(shapes), cfg=cfg, memory=cfg.memories[0],
                          **constants or {})


def _segment(constants=None, **variant):
    cfg = replace(SMALL, **variant)
    return lambda d: call(d.params(model.param_shapes(cfg)), _states(d, cfg), cfg=cfg, ids=d.ids(cfg.V, B, cfg.T),
                          **constants or {})


def _story(constants=None, length=None, memory=CFG.memory, **variant: Any):
    """A story of three segments, or of `length` tokens."""
    cfg = replace(SMALL, memory=memory, **variant | getattr(MEMORIES[memory], "STORY", {}))
    return lambda d: call(d.params(model.param_shapes(cfg)), cfg=cfg, ids=d.ids(cfg.V, B, length or 3 * cfg.T),
                          **constants or {})


def _cut_story(**variant: Any):
    """A story that is truncated before the third segment: earlier writes still get gradients from the second one."""
    def draw(d):
        (params,), constants = _story({"truncate": 2}, **variant)(d)
        _, cache = recurrence.story_forward(params, **constants)
        return call(params, **constants, states=cache["states"])
    return draw


def cut_story_forward(params: Any, *, ids: Array, cfg: Any, truncate: int, states: tuple) -> tuple[Array, Any]:
    """The function of which `story_backward` gives the gradient when it truncates.

    In the real forward every state depends on the parameters. Here the state that enters segment s > 0 is a constant,
    states[s], if s is a multiple of `truncate`.
    """
    _, cache = recurrence.story_forward(params, ids=ids, cfg=cfg, truncate=truncate)
    logits = []
    entering = cache["states"][0]
    for s, arguments in enumerate(cache["calls"]):
        entering = states[s] if s and s % truncate == 0 else entering
        part, entering, _ = model.segment_forward(params, entering, cfg=cfg, **arguments)
        logits.append(part)
    return np.concatenate(logits, 1), cache


def story_cases(name: str) -> Iterator:
    """A story with a memory, in several variants; one block is enough for all but the first."""
    yield Case(recurrence, "story", name, _story(memory=name))
    yield Case(recurrence, "story", f"{name}, padded, last", _story({"pad": (2, 0), "last": 2}, memory=name, L=1))
    if MEMORIES[name] is not None:
        yield Case(recurrence, "story", f"{name}, T < N, truncated", _cut_story(T=2, N=4, memory=name, L=1),
                   slope_of=cut_story_forward)


def segment_case(module: Any, pair: str, variant: str, draw: Any) -> Case:
    """A case of a block or a segment. Arrays without a gradient must have slope zero."""
    return Case(module, pair, variant, draw, zero=_without_gradient(Case(module, pair, "", draw)))


def block_cases(name: str) -> Iterator:
    """A block with a memory. Without a write, the parameters of the write have no gradient."""
    if replace(SMALL, memory=name).memories[0] is not None:
        yield segment_case(model, "block", name, _block(memory=name))
        for variant, constants in (("padded, last rows", {"pad": PAD, "last": 2}), ("no write", {"write": False})):
            yield segment_case(model, "block", f"{name}, {variant}", _block(constants, memory=name))


MODEL = (
    *(case for name in MEMORIES for case in block_cases(name)),
    Case(model, "block", "without memory", _block(memory="none")),
    Case(model, "block", "grouped heads", _block(**GROUPED)),
    *(segment_case(model, "segment", name, _segment(memory=name)) for name in MEMORIES),
    Case(model, "segment", "memory in the second block only", _segment(memory_blocks=(1,))),
    Case(model, "segment", "tied, padded, last rows", _segment({"pad": PAD, "last": 2}, tied=True)),
    *(case for name in MEMORIES for case in story_cases(name)),
    Case(recurrence, "story", "memory in the second block only", _story(memory_blocks=(1,))),
    Case(recurrence, "story", "grouped heads", _story(L=1, D=CFG.D, H=CFG.H)),
    Case(recurrence, "story", "tied, recomputed", _story({"recompute": True}, tied=True, L=1)),
    Case(recurrence, "story", "a short last segment", _story(length=2 * T + 2, L=1)),
)
MEMORY = tuple(case for name, memory in MEMORIES.items() if memory is not None for case in memory_cases(name))

CASES = OPS + LAYERS + PRIMITIVES + MEMORY + MODEL
