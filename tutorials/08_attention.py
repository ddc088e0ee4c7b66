# %% [markdown]
# # 8. Attention, forward then backward, a line at a time
#
# **Time:** 20 minutes. **Before it:** lessons 3 and 4.
#
# Every token asks all tokens before it, and gathers what they have to say. It is the only place in a Llama block
# where tokens meet. You have met all the parts: a product (lesson 4), a softmax (lesson 3), a product.
#
#     S = q k' / sqrt(K)         who resembles what I look for?          (T, U)
#     P = softmax(S)             how much do I listen to each?           (T, U), rows add up to 1
#     y = P v                    what do I hear?                         (T, K)
#
# T tokens ask (q), U tokens are asked (k and v), K is the width of a head. Four lines forward, five backward. We go
# through all nine, and look at each result.

# %%
import lesson
import numpy as np

from tinylm2 import ops
from tinylm2.gradcheck import check_grads

rng = np.random.default_rng(2)

words = ["mary", "went", "home", "early", "today"]
T, K = 5, 4
q, k, v = rng.standard_normal((3, T, K))

# %% [markdown]
# ## Forward 1: scores
#
#     S_tu = sum_c q_tc k_uc / sqrt(K)             t asks, u is asked, c runs over the K columns
#
# Why divide? A product of two random rows of K entries, each of size one, has the size sqrt(K). Without the division
# wide heads would have large scores, the softmax would put everything on one position, and its gradient would vanish.
# We will measure that at the end.

# %%
S = q @ k.T / K**0.5
print("S, the scores: a row per token that asks =\n", S)

# %% [markdown]
# ## Forward 2: no looking ahead
#
# A token must not hear those that come after it: they are what the model has to predict. Their scores become minus
# infinity, *before* the softmax, so their share is exactly 0 and the rest still adds up to 1.

# %%
future = np.arange(T) > np.arange(T)[:, None]            # (T, U): u > t
S[future] = -np.inf
print("S with the future masked =\n", S)

# %% [markdown]
# ## Forward 3: shares

# %%
P = np.exp(S - S.max(-1, keepdims=True))
P /= P.sum(-1, keepdims=True)
print("P, the shares: each row adds up to 1 =\n", P)
assert np.allclose(P.sum(-1), 1)
assert not P[future].any()
assert P[0, 0] == 1                                      # the first token can only hear itself

# %% [markdown]
# ## Forward 4: what is heard
#
#     y_tc = sum_u P_tu v_uc

# %%
y = P @ v
print("y, what each token hears =\n", y)
assert np.allclose(y[0], v[0])

# %% [markdown]
# ## Backward 1 and 2: through the product
#
# Upstream brings `dy` (T, K). `y = P v` is a matrix product; its two gradients are those of lesson 4:
#
#     dv_uc = sum_t P_tu dy_tc                     dv = P' dy          u told everyone who listened, in proportion
#     dP_tu = sum_c dy_tc v_uc                     dP = dy v'          would it have helped t to listen more to u?

# %%
dy = rng.standard_normal((T, K))
dv = P.T @ dy
dP = dy @ v.T
print("dv =\n", dv)
print("dP =\n", dP)

# %% [markdown]
# ## Backward 3: through the softmax
#
# From lesson 3, row by row: `dS = P (dP - sum_u dP P)`. In words: the sum is what t hears on average; a position that
# is worth more than that average is lifted, one that is worth less is pushed down, each in proportion to its share.
# Where the share is 0 nothing moves: the future gets no gradient, and needs no mask of its own on the way back.

# %%
dS = P * (dP - (dP * P).sum(-1, keepdims=True))
print("dS, the gradient at the scores =\n", dS)
assert abs(dS.sum(-1)).max() < 1e-15                     # what one position wins, the others lose
assert not dS[future].any()
assert not dS[0].any()                                   # with one position to listen to, there is nothing to choose

# %% [markdown]
# ## Backward 4 and 5: through the scores
#
# One more product, once more lesson 4, with the constant `1/sqrt(K)` on both:
#
#     dq_tc = sum_u dS_tu k_uc / sqrt(K)           dq = dS k / sqrt(K)
#     dk_uc = sum_t dS_tu q_tc / sqrt(K)           dk = dS' q / sqrt(K)

