# %% [markdown]
# # 1. A pair and its check
#
# **Time:** 20 minutes. **Before it:** nothing but Python and a little linear algebra.
#
# Everything in tinylm2 is built from pairs of functions:
#
#     y, cache = name_forward(x, W, ...)           computes, and keeps what the way back will need
#     dx, dW, ... = name_backward(dy, cache)       one gradient for each argument, in the same order
#
# No library computes a gradient for us: every backward is derived on paper and written by hand. That sounds like a
# recipe for mistakes, so every pair comes with a check that can find them. In this lesson you write your first pair
# and your first check. Python and a little linear algebra are enough.

# %%
import lesson
import numpy as np

from tinylm2 import ops
from tinylm2.gradcheck import check_grads

# %% [markdown]
# ## One number
#
# A gradient answers one question: *if I nudge this input a little, how much does the result move?* For `y = x²` the
# rule from school says `2x`. We can also just try it: nudge `x` up and down by a small `eps` and look.

# %%
x, eps = 3.0, 1e-5
slope = ((x + eps) ** 2 - (x - eps) ** 2) / (2 * eps)
print(f"the rule says {2 * x}, nudging says {slope:.6f}")

assert abs(slope - 2 * x) < 1e-8

# %% [markdown]
# ## Many numbers, and who stands above
#
# Now a real operation: scale every column of `x` by a factor of its own.
#
#     y_td = x_td g_d              x (T, D): T rows      g (D,): one factor per column
#
# `y` holds T·D numbers, and "how much does the result move" must say *which* result. In a network the answer is
# always the same: the one number at the very end, the loss. Whoever used our `y` next tells us, for each of its
# entries, how much the loss moves with it. That array is `dy`, the *upstream gradient*; it has the shape of `y`.
#
# For our op this means: near where we stand, the loss moves like
#
#     f = sum_td dy_td y_td
#
# and the whole job of a backward is to say how `f` moves with each argument. Put `y` in and read it off:
#
#     f = sum_td dy_td x_td g_d
#
#     dx_td = dy_td g_d                 x_td stands in exactly one term
#     dg_d  = sum_t dy_td x_td          g_d stands in T terms: it met every row, so the rows add up
#
# Look at the second line again. **Where forward repeats a value, backward sums.** A forgotten sum is the most common
# mistake in hand-written gradients.

# %%
def scale_forward(x, g):
    return x * g, (x, g)


def scale_backward(dy, cache):
    x, g = cache
    dx = dy * g
    dg = (dy * x).sum(0)
    return dx, dg


# %% [markdown]
# Two rows and two columns, small enough to follow with a pencil:

# %%
x = np.array([[1.0, 2.0],
              [3.0, 4.0]])
g = np.array([10.0, 100.0])
dy = np.array([[1.0, 0.0],
               [2.0, 5.0]])

y, cache = scale_forward(x, g)
dx, dg = scale_backward(dy, cache)
print("y =", y.tolist())
print("dx =", dx.tolist())
print("dg =", dg.tolist(), "  first entry: 1*1 + 2*3 = 7,  second: 0*2 + 5*4 = 20")

assert dg.tolist() == [7, 20]
assert dx.tolist() == [[10, 0], [20, 500]]

# %% [markdown]
# ## The check, by hand
#
# Nudge every entry of every argument, and compare what `f` does with what backward promised. Forward alone is enough
# to measure it; no calculus takes part, so it can catch an error of ours in the calculus.

# %%
def measured_slopes(f, x, eps=1e-5):
    """How much f() moves with each entry of x: a central difference per entry. Nudges x in place, and puts it back."""
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        here = x[index]
        x[index] = here + eps
        above = f()
        x[index] = here - eps
        below = f()
        x[index] = here
        slopes[index] = (above - below) / (2 * eps)
    return slopes


rng = np.random.default_rng(0)
x, g, dy = rng.standard_normal((3, 4)), rng.standard_normal(4), rng.standard_normal((3, 4))


def f():
    return (dy * scale_forward(x, g)[0]).sum()


dx, dg = scale_backward(dy, scale_forward(x, g)[1])
for name, derived, measured in (("dx", dx, measured_slopes(f, x)), ("dg", dg, measured_slopes(f, g))):
    error = abs(derived - measured).max() / abs(measured).max()
    print(f"{name}: worst error, relative to the largest entry: {error:.1e}")
    assert error < 1e-8

# %% [markdown]
# ## The library's check
#
# `check_grads` does just that. It draws the upstream gradient itself, names the argument and the worst entry, and,
# where the error has a familiar look, says what probably happened. The signature is all it needs to know: positional
# arguments are differentiated, keyword-only ones are constants.

# %%
verdict = check_grads(scale_forward, scale_backward, x, g)
print(verdict)
assert verdict.passed

