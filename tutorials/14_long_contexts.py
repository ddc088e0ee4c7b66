# %% [markdown]
# # 14. Long contexts: four ways to remember, side by side
#
# **Time:** 20 minutes. **Before it:** lesson 12 (13 helps).
#
# A text is longer than what a model can look at in one go. What then? Four answers:
#
# - **no memory**: look at the last segment, and forget the rest (`memory="none"`);
# - **full attention**: keep keys and values of everything, and ask it all, always (`"full"`);
# - **recurrent memory** (RMT, Bulatov and others 2022): carry a few vectors from segment to segment by putting them
#   among the tokens, and let the model itself rewrite them (`"rmt"`);
# - **LM2**: a bank in every block, read by cross-attention, rewritten by gates (`"lm2"`).
#
# Each is one file in `tinylm2/memories/`, with one interface. Here are all four, and LM2 with the write as printed
# (`"pooled"`, lesson 11) as a fifth, each with about 49,000 parameters, trained with the same curriculum on stories
# of up to four segments. `python -m tutorials.data.make lm2 rmt none full pooled` made the runs, seed 0, about a
# minute each. One seed is an example, not a verdict: experiments/horizon.py asks several.

# %%
import time

import lesson
import numpy as np

from tinylm2 import decoding
from tinylm2.data import TASKS, GrammarFiller, encode_examples, generated_examples, make_prompts
from tinylm2.inspect.evaluate import evaluate

RUNS = {"LM2": lesson.trained("lm2"), "LM2 as printed": lesson.trained("pooled"), "RMT": lesson.trained("rmt"),
        "full attention": lesson.trained("full"), "no memory": lesson.trained("none")}
STYLE = {"LM2": "o-", "LM2 as printed": "o:", "RMT": "s-", "full attention": "^-", "no memory": "x--"}
T, tokenizer, filler = 32, RUNS["LM2"].tokenizer, GrammarFiller()
sizes = {name: run.params.buffer.size for name, run in RUNS.items()}
for name, run in RUNS.items():
    print(f"{name:<15} {sizes[name]:,} parameters, {run.seconds} s of a core to train, "
          f"loss at the end {run.course.loss[-10:].mean():.3f}")
assert max(sizes.values()) < 1.02 * min(sizes.values())

# %% [markdown]
# ## What each of them keeps
#
# When the last segment begins, everything that a model knows about the story so far is in what it has kept, its
# *state*. In numbers:
#
#     no memory        nothing
#     RMT              8 vectors of D = 32
#     LM2              N = 16 slots of D = 32 in each of 2 blocks
#     full attention   keys and values of every token in each of 2 blocks: 2 · 2 · 32 per token
#
# And each new token of the last segment asks: its own segment, 8 tokens more, 16 slots per block more, or everything.
# `decoding.read` reads a story up to its last segment and returns the states, so we can just count:

# %%
def numbers_kept(run, segments):
    """Numbers that are kept of one story of so many segments when the last one begins."""
    states, _ = decoding.read(run.params, ids=np.zeros((1, segments * T), int), cfg=run.cfg)
    return sum(x.size for state in states if state is not None for x in state if x is not None)


asked = [1, 2, 4, 8, 16, 32]
kept = {name: [numbers_kept(run, S) for S in asked] for name, run in RUNS.items()}
print(f"numbers kept of a story of {asked} segments:")
for name, counts in kept.items():
    print(f"{name:<15}", *(f"{count:>8,}" for count in counts))
assert kept["no memory"][-1] == 0
assert kept["RMT"][-1] == 8 * 32
assert kept["LM2"][-1] == 2 * 16 * 32
assert kept["full attention"][-1] == 2 * 2 * 32 * 31 * T

# %% [markdown]
# A story of four people tells, at its end, where each of them is: four places out of six, about ten *bits*. All but
# the model without memory have capacity for far more. So capacity is not the question; the question is whether a
# model learns to put the right thing there, and to leave it in peace.
#
# ## What they answer
#
# The same 150 questions at every length; beyond four segments nobody has been before.

# %%
examples = generated_examples(TASKS["qa1"], 150, seed=1)
scores = {}
print(f"share of right answers at {asked[1:]} segments:")
for name, run in RUNS.items():
    scores[name] = evaluate(run.params, examples, asked[1:], cfg=run.cfg, tokenizer=tokenizer, filler=filler, seed=1)
    print(f"{name:<15}", *(f"{scores[name][str(S)]['accuracy']:>8.2f}" for S in asked[1:]))
