"""LM2's memory (Kang et al. 2025, arXiv 2502.06049): a bank of N slots, read by cross-attention, kept by gates.

    read     tokens look into the bank M by cross-attention                                             equation 1
             (the result passes the output gate of `layers`: equations 2 and 3)
    write    slots gather rows R from the segment by attention, and two gates update the bank           equations 4 to 6

The paper's write adds T token rows to N slot rows; the shapes do not match. Here each slot first gathers one row of
its own, then the gates act. docs/MODEL.md says why.
"""

from typing import Any

from tinylm2 import layers, ops
from tinylm2.backend import Array, check_shapes, get_xp

VECTORS = {"mem.g": 1.0, "mem.bin": 0.0, "mem.bout": -1.0, "mem.bforget": 3.0}   # read little at first, forget slowly
WRITE_USES_READ = False
PAGE_WRITE = "gather"
PAIRS = {
    "cross_attention": (("B T D", "B N D", "D D", "D D", "D D"), lambda cfg: {"heads": cfg.H}),
    "write_attention": (("B T G K", "B T G K", "D QKV", "HK D"),
                        lambda cfg: {"heads": (cfg.H, cfg.G), "slots": cfg.N}),
    "memory_update": (("B N D", "B N D", "D D", "D", "D D", "D"), lambda cfg: {}),
    "gated_sum": (("B N D",) * 4, lambda cfg: {}),
}


def check(cfg: Any) -> None:
    """ValueError where the first bank, N rows of the identity, does not exist."""
    if cfg.N > cfg.D:
        raise ValueError(f"config: N={cfg.N} slots, expected at most D={cfg.D}")


def param_shapes(cfg: Any) -> dict:
    """The bank's norm, the read, the output gate, the write's two gates."""
    W, b = (cfg.D, cfg.D), (cfg.D,)
    return {"mem.g": b, "mem.Wq": W, "mem.Wk": W, "mem.Wv": W, **layers.output_gate_shapes(cfg), "mem.Win": W,
            "mem.Wforget": W, "mem.bin": b, "mem.bforget": b}


def state_shapes(cfg: Any) -> dict:
    """The bank."""
    return {"M": (cfg.N, cfg.D)}


def cost(cfg: Any) -> tuple[int, int]:
    """(multiply-adds, attention weights) of a segment: the read and the write."""
    D, N, T, HK = cfg.D, cfg.N, cfg.T, cfg.H * cfg.K
    read = T * D * D + 2 * N * D * D + 2 * T * N * D
    return read + 2 * N * T * HK + N * HK * D + 2 * N * D * D, 2 * cfg.H * T * N


def first_forward(p: dict, *, cfg: Any, B: int) -> tuple[tuple[Array], Any]:
    """The bank before the first segment, the same for every story: the first N rows of the identity, a constant."""
    g = p["mem.g"]
    xp = get_xp(g)
    return (xp.broadcast_to(xp.eye(cfg.N, cfg.D, dtype=g.dtype), (B, cfg.N, cfg.D)),), None


def first_backward(dstate: Any, cache: Any) -> dict:
    """A constant start has no gradient."""
    return {}


def looks(read: Any, write: Any) -> Any:
    """The attention weights (B, H, ., .) and gates in the caches of read and write (None: no write, so no gates)."""
    found = {"read": ops.attention_weights(read["attention"]["attend"])}
    if write is not None:
        gates = write["update"]["gates"]
        found |= {"write": ops.attention_weights(write["attention"]["attend"]), "input": gates["gin"],
                  "forget": gates["gforget"]}
    return found


def read_forward(n: Array, state: tuple, p: dict, *, cfg: Any) -> tuple[Array, Any]:
    """Tokens read the bank: rmsnorm of its slots, then cross-attention.

    n (B, T, D), state (M,) with M (B, N, D), p with mem.g, mem.Wq, mem.Wk, mem.Wv -> Emem (B, T, D)
    """
    (M,), cache = state, {}
    Mn, cache["norm"] = ops.rmsnorm_forward(M, p["mem.g"], eps=cfg.eps)
    Emem, cache["attention"] = cross_attention_forward(n, Mn, p["mem.Wq"], p["mem.Wk"], p["mem.Wv"], heads=cfg.H)
    return Emem, cache


def read_backward(dEmem: Array, cache: Any) -> tuple[Array, tuple[Array], dict[str, Array]]:
    """Gradients at n, the state and p: back through the cross-attention, then through the norm."""
    dp = {}
    dn, dMn, dp["mem.Wq"], dp["mem.Wk"], dp["mem.Wv"] = cross_attention_backward(dEmem, cache["attention"])
    dM, dp["mem.g"] = ops.rmsnorm_backward(dMn, cache["norm"])
    return dn, (dM,), dp


