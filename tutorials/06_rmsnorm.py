# %% [markdown]
# # 6. RMSNorm
#
# **Time:** 15 minutes. **Before it:** lesson 1.
#
# A deep network adds and multiplies its rows over and over, and their size would drift off. So before each layer
# every row is brought back to a standard length. RMSNorm is the simplest way to do it, and the first backward in this
# course where every input moves every output.

# %%
import lesson
import numpy as np

from tinylm2 import ops
from tinylm2.gradcheck import check_grads

rng = np.random.default_rng(0)

# %% [markdown]
# ## Forward
#
# The root mean square of a row is the typical size of its entries. Divide by it, then let each column have a learned
# gain:
#
#     r = 1 / sqrt(mean(x²) + eps)         one number per row    (eps = 1e-5: a row of zeros must not divide by 0)
#     n = x r                              the row, with root mean square one
#     y = g n                              g (D,): the gain
#
# With a pencil: `x = (3, 4)` has the mean square `(9 + 16) / 2 = 12.5`, so `r = 0.283` and `n = (0.849, 1.131)`.

# %%
x, g = np.array([3.0, 4.0]), np.ones(2)
r = 1 / np.sqrt((x * x).mean() + 1e-5)
n = x * r
print(f"r = {r:.3f}, n = {n}, mean of n² = {(n * n).mean():.6f}")
assert np.allclose(n, [0.8485, 1.1314], atol=1e-4)

# %% [markdown]
# ## Backward, index by index
#
# **The gain** stands next to n in every row, so `dg_d = sum_rows dy_d n_d`, and upstream passes through it as `dn = g
# dy`. That was lesson 1.
#
# **The row.** `n_i = x_i r`, and *both* factors move when `x_j` moves. First the second factor. `r = (mean(x²) +
# eps)^(-1/2)`, and `x_j` stands in the mean with the weight 1/D:
#
#     dr/dx_j = -1/2 (mean(x²) + eps)^(-3/2) · 2 x_j / D = -r³ x_j / D = -r² n_j / D
#
# Now the product:
#
#     dn_i/dx_j = r (1 if i = j else 0) + x_i dr/dx_j
#               = r (1 if i = j else 0) - r n_i n_j / D               because x_i r = n_i
#
# Under the upstream gradient, `dx_j = sum_i dn_i (dn_i/dx_j)`, where the first `dn_i` is upstream's (this notation is
# everywhere, so better meet it here):
#
#     dx_j = r dn_j - r n_j (1/D) sum_i dn_i n_i
#
#     dx = r (dn - n mean(dn n))
#
# Two lines of code:

# %%
def rmsnorm_forward(x, g, *, eps=1e-5):
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)               # (..., 1)
    n = x * r
    return g * n, (n, r, g)


def rmsnorm_backward(dy, cache):
    n, r, g = cache
    dn = g * dy
    dx = r * (dn - n * (dn * n).mean(-1, keepdims=True))
    dg = (dy * n).reshape(-1, g.size).sum(0)
    return dx, dg


x, g = rng.standard_normal((2, 3, 4)), 1 + 0.3 * rng.standard_normal(4)
dy = rng.standard_normal(x.shape)

ours, cache = rmsnorm_forward(x, g)
theirs, their_cache = ops.rmsnorm_forward(x, g)
assert np.allclose(ours, theirs, atol=1e-14)
for mine, library in zip(rmsnorm_backward(dy, cache), ops.rmsnorm_backward(dy, their_cache), strict=True):
    assert np.allclose(mine, library, atol=1e-14)

verdict = check_grads(rmsnorm_forward, rmsnorm_backward, x, g)
print(verdict)
assert verdict.passed

# %% [markdown]
# ## What the formula says
#
# `mean(dn n)` is how much upstream wants to move n along itself; `n mean(dn n)` is that part, and it is taken away.
# What is left stands at a right angle to the row. Of course: the length of `x` does not matter to the output, so no
# gradient may ask for a longer or a shorter `x`. All it can ask for is another direction.
#
# Then the factor r = 1 / (size of the row): a long row has far to go to turn by a degree, so its gradient is short.

# %%
dx, _ = rmsnorm_backward(dy, rmsnorm_forward(x, g)[1])
dx_of_longer, _ = rmsnorm_backward(dy, rmsnorm_forward(10 * x, g)[1])
print(f"dx · x, the largest of all rows (zero but for eps): {abs((dx * x).sum(-1)).max():.1e}")
print(f"a row ten times longer has a gradient of {abs(dx_of_longer).max() / abs(dx).max():.3f} the size")
assert abs((dx * x).sum(-1)).max() < 1e-3 * abs(dx).max()
assert np.isclose(abs(dx_of_longer).max() / abs(dx).max(), 0.1, rtol=1e-2)

