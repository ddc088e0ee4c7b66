# %% [markdown]
# # 9. SwiGLU, the block, and the residual stream
#
# **Time:** 20 minutes. **Before it:** lessons 6, 7 and 8.
#
# All parts of a Llama block are on the table but one: the feed-forward, in which each token thinks for itself. Then
# we put the block together, and take it apart backwards. The surprise is how little there is left to do.

# %%
import lesson
import numpy as np

from tinylm2 import layers, model, ops
from tinylm2.gradcheck import check_grads

rng = np.random.default_rng(0)

# %% [markdown]
# ## silu: a soft switch
#
#     silu(x) = x s,    s = sigmoid(x) = 1 / (1 + e^-x)
#
# First the sigmoid, the curve of every gate in this library. With `y = 1 / (1 + e^-x)`:
#
#     dy/dx = e^-x / (1 + e^-x)² = y · (e^-x / (1 + e^-x)) = y (1 - y)
#
# Steepest in the middle, 1/4 at y = 1/2, and flat at both ends: a gate that is wide open or shut hardly learns.
#
# In silu both factors move: x by s, and s by s (1 - s):
#
#     d silu/dx = s + x s (1 - s) = s (1 + x (1 - s))

# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu_forward(x):
    s = sigmoid(x)
    return x * s, (x, s)


def silu_backward(dy, cache):
    x, s = cache
    return (dy * s * (1 + x * (1 - s)),)


x = np.linspace(-6, 6, 121)
y, cache = silu_forward(x)
(slope,) = silu_backward(np.ones_like(x), cache)
print(f"slope at 0: {slope[60]:.2f};  lowest value {y.min():.3f} at x = {x[y.argmin()]:.1f}")
assert slope[60] == 0.5
assert check_grads(silu_forward, silu_backward, rng.standard_normal((3, 4))).passed

# %%
if lesson.plt:
    figure, (left, right) = lesson.plt.subplots(1, 2, figsize=(8, 2.5), sharex=True)
    left.plot(x, sigmoid(x), label="sigmoid")
    left.plot(x, sigmoid(x) * (1 - sigmoid(x)), "--", label="its slope")
    right.plot(x, y, label="silu")
    right.plot(x, slope, "--", label="its slope")
    for axis in (left, right):
        axis.axvline(0, color="lightgray", zorder=0)
        axis.legend()
    lesson.show(figure, "09-sigmoid-and-silu")

# %% [markdown]
# ## The feed-forward
#
# Two products side by side; one makes values, the other decides how much of each passes:
#
#     gate = h Wgate,   up = h Wup                 (D, F) both
#     y    = (silu(gate) * up) Wdown               (F, D)
#
# Backward is the same list from below, each line with the pair you know. In the product `silu(gate) * up` each factor
# scales the other's gradient; and h was used twice, so its two shares add up.

# %%
def feed_forward_forward(h, Wgate, Wup, Wdown):
    act, switched = silu_forward(h @ Wgate)
    up = h @ Wup
    hidden = act * up
    return hidden @ Wdown, (h, Wgate, Wup, Wdown, act, switched, up, hidden)


def feed_forward_backward(dy, cache):
    h, Wgate, Wup, Wdown, act, switched, up, hidden = cache
    dhidden, dWdown = dy @ Wdown.T, hidden.T @ dy
    (dgate,) = silu_backward(dhidden * up, switched)
    dup = dhidden * act
    dh = dgate @ Wgate.T + dup @ Wup.T
    return dh, h.T @ dgate, h.T @ dup, dWdown


h = rng.standard_normal((6, 4))
Wgate, Wup, Wdown = rng.standard_normal((4, 5)), rng.standard_normal((4, 5)), rng.standard_normal((5, 4))
dy = rng.standard_normal((6, 4))
print(check_grads(feed_forward_forward, feed_forward_backward, h, Wgate, Wup, Wdown))
assert check_grads(feed_forward_forward, feed_forward_backward, h, Wgate, Wup, Wdown).passed

# %% [markdown]
# The library stores the two matrices side by side, as `Wgu` (D, 2F):

