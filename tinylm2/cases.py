"""The cases that the tests and `python -m tinylm2 gradcheck` walk; the course's grader draws with the same `Draw`.

A case says how to draw the arguments of one pair: shapes small, no two lengths alike where it can be, no axis of one.
Every public pair of ops, layers, memory and model has one, and so has each use of it that takes a path of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from tinylm2 import layers, memory, model, ops
from tinylm2.gradcheck import Checker

PARTS = {ops: "op", layers: "layer", memory: "memory", model: "model"}


@dataclass(frozen=True)
class Case:
    """One pair at one set of arguments.

    draw(Draw) -> (inputs, constants). `zero` and `single` are what the checker must be told to expect. `slope_of` is
    the function whose slopes backward promises, where that is not the forward itself.
    """

    module: ModuleType
    pair: str
    variant: str
    draw: Callable
    zero: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    slope_of: Callable | None = None

    @property
    def part(self):
        return PARTS.get(self.module, self.module.__name__)

    @property
    def name(self):
        return f"{self.pair}, {self.variant}" if self.variant else self.pair

    @property
    def forward(self):
        """Looked up at every use, so that a function put in its place is the one that runs."""
        return self.slope_of or getattr(self.module, f"{self.pair}_forward")

    @property
    def backward(self):
        return getattr(self.module, f"{self.pair}_backward")

    def build(self, rng, dtype="float64"):
        """Fresh (inputs, constants): `y, cache = case.forward(*inputs, **constants)`."""
        return self.draw(Draw(rng, dtype))

    def check(self, directions=None, seed=0):
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

    def W(self, *shape):
        """A matrix that keeps the size of what it multiplies."""
        return self(*shape, std=shape[0] ** -0.5)

    def g(self, D):
        """Gains around one."""
        return self(D, mean=1.0, std=0.3)

    def ids(self, V, *shape):
        return self.rng.integers(0, V, shape)

    def params(self, shapes):
        """Parameters by name, drawn by what they are.

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


