# %% [markdown]
# # 7. RoPE: position as rotation
#
# **Time:** 15 minutes. **Before it:** lesson 4.
#
# Attention compares queries with keys and does not know where they stand: "mary saw john" and "john saw mary" would
# be the same to it. RoPE tells it by turning every query and key by an angle that grows with its position. This
# lesson is also a rest: its backward is the easiest of all.

# %%
import lesson
import numpy as np

from tinylm2 import ops
from tinylm2.gradcheck import check_grads

rng = np.random.default_rng(0)

# %% [markdown]
# ## A clock hand
#
# Take two numbers of a row as a point in the plane. At position p, turn it by the angle `p w`, with some speed w:
#
#     y_0 = x_0 cos(p w) - x_1 sin(p w)
#     y_1 = x_0 sin(p w) + x_1 cos(p w)
#
# Seen as one complex number `x_0 + j x_1`, the turn is a single product with `e^(j p w)`. (j is the imaginary unit.)
#
# What is it good for? Turn a query at position p and a key at position u, and take their product. Turning both by the
# same angle changes no product, so only the *difference* of their angles is left:
#
#     q(p) · k(u) depends on p - u alone
#
# "Three words back" means the same everywhere in the text.

# %%
def turned(x, p, w=0.5):
    """x (2,) turned by p * w."""
    z = (x[0] + 1j * x[1]) * np.exp(1j * p * w)
    return np.array([z.real, z.imag])


q, k = np.array([1.0, 0.5]), np.array([0.8, -0.3])
for p, u in ((5, 2), (105, 102), (5, 3)):
    print(f"query at {p}, key at {u}: product {turned(q, p) @ turned(k, u):+.6f}")
assert np.isclose(turned(q, 5) @ turned(k, 2), turned(q, 105) @ turned(k, 102), atol=1e-12)
assert not np.isclose(turned(q, 5) @ turned(k, 2), turned(q, 5) @ turned(k, 3))

# %% [markdown]
# ## Many hands
#
# One hand is not enough: after a full turn it points where it pointed before. So a head of width K has K/2 of them,
# each slower than the one before:
#
#     w_i = 10000^(-2i/K)             i = 0 .. K/2 - 1;  pair i holds the columns 2i and 2i + 1
#
# A fast hand tells neighbours apart, a slow one tells the beginning from the end, like the hands of a clock.

