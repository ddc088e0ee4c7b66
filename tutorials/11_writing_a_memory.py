# %% [markdown]
# # 11. Writing a memory: two gates, and a slot as one more token
#
# **Time:** 25 minutes. **Before it:** lessons 7 and 10.
#
# The segment has been read; now its end. What should the bank keep? This lesson takes the paper's equations at their
# word, sees why they cannot work as they stand, and builds what stands in this library instead. Then it derives the
# backward: the one that the whole course has been leading up to.

# %%
from dataclasses import replace

import lesson
import numpy as np

from tinylm2 import model, ops
from tinylm2.gradcheck import check_grads
from tinylm2.memories import lm2, pooled

rng = np.random.default_rng(0)
B, T, N, D, H = 2, 5, 3, 8, 2
K = D // H

# %% [markdown]
# ## The equations to the letter
#
#     g_in     = sigmoid(E Win)                                 (4)      E: the token rows
#     g_forget = sigmoid(E_mem Wforget)                         (5)      E_mem: what the tokens read (lesson 10)
#     M_next   = g_in * tanh(E_mem) + g_forget * M              (6)
#
# First problem: the rows. E and E_mem have a row for each of T tokens, M has a row for each of N slots.

# %%
E_mem, M = rng.standard_normal((T, D)), np.eye(N, D)
try:
    np.tanh(E_mem) + M
except ValueError as error:
    print("tanh(E_mem) + M:", error)
else:
    raise AssertionError("T rows and N rows should not fit")

# %% [markdown]
# The paper does not say how else. The gentlest mend is to average the tokens in N groups, one group per slot;
# `Config(memory="pooled")` does that. Now it runs. Does it remember? Two things are lost, and both can be shown
# without any training.
#
# **What the tokens say is not what is written.** Look at (6) again: the content is tanh(E_mem), and E_mem is a mixture
# of what the *bank* says. The tokens choose the mixture, and through the input gate, which sees E, how much of it comes
# in. They put in no word of their own. In the extreme: let all slots say the same. Then every mixture is the same, and
# the content is deaf to the story. Only the input gate still hears it:

# %%
n_garden, n_office = rng.standard_normal((2, B, T, D))   # two stories, as different as you like
same_slots = np.repeat(rng.standard_normal((B, 1, D)), N, axis=1)
Wq, Wk, Wv = rng.standard_normal((3, D, D)) / D**0.5
gates = dict(zip(("mem.Win", "mem.Wforget"), rng.standard_normal((2, D, D)) / D**0.5, strict=True))
contents, banks = [], []
for n in (n_garden, n_office):
    E_mem, _ = lm2.cross_attention_forward(n, same_slots, Wq, Wk, Wv, heads=H)
    contents.append(np.tanh(E_mem))
    (written,), _ = pooled.write_forward((n, E_mem, None, None), (same_slots,), gates, cfg=None)
    banks.append(written)
print(f"two stories: the contents differ by {abs(contents[0] - contents[1]).max():.0e}, "
      f"the banks by {abs(banks[0] - banks[1]).max():.2f}")
assert np.allclose(*contents, atol=1e-12)
assert abs(banks[0] - banks[1]).max() > 0.1              # all of it through the input gate

# %% [markdown]
# So a story does leave a trace: more, or less, of what the bank said before. That is a narrow way in: each column of
# a slot gets a factor between 0 and 1, and the factor is made from an average of tokens.
#
# **Who and where fall apart.** An average does not know who stood where. Let one group hold two short facts, and
# exchange the places: the first block's bank is the same.

# %%
cfg = model.Config(V=20, D=16, L=2, H=2, G=2, F=8, N=2, T=8)             # two groups of four tokens
told = np.array([[3, 7, 4, 8, 5, 9, 6, 2]])              # mary garden, john office, ...
exchanged = np.array([[3, 8, 4, 7, 5, 9, 6, 2]])         # mary office, john garden, ...


def bank_after(ids, memory, block=0):
    variant = replace(cfg, memory=memory)
    params = model.init_params(variant, seed=0, dtype="float64")
    states, _ = model.first_states(params, variant, 1)   # the state of each block: here a tuple with its bank alone
    _, states, _ = model.segment_forward(params, states, ids=ids, cfg=variant)
    return states[block][0]


