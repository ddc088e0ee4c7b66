"""The memory of LM2 (Kang et al. 2025, arXiv 2502.06049): one pair an equation group.

A block owns a bank M of N slots, each D wide. `read` lets the tokens look into it, `merge` lets what they found into
the residual stream, `gather` lets the slots look at the tokens, `gates` rewrites them. Where the paper is silent or
cannot be meant (its write adds T token rows to N slot rows), docs/MODEL.md says what stands here and why.
"""

from tinylm2 import ops
from tinylm2.backend import expect, get_xp


def read_forward(n, Mn, Wq, Wk, Wv, *, heads):
    """Tokens read the bank by cross-attention.                                                          LM2, equation 1

    Emem = softmax(Q K' / sqrt(d)) V,   Q = n Wq,   K = Mn Wk,   V = Mn Wv      in `heads` heads, never grouped

    n (B, T, D) token rows, Mn (B, N, D) the bank's normed slots, Wq, Wk, Wv (D, D) -> Emem (B, T, D). No mask: the bank
    as it stood when the segment began holds nothing of this segment.
    """
    expect("read", n=(n, "B T D"), Mn=(Mn, "B N D"), Wq=(Wq, "D D"), Wk=(Wk, "D D"), Wv=(Wv, "D D"))
    cache = {"heads": heads}
    q, cache["q"] = ops.linear_forward(n, Wq)
    k, cache["k"] = ops.linear_forward(Mn, Wk)
    v, cache["v"] = ops.linear_forward(Mn, Wv)
    y, cache["attend"] = ops.attend_forward(_split(q, heads), _split(k, heads), _split(v, heads))
    return y.reshape(n.shape), cache


def read_backward(dEmem, cache):
    """Gradients at n, Mn, Wq, Wk and Wv: the slots are both keys and values, so dMn has two shares."""
    dq, dk, dv = ops.attend_backward(_split(dEmem, cache["heads"]), cache["attend"])
    dn, dWq = ops.linear_backward(dq.reshape(dEmem.shape), cache["q"])
    dMn, dWk = ops.linear_backward(_join(dk), cache["k"])
    dMn_v, dWv = ops.linear_backward(_join(dv), cache["v"])
    dMn += dMn_v
    return dn, dMn, dWq, dWk, dWv


def merge_forward(x, a, Emem, Wout, bout):
    """The output gate lets what was read into the residual stream.                               LM2, equations 2 and 3

    gout = sigmoid(Emem Wout + bout),   y = x + a + gout * Emem

    x, a, Emem (B, T, D), Wout (D, D), bout (D,) -> y (B, T, D). Equation 3 is printed with the bank where Emem must
    stand. The gate is asked what was read, not who asks.
    """
    expect("merge", x=(x, "B T D"), a=(a, "B T D"), Emem=(Emem, "B T D"), Wout=(Wout, "D D"), bout=(bout, "D"))
    cache = {"Emem": Emem}
    z, cache["Wout"] = ops.linear_forward(Emem, Wout)
    z += bout
    gout, cache["gout"] = ops.sigmoid_forward(z)
    y = gout * Emem
    y += x
    y += a
    return y, cache


def merge_backward(dy, cache):
    """Gradients at x, a, Emem, Wout and bout.

    The sum hands dy to x and to a untouched. Emem has two shares: through the product (dy * gout) and through the gate
    that it opens itself.
    """
    gout = cache["gout"]
    (dz,) = ops.sigmoid_backward(dy * cache["Emem"], gout)
    dEmem, dWout = ops.linear_backward(dz, cache["Wout"])
    dEmem += dy * gout
    return dy, dy, dEmem, dWout, _over_rows(dz)