# %%
_, our_cache = feed_forward_forward(h, Wgate, Wup, Wdown)
dh, dWgate, dWup, dWdown = feed_forward_backward(dy, our_cache)
_, cache = layers.feed_forward_forward(h, np.hstack((Wgate, Wup)), Wdown)
theirs = layers.feed_forward_backward(dy, cache)
for mine, library in zip((dh, np.hstack((dWgate, dWup)), dWdown), theirs, strict=True):
    assert np.allclose(mine, library, atol=1e-12)
print("our feed-forward is equal to the library's")

# %% [markdown]
# ## The block
#
#     x = x + attention(rmsnorm(x))                tokens talk to each other
#     x = x + feed_forward(rmsnorm(x))             each token thinks for itself
#
# The `x +` is the point. The rows run through the whole model as on a wide road, the *residual stream*; a layer takes
# a normed copy, works on it, and adds what it found. How does `y = x + layer(x)` go backwards? x stands in two
# places, so two shares:
#
#     dx = dy + layer_backward(dy)
#
# The first share is dy itself, untouched: whatever the layers do, the loss speaks directly to every block, down to
# the embedding. With this the block's backward can be written down from the block:

# %%
def block_forward(x, p, *, heads):
    n, norm1 = ops.rmsnorm_forward(x, p["attn.g"])
    a, _, _, attention = layers.self_attention_forward(n, None, p["attn.Wqkv"], p["attn.Wo"], heads=heads)
    x = x + a
    h, norm2 = ops.rmsnorm_forward(x, p["ff.g"])
    f, ff = layers.feed_forward_forward(h, p["ff.Wgu"], p["ff.Wdown"])
    return x + f, (norm1, attention, norm2, ff)


def block_backward(dy, cache):
    norm1, attention, norm2, ff = cache
    dp = {}
    dh, dp["ff.Wgu"], dp["ff.Wdown"] = layers.feed_forward_backward(dy, ff)
    dx, dp["ff.g"] = ops.rmsnorm_backward(dh, norm2)
    dx = dy + dx
    dn, _, dp["attn.Wqkv"], dp["attn.Wo"] = layers.self_attention_backward(dx, None, None, attention)
    dx_attention, dp["attn.g"] = ops.rmsnorm_backward(dn, norm1)
    return dx + dx_attention, dp


cfg = model.Config(V=7, D=8, L=1, H=4, G=2, F=6, T=5, N=3, memory="none")
params = model.params_of(model.init_params(cfg, seed=0, dtype="float64"), cfg, 0)
x, dy = rng.standard_normal((2, 2, cfg.T, cfg.D))

ours, our_cache = block_forward(x, params, heads=(cfg.H, cfg.G))
theirs, _, cache = model.block_forward(x, None, params, cfg=cfg)
dx, dp = block_backward(dy, our_cache)
dx_library, _, dp_library = model.block_backward(dy, None, cache)
assert np.allclose(ours, theirs, atol=1e-13)
assert np.allclose(dx, dx_library, atol=1e-13)
assert dp.keys() == dp_library.keys()
assert all(np.allclose(dp[name], dp_library[name], atol=1e-13) for name in dp)
print("our block equals the library's, forward and in all", len(dp), "gradients of its parameters")

# %% [markdown]
# (`self_attention` is lessons 4, 7 and 8 in a row: products for queries, keys and values, a turn for two of them,
# `attend`, one product more. Read it in `tinylm2/layers.py`; nothing in it is new to you now. The three `None` are
# keys and values that stood before this segment, which lesson 14 needs, and the share that a memory's write hands
# back, which lesson 12 adds.)
#
# ## What the road is good for
#
# A stack of 24 feed-forward layers, and a random gradient sent down from its top. How large is it when it arrives at
# each layer? With and without the `x +`, with and without the norm:

# %%
D, F, L = 32, 96, 24
matrices = [(rng.standard_normal((D, 2 * F)) / D**0.5, rng.standard_normal((F, D)) / F**0.5) for _ in range(L)]


def size(x):
    return np.sqrt((x * x).mean())


