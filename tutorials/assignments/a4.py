"""Assignment 4: reading a memory."""

import numpy as np

from tutorials.assignments.checks import Assignment, Pair, Unit, call, first_output, influence, shares_of


def _asked(heads):
    def draw(d):
        B, T, N, K = d.lengths("BTNK")
        d.letters["D"] = D = heads * K
        return call(d(B, T, D), d(B, N, D), d.W(D, D), d.W(D, D), d.W(D, D), heads=heads)
    return draw


def _long(d):
    D = 64
    return call(d(4, 128, D), d(4, 32, D), d.W(D, D), d.W(D, D), d.W(D, D), heads=4)


def _shares(ctx, pair, inputs, constants):
    """Two heads of width 4 and three slots whose values are independent: the shares can be read off Emem."""
    d = ctx.draw()
    heads, K, N, D = 2, 4, 3, 8
    n, Mn, Wq, Wk, Wv = d(1, 5, D), d(1, N, D), d.W(D, D), d.W(D, D), np.eye(D)
    Emem, _ = first_output(ctx, pair, (n, Mn, Wq, Wk, Wv), {"heads": heads})
    if Emem is None:
        return
    q, k, y, v = (x[0].reshape(-1, heads, K).transpose(1, 0, 2) for x in (n @ Wq, Mn @ Wk, Emem, Mn))
    P = y @ np.linalg.pinv(v)                                            # (H, T, N), as K > N
    if not np.allclose(P @ v, y):
        yield ("Emem of a head must be a mixture of that head's part of Mn Wv, and is not: does every head keep to its "
               "own K columns, and are Wk and Wv what they should be?")
    elif text := shares_of(P, q @ k.transpose(0, 2, 1) / K**0.5, letters={"K": K}, rows="a token"):
        yield f"Emem: {text}"
    elif not np.allclose(Emem, first_output(ctx, pair, (n, Mn, Wq, Wk, Wv), {"heads": heads})[1]):
        yield ("Emem: the shares of a token in a head are not those of its scores in that head: head h must have the "
               "columns h K to (h + 1) K of n Wq and of Mn Wk")


READ = Pair("memories/lm2", "cross_attention", ("Emem",),
            draws={"plain": _asked(3), "one head": _asked(1), "large": _long},
            looks={"plain": (_shares, influence("Mn", at="slot", out="token"),
                             influence("n", at="token", out="token"))})


def _gated(d):
    B, T, D = d.lengths("BTD")
    return call(d(B, T, D), d(B, T, D), d(B, T, D), d.W(D, D), d(D))


def _long_gate(d):
    D = 96
    return call(d(4, 256, D), d(4, 256, D), d(4, 256, D), d.W(D, D), d(D))


def _gate_shuts(ctx, pair, inputs, constants):
    """With bout far below zero nothing of Emem comes in; far above zero, all of it."""
    x, a, Emem, Wout, bout = inputs
    for bias, expected, text in (
            (-60.0, x + a, "with the gate shut (bout = -60), y must be x + a"),
            (+60.0, x + a + Emem, "with the gate wide open (bout = +60), y must be x + a + Emem")):
        y, _ = first_output(ctx, pair, (x, a, Emem, Wout * 0.1, np.full_like(bout, bias)), constants)
        if y is not None and not np.allclose(y, expected):
            other = x + a + Emem if bias < 0 else x + a
            yield f"{text}, and is not" + (f": it is what bout = {-bias:g} must give, so bout acts the other way round"
                                           if np.allclose(y, other) else "")


def _gate_asks_Emem(ctx, pair, inputs, constants):
    """x passes through: y - x is the same whatever x is."""
    x, *others = inputs
    y, _ = first_output(ctx, pair, inputs, constants)
    without, _ = first_output(ctx, pair, (0 * x, *others), constants)
    if y is not None and without is not None and not np.allclose(y - x, without):
        yield ("y - x changes with x, and x must pass through untouched: what does the gate ask, and what does it "
               "multiply?")


GATE = Pair("layers", "output_gate", ("y",), draws={"plain": _gated, "large": _long_gate},
            looks={"plain": (_gate_shuts, _gate_asks_Emem)})

ASSIGNMENT = Assignment("a4", "reading a memory", (
    Unit(READ.functions, (
        READ.right("plain", 14), READ.right("one head", 6), READ.keeps_contract(5),
        READ.right_back("plain", 24), READ.right_back("one head", 5), READ.keeps_contract_back(6))),
    Unit(GATE.functions, (
        GATE.right("plain", 11), GATE.keeps_contract(4), GATE.right_back("plain", 20),
        GATE.keeps_contract_back(5))),
), hidden=("layers.over_rows",), needs=("gradcheck.check_grads",))
