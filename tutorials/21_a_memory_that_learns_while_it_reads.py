# %% [markdown]
# # 21. A memory that learns while it reads
#
# **Time:** 30 minutes. **Before it:** lessons 1, 12 and 20.
#
# *Titans* (Behrouz et al. 2024) takes one more step. Its memory is a model of its own, here a matrix M that maps keys
# to values. To write a token means to train this model on it: one step of gradient descent, with momentum and weight
# decay, while the text is read. So the forward pass contains a backward pass, and we need the backward of a backward.
# That is less frightening than it sounds: a gradient is a formula, and a formula has a derivative.

# %%
import lesson
import numpy as np

from tinylm2.gradcheck import check_grads
from tinylm2.memories import titans

rng = np.random.default_rng(0)
B, T, C, E = 2, 5, 4, 3                                  # stories, tokens, widths of a key and a value

# %% [markdown]
# ## One step of descent is the delta rule
#
# The memory should map the key k to the value v. How wrong it is, and how that moves with M, you derived in lesson 4:
#
#     loss = |k M - v|² / 2            dloss/dM = k' (k M - v)
#
# One step of descent with the step theta:
#
#     M' = M - theta k' (k M - v)      =      M + theta k' (v - k M)
#
# You have met this line. `k M` is what the memory says already, `v - k M` is what is new: it is the delta rule of
# lesson 20, with theta in the place of beta. A step of 1 and a key of length one store the value exactly.

# %%
key, value, memory = rng.standard_normal(C), rng.standard_normal(E), rng.standard_normal((C, E))
key /= np.sqrt(key @ key)
wrong_by = key @ memory - value
for theta in (0.25, 1.0):
    after = memory - theta * np.outer(key, wrong_by)
    print(f"step {theta:4}: error before {abs(wrong_by).max():.2f}, after {abs(key @ after - value).max():.2f}")
assert np.allclose(key @ after, value)

# %% [markdown]
# ## The backward of a descent step
#
# The model around this memory learns what to write: k, v and theta are made of the token by matrices. So we need their
# gradients. Write the error as a name of its own, E = k M - v, and count: E is used once, k twice (in E and in k'), M
# twice (in E and as what the step starts from).
#
#     M' = M - theta k' E,      E = k M - v
#
# Let G = k dM'. It is the gradient at what the step adds under this key, -theta E. Then
#
#     dE     = -theta G                        dtheta = -sum(E G)
#     dv     = -dE
#     dk     = dE M'  -  theta E dM''          as what asks the memory, and as where the step goes (' is transposed)
#     dM     = dM' + k' dE                     what was there stayed, and it made the error
#
# Look at dtheta. The step should have been larger when the error E and the wish G point in opposite ways. So a model
# learns how much to learn, token by token.
#
# Now a whole segment. Titans takes the gradients of all T tokens at the M that the segment began with. Then the T steps
# add up, and no token has to wait for the one before:

# %%
def descend_forward(k, v, theta, M):
    """T steps of one segment: k (B, T, C), v (B, T, E), theta (B, T), M (B, C, E)."""
    error = k @ M - v
    return M - k.swapaxes(1, 2) @ (theta[..., None] * error), (k, theta, M, error)


def descend_backward(dM_next, cache):
    k, theta, M, error = cache
    G, theta = k @ dM_next, theta[..., None]
    derror = -theta * G
    dk = derror @ M.swapaxes(1, 2) - (theta * error) @ dM_next.swapaxes(1, 2)
    dM = dM_next + k.swapaxes(1, 2) @ derror
    return dk, -derror, -(error * G).sum(-1), dM


def unit(rows):
    return rows / np.sqrt((rows**2).sum(-1, keepdims=True))


k, v, M = unit(rng.standard_normal((B, T, C))), rng.standard_normal((B, T, E)), rng.standard_normal((B, C, E))
theta = rng.random((B, T))
verdict = check_grads(descend_forward, descend_backward, k, v, theta, M)
print(verdict)
assert verdict.passed

# %% [markdown]
# ## How large may a step be?
#
# Steps that add up have a price. Let a segment say the same thing T times. Each token sees the same error, and all
# correct it: together they take a step of T theta. The error is multiplied by `1 - T theta` per segment. Below a sum of
# 1 that shrinks, up to 2 it swings and shrinks, beyond 2 it grows without limit. One after another the steps would be
# harmless at any theta below 2: `(1 - theta)^T`.

