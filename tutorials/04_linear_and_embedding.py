# %% [markdown]
# # 4. Linear and embedding
#
# **Time:** 15 minutes. **Before it:** lesson 1.
#
# Nearly all the work of a language model is one operation: rows times a matrix. If you can take a matrix product
# backwards in your sleep, you have half of this library. The other operation of this lesson, looking up a row for a
# token, turns out to be the same one in disguise.

# %%
import lesson
import numpy as np

from tinylm2 import ops
from tinylm2.gradcheck import check_grads

rng = np.random.default_rng(0)

# %% [markdown]
# ## Forward
#
#     y_re = sum_d x_rd W_de           x (R, D): R rows      W (D, E)      y (R, E)
#
# A row may be a token, a slot, anything; the matrix treats every row alike and knows of no other row.
#
# ## Backward
#
# Upstream comes `dy_re`, and `f = sum_re dy_re y_re`. Where does `x_rd` stand? In row r of y only, once for every
# column e, each time next to `W_de`:
#
#     dx_rd = sum_e dy_re W_de                      dx = dy W'
#
# Where does `W_de` stand? In column e of y only, once for every row r, each time next to `x_rd`:
#
#     dW_de = sum_r x_rd dy_re                      dW = x' dy
#
# The sum over the rows is there because the matrix met every row. (`'` is the transpose, `.T` in NumPy.)

# %%
def linear_forward(x, W):
    return x @ W, (x, W)


def linear_backward(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy


x = np.array([[1.0, 2.0],
              [3.0, 4.0]])
W = np.array([[1.0, 0.0, 2.0],
              [0.0, 1.0, 1.0]])
dy = np.array([[1.0, 0.0, 0.0],            # only y[0, 0] and y[1, 2] matter to the loss
               [0.0, 0.0, 1.0]])

y, cache = linear_forward(x, W)
dx, dW = linear_backward(dy, cache)
print("y =\n", y)
print("dx =\n", dx)
print("dW =\n", dW)

# %% [markdown]
# Read it with a pencil: `y[1, 2] = 3·2 + 4·1`. So it moves with `x[1] = (3, 4)` by `(2, 1)`, which is row 1 of `dx`,
# and with column 2 of `W` by `(3, 4)`, which is column 2 of `dW`. Column 1 of `W` moves nothing that matters, and its
# gradient is zero.

# %%
assert dx.tolist() == [[1, 0], [2, 1]]
assert dW.tolist() == [[1, 0, 3], [2, 0, 4]]

# %% [markdown]
# **A handrail.** If you forget which side is transposed: write down the shapes. `dW` must be (D, E), you have `x` (R,
# D) and `dy` (R, E), and there is exactly one product of the two that gives (D, E). This is why no two lengths should
# be equal when you try your code: with R = D = E every wrong product fits as well.
#
# The library's `linear` takes any number of leading axes, (B, T, D) say, and treats them all as rows:

# %%
x, W, dy = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 5)), rng.standard_normal((2, 3, 5))
_, cache = ops.linear_forward(x, W)
dx, dW = ops.linear_backward(dy, cache)

dx_ours, dW_ours = linear_backward(dy.reshape(6, 5), (x.reshape(6, 4), W))
assert np.allclose(dx.reshape(6, 4), dx_ours, atol=1e-14)
assert np.allclose(dW, dW_ours, atol=1e-14)

print(check_grads(ops.linear_forward, ops.linear_backward, x, W))
assert check_grads(ops.linear_forward, ops.linear_backward, x, W).passed

# %% [markdown]
# **What it costs.** Forward multiplies and adds R·D·E times. Backward has two products of the same size: twice as
# much. So a training step costs about three forward passes, and you have learned where that number comes from.
#
# ## A lookup is a product
#
# A token is a number in 0..V-1, and its row of the embedding `W` (V, D) is looked up: `y_r = W[ids_r]`. Write the
# token as a *one-hot* row, all zeros but a one in its place. Then the lookup is a product, and we know its backward
# already:
#
#     y = onehot W                     dW = onehot' dy
#
# Row v of `onehot'` has a one wherever token v stood. So row v of `dW` is the sum of the rows of `dy` at those
# positions.

# %%
vocabulary = ["the", "cat", "saw", "dog", "moon"]
ids = np.array([0, 1, 2, 0, 3])                          # the cat saw the dog
onehot = np.eye(len(vocabulary))[ids]                    # (R, V)
W, dy = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))

y, cache = ops.embedding_forward(W, ids=ids)
(dW,) = ops.embedding_backward(dy, cache)
assert np.array_equal(y, onehot @ W)
assert np.allclose(dW, onehot.T @ dy, atol=1e-15)