def gather_forward(k, v, Wqkv, Wo, *, heads, slots, pad=None):
    """Slots ask the segment: a slot is one more token that stands right after the last one.

    R = attend(rope(address Wq at position T), k, v) Wo,   address = first N rows of the identity, times sqrt(D)

    k, v (B, T, G, K) the segment's rotated keys and its values, Wqkv (D, (H+2G)K) and Wo (HK, D) the block's own
    self-attention -> R (B, N, D), which takes the place of token rows in `gates`. `heads` is (H, G), N <= D. address Wq
    is just sqrt(D) times the first N rows of Wq, the same for every story, so it is computed once for the batch.
    """
    H, G = heads
    K = k.shape[-1]
    expect("gather", k=(k, f"B T {G} K"), v=(v, f"B T {G} K"), Wqkv=(Wqkv, f"D {(H + 2 * G) * K}"),
           Wo=(Wo, f"{H * K} D"))
    B, T = k.shape[:2]
    xp = get_xp(k, Wqkv)
    cache = {"heads": H, "D": Wqkv.shape[0], "Wqkv": Wqkv}
    asked = Wqkv[:slots, :H * K].reshape(1, slots, H, K) * Wqkv.shape[0] ** 0.5
    q, cache["rope"] = ops.rope_forward(asked, start=T, step=0)          # (1, N, H, K)
    y, cache["attend"] = ops.attend_forward(xp.broadcast_to(q, (B, slots, H, K)), k, v, pad=pad)
    R, cache["out"] = ops.linear_forward(y.reshape(B, slots, H * K), Wo)
    return R, cache


def gather_backward(dR, cache):
    """Gradients at k, v, Wqkv and Wo.

    One set of slot queries asked every story, so their gradient is summed over B; it lands in the first N rows of Wq's
    columns, and every other entry of Wqkv met nothing here.
    """
    Wqkv = cache["Wqkv"]
    B, N, _ = dR.shape
    dy, dWo = ops.linear_backward(dR, cache["out"])
    H = cache["heads"]
    dq, dk, dv = ops.attend_backward(dy.reshape(B, N, H, -1), cache["attend"])
    (dasked,) = ops.rope_backward(dq.sum(0, keepdims=True), cache["rope"])
    dWqkv = get_xp(dR).zeros(Wqkv.shape, dR.dtype)
    dWqkv[:N, :dy.shape[-1]] = dasked.reshape(N, -1) * cache["D"] ** 0.5
    return dk, dv, dWqkv, dWo


def gates_forward(R, M, Win, bin, Wforget, bforget):
    """The write: what was gathered comes in by one gate, what was there stays by another.        LM2, equations 4 to 6

    gin = sigmoid(R Win + bin),   gforget = sigmoid(R Wforget + bforget),   M' = gin * tanh(R) + gforget * M

    R gathered rows and M the bank, both (B, N, D); W (D, D); b (D,) -> M' (B, N, D). Both gates ask what arrives, not
    what they would overwrite: gates that see the bank, too, as an LSTM's do, forget sooner (docs/MODEL.md). The paper
    has no b, with which a new bank begins by keeping.
    """
    expect("gates", R=(R, "B N D"), M=(M, "B N D"), Win=(Win, "D D"), bin=(bin, "D"), Wforget=(Wforget, "D D"),
           bforget=(bforget, "D"))
    cache = {}
    zin, cache["Win"] = ops.linear_forward(R, Win)
    zin += bin
    zforget, cache["Wforget"] = ops.linear_forward(R, Wforget)
    zforget += bforget
    M_next, cache["update"] = update_forward(zin, zforget, R, M)
    return M_next, cache


def gates_backward(dM_next, cache):
    """Gradients at all six arguments; R drives both gates and is the content, too: three shares."""
    dzin, dzforget, dR, dM = update_backward(dM_next, cache["update"])
    dR_in, dWin = ops.linear_backward(dzin, cache["Win"])
    dR_forget, dWforget = ops.linear_backward(dzforget, cache["Wforget"])
    dR += dR_in
    dR += dR_forget
    return dR, dM, dWin, _over_rows(dzin), dWforget, _over_rows(dzforget)


def update_forward(zin, zforget, R, M):
    """What both writes share: M' = sigmoid(zin) * tanh(R) + sigmoid(zforget) * M.   all (B, N, D)"""
    expect("update", zin=(zin, "B N D"), zforget=(zforget, "B N D"), R=(R, "B N D"), M=(M, "B N D"))
    gin, _ = ops.sigmoid_forward(zin)
    gforget, _ = ops.sigmoid_forward(zforget)
    content, _ = ops.tanh_forward(R)
    M_next = gin * content
    M_next += gforget * M
    return M_next, {"gin": gin, "gforget": gforget, "content": content, "M": M}


def update_backward(dM_next, cache):
    """Gradients at zin, zforget, R and M: each product hands its gradient to one factor, scaled by the other."""
    gin, gforget, content = cache["gin"], cache["gforget"], cache["content"]
    (dzin,) = ops.sigmoid_backward(dM_next * content, gin)
    (dR,) = ops.tanh_backward(dM_next * gin, content)
    (dzforget,) = ops.sigmoid_backward(dM_next * cache["M"], gforget)
    return dzin, dzforget, dR, dM_next * gforget


