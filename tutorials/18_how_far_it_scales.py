# %% [markdown]
# # 18. How far it scales
#
# **Time:** 20 minutes. **Before it:** lesson 11 (14 helps).
#
# The model of this course has 49,000 parameters, the paper's has 1.7 billion. Nothing but the letters in `Config`
# stands between them. So we can count, on a laptop and without allocating anything, what the large one would need:
# numbers to learn, multiplications to do, bytes to keep. Then: what would break first?

# %%
import time
from dataclasses import replace
from math import prod

import lesson
import numpy as np

from tinylm2 import model, ops
from tinylm2.cli import count as counting
from tinylm2.model import count_params

tiny, large = counting.PRESETS["tiny"], counting.PRESETS["lm2-1.7b"]
print("the paper's:", large)

# %% [markdown]
# ## Parameters
#
# The memory of a block, counted by hand: Wq, Wk, Wv and Wout to read, Win and Wforget to write, each D by D; a gain
# and three biases, each D:
#
#     6 D² + 4 D                     a block

# %%
D, L = large.D, large.L
memory = L * (6 * D**2 + 4 * D)
shapes = model.param_shapes(large)
print(f"memory by hand {memory:,}; by name {sum(prod(s) for name, s in shapes.items() if '.mem.' in name):,}")
print(f"without memory {count_params(replace(large, memory='none')):,}; with it {count_params(large):,}")

assert memory == counting.parameters(large)["memory"]
assert 0.40e9 < memory < 0.41e9                          # the paper: about 0.5 B
assert 1.2e9 < count_params(replace(large, memory="none")) < 1.25e9      # 1.2 B
assert 1.6e9 < count_params(large) < 1.7e9               # 1.7 B in all
assert count_params(tiny) == sum(prod(s) for s in model.param_shapes(tiny).values())

# %% [markdown]
# The model without memory is the paper's to the digit that it prints. Its memory is said to be about 0.5 billion, and
# the six matrices of equations 1 to 5 make 0.4. The rest is not said; a bank that starts from a *learned* matrix, N
# by D in each block, would just fill the gap. Ours starts from the identity and learns nothing there.

# %%
learned_start = L * large.N * D
print(f"with a learned start: memory {memory + learned_start:,}, all {count_params(large) + learned_start:,}")
assert 0.46e9 < memory + learned_start < 0.48e9
assert 1.70e9 < count_params(large) + learned_start < 1.71e9

# %% [markdown]
# ## Multiply-adds
#
# A product of (R, D) and (D, E) takes R·D·E multiplications and as many additions. Everything else, norms, gates,
# turns, is small beside it. `counting.multiply_adds` adds up the products of a forward pass, from the letters alone.
# Is it right? We can look. All of the model's products are in two functions, `ops.linear` and `ops.attend`, and the
# library calls them through their module, so that anybody can put a function of his own in their place: here, one
# that counts.

# %%
counted = 0
linear_forward, attend_forward = ops.linear_forward, ops.attend_forward


def counting_linear(x, W):
    global counted
    counted += x.size * W.shape[1]                       # R·D·E
    return linear_forward(x, W)


def counting_attend(q, k, v, **constants):
    global counted
    counted += 2 * q.size * k.shape[1]                   # a score for each pair, and a share of the other's value
    return attend_forward(q, k, v, **constants)


ops.linear_forward, ops.attend_forward = counting_linear, counting_attend
try:
    for memory_kind in ("lm2", "none"):
        cfg, counted = replace(tiny, memory=memory_kind, G=1, T=24), 0
        params = model.init_params(cfg, seed=0)
        states, _ = model.first_states(params, cfg, 1)
        model.segment_forward(params, states, ids=np.zeros((1, cfg.T), int), cfg=cfg)
        predicted = sum(counting.multiply_adds(cfg).values())
        print(f"{memory_kind:<6} counted {counted:,}, predicted {predicted:,}")
        assert counted == predicted