# %%
dq = dS @ k / K**0.5
dk = dS.T @ q / K**0.5
print("dq =\n", dq)
print("dk =\n", dk)

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 4, figsize=(11, 2.7))
    steps = ((np.where(future, np.nan, S), "S: who resembles (grey: hidden)", 2.5), (P, "P: who is listened to", 1),
             (dP, "dP: would it have helped?", 4), (dS, "dS: more of this, less of that", 1))
    for axis, (matrix, title, limit) in zip(axes, steps, strict=True):
        lesson.heat(axis, matrix, title, rows=words, columns=words, numbers=".1f", limit=limit)
    lesson.show(figure, "08-attention-a-line-at-a-time")

# %% [markdown]
# ## The pair
#
# The same nine lines for a batch of stories and H heads. A head is a set of K columns that listens for itself;
# nothing in the lines changes, there are only two more axes in front. `@` multiplies the last two axes and runs over
# all others.

# %%
def attend_forward(q, k, v, *, causal=False):
    """q (B, T, H, K), k and v (B, U, H, K) -> y (B, T, H, K)."""
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))               # (B, H, T or U, K)
    T, U, K = q.shape[2], k.shape[2], q.shape[3]
    S = q @ k.swapaxes(2, 3) / K**0.5                                    # (B, H, T, U)
    if causal:
        S = np.where(np.arange(U) > np.arange(T)[:, None], -np.inf, S)
    P = np.exp(S - S.max(-1, keepdims=True))
    P /= P.sum(-1, keepdims=True)
    y = P @ v                                                            # (B, H, T, K)
    return y.transpose(0, 2, 1, 3), (q, k, v, P)


def attend_backward(dy, cache):
    q, k, v, P = cache
    K = q.shape[3]
    dy = dy.transpose(0, 2, 1, 3)                                        # (B, H, T, K)
    dv = P.swapaxes(2, 3) @ dy
    dP = dy @ v.swapaxes(2, 3)
    dS = P * (dP - (dP * P).sum(-1, keepdims=True))
    dq = dS @ k / K**0.5
    dk = dS.swapaxes(2, 3) @ q / K**0.5
    return tuple(x.transpose(0, 2, 1, 3) for x in (dq, dk, dv))


q4, k4, v4, dy4 = rng.standard_normal((4, 2, 5, 3, 4))                   # B 2, T 5, H 3, K 4
ours, our_cache = attend_forward(q4, k4, v4, causal=True)
theirs, cache = ops.attend_forward(q4, k4, v4, causal=True)
assert np.allclose(ours, theirs, atol=1e-14)
for mine, library in zip(attend_backward(dy4, our_cache), ops.attend_backward(dy4, cache), strict=True):
    assert np.allclose(mine, library, atol=1e-14)

verdict = check_grads(attend_forward, attend_backward, q4, k4, v4, causal=True)
print(verdict)
assert verdict.passed

# %% [markdown]
# ## Fewer keys than queries
#
# When a model answers, it keeps the keys and values of all earlier tokens. To keep fewer, Llama lets several query
# heads share one key head: H query heads, G key heads, G divides H. Forward repeats a key head for its group, so
# backward **sums** over the group: lesson 1 once more.

# %%
q6 = rng.standard_normal((2, 5, 6, 4))                                   # H = 6 query heads
k2, v2 = rng.standard_normal((2, 2, 5, 2, 4))                            # G = 2 key heads
dy6 = rng.standard_normal(q6.shape)

_, cache = ops.attend_forward(q6, k2, v2, causal=True)
_, dk2, _ = ops.attend_backward(dy6, cache)
_, our_cache = attend_forward(q6, k2.repeat(3, axis=2), v2.repeat(3, axis=2), causal=True)
_, dk6, _ = attend_backward(dy6, our_cache)
summed = np.allclose(dk6.reshape(2, 5, 2, 3, 4).sum(3), dk2, atol=1e-13)
print("dk of two key heads is dk of six, summed over each group of three:", summed)
assert summed

