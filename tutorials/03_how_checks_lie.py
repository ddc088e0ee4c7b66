# %% [markdown]
# # 3. Checking a gradient, and how checks lie
#
# **Time:** 25 minutes. **Before it:** lesson 1.
#
# Lesson 1 built a check that catches a wrong gradient. This lesson does the opposite: it builds checks that look just
# as serious, and passes wrong gradients through them. None of them looks silly at first sight. Whoever knows them
# trusts a green tick a little less, and writes better ones.

# %%
import lesson
import numpy as np

from tinylm2 import ops
from tinylm2.gradcheck import Checker, Refused, check_grads

rng = np.random.default_rng(0)

# %% [markdown]
# ## The pair to be checked
#
# The softmax turns a row of numbers into shares: positive, and adding up to one. It is at the heart of attention.
#
#     P_u = e^(S_u) / sum_w e^(S_w)
#
# How does a share move with a score? A score lifts its own share, and by taking part in the sum below the line, it
# pushes down every share, its own included, in proportion:
#
#     dP_u / dS_w = P_u (1 if u = w else 0)  -  P_u P_w
#
# Put that under the upstream gradient, `dS_w = sum_u dP_u (dP_u / dS_w)`, and sort:
#
#     dS_w = P_w (dP_w - sum_u dP_u P_u)

# %%
def softmax_forward(S):
    P = np.exp(S - S.max(-1, keepdims=True))             # the shift changes no share, and nothing overflows
    P /= P.sum(-1, keepdims=True)
    return P, P


def softmax_backward(dP, cache):
    P = cache
    return P * (dP - (dP * P).sum(-1, keepdims=True))


S = rng.standard_normal((3, 4))
print(check_grads(softmax_forward, softmax_backward, S))
assert check_grads(softmax_forward, softmax_backward, S).passed

# %% [markdown]
# Right, as far as we know. Now four wrong ones.

# %%
def all_zero(dP, cache):
    return np.zeros_like(cache)


def a_little_too_large(dP, cache):
    return 1.0001 * softmax_backward(dP, cache)


def forgets_the_others(dP, cache):
    return cache * dP


def sums_down_the_column(dP, cache):
    P = cache
    return P * (dP - (dP * P).sum(0))


WRONG = [all_zero, a_little_too_large, forgets_the_others, sums_down_the_column]

# %% [markdown]
# ## Lie 1: it has the right shape
#
# The weakest check is common: call backward, look at the shape, go home. It finds nothing at all. One well-known
# library shipped a GPU backward for its LSTM that returned zeros, because nothing but the shape was tested.

# %%
def shape_check(backward):
    P, cache = softmax_forward(S)
    return backward(rng.standard_normal(P.shape), cache).shape == S.shape


for backward in WRONG:
    print(f"{backward.__name__:<22}", "passes the check of its shape" if shape_check(backward) else "is caught")
assert all(shape_check(backward) for backward in WRONG)

# %% [markdown]
# ## Lie 2: ones for the upstream gradient
#
# It is tempting to check `f = sum(y)`: then the upstream gradient is all ones, and no random numbers are needed. But
# the shares of a softmax add up to one *whatever the scores are*. Their sum never moves, every true slope is zero,
# and a backward that returns zeros is perfect.
#
# Here is the measuring loop of lesson 1 again, with everything that can be chosen as an argument.

# %%
def measured_slopes(S, dP, eps):
    """The slopes of sum(dP * softmax(S)) at every entry of S, as in lesson 1."""
    S = S.copy()
    slopes = np.zeros_like(S)
    for index in np.ndindex(S.shape):
        here = S[index]
        S[index] = here + eps
        above = (dP * softmax_forward(S)[0]).sum()
        S[index] = here - eps
        below = (dP * softmax_forward(S)[0]).sum()
        S[index] = here
        slopes[index] = (above - below) / (2 * eps)
    return slopes


def honest_looking_check(backward, S, dP, *, eps=1e-5, tolerance=1e-6):
    """Does backward agree with the slopes?"""
    measured = measured_slopes(S, dP, eps)
    derived = backward(dP, softmax_forward(S)[1])
    return bool(abs(derived - measured).max() <= tolerance * max(1, abs(measured).max()))


def ones_check(backward):
    return honest_looking_check(backward, S, np.ones_like(S))


for backward in WRONG:
    print(f"{backward.__name__:<22}", "passes with an upstream of ones" if ones_check(backward) else "is caught")
assert ones_check(all_zero)
assert ones_check(a_little_too_large)

# %% [markdown]
# The same happens behind every RMSNorm (its output has a fixed length), every gate that splits something in two,
# every operation with a conserved sum. Random upstream gradients conserve nothing.
#
# ## Lie 3: one position
#
# "Keep the check small": a sequence of one token, a batch of one story. The softmax over a single position is 1 for
# every score. Once more nothing moves, and attention's gradient at its queries is zero, right or wrong.

# %%
def one_position_check(backward):
    return honest_looking_check(backward, S[:, :1], rng.standard_normal((3, 1)))


