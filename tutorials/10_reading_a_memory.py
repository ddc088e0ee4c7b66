# %% [markdown]
# # 10. Reading a memory: cross-attention and the output gate
#
# **Time:** 20 minutes. **Before it:** lesson 8 (6 and 9 help).
#
# From here on it is LM2. A block's *memory bank* M has N slots of width D. The tokens of a segment read it; nothing
# they do changes it (that is lesson 11). Equations 1 to 3 of the paper:
#
#     Emem = softmax(Q K' / sqrt(d)) V,   Q = n Wq,   K = M Wk,   V = M Wv          (1)
#     gout = sigmoid(Emem Wout + bout)                                              (2)
#     y    = x + a + gout * Emem                                                    (3)
#
# n are the block's normed token rows, x the rows as they run through the model (the residual stream, lesson 9), a
# what self-attention found beside it. You know every operation in these lines. What is new is who meets whom, and
# where gradients add up.

# %%
import lesson
import numpy as np

from tinylm2 import layers, ops
from tinylm2.gradcheck import check_grads
from tinylm2.memories import lm2

rng = np.random.default_rng(0)
B, T, N, D, H = 2, 5, 3, 8, 2                            # stories, tokens, slots, width, heads

# %% [markdown]
# ## Equation 1: tokens ask, slots answer
#
# In self-attention the tokens ask each other. Here they ask the slots: queries come from n, keys *and* values from
# the bank. There is no mask: the bank was written before this segment began and knows nothing of it, so nothing can
# leak.
#
# Backward: the tokens take part once, through the query. The slots take part twice, as keys ("am I the one you look
# for?") and as values ("this is what I know"). So `dM` has two shares.

# %%
def heads_of(x):
    """(B, T, D) -> (B, T, H, K): the columns cut into heads."""
    return x.reshape(*x.shape[:2], H, -1)


def cross_attention_forward(n, M, Wq, Wk, Wv):
    q, asked = ops.linear_forward(n, Wq)
    k, found_by = ops.linear_forward(M, Wk)
    v, told = ops.linear_forward(M, Wv)
    y, attended = ops.attend_forward(heads_of(q), heads_of(k), heads_of(v))
    return y.reshape(n.shape), (asked, found_by, told, attended)


def cross_attention_backward(dEmem, cache):
    asked, found_by, told, attended = cache
    dq, dk, dv = ops.attend_backward(heads_of(dEmem), attended)
    dn, dWq = ops.linear_backward(dq.reshape(dEmem.shape), asked)
    dM_as_keys, dWk = ops.linear_backward(dk.reshape(B, N, D), found_by)
    dM_as_values, dWv = ops.linear_backward(dv.reshape(B, N, D), told)
    return dn, dM_as_keys + dM_as_values, dWq, dWk, dWv


n, M = rng.standard_normal((B, T, D)), rng.standard_normal((B, N, D))
Wq, Wk, Wv = rng.standard_normal((3, D, D)) / D**0.5
dEmem = rng.standard_normal((B, T, D))

Emem, cache = cross_attention_forward(n, M, Wq, Wk, Wv)
theirs, their_cache = lm2.cross_attention_forward(n, M, Wq, Wk, Wv, heads=H)
assert np.allclose(Emem, theirs, atol=1e-13)
for mine, library in zip(cross_attention_backward(dEmem, cache), lm2.cross_attention_backward(dEmem, their_cache),
                         strict=True):
    assert np.allclose(mine, library, atol=1e-13)

verdict = check_grads(cross_attention_forward, cross_attention_backward, n, M, Wq, Wk, Wv)
print(verdict)
assert verdict.passed

# %% [markdown]
# How large are the two shares? Neither may be left out:

# %%
asked, found_by, told, attended = cache
_, dk, dv = ops.attend_backward(heads_of(dEmem), attended)
as_keys, _ = ops.linear_backward(dk.reshape(B, N, D), found_by)
as_values, _ = ops.linear_backward(dv.reshape(B, N, D), told)
print(f"size of dM as keys {abs(as_keys).mean():.2f}, as values {abs(as_values).mean():.2f}")
assert abs(as_keys).mean() > 0.05 * abs(as_values).mean()

