"""Titans' memory, linear: a matrix that learns from each segment by gradient descent (Behrouz et al. 2024).

    loss     l(M) = |k M - v|^2 / 2 at every token                                    arXiv 2501.00663, equations 11, 12
    write    S_t = eta_t S_(t-1) - theta_t dl/dM,   M_t = a_t M_(t-1) + S_t      momentum and decay, equations 13 and 14
    read     y = q M                                                                                         equation 15

All gradients of a segment are taken at the M that it began with (equations 16 to 18), so its T steps are sums, and the
tokens' steps theta, past eta and keep a (1 - alpha in the paper) enter by their products alone (`carry`). Rows of q and
k have length one. What is read passes LM2's output gate: the paper's memory as context lets a token see later ones.
"""

from typing import Any

from tinylm2 import layers, ops
from tinylm2.backend import Array, check_shapes, get_xp
from tinylm2.memories import primitives

# Read with caution; 32 steps of .03 stay below 2, beyond which descent diverges; .94 of M is there after 32 tokens.
VECTORS = {"mem.bout": -1.0, "mem.bstep": -3.5, "mem.bpast": -2.0, "mem.bkeep": 6.0}
WRITE_USES_READ = False
PAIRS = {"carry": (("B T H", "B T H"), lambda cfg: {})}
check = primitives.check_heads


def param_shapes(cfg: Any) -> dict:
    """Queries, keys, values; step, past and keep of each token and head; the output gate."""
    W, b = (cfg.D, cfg.D), (cfg.H,)
    return {"mem.Wq": W, "mem.Wk": W, "mem.Wv": W, **layers.output_gate_shapes(cfg), "mem.Wrates": (cfg.D, 3 * cfg.H),
            "mem.bstep": b, "mem.bpast": b, "mem.bkeep": b}


def state_shapes(cfg: Any) -> dict:
    """The memory's matrix per head, and its last update."""
    return {"M": (cfg.H, cfg.K, cfg.K), "S": (cfg.H, cfg.K, cfg.K)}


def cost(cfg: Any) -> tuple:
    """(multiply-adds, attention weights) of a segment: the products with q, k, v, and M four times."""
    return cfg.T * cfg.D * (3 * cfg.D + 3 * cfg.H + 4 * cfg.K), 0


first_forward, first_backward = primitives.starts_empty(state_shapes)


def looks(read: Any, write: Any) -> dict:
    """A matrix that learns has no attention weights, and its rates belong to tokens, not to slots."""
    return {}


def read_forward(n: Array, state: tuple, p: dict, *, cfg: Any) -> tuple[Array, Any]:
    """Tokens ask the memory as it was when the segment began.   n (B, T, D), state (M, S) -> y = q M (B, T, D)"""
    check_shapes("titans read", n=(n, "B T D"), M=(state[0], f"B {cfg.H} K K"))
    q, cache = primitives.unit_rows_forward(n, p["mem.Wq"], heads=cfg.H)
    return primitives.join_heads(q @ state[0]), (q, state[0], cache)


def read_backward(dy: Array, cache: Any) -> tuple[Array, tuple[Array, Any], dict[str, Array]]:
    """Gradients at n, the state (M only) and p: y = q M gives dq = dy M' and dM = q' dy."""
    q, M, unit = cache
    dy = primitives.split_heads(dy, q.shape[1])
    dn, dWq = primitives.unit_rows_backward(dy @ M.swapaxes(2, 3), unit)
    return dn, (q.swapaxes(2, 3) @ dy, None), {"mem.Wq": dWq}


def write_forward(seg: Any, state: tuple, p: dict, *, cfg: Any, pad: Any = None) -> tuple[tuple[Array, Array], Any]:
    """T steps of descent at once: M' = b_0 M + c_0 S - k' (P E),   S' = h_0 S - k' (Q E)

    E = k M - v,   P = theta c,   Q = theta h;   seg (n, y, k, v) of which n is used, state (M, S), pad (B,): no step.
    """
    n, (M, S), H = seg[0], state, cfg.H
    check_shapes("titans write", n=(n, "B T D"), M=(M, f"B {H} K K"), S=(S, f"B {H} K K"))
    xp, cache = get_xp(n, M), {"H": H}
    k, cache["k"] = primitives.unit_rows_forward(n, p["mem.Wk"], heads=H)     # (B, H, T, K)
    v, cache["v"] = ops.linear_forward(n, p["mem.Wv"])
    rates, cache["rates"] = ops.linear_forward(n, p["mem.Wrates"])       # (B, T, 3H)
    biases = xp.concatenate([p[f"mem.{name}"] for name in ("bstep", "bpast", "bkeep")])
    rates, cache["sigmoid"] = ops.sigmoid_forward(rates + biases)
    b, c, h, cache["carry"] = carry_forward(rates[..., 2 * H:], rates[..., H:2 * H], pad=pad)
    step = rates[..., :H] * cache["carry"]["written"][..., 1:, :]        # (B, T, H)
    E = k @ M - primitives.split_heads(v, H)
    P, Q = ((step * x[:, 1:]).swapaxes(1, 2)[..., None] for x in (c, h))             # (B, H, T, 1)
    b_0, c_0, h_0 = (x[:, 0, :, None, None] for x in (b, c, h))          # (B, H, 1, 1)
    cache |= {"factors": (M, S, k, E, P, Q, c, h, step), "start": (b_0, c_0, h_0)}
    return (b_0 * M + c_0 * S - k.swapaxes(2, 3) @ (P * E), h_0 * S - k.swapaxes(2, 3) @ (Q * E)), cache


