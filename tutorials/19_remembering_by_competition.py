# %% [markdown]
# # 19. Remembering by competition
#
# **Time:** 25 minutes. **Before it:** lessons 7, 8 and 12.
#
# Every memory of fixed size must forget. The question is who decides. In LM2 a forget gate decides. This lesson takes
# apart two memories without one. The *window* keeps the last N tokens and drops the rest: the clock decides. In
# *Memformer* (Wu et al. 2020) what a slot holds competes with the tokens of the segment for a place in the slot: the
# softmax decides. Both stand in `tinylm2/memories/`, one file each.

# %%
import lesson
import numpy as np

from tinylm2 import model, ops, recurrence
from tinylm2.gradcheck import check_grads
from tinylm2.memories import memformer, primitives

rng = np.random.default_rng(0)
B, T, N, D = 2, 5, 3, 8                                  # stories, tokens of a segment, slots, width

# %% [markdown]
# ## The window: keep the last N
#
# Attention needs the keys and the values of earlier tokens, so the simplest memory is to keep them. After each segment
# append its keys, and drop all but the last N:
#
#     kept' = last N of [kept; new]
#
# Its backward is the shortest of the course. Each row that stayed hands its gradient back to the place that it came
# from. A row that was dropped gets zero: nobody downstream will see it.

# %%
def keep_last_forward(kept, new, *, N):
    both = np.concatenate((kept, new), axis=1)
    drop = max(0, both.shape[1] - N)
    return both[:, drop:], (kept.shape[1], both.shape, drop)


def keep_last_backward(d, cache):
    U, shape, drop = cache
    whole = np.zeros(shape)
    whole[:, drop:] = d
    return whole[:, :U], whole[:, U:]


verdict = check_grads(keep_last_forward, keep_last_backward, rng.standard_normal((B, 4, D)),
                      rng.standard_normal((B, T, D)), N=7)
print(verdict)
assert verdict.passed

# %% [markdown]
# One thing is left. The keys carry the angles of their positions (lesson 7), and every segment begins again at position
# 0. Attention sees differences of positions only, so it is enough to turn what is kept back by T positions. A token
# that stood at position 3 of five stands at position -2 of the next segment.

# %%
heads = rng.standard_normal((2, 1, 2 * T, 1, D))
q_whole, k_whole = (ops.rope_forward(x)[0] for x in heads)               # two segments as one sequence
q_second, _ = ops.rope_forward(heads[0][:, T:])                          # the second segment, from position 0 again
k_kept, _ = ops.rope_forward(k_whole[:, :T], start=-T, step=0)           # the first one's keys, all turned by -T
as_one = np.einsum("bthk,buhk->btu", q_whole[:, T:], k_whole[:, :T])
in_two = np.einsum("bthk,buhk->btu", q_second, k_kept)
print(f"scores across the border, as one sequence and in two segments, differ by {abs(as_one - in_two).max():.0e}")
assert np.allclose(as_one, in_two, atol=1e-12)

# %% [markdown]
# Transformer-XL (Dai et al. 2019) keeps the same cache, but stops the gradient at the border. Here it passes. With no
# limit on N this is attention over the whole story: `full` in the library is the window with its size replaced.
#
# ## The edge of a window
#
# How far back does the last token see? We ask backward, as in lesson 12: a story in which every token is a word of its
# own, a gradient at the last logits, and the size of each word's embedding gradient.

# %%
def reach(memory, S=8, T=4, N=4):
    """Gradient at the embedding of each position of a story, from the last position's logits."""
    cfg = model.Config(V=S * T, D=16, L=2, H=2, G=2, F=12, N=N, T=T, memory=memory)
    params = model.init_params(cfg, seed=0, dtype="float64")
    y, cache = recurrence.story_forward(params, ids=np.arange(S * T)[None], cfg=cfg, last=1)
    grads = recurrence.story_backward(np.random.default_rng(1).standard_normal(y.shape), cache)
    return abs(grads["embed.W"]).mean(1)


reaches = {name: reach(name) for name in ("window", "memformer", "lm2")}
for name, sizes in reaches.items():
    print(f"{name:<10} positions that the last of 32 hears from: {np.count_nonzero(sizes)}")
assert np.count_nonzero(reaches["window"]) == 4 + 2 * 4
assert np.count_nonzero(reaches["memformer"]) == np.count_nonzero(reaches["lm2"]) == 32

