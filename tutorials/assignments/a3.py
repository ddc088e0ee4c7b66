"""Assignment 3: attention."""

import numpy as np

from tutorials.assignments import feedback
from tutorials.assignments.checks import Assignment, Pair, Unit, call, first_output, influence, shares_of


def _turned(**constants):
    def draw(d):
        B, T, H = d.lengths("BTH")
        d.letters["K"] = K = 2 * d.number(2, 4)
        return call(d(B, T, H, K), **constants)
    return draw


def _keeps_lengths(ctx, pair, inputs, constants):
    """A turn makes no pair longer or shorter, leaves place 0 alone, and turns the right way."""
    (x,) = inputs
    y, _ = first_output(ctx, pair, inputs, constants)
    if y is None:
        return
    before, after = (np.hypot(z[..., ::2], z[..., 1::2]) for z in (x, y))
    if not np.allclose(before, after):
        yield ("a turn keeps the length of every pair (2i, 2i+1) of y, and here lengths change: are these the pairs "
               "that turn, and are both signs right?")
    elif not np.allclose(y[:, 0], x[:, 0]) and not constants.get("start"):
        yield "y at place 0 must be x: the angle of position zero is zero"
    elif np.allclose(y, _turned_by(ctx, pair, inputs, constants, -1)):
        yield "y is x turned the other way: is the sign of the sine right?"


def _turns_back(ctx, pair, inputs, constants, upstreams, gradients):
    """dx is dy turned back."""
    (dx,) = gradients if isinstance(gradients, tuple) else (gradients,)
    if getattr(dx, "shape", None) == upstreams[0].shape and np.allclose(
            dx, _turned_by(ctx, pair, upstreams, constants, 1)):
        yield "dx is dy turned forward once more, and the way back turns it back"


def _turned_by(ctx, pair, inputs, constants, way):
    constants = {**constants, "start": way * constants.get("start", 0), "step": way * constants.get("step", 1)}
    return ctx.truth("forward", **pair.call(inputs, constants))["outputs"][0]


ROPE = Pair("ops", "rope", ("y",), draws={
    "plain": _turned(), "from a later position": _turned(start=11, step=2),
    "all at one position": _turned(start=5, step=0), "large": lambda d: call(d(8, 128, 8, 16)),
}, looks={"plain": (_keeps_lengths,)}, looks_back=(_turns_back,))


def _asked(*, causal=False, padded=False, grouped=False, last=False, sharp=False):
    def draw(d):
        B, T, G, K = d.lengths("BTGK")
        U, H = T if causal and not last else T + d.number(1, 3), G * (2 if grouped else 1)
        d.letters.update({"U": U} if U != T else {})
        constants = {"causal": True} if causal else {}
        if padded:
            constants["pad"] = np.array([T - 1, 0, *d.rng.integers(0, T, B)])[:B]
        q = d(B, T, H, K, std=300 if sharp else 1)
        return call(q, d(B, U, G, K), d(B, U, G, K), **constants)
    return draw


def _long(d):
    shape = 2, 256, 4, 10
    return call(d(*shape), d(*shape), d(*shape), causal=True)


def _shares(ctx, pair, inputs, constants):
    """Where only the value at place u is one, y is the share that u gets: so all shares can be read off, and from them
    the scores."""
    q, k, v = inputs
    shares = []
    for u in range(k.shape[1]):
        y, _ = first_output(ctx, pair, (q, k, np.broadcast_to((np.arange(v.shape[1]) == u)[None, :, None, None] * 1.0,
                                                                v.shape)), constants)
        if y is None:
            return
        shares.append(y[..., 0])                                         # (B, T, H)
    K, R = q.shape[-1], q.shape[2] // k.shape[2]
    S = np.einsum("bthk,buhk->bthu", q, np.repeat(k, R, 2)) / K**0.5
    if text := shares_of(np.stack(shares, -1), S, letters={"K": K}):
        yield f"y: {text}"