moves = {name: abs(bank_after(told, name) - bank_after(exchanged, name)).max() for name in ("pooled", "lm2")}
for name, moved in moves.items():
    print(f"{name}: exchanging the places moves the first block's bank by {moved:.1e}")
assert moves["pooled"] < 1e-14
assert moves["lm2"] > 1e-5

# %% [markdown]
# Every slot is tied to its own stretch of the segment, takes what stands there, and cannot go and look. What a memory
# needs is slots that *ask*: who was named? where to?
#
# ## A slot as one more token
#
# There is already a mechanism by which one row asks others: the block's own self-attention. So let a slot be one more
# token, standing right behind the segment's last one. For a row it has a fixed *address*: row s of the identity,
# times sqrt(D) so that it is as long as a normed token row. It asks with the block's own Wq, the keys and values are
# those that the tokens made anyway, and what it gathers goes through the block's own Wo:
#
#     q_s = RoPE( address_s Wq, position T )
#     R   = attend(q, k, v) Wo                           R (N, D) takes the place of E and E_mem in (4) to (6)
#
# Since the address is sqrt(D) times a unit row, `address_s Wq` is just sqrt(D) times row s of Wq. No new matrix is
# needed, and no position can be confused. The library calls this the *write attention*. By hand, with ops only (Wq
# stands in the first H·K columns of Wqkv):

# %%
def write_attention_forward(k, v, Wqkv, Wo, *, slots):
    """k, v (B, T, H, K): the segment's rotated keys and its values -> R (B, N, D)."""
    B, T, H, K = k.shape
    asked = D**0.5 * Wqkv[:slots, :H * K].reshape(1, slots, H, K)                # one set for all stories
    q, turned = ops.rope_forward(asked, start=T, step=0)                         # all at position T
    heard, attended = ops.attend_forward(np.repeat(q, B, axis=0), k, v)          # each story asks with a copy
    R, out = ops.linear_forward(heard.reshape(B, slots, H * K), Wo)
    return R, (turned, attended, out, Wqkv, slots, (H, K))


# %% [markdown]
# ### Does a slot know what came later?
#
# "Mary went to the garden ... Mary went to the office": only the order says where she is. Swap two tokens, keys and
# values together. Without turns the slots gather the same; with turns they do not.

# %%
k_plain, v = rng.standard_normal((2, B, T, H, K))
Wqkv, Wo = rng.standard_normal((D, 3 * H * K)) / D**0.5, rng.standard_normal((H * K, D)) / D**0.5
order = [0, 3, 2, 1, 4]                                  # tokens 1 and 3 change places

unturned = [ops.attend_forward(np.repeat(D**0.5 * Wqkv[:N, :H * K].reshape(1, N, H, K), B, axis=0), k, v_)[0]
            for k, v_ in ((k_plain, v), (k_plain[:, order], v[:, order]))]
k, _ = ops.rope_forward(k_plain)
k_swapped, _ = ops.rope_forward(np.ascontiguousarray(k_plain[:, order]))
R, cache = write_attention_forward(k, v, Wqkv, Wo, slots=N)
R_swapped, _ = write_attention_forward(k_swapped, v[:, order], Wqkv, Wo, slots=N)
print(f"without turns {abs(unturned[0] - unturned[1]).max():.1e}, with turns {abs(R - R_swapped).max():.1e}")
assert abs(unturned[0] - unturned[1]).max() < 1e-14
assert abs(R - R_swapped).max() > 1e-2

# %% [markdown]
# ### Backward of the write attention
#
# From below, with the pairs you know. One line deserves a stop. The same queries asked all B stories: forward
# repeats, **so backward sums over B**. And they are N rows of Wq, times sqrt(D); so that is where their gradient
# lands. All other entries of Wqkv met nothing here: their gradient, here, is zero. (Wk and Wv do matter, but through
# k and v: their share travels as dk and dv to self-attention, where it meets that of the tokens.)