# %% [markdown]
# ## Why the bank is normed before it is read
#
# A story begins with M = the first N rows of the identity: slot s has a 1 in column s and zeros elsewhere. Its root
# mean square is sqrt(1/D), small, and it gets smaller with D. Beside the token rows, which are normed to 1, such a
# bank whispers: its keys are small, so all scores are close to zero and every token hears all slots alike; its values
# are small, so what they hear is next to nothing. Measured at the width of the default model:

# %%
def shares(n, M, Wq, Wk, H):
    """Who listens to which slot, (T, N), mean over the heads."""
    q, k = (n @ Wq).reshape(len(n), H, -1), (M @ Wk).reshape(len(M), H, -1)
    S = np.einsum("thk,nhk->htn", q, k) / q.shape[-1] ** 0.5
    P = np.exp(S)
    return (P / P.sum(-1, keepdims=True)).mean(0)


D_model, N_model = 32, 16
bank = np.eye(N_model, D_model)
normed, _ = ops.rmsnorm_forward(bank, np.ones(D_model))
tokens = rng.standard_normal((12, D_model))
matrices = rng.standard_normal((3, D_model, D_model)) / D_model**0.5

maps, sizes = {}, {}
for name, M_read in (("as it is", bank), ("normed", normed)):
    maps[name] = shares(tokens, M_read, *matrices[:2], H=2)
    heard, _ = lm2.cross_attention_forward(tokens[None], M_read[None], *matrices, heads=2)
    sizes[name] = np.sqrt((heard**2).mean())
    print(f"bank {name:<8}: a token's favourite slot gets {maps[name].max(1).mean():.3f} "
          f"(all alike: {1 / N_model:.3f}), what is heard has the size {sizes[name]:.2f}")
assert maps["as it is"].max(1).mean() < 0.09
assert maps["normed"].max(1).mean() > 0.13
assert sizes["normed"] > 5 * sizes["as it is"]

# %% [markdown]
# So the library reads `Mn = rmsnorm(M, mem.g)`, with a gain of its own: `read_forward` in `tinylm2/memories/lm2.py`
# is this norm, then the cross-attention.
#
# ## Equations 2 and 3: the output gate
#
# What was read does not go straight into the residual stream. The *output gate* looks at it and decides, column by
# column, how much may pass. (In print, equation 3 multiplies the gate with M. That cannot be meant: the gate has T
# rows, M has N.)

# %%
gate, bank_rows = np.full((T, D), 0.5), np.ones((N, D))
try:
    gate * bank_rows
except ValueError as error:
    print("gout * M:", error)
else:
    raise AssertionError("T rows times N rows should not fit")

# %% [markdown]
# Backward of `y = x + a + gout * Emem`: x and a go straight into the sum, `dx = da = dy`. And Emem has two shares: it
# passes through the gate, and it *opens* the gate.
#
#     dEmem  = dy * gout                            as what passes
#            + (dy * Emem * gout (1 - gout)) Wout'  as what decides

# %%
def output_gate_forward(x, a, Emem, Wout, bout):
    gout = 1 / (1 + np.exp(-(Emem @ Wout + bout)))
    return x + a + gout * Emem, (Emem, Wout, gout)


def output_gate_backward(dy, cache):
    Emem, Wout, gout = cache
    dz = dy * Emem * gout * (1 - gout)                   # at the sum inside the sigmoid
    dEmem = dy * gout + dz @ Wout.T
    dWout = Emem.reshape(-1, D).T @ dz.reshape(-1, D)
    return dy, dy, dEmem, dWout, dz.sum((0, 1))


x, a = rng.standard_normal((2, B, T, D))
Wout, bout = rng.standard_normal((D, D)) / D**0.5, np.full(D, -1.0)
dy = rng.standard_normal((B, T, D))