def _grouped(ctx, pair, inputs, constants):
    """Query head h asks key head h // (H/G), and what it finds is head h of y."""
    q, k, v = inputs
    y, _ = first_output(ctx, pair, inputs, constants)
    if y is None:
        return
    R = q.shape[2] // k.shape[2]
    for asking, g in np.ndindex(q.shape[2], k.shape[2]):
        alone = q[:, :, asking:asking + 1], k[:, :, g:g + 1], v[:, :, g:g + 1]
        right = ctx.truth("forward", **pair.call(alone, constants))["outputs"][0]
        for h in range(q.shape[2]):
            if np.allclose(y[:, :, h:h + 1], right) and (asking, g) != (h, h // R):
                place = "" if h == asking else f", and it stands at head {h}"
                yield (f"y: query head {asking} asks key head {g}{place}; it must ask head {asking // R}: the first "
                       f"{R} query heads share key head 0")
                return


def _heads_add_up(ctx, pair, inputs, constants, upstreams, gradients):
    """A key head was used by R query heads: dk is the sum of their shares, and not one of them."""
    q, k, _ = inputs
    R = q.shape[2] // k.shape[2]
    for r in range(R) if R > 1 and isinstance(gradients, tuple) and len(gradients) == 3 else ():
        only = upstreams[0] * (np.arange(q.shape[2]) % R == r)[:, None]
        alone = ctx.truth("pair", **pair.call(inputs, constants, upstreams=(only,)))["gradients"]
        names = [name for name, a, n in zip(("dk", "dv"), gradients[1:], alone[1:], strict=True)
                 if isinstance(a, np.ndarray) and feedback.same(a, n)]
        if names:
            yield f"{' and '.join(names)}: only query head {r} of each group is in it, and all {R} must be added up"


SEES = influence("k", "v", at="place", out="place")
ATTEND = Pair("ops", "attend", ("y",), draws={
    "plain": _asked(), "causal": _asked(causal=True), "padded": _asked(padded=True),
    "causal and padded": _asked(causal=True, padded=True), "grouped heads": _asked(grouped=True),
    "causal, the last rows ask": _asked(causal=True, last=True), "large scores": _asked(sharp=True),
    "large": _long,
}, looks={"plain": (_shares, SEES), "causal": (SEES,), "padded": (SEES,), "causal and padded": (SEES,),
          "causal, the last rows ask": (SEES,), "grouped heads": (_grouped,)}, looks_back=(_heads_add_up,),
   questions={"sqrt(K)": "did you scale the scores?", "1/sqrt(K)": "did you scale twice?",
              "K": "did you scale the scores by sqrt(K), once?"})


def _layer(*, padded=False, last=None, past=False):
    def draw(d):
        B, T, D, G = d.lengths("BTDG")
        H, K = 2 * G, 4
        d.letters["K"] = K
        constants = {"heads": (H, G), "last": last, "start": 3 if past else 0}
        if padded:
            constants["pad"] = np.array([1, 0, *[0] * B])[:B]
        before = (d(B, 3, G, K), d(B, 3, G, K)) if past else None
        return call(d(B, T, D), before, d.W(D, (H + 2 * G) * K), d.W(H * K, D), **constants)
    return draw


LAYER = Pair("layers", "self_attention", ("a", "k", "v"), draws={
    "plain": _layer(), "the last rows ask": _layer(last=1), "after a past": _layer(past=True),
    "no slot asks": _layer(padded=True),
    "large": lambda d: call(d(2, 128, 40), None, d.W(40, 80), d.W(40, 40), heads=(4, 2)),
}, unasked={"no slot asks": (1, 2)})

ASSIGNMENT = Assignment("a3", "attention", (
    Unit(ROPE.functions, (
        ROPE.right("plain", 6), ROPE.right("from a later position", 2), ROPE.keeps_contract(2),
        ROPE.right_back("plain", 6), ROPE.right_back("all at one position", 2), ROPE.keeps_contract_back(2))),
    Unit(ATTEND.functions, (
        ATTEND.right("plain", 8), ATTEND.right("causal", 6), ATTEND.right("causal, the last rows ask", 2),
        ATTEND.right("padded", 3), ATTEND.right("causal and padded", 3), ATTEND.right("grouped heads", 3),
        ATTEND.right("large scores", 2), ATTEND.keeps_contract(2),
        ATTEND.right_back("plain", 15), ATTEND.right_back("causal", 5), ATTEND.right_back("causal and padded", 4),
        ATTEND.right_back("grouped heads", 5), ATTEND.keeps_contract_back(2))),
    Unit(("layers.self_attention_backward",), (
        LAYER.right_back("plain", 9, given=True), LAYER.right_back("no slot asks", 3, given=True),
        LAYER.right_back("the last rows ask", 3, given=True), LAYER.right_back("after a past", 3, given=True),
        LAYER.keeps_contract_back(2, given=True))),
), hidden=("ops.Attended",), needs=("gradcheck.check_grads", "layers.self_attention_forward"))
