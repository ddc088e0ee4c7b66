# %% [markdown]
# # 12. Back through time
#
# **Time:** 30 minutes. **Before it:** lessons 9 and 11.
#
# A question in the last segment, its fact in the first. For the model to learn *what to write*, the gradient must
# travel from the answer back through every bank in between. This lesson follows it, one segment at a time.

# %%
import lesson
import numpy as np

from tinylm2 import layers, model, ops, recurrence
from tinylm2.gradcheck import check_grads
from tinylm2.memories import lm2

rng = np.random.default_rng(0)

# %% [markdown]
# ## One number
#
# Let the memory be a single number, and the gates fixed:
#
#     m_1 = gin tanh(r_0) + gf m_0
#     m_2 = gin tanh(r_1) + gf m_1        and so on
#
# The loss looks at the last one. How does it move with the first? Each step back multiplies by gf: `dm_s = gf
# dm_(s+1)`.

# %%
gin, gf, r = 0.5, 0.9, rng.standard_normal(8)
m = [0.3]
for s in range(8):
    m.append(gin * np.tanh(r[s]) + gf * m[-1])

dm = 1.0                                                 # at m_8
for _ in range(8):
    dm = gf * dm
print(f"dm_0 = {dm:.4f} = 0.9^8 = {0.9**8:.4f}")
assert np.isclose(dm, 0.9**8)

# %% [markdown]
# ## One block, on paper
#
# Now the model. Its block with a memory has more paths than any function so far, so let us count before we write. The
# forward, line by line:
#
#     n       = rmsnorm(x)
#     a, k, v = self_attention(n)                  k and v: the segment's rotated keys and its values
#     Emem    = read(n, M)                         lesson 10
#     x1      = x + a + gout * Emem                the output gate, lesson 10
#     M'      = write(k, v, M)                     lesson 11; it uses Wqkv and Wo, too
#     y       = x1 + ff(rmsnorm(x1))
#
# Upstream come two gradients: `dy` from the block above, and `dM'` from the *next segment*. Each name on the right of a
# line is a use, and each use is a share:
#
#     x1        2 uses     dx1   = dy + norm_back(ff_back(dy))
#     x         2 uses     dx    = dx1 + norm_back(dn)
#     n         2 uses     dn    = from self-attention + from the read
#     k, v      2 uses     dk    = from the tokens that attend + from the slots that write;  dv alike
#     M         2 uses     dM    = from the read + g_forget * dM', from the write
#     Wqkv, Wo  2 uses     dWqkv = from self-attention + from the write;  dWo alike
#
# The order follows from the arrows. `dk` and `dv` of the slots must be there before self-attention goes backwards,
# because both shares pass through RoPE and the products together. So the write goes first, then the output gate and the
# read, then self-attention with the write's share in its hands, then the norm.

# %%
def block_forward(x, M, p):
    n, norm1 = ops.rmsnorm_forward(x, p["attn.g"])
    a, k, v, attention = layers.self_attention_forward(n, None, p["attn.Wqkv"], p["attn.Wo"], heads=(cfg.H, cfg.G))
    Emem, read = lm2.read_forward(n, (M,), p, cfg=cfg)
    x1, gate = layers.output_gate_forward(x, a, Emem, p["mem.Wout"], p["mem.bout"])
    (M_next,), write = lm2.write_forward((n, Emem, k, v), (M,), p, cfg=cfg)
    h, norm2 = ops.rmsnorm_forward(x1, p["ff.g"])
    f, ff = layers.feed_forward_forward(h, p["ff.Wgu"], p["ff.Wdown"])
    return x1 + f, M_next, (norm1, attention, read, gate, write, norm2, ff)


def block_backward(dy, dM_next, cache):
    norm1, attention, read, gate, write, norm2, ff = cache
    dp = {}
    dh, dp["ff.Wgu"], dp["ff.Wdown"] = layers.feed_forward_backward(dy, ff)
    dx1, dp["ff.g"] = ops.rmsnorm_backward(dh, norm2)
    dx1 = dx1 + dy
    (_, _, dk, dv), (dM_write,), dp_write = lm2.write_backward((dM_next,), write)
    dx, da, dEmem, dp["mem.Wout"], dp["mem.bout"] = layers.output_gate_backward(dx1, gate)
    dn_read, (dM_read,), dp_read = lm2.read_backward(dEmem, read)
    dn, _, dWqkv, dWo = layers.self_attention_backward(da, dk, dv, attention)      # adds dk and dv to the tokens' share
    dx_norm, dp["attn.g"] = ops.rmsnorm_backward(dn + dn_read, norm1)
    dp |= dp_read | dp_write
    dp["attn.Wqkv"], dp["attn.Wo"] = dWqkv + dp_write["attn.Wqkv"], dWo + dp_write["attn.Wo"]
    return dx + dx_norm, dM_read + dM_write, dp