def cross_attention_forward(n: Array, Mn: Array, Wq: Array, Wk: Array, Wv: Array, *, heads: int) -> tuple[Array, Any]:
    """Tokens read the bank by cross-attention.                                                          LM2, equation 1

    Emem = softmax(Q K' / sqrt(K)) V,   Q = n Wq,   K = Mn Wk,   V = Mn Wv      in `heads` heads, never grouped

    n (B, T, D) token rows, Mn (B, N, D) the bank's normed slots, Wq, Wk, Wv (D, D) -> Emem (B, T, D). No mask: the
    bank is the one from before the segment, so it holds nothing of this segment.
    """
    check_shapes("cross_attention", n=(n, "B T D"), Mn=(Mn, "B N D"), Wq=(Wq, "D D"), Wk=(Wk, "D D"), Wv=(Wv, "D D"))
    cache = {}
    q, cache["q"] = ops.linear_forward(n, Wq)
    k, cache["k"] = ops.linear_forward(Mn, Wk)
    v, cache["v"] = ops.linear_forward(Mn, Wv)
    q, k, v = (x.reshape(*x.shape[:2], heads, x.shape[2] // heads) for x in (q, k, v))
    y, cache["attend"] = ops.attend_forward(q, k, v)
    return y.reshape(n.shape), cache


def cross_attention_backward(dEmem: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Gradients at n, Mn, Wq, Wk and Wv: the slots are both keys and values, so dMn has two shares."""
    by_head = ops.attend_backward(dEmem.reshape(cache["attend"].y.shape), cache["attend"])
    dq, dk, dv = (dx.reshape(*dx.shape[:2], dEmem.shape[2]) for dx in by_head)
    dn, dWq = ops.linear_backward(dq, cache["q"])
    dMn, dWk = ops.linear_backward(dk, cache["k"])
    dMn_v, dWv = ops.linear_backward(dv, cache["v"])
    dMn += dMn_v
    return dn, dMn, dWq, dWk, dWv


def write_forward(seg: Any, state: tuple, p: dict, *, cfg: Any, pad: Array | None = None) -> tuple[tuple[Array], Any]:
    """The slots gather rows from the segment's keys and values, and the gates update the bank.

    seg (n, y, k, v) of which k and v are used, state (M,), p with the block's attn.Wqkv and attn.Wo and the gates'
    matrices, pad (B,) -> (M',), each bank (B, N, D).
    """
    (_, _, k, v), (M,), cache = seg, state, {}
    R, cache["attention"] = write_attention_forward(k, v, p["attn.Wqkv"], p["attn.Wo"], heads=(cfg.H, cfg.G),
                                                    slots=M.shape[1], pad=pad, base=cfg.base, scaling=cfg.scaling)
    M_next, cache["update"] = memory_update_forward(R, M, p["mem.Win"], p["mem.bin"], p["mem.Wforget"],
                                                    p["mem.bforget"])
    return (M_next,), cache


def write_backward(dstate: tuple, cache: Any) -> tuple[tuple[Any, Any, Array, Array], tuple[Array], dict[str, Array]]:
    """Gradients at the segment (k and v only), the state and p: the two pairs backwards."""
    (dM_next,), dp = dstate, {}
    dR, dM, dp["mem.Win"], dp["mem.bin"], dp["mem.Wforget"], dp["mem.bforget"] = memory_update_backward(
        dM_next, cache["update"])
    dk, dv, dp["attn.Wqkv"], dp["attn.Wo"] = write_attention_backward(dR, cache["attention"])
    return (None, None, dk, dv), (dM,), dp


def write_attention_forward(k: Array, v: Array, Wqkv: Array, Wo: Array, *, heads: Any, slots: int, pad: Any = None,
                            start: int | None = None, **rope: Any) -> tuple[Array, Any]:
    """Slots gather rows from the segment: each slot is one more query, at the position after the last token.

    R = attend(rope(address Wq at position T), k, v) Wo,   address = first N rows of the identity, times sqrt(D)

    k, v (B, T, G, K) the segment's rotated keys and its values, Wqkv (D, (H+2G)K) and Wo (HK, D) the block's own
    self-attention -> R (B, N, D), which takes the place of token rows in `memory_update`. `heads` is (H, G), N <= D.
    address Wq is just sqrt(D) times the first N rows of Wq, the same for every story, so it is computed once for the
    batch. start: the position of the slots, where it is not T. rope: base and scaling of `ops.rope_forward`.
    """
    H, G = heads
    K = k.shape[-1]
    check_shapes("write_attention", k=(k, f"B T {G} K"), v=(v, f"B T {G} K"), Wqkv=(Wqkv, f"D {(H + 2 * G) * K}"),
                 Wo=(Wo, f"{H * K} D"))
    B, T = k.shape[:2]
    xp = get_xp(k, Wqkv)
    cache = {"heads": H, "D": Wqkv.shape[0], "Wqkv": Wqkv}
    address = Wqkv[:slots, :H * K].reshape(1, slots, H, K) * Wqkv.shape[0] ** 0.5
    q, cache["rope"] = ops.rope_forward(address, start=T if start is None else start, step=0, **rope)   # (1, N, H, K)
    y, cache["attend"] = ops.attend_forward(xp.broadcast_to(q, (B, slots, H, K)), k, v, pad=pad)
    R, cache["out"] = ops.linear_forward(y.reshape(B, slots, H * K), Wo)
    return R, cache


def write_attention_backward(dR: Array, cache: Any) -> tuple[Array, Array, Array, Array]:
    """Gradients at k, v, Wqkv and Wo.

    All stories share one set of slot queries, so its gradient is summed over B. It belongs to the first N rows of Wq's
    columns. No other entry of Wqkv was used, so their gradient is zero.
    """
    Wqkv = cache["Wqkv"]
    B, N, _ = dR.shape
    dy, dWo = ops.linear_backward(dR, cache["out"])
    H = cache["heads"]
    dq, dk, dv = ops.attend_backward(dy.reshape(B, N, H, -1), cache["attend"])
    (daddress,) = ops.rope_backward(dq.sum(0, keepdims=True), cache["rope"])
    dWqkv = get_xp(dR).zeros(Wqkv.shape, dR.dtype)
    dWqkv[:N, :dy.shape[-1]] = daddress.reshape(N, -1) * cache["D"] ** 0.5
    return dk, dv, dWqkv, dWo


def memory_update_forward(R: Array, M: Array, Win: Array, bin: Array, Wforget: Array, bforget: Array) -> tuple:
    """The write: one gate lets the gathered rows in, another keeps the old ones.                 LM2, equations 4 to 6

    gin = sigmoid(R Win + bin),   gforget = sigmoid(R Wforget + bforget),   M' = gin * tanh(R) + gforget * M

    R gathered rows and M the bank, both (B, N, D); W (D, D); b (D,) -> M' (B, N, D). Both gates see R, not the
    bank: gates that see the bank, too, as in an LSTM, forget sooner (docs/MODEL.md). The paper has no b; bforget > 0
    makes an untrained bank keep what it holds.
    """
    check_shapes("memory_update", R=(R, "B N D"), M=(M, "B N D"), Win=(Win, "D D"), bin=(bin, "D"),
                 Wforget=(Wforget, "D D"), bforget=(bforget, "D"))
    cache = {}
    zin, cache["Win"] = ops.linear_forward(R, Win)                       # equation 4, before the sigmoid
    zin += bin
    zforget, cache["Wforget"] = ops.linear_forward(R, Wforget)           # equation 5, before the sigmoid
    zforget += bforget
    M_next, cache["gates"] = gated_sum_forward(zin, zforget, R, M)
    return M_next, cache


def memory_update_backward(dM_next: Array, cache: Any) -> tuple[Array, ...]:
    """Gradients at all six arguments. R feeds both gates and the content, so its gradient has three shares."""
    dzin, dzforget, dR, dM = gated_sum_backward(dM_next, cache["gates"])
    dR_in, dWin = ops.linear_backward(dzin, cache["Win"])
    dR_forget, dWforget = ops.linear_backward(dzforget, cache["Wforget"])
    dR += dR_in
    dR += dR_forget
    return dR, dM, dWin, layers.over_rows(dzin), dWforget, layers.over_rows(dzforget)


def gated_sum_forward(zin: Array, zforget: Array, R: Array, M: Array) -> tuple[Array, Any]:
    """Equation 6, which `pooled` shares: M' = sigmoid(zin) * tanh(R) + sigmoid(zforget) * M.   all (B, N, D)"""
    check_shapes("gated_sum", zin=(zin, "B N D"), zforget=(zforget, "B N D"), R=(R, "B N D"), M=(M, "B N D"))
    gin, _ = ops.sigmoid_forward(zin)
    gforget, _ = ops.sigmoid_forward(zforget)
    content, _ = ops.tanh_forward(R)
    M_next = gin * content
    M_next += gforget * M
    return M_next, {"gin": gin, "gforget": gforget, "content": content, "M": M}


def gated_sum_backward(dM_next: Array, cache: Any) -> tuple[Array, Array, Array, Array]:
    """Gradients at zin, zforget, R and M: in each product, one factor's gradient is scaled by the other factor."""
    gin, gforget, content = cache["gin"], cache["gforget"], cache["content"]
    (dzin,) = ops.sigmoid_backward(dM_next * content, gin)
    (dR,) = ops.tanh_backward(dM_next * gin, content)
    (dzforget,) = ops.sigmoid_backward(dM_next * cache["M"], gforget)
    return dzin, dzforget, dR, dM_next * gforget