# %%
def write_attention_backward(dR, cache):
    turned, attended, out, Wqkv, slots, (H, K) = cache
    dheard, dWo = ops.linear_backward(dR, out)
    dq, dk, dv = ops.attend_backward(dheard.reshape(len(dR), slots, H, K), attended)
    (dasked,) = ops.rope_backward(dq.sum(0, keepdims=True), turned)              # the sum over the stories
    dWqkv = np.zeros_like(Wqkv)
    dWqkv[:slots, :H * K] = D**0.5 * dasked.reshape(slots, H * K)
    return dk, dv, dWqkv, dWo


dR = rng.standard_normal((B, N, D))
theirs, their_cache = lm2.write_attention_forward(k, v, Wqkv, Wo, heads=(H, H), slots=N)
assert np.allclose(R, theirs, atol=1e-13)
for mine, library in zip(write_attention_backward(dR, cache), lm2.write_attention_backward(dR, their_cache),
                         strict=True):
    assert np.allclose(mine, library, atol=1e-13)

verdict = check_grads(write_attention_forward, write_attention_backward, k, v, Wqkv, Wo, slots=N)
print(verdict)
assert verdict.passed

# %% [markdown]
# ## The memory update
#
# Now (4) to (6) fit, row for row, with R in the place of E and of E_mem. One thing is added: each gate has a bias, so
# that it can start out open or shut.
#
#     z_in     = R Win + bin                               g_in     = sigmoid(z_in)
#     z_forget = R Wforget + bforget                       g_forget = sigmoid(z_forget)
#     M'       = g_in * tanh(R) + g_forget * M
#
# Both gates ask what *arrives*, neither asks what it would overwrite. The gates of an LSTM, which these resemble, look
# at the state as well. It was tried here: no better over a few segments, and over a thousand the bank is lost sooner
# (docs/MODEL.md has the numbers).
#
# Backward. In each product one factor scales the other's gradient:
#
#     dz_in     = dM' * tanh(R) * g_in (1 - g_in)          was what came in worth it?
#     dz_forget = dM' * M * g_forget (1 - g_forget)        was what stayed worth it?
#     dM        = dM' * g_forget                           what was kept is answerable for itself
#     dR        = dM' * g_in * (1 - tanh(R)²)  +  dz_in Win'  +  dz_forget Wforget'
#
# R has three shares: it is the content, and it drives both gates. Each matrix has one: `dWin = R' dz_in`, and so on,
# summed over all slots of all stories; each bias sums its dz over the same rows.

# %%
def memory_update_forward(R, M, Win, bin, Wforget, bforget):
    gin = 1 / (1 + np.exp(-(R @ Win + bin)))
    gforget = 1 / (1 + np.exp(-(R @ Wforget + bforget)))
    content = np.tanh(R)
    return gin * content + gforget * M, (R, M, Win, Wforget, gin, gforget, content)


def memory_update_backward(dM_next, cache):
    R, M, Win, Wforget, gin, gforget, content = cache
    dzin = dM_next * content * gin * (1 - gin)
    dzforget = dM_next * M * gforget * (1 - gforget)
    dR = dM_next * gin * (1 - content**2) + dzin @ Win.T + dzforget @ Wforget.T

    def matrix(dz):
        return R.reshape(-1, D).T @ dz.reshape(-1, D)

    return dR, dM_next * gforget, matrix(dzin), dzin.sum((0, 1)), matrix(dzforget), dzforget.sum((0, 1))


M = rng.standard_normal((B, N, D))
Win, Wforget = rng.standard_normal((2, D, D)) / D**0.5
arguments = R, M, Win, np.zeros(D), Wforget, np.full(D, 3.0)
dM_next = rng.standard_normal((B, N, D))

M_next, cache = memory_update_forward(*arguments)
theirs, their_cache = lm2.memory_update_forward(*arguments)
assert np.allclose(M_next, theirs, atol=1e-13)
for mine, library in zip(memory_update_backward(dM_next, cache), lm2.memory_update_backward(dM_next, their_cache),
                         strict=True):
    assert np.allclose(mine, library, atol=1e-13)

verdict = check_grads(memory_update_forward, memory_update_backward, *arguments)
print(verdict)
assert verdict.passed

# %% [markdown]
# That was it: you have derived and coded the write of a gated memory, forward and backward.