cfg = model.Config(V=23, D=16, L=2, H=2, G=2, F=20, N=4, T=8)
params = model.init_params(cfg, seed=0, dtype="float64")
p = model.params_of(params, cfg, 0)
x, M = rng.standard_normal((2, cfg.T, cfg.D)), rng.standard_normal((2, cfg.N, cfg.D))
dy, dM_next = rng.standard_normal(x.shape), rng.standard_normal(M.shape)

y, M_next, cache = block_forward(x, M, p)
dx, dM, dp = block_backward(dy, dM_next, cache)
_, _, their_cache = model.block_forward(x, (M,), p, cfg=cfg, memory=lm2)
dx_library, (dM_library,), dp_library = model.block_backward(dy, (dM_next,), their_cache)
assert np.allclose(dx, dx_library, atol=1e-13)
assert np.allclose(dM, dM_library, atol=1e-13)
assert dp.keys() == dp_library.keys()
assert all(np.allclose(dp[name], dp_library[name], atol=1e-13) for name in dp)
print("our block with a memory equals the library's in the gradients of x, M and", len(dp), "parameters")

from_read, from_write = block_backward(dy, 0 * dM_next, cache)[1], block_backward(0 * dy, dM_next, cache)[1]
print(f"size of dM's share from the read {abs(from_read).mean():.2f}, from the write {abs(from_write).mean():.2f}")
assert np.allclose(dM, from_read + from_write, atol=1e-13)

verdict = check_grads(block_forward, block_backward, x, M, p)            # p is a dict: each of its arrays is checked
print(verdict)
assert verdict.passed

# %% [markdown]
# (The library's `block_backward` does the same for any memory. A memory may use n and Emem in its write as well, as
# `pooled` does: then each of them has one share more.)
#
# ## The whole bank
#
# A bank that enters segment s is used by this segment's block alone, so its gradient is the `dM` that we just derived:
#
#     dM_s = g_forget * dM_(s+1)            it was kept, by the write of segment s
#          + through Mn, from the read      the tokens of segment s looked at it
#
# `segment_backward` goes through all blocks from the top, and hands `dy` from each to the one below. It takes the
# gradient at the states that went out, and returns the gradient at those that came in. A *state* is what a block's
# memory keeps, a tuple of arrays; LM2's holds one, the bank. A story is a loop over segments; going back is the same
# loop the other way, and what it hands on is `dstates`.

# %%
S, B = 5, 2
ids = rng.integers(0, cfg.V, (B, S * cfg.T))

states, _ = model.first_states(params, cfg, B)           # one per block; behind them None, for the segment as a whole
logits, caches = [], []
for s in range(S):
    part = ids[:, s * cfg.T:(s + 1) * cfg.T]
    y, states, cache = model.segment_forward(params, states, ids=part, cfg=cfg, write=s < S - 1)
    logits.append(y)
    caches.append(cache)

dlogits = [np.zeros_like(y) for y in logits]
dlogits[-1] = rng.standard_normal(logits[-1].shape)      # only the last segment is asked

dstates, grads = None, {name: np.zeros_like(W) for name, W in params.items()}
for s in reversed(range(S)):
    shares, dstates = model.segment_backward(dlogits[s], dstates, caches[s])
    for name, share in shares.items():
        grads[name] += share                             # every segment used the same parameters: the shares add up
    print(f"segment {s}: size of the gradient at the bank of block 0 that came in: {abs(dstates[0][0]).mean():.1e}")

# %% [markdown]
# That loop is `story_forward` and `story_backward` in `tinylm2/recurrence.py`, to the last bit:

# %%
y, cache = recurrence.story_forward(params, ids=ids, cfg=cfg)
theirs = recurrence.story_backward(np.concatenate(dlogits, axis=1), cache)
print("equal bit for bit:", all(np.array_equal(grads[name], theirs[name]) for name in grads))
assert np.array_equal(y, np.concatenate(logits, axis=1))
assert all(np.array_equal(grads[name], theirs[name]) for name in grads)

# %% [markdown]
# (The last segment writes nothing: nobody would read it.)
#
# ## How far does it reach?
#
# The forget gate is the factor that is applied again and again. We start models that differ in nothing but the forget
# bias, and follow the gradient from the last of 16 segments back to the first.

# %%
def sizes_back(bforget, S=16):
    """The size of the gradient at the banks that enter each segment, all blocks together."""
    params = model.init_params(cfg, seed=0, dtype="float64")
    for i in range(cfg.L):
        params[f"blocks.{i}.mem.bforget"][...] = bforget
    ids = np.random.default_rng(1).integers(0, cfg.V, (4, S * cfg.T))
    y, cache = recurrence.story_forward(params, ids=ids, cfg=cfg, last=1)
    dlogits, dstates, sizes = np.random.default_rng(2).standard_normal(y.shape), None, np.zeros(S)
    for s in reversed(range(S)):
        here = dlogits if s == S - 1 else np.zeros((4, 0, cfg.V))        # earlier segments computed no logits
        _, dstates = model.segment_backward(here, dstates, cache["segments"][s])
        sizes[s] = sum(abs(dM).mean() for (dM,) in dstates[:cfg.L])
    return sizes


reach = {b: sizes_back(b) for b in (-1.0, 0.0, 1.0, 3.0, 5.0)}
for b, sizes in reach.items():
    print(f"bforget {b:+.0f}: of the gradient at the last bank, the first one gets {sizes[0] / sizes[-1]:.1e} "
          f"(the gate alone: {1 / (1 + np.exp(-b)) ** 15:.1e})")
assert reach[-1.0][0] / reach[-1.0][-1] < 0.01
assert reach[0.0][0] / reach[0.0][-1] < 0.1
assert reach[3.0][0] / reach[3.0][-1] > 0.5

# %%
if lesson.plt:
    figure, axis = lesson.plt.subplots(figsize=(6.2, 2.8))
    for b, sizes in reach.items():
        axis.semilogy(np.arange(16), sizes / sizes[-1], "o-", markersize=3, label=f"bforget {b:+.0f}")
    axis.set(xlabel="the bank that enters this segment (question: segment 15)", ylabel="gradient, last bank = 1",
             ylim=(1e-8, 3), title="What arrives of the gradient, nothing learned yet")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    lesson.show(figure, "12-how-far-it-reaches")

# %% [markdown]
# A gate of 1/2, fifteen times over, would leave nothing. The other share is a detour around it: the tokens that read
# a block's bank become keys and values of the block above, and its slots write what they hear. It carries several
# times more. Still, with a forget bias of 0 the early segments are hardly heard; with +3 more than half arrives. What
# to write is learned from what arrives, so the bias starts at +3.
#
# ## Truncation
#
# In long stories the gradient is often cut off: `truncate=k` treats the bank that enters segment s as a constant when s
# is a multiple of k. In this library a cut is one line of the backward loop, `dstates = None`; forward knows nothing of
# it.
#
# How do we know that it cuts? Let one word occur before the cut only, and the loss be in the last segment. With the
# cut its embedding has a gradient of exactly zero; without it, not.

# %%
only_early = 22
ids[ids == only_early] = 0
ids[:, 3] = only_early                                   # in segment 0 and nowhere else


def embedding_gradient(truncate):
    y, cache = recurrence.story_forward(params, ids=ids, cfg=cfg, last=2, truncate=truncate)
    return y, recurrence.story_backward(np.ones_like(y), cache)["embed.W"][only_early]


for k in (None, 1, 2, 4, 5):
    y, gradient = embedding_gradient(k)
    print(f"truncate={k}: largest gradient at the early word {abs(gradient).max():.1e}")
y_whole, whole = embedding_gradient(None)
y_cut, cut = embedding_gradient(2)
assert whole.any()
assert not cut.any()
assert np.array_equal(y_whole, y_cut)                    # the cut changes no answer
assert np.array_equal(embedding_gradient(5)[1], whole)   # segment 0 alone is a multiple of 5: nothing is lost

