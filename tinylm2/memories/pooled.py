"""LM2's memory with the write as printed: averages of token rows take the place of the rows that the slots gather.

    E_rows = pool(n),   R = pool(Emem)
    gin = sigmoid(E_rows Win),   gforget = sigmoid(R Wforget),   M' = gin * tanh(R) + gforget * M

The paper adds T token rows to N slot rows; an average over T / N tokens per slot is the plainest way to make them fit.
Its gates have no bias, and its input gate sees other rows than its forget gate.                       equations 1 to 6
"""

from typing import Any

from tinylm2 import ops
from tinylm2.backend import Array, check_shapes, get_xp
from tinylm2.memories import lm2

VECTORS = {name: lm2.VECTORS[name] for name in ("mem.g", "mem.bout")}
WRITE_USES_READ = True
PAGE_WRITE = "pool"
PAIRS = {}

check, state_shapes = lm2.check, lm2.state_shapes
first_forward, first_backward = lm2.first_forward, lm2.first_backward
read_forward, read_backward = lm2.read_forward, lm2.read_backward


def param_shapes(cfg: Any) -> dict:
    """LM2's without the biases of the write."""
    return {name: shape for name, shape in lm2.param_shapes(cfg).items() if name not in ("mem.bin", "mem.bforget")}


def cost(cfg: Any) -> tuple:
    """(multiply-adds, attention weights) of a segment: LM2's read, two averages, two gates."""
    D, N, T = cfg.D, cfg.N, cfg.T
    return T * D * D + 2 * N * D * D + 2 * T * N * D + 2 * N * T * D + 2 * N * D * D, cfg.H * T * N


def looks(read: Any, write: Any) -> Any:
    """As LM2's; every head writes by the same weights, those of the average."""
    found = lm2.looks(read, None)
    if write is not None:
        B, H = found["read"].shape[:2]
        pool, gates = write["pool"], write["gates"]
        found |= {"write": get_xp(pool).broadcast_to(pool[:, None], (B, H, *pool.shape[1:])), "input": gates["gin"],
                  "forget": gates["gforget"]}
    return found


def write_forward(seg: Any, state: tuple, p: dict, *, cfg: Any, pad: Array | None = None) -> tuple[tuple[Array], Any]:
    """The write as printed.

    seg (n, y, k, v) of which n and y = Emem (B, T, D) are used, state (M,) with M (B, N, D), p with mem.Win and
    mem.Wforget (D, D), pad (B,) -> (M',). Row r of the pool averages the real tokens among floor(r T / N) ..
    ceil((r+1) T / N) - 1; a row that has none keeps its slot as it was.
    """
    (n, Emem, _, _), (M,) = seg, state
    check_shapes("pooled write", n=(n, "B T D"), Emem=(Emem, "B T D"), M=(M, "B N D"), pad=(pad, "B"))
    xp = get_xp(n, Emem, M)
    pool = _pool(xp, n.shape[1], M.shape[1], pad).astype(n.dtype)        # (1 or B, N, T)
    written = pool.any(-1, keepdims=True)                                # (1 or B, N, 1)
    cache = {"pool": pool, "written": written}
    E_rows, R = pool @ n, pool @ Emem                                    # (B, N, D)
    zin, cache["Win"] = ops.linear_forward(E_rows, p["mem.Win"])
    zforget, cache["Wforget"] = ops.linear_forward(R, p["mem.Wforget"])
    M_next, cache["gates"] = lm2.gated_sum_forward(zin, zforget, R, M)
    return (xp.where(written, M_next, M),), cache


def write_backward(dstate: tuple, cache: Any) -> tuple[tuple[Array, Array, Any, Any], tuple[Array], dict[str, Array]]:
    """Gradients at the segment (n and y only), the state and p: an average hands each of its tokens the same share."""
    (dM_next,), dp = dstate, {}
    pool, written = cache["pool"], cache["written"]
    poolT = pool.transpose(0, 2, 1)
    dzin, dzforget, dR, dM = lm2.gated_sum_backward(dM_next * written, cache["gates"])
    dE_rows, dp["mem.Win"] = ops.linear_backward(dzin, cache["Win"])
    dR_forget, dp["mem.Wforget"] = ops.linear_backward(dzforget, cache["Wforget"])
    dR += dR_forget
    dM += dM_next * ~written
    return (poolT @ dE_rows, poolT @ dR, None, None), (dM,), dp


def _pool(xp, T, N, pad):
    """Averaging weights, (1 or B, N, T): a row of zeros where no real token falls."""
    r, t = xp.arange(N)[:, None], xp.arange(T)
    member = (t >= r * T // N) & (t < -(-(r + 1) * T // N))              # (N, T)
    member = member[None] if pad is None else member & (t >= pad[:, None, None])
    return member / xp.maximum(member.sum(-1, keepdims=True), 1)