finally:
    ops.linear_forward, ops.attend_forward = linear_forward, attend_forward

# %% [markdown]
# So the prediction can be trusted for the large one. (It is what `python -m tinylm2 count --preset lm2-1.7b` prints.)

# %%
work = counting.multiply_adds(large)
for part, n in work.items():
    print(f"{part:<22} {counting.amount(n):>8} multiply-adds per segment, {n / sum(work.values()):.0%}")
per_token = sum(work.values()) / large.T
print(f"a token: {counting.amount(per_token)} forward, and in training three times that (lesson 4)")
assert work["feed-forward"] > work["memory"] > 2 * work["attention"]

# %% [markdown]
# The memory asks for a third of the work, although it holds a quarter of the parameters: with N = 2048 slots, the
# slots are as many as the tokens, and they, too, are multiplied by matrices.
#
# ## How fast is this machine?
#
# Let us time forward passes of wider and wider models, and see how many multiply-adds per second come out.

# %%
def seconds_per_segment(cfg, B=8):
    params = model.init_params(cfg, seed=0)
    (states, _), ids = model.first_states(params, cfg, B), np.zeros((B, cfg.T), int)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        model.segment_forward(params, states, ids=ids, cfg=cfg)
        times.append(time.perf_counter() - began)
    return min(times) / B


widths, speeds = [32, 64, 128, 256, 512], []
for width in widths:
    cfg = replace(tiny, D=width, F=3 * width, H=width // 16, G=width // 16, T=64, N=32)
    speeds.append(sum(counting.multiply_adds(cfg).values()) / seconds_per_segment(cfg))
    size, speed = counting.amount(count_params(cfg)), counting.amount(speeds[-1])
    print(f"D {width:>4}: {size:>7} parameters, {speed:>7} multiply-adds per second")
minutes = 3 * sum(work.values()) / speeds[-1] / 60
print(f"at that speed one training step of the large model, on one segment of one story: {minutes:.0f} minutes")
assert max(speeds) > speeds[0]

# %% [markdown]
# Small models spend most of their time on everything but products; wide ones come near to what the processor can do.
# A model with a hundredth of the parameters is therefore far less than a hundred times faster.
#
# ## Bytes
#
# For training, the parameters are only the beginning: gradients and the two moments of AdamW are as large again,
# each. Then there is what forward leaves for backward, and with it grows everything that depends on T.

# %%
print("bytes of the large model:")
for what, size in counting.stored(large).items():
    print(f"{counting.byte_size(size):>9}  {what}")
stored = counting.stored(large)
weights = stored["attention weights of a segment, kept for backward"]
assert stored["parameters, gradients and two moments"] == 16 * count_params(large)
assert 0.8 < weights / stored["parameters, gradients and two moments"] < 1
assert weights == 4 * large.L * large.H * 3 * large.T**2  # tokens to tokens, tokens to slots, slots to tokens

# %% [markdown]
# **What would break first.** Look at the attention weights: `attend` keeps P, a number for each pair of positions and
# each head, to take the softmax backwards. For a *single* segment of a *single* story that is nearly as much as all
# parameters, gradients and moments together; eight stories side by side would need eight times as much. Second come
# the logits: a vocabulary of 128,256 words makes them a gigabyte for each story and segment. The remedies are known:
# compute P again in backward, tile by tile, and never hold it whole ("flash" attention); compute the loss in slices
# of the vocabulary. Both trade clarity for memory, and at the sizes of this course there is memory enough.
#
# ## What the memory buys
#
# Attention over the whole story keeps keys and values of every token, and every new token asks them all. LM2 keeps
# one segment and the banks, whatever the length. When does that pay?

# %%
lengths = 2 ** np.arange(11, 21)                         # tokens
kv_per_token = stored["keys and values of a segment"] / large.T
full_bytes = kv_per_token * lengths
lm2_bytes = np.full(len(lengths), stored["keys and values of a segment"] + stored["state of the memory of a story"])

plain = counting.multiply_adds(replace(large, memory="none"))
ask_one_position = 2 * large.L * large.H * large.K       # a score and its share of a value, in all blocks
without_scores = sum(plain.values()) / large.T - ask_one_position * large.T
full_work = without_scores + ask_one_position * lengths / 2      # half of the positions lie before it
lm2_work = np.full(len(lengths), per_token)

fewer_bytes = lengths[np.argmax(full_bytes > lm2_bytes)]
less_work = lengths[np.argmax(full_work > lm2_work)]
print(f"LM2 keeps fewer bytes from about {fewer_bytes:,} tokens on, and less work from about {less_work:,}")
assert fewer_bytes == 8192
assert less_work == 32768

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 3, figsize=(11, 2.9))
    for axis, full, lm2, unit, title in ((axes[0], full_bytes / 2**30, lm2_bytes / 2**30, "GiB", "what is kept"),
                                         (axes[1], full_work / 1e9, lm2_work / 1e9, "G", "multiply-adds per token")):
        axis.loglog(lengths, full, "o-", markersize=3, label="attention over the whole story")
        axis.loglog(lengths, lm2, "o-", markersize=3, label="LM2")
        axis.set(xlabel="tokens read", ylabel=unit, title=f"{title}, full size")
        axis.legend(fontsize=8)
    axes[1].set_yticks([1, 3, 10, 30], [1, 3, 10, 30])
    axes[1].minorticks_off()
    axes[2].plot(range(len(widths)), np.array(speeds) / 1e9, "o-")
    axes[2].set_xticks(range(len(widths)), widths)
    axes[2].set(xlabel="D", ylabel="G multiply-adds per second", ylim=0, title="this machine, forward")
    lesson.show(figure, "18-when-it-pays")