# %% [markdown]
# With 2 blocks and N = 4 the window reaches its own segment and 2 · 4 tokens more, because each block looks N further.
# Beyond that the gradient is exactly zero. No training can teach this model to answer from there. That makes it the
# control of every comparison: it says what the same numbers buy when nothing is chosen.
#
# ## One softmax over the slot and the tokens
#
# Memformer keeps N slots of width D, as LM2 does. At the end of a segment each slot asks the segment's tokens by
# attention. But it puts itself among the places that it may look at:
#
#     weights = softmax([own; S_1 ... S_T])        own: the slot's score for itself, S_t: for token t
#     M~      = weights_0 M + sum_t weights_t v_t
#
# So a slot stays as it is when no token is worth more. No gate, no bias for a gate: forgetting is what happens when
# something else wins.
#
# The weights are easier to work with in two steps. Call s the slot's own weight. What the tokens share is 1 - s, and
# among themselves they share it as in attention without the slot:
#
#     s = e^own / (e^own + sum_t e^S_t) = sigmoid(own - lse),        lse = log sum_t e^S_t
#     M~ = s M + (1 - s) attend(tokens)

# %%
own, S, v, M = rng.standard_normal(()), rng.standard_normal(T), rng.standard_normal((T, D)), rng.standard_normal(D)
weights = np.exp(np.append(own, S)) / np.exp(np.append(own, S)).sum()
together = weights[0] * M + weights[1:] @ v

s = 1 / (1 + np.exp(-(own - np.log(np.exp(S).sum()))))
apart = s * M + (1 - s) * (np.exp(S) / np.exp(S).sum()) @ v
print(f"the slot's own weight {weights[0]:.4f} and {s:.4f}")
assert np.allclose(together, apart, atol=1e-14)

# %% [markdown]
# It is a gate after all, and one that nobody had to invent: the two-way softmax of lesson 5. What drives it is new. It
# compares the slot's claim with *all* tokens together.
#
# ## A new output of attention needs a new term in its backward
#
# So attention must also return lse. Its slope is a weight that we have already:
#
#     d lse / d S_t = e^S_t / sum_u e^S_u = P_t
#
# The backward of attention gains one term, `P * dlse`:
#
#     dS = P (dP - sum(dP P))  +  P dlse

# %%
def attend_lse_forward(q, k, v):
    S = q @ k.swapaxes(1, 2) / D**0.5
    top = S.max(-1, keepdims=True)                       # the shift keeps e^S from overflowing
    P = np.exp(S - top)
    total = P.sum(-1, keepdims=True)
    P /= total
    return P @ v, (top + np.log(total))[..., 0], (q, k, v, P)


def attend_lse_backward(dy, dlse, cache):
    q, k, v, P = cache
    dP = dy @ v.swapaxes(1, 2)
    dS = P * (dP - (dP * P).sum(-1, keepdims=True)) + P * dlse[..., None]
    return dS @ k / D**0.5, dS.swapaxes(1, 2) @ q / D**0.5, P.swapaxes(1, 2) @ dy


q, (k, v) = rng.standard_normal((B, N, D)), rng.standard_normal((2, B, T, D))
dy, dlse = rng.standard_normal((B, N, D)), rng.standard_normal((B, N))
y, lse, cache = attend_lse_forward(q, k, v)
theirs = primitives.attend_lse_forward(*(x[:, :, None] for x in (q, k, v)))      # the library has heads: here one
assert np.allclose(y, theirs[0][:, :, 0], atol=1e-13)
assert np.allclose(lse, theirs[1][:, :, 0], atol=1e-13)
library = primitives.attend_lse_backward(dy[:, :, None], dlse[:, :, None], theirs[2])
assert all(np.allclose(a, b[:, :, 0], atol=1e-13)
           for a, b in zip(attend_lse_backward(dy, dlse, cache), library, strict=True))

verdict = check_grads(attend_lse_forward, attend_lse_backward, q, k, v)
print(verdict)
assert verdict.passed

# %% [markdown]
# ## The whole write
#
# The slot's score for itself is attention's, too: its query with its own key, and a learned number beside it. After the
# mixture two things happen that the paper calls forgetting. A small fixed row, `bias`, is added, and the row is set
# back to root mean square one. What is old shrinks a little each time, as a picture fades that is painted over thinly.
#
#     q = M Wslot,   y, lse = attend(rope(q), k, v),   own = q.(M Wkey) / sqrt(D) + bown,   s = sigmoid(own - lse)
#     M' = set_rms(s M + (1 - s) y + 0.2 bias)
#
# A slot stands right after the last token, as a query and as a key, so between these two no angle is left: own takes q
# before RoPE. Count the shares before you read on. M is content, query and key: three. q meets the tokens and the slot
# itself: two. And s falls when lse rises: `dlse = -down`, if `down` is the gradient at own.