# %% [markdown]
# ## Why divide by sqrt(K)
#
# Random queries and keys of growing width, with and without the division: how much does a token listen to its
# favourite position among 32, and how large is the gradient at the scores?

# %%
def listen(K, scale):
    """(the favourite's share, the size of dS), means over 200 queries."""
    q, k, dP = rng.standard_normal((200, K)), rng.standard_normal((32, K)), rng.standard_normal((200, 32))
    S = q @ k.T / scale
    P = np.exp(S - S.max(-1, keepdims=True))
    P /= P.sum(-1, keepdims=True)
    dS = P * (dP - (dP * P).sum(-1, keepdims=True))
    return P.max(-1).mean(), abs(dS).sum(-1).mean()


widths = 4 ** np.arange(1, 7)
with_division = np.array([listen(K, K**0.5) for K in widths])
without = np.array([listen(K, 1) for K in widths])
print("share of the favourite position, and size of the gradient at the scores:")
for K, (share, size), (share_without, size_without) in zip(widths, with_division, without, strict=True):
    print(f"K {K:>4}: favourite {share:.2f}, gradient {size:.2f};   without the division {share_without:.2f}, "
          f"{size_without:.3f}")
assert with_division[:, 0].max() < 0.35
assert without[-1, 0] > 0.95
assert without[-1, 1] < with_division[-1, 1] / 5

# %%
if lesson.plt:
    figure, axis = lesson.plt.subplots(figsize=(5, 2.7))
    axis.semilogx(widths, with_division[:, 1], "o-", label="q k' / sqrt(K)")
    axis.semilogx(widths, without[:, 1], "o-", label="q k'")
    axis.set(xlabel="K", ylabel="size of dS", ylim=0, title="Without the division wide heads stop learning")
    axis.legend()
    lesson.show(figure, "08-why-divide")

# %% [markdown]
# ## Exercise
#
# Add the same vector c to *every* key. How does y change? What follows for the sum of `dk` over all positions u?
#
# <details><summary>Answer</summary>
#
# The scores of query t all grow by the same number, `q_t · c / sqrt(K)`. The softmax takes out what is common to a
# row, so y does not change at all. Hence the slope along "all keys at once" is zero: `sum_u dk_u = 0`. The formula
# agrees: `sum_u dk_u = sum_t (sum_u dS_tu) q_t / sqrt(K)`, and the rows of dS add up to zero. Such laws are worth
# knowing: they are a check that costs nothing.
#
# ```python
# c = rng.standard_normal(4)
# moved, _ = attend_forward(q4, k4 + c, v4, causal=True)
# _, dk4, _ = attend_backward(dy4, attend_forward(q4, k4, v4, causal=True)[1])
# print("y moved by", abs(moved - ours).max(), " sum of dk", abs(dk4.sum(1)).max())
# assert abs(moved - ours).max() < 1e-13
# assert abs(dk4.sum(1)).max() < 1e-13
# ```
#
# </details>
#
# ## What usually goes wrong
#
# The mask is applied *after* the softmax, by setting shares to zero. The rest then no longer adds up to one; worse,
# the shares that are left were computed with the future in the sum below the line, so every token has already heard
# something about what comes. Lesson 16 hunts for leaks of this kind.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. A token listens to one position with a share of 1. What gradient do its scores get?</summary>
#
# None: `dS = P (dP - sum P dP)` is zero at that position, because its dP is the average, and zero at all others,
# because their share is. It cannot learn to look elsewhere. Dividing by sqrt(K) keeps a fresh model away from there.
#
# </details>
#
# <details><summary>2. Token u is hidden from token t. What do q_t, k_u and v_u learn from each other?</summary>
#
# Nothing: the share is exactly 0, so `dS_tu = 0` and u's part in `dv` is `0 * dy_t`. The mask acts backward without
# being applied again.
#
# </details>
#
# <details><summary>3. Six query heads share two key heads. What does backward do with dk?</summary>
#
# It sums over the three query heads of each group: forward repeated the key head for them.
#
# </details>
#
# Next: [9. SwiGLU, the block, and the residual stream](09_the_block.py)