for backward in WRONG:
    print(f"{backward.__name__:<22}", "passes with one position" if one_position_check(backward) else "is caught")
assert one_position_check(all_zero)
assert one_position_check(a_little_too_large)

# %% [markdown]
# A sum over one position is no sum either: a forgotten `.sum(0)` over a batch of one is invisible. That is why no axis
# in our checks has length one, and why no two axes have the same length where that can be had: in a square matrix, a
# transposed gradient still fits.
#
# ## Lie 4: float32
#
# float32 has seven digits. `f` is computed to about seven, and the difference of two nearly equal values keeps two or
# three of them. Against such noise the tolerance must be set so wide that real errors walk through.

# %%
def float32_check(backward):
    return honest_looking_check(backward, S.astype("float32"), rng.standard_normal(S.shape).astype("float32"),
                                eps=1e-3, tolerance=1e-2)


def errors_in(dtype):
    """The error of the correct gradient for each nudge: what a check in this precision has to tolerate."""
    S, dP = rng.standard_normal((2, 20, 30)).astype(dtype)
    derived = softmax_backward(dP, softmax_forward(S)[1])
    return np.array([abs(measured_slopes(S, dP, eps) - derived).max() / abs(derived).max() for eps in nudges])


nudges = 10.0 ** np.arange(-10, 0)
errors = {dtype: errors_in(dtype) for dtype in ("float32", "float64")}
for name, error in errors.items():
    print(f"{name}: the best nudge still errs by {error.min():.0e}")

assert errors["float32"].min() > 1e-5
assert errors["float64"].min() < 1e-9
assert float32_check(a_little_too_large)

# %% [markdown]
# So with the best nudge of all, an error of one part in ten thousand is at the edge of what float32 can show; a
# little away from it, it is far beyond. A tolerance that lets every correct gradient through lets this error through,
# too. We therefore check in float64 and train in float32, with the same code: nothing in the library names a
# precision.
#
# ## All checks against all errors

# %%
def the_real_one(backward):
    return check_grads(softmax_forward, backward, S).passed


CHECKS = {"the shape": shape_check, "ones upstream": ones_check, "one position": one_position_check,
          "float32": float32_check, "check_grads": the_real_one}
caught = np.array([[not check(backward) for check in CHECKS.values()] for backward in WRONG])

print(f"{'':<22}", *(f"{name:>14}" for name in CHECKS))
for backward, row in zip(WRONG, caught, strict=True):
    print(f"{backward.__name__:<22}", *(f"{'caught' if c else 'PASSES':>14}" for c in row))

assert caught[:, -1].all()
assert not caught[:, 0].any()
assert not caught[:, :-1].all(0).any()                   # every other check lets something through

# %%
if lesson.plt:
    figure, (left, right) = lesson.plt.subplots(1, 2, figsize=(9.5, 2.9))
    for name, error in errors.items():
        left.loglog(nudges, error, "o-", label=name)
    left.axhline(1e-4, color="gray", linestyle=":", label="an error of 1.0001")
    left.set(xlabel="eps", ylabel="error of a correct gradient", ylim=(1e-11, 1e6), title="float32 cannot see it")
    left.legend(loc="upper right")
    lesson.heat(right, caught, "which check catches which error", signed=False, limit=1.6,
                rows=[w.__name__.replace("_", " ") for w in WRONG], columns=list(CHECKS))
    for (i, j), found in np.ndenumerate(caught):
        right.text(j, i, "caught" if found else "passes", ha="center", va="center", color="white" if found else "black")
    right.tick_params(axis="x", rotation=20)
    lesson.show(figure, "03-which-check-catches-what")

# %% [markdown]
# ## What the library refuses
#
# `check_grads` would rather say nothing than say "passed" without having looked. It raises `Refused` where it cannot
# tell right from wrong:

# %%
refusals = 0
for reason, x in (("one position", S[:, :1]), ("float32", S.astype("float32"))):
    try:
        check_grads(softmax_forward, softmax_backward, x)
    except Refused as refused:
        print(f"{reason}: {refused}\n")
        refusals += 1
assert refusals == 2

# %% [markdown]
# ## Relative to what?
#
# "The relative error of every entry" sounds strict, and is a nuisance: an entry of the gradient may be 0 by accident,
# and then any rounding is infinitely wrong. We divide by the *largest* entry of the tensor instead: an error matters
# when it is large beside what the tensor does.

# %%
S_peaked = 20 * rng.standard_normal((3, 4))               # far apart: most slopes are nearly zero
dP = rng.standard_normal(S_peaked.shape)
derived = softmax_backward(dP, softmax_forward(S_peaked)[1])
difference = abs(derived - measured_slopes(S_peaked, dP, eps=1e-5))
print(f"smallest and largest slope of the softmax: {abs(derived).min():.1e}, {abs(derived).max():.1e}")
print(f"largest error, relative to its own entry:  {(difference / abs(derived)).max():.1e}")
print(f"largest error, relative to the largest:    {difference.max() / abs(derived).max():.1e}")