# %%
def compete_forward(M, k, v, bias, Wslot, Wkey, bown):
    q, by_query = ops.linear_forward(M, Wslot)
    old, by_key = ops.linear_forward(M, Wkey)
    turned, rope = ops.rope_forward(q[:, :, None], start=T, step=0)
    y, lse, attended = attend_lse_forward(turned[:, :, 0], k, v)
    own = (q * old).sum(-1) / D**0.5 + bown
    s = (1 / (1 + np.exp(-(own - lse))))[..., None]
    M_next, norm = primitives.set_rms_forward(s * M + (1 - s) * y + memformer.SHORT * bias)
    return M_next, (by_query, by_key, rope, attended, norm, M, q, old, y, s)


def compete_backward(dM_next, cache):
    by_query, by_key, rope, attended, norm, M, q, old, y, s = cache
    (dmixed,) = primitives.set_rms_backward(dM_next, norm)
    down = (dmixed * (M - y)).sum(-1) * (s * (1 - s))[..., 0]            # at own - lse
    dturned, dk, dv = attend_lse_backward(dmixed * (1 - s), -down, attended)
    (dq,) = ops.rope_backward(dturned[:, :, None], rope)
    dq = dq[:, :, 0] + down[..., None] * old / D**0.5                    # it met the tokens, and itself
    dM_as_query, dWslot = ops.linear_backward(dq, by_query)
    dM_as_key, dWkey = ops.linear_backward(down[..., None] * q / D**0.5, by_key)
    dM = dmixed * s + dM_as_query + dM_as_key
    return dM, dk, dv, memformer.SHORT * dmixed.sum(0), dWslot, dWkey, down.sum(0)


M, bias = rng.standard_normal((B, N, D)), rng.standard_normal((N, D))
Wslot, Wkey = rng.standard_normal((2, D, D)) / D**0.5
arguments = M, k, v, bias, Wslot, Wkey, np.full(N, 1.0)  # bown: here a number per slot, in the library one per head
dM_next = rng.standard_normal((B, N, D))

M_next, cache = compete_forward(*arguments)
theirs, their_cache = memformer.compete_forward(M, k[:, :, None], v[:, :, None], *arguments[3:6], np.ones(1))
assert np.allclose(M_next, theirs, atol=1e-13)
*mine, dbown = compete_backward(dM_next, cache)
*library, dbown_library = memformer.compete_backward(dM_next, their_cache)
assert all(np.allclose(a, b.reshape(a.shape), atol=1e-13) for a, b in zip(mine, library, strict=True))
assert np.allclose(dbown.sum(), dbown_library)

verdict = check_grads(compete_forward, compete_backward, *arguments)
print(verdict)
assert verdict.passed

# %% [markdown]
# ## How long does a slot hold out?
#
# In a fresh model all scores are close to zero. A slot among T tokens then gets `e^bown / (e^bown + T)` of itself, and
# after n segments the n-th power of that. The paper has no bown. With 32 tokens a slot would keep a 33rd per segment,
# and no gradient would come back from two segments ago. So here bown is learned, and it starts at 3.

# %%
def own_share(bown, T=32):
    return np.exp(bown) / (np.exp(bown) + T)


starts = (0.0, 3.0, 6.0)
for b in starts:
    print(f"bown {b:.0f}: a slot keeps {own_share(b):.3f} per segment, {own_share(b) ** 8:.1e} after eight")
assert own_share(0.0) ** 2 < 1e-3
assert 0.3 < own_share(3.0) < 0.5
assert own_share(6.0) > 0.9

# %% [markdown]
# Why not 6, then? Because a slot that keeps .93 of itself keeps what it *began* with, and that is nothing. The tokens
# get 7 % of the write, and so does the gradient that could teach them what to write. Measured on qa1 with one seed
# (docs/results/trials.jsonl): .64 at 8 segments with a start of 6, .94 with a start of 3. LM2's forget gate starts at
# 3, too, but its input gate is a second gate: it may keep and take at once. Here what is taken is lost by what was.
#
# The bias fades what a slot holds, even when no token wins. Let s be 1, and repeat the write:

# %%
def left_after(length, segments=24):
    """What is left of a slot's direction after each write in which it wins, with a bias of this length."""
    M, bias = np.random.default_rng(5).standard_normal((2, 100, 32))
    start, found = M / np.sqrt((M**2).mean(-1, keepdims=True)), []
    M = start
    for _ in range(segments):
        M, _ = primitives.set_rms_forward(M + length * bias)
        found.append((M * start).mean(-1).mean())        # the cosine: all rows have the same length
    return np.array(found)


fading = {length: left_after(length) for length in (1.0, 0.2, 0.05)}
for length, found in fading.items():
    print(f"bias of length {length}: left after 3 segments {found[2]:.2f}, after 24 {abs(found[23]):.2f}")
assert fading[1.0][2] < 0.5
assert fading[0.2][2] > 0.8
assert abs(fading[0.2][23]) < 0.1

