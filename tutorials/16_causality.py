# %% [markdown]
# # 16. Causality: an audit
#
# **Time:** 25 minutes. **Before it:** lessons 5 and 11.
#
# A language model predicts what comes from what came. If anything of what comes can reach the prediction by another
# way, the model will find that way: training does nothing but look for ways. Its loss will then be wonderful, its
# evaluation too, and it will fail the first time somebody asks it a real question, because then there is no future to
# peek into.
#
# The paper's equations of the memory leave open how the rows of a sequence become rows of a bank. One natural
# reading, and the one in which the published code was written, lets the gates see an *average over the whole
# sequence*. In this lesson you build the smallest model with such a gate, measure the leak, watch it being exploited,
# and mend it. Then you audit tinylm2.

# %%
from dataclasses import replace

import lesson
import numpy as np

from tinylm2 import model, ops, recurrence
from tinylm2.flat import Flat
from tinylm2.gradcheck import check_grads
from tinylm2.memories import MEMORIES, lm2
from tinylm2.optim import AdamW

rng = np.random.default_rng(0)

# %% [markdown]
# ## A gate that averages
#
#     e     = W[ids]                               (B, T, D)
#     g     = sigmoid(mean_t(e) Wgate)             (B, 1, D)        one gate for all positions: here is the trouble
#     y     = (g * e) Whead                        (B, T, V)
#
# Each position's output depends on its own token, and on the mean. The mend is one that you would find, too: at
# position t, average only what came up to t. Both averages as a pair. The mean hands each of its T positions the same
# share of the gradient; in the running mean position u is part of the averages at u, u + 1, ..., T - 1, so its
# gradient sums over these: a running sum from the right.

# %%
def mean_forward(e):
    return np.repeat(e.mean(1, keepdims=True), e.shape[1], axis=1), e.shape


def mean_backward(dmean, cache):
    B, T, D = cache
    return (np.repeat(dmean.sum(1, keepdims=True) / T, T, axis=1),)


def running_mean_forward(e):
    positions = np.arange(1, e.shape[1] + 1)[:, None]
    return e.cumsum(1) / positions, positions


def running_mean_backward(dmean, cache):
    positions = cache
    return ((dmean / positions)[:, ::-1].cumsum(1)[:, ::-1],)


AVERAGES = {"over the whole sequence": (mean_forward, mean_backward),
            "up to each position": (running_mean_forward, running_mean_backward)}
for name, pair in AVERAGES.items():
    verdict = check_grads(*pair, rng.standard_normal((2, 5, 3)))
    print(f"{name}: {verdict}")
    assert verdict.passed

# %% [markdown]
# The gradients of both are right. That is the first lesson of this lesson: **a gradient check knows nothing of
# causality.** A leak is not a wrong derivative; it is the right derivative of the wrong function.

# %%
def gated_forward(params, *, ids, average):
    e, embedded = ops.embedding_forward(params["W"], ids=ids)
    mean, averaged = AVERAGES[average][0](e)
    z, gate = ops.linear_forward(mean, params["Wgate"])
    g, _ = ops.sigmoid_forward(z)
    logits, head = ops.linear_forward(g * e, params["Whead"])
    return logits, (embedded, e, averaged, average, gate, g, head)


def gated_backward(dlogits, cache):
    embedded, e, averaged, average, gate, g, head = cache
    grads = {}
    dge, grads["Whead"] = ops.linear_backward(dlogits, head)
    (dz,) = ops.sigmoid_backward(dge * e, g)
    dmean, grads["Wgate"] = ops.linear_backward(dz, gate)
    (de,) = AVERAGES[average][1](dmean, averaged)
    (grads["W"],) = ops.embedding_backward(dge * g + de, embedded)
    return grads


V, D, T = 12, 8, 16
SHAPES = {"W": (V, D), "Wgate": (D, D), "Whead": (D, V)}


def fresh_params(dtype="float64"):
    params = Flat(SHAPES, np, dtype)
    params.buffer[...] = np.random.default_rng(1).standard_normal(params.buffer.shape) / D**0.5
    return params