# %% [markdown]
# A check that has never failed has proved nothing. So let us break the pair on purpose, and take the mean over the
# rows where the sum belongs:

# %%
def broken_backward(dy, cache):
    x, g = cache
    return dy * g, (dy * x).mean(0)


verdict = check_grads(scale_forward, broken_backward, x, g)
print(verdict)
assert not verdict.passed
assert "mean" in str(verdict)

# %% [markdown]
# `dx` was right and is not mentioned. `dg` is wrong everywhere by the same factor 1/3, and 3 happens to be the number
# of rows: hence the question at the end.
#
# ## How small is a small nudge?
#
# `(f(x + eps) - f(x)) / eps` is the slope of a chord, not of the curve: its error shrinks with `eps`. Nudging both
# ways makes the error of the two halves cancel and shrink with `eps²`. But numbers in a computer have about 16
# digits, and subtracting two nearly equal ones throws the leading digits away: that error *grows* as `eps` shrinks.
# Between the two lies the best nudge. We measure it on `silu(x) = x * sigmoid(x)`, which the feed-forward of lesson 9
# is made of.

# %%
x = rng.standard_normal((4, 5))
dy = rng.standard_normal((4, 5))
y, cache = ops.silu_forward(x)
(dx,) = ops.silu_backward(dy, cache)


def rise(up, down):
    """dy * (y above - y below): silu moves each entry alone, so all of them can be nudged at once."""
    return dy * (ops.silu_forward(x + up)[0] - ops.silu_forward(x - down)[0])


steps = 10.0 ** np.arange(-12, 0)
central = [abs(rise(eps, eps) / (2 * eps) - dx).max() / abs(dx).max() for eps in steps]
one_sided = [abs(rise(eps, 0) / eps - dx).max() / abs(dx).max() for eps in steps]

best = steps[np.argmin(central)]
print(f"central: best nudge {best:.0e}, error {min(central):.1e}")
print(f"one-sided: best nudge {steps[np.argmin(one_sided)]:.0e}, error {min(one_sided):.1e}")

assert 1e-6 <= best <= 1e-4
assert min(central) < 1e-9 < min(one_sided)

# %%
if lesson.plt:
    figure, axis = lesson.plt.subplots(figsize=(8, 3))
    axis.loglog(steps, one_sided, "o-", label="one-sided: f(x + eps) - f(x)")
    axis.loglog(steps, central, "o-", label="central: f(x + eps) - f(x - eps)")
    axis.axvline(1e-5, color="gray", linestyle=":", label="the checker's eps")
    axis.set(xlabel="eps", ylabel="relative error", title="Too far: the curve bends.  Too near: digits are lost.")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    lesson.show(figure, "01-how-small-is-a-small-nudge")

# %% [markdown]
# The central difference at `eps = 1e-5` is good to ten digits. That is why the checker can ask for a relative error
# below `1e-6`: a correct gradient is far below, and even a factor of 1.0001 is far above.
#
# ## Exercise
#
# Write the pair of the column mean, `y_d = 1/T sum_t x_td`, and check it. Before you write: forward *sums* over the
# rows, so what does backward do?
#
# <details><summary>Answer</summary>
#
# Each `x_td` stands in one term, with the factor 1/T: `dx_td = dy_d / T`, the same for every row. Where forward sums,
# backward repeats: the mirror image of the rule above.
#
# ```python
# def column_mean_forward(x):
#     return x.mean(0), x.shape
#
#
# def column_mean_backward(dy, cache):
#     T, D = cache
#     return np.broadcast_to(dy / T, (T, D))
#
#
# verdict = check_grads(column_mean_forward, column_mean_backward, rng.standard_normal((3, 4)))
# print(verdict)
# assert verdict.passed
# ```
#
# </details>
#
# ## What usually goes wrong
#
# A forgotten sum over the axis along which a value was repeated: NumPy broadcasts without a word, so `dy * x` for
# `dg` runs happily, has the wrong shape, and broadcasts once more into whatever it is added to.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. <code>y</code> is (3, 4). How many numbers does <code>dy</code> hold, and what does one of them
# say?</summary>
#
# Twelve: `dy` has the shape of `y`. Each says how much the loss, at the very end, moves when that entry of `y` is
# nudged.
#
# </details>
#
# <details><summary>2. A bias b (D,) is added to each of T rows. What is db?</summary>
#
# `dy.sum(0)`. Forward repeated b for every row, so backward sums over the rows.
#
# </details>
#
# <details><summary>3. A check passes at eps = 1e-5 and fails at eps = 1e-12. Is the gradient wrong?</summary>
#
# No. At 1e-12 the two values differ in their last digits only, and the difference is mostly rounding. The picture
# shows it: to the left of 1e-5 the error grows again.
#
# </details>
#
# Next: [2. One memory write, step by step](02_one_memory_write.py)