# %%
if lesson.plt:
    T_seen, N_seen = 16, 8
    pool = np.array([[1.0 * (r * T_seen // N_seen <= t < -(-(r + 1) * T_seen // N_seen)) for t in range(T_seen)]
                     for r in range(N_seen)])
    pool /= pool.sum(1, keepdims=True)
    q, _ = ops.rope_forward(2 * rng.standard_normal((1, N_seen, 1, 16)), start=T_seen, step=0)
    keys, _ = ops.rope_forward(rng.standard_normal((1, T_seen, 1, 16)))
    S = q[0, :, 0] @ keys[0, :, 0].T / 4
    P = np.exp(S) / np.exp(S).sum(-1, keepdims=True)
    figure, axes = lesson.plt.subplots(1, 4, figsize=(10.5, 2.4), width_ratios=[1.4, 1.4, 1, 1])
    lesson.heat(axes[0], pool, "pooled: a slot hears its positions", signed=False, limit=0.7)
    lesson.heat(axes[1], P, "lm2: a slot asks everybody", signed=False, limit=0.7)
    for axis in axes[:2]:
        axis.set(xlabel="tokens", ylabel="slots")
    gin, gforget = cache[-3:-1]
    lesson.heat(axes[2], gin[0], "g_in, nothing learned", signed=False, numbers=".1f", limit=1)
    lesson.heat(axes[3], gforget[0], "g_forget: starts open", signed=False, numbers=".1f", limit=1)
    lesson.show(figure, "11-who-a-slot-hears")

# %% [markdown]
# ## Exercise
#
# Somebody computes the slots' queries inside the loop over stories and writes `dWqkv[:slots, :H*K] = ...` for each
# story. What is wrong, and for which batch size does every test pass? Plant the mistake and let the checker speak.
#
# <details><summary>Answer</summary>
#
# Each story overwrites the gradient of the one before: only the last one is left, where the sum belongs. With B = 1
# nothing is wrong, and a test with one story passes (lesson 3).
#
# ```python
# def keeps_the_last_story(dR, cache):
#     dk, dv, dWqkv, dWo = write_attention_backward(dR, cache)
#     turned, attended, out, Wqkv, slots, (H, K) = cache
#     dheard, _ = ops.linear_backward(dR, out)
#     dq, _, _ = ops.attend_backward(dheard.reshape(len(dR), slots, H, K), attended)
#     (dasked,) = ops.rope_backward(dq[-1:], turned)
#     dWqkv[:slots, :H * K] = D**0.5 * dasked.reshape(slots, H * K)
#     return dk, dv, dWqkv, dWo
#
#
# verdict = check_grads(write_attention_forward, keeps_the_last_story, k, v, Wqkv, Wo, slots=N)
# print(verdict)
# assert [argument.name for argument in verdict.failures] == ["Wqkv"]
#
# _, one_story = write_attention_forward(k[:1], v[:1], Wqkv, Wo, slots=N)
# right, wrong = write_attention_backward(dR[:1], one_story), keeps_the_last_story(dR[:1], one_story)
# assert all(np.array_equal(a, b) for a, b in zip(right, wrong, strict=True))
# ```
#
# </details>
#
# ## What usually goes wrong
#
# A share is lost where paths meet. The write has more of them than anything else here: R in three places, M in the
# write and in the read, Wo and k and v shared with the tokens. Before you write a backward, count for each argument
# in how many places it stands in the forward: that is the number of terms its gradient must have.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. With the write as printed and a bank of equal slots, by what way can a story reach the new
# bank?</summary>
#
# Through the input gate alone, which sees the token rows. The content and the forget gate see what was read, and that
# is the same mixture for every story.
#
# </details>
#
# <details><summary>2. Where do the slots' queries come from, and where does their gradient land?</summary>
#
# They are the first N rows of Wq, times sqrt(D), rotated to position T. The gradient is summed over the stories,
# turned back, and lands in the same rows, times sqrt(D) once more.
#
# </details>
#
# <details><summary>3. How many shares do dR and dM have in a block?</summary>
#
# dR has three: as content, at the input gate and at the forget gate. dM has two: what the forget gate kept, and what
# the tokens read (lesson 10).
#
# </details>
#
# Next: [12. Back through time](12_back_through_time.py)
