# %% [markdown]
# # 2. One memory write, step by step
#
# **Time:** 20 minutes. **Before it:** lesson 1.
#
# A story is read in segments. When a segment ends, its words are forgotten; what is kept is a small matrix, the
# *memory bank* `M`. It has N rows, called *slots*, each D numbers wide. The next segment reads the bank (lesson 10)
# and, at its own end, rewrites it.
#
# This lesson follows one rewrite, number by number. It is an appetizer: you need not know yet where each matrix comes
# from. At the end you will have seen the heart of LM2, its equations 4 to 6:
#
#     g_in     = sigmoid( ... )                     how much of the new comes in
#     g_forget = sigmoid( ... )                     how much of the old stays
#     M'       = g_in * tanh(R) + g_forget * M      R: what the slots gathered from the segment

# %%
import lesson
import numpy as np

from tinylm2.gradcheck import check_grads
from tinylm2.memories import lm2

# %% [markdown]
# ## The cast
#
# Three tokens, `mary`, `moved`, `garden`, and two slots. Each token offers a *key* (what it can be found by) and a
# *value* (what it tells). Each slot has a *query* (what it looks for). In the model all three are learned; here we
# write them down, two numbers for each key and four for each value, so that you can see what happens.

# %%
tokens = ["mary", "moved", "garden"]
k = np.array([[4.0, 0.0],                  # mary:   found by those who look for people
              [0.0, 0.0],                  # moved:  not much to find
              [0.0, 4.0]])                 # garden: found by those who look for places
v = np.array([[2.0, 0.0, 0.0, 0.0],        # mary tells something in the first place,
              [0.0, 0.5, 0.0, 0.0],
              [0.0, 0.0, 2.0, -2.0]])      # garden in the last two
q = np.array([[2.0, 0.0],                  # slot 0 looks for people
              [0.0, 2.0]])                 # slot 1 looks for places

N, D = 2, 4
M = np.eye(N, D)                           # the bank at the start of a story: the first N rows of the identity
print("the bank before:\n", M)

# %% [markdown]
# ## Gather: each slot asks the tokens
#
# A query and a key that point the same way have a large product. The softmax turns a slot's row of products into
# shares that add up to one; the slot takes that much of each token's value.

# %%
scores = q @ k.T / 2**0.5                                                # (N, T)
P = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)               # (N, T), every row adds up to 1
R = P @ v                                                                # (N, D)

for slot in range(N):
    print(f"slot {slot} listens to", ", ".join(f"{t} {p:.3f}" for t, p in zip(tokens, P[slot], strict=True)))
print("and gathers R =\n", R)

assert np.allclose(P.sum(-1), 1)
assert P[0].argmax() == 0
assert P[1].argmax() == 2

# %% [markdown]
# ## Two gates
#
# A gate is a number between 0 (shut) and 1 (open) for every number of the bank, made by `sigmoid(z) = 1 / (1 +
# e^-z)`. It looks at what was gathered, `R`; what it makes of it is learned: a matrix W and a bias b for each gate.

# %%
rng = np.random.default_rng(0)
Win, Wforget = rng.normal(0, 0.3, (2, D, D))
bin, bforget = np.full(D, 0.0), np.full(D, 3.0)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


g_in = sigmoid(R @ Win + bin)
g_forget = sigmoid(R @ Wforget + bforget)
print("g_in =\n", g_in)
print("g_forget =\n", g_forget)

assert g_forget.min() > 0.8

# %% [markdown]
# The forget gate stands wide open, although nothing has been learned: its bias starts at +3, and `sigmoid(3) = 0.95`.
# Mind the name: an *open* forget gate *keeps*. A memory that has not learned anything yet should at least not lose
# anything.
#
# ## The new bank
#
# `tanh` keeps what was gathered between -1 and 1. Then the two gates mix the new and the old.

# %%
new, old = g_in * np.tanh(R), g_forget * M
M_next = new + old
print("the bank after:\n", M_next)

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 5, figsize=(10, 1.9), width_ratios=[0.8, 1, 1, 1, 1])
    slots = ["slot 0", "slot 1"]
    lesson.heat(axes[0], P, "who is listened to", rows=slots, columns=tokens, signed=False, numbers=".2f")
    for axis, matrix, title in zip(axes[1:], (M, old, new, M_next),
                                   ("M: before", "g_forget * M: stays", "g_in * tanh(R): comes", "M': after"),
                                   strict=True):
        lesson.heat(axis, matrix, title, numbers=".2f", limit=1)
    lesson.show(figure, "02-one-memory-write")