# %%
def errors_of_equal_tokens(theta, tokens=32, segments=12):
    """The error at the beginning of each segment, relative to the first."""
    k, v = np.repeat(unit(np.ones((1, 1, C))), tokens, axis=1), np.ones((1, tokens, E))
    M, found = np.zeros((1, C, E)), []
    for _ in range(segments):
        found.append(abs(k @ M - v).max())
        M, _ = descend_forward(k, v, np.full((1, tokens), theta), M)
    return found


swings = {theta: errors_of_equal_tokens(theta) for theta in (0.03, 0.05, 0.07)}
for theta_, found in swings.items():
    print(f"32 equal tokens, step {theta_}: the sum is {32 * theta_:.2f}, the error after 11 segments {found[-1]:.1e}")
assert swings[0.03][-1] < 1e-10
assert swings[0.05][-1] < 0.01
assert swings[0.07][-1] > 10

# %% [markdown]
# So the library makes keys of length one, and starts theta at `sigmoid(-3.5) = .03`: a sum of .94 for a segment of 32.
#
# ## Momentum and decay
#
# The descent has momentum, as in many optimizers: S is the step, and a share eta of the last one goes on. And M decays:
# a share a is kept (the paper writes 1 - alpha). All three are numbers of the token:
#
#     S_t = eta_t S_(t-1) - theta_t k_t' E_t           M_t = a_t M_(t-1) + S_t
#
# The gradients do not depend on M_t any more, so this is linear: each u_t = theta_t k_t' E_t ends in M_T with a number,
# and in S_T with another. Follow one of them. In S it shrinks by each later eta. In M it arrives at t through S_t, at
# t + 1 once more through S_(t+1), and so on, and each arrival then shrinks by the later a. From the end backwards:
#
#     b_T = h_T = c_T = 1
#     b_t = a_(t+1) b_(t+1)              what is left of M_t at the end
#     h_t = eta_(t+1) h_(t+1)            what is left of S_t in S_T
#     c_t = b_t + eta_(t+1) c_(t+1)      what is left of u_t in M_T
#
#     M_T = b_0 M_0 + c_0 S_0 - k' (theta c E)             S_T = h_0 S_0 - k' (theta h E)
#
# One exception: S_0 was added to M in the segment before, so c_0 is `eta_1 c_1` without b_0.

# %%
def carry_forward(keep, past):
    """keep a and past eta (B, T) -> b, c, h (B, T+1)."""
    b, c, h = np.ones((3, len(keep), T + 1))
    for t in reversed(range(T)):
        b[:, t] = keep[:, t] * b[:, t + 1]               # keep[:, t] is a_(t+1): Python counts tokens from 0
        h[:, t] = past[:, t] * h[:, t + 1]
        c[:, t] = past[:, t] * c[:, t + 1] + (b[:, t] if t else 0)
    return b, c, h, (keep, past, b, c, h)


def carry_backward(db, dc, dh, cache):
    """The loop the other way. b_t was used in b_(t-1) and in c_t, so its gradient is complete when t is reached."""
    keep, past, b, c, h = cache
    db, dc, dh, dkeep, dpast = db.copy(), dc.copy(), dh.copy(), np.zeros_like(keep), np.zeros_like(past)
    for t in range(T):
        if t:
            db[:, t] += dc[:, t]
        dpast[:, t] = dc[:, t] * c[:, t + 1] + dh[:, t] * h[:, t + 1]
        dkeep[:, t] = db[:, t] * b[:, t + 1]
        db[:, t + 1] += keep[:, t] * db[:, t]
        dc[:, t + 1] += past[:, t] * dc[:, t]
        dh[:, t + 1] += past[:, t] * dh[:, t]
    return dkeep, dpast


keep, past = rng.random((2, B, T))
*numbers, cache = carry_forward(keep, past)
*theirs, their_cache = titans.carry_forward(keep[..., None], past[..., None])       # the library has heads: here one
assert all(np.allclose(a, b[..., 0], atol=1e-14) for a, b in zip(numbers, theirs, strict=True))
upstream = rng.standard_normal((3, B, T + 1))
library = titans.carry_backward(*upstream[..., None], their_cache)
assert all(np.allclose(a, b[..., 0], atol=1e-13)
           for a, b in zip(carry_backward(*upstream, cache), library, strict=True))
verdict = check_grads(carry_forward, carry_backward, keep, past)
print(verdict)
assert verdict.passed

# %% [markdown]
# (The library walks in log2(T) rounds instead of T steps: it joins runs of 1, 2, 4, ... tokens. `primitives.scan` has
# this, and its backward is the same scan the other way.)
#
# ## The whole write
#
# All together, with what we derived: E is in both sums, so `dE = -(P G + Q J)` with P = theta c, Q = theta h, G = k dM'
# and J = k dS'. And the numbers b_0, c_0, h_0 scale whole matrices: their gradients are sums over these.