# %%
def rope_forward(x, *, base=10_000.0):
    """x (B, T, H, K): every pair of columns turned by its position, row t standing at position t."""
    T, K = x.shape[1], x.shape[-1]
    w = base ** (-2 * np.arange(K // 2) / K)
    turn = np.exp(1j * np.arange(T)[:, None, None] * w)                  # (T, 1, K/2)
    z = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
    return _as_columns(z), turn


def _as_columns(z):
    y = np.empty((*z.shape[:-1], 2 * z.shape[-1]))
    y[..., 0::2], y[..., 1::2] = z.real, z.imag
    return y


x = rng.standard_normal((2, 5, 3, 8))
y, turn = rope_forward(x)
theirs, _ = ops.rope_forward(x)
print("our rope is equal to the library's:", np.allclose(y, theirs, atol=1e-14))
assert np.allclose(y, theirs, atol=1e-14)
assert np.allclose((y**2).sum(-1), (x**2).sum(-1))       # no row gets longer or shorter

# %%
if lesson.plt:
    K, T = 16, 64
    speeds = 10_000.0 ** (-2 * np.arange(K // 2) / K)
    figure, (left, middle, right) = lesson.plt.subplots(1, 3, figsize=(9.8, 2.9), width_ratios=[0.8, 1.1, 1.1])
    for i, (w, color) in enumerate(zip(speeds[:3], ("tab:red", "tab:blue", "tab:green"), strict=True)):
        for p in range(8):
            hand = (1 - 0.25 * i) * np.exp(1j * p * w)
            left.plot([0, hand.real], [0, hand.imag], color=color, alpha=0.25 + 0.1 * p)
        left.plot([], [], color=color, label=f"pair {i}")
    left.set(aspect="equal", title="positions 0..7 (darker: later)", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
    left.legend(loc="lower right")
    left.axis("off")
    lesson.heat(middle, np.cos(np.arange(T)[:, None] * speeds).T, "cos(p w_i): fast pairs above, slow below",
                rows=range(K // 2))
    middle.set(xlabel="position p", ylabel="pair i")
    ones = np.broadcast_to(np.ones(K), (1, T, 1, K))
    rows = ops.rope_forward(np.ascontiguousarray(ones))[0][0, :, 0]
    for here in (16, 40):
        right.plot(np.arange(T), rows @ rows[here] / K, label=f"query at {here}")
    right.set(xlabel="position of the key", title="q·k of equal rows: a bump that travels")
    right.legend()
    lesson.show(figure, "07-rope")

# %% [markdown]
# ## Backward
#
# A turn is a linear map, and its backward is its transpose (lesson 4). The transpose of a turn is the turn back. So:
# multiply by the conjugate, `e^(-j p w)`.
#
#     dx = dy turned back by the same angle
#
# In index form, for those who want to see it: `y_0 = x_0 cos - x_1 sin` and `y_1 = x_0 sin + x_1 cos` give `dx_0 =
# dy_0 cos + dy_1 sin` and `dx_1 = -dy_0 sin + dy_1 cos`: the same with the sign of the angle flipped.

# %%
def rope_backward(dy, cache):
    turn = cache
    return (_as_columns((dy[..., 0::2] + 1j * dy[..., 1::2]) * turn.conj()),)


verdict = check_grads(rope_forward, rope_backward, x)
print(verdict)
assert verdict.passed
assert np.allclose(rope_backward(y, turn)[0], x)         # there and back again

# %% [markdown]
# ## Where the slots stand
#
# The library's `rope` can start at another position, and can leave all rows at one: `rope(x, start=T, step=0)`. That
# is where the slots of the memory will stand when they ask a segment of T tokens what happened in it: all at position
# T, right behind its last token. A fact told late then stands nearer to them than one told early; without this a slot
# could not tell the later of two moves.

# %%
T = 32
q, k = rng.standard_normal((1, 1, 1, 8)), rng.standard_normal((1, 1, 1, 8))
slots, _ = ops.rope_forward(np.repeat(q, 4, axis=1), start=T, step=0)
assert np.array_equal(slots[0, 0], slots[0, 3])                          # four slots, one place

early, _ = ops.rope_forward(k, start=3)
late, _ = ops.rope_forward(k, start=27)
print(f"the same key, heard by a slot: told at 3 {(slots[0, 0] * early[0, 0]).sum():+.3f}, "
      f"told at 27 {(slots[0, 0] * late[0, 0]).sum():+.3f}")
assert not np.isclose((slots[0, 0] * early[0, 0]).sum(), (slots[0, 0] * late[0, 0]).sum())

# %% [markdown]
# ## A trap: the table's precision
#
# The angles must be worked out in float64: `p w` is large, and only its rest after full turns counts. But the *table*
# of turns must come in the precision of the rows. A float64 table turns float32 rows into float64 ones, silently, and
# everything behind them. The numbers stay right; everything just gets slower.

# %%
x32 = x.astype("float32")
spread = (x32[..., 0::2] + 1j * x32[..., 1::2]) * turn
print("float32 rows times a complex128 table:", spread.real.dtype, "; the library's:", ops.rope_forward(x32)[0].dtype)
assert spread.real.dtype == "float64"
assert ops.rope_forward(x32)[0].dtype == "float32"

# %% [markdown]
# ## Exercise
#
# After how many tokens has the fastest hand of a head of width K = 16 gone once around? And the slowest?
#
# <details><summary>Answer</summary>
#
# A full turn is 2π. The fastest has w = 1: 2π = 6.3 tokens. The slowest has `w = 10000^(-14/16) = 10^-3.5`: `2π ·
# 10^3.5 = 19,869` tokens. In a segment of 32 tokens it hardly moves: such pairs carry what should not depend on
# position.
#
# ```python
# w = 10_000.0 ** (-2 * np.arange(8) / 16)
# around = 2 * np.pi / w
# print("fastest", around[0].round(1), " slowest", around[-1].round())
# assert round(around[0], 1) == 6.3
# assert round(around[-1]) == 19_869
# ```
#
# </details>
#
# ## What usually goes wrong
#
# The values are turned, too. Only queries and keys are: their product takes the angle out again. A value is carried
# away as it is, and one that was turned can no longer be understood by whoever receives it.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. A query stands at 7, a key at 4. Where else could the two stand, with the same
# product?</summary>
#
# Anywhere with a difference of three: 10 and 7, or 103 and 100.
#
# </details>
#
# <details><summary>2. Why does the backward of RoPE return one gradient only?</summary>
#
# The angles depend on positions, which are constants. The rows are the only argument that is differentiated.
#
# </details>
#
# <details><summary>3. Why do all slots stand at the same position, T?</summary>
#
# Right behind the last token a late fact is nearer than an early one, for every slot alike. Were the slots at
# different positions, what a slot gathers would depend on its number, too.
#
# </details>
#
# Next: [8. Attention, forward then backward, a line at a time](08_attention.py)
