"""ARMT's associative memory: the delta rule with a key's share counted once (Rodkin et al. 2024, arXiv 2407.04841).

    write    k = dpfp(R Wk),   v = R Wv,   beta = sigmoid(R Wbeta + bbeta)                                     section 2
             old = k A / den,   den = k z + eps,   gamma = max(0, 1 - den / (k.k + eps))
             A' = A + k' (beta (v - old)),   z' = z + k' gamma
    read     q = dpfp(n Wq),   y = q A / (q z + eps)

R are rows that gather from the segment: LM2's slots here, memory tokens in the paper. A maps keys to values: a new key
adds a value, a known one replaces what A says of it by the share beta (one number per row and head of v; the paper has
one per row). gamma counts a key into z only as far as z does not hold it yet, so old is what was stored and no fraction
of it. The published code takes gamma for a constant in backward; here gamma has its gradient.
"""

from typing import Any

from tinylm2 import layers, ops
from tinylm2.backend import Array, check_shapes, get_xp
from tinylm2.memories import lm2, primitives

VECTORS = {"mem.bout": -1.0, "mem.bbeta": 0.0}           # read with caution; store one half
WRITE_USES_READ = False
POSITIVE = ("z",)
STORY = {"D": 8, "L": 1}                                 # at D=4 features are so sparse that no query meets a key
PAIRS = {"associate": (("B N D", "B D D", "B D", "D C", "D D", "D H", "H"), lambda cfg: {})}
EPS = 1.0                                                # near zero, a query that meets no key would read noise
check = lm2.check                                        # the slots' queries are those of LM2