def write_backward(dstate: tuple, cache: Any) -> tuple:
    """Gradients at the segment (n only), the state and p.

    G = k dM' and J = k dS' are the gradients at -P E and -Q E. E is in both; P and Q scale its rows; k is in E and in
    both sums; M is in M' and in E. b_0, c_0, h_0 scale whole matrices, so their gradients are sums over them.
    """
    (dM_next, dS_next), H = dstate, cache["H"]
    (M, S, k, E, P, Q, c, h, step), (b_0, c_0, h_0) = cache["factors"], cache["start"]
    xp, dS_next = get_xp(E), get_xp(S).zeros_like(S) if dS_next is None else dS_next             # a read uses no S
    G, J = k @ dM_next, k @ dS_next                                      # (B, H, T, K)
    dE = -(P * G + Q * J)
    dk = dE @ M.swapaxes(2, 3) - (P * E) @ dM_next.swapaxes(2, 3) - (Q * E) @ dS_next.swapaxes(2, 3)
    dP, dQ = (-xp.einsum("bhtk,bhtk->bth", E, X) for X in (G, J))
    dc, dh = (xp.concatenate((xp.einsum("bhij,bhij->bh", S, dX)[:, None], step * d), 1)
              for dX, d in ((dM_next, dP), (dS_next, dQ)))
    db = xp.concatenate((xp.einsum("bhij,bhij->bh", M, dM_next)[:, None], xp.zeros_like(c[:, 1:])), 1)
    dkeep, dpast = carry_backward(db, dc, dh, cache["carry"])
    dstep = (c[:, 1:] * dP + h[:, 1:] * dQ) * cache["carry"]["written"][..., 1:, :]
    (drates,) = ops.sigmoid_backward(xp.concatenate((dstep, dpast, dkeep), -1), cache["sigmoid"])
    dbias = layers.over_rows(drates)
    dp = {"mem.bstep": dbias[:H], "mem.bpast": dbias[H:2 * H], "mem.bkeep": dbias[2 * H:]}
    dn, dp["mem.Wrates"] = ops.linear_backward(drates, cache["rates"])
    dn_k, dp["mem.Wk"] = primitives.unit_rows_backward(dk, cache["k"])
    dn_v, dp["mem.Wv"] = ops.linear_backward(primitives.join_heads(-dE), cache["v"])
    dn += dn_k + dn_v
    return (dn, None, None, None), (b_0 * dM_next + k.swapaxes(2, 3) @ dE, c_0 * dM_next + h_0 * dS_next), dp


def carry_forward(keep: Array, past: Array, *, pad: Array | None = None) -> tuple[Array, Array, Array, Any]:
    """What token t leaves of what came before it at the segment's end, in M of M (b), in M of S (c), in S of S (h).

    b_T = c_T = h_T = 1,   b_t = a_(t+1) b_(t+1),   h_t = eta_(t+1) h_(t+1),   c_t = b_t + eta_(t+1) c_(t+1)

    keep a and past eta (B, T, H) -> b, c, h (B, T+1, H) for t = 0 .. T. No token made S_0, so c_0 lacks the b_0 that
    its own step would add; padding has a = eta = 1 and makes no step either.
    """
    check_shapes("carry", keep=(keep, "B T H"), past=(past, "B T H"), pad=(pad, "B"))
    xp, (B, T, H) = get_xp(keep, past), keep.shape
    written = (xp.arange(T + 1) > (0 if pad is None else pad[:, None]))[..., None]       # (T+1, 1) or (B, T+1, 1)
    g = xp.where(written[..., 1:, :], xp.concatenate((keep, past), -1), 1)
    last = xp.zeros((B, T + 1, 2 * H), keep.dtype)
    last[:, T] = 1
    both, scan = primitives.scan_forward(g, last)
    b, h = both[..., :H], both[..., H:]
    c, scan_c = primitives.scan_forward(g[..., H:], b * written)
    return b, c, h, {"written": written, "b, h": scan, "c": scan_c}


def carry_backward(db: Array, dc: Array, dh: Array, cache: Any) -> tuple[Array, Array]:
    """Gradients at keep and past: two scans backwards; past drove both, and b was what c added up."""
    (dpast, dinput), H = primitives.scan_backward(dc, cache["c"]), db.shape[-1]
    dg, _ = primitives.scan_backward(get_xp(db).concatenate((db + dinput * cache["written"], dh), -1), cache["b, h"])
    dg[..., H:] += dpast
    dg *= cache["written"][..., 1:, :]
    return dg[..., :H], dg[..., H:]