def call(*inputs, **constants):
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
    Case(ops, "attend", "", lambda d: call(d(2, 3, 2, 4), d(2, 5, 2, 4), d(2, 5, 2, 4))),
    Case(ops, "attend", "causal", lambda d: call(d(2, 5, 2, 4), d(2, 5, 2, 4), d(2, 5, 2, 4), causal=True)),
    Case(ops, "attend", "causal, last rows ask",
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
        past = {"past": (d(B, 3, G, K), d(B, 3, G, K))} if "past" in constants else {}
        return call(d(B, T, D), d.W(*Wqkv), d.W(*Wo), **{"heads": (H, G), **constants, **past})
    return draw


LAYERS = (
    Case(layers, "self_attention", "", _attention()),
    Case(layers, "self_attention", "padded", _attention(pad=PAD)),
    Case(layers, "self_attention", "last rows ask", _attention(rows=2)),
    Case(layers, "self_attention", "after a past", _attention(past=True)),
    Case(layers, "feed_forward", "", lambda d: call(d(B, T, D), d.W(D, 2 * F), d.W(F, D))),
)

# --------------------------------------------------------------------------------------------------------------- memory


def _gather(**constants):
    return lambda d: call(d(B, T, G, K), d(B, T, G, K), d.W(*Wqkv), d.W(*Wo), heads=(H, G), slots=N, **constants)


def _gates(d):
    bank = (B, N, D)
    return call(d(*bank), d(*bank), d.W(D, D), d(D), d.W(D, D), d(D))


def _write(*names, T=T, N=N, **constants):
    """Arguments of either write, p holding what it uses."""
    shapes = {name: shape for name, shape in model.block_params(model.param_shapes(CFG), 0).items() if name in names}
    return lambda d: call(d(B, T, D), d(B, T, D), d(B, T, G, K), d(B, T, G, K), d(B, N, D), d.params(shapes),
                          heads=(H, G), **constants)


_SLOTS = ("attn.Wqkv", "attn.Wo", "mem.Win", "mem.bin", "mem.Wforget", "mem.bforget")
_PRINTED = ("mem.Win", "mem.Wforget")
_UNASKED = {"slots_write": ("n", "Emem"), "printed_write": ("k", "v")}

MEMORY = (
    Case(memory, "read", "", lambda d: call(d(B, T, D), d(B, N, D), d.W(D, D), d.W(D, D), d.W(D, D), heads=2)),
    Case(memory, "merge", "", lambda d: call(d(B, T, D), d(B, T, D), d(B, T, D), d.W(D, D), d(D))),
    Case(memory, "gather", "", _gather()),
    Case(memory, "gather", "padded", _gather(pad=PAD)),
    Case(memory, "gates", "", _gates),
    Case(memory, "update", "", lambda d: call(d(B, N, D), d(B, N, D), d(B, N, D), d(B, N, D))),
    Case(memory, "slots_write", "", _write(*_SLOTS), zero=_UNASKED["slots_write"]),
    Case(memory, "slots_write", "padded", _write(*_SLOTS, pad=PAD), zero=_UNASKED["slots_write"]),
    Case(memory, "printed_write", "T > N", _write(*_PRINTED), zero=_UNASKED["printed_write"]),
    Case(memory, "printed_write", "T < N", _write(*_PRINTED, T=3, N=5), zero=_UNASKED["printed_write"]),
    Case(memory, "printed_write", "padded, a row without a token", _write(*_PRINTED, pad=np.array([3, 0])),
         zero=_UNASKED["printed_write"]),
)

# ---------------------------------------------------------------------------------------------------------------- model

SMALL = replace(CFG, D=4, H=2)                           # every entry of a story is two stories more to compute
GROUPED = {"D": CFG.D, "H": CFG.H}


def _banks(d, cfg):
    return tuple(d(B, cfg.N, cfg.D) if cfg.memory_of(i) != "none" else None for i in range(cfg.L))


def _block(constants=None, **variant):
    cfg = replace(SMALL, **variant)
    shapes = model.block_params(model.param_shapes(cfg), 0)
    return lambda d: call(d(B, T, cfg.D), _banks(d, cfg)[0], d.params(shapes), cfg=cfg, **constants or {})


def _segment(constants=None, **variant):
    cfg = replace(SMALL, **variant)
    return lambda d: call(d.params(model.param_shapes(cfg)), _banks(d, cfg), cfg=cfg, ids=d.ids(cfg.V, B, cfg.T),
                          **constants or {})


def _story(constants=None, length=None, **variant):
    """A story of three segments, or of `length` tokens."""
    cfg = replace(SMALL, **variant)
    return lambda d: call(d.params(model.param_shapes(cfg)), cfg=cfg, ids=d.ids(cfg.V, B, length or 3 * cfg.T),
                          **constants or {})


def _cut_story(d):
    """Cut before the third segment: the writes before it still have gradients, from the second."""
    (params,), constants = _story({"truncate": 2})(d)
    _, cache = model.story_forward(params, **constants)
    return call(params, **constants, banks=cache["banks"])


def cut_story_forward(params, *, ids, cfg, truncate, banks):
    """What `story_backward` promises the slopes of when it is told to truncate.

    The forward itself knows no cut: a bank moves with the parameters wherever it is read. Here the bank that enters
    segment s stands still, at banks[s], when s is a multiple of `truncate`.
    """
    _, cache = model.story_forward(params, ids=ids, cfg=cfg, truncate=truncate)
    logits = []
    entering = None
    for s, arguments in enumerate(cache["calls"]):
        entering = banks[s] if s % truncate == 0 else entering
        part, entering, _ = model.segment_forward(params, entering, cfg=cfg, **arguments)
        logits.append(part)
    return np.concatenate(logits, 1), cache


MODEL = (
    Case(model, "block", "slots", _block()),
    Case(model, "block", "slots, grouped heads", _block(**GROUPED)),
    Case(model, "block", "printed", _block(memory="printed")),
    Case(model, "block", "none", _block(memory="none")),
    Case(model, "block", "slots, padded, last rows ask", _block({"pad": PAD, "rows": 2})),
    Case(model, "block", "printed, padded, last rows ask", _block({"pad": PAD, "rows": 2}, memory="printed")),
    Case(model, "block", "no write", _block({"write": False}), zero=tuple(f"p.{name}" for name in _SLOTS[2:])),
    Case(model, "segment", "slots", _segment()),
    Case(model, "segment", "memory in the second block only", _segment(memory_blocks=(1,))),
    Case(model, "segment", "tied, padded, tail", _segment({"pad": PAD, "tail": 2}, tied=True)),
    Case(model, "story", "slots", _story()),
    Case(model, "story", "printed", _story(memory="printed")),
    Case(model, "story", "none", _story(memory="none")),
    Case(model, "story", "memory in the second block only", _story(memory_blocks=(1,))),
    Case(model, "story", "grouped heads", _story(**GROUPED)),
    Case(model, "story", "tied", _story(tied=True)),
    Case(model, "story", "padded", _story({"pad": (2, 0)})),
    Case(model, "story", "printed, padded", _story({"pad": (2, 0)}, memory="printed")),
    Case(model, "story", "a short last segment", _story(length=2 * T + 2)),
    Case(model, "story", "T < N", _story(T=2, N=4)),
    Case(model, "story", "printed, T < N", _story(T=2, N=4, memory="printed")),
    Case(model, "story", "tail", _story({"tail": 2})),
    Case(model, "story", "printed, tail", _story({"tail": 2}, memory="printed")),
    Case(model, "story", "cut by truncate", _cut_story, slope_of=cut_story_forward),
    Case(model, "story", "replay", _story({"replay": True})),
)

CASES = OPS + LAYERS + MEMORY + MODEL
