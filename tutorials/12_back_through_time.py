# %% [markdown]
# # 12. Back through time
#
# A question in the last segment, its fact in the first. For the model to learn *what to write*, the gradient must
# travel from the answer back through every bank in between. This lesson follows it, one segment at a time.

# %%
import lesson
import numpy as np

from tinylm2 import model

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
# ## The whole bank
#
# In the model the bank that enters segment s is used in two places, so its gradient has two shares:
#
#     dM_s = g_forget * dM_(s+1)            it was kept, by the write of segment s
#          + through Mn, from the read      the tokens of segment s looked at it
#
# Both come out of `segment_backward`, which takes the gradient at the banks that went out, and returns the
# gradient at those that came in. A story is a loop over segments; going back is the same loop the other way, and what
# it hands on is `dbanks`.

# %%
cfg = model.Config(V=23, D=16, L=2, H=2, G=2, F=20, N=4, T=8)
params = model.init_params(cfg, seed=0, dtype="float64")
S, B = 5, 2
ids = rng.integers(0, cfg.V, (B, S * cfg.T))

banks, logits, caches = model.first_banks(params, cfg, B), [], []
for s in range(S):
    part = ids[:, s * cfg.T:(s + 1) * cfg.T]
    y, banks, cache = model.segment_forward(params, banks, ids=part, cfg=cfg, write=s < S - 1)
    logits.append(y)
    caches.append(cache)

dlogits = [np.zeros_like(y) for y in logits]
dlogits[-1] = rng.standard_normal(logits[-1].shape)      # only the last segment is asked

dbanks, grads = None, {name: np.zeros_like(W) for name, W in params.items()}
for s in reversed(range(S)):
    shares, dbanks = model.segment_backward(dlogits[s], dbanks, caches[s])
    for name, share in shares.items():
        grads[name] += share                             # every segment used the same parameters: the shares add up
    print(f"segment {s}: size of the gradient at the bank of block 0 that came in: {abs(dbanks[0]).mean():.1e}")

# %% [markdown]
# That loop is `story_forward` and `story_backward`, to the last bit:

# %%
y, cache = model.story_forward(params, ids=ids, cfg=cfg)
theirs = model.story_backward(np.concatenate(dlogits, axis=1), cache)
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
    y, cache = model.story_forward(params, ids=ids, cfg=cfg, tail=1)
    dlogits, dbanks, sizes = np.random.default_rng(2).standard_normal(y.shape), None, np.zeros(S)
    for s in reversed(range(S)):
        here = dlogits if s == S - 1 else np.zeros((4, 0, cfg.V))        # earlier segments computed no logits
        _, dbanks = model.segment_backward(here, dbanks, cache["segments"][s])
        sizes[s] = sum(abs(dM).mean() for dM in dbanks)
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
# ## Cutting
#
# Long stories are sometimes cut: `truncate=k` treats the bank that enters segment s as a constant when s is a
# multiple of k. In this library a cut is one line of the backward loop, `dbanks = None`; forward knows nothing of it.
#
# How do we know that it cuts? Let one word occur before the cut only, and the loss be in the last segment. With the
# cut its embedding has a gradient of exactly zero; without it, not.

# %%
only_early = 22
ids[ids == only_early] = 0
ids[:, 3] = only_early                                   # in segment 0 and nowhere else


def embedding_gradient(truncate):
    y, cache = model.story_forward(params, ids=ids, cfg=cfg, tail=2, truncate=truncate)
    return y, model.story_backward(np.ones_like(y), cache)["embed.W"][only_early]


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
# ## Replay
#
# Backward needs what forward computed. Kept for all segments, that grows with the story. `recompute=True` keeps only the
# banks, a few small arrays, and computes each segment again when its turn comes: one more forward, the memory of a
# single segment, and the same gradients to the bit.

# %%
def megabytes(cache):
    """What a cache holds, each array counted once."""
    owners, todo = {}, [cache["segments"], cache["banks"]]
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
        y, cache = model.story_forward(params, ids=longer, cfg=cfg, recompute=recompute)
        kept[name].append(megabytes(cache))
        gradients.append(model.story_backward(np.ones_like(y), cache).buffer)
    assert np.array_equal(*gradients)
for S, whole_cache, banks_only in zip(lengths, *kept.values(), strict=True):
    print(f"{S:>3} segments: all kept {whole_cache:6.2f} MB, recompute {banks_only:5.3f} MB, gradients equal bit for bit")
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
# y, cache = model.story_forward(params, ids=ids, cfg=cfg, truncate=1)
# one = model.story_backward(rng.standard_normal(y.shape), cache)
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
# Next: [13. Training: why it stalls, and what the curriculum does](13_training.py)