accuracy = {name: {int(S): score["accuracy"] for S, score in found.items()} for name, found in scores.items()}

assert accuracy["LM2"][4] > 0.95
assert accuracy["full attention"][4] > 0.97              # inside what it was trained on, nothing beats keeping it all
assert accuracy["no memory"][4] < 0.75
assert accuracy["LM2"][8] > 0.95
assert accuracy["LM2"][8] > max(found[8] for name, found in accuracy.items() if name != "LM2")
assert accuracy["LM2"][16] > max(found[16] for name, found in accuracy.items() if name != "LM2")
assert accuracy["LM2 as printed"][8] < 0.7

# %% [markdown]
# Read the table line by line.
#
# **No memory** answers what happens to stand in its last segment. It is the level against which a memory is measured.
#
# **Full attention** is as good as perfect up to four segments. Beyond four it falls off, although it has *everything*
# before its eyes: it meets angles (lesson 7) and crowds of tokens that it has never seen. What is kept is not yet
# found.
#
# **RMT** carries: twice as good as no memory at eight segments, with a quarter of LM2's numbers. But its few vectors
# are made anew by the whole model in every segment; what is to survive must be copied each time.
#
# **LM2** keeps by doing nothing: a forget gate that is open leaves a slot as it is. So it holds out longest on
# lengths that it was never trained on. **As printed** it is hardly better than no memory: lesson 11 showed what is
# lost.

# %%
def seconds(run, segments):
    """Processor seconds to answer a hundred questions."""
    rows, _ = encode_examples(examples[:100], segments, tokenizer=tokenizer, filler=filler, segment_len=T, seed=1)
    ids, pad = make_prompts(rows)
    began = time.process_time()
    decoding.answer(run.params, ids=ids, cfg=run.cfg, answer_len=1, end=tokenizer.end, pad=pad)
    return time.process_time() - began


times = {name: [seconds(run, S) for S in asked] for name, run in RUNS.items()}
print(f"seconds of a core for a hundred questions at {asked} segments:")
for name, spent in times.items():
    print(f"{name:<15}", *(f"{s:>8.2f}" for s in spent))

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 3, figsize=(11.5, 2.9))
    for name, style in STYLE.items():
        axes[0].plot(asked[1:], list(accuracy[name].values()), style, label=name)
        axes[1].plot(asked, kept[name], style, label=name)
        axes[2].plot(asked, times[name], style, label=name)
    axes[0].axvspan(2, 4, color="whitesmoke", zorder=0)
    axes[0].axhline(1 / 6, color="gray", linestyle=":")
    axes[0].set(title="accuracy (shaded: trained on; dotted: one in six)", ylim=(0, 1.03))
    axes[1].set(title="numbers kept of a story", yscale="symlog")
    axes[2].set(title="seconds for 100 answers", ylim=0)
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(asked, asked)
        axis.set_xlabel("segments")
    axes[2].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    lesson.show(figure, "14-side-by-side")

# %% [markdown]
# What LM2 keeps does not depend on the length, nor does the work for a token. Full attention's does, and at 32
# segments one begins to feel it; lesson 18 counts on, to a million tokens. The length of its *training* stories
# decides how far each of them reaches, so do not take the right end of these curves for a law.

# %% [markdown]
# ## Five more ways to remember
#
# The library holds five more memories, and lessons 19 to 21 derive them. The *window* keeps the last 16 tokens of each
# block; *Memformer*'s slots compete with the tokens; *Infini-attention* and *ARMT* store keys and values in a matrix;
# *Titans* trains a matrix while it reads. `python -m tutorials.data.make window memformer infini armt titans` made
# these runs, by the same curriculum, with as many parameters.

# %%
GALLERY = {name: lesson.trained(name) for name in ("window", "memformer", "infini", "armt", "titans")}
more = {}
for name, run in GALLERY.items():
    found = evaluate(run.params, examples, asked[1:], cfg=run.cfg, tokenizer=tokenizer, filler=filler, seed=1)
    more[name] = {S: found[str(S)]["accuracy"] for S in asked[1:]}
    print(f"{name:<15} keeps {numbers_kept(run, 8):>5,} numbers:", *(f"{right:>6.2f}" for right in more[name].values()))
    assert numbers_kept(run, 8) == numbers_kept(run, 32)                 # constant, all of them
    assert abs(run.params.buffer.size - sizes["LM2"]) < 0.02 * sizes["LM2"]