def slots_write_forward(n, Emem, k, v, M, p, *, heads, pad=None):
    """`gather`, then `gates`: M' from the segment's keys and values, the bank and the block's p.

    Shapes as there. n and Emem, which only the printed write asks for, are left alone: their gradients are None.
    """
    cache = {}
    R, cache["gather"] = gather_forward(k, v, p["attn.Wqkv"], p["attn.Wo"], heads=heads, slots=M.shape[1], pad=pad)
    M_next, cache["gates"] = gates_forward(R, M, p["mem.Win"], p["mem.bin"], p["mem.Wforget"], p["mem.bforget"])
    return M_next, cache


def slots_write_backward(dM_next, cache):
    """Gradients at n, Emem (None), k, v, M and p: the two pairs backwards."""
    dp = {}
    dR, dM, dp["mem.Win"], dp["mem.bin"], dp["mem.Wforget"], dp["mem.bforget"] = gates_backward(dM_next, cache["gates"])
    dk, dv, dp["attn.Wqkv"], dp["attn.Wo"] = gather_backward(dR, cache["gather"])
    return None, None, dk, dv, dM, dp


def printed_write_forward(n, Emem, k, v, M, p, *, heads, pad=None):
    """The write as printed: no b, the input gate asked by other rows, token rows averaged until they fit the slots.

    gin = sigmoid(pool(n) Win),   gforget = sigmoid(pool(Emem) Wforget),   M' = gin * tanh(pool(Emem)) + gforget * M

    n, Emem (B, T, D), M (B, N, D), p with mem.Win and mem.Wforget (D, D), pad (B,) -> M' (B, N, D). Row r of the pool
    averages the real tokens among floor(r T / N) .. ceil((r+1) T / N) - 1; a row that has none keeps its slot as it
    was. k and v, which only the slots' write asks for, are left alone: their gradients are None.
    """
    expect("printed_write", n=(n, "B T D"), Emem=(Emem, "B T D"), M=(M, "B N D"), pad=(pad, "B"))
    xp = get_xp(n, Emem, M)
    pool = _pool(xp, n.shape[1], M.shape[1], pad).astype(n.dtype)        # (1 or B, N, T)
    written = pool.any(-1, keepdims=True)                                # (1 or B, N, 1)
    cache = {"pool": pool, "written": written}
    E_rows, R = pool @ n, pool @ Emem                                    # (B, N, D)
    zin, cache["Win"] = ops.linear_forward(E_rows, p["mem.Win"])
    zforget, cache["Wforget"] = ops.linear_forward(R, p["mem.Wforget"])
    M_next, cache["update"] = update_forward(zin, zforget, R, M)
    return xp.where(written, M_next, M), cache


def printed_write_backward(dM_next, cache):
    """Gradients at n, Emem, k, v (None), M and p: an average hands each of its tokens the same share."""
    pool, written, dp = cache["pool"], cache["written"], {}
    poolT = pool.transpose(0, 2, 1)
    dzin, dzforget, dR, dM = update_backward(dM_next * written, cache["update"])
    dE_rows, dp["mem.Win"] = ops.linear_backward(dzin, cache["Win"])
    dR_forget, dp["mem.Wforget"] = ops.linear_backward(dzforget, cache["Wforget"])
    dR += dR_forget
    dM += dM_next * ~written
    return poolT @ dE_rows, poolT @ dR, None, None, dM, dp


def _pool(xp, T, N, pad):
    """Averaging weights, (1 or B, N, T): a row of zeros where no real token falls."""
    r, t = xp.arange(N)[:, None], xp.arange(T)
    member = (t >= r * T // N) & (t < -(-(r + 1) * T // N))              # (N, T)
    member = member[None] if pad is None else member & (t >= pad[:, None, None])
    return member / xp.maximum(member.sum(-1, keepdims=True), 1)


def _split(x, heads):
    """(B, T, D) -> (B, T, H, K)."""
    B, T, D = x.shape
    return x.reshape(B, T, heads, D // heads)


def _join(x):
    """(B, T, H, K) -> (B, T, D)."""
    B, T, H, K = x.shape
    return x.reshape(B, T, H * K)


def _over_rows(dz):
    """Gradient of a bias that was added to every row: the sum over the rows."""
    return get_xp(dz).einsum("bnd->d", dz)
