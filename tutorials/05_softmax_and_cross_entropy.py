# %% [markdown]
# # 5. Softmax and cross-entropy
#
# **Time:** 20 minutes. **Before it:** lesson 1.
#
# At the top of the model stands one score for every word of the vocabulary: the *logits*. Two questions: how do
# scores become probabilities, and how do we tell the model, in one number, how wrong they are? The answer has the
# most beautiful gradient in this course.

# %%
import lesson
import numpy as np

from tinylm2 import ops
from tinylm2.data import word_tokenizer
from tinylm2.gradcheck import check_grads

rng = np.random.default_rng(0)

# %% [markdown]
# ## From scores to probabilities
#
#     p_v = e^(z_v) / sum_w e^(z_w)                z (V,): one logit per word
#
# Only differences of logits matter: adding a constant c to all of them multiplies every term, above and below the
# line, by `e^c`. We use that freedom at once. `e^1000` is too large for any floating-point number; so we subtract the
# largest logit first, and nothing can overflow.

# %%
words = ["kitchen", "garden", "office", "hallway"]
z = np.array([2.0, 1.0, 0.0, 0.0])
p = np.exp(z) / np.exp(z).sum()
shifted = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
for word, logit, probability in zip(words, z, p, strict=True):
    print(f"{word:<8} logit {logit:.0f}  probability {probability:.3f}")
assert np.allclose(p, shifted, atol=1e-15)

with np.errstate(over="ignore", invalid="ignore"):
    naive = np.exp(500 * z) / np.exp(500 * z).sum()
safe = np.exp(500 * z - 500 * z.max()) / np.exp(500 * z - 500 * z.max()).sum()
print("logits of 1000, naively:", naive, " shifted:", safe)
assert np.isnan(naive).any()
assert safe[0] == 1
assert np.isfinite(safe).all()

# %% [markdown]
# ## Surprise
#
# The right answer is `garden`. The model gave it the probability p. Its *surprise* is
#
#     loss = -log p[target]
#
# No surprise (0) when p = 1, without bound as p goes to 0. Someone who knows nothing and gives each of V words 1/V is
# surprised by log V: this is where every training curve in this course begins, more or less.

# %%
target = 1
loss = -np.log(p[target])
V = word_tokenizer().size
print(f"the model gave garden {p[target]:.3f}: its surprise is {loss:.3f}")
print(f"knowing nothing about our vocabulary of {V} words: {np.log(V):.2f}")
assert 1.4 < loss < 1.5
assert 5 < np.log(V) < 6

# %% [markdown]
# ## Backward
#
# Write the loss in terms of the logits:
#
#     loss = -log( e^(z_target) / sum_w e^(z_w) ) = -z_target + log sum_w e^(z_w)
#
# The first term has the slope -1 at the target, and 0 elsewhere. The second: the log hands back one over its
# argument, the sum hands on to every term, and the exponential is its own slope:
#
#     d/dz_v  log sum_w e^(z_w)  =  e^(z_v) / sum_w e^(z_w)  =  p_v
#
# Together:
#
#     dz = p - onehot(target)
#
# **What was predicted, minus what came.** The right word is pulled up by what is missing to certainty, every other is
# pushed down by as much as it was believed.

# %%
dz = p - np.eye(4)[target]
for word, slope in zip(words, dz, strict=True):
    print(f"{word:<8} {slope:+.3f}")
assert abs(dz.sum()) < 1e-15

# %%
if lesson.plt:
    figure, (left, middle, right) = lesson.plt.subplots(1, 3, figsize=(9.5, 2.6))
    left.bar(words, p, color="lightsteelblue")
    left.set_title("p: what was predicted")
    middle.bar(words, -dz, color=["seagreen" if d < 0 else "indianred" for d in dz])
    middle.axhline(0, color="black", linewidth=0.8)
    middle.set_title("-dz: where each logit is moved")
    lift = np.linspace(-6, 6, 200)
    losses = -z[target] - lift + np.log(np.exp(z).sum() - np.exp(z[target]) + np.exp(z[target] + lift))
    right.plot(z[target] + lift, losses)
    right.plot(z[target], loss, "o", color="black")
    right.set(xlabel="logit of the right word", title="the loss: a ramp, then flat")
    for axis in (left, middle):
        axis.tick_params(axis="x", rotation=30)
    lesson.show(figure, "05-predicted-minus-came")

# %% [markdown]
# The picture on the right shows the gradient's other virtue. A model that is badly wrong stands on a ramp of slope
# one: it learns at full speed, however wrong it is. A model that is right stands in the plain, and is left alone.
#
# ## Why the two are one function
#
# One could write a softmax and a logarithm, each with its backward. On paper this is the same. In a computer it is
# not: a probability of `e^-800` is rounded to 0, and its logarithm is minus infinity. Written as `-z_target + log
# sum`, nothing is lost.