assert more["armt"][32] > accuracy["LM2"][32]
assert more["titans"][32] > more["window"][32] + 0.2
assert more["window"][16] < 0.55

# %%
if lesson.plt:
    figure, axis = lesson.plt.subplots(figsize=(6, 3))
    lines = {name: accuracy[name] for name in ("LM2", "RMT", "no memory")} | more
    for name, found in lines.items():
        axis.plot(asked[1:], list(found.values()), "o-" if name in more else "x:", markersize=3)
    ends, height = sorted(lines, key=lambda name: lines[name][32]), 0.0
    for name in ends:                                    # labels at the ends of the lines, none over another
        height = max(lines[name][32], height + 0.07)
        axis.text(34, height, name, va="center", fontsize=8, color=axis.lines[list(lines).index(name)].get_color())
    axis.set_xscale("log", base=2)
    axis.set_xticks(asked[1:], asked[1:])
    axis.set(xlabel="segments (trained on up to 4)", ylabel="accuracy", ylim=(0, 1.03), title="one seed each")
    lesson.show(figure, "14-gallery")

# %% [markdown]
# LM2 is ahead up to 16 segments, and ARMT beyond. That is one seed, one learning rate for all, and a minute of
# training. docs/RESULTS.md (section gallery) has the comparison with longer training stories and a learning rate for
# each. The window shows what kept tokens are worth when nothing is chosen.
#
# ## Exercise
#
# At 32 segments LM2, too, gets many answers wrong. Two explanations: *fading*, a fact is lost bit by bit on its way
# through many writes; or *drift*, after many more writes than it was trained for, the bank as a whole is no longer
# what the model can read. Which is it? Think of something to measure that tells the two apart.
#
# <details><summary>Answer</summary>
#
# Ask for *near* facts, one to three segments back, in short and in long stories. Fading cannot touch them: their way
# is always short. Drift would. The measurement says: both. In long stories even near facts suffer, which is drift;
# far ones suffer much more, which is fading. `python train_tiny.py --segments 8` trains on longer stories, and is the
# remedy to try first.
#
# ```python
# def by_way(segments, low, high, questions=generated_examples(TASKS["qa1"], 400, seed=2)):
#     """Accuracy over facts that lie low to high segments back, and how many there were."""
#     run = RUNS["LM2"]
#     rows, _ = encode_examples(questions, segments, tokenizer=tokenizer, filler=filler, segment_len=T, seed=2)
#     rows = [row for row in rows if low <= row.distance <= high]
#     ids, pad = make_prompts(rows)
#     said = decoding.answer(run.params, ids=ids, cfg=run.cfg, answer_len=1, end=tokenizer.end, pad=pad)[:, 0]
#     return (said == [row.answer[0] for row in rows]).mean(), len(rows)
#
#
# near = {S: by_way(S, 1, 3) for S in (4, 8, 16, 32)}
# far = {S: by_way(S, S // 2, S) for S in (8, 16, 32)}
# print("near facts:", {S: f"{right:.2f} of {n}" for S, (right, n) in near.items()})
# print("far facts: ", {S: f"{right:.2f} of {n}" for S, (right, n) in far.items()})
# assert near[4][0] > 0.95
# assert near[32][0] < 0.9
# assert far[32][0] < near[32][0] - 0.2
# ```
#
# </details>
#
# ## What usually goes wrong
#
# Models are compared at the length they were trained on, where full attention always wins, or with different budgets,
# where the author's own always wins. Count the parameters, count the steps, use the same stories, and ask beyond the
# trained length.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. A story gets twice as long. Whose state grows?</summary>
#
# Only that of full attention. The others keep as many numbers as before, and so must give something up sooner or
# later.
#
# </details>
#
# <details><summary>2. A story needs ten bits, and a bank has 1,024 numbers. Why is the task not solved by
# that?</summary>
#
# Capacity is not the bottleneck. The model must learn to write the right thing, to find it again, and not to
# overwrite it, through gradients that travel over many segments.
#
# </details>
#
# <details><summary>3. Memory X beats memory Y at four segments, and both were trained at four. What do you ask before
# you believe it?</summary>
#
# Whether parameters, steps and stories are the same; how many seeds there were; and how both do at lengths that
# neither was trained on.
#
# </details>
#
# Next: [15. Looking inside: maps, gates, slots](15_looking_inside.py)