# %%
def write_forward(k, v, theta, past, keep, M, S):
    b, c, h, carried = carry_forward(keep, past)
    error = k @ M - v
    P, Q = ((theta * x[:, 1:])[..., None] for x in (c, h))
    b_0, c_0, h_0 = (x[:, :1, None] for x in (b, c, h))
    keys = k.swapaxes(1, 2)
    M_next, S_next = b_0 * M + c_0 * S - keys @ (P * error), h_0 * S - keys @ (Q * error)
    return M_next, S_next, (k, theta, M, S, error, P, Q, carried)


def write_backward(dM_next, dS_next, cache):
    k, theta, M, S, error, P, Q, carried = cache
    _, _, b, c, h = carried
    G, J = k @ dM_next, k @ dS_next
    derror = -(P * G + Q * J)
    dk = derror @ M.swapaxes(1, 2) - (P * error) @ dM_next.swapaxes(1, 2) - (Q * error) @ dS_next.swapaxes(1, 2)
    dP, dQ = (-(error * X).sum(-1) for X in (G, J))      # (B, T)
    dtheta = dP * c[:, 1:] + dQ * h[:, 1:]
    db = np.zeros_like(b)
    db[:, 0] = (dM_next * M).sum((1, 2))
    dc = np.concatenate(((dM_next * S).sum((1, 2))[:, None], theta * dP), axis=1)
    dh = np.concatenate(((dS_next * S).sum((1, 2))[:, None], theta * dQ), axis=1)
    dkeep, dpast = carry_backward(db, dc, dh, carried)
    dM = b[:, :1, None] * dM_next + k.swapaxes(1, 2) @ derror
    dS = c[:, :1, None] * dM_next + h[:, :1, None] * dS_next
    return dk, -derror, dtheta, dpast, dkeep, dM, dS


def token_by_token(k, v, theta, past, keep, M, S):
    """The two recursions as they stand above, the gradients at the segment's start."""
    begin = M
    for t in range(T):
        step = theta[:, t, None, None] * k[:, t, :, None] * (k[:, t:t + 1] @ begin - v[:, t:t + 1])
        S = past[:, t, None, None] * S - step
        M = keep[:, t, None, None] * M + S
    return M, S


S = rng.standard_normal((B, C, E))
arguments = k, v, theta, past, keep, M, S
M_next, S_next, cache = write_forward(*arguments)
one_by_one = token_by_token(*arguments)
print(f"sums and recursion differ by {abs(M_next - one_by_one[0]).max():.0e}")
assert np.allclose(M_next, one_by_one[0], atol=1e-13)
assert np.allclose(S_next, one_by_one[1], atol=1e-13)
verdict = check_grads(write_forward, write_backward, *arguments)
print(verdict)
assert verdict.passed

# %% [markdown]
# That is `titans.write_forward`, but for the matrices that make k, v and the three numbers of the token, and for heads.
#
# ## It learns while it reads
#
# Let a stream of keys and values follow a rule, v = k R, that changes in the middle. The error at the beginning of each
# segment is the memory's *surprise*. A slot would have to hold each pair; this memory learns the rule.

