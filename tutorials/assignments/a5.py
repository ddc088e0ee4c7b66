"""Assignment 5: writing a memory."""

import numpy as np

from tinylm2 import ops
from tutorials.assignments.checks import Assignment, Pair, Unit, call, first_output, influence, shares_of


def _gathered(*, padded=False, grouped=False):
    def draw(d):
        B, T, N, G = d.lengths("BTNG")
        H, K, D = G * (2 if grouped else 1), 4, 10
        d.letters.update(K=K, D=D)
        constants = {"pad": np.array([T - 1, 0, *d.rng.integers(0, T, B)])[:B]} if padded else {}
        return call(d(B, T, G, K), d(B, T, G, K), d.W(D, (H + 2 * G) * K), d.W(H * K, D), heads=(H, G), slots=N,
                    **constants)
    return draw


def _long(d):
    G, K, D = 4, 10, 40
    return call(d(8, 128, G, K), d(8, 128, G, K), d.W(D, 3 * G * K), d.W(G * K, D), heads=(G, G), slots=16)


def _order_of_tokens(ctx, pair, inputs, constants):
    """A slot stands after every token: k and v shuffled together give the same R."""
    k, v, Wqkv, Wo = inputs
    R, _ = first_output(ctx, pair, inputs, constants)
    shuffled, _ = first_output(ctx, pair, (k[:, ::-1], v[:, ::-1], Wqkv, Wo), constants)
    if R is not None and shuffled is not None and not np.allclose(R, shuffled):
        yield "R changes with the order of k and v, and a slot sees every token alike: is there a mask too many?"


def _stands_after_the_last(ctx, pair, inputs, constants):
    """A slot's position is T. Standing elsewhere is the same as the tokens standing elsewhere."""
    k, *others = inputs
    R, _ = first_output(ctx, pair, inputs, constants)
    T = k.shape[1]
    for place in range(T + 3):
        moved, _ = ops.rope_forward(k, start=T - place, step=0)
        _, there = first_output(ctx, pair, (moved, *others), constants)
        if R is not None and place != T and np.allclose(R, there):
            yield f"R is what slots gather that stand at position {place}, and they must stand at position T, here {T}"


def _shares(ctx, pair, inputs, constants):
    """Three tokens, heads of width 4 and Wo the identity: the shares can be read off R, and from them the scores."""
    d = ctx.draw()
    T, G, K, N, D = 3, 2, 4, 2, 8
    k, v, Wqkv = d(1, T, G, K), d(1, T, G, K), d.W(D, 3 * G * K)
    R, _ = first_output(ctx, pair, (k, v, Wqkv, np.eye(D)), {"heads": (G, G), "slots": N})
    if R is None:
        return
    q, _ = ops.rope_forward(Wqkv[None, :N, :D].reshape(1, N, G, K) * D**0.5, start=T, step=0)
    q, k, y, v = (x[0].transpose(1, 0, 2) for x in (q, k, R.reshape(1, N, G, K), v))
    P = y @ np.linalg.pinv(v)                                            # (G, N, T), as K > T
    if np.allclose(P @ v, y) and (text := shares_of(P, q @ k.transpose(0, 2, 1) / K**0.5, letters={"D": D, "K": K},
                                                    rows="a slot")):
        yield f"R: {text}"


SEES = influence("k", "v", at="token", out="slot")
WRITE = Pair("memories/lm2", "write_attention", ("R",), draws={
    "plain": _gathered(), "large": _long, "padded": _gathered(padded=True), "grouped heads": _gathered(grouped=True),
}, looks={"plain": (_shares, _stands_after_the_last, _order_of_tokens, SEES), "padded": (SEES,)},
   questions={"sqrt(D)": "is the address sqrt(D) times a row of the identity on the way back, too?",
              "1/sqrt(D)": "is the address sqrt(D) times a row of the identity on the way back, too?"})


def _gated(d):
    B, N, D = d.lengths("BND")
    return call(d(B, N, D), d(B, N, D), d.W(D, D), d(D), d.W(D, D), d(D))


def _many_gates(d):
    B, N, D = 8, 64, 96
    return call(d(B, N, D), d(B, N, D), d.W(D, D), d(D), d.W(D, D), d(D))


def _opens_and_shuts(ctx, pair, inputs, constants):
    """Gates far open and far shut leave nothing but the old bank, or nothing but the new content; half open, half of
    it."""
    R, M, *W = inputs
    W = [w * 0.1 for w in W]
    corners = {(-60, 60): M, (60, -60): np.tanh(R), (-60, -60): 0 * M, (60, 60): np.tanh(R) + M}
    for (bin, bforget), name in (((-60, 60), "M"), ((60, -60), "tanh(R)")):
        found, _ = _gates_at(ctx, pair, R, M, W, bin, bforget)
        if found is not None and not np.allclose(found, corners[bin, bforget]):
            text = (f"with input gate {_state(bin)} and forget gate {_state(bforget)} (bin = {bin}, bforget = "
                    f"{bforget}), M' must be {name}, and is not")
            seen = next((corner for corner, value in corners.items() if np.allclose(found, value)), None)
            ways = {(-bin, -bforget): ": it is the other one, are the gates swapped?",
                    (-bin, bforget): f": the input gate is {_state(-bin)}, so bin acts the other way round",
                    (bin, -bforget): f": the forget gate is {_state(-bforget)}, so bforget acts the other way round"}
            yield text + ways.get(seen, "")
    W[0] = 0 * W[0]
    found, _ = _gates_at(ctx, pair, R, M, W, 0, -60)
    if found is not None and not np.allclose(found, np.tanh(R) / 2):
        yield ("with the input gate half open (Win = 0, bin = 0) and the forget gate shut, M' must be tanh(R)/2, and "
               "is not: what comes in must be the gate times tanh(R)")


def _gates_at(ctx, pair, R, M, W, bin, bforget):
    """M' where the biases have these values."""
    W = W[0], np.full_like(W[1], bin), W[2], np.full_like(W[3], bforget)
    return first_output(ctx, pair, (R, M, *W), {})


def _state(bias):
    return "open" if bias > 0 else "shut"


UPDATE = Pair("memories/lm2", "memory_update", ("M'",), draws={"plain": _gated, "large": _many_gates},
              looks={"plain": (_opens_and_shuts,)})

ASSIGNMENT = Assignment("a5", "writing a memory", (
    Unit(WRITE.functions, (
        WRITE.right("plain", 14), WRITE.right("padded", 5), WRITE.right("grouped heads", 5),
        WRITE.keeps_contract(4),
        WRITE.right_back("plain", 18), WRITE.right_back("padded", 4), WRITE.right_back("grouped heads", 5),
        WRITE.keeps_contract_back(5))),
    Unit(UPDATE.functions, (
        UPDATE.right("plain", 12), UPDATE.keeps_contract(4), UPDATE.right_back("plain", 20),
        UPDATE.keeps_contract_back(4))),
), hidden=("memories/lm2.gated_sum_forward", "memories/lm2.gated_sum_backward"), needs=("gradcheck.check_grads",))