# %% [markdown]
# So this memory cannot hold a fact for ever, however well it learns to choose. With a bias of .2 a slot that wins 24
# times in a row holds nothing but its bias. The bias is a parameter: training may shrink it, and has to, before a fact
# can cross a long story.

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 3, figsize=(11.5, 2.9))
    for name, sizes in reaches.items():
        shown = np.where(sizes > 0, sizes / sizes[-1], np.nan)
        axes[0].semilogy(np.arange(32), shown, "o-", markersize=3, label=name)
    axes[0].axvline(19.5, color="gray", linestyle=":")
    axes[0].text(19, 0.5, "the window's edge", ha="right", fontsize=8)
    axes[0].set(xlabel="position (the last one asks)", ylabel="gradient, last position = 1", ylim=(None, 60),
                title="who can be heard")
    axes[0].legend(loc="upper left")
    b = np.linspace(-2, 9, 100)
    for tokens in (4, 32, 256):
        axes[1].plot(b, own_share(b, tokens), label=f"{tokens} tokens")
    axes[1].plot(3, own_share(3.0), "o", color="black", label="the start")
    axes[1].legend(loc="lower right")
    axes[1].set(xlabel="bown", ylabel="what a slot keeps of itself", title="one against all tokens, nothing learned")
    for length, found in fading.items():
        axes[2].plot(range(1, 25), found, label=f"bias {length:g}")
    axes[2].set(xlabel="segments in which the slot wins", ylabel="left of its direction", ylim=(0, 1.03),
                title="fading by bias and norm")
    axes[2].legend()
    lesson.show(figure, "19-competition")

# %% [markdown]
# ## Exercise
#
# The last segment of a story may be short, and the first one padded. Let all scores be equal. What share does a slot
# keep in a segment of 4 tokens, and in one of 32? The paper divides by a number for this. What would you change so that
# the share does not depend on the number of tokens? Write it as a change to own, and check it.
#
# <details><summary>Answer</summary>
#
# lse is a sum over the tokens: with equal scores S it is `S + log T`. So a slot keeps more of itself in a short
# segment: .83 beside 4 tokens with bown = 3, .39 beside 32. Add `log T` to own, with T the number of real tokens. It is
# a constant, so the backward does not change. The library leaves it: a segment with more tokens has more to say.
#
# ```python
# def share(tokens, corrected):
#     _, lse, _ = attend_lse_forward(np.zeros((1, 1, D)), np.zeros((1, tokens, D)), np.zeros((1, tokens, D)))
#     own = 3.0 + (np.log(tokens) if corrected else 0.0)
#     return 1 / (1 + np.exp(-(own - lse[0, 0])))
#
#
# print({T: f"{share(T, False):.2f}, corrected {share(T, True):.2f}" for T in (4, 32)})
# assert share(4, False) > 2 * share(32, False)
# assert np.isclose(share(4, True), share(32, True))
# ```
#
# </details>
#
# ## What usually goes wrong
#
# The gate's second path is forgotten. `s` is made of own *and* of lse, and lse is hidden in attention. Without its
# share the tokens' keys still get a gradient, through y, so the model trains. But no token ever learns to say "take me
# instead of what you have". Here it is, planted:

# %%
def forgets_lse(dM_next, cache):
    by_query, by_key, rope, attended, norm, M, q, old, y, s = cache
    dM, dk, dv, dbias, dWslot, dWkey, dbown = compete_backward(dM_next, cache)
    (dmixed,) = primitives.set_rms_backward(dM_next, norm)
    _, dk, dv = attend_lse_backward(dmixed * (1 - s), np.zeros((B, N)), attended)
    return dM, dk, dv, dbias, dWslot, dWkey, dbown


verdict = check_grads(compete_forward, forgets_lse, *arguments)
print(verdict)
assert [argument.name for argument in verdict.failures] == ["k"]

# %% [markdown]
# ## Three questions
#
# <details><summary>1. A window of N tokens in a model of L blocks: how far back can the last token hear?</summary>
#
# To the beginning of its own segment, and L · N tokens further: each block looks N tokens back at rows that themselves
# looked N back. Beyond that the gradient is exactly zero.
#
# </details>
#
# <details><summary>2. Attention returns lse as a second output. What changes in its backward, and why so
# little?</summary>
#
# `dS` gains `P * dlse`. The slope of the log of a sum of exponentials is the softmax, which backward has already.
#
# </details>
#
# <details><summary>3. What is the price of "a slot stays when nobody else wins", beside LM2's two gates?</summary>
#
# Keeping and taking are one decision: s and 1 - s. A slot cannot keep what it has and add to it, as LM2 does with both
# gates open. A start that keeps well is a start that learns to write late.
#
# </details>
#
# Next: [20. Key, value, and the delta rule](20_key_value_and_the_delta_rule.py)