print("dW['the'] is the sum of two rows of dy:", np.allclose(dW[0], dy[0] + dy[3], atol=1e-15))
print("dW['moon'], which did not occur:", dW[4])
assert not dW[4].any()

# %% [markdown]
# Nobody multiplies by a matrix of zeros, of course: the library sorts the positions by token and sums each run.
#
# ## The trap
#
# The obvious code is `dW[ids] += dy`. It runs, it has the right shape, and it is wrong. NumPy reads all the rows
# `dW[ids]`, adds, and writes them back: of two positions with the same token, only the last one is kept.

# %%
dW_wrong = np.zeros_like(W)
dW_wrong[ids] += dy
dW_slow = np.zeros_like(W)
np.add.at(dW_slow, ids, dy)                              # adds position by position: right, and slow

print("`dW[ids] += dy` is wrong at:", [vocabulary[v] for v in np.flatnonzero(abs(dW_wrong - dW).max(1) > 1e-12)])
assert np.allclose(dW_slow, dW, atol=1e-15)
assert np.allclose(dW_wrong[0], dy[3])                   # only the second "the" is left


def buffered_backward(dy, cache):
    W, ids = cache
    dW = np.zeros_like(W)
    dW[ids] += dy
    return (dW,)


print(check_grads(ops.embedding_forward, buffered_backward, W, ids=ids))
assert not check_grads(ops.embedding_forward, buffered_backward, W, ids=ids).passed
assert check_grads(ops.embedding_forward, buffered_backward, W, ids=np.array([0, 1, 2, 4, 3])).passed

# %% [markdown]
# The last line is the sting: with five *different* tokens the check passes. A case for a gradient check needs a token
# that occurs twice, and one that does not occur.

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 5, figsize=(10, 2.2), width_ratios=[5, 3, 0.8, 3, 3])
    words = [vocabulary[i] for i in ids]
    lesson.heat(axes[0], onehot.T, "onehot'", rows=vocabulary, columns=words, signed=False, limit=1.5)
    lesson.heat(axes[1], dy, "dy, a row per position", rows=words, numbers=".1f", limit=3)
    axes[2].text(0.5, 0.5, "=", fontsize=20, ha="center", va="center")
    axes[2].axis("off")
    lesson.heat(axes[3], dW, "dW = onehot' dy", rows=vocabulary, numbers=".1f", limit=3)
    lesson.heat(axes[4], dW_wrong, "dW[ids] += dy", rows=vocabulary, numbers=".1f", limit=3)
    lesson.show(figure, "04-embedding")

# %% [markdown]
# ## Exercise
#
# Many models use one matrix twice: as the embedding at the bottom, and transposed as the *head* at the top that turns
# a row back into a score for every word, `logits = x W'`. Write forward and backward of the shortest such model,
# `logits = W[ids] W'`, and check it.
#
# <details><summary>Answer</summary>
#
# `W` is used twice, so its gradient is the sum of two shares: one through the head, one through the lookup. The
# product hands back a gradient at `W'`, which must be transposed. Dropping either share is the usual mistake with
# tied weights.
#
# ```python
# def tied_forward(W, *, ids):
#     x, embedded = ops.embedding_forward(W, ids=ids)
#     logits, head = ops.linear_forward(x, W.T)
#     return logits, (embedded, head)
#
#
# def tied_backward(dlogits, cache):
#     embedded, head = cache
#     dx, dhead = ops.linear_backward(dlogits, head)
#     (dW,) = ops.embedding_backward(dx, embedded)
#     return (dW + dhead.T,)
#
#
# verdict = check_grads(tied_forward, tied_backward, W, ids=ids)
# print(verdict)
# assert verdict.passed
# ```
#
# </details>
#
# ## What usually goes wrong
#
# `dW[ids] += dy`. It loses gradient only for words that occur more than once in a batch, which are the frequent ones:
# "the" learns from its last position alone. The loss still falls.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. x is (6, 3) and dy is (6, 5). Which product is dW, and over what does it sum?</summary>
#
# `x' dy`, of the shape (3, 5). It sums over the six rows, each of which W met.
#
# </details>
#
# <details><summary>2. Which rows of an embedding's gradient are zero?</summary>
#
# Those of all tokens that do not occur in the batch. A token that occurs more than once gets the sum over its
# positions.
#
# </details>
#
# <details><summary>3. Why does a training step cost about three forward passes?</summary>
#
# Forward has one product per matrix, backward has two of the same size: one for dx, one for dW.
#
# </details>
#
# Next: [5. Softmax and cross-entropy](05_softmax_and_cross_entropy.py)