# %%
if lesson.plt:
    figure, axis = lesson.plt.subplots(figsize=(5.5, 3.4))
    angle = np.linspace(0, 2 * np.pi, 200)
    axis.plot(2**0.5 * np.cos(angle), 2**0.5 * np.sin(angle), color="lightgray")          # root mean square one
    points = np.array([[2.1, 0.5], [0.3, 0.7], [-1.2, 1.6]])
    upstream = np.array([[-0.2, 0.9], [1.0, 0.4], [0.2, 0.8]])
    normed, cache = rmsnorm_forward(points, np.ones(2))
    moved, _ = rmsnorm_backward(upstream, cache)
    for at, n, dn, dx in zip(points, normed, upstream, moved, strict=True):
        axis.plot(*np.stack((at, n)).T, ":", color="gray")
        axis.plot(*at, "o", color="black", markersize=4)
        axis.plot(*n, "o", color="gray", markersize=4)
        axis.annotate("", n + dn, n, arrowprops={"arrowstyle": "->", "color": "tab:blue"})
        axis.annotate("", at + dx, at, arrowprops={"arrowstyle": "->", "color": "tab:red"})
    axis.plot([], [], color="tab:blue", label="dn: what upstream asks of n")
    axis.plot([], [], color="tab:red", label="dx: what is asked of x")
    axis.set(aspect="equal", xlim=(-2.1, 2.9), ylim=(-0.7, 2.2), title="black: x.  grey: n, on the circle of size one")
    axis.legend(loc="lower left")
    lesson.show(figure, "06-rmsnorm-turns")

# %% [markdown]
# Every red arrow stands at a right angle to its dotted line; the inner point's is longer than upstream's, the outer
# ones' are shorter.
#
# ## And eps?
#
# Did we cheat? With eps, the mean of n² is not exactly one. But nowhere did we use that it is: only `x r = n` and
# `dr/dx`. So the formula is exact for any eps, and the checker finds nothing even where eps is as large as the row
# itself.

# %%
tiny = 1e-3 * rng.standard_normal((3, 4))
print("mean of n² in a small row:", (rmsnorm_forward(tiny, g)[1][0] ** 2).mean(-1))
assert check_grads(rmsnorm_forward, rmsnorm_backward, tiny, g, eps=1e-3).passed

# %% [markdown]
# This is not just a nicety. The memory bank starts from rows of the identity: one 1 and D - 1 zeros. In lesson 10
# such rows, left as they are, will turn out too small to be read.
#
# ## Exercise
#
# LayerNorm, RMSNorm's older sibling, first subtracts the mean of the row: `c = x - mean(x)`, then `n = c /
# sqrt(mean(c²) + eps)`. Derive its backward from ours, and check it. (What is the backward of `x - mean(x)`?)
#
# <details><summary>Answer</summary>
#
# Centering is linear: `c_i = x_i - 1/D sum_j x_j`, so `dx_j = dc_j - 1/D sum_i dc_i`: its backward is centering
# again. And `dc` is our `dx`. Since n is centred already, only the first term needs it: `dx = r (dn - mean(dn) - n
# mean(dn n))`.
#
# ```python
# def layernorm_forward(x, g, *, eps=1e-5):
#     return rmsnorm_forward(x - x.mean(-1, keepdims=True), g, eps=eps)
#
#
# def layernorm_backward(dy, cache):
#     dc, dg = rmsnorm_backward(dy, cache)
#     return dc - dc.mean(-1, keepdims=True), dg
#
#
# verdict = check_grads(layernorm_forward, layernorm_backward, x, g)
# print(verdict)
# assert verdict.passed
# ```
#
# </details>
#
# ## What usually goes wrong
#
# r is treated as a constant: `dx = r dn`. It looks reasonable, training works a little worse, nobody notices. See
# what the checker makes of it:

# %%
def forgets_that_r_moves(dy, cache):
    n, r, g = cache
    return r * g * dy, (dy * n).reshape(-1, g.size).sum(0)


verdict = check_grads(rmsnorm_forward, forgets_that_r_moves, x, g)
print(verdict)
assert [argument.name for argument in verdict.failures] == ["x"]

# %% [markdown]
# ## Three questions
#
# <details><summary>1. x is multiplied by ten. What happens to y, and what to dx?</summary>
#
# y stays as it is (but for eps). dx becomes a tenth: a long row must move farther to turn by the same angle.
#
# </details>
#
# <details><summary>2. Upstream is parallel to the row: dn = c n. What is dx?</summary>
#
# Zero, but for eps: `dn - n mean(dn n) = c n - c n mean(n²)`, and `mean(n²)` is one. A gradient that asks only for
# another length asks for nothing.
#
# </details>
#
# <details><summary>3. Which inputs move y_i?</summary>
#
# All of its row: x_i itself, and through r every x_j. No other row.
#
# </details>
#
# Next: [7. RoPE: position as rotation](07_rope.py)