# %% [markdown]
# The left two pictures say what a memory of fixed size can win: bytes from a few thousand tokens on, work from some
# ten thousand on. What they do not say is what it loses: attention over the whole story forgets nothing. Lesson 14
# measures that side.
#
# ## Exercise
#
# The paper takes N = 2048 slots. How many *parameters* would 16 slots save? What else becomes smaller?
#
# <details><summary>Answer</summary>
#
# None: no matrix of the memory has an axis of length N. A slot's address is a row of the identity, and all slots
# share the same matrices, as all tokens do. What shrinks are the banks, and the work and the attention weights that go
# with N.
#
# ```python
# few = replace(large, N=16)
# print(f"parameters {count_params(large):,} and {count_params(few):,}")
# for what in ("state of the memory of a story", "attention weights of a segment, kept for backward"):
#     print(what, counting.byte_size(stored[what]), "->", counting.byte_size(counting.stored(few)[what]))
# saved = 1 - counting.multiply_adds(few)["memory"] / work["memory"]
# print(f"work of the memory: {saved:.0%} less")
# assert count_params(few) == count_params(large)
# assert 0.6 < saved < 0.9
# ```
#
# </details>
#
# ## What usually goes wrong
#
# "1.6 billion numbers of four bytes: it fits into 8 GB." It does, as long as nobody trains it. Multiply by four for
# gradients and moments, and then count what one segment leaves behind.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. N is doubled. What happens to the parameters, and what to the work?</summary>
#
# The parameters stay as they are: no matrix has an axis of length N. The memory's work grows, because the slots are
# multiplied by matrices and attend to the tokens.
#
# </details>
#
# <details><summary>2. What does forward keep for backward that grows with the square of T?</summary>
#
# The attention weights of tokens to tokens, T by T numbers for each head of each block. At full size, with as many
# slots as tokens, all attention weights together are nearly as large as parameters, gradients and moments.
#
# </details>
#
# <details><summary>3. From 8,192 tokens on LM2 keeps fewer bytes than attention over the whole story. What does this
# comparison leave out?</summary>
#
# What is lost. Attention over the whole story still has every token, LM2 has what its slots kept of them (lesson 14).
#
# </details>