def param_shapes(cfg: Any) -> dict:
    """Queries and keys D/2 wide, which dpfp makes D; values, the share that is stored, the output gate."""
    narrow = (cfg.D, cfg.D // 2)
    return {"mem.Wq": narrow, "mem.Wk": narrow, "mem.Wv": (cfg.D, cfg.D), **layers.output_gate_shapes(cfg),
            "mem.Wbeta": (cfg.D, cfg.H), "mem.bbeta": (cfg.H,)}


def state_shapes(cfg: Any) -> dict:
    """The sum of key' value, and the sum of keys."""
    return {"A": (cfg.D, cfg.D), "z": (cfg.D,)}


def cost(cfg: Any) -> tuple:
    """(multiply-adds, attention weights) of a segment: the read, the slots' attention, the write of N rows."""
    D, N, T = cfg.D, cfg.N, cfg.T
    gather = 2 * N * T * D + N * D * D                   # D is H K
    read, write = D * D // 2 + D * D + D, D * D // 2 + 3 * D * D + D * cfg.H + 2 * D
    return T * read + gather + N * write, cfg.H * T * N


first_forward, first_backward = primitives.starts_empty(state_shapes)


def looks(read: Any, write: Any) -> dict:
    """From which tokens the rows were gathered; a matrix of associations has no weights to show."""
    return {} if write is None else {"write": ops.attention_weights(write["attention"]["attend"])}


def read_forward(n: Array, state: tuple, p: dict, *, cfg: Any) -> tuple[Array, Any]:
    """Tokens read the values of the keys that their queries resemble.

    n (B, T, D), state (A, z) with A (B, D, D), z (B, D), p with mem.Wq (D, D/2) -> y (B, T, D)
    """
    cache = {}
    q, cache["Wq"] = ops.linear_forward(n, p["mem.Wq"])
    f, cache["dpfp"] = primitives.dpfp_forward(q)
    y, _, cache["recall"] = primitives.recall_forward(f, *state, eps=EPS)
    return y, cache


def read_backward(dy: Array, cache: Any) -> tuple[Array, tuple[Array, Array], dict[str, Array]]:
    """Gradients at n, the state and p: back through the average, the feature map and the product."""
    df, dA, dz = primitives.recall_backward(dy, None, cache["recall"])
    (dq,) = primitives.dpfp_backward(df, cache["dpfp"])
    dn, dWq = ops.linear_backward(dq, cache["Wq"])
    return dn, (dA, dz), {"mem.Wq": dWq}


def write_forward(seg: Any, state: tuple, p: dict, *, cfg: Any, pad: Any = None) -> tuple[tuple[Array, Array], Any]:
    """Slots gather rows from the segment as LM2's do; at one length (dpfp makes next to nothing of a short row), they
    are stored as pairs.   seg (n, y, k, v) of which k and v are used, state (A, z), p, pad (B,) -> (A', z')
    """
    (_, _, k, v), (A, z), cache = seg, state, {}
    R, cache["attention"] = lm2.write_attention_forward(k, v, p["attn.Wqkv"], p["attn.Wo"], heads=(cfg.H, cfg.G),
                                                        slots=cfg.N, pad=pad, base=cfg.base, scaling=cfg.scaling)
    R, cache["rms"] = primitives.set_rms_forward(R)
    A, z, cache["associate"] = associate_forward(R, A, z, p["mem.Wk"], p["mem.Wv"], p["mem.Wbeta"], p["mem.bbeta"])
    return (A, z), cache


def write_backward(dstate: tuple, cache: Any) -> tuple:
    """Gradients at the segment (k and v only), the state and p: the pairs backwards."""
    dR, dA, dz, *dp = associate_backward(dstate[0], dstate[1], cache["associate"])
    (dR,) = primitives.set_rms_backward(dR, cache["rms"])
    dk, dv, *shared = lm2.write_attention_backward(dR, cache["attention"])
    names = "mem.Wk", "mem.Wv", "mem.Wbeta", "mem.bbeta", "attn.Wqkv", "attn.Wo"
    return (None, None, dk, dv), (dA, dz), dict(zip(names, (*dp, *shared), strict=True))


def associate_forward(R: Array, A: Array, z: Array, Wk: Array, Wv: Array, Wbeta: Array, bbeta: Array) -> tuple:
    """Store rows as pairs of key and value; the equations stand at the top of the file. All rows see the old A and z.

    R (B, N, D), A (B, D, D), z (B, D), Wk (D, C) with 2 C = D, Wv (D, D), Wbeta (D, H), bbeta (H,) -> A', z'
    """
    check_shapes("associate", R=(R, "B N D"), A=(A, "B D D"), z=(z, "B D"), Wk=(Wk, "D C"), Wv=(Wv, "D D"),
                 Wbeta=(Wbeta, "D H"), bbeta=(bbeta, "H"))
    xp, cache = get_xp(R, A), {}
    k, cache["Wk"] = ops.linear_forward(R, Wk)
    k, cache["dpfp"] = primitives.dpfp_forward(k)                               # (B, N, D)
    v, cache["Wv"] = ops.linear_forward(R, Wv)
    zbeta, cache["Wbeta"] = ops.linear_forward(R, Wbeta)
    beta, _ = ops.sigmoid_forward(zbeta + bbeta)                         # (B, N, H)
    old, den, cache["recall"] = primitives.recall_forward(k, A, z, eps=EPS)
    length = xp.einsum("bnd,bnd->bn", k, k)[..., None] + EPS             # (B, N, 1)
    gamma = xp.maximum(1 - den / length, 0)
    new = (v - old).reshape(*beta.shape, -1)                             # (B, N, H, K)
    keys, stored = k.swapaxes(1, 2), (beta[..., None] * new).reshape(v.shape)
    cache["factors"] = k, beta, new, stored, den, length, gamma
    return A + keys @ stored, z + (keys @ gamma)[..., 0], cache


def associate_backward(dA_next: Array, dz_next: Array, cache: Any) -> tuple[Array, ...]:
    """Gradients at R, A, z and the four parameters.

    A' = A + k' stored: dA' goes to A, to what is stored through k, and to k through what is stored. stored is a product
    of beta and v - old. gamma, where it is not cut off, falls with den and rises with the key's length; den and old are
    the read's two outputs, so they go back through it together. k has five shares: as key of A' and of z', in the read,
    in its own length. R is key, value and gate: three.
    """
    k, beta, new, stored, den, length, gamma = cache["factors"]
    dstored = k @ dA_next                                                # (B, N, D)
    by_head = dstored.reshape(new.shape)
    dbeta = get_xp(k).einsum("bnhk,bnhk->bnh", by_head, new)
    dv = (by_head * beta[..., None]).reshape(k.shape)                    # and -dv at old
    dshare = (k @ dz_next[..., None]) * (gamma > 0) / -length            # at den / length, which lowers gamma
    dk, dA, dz = primitives.recall_backward(-dv, dshare, cache["recall"])
    dk += stored @ dA_next.swapaxes(1, 2)
    dk += gamma * dz_next[:, None]
    dk -= 2 * k * (dshare * den / length)
    (dzbeta,) = ops.sigmoid_backward(dbeta, beta)
    dR, dWbeta = ops.linear_backward(dzbeta, cache["Wbeta"])
    dR_v, dWv = ops.linear_backward(dv, cache["Wv"])
    dR_k, dWk = ops.linear_backward(primitives.dpfp_backward(dk, cache["dpfp"])[0], cache["Wk"])
    return dR + dR_v + dR_k, dA + dA_next, dz + dz_next, dWk, dWv, dWbeta, layers.over_rows(dzbeta)