# %%
def surprise(keep, past, segments=40, tokens=8, width=8):
    """The mean error per segment of a stream whose rule changes halfway."""
    d = np.random.default_rng(3)
    rules, found = d.standard_normal((2, width, width)) / width**0.5, []
    M, S = np.zeros((2, 1, width, width))
    for s in range(segments):
        k = unit(d.standard_normal((1, tokens, width)))
        v = k @ rules[2 * s // segments]
        found.append(np.sqrt(((k @ M - v) ** 2).mean()))
        for t in range(tokens):
            S = past * S - 0.2 * k[:, t, :, None] * (k[:, t:t + 1] @ M - v[:, t:t + 1])
            M = keep * M + S
    return np.array(found)


surprises = {"plain descent": surprise(1.0, 0.0), "with momentum .5": surprise(1.0, 0.5),
             "with decay .02": surprise(0.98, 0.5)}
for name, found in surprises.items():
    print(f"{name:<16} surprise at first {found[0]:.2f}, before the change {found[19]:.3f}, at it {found[20]:.2f}, "
          f"at the end {found[-1]:.3f}")
assert surprises["plain descent"][19] < 0.2 * surprises["plain descent"][0]
assert surprises["with momentum .5"][25] < surprises["plain descent"][25]
assert all(found[20] > 4 * found[19] for found in surprises.values())
assert surprises["with decay .02"][-1] > 5 * surprises["plain descent"][-1]

# %% [markdown]
# Momentum learns the rule sooner. Decay unlearns all the time, so its surprise never vanishes. What it buys is room:
# without decay nothing is ever given up. The library starts at a keep of `sigmoid(6) = .9975` per token, and training
# decides.

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 3, figsize=(11.5, 2.9))
    for theta_, found in swings.items():
        axes[0].semilogy(range(12), np.maximum(found, 1e-6), "o-", markersize=3, label=f"step {theta_}")
    axes[0].set(xlabel="segments of 32 equal tokens", ylabel="error", title="beyond a sum of 2 it diverges")
    axes[0].legend(loc="center right")
    shown = carry_forward(np.full((1, T), 0.9), np.full((1, T), 0.6))[:3]
    for name, numbers in zip(("b: of M", "c: of a step, in M", "h: of a step, in S"), shown, strict=True):
        axes[1].plot(range(T + 1), numbers[0], "o-", markersize=3, label=name)
    axes[1].set(xlabel="token", ylabel="what is left at the end", title="keep .9, past .6", ylim=(0, 2.8))
    axes[1].legend(fontsize=8, loc="upper right")
    for name, found in surprises.items():
        axes[2].semilogy(found, label=name)
    axes[2].set(xlabel="segment (the rule changes at 20)", ylabel="surprise", title="learning while reading",
                ylim=(2e-5, 1))
    axes[2].legend(fontsize=8, loc="lower center")
    lesson.show(figure, "21-learning-while-reading")

# %% [markdown]
# ## Exercise
#
# Somebody leaves out the norm of the keys, because "the matrix Wk can learn their length". Keys of length 2 are then
# possible. How large may theta be now, for 32 equal tokens? Find the limit first on paper, then with
# `descend_forward`.
#
# <details><summary>Answer</summary>
#
# The step along a key is theta |k|², so the sum is 32 · 4 · theta, and it must stay below 2: theta below 1/64 =
# .0156. The limit falls with the square of the length, and the length is learned: a training that goes well can fall
# off this edge at any time.
#
# ```python
# def error_after(theta, length, segments=60):
#     k, v = length * np.repeat(unit(np.ones((1, 1, C))), 32, axis=1), np.ones((1, 32, E))
#     M = np.zeros((1, C, E))
#     for _ in range(segments):
#         M, _ = descend_forward(k, v, np.full((1, 32), theta), M)
#     return abs(k @ M - v).max()
#
#
# for theta_ in (0.0150, 0.0162):
#     print(f"length 2, step {theta_}: error {error_after(theta_, 2):.1e}")
# assert error_after(0.0150, 2) < 0.1 < 1 < error_after(0.0162, 2)
# assert error_after(0.0162, 1) < 1e-6
# ```
#
# </details>
#
# ## What usually goes wrong
#
# In a framework one writes `grad = ....detach()`, and the inner gradient becomes a number. The model still trains: keys
# and values get a share each. But the memory's own gradient is now `dM = b_0 dM'`, as if what it holds had no part in
# the next error. It is the first-order shortcut of meta-learning, and it is a choice. By accident it is a bug:

# %%
def detached(dM_next, dS_next, cache):
    dk, dv, dtheta, dpast, dkeep, dM, dS = write_backward(dM_next, dS_next, cache)
    b = cache[-1][2]
    return dk, dv, dtheta, dpast, dkeep, b[:, :1, None] * dM_next, dS


verdict = check_grads(write_forward, detached, *arguments)
print(verdict)
assert [argument.name for argument in verdict.failures] == ["M"]

# %% [markdown]
# ## Three questions
#
# <details><summary>1. What do the delta rule and one step of gradient descent have to do with each other?</summary>
#
# They are the same line. The gradient of |k M - v|² / 2 at M is k' (k M - v), and theta is the share that is stored.
#
# </details>
#
# <details><summary>2. Why are all gradients of a segment taken at the M that it began with, and what does it
# cost?</summary>
#
# So that they do not wait for each other: the steps add up in one matrix product. The cost is that equal tokens correct
# the same error T times. The sum of their steps must stay below 2.
#
# </details>
#
# <details><summary>3. How many shares has the gradient at M in a segment, and what is each of them for?</summary>
#
# In the write two: what is kept of it, and what its error did to the step. A third comes from the read.
#
# </details>
#
# Next: [22. Many hands](22_many_hands.py)