# %%
z_sure = np.array([800.0, 0.0])
with np.errstate(divide="ignore"):
    p_sure = np.exp(z_sure - 800) / np.exp(z_sure - 800).sum()
    in_two_steps = -np.log(p_sure[1])
in_one = -z_sure[1] + 800 + np.log(np.exp(z_sure - 800).sum())
print("surprise at a word of probability e^-800: in two steps", in_two_steps, " in one", in_one)
assert np.isinf(in_two_steps)
assert in_one == 800

# %% [markdown]
# ## A batch, with weights
#
# In tinylm2 most words of a story are not asked for: only the answer counts. So every position has a weight, 1 at the
# answer and 0 elsewhere, and the loss is the weighted mean:
#
#     loss = -sum_r w_r log p_r[target_r] / sum_r w_r
#
# Each row's gradient is scaled by its share of the weights. By hand:

# %%
def cross_entropy_forward(logits, *, targets, weights):
    w = weights / weights.sum()
    z = logits - logits.max(-1, keepdims=True)
    total = np.exp(z).sum(-1)                                            # (R,)
    p = np.exp(z) / total[:, None]
    rows = np.arange(len(targets))
    loss = (w * (np.log(total) - z[rows, targets])).sum()
    return loss, (p, w, rows, targets)


def cross_entropy_backward(dloss, cache):
    p, w, rows, targets = cache
    onehot = np.zeros_like(p)
    onehot[rows, targets] = 1
    return (dloss * w[:, None] * (p - onehot),)


logits = rng.standard_normal((6, 5))
constants = {"targets": np.array([0, 3, 1, 1, 4, 2]), "weights": np.array([0.0, 1.0, 1.0, 0.0, 2.0, 0.0])}

ours, our_cache = cross_entropy_forward(logits, **constants)
theirs, cache = ops.cross_entropy_forward(logits, **constants)
(dz_ours,), (dz_theirs,) = cross_entropy_backward(1.0, our_cache), ops.cross_entropy_backward(1.0, cache)
print(f"ours {ours:.6f}, the library's {theirs:.6f}")
print("rows with a gradient:", np.flatnonzero(abs(dz_ours).sum(1)).tolist())
assert np.isclose(ours, theirs, rtol=1e-14)
assert np.allclose(dz_ours, dz_theirs, atol=1e-15)
assert np.flatnonzero(abs(dz_ours).sum(1)).tolist() == [1, 2, 4]

verdict = check_grads(ops.cross_entropy_forward, ops.cross_entropy_backward, logits, **constants)
print(verdict)
assert verdict.passed
assert check_grads(cross_entropy_forward, cross_entropy_backward, logits, **constants).passed

# %% [markdown]
# ## Exercise
#
# The five gradients of each row above add up to zero. Show why this must be so, without computing a single
# derivative. Then: a row has two right answers, each in half of the cases (`loss = -(log p_0 + log p_1) / 2`). What
# is its gradient, and at which p does it vanish?
#
# <details><summary>Answer</summary>
#
# Adding the same constant to all logits of a row changes no probability, hence not the loss. The slope along the
# direction (1, 1, ..., 1) is the sum of the gradient's entries; so this sum is zero.
#
# The mean of two gradients: `dz = p - (onehot(0) + onehot(1)) / 2`. It vanishes at p = (1/2, 1/2, 0, ...): the model
# does best by saying how things are. The loss there is not zero but `log 2`. This is the number to know a coin toss
# by; lesson 16 will meet it.
#
# ```python
# z = np.array([4.0, 4.0, -30.0])
# halves = np.array([0, 1])
# loss, cache = ops.cross_entropy_forward(np.stack((z, z)), targets=halves, weights=np.ones(2))
# (dz,) = ops.cross_entropy_backward(1.0, cache)
# print("loss", loss, " log 2 =", np.log(2), " gradient of the shared row:", dz.sum(0))
# assert np.isclose(loss, np.log(2))
# assert abs(dz.sum(0)).max() < 1e-12
# assert abs(dz_ours.sum(1)).max() < 1e-15
# ```
#
# </details>
#
# ## What usually goes wrong
#
# Dividing by the number of rows instead of by the sum of the weights. Then a batch with few answers gets a small loss
# and a small gradient, and the learning rate that was tuned on one task is wrong for the next.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. The right word has p = 0.99. What is the gradient at its logit? And at p = 0.01?</summary>
#
# `p - 1`: -0.01 and -0.99. A model that is right is left alone, one that is wrong learns at full speed.
#
# </details>
#
# <details><summary>2. Why may the largest logit be subtracted from all of them?</summary>
#
# A constant added to all logits multiplies every term above and below the line by the same factor. The probabilities
# stay as they are, and no exponential is larger than one.
#
# </details>
#
# <details><summary>3. A fresh model with 204 words has a loss of 9. Is something wrong?</summary>
#
# Yes. Knowing nothing costs log 204 = 5.3. A loss of 9 is worse than that: the logits start too large, and the model
# is sure of the wrong words.
#
# </details>
#
# Next: [6. RMSNorm](06_rmsnorm.py)