y, cache = output_gate_forward(x, a, Emem, Wout, bout)
theirs, their_cache = layers.output_gate_forward(x, a, Emem, Wout, bout)
assert np.allclose(y, theirs, atol=1e-14)
for mine, library in zip(output_gate_backward(dy, cache), layers.output_gate_backward(dy, their_cache), strict=True):
    assert np.allclose(mine, library, atol=1e-13)

verdict = check_grads(output_gate_forward, output_gate_backward, x, a, Emem, Wout, bout)
print(verdict)
assert verdict.passed

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 3, figsize=(10.5, 2.5), width_ratios=[1, 1, 0.7])
    for axis, (name, P) in zip(axes, maps.items(), strict=False):
        lesson.heat(axis, P, f"bank {name}: who reads which slot", signed=False, limit=0.4)
        axis.set(xlabel=f"{N_model} slots", ylabel="12 tokens")
    b = np.linspace(-6, 6, 100)
    g = 1 / (1 + np.exp(-b))
    axes[2].plot(b, g, label="gate")
    axes[2].plot(b, 4 * g * (1 - g), "--", label="slope, largest = 1")
    axes[2].axvline(-1, color="gray", linestyle=":", label="start: bout = -1")
    axes[2].set(xlabel="bout", title="a cautious start")
    axes[2].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    lesson.show(figure, "10-reading")

# %% [markdown]
# ## Exercise
#
# Give the bank a single slot, N = 1. What are the gradients at Wq and Wk? What has the model lost, apart from capacity?
# And why would `check_grads` have told you to look again?
#
# <details><summary>Answer</summary>
#
# The softmax over one slot is 1, whatever the scores are: every token hears the whole slot. Nothing can be chosen, so
# the matrices that choose have gradients of zero, but for rounding, and never learn. It is the "one position" of lesson
# 3: a check at N = 1 would pass any `dWq` that happens to be zero, and the checker refuses an axis of one.
#
# ```python
# _, one_slot = lm2.cross_attention_forward(n, M[:, :1], Wq, Wk, Wv, heads=H)
# dn, dM1, dWq, dWk, dWv = lm2.cross_attention_backward(dEmem, one_slot)
# print(f"dWq {abs(dWq).max():.0e}, dWk {abs(dWk).max():.0e}, dWv {abs(dWv).max():.2f}")
# assert max(abs(dWq).max(), abs(dWk).max()) < 1e-13 < abs(dWv).max()
# ```
#
# </details>
#
# ## What usually goes wrong
#
# One of two shares is dropped: `dM` as keys, or `dEmem` as what opens the gate. The directions stay roughly right,
# the model trains, a little worse than it should. Only a check sees it: here is the second one, planted.

# %%
def drops_the_opening(dy, cache):
    dx, da, dEmem, dWout, dbout = output_gate_backward(dy, cache)
    return dx, da, dy * cache[2], dWout, dbout


verdict = check_grads(output_gate_forward, drops_the_opening, x, a, Emem, Wout, bout)
print(verdict)
assert [argument.name for argument in verdict.failures] == ["Emem"]

# %% [markdown]
# ## Three questions
#
# <details><summary>1. In how many places does the bank stand in equation 1, and what follows for dM?</summary>
#
# Two: as keys and as values. So dM is the sum of two shares.
#
# </details>
#
# <details><summary>2. Why does the read need no causal mask?</summary>
#
# The bank was written before the segment began, and holds nothing of it. A token that reads all of the bank reads
# nothing from its own future.
#
# </details>
#
# <details><summary>3. What happens to a memory whose bout starts at -20?</summary>
#
# The output gate is shut: `sigmoid(-20)` is 2e-9. What was read adds nothing, and the gate's slope is as small, so
# neither the gate nor the bank behind it learns. -1 is cautious, -20 is the end.
#
# </details>
#
# Next: [11. Writing a memory: two gates, and a slot as one more token](11_writing_a_memory.py)