for average in AVERAGES:
    verdict = check_grads(gated_forward, gated_backward, dict(fresh_params()), ids=rng.integers(0, V, (2, 4)),
                          average=average)
    assert verdict.passed

# %% [markdown]
# ## Two leak detectors
#
# **Change and compare.** Change the token at position u, run again, and look where the output moved. Row t, column u of
# the picture: how much does what is said at t depend on what stands at u? Everything above the diagonal must be zero:
# not small, *zero*, bit for bit. Where no path exists, no rounding exists either.
#
# **Ask backward.** Put an upstream gradient at position t alone, and look at the gradient at the embeddings of the
# positions after t. Also exactly zero, or there is a path.

# %%
def influence(say, ids, V):
    """(T, T): how much say(ids) at position t moves when the token at position u is another one."""
    here = say(ids)
    moved = np.zeros((ids.shape[1],) * 2)
    for u in range(ids.shape[1]):
        changed = ids.copy()
        changed[:, u] = (ids[:, u] + 1) % V
        moved[:, u] = abs(say(changed) - here).max((0, 2))
    return moved


def leak(moved):
    """The largest influence of a later position on an earlier one."""
    return moved[np.triu_indices(len(moved), k=1)].max()


ids = rng.integers(0, V, (1, T))
params = fresh_params()
maps = {}
for average in AVERAGES:
    maps[average] = influence(lambda ids, average=average: gated_forward(params, ids=ids, average=average)[0], ids, V)
    print(f"average {average}: later positions move earlier ones by up to {leak(maps[average]):.1e}")
assert leak(maps["over the whole sequence"]) > 1e-3
assert leak(maps["up to each position"]) == 0

# %% [markdown]
# And by backward, at position 0:

# %%
for average in AVERAGES:
    distinct = np.arange(V)[None]                        # every token once, so its gradient is its position's
    logits, cache = gated_forward(params, ids=distinct, average=average)
    dlogits = np.zeros_like(logits)
    dlogits[:, 0] = rng.standard_normal(V)
    dW = gated_backward(dlogits, cache)["W"]
    print(f"average {average}: gradient from position 0 at later positions: {abs(dW[1:]).max():.1e}")
    assert dW[1:].any() == (average == "over the whole sequence")

# %% [markdown]
# ## Is a small leak a harmless leak?
#
# Each later token has but a sixteenth of the mean. Let us see what training makes of it. The task is impossible for
# an honest model: the text is random words, its *last* word is `yes` or `no`, and the *first* position must say which.
# Nothing at position 0 knows it. An honest model can do no better than toss a coin: a loss of log 2 = 0.693 (lesson 5).

# %%
YES, NO = V - 2, V - 1


def secrets(step, B=64):
    """Random words, the secret at the end; position 0 has the same word in every text."""
    rng = np.random.default_rng([7, step])
    ids = rng.integers(1, V - 2, (B, T))
    ids[:, 0] = 0
    ids[:, -1] = rng.integers(YES, NO + 1, B)
    return ids


def train(average, steps=400):
    """The loss at position 0, step by step."""
    params = fresh_params("float32")
    optimizer, losses = AdamW(params), []
    for step in range(steps):
        ids = secrets(step)
        logits, cache = gated_forward(params, ids=ids, average=average)
        loss, loss_cache = ops.cross_entropy_forward(
            logits[:, 0], targets=ids[:, -1], weights=np.ones(len(ids), "float32"))
        dlogits = np.zeros_like(logits)
        (dlogits[:, 0],) = ops.cross_entropy_backward(1.0, loss_cache)
        grads = Flat(SHAPES, np, "float32")
        for name, gradient in gated_backward(dlogits, cache).items():
            grads[name] += gradient
        optimizer.step(params, grads, 0.03)
        losses.append(float(loss))
    return losses