# %% [markdown]
# Slot 0 now holds something of `mary`, slot 1 something of `garden`, and both still hold most of what they were. The
# library's `memory_update` does the same in one call. It works on a whole batch of stories, so we give it a batch of
# one.

# %%
arguments = R[None], M[None], Win, bin, Wforget, bforget
found, cache = lm2.memory_update_forward(*arguments)
print("our bank is equal to the library's:", np.allclose(found[0], M_next, rtol=0, atol=1e-15))

assert np.allclose(found[0], M_next, rtol=0, atol=1e-15)

# %% [markdown]
# ## The way back, a first look
#
# Suppose a later segment tells us how the loss moves with each number of the new bank: `dM'`. How does it move with
# the old one? In `M' = ... + g_forget * M` each old number stands once, multiplied by its gate:
#
#     dM = g_forget * dM'
#
# Twice one segment back means two gates, multiplied. Memory over many segments is a question of how near to one these
# factors stay, forward and backward alike.

# %%
dM_next = np.ones((1, N, D))
dM = lm2.memory_update_backward(dM_next, cache)[1]
print("dM =\n", dM[0])
assert np.allclose(dM[0], g_forget, rtol=0, atol=1e-15)

# %% [markdown]
# And all six gradients of the write, checked as in lesson 1. We check two stories at a time: with one, a forgotten
# sum over the stories would go unseen (lesson 3).

# %%
two_stories = [np.concatenate((x, x[:, ::-1])) if x.ndim == 3 else x for x in arguments]
verdict = check_grads(lm2.memory_update_forward, lm2.memory_update_backward, *two_stories)
print(verdict)
assert verdict.passed

# %% [markdown]
# ## Sixteen segments later
#
# How much of the first write is left after many more? If each gate lets a share `g` through, then `g` to the power of
# their number. The forget bias decides:

# %%
segments = np.arange(33)
kept = {b: sigmoid(b) ** segments for b in (0.0, 1.0, 3.0, 5.0)}
for b, share in kept.items():
    print(f"bforget {b:+.0f}: a gate of {share[1]:.3f} keeps {share[4]:.3f} over 4 segments, {share[16]:.3f} over 16")

assert kept[0.0][16] < 1e-4
assert 0.4 < kept[3.0][16] < 0.5

# %%
if lesson.plt:
    figure, axis = lesson.plt.subplots(figsize=(6.5, 2.8))
    for b, share in kept.items():
        axis.plot(segments, share, label=f"bforget {b:+.0f}")
    axis.set(xlabel="segments since the write", ylabel="share that is left", ylim=(0, 1.02),
             title="An untrained memory keeps what its forget bias lets it keep")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    lesson.show(figure, "02-what-is-left")

# %% [markdown]
# A trained model does better than its start: it learns to open the gate fully for what matters. But it can only learn
# that while some of it still arrives at the end.
#
# ## Exercise
#
# With the forget bias at +3 and nothing learned: after how many segments is less than half of a write left? Solve it
# on paper, then check it.
#
# <details><summary>Answer</summary>
#
# `g^s < 1/2` means `s > ln 2 / -ln g`. With `g = sigmoid(3)`, `-ln g = ln(1 + e^-3) = 0.0486`, so `s > 14.3`: 15
# segments.
#
# ```python
# left = sigmoid(3.0) ** np.arange(100)
# print("first below one half:", int(np.argmax(left < 0.5)), "segments")
# assert np.argmax(left < 0.5) == 15
# ```
#
# </details>
#
# ## What usually goes wrong
#
# The forget gate is read the wrong way round: someone starts its bias at -3 "so that it forgets little", and 95 % of
# the bank is gone after every segment. The loss still falls, on questions about the last segment.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. A forget gate stands at 0. What is left of the slot, and of the gradient at it?</summary>
#
# Nothing of either: `M' = g_in * tanh(R)`, and `dM = 0 * dM'`. What is not kept is not answerable for anything.
#
# </details>
#
# <details><summary>2. Can a slot gather more than the tokens have to offer?</summary>
#
# No. Its row of P adds up to one, so R is a weighted mean of the values and never lies outside them.
#
# </details>
#
# <details><summary>3. tanh keeps each write between -1 and 1. Does the bank stay there, too?</summary>
#
# No. Each write adds to what was kept. With `g_forget = 0.95` and `g_in = 0.5` the same write, over and over, can come
# near to `0.5 / (1 - 0.95) = 10`. It is one more reason to norm the bank before it is read (lesson 10).
#
# </details>
#
# Next: [3. Checking a gradient, and how checks lie](03_how_checks_lie.py)