# %% [markdown]
# ## Recompute
#
# Backward needs what forward computed. Kept for all segments, that grows with the story. `recompute=True` keeps only
# the banks, a few small arrays, and computes each segment again when its turn comes: one more forward, the memory of a
# single segment, and the same gradients to the bit.

# %%
def megabytes(cache):
    """What a cache holds, each array counted once."""
    owners, todo = {}, [cache["segments"], cache["states"]]
    while todo:
        x = todo.pop()
        if isinstance(x, np.ndarray):
            while x.base is not None and isinstance(x.base, np.ndarray):
                x = x.base
            owners[id(x)] = x.nbytes
        elif isinstance(x, dict):
            todo += [part for key, part in x.items() if key != "params"]
        elif isinstance(x, (tuple, list)):
            todo += x
    return sum(owners.values()) / 2**20


lengths = [1, 2, 4, 8, 16, 32]
kept = {"all kept": [], "recompute": []}
for S in lengths:
    longer = rng.integers(0, cfg.V, (B, S * cfg.T))
    gradients = []
    for name, recompute in (("all kept", False), ("recompute", True)):
        y, cache = recurrence.story_forward(params, ids=longer, cfg=cfg, recompute=recompute)
        kept[name].append(megabytes(cache))
        gradients.append(recurrence.story_backward(np.ones_like(y), cache).buffer)
    assert np.array_equal(*gradients)
for S, whole_cache, banks_only in zip(lengths, *kept.values(), strict=True):
    print(f"{S:>3} segments: all kept {whole_cache:6.2f} MB, recompute {banks_only:5.3f} MB, same gradients")
assert kept["recompute"][-1] < kept["all kept"][-1] / 20

# %%
if lesson.plt:
    figure, axis = lesson.plt.subplots(figsize=(4.5, 2.5))
    for name, sizes in kept.items():
        axis.loglog(lengths, sizes, "o-", label=name)
    axis.set(xlabel="segments", ylabel="MB", title="What forward leaves for backward")
    axis.legend()
    lesson.show(figure, "12-recompute")

# %% [markdown]
# ## Exercise
#
# With `truncate=1` every bank is a constant to the segment that reads it. Which parameters of a block get no gradient
# at all? What will such a model learn to remember?
#
# <details><summary>Answer</summary>
#
# Nobody downstream tells a write what it was good for: Win, bin, Wforget and bforget have gradients of exactly zero.
# The write stays what it was on the first day, random, and the model learns to *read* whatever a random write happens
# to leave. At least one border between two segments must be crossed by the gradient before a memory can learn to
# write.
#
# ```python
# y, cache = recurrence.story_forward(params, ids=ids, cfg=cfg, truncate=1)
# one = recurrence.story_backward(rng.standard_normal(y.shape), cache)
# silent = {name for name, gradient in one.items() if not gradient.any()}
# print(sorted(silent))
# gates = ("Win", "bin", "Wforget", "bforget")
# assert silent == {f"blocks.{i}.mem.{gate}" for i in range(cfg.L) for gate in gates}
# ```
#
# </details>
#
# ## What usually goes wrong
#
# A cut that cuts nothing. In frameworks that record the computation, `memory = memory.detach()` inside a function
# rebinds a local name, the caller goes on with the old one, and the gradient flows as before, or the other way round.
# Test it as above: a word that occurs only before the cut.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. How many shares has the gradient at the keys of a block's segment, and from whom?</summary>
#
# Two: the tokens that attend to them, and the slots that write from them. They add up before they turn back through
# RoPE, so the write goes backwards before self-attention.
#
# </details>
#
# <details><summary>2. A story of five segments is trained with truncate=2. Which banks are constants?</summary>
#
# Those that enter segments 2 and 4 (and segment 0, whose bank is a constant anyway). The loss in segment 4 then
# teaches no write at all: the bank that it reads is one of the constants.
#
# </details>
#
# <details><summary>3. What does recompute save, and what does it cost?</summary>
#
# It keeps the banks instead of everything that forward computed: the memory of one segment instead of all. It costs
# one more forward pass, a third more work. The gradients are the same to the bit.
#
# </details>
#
# Next: [13. Training: why it stalls, and what the curriculum does](13_training.py)