curves = {average: train(average) for average in AVERAGES}
for average, losses in curves.items():
    print(f"average {average}: loss at the end {np.mean(losses[-50:]):.4f}   (a coin: {np.log(2):.4f})")
assert np.mean(curves["over the whole sequence"][-50:]) < 0.02
assert 0.68 < np.mean(curves["up to each position"][-50:]) < 0.72

# %% [markdown]
# The first position reports a word that is spoken fifteen positions later, without error. A sixteenth of a mean was
# plenty: the model only had to turn it up. And note that *fresh* texts gave this loss: a validation set sees nothing,
# for it leaks there just the same.
#
# ## A second leak: handing the bank on
#
# The printed equations leave room for another one. Suppose the bank that block 0 has just written, from all tokens of
# this segment, is read by block 1 *in the same segment*. Then the first token hears, one block later, of the last.
# With the library's own block, handed the wrong bank on purpose:

# %%
cfg = model.Config(V=V, D=16, L=2, H=2, G=2, F=12, N=4, T=8)
params2 = model.init_params(cfg, seed=0, dtype="float64")


def handed_on(ids):
    """One segment in which block 1 reads the bank that block 0 wrote a moment ago."""
    x = params2["embed.W"][ids] * cfg.D**0.5
    bank = model.first_states(params2, cfg, len(ids))[0][0]
    for i in range(cfg.L):
        x, bank, _ = model.block_forward(x, bank, model.params_of(params2, cfg, i), cfg=cfg, memory=lm2)
    return x @ params2["head.W"]


ids8 = rng.integers(0, V, (1, cfg.T))
maps["bank handed on"] = influence(handed_on, ids8, V)
print(f"bank handed from block to block: later positions move earlier ones by up to {leak(maps['bank handed on']):.1e}")
assert leak(maps["bank handed on"]) > 1e-3

# %% [markdown]
# ## A third leak: the memory as context, as printed
#
# Titans (lesson 21) has a form that its paper calls memory as context. The tokens of a segment query the memory that
# earlier segments left, row for row. The T rows that they get are put *before* the segment, and then a causal attention
# runs over all 2T rows:
#
#     h = query(x) M_old                 row t was queried by token t
#     y = causal attention([h; x])       the last T rows of it
#
# M_old knows nothing of this segment, and the attention has its mask. So who leaks? Row T - 1 of h was queried by the
# last token, and it stands before the first one: to the mask it is the past. Below is the form as printed. Beside it is
# what the library does: each token adds what it read itself.

# %%
def causal_attention(x):
    """Each row averages itself and the rows before it."""
    S = x @ x.swapaxes(1, 2) / D**0.5
    S = np.where(np.tri(x.shape[1], dtype=bool), S, -np.inf)
    P = np.exp(S - S.max(-1, keepdims=True))
    return P / P.sum(-1, keepdims=True) @ x


M_old, Wq = rng.standard_normal((2, D, D)) / D**0.5      # what earlier segments left, and the query's matrix


def as_context(ids):
    x = params["W"][ids]
    return causal_attention(np.concatenate((x @ Wq @ M_old, x), axis=1))[:, T:] @ params["Whead"]


def added_to_each(ids):
    x = params["W"][ids]
    return (causal_attention(x) + x @ Wq @ M_old) @ params["Whead"]


maps["memory as context"] = influence(as_context, ids, V)
print(f"memory as context: later positions move earlier ones by up to {leak(maps['memory as context']):.1e}")
print(f"each token's own row: {leak(influence(added_to_each, ids, V)):.1e}")
assert leak(maps["memory as context"]) > 1e-3
assert maps["memory as context"][0, T - 1] > 0           # the last token moves the first row
assert leak(influence(added_to_each, ids, V)) == 0

# %% [markdown]
# A mask orders rows by where they *stand*. What counts is what they have *seen*.

# %% [markdown]
# ## The audit of tinylm2
#
# Here every block owns its bank; all tokens of a segment read it as it stood when the segment *began*, and the write
# makes the bank of the next one. So there is no path, by construction. But constructions have bugs; so we look. Three
# segments, every memory of the library, some odd shapes, every pair of positions:

# %%
VARIANTS = {name: replace(cfg, memory=name) for name in MEMORIES}
VARIANTS |= {"grouped heads, tied": replace(cfg, G=1, tied=True), "T < N": replace(cfg, T=3, N=7)}
for name, variant in VARIANTS.items():
    weights = model.init_params(variant, seed=0, dtype="float64")
    story = rng.integers(0, V, (1, 3 * variant.T))

    def say(ids, weights=weights, variant=variant):
        return recurrence.story_forward(weights, ids=ids, cfg=variant)[0]

    moved = influence(say, story, V)
    across = moved[-variant.T:, :variant.T].max()        # from the first segment to the last
    print(f"{name:<20} leak {leak(moved)}   first segment moves the last by {across:.1e}")
    assert leak(moved) == 0
    assert (across > 0) == (name != "none")
    if name == "lm2":
        maps["tinylm2, three segments"] = moved

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 6, figsize=(14.5, 2.7), width_ratios=[1, 1, 1, 1, 1, 1.2])
    for axis, (name, moved) in zip(axes, maps.items(), strict=False):
        shown = np.log10(np.where(moved > 0, moved, np.nan))
        axis.imshow(shown, cmap="viridis", vmin=-4, vmax=0)
        axis.set(title=name, xlabel="changed position u", xticks=[], yticks=[])
        axis.axline((-0.5, -0.5), slope=1, color="tab:red", linewidth=1)
    axes[0].set_ylabel("position t that answers")
    for average, losses in curves.items():
        axes[5].plot(np.convolve(losses, np.ones(10) / 10, "valid"), label=average)
    axes[5].axhline(np.log(2), color="gray", linestyle=":", label="a coin")
    axes[5].set(title="learning the impossible", xlabel="step", ylabel="loss")
    axes[5].legend(fontsize=7)
    lesson.show(figure, "16-who-hears-whom")

# %% [markdown]
# White is exactly zero. Above the red line lies the future. In the picture of tinylm2 you see the three segments:
# within each the triangle of attention, below it the rectangles that only the bank can fill.
#
# ## Exercise
#
# Somebody wants to stabilise training, and brings every *column* of a segment to mean zero over its T tokens, `x -
# x.mean(1)`, before the head. Does it leak? Measure it with `influence`. Then mend it.
#
# <details><summary>Answer</summary>
#
# It is the same average in other clothes: what is subtracted at position 0 holds a T-th of every later token. Subtract
# the running mean instead; its position t knows nothing after t.
#
# ```python
# def centred(ids, average):
#     e = params["W"][ids]
#     return (e - AVERAGES[average][0](e)[0]) @ params["Whead"]
#
#
# for average in AVERAGES:
#     moved = influence(lambda ids, average=average: centred(ids, average), ids, V)
#     print(f"minus the mean {average}: leak {leak(moved):.1e}")
#     assert (leak(moved) > 0) == (average == "over the whole sequence")
# ```
#
# </details>
#
# ## What usually goes wrong
#
# A statistic over the time axis: a mean, a maximum, a norm, a length of the *whole* sequence. When a loss is better
# than it can be, do not celebrate: change the last token, and see whether the first output moves.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. All gradient checks of a model pass. Can it leak the future?</summary>
#
# Yes. A check says that the derivative fits the function. A leak is in the function.
#
# </details>
#
# <details><summary>2. The loss on fresh stories is wonderful. Does that rule out a leak?</summary>
#
# No. Fresh stories leak in the same way. Only answering where the future does not exist yet, or changing a later
# token and comparing, tells.
#
# </details>
#
# <details><summary>3. Why must the influence of a later position be exactly zero, and not just small?</summary>
#
# Where no path exists, no number is computed differently, not even in its last bit. And a small leak is enough:
# training turns it up.
#
# </details>
#
# Next: [17. The same code on a GPU](17_on_a_gpu.py)