def gradient_sizes(*, road, norm, scale=1.0):
    """The size of the gradient at each layer, from the top down."""
    x, caches = rng.standard_normal((64, D)), []
    for Wgu, Wdown in matrices:
        h, norm_cache = ops.rmsnorm_forward(x, np.ones(D)) if norm else (x, None)
        y, ff_cache = layers.feed_forward_forward(h, Wgu, scale * Wdown)
        x = x + y if road else y
        caches.append((norm_cache, ff_cache))
    dx, sizes = rng.standard_normal(x.shape), []
    for norm_cache, ff_cache in reversed(caches):
        sizes.append(size(dx))
        dh, _, _ = layers.feed_forward_backward(dx, ff_cache)
        dh = ops.rmsnorm_backward(dh, norm_cache)[0] if norm else dh
        dx = dx + dh if road else dh
    return np.array(sizes)


arrives = {"x + f(norm(x)), Wdown / sqrt(2L)": gradient_sizes(road=True, norm=True, scale=(2 * L) ** -0.5),
           "x + f(norm(x))": gradient_sizes(road=True, norm=True),
           "f(norm(x))": gradient_sizes(road=False, norm=True),
           "f(x)": gradient_sizes(road=False, norm=False)}
for name, sizes in arrives.items():
    print(f"{name:<34} at the top {sizes[0]:.2f}, 5 layers down {sizes[5]:.2g}, 23 layers down {sizes[-1]:.2g}")
assert arrives["f(x)"][-1] == 0                          # the gradient is gone
assert arrives["f(norm(x))"][-1] > 100                   # or it explodes
assert arrives["x + f(norm(x))"][-1] < 30
assert arrives["x + f(norm(x)), Wdown / sqrt(2L)"][-1] < 2

# %%
if lesson.plt:
    figure, axis = lesson.plt.subplots(figsize=(7.2, 2.8))
    for name, sizes in arrives.items():
        axis.semilogy(np.arange(L), np.where(sizes > 1e-12, sizes, np.nan), "o-", markersize=3, label=name)
    axis.set(xlabel="layers below the top", ylabel="size of the gradient", ylim=(1e-4, 1e5),
             title="Down from the loss through 24 layers")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    lesson.show(figure, "09-down-the-road")

# %% [markdown]
# ## Exercise
#
# Each of the L blocks adds two things to the stream, 2L in all. If each has the size 1 and they are independent, how
# large is the stream at the top? By what must `Wo` and `Wdown` be divided at the start so that all layers *together*
# add about as much as was there in the beginning?
#
# <details><summary>Answer</summary>
#
# Squares of independent sizes add up: the sum of 2L terms of size one has the size sqrt(2L). Divided by sqrt(2L)
# each, together they have the size 1: as much as the embedding brought along, so that the stream has the size
# sqrt(2). This is how `init_params` starts `attn.Wo` and `ff.Wdown`.
#
# ```python
# added = rng.standard_normal((2 * L, 10_000))
# print("sum of", 2 * L, "terms:", size(added.sum(0)).round(2), " sqrt(2L) =", round((2 * L) ** 0.5, 2))
# assert np.isclose(size(added.sum(0)), (2 * L) ** 0.5, rtol=0.03)
# start = model.init_params(model.Config(V=50, D=64, L=8, H=4, G=4, F=200, N=4), seed=0)
# assert np.isclose(size(start["blocks.3.ff.Wdown"]), 200**-0.5 / 16**0.5, rtol=0.03)
# ```
#
# </details>
#
# ## What usually goes wrong
#
# `x += a` instead of `x = x + a`. NumPy writes into the array, and whoever kept it, a cache or another branch, now
# holds another x. Forward still gives the right numbers; the gradients are those of a function that nobody computed.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. A layer's backward returns zeros. What arrives below y = x + layer(x)?</summary>
#
# dy itself: the other share, along the residual stream, is untouched.
#
# </details>
#
# <details><summary>2. Why does a gate that stands wide open hardly learn?</summary>
#
# Its slope is `y (1 - y)`. At y = 0.99 that is 0.0099, against 0.25 in the middle.
#
# </details>
#
# <details><summary>3. In silu(gate) * up one entry of up is 0. Which gradients at that entry vanish?</summary>
#
# That of gate: it is scaled by up. That of up is scaled by `silu(gate)` and stays.
#
# </details>
#
# Next: [10. Reading a memory: cross-attention and the output gate](10_reading_a_memory.py)
