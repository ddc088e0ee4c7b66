"""Variants of an assignment that no lesson and no file of the library solves: `a5:7` is a5 as the teacher's number 7
draws it.

A variant changes one line of a function's equation. The sheet and the stub say the new line, so the forward is no
secret. The backward is what students are to find, and it stands nowhere: what is right is taken from the forward by
complex steps, entry by entry on small arrays and along random directions on large ones.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np

from tutorials.assignments import plain

STEP = 1e-30                                             # of a complex step: nothing is subtracted, so nothing is lost


@dataclass(frozen=True)
class Variant:
    """One changed line.

    name: of the pair.  about: one line for the teacher.  sheet, stub: (old, new) in the texts that students get.
    forward: plain NumPy that also takes complex numbers, f(*inputs, **constants) -> output.
    """

    name: str
    about: str
    sheet: tuple[tuple[str, str], ...]
    stub: tuple[tuple[str, str], ...]
    forward: Callable

    def pair(self):
        """(forward, backward) as the library has them: the truth for the grader."""
        def forward(*inputs, **constants):
            return self.forward(*inputs, **constants), (inputs, constants)

        def backward(dy, cache):
            inputs, constants = cache
            return tuple(self.gradient(i, inputs, constants, dy) for i in range(len(inputs)))

        return forward, backward

    def gradient(self, i, inputs, constants, dy):
        """The gradient at one argument. Stories do not touch each other, so arrays with a story axis take one complex
        step per entry of a story."""
        x = inputs[i]
        wide = [np.asarray(a, "complex128") for a in inputs]
        gradient, stories = np.zeros(x.shape), x.ndim > 2
        for index in np.ndindex(x.shape[1:] if stories else x.shape):
            place = (slice(None), *index) if stories else index
            moved = wide[i].copy()
            moved[place] += 1j * STEP
            slopes = dy * self.forward(*wide[:i], moved, *wide[i + 1:], **constants).imag / STEP
            gradient[place] = slopes.reshape(len(slopes), -1).sum(1) if stories else slopes.sum()
        return gradient.astype(x.dtype)

    def slope(self, i, move, inputs, constants, dy):
        """The slope along a move of one argument, exact: one evaluation, however large the arrays are."""
        wide = [np.asarray(a, "complex128") for a in inputs]
        wide[i] = wide[i] + 1j * STEP * move
        return float((dy * self.forward(*wide, **constants).imag).sum() / STEP)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


# -------------------------------------------------------------------------------------------------------- a5: the gates

GATES_SHEET = """    gin     = sigmoid(R Win + bin)
    gforget = sigmoid(R Wforget + bforget)
    M'      = gin * tanh(R) + gforget * M