assert difference.max() / abs(derived).max() < 1e-9
assert (difference / abs(derived)).max() > 1e-6

# %% [markdown]
# ## When there are too many entries
#
# Two forward passes for each entry are too many for a whole model. Then one nudges *all* entries of a tensor at once,
# along a random direction, and compares one number: how much `f` should move along it. A single wrong entry among
# 1,200 still shows, because the comparison is good to ten digits.

# %%
def one_wrong_entry(dy, cache):
    dx, dW = ops.linear_backward(dy, cache)
    dW[3, 5] = 0.0
    return dx, dW


x, W = rng.standard_normal((4, 30)), rng.standard_normal((30, 40))
verdict = Checker(directions=8).check(ops.linear_forward, one_wrong_entry, x, W)
print(verdict)
assert [argument.name for argument in verdict.failures] == ["W"]

# %% [markdown]
# ## A cut that cuts nothing
#
# Not every gradient is meant to be complete. In long texts it is cut on purpose: what happened before segment `cut` is
# taken for a constant (lesson 12). Then no check of slopes can help, for the gradient is *wrong by design*. The cut
# itself must be checked. Here is a memory of a few numbers, `m_(s+1) = keep m_s + x_s`, and a backward that hands the
# gradient at m to a function that shall cut it:

# %%
def gradients_at_inputs(dm, keep, segments, cut_before, cut):
    """The gradient at the input of each segment; `cut` is called where the memory enters segment `cut_before`."""
    dx = [None] * segments
    for s in reversed(range(segments)):
        dx[s] = dm.copy()                                # x_s was added to the memory
        dm = keep * dm                                   # at the memory that entered segment s
        if s == cut_before:
            cut(dm)
    return dx


def rebinds(dm):
    dm = np.zeros_like(dm)                               # noqa: F841  a new array for a local name


def cuts(dm):
    dm[...] = 0                                          # into the array that the caller goes on with


for cut in (rebinds, cuts):
    dx = gradients_at_inputs(np.ones(3), 0.5, segments=4, cut_before=2, cut=cut)
    print(f"{cut.__name__:<8}", *(f"segment {s}: {d[0]:.3f}  " for s, d in enumerate(dx)))
    assert (max(abs(dx[0]).max(), abs(dx[1]).max()) == 0) == (cut is cuts)
    assert np.allclose(dx[2], 0.5)                       # behind the cut both agree

# %% [markdown]
# `rebinds` gives its own name a new array, and the caller never hears of it. Nothing fails: shapes, loss and the curve
# of the training are as before. The published code of RMT (lesson 14) had this line, `memory_state =
# memory_state.detach()`, in a helper that returns something else; a later version of it returns the memory. The check
# is one line: before the cut the gradient must be *exactly* zero, and without the cut it must not.

# %% [markdown]
# ## Exercise
#
# Somebody writes `tanh_backward` as `dy * (1 - y)` instead of `dy * (1 - y²)`, and checks it at `x = np.zeros((3,
# 4))`, "the simplest point". Why does it pass? At which other inputs would it pass?
#
# <details><summary>Answer</summary>
#
# At `x = 0`, `y = 0`, and `1 - y = 1 - y² = 1`. The two agree where `y = y²`: at `y = 0`, and, in the limit, at `y =
# 1`, for large `x`, where both say zero. Points that are special for the forward (zeros, ones, equal rows) are the
# worst places to check.
#
# ```python
# def wrong_tanh_backward(dy, cache):
#     return dy * (1 - cache)
#
#
# at_zero = check_grads(ops.tanh_forward, wrong_tanh_backward, np.zeros((3, 4)))
# elsewhere = check_grads(ops.tanh_forward, wrong_tanh_backward, rng.standard_normal((3, 4)))
# print("at zero:", at_zero)
# print("elsewhere:", elsewhere)
# assert at_zero.passed
# assert not elsewhere.passed
# ```
#
# </details>
#
# ## What usually goes wrong
#
# The check is run once, passes, and is never seen to fail. Plant an error, a factor of 1.0001 or a dropped term, and
# watch the check find it: only then do you know that it looks.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. Why do ones for the upstream gradient pass a softmax backward that returns zeros?</summary>
#
# They check the sum of the shares, and that is one whatever the scores are. Its true slopes are zero, so zeros are
# right for it.
#
# </details>
#
# <details><summary>2. A check of attention should be small. Which axes may have length one?</summary>
#
# None. With one position the softmax is constant; with one story, one head or one row a forgotten sum is invisible. And
# no two axes should be equally long, or a transposed gradient fits.
#
# </details>
#
# <details><summary>3. A check in float32 with a tolerance of 1e-2 passes. What do you know?</summary>
#
# That no error is larger than about a hundredth. A factor of 1.0001, or a small dropped term, would pass, too: check
# in float64.
#
# </details>
#
# Next: [4. Linear and embedding](04_linear_and_embedding.py)