"""
GATES_STUB = "gin = sigmoid(R Win + bin),   gforget = sigmoid(R Wforget + bforget),   M' = gin * tanh(R) + gforget * M"
WAYS = "Six arguments, three sums, two products. Draw the arrows from each argument to M', and count: R has three ways "
REASON = """. Both gates ask what arrives, not
    what they would overwrite: gates that see the bank, too, as an LSTM's do, forget sooner. The paper
    has no b, with which a new bank begins by keeping."""


def _gates(about, gin, gforget, total, forward):
    """A variant of the memory update: its three equations."""
    sheet = f"    gin     = {gin}\n    gforget = {gforget}\n    M'      = {total}\n"
    return Variant("memory_update", about, (
        ("**Memory update** (equations 4 to 6 of the paper).", "**Memory update.** One line is not the paper's."),
        (GATES_SHEET, sheet),
        (f"{WAYS}there, all\nothers one.", "Draw the arrows from each argument to M', and count the ways that each has "
                                           "there: they are\nnot those of lesson 11."),
        (" and at M, each in one product.", " and at M.")),
        ((GATES_STUB, f"gin = {gin},   gforget = {gforget}\n    M' = {total}"), (REASON, "."),
         ("        LM2, equations 4 to 6", "")), forward)


def _bank_is_asked(R, M, Win, bin, Wforget, bforget):
    return _sigmoid(R @ Win + bin) * np.tanh(R) + _sigmoid(M @ Wforget + bforget) * M


def _room_is_made(R, M, Win, bin, Wforget, bforget):
    gin = _sigmoid(R @ Win + bin)
    return gin * np.tanh(R) + (1 - gin) * _sigmoid(R @ Wforget + bforget) * M


def _news_is_asked(R, M, Win, bin, Wforget, bforget):
    return _sigmoid((R - M) @ Win + bin) * np.tanh(R) + _sigmoid(R @ Wforget + bforget) * M


GIN, GFORGET, TOTAL = "sigmoid(R Win + bin)", "sigmoid(R Wforget + bforget)", "gin * tanh(R) + gforget * M"
GATES = (
    _gates("the forget gate asks the bank", GIN, "sigmoid(M Wforget + bforget)", TOTAL, _bank_is_asked),
    _gates("what comes in makes room", GIN, GFORGET, "gin * tanh(R) + (1 - gin) * gforget * M", _room_is_made),
    _gates("the input gate asks what is new", "sigmoid((R - M) Win + bin)", GFORGET, TOTAL, _news_is_asked),
)

# ------------------------------------------------------------------------------------------------------ a5: the address

ADDRESS = "first N rows of the identity, times sqrt(D)"


def _address(about, sheet, rows):
    """A variant of the write attention: another address for each slot.  rows(N, D) -> (N, D)"""
    def forward(k, v, Wqkv, Wo, *, heads, slots, pad=None, start=None):
        (H, G), (B, T, _, K), D = heads, k.shape, Wqkv.shape[0]
        plain.check_shapes("write_attention", k=(k, f"B T {G} K"), v=(v, f"B T {G} K"), Wo=(Wo, f"{H * K} D"),
                           Wqkv=(Wqkv, f"D {(H + 2 * G) * K}"))
        asked = rows(slots, D).astype(k.dtype) @ Wqkv[:, :H * K]
        q, _ = plain.rope_forward(asked.reshape(1, slots, H, K), start=T if start is None else start, step=0)
        y, _ = plain.attend_forward(np.repeat(q, B, axis=0), k, v, pad=pad)
        return y.reshape(B, slots, H * K) @ Wo

    return Variant("write_attention", about, (
        (f"address = {ADDRESS}", f"address = {sheet}"),
        ("Which rows of `Wq` does the product pick? No product is needed.",
         "Which rows of `Wq` does the product pick, and with which sign or weight? No product is needed.")),
        ((f",   address = {ADDRESS}", f"\n    address = {sheet}"),
         ("    address Wq is just sqrt(D) times the first N rows of Wq, the same for every story, so it is computed "
          "once for the\n    batch. start", "    The address is the same for every story.\n    start")), forward)


def _signs(N):
    return (-1.0) ** np.arange(N)[:, None]


ADDRESSES = (
    _address("slots at the last rows", "last N rows of the identity, times sqrt(D)",
             lambda N, D: D**0.5 * np.eye(D)[-N:]),
    _address("every second slot asks the opposite", "first N rows of the identity, row s times (-1)^s sqrt(D)",
             lambda N, D: D**0.5 * _signs(N) * np.eye(N, D)),
    _address("two neighbours each",
             "rows s and s+1 of the identity (row D is row 0), added up, times sqrt(D/2), for s < N",
             lambda N, D: (D / 2) ** 0.5 * (np.eye(N, D) + np.roll(np.eye(N, D), 1, axis=1))),
)

# -------------------------------------------------------------------------------------------------- a4: the output gate

ASKS = "sigmoid(Emem Wout + bout)"


def _output_gate(about, asked, ask):
    """A variant of the output gate: what it is asked.  ask(x, a, Emem) -> (B, T, D)"""
    def forward(x, a, Emem, Wout, bout):
        plain.check_shapes("output_gate", x=(x, "B T D"), a=(a, "B T D"), Emem=(Emem, "B T D"), Wout=(Wout, "D D"),
                           bout=(bout, "D"))
        return x + a + _sigmoid(ask(x, a, Emem) @ Wout + bout) * Emem

    gate = f"sigmoid({asked} Wout + bout)"
    return Variant("output_gate", about, (
        ("**Output gate** (equations 2 and 3). What was read opens its own gate, and goes into the residual stream:",
         "**Output gate.** What was read passes a gate, which is not the paper's, into the residual stream:"),
        (ASKS, gate),
        ("`Emem` is multiplied by the gate, and it makes the gate. Take",
         "`Emem` is multiplied by the gate, and it makes the gate, but not alone: who else does? Take")), (
        (ASKS, gate), ("                               LM2, equations 2 and 3", ""),
        (" Equation 3 is printed with the bank where Emem must\n    stand. The gate is asked what was read, not who "
         "asks.", "")), forward)


OUTPUT_GATES = (
    _output_gate("the gate asks the attention, too", "(Emem + a)", lambda x, a, Emem: Emem + a),
    _output_gate("the gate asks whether both agree", "(Emem * x)", lambda x, a, Emem: Emem * x),
    _output_gate("the gate asks what is new", "(Emem - x)", lambda x, a, Emem: Emem - x),
)

CHOICES = {"a4": (OUTPUT_GATES,), "a5": (ADDRESSES, GATES)}


def draw(assignment, seed):
    """An assignment with one variant of each kind that it has, as a number draws them."""
    rng = np.random.default_rng([zlib.crc32(assignment.name.encode()), seed])
    chosen = tuple(kind[int(rng.integers(len(kind)))] for kind in CHOICES[assignment.name])
    return replace(assignment, variants=chosen)


def library(truth, assignment):
    """The library that knows what is right: `truth`, with the variants' pairs in their places."""
    if not assignment.variants:
        return truth
    files, changed = {name.partition(".")[2]: name.partition(".")[0] for name in assignment.functions}, {}
    for variant in assignment.variants:
        file = files[f"{variant.name}_forward"]
        forward, backward = variant.pair()
        space = changed.setdefault(file, SimpleNamespace(**vars(truth[file])))
        setattr(space, f"{variant.name}_forward", forward)
        setattr(space, f"{variant.name}_backward", backward)
    found = type(truth)(truth)
    found.update(changed)
    return found


class Assignments(dict):
    """The assignments by name; "a5:7" is a5 in the variant that 7 draws."""

    def __missing__(self, name):
        base, _, seed = name.partition(":")
        if base not in CHOICES or not seed.isdecimal():
            raise KeyError(name)
        return draw(self[base], int(seed))

    def __contains__(self, name):
        try:
            return bool(self[name])
        except (KeyError, AttributeError):
            return False
