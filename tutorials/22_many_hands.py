# %% [markdown]
# # 22. Many hands
#
# **Time:** 25 minutes. **Before it:** lessons 4 and 13 (18 helps).
#
# One process uses one core. A laptop has several cores, and a laboratory has several machines. In *data-parallel*
# training each process takes some rows of the batch, computes their gradient, and all processes add their gradients.
# Three questions decide whether this is still the same training: Why may gradients be added? Does the order of the
# addition matter? What does it cost to bring all gradients together?
#
# We use the words of MPI, the library that clusters use for this. A process is a *rank*, a part of a batch is a
# *shard*, and an *all-reduce* is an operation after which every rank has the sum of all ranks' arrays.
#
# The ranks of this lesson are simulated in one process. At the end we start two real ones where `mpiexec` is installed.

# %%
import itertools
import subprocess
import sys
from pathlib import Path

import lesson
import numpy as np

from tinylm2.cli import count as counting
from tinylm2.data import TASKS, BucketSampler, GrammarFiller, Stories, word_tokenizer
from tinylm2.model import Config, count_params, init_params
from tinylm2.optim import AdamW
from tinylm2.training.communicator import checksum
from tinylm2.training.step import loss_and_gradients

tokenizer, filler = word_tokenizer(), GrammarFiller()
stories = Stories([TASKS["qa1"], TASKS["qa8"]], tokenizer=tokenizer, filler=filler, seed=0)
cfg = Config(V=tokenizer.size, D=16, L=1, H=2, G=2, F=24, N=4, T=32)
sampler = BucketSampler()                                # answers of one word, and lists (qa8)
batches = [sampler.batch(stories, step, 8) for step in range(16)]
batch = max(batches, key=lambda batch: (len(batch.ids) >= 8) * np.ptp(batch.weights.sum(1)))
print(f"{len(batch.ids)} rows; answer tokens per row: {batch.weights.sum(1).astype(int)}")
assert len(set(batch.weights.sum(1).tolist())) > 1

# %% [markdown]
# ## Why gradients may be added
#
# The loss of a batch is a weighted mean over its tokens, with weight 1 on the answers and 0 elsewhere:
#
#     loss = sum of (w l) / W          l: cross-entropy of a token,   W: sum of all w of the batch
#
# A sum can be cut anywhere. If shard s has the part loss_s = sum of (w l) over its own rows, divided by the *whole*
# batch's W, then loss = loss_1 + ... + loss_S. The gradient of a sum is the sum of the gradients. So a shard needs only
# its own rows and the one number W. (`totals` below holds W. Its second number belongs to a loss on all tokens.)

# %%
params = init_params(cfg, seed=0, dtype="float64")


def shard_gradients(params, batch, shards):
    """The gradient of each shard, a flat array (P,): one forward and backward per shard, zeros if it has no row."""
    total = (batch.weights.sum(), batch.lm_weights.sum())
    parts = [batch.part(shard, shards) for shard in range(shards)]
    return [np.zeros_like(params.buffer) if part is None else
            loss_and_gradients(params, part, cfg=cfg, totals=total)[2].buffer for part in parts]


whole = loss_and_gradients(params, batch, cfg=cfg)[2].buffer
for shards in (2, 3, 4):
    difference = abs(sum(shard_gradients(params, batch, shards)) - whole).max() / abs(whole).max()
    print(f"{shards} shards: relative difference from the whole batch's gradient {difference:.1e}")
    assert difference < 1e-12

# %% [markdown]
# Now the usual mistake. Each shard takes the mean over its *own* answers, and the results are averaged. This is right
# only when all shards have the same number of answers.

# %%
means = [loss_and_gradients(params, batch.part(shard, 2), cfg=cfg)[2].buffer for shard in range(2)]
wrong = abs(sum(means) / 2 - whole).max() / abs(whole).max()
print(f"mean of means: relative difference {wrong:.2f}")
assert wrong > 1e-2

# %% [markdown]
# ## Why the order matters
#
# Float addition rounds. So (a + b) + c and a + (b + c) may differ:

# %%
a, b, c = np.float32(1e8), np.float32(-1e8), np.float32(1)
print(f"(a + b) + c = {(a + b) + c},   a + (b + c) = {a + (b + c)}")
assert (a + b) + c == 1
assert a + (b + c) == 0

small = init_params(cfg, seed=0)                         # float32, as in training
shards = shard_gradients(small, batch, 4)
found = {}
for order in itertools.permutations(range(4)):
    found.setdefault(checksum(sum(shards[s] for s in order)), order)
print(f"24 orders of four shards give {len(found)} different sums")
assert len(found) > 1

# %% [markdown]
# The sums differ in the last bit only. Does it matter? Training goes on from these bits for thousands of steps. We
# train the same model twice on the same batches. The only difference is the order in which four shards are added. We do
# this at a moderate and at a high learning rate.

# %%
def train(order, lr, steps=300):
    """The parameters after each step; order: how the four shards are added."""
    params = init_params(cfg, seed=0)
    optimizer, course = AdamW(params), []
    for step in range(steps):
        shards = shard_gradients(params, sampler.batch(stories, step, 8), 4)
        optimizer.step(params, params.like(sum(shards[s] for s in order)), lr=lr)
        course.append(params.buffer.copy())
    return np.array(course)


apart = {}
for lr in (6e-3, 2e-2):
    forward, backward = train((0, 1, 2, 3), lr), train((3, 2, 1, 0), lr)
    apart[lr] = abs(forward - backward).max(1)
    print(f"learning rate {lr}: largest difference of a parameter after 1 step {apart[lr][0]:.0e}, "
          f"after 300 steps {apart[lr][-1]:.0e}")
again = train((0, 1, 2, 3), lr, steps=20)
assert np.array_equal(again, forward[:20])               # the same order: the same bits
assert all(differences[0] > 0 for differences in apart.values())
assert apart[2e-2][-1] > 1000 * apart[2e-2][0]

# %% [markdown]
# At the moderate rate the difference stays small for these 300 steps. At the high rate it grows, and soon these are two
# different models. Both may be equally good. But an experiment that changes when somebody uses another number of
# processes cannot be repeated, and a bug cannot be told from rounding. So tinylm2 fixes the order: **shards are added
# by their number**, as ((s0 + s1) + s2) + s3. The number of shards is a setting of the run. The number of ranks is not.
#
# ## An all-reduce with a fixed order
#
# Rank r of R computes the gradients of S/R shards. How does every rank get the sum in the fixed order? In two rounds:
#
# 1. Cut the P numbers into R slices. Every rank sends slice q of its shards to rank q. Rank q then has slice q of *all*
#    shards, and adds them by number.
# 2. Every rank sends its finished slice to all others.
#
# `MPI.sum_shards` in `training/communicator.py` is this, with two MPI calls (Alltoallv and Allgatherv). Here are the
# same two rounds, with a counter of the numbers that travel:

# %%
def all_reduce(shards, R):
    """The sum of all shards on each of R ranks, and how many numbers each rank sent."""
    S, P = len(shards), shards[0].size
    cuts = [P * q // R for q in range(R + 1)]
    own = [range(S * r // R, S * (r + 1) // R) for r in range(R)]
    sent, slices = np.zeros(R, int), []
    for q in range(R):                                   # round 1: slice q of every shard goes to rank q
        part = [shard[cuts[q]:cuts[q + 1]] for shard in shards]
        for r in range(R):
            sent[r] += len(own[r]) * part[0].size * (r != q)
        slices.append(sum(part[1:], part[0]))            # by number
    for q in range(R):                                   # round 2: the finished slice goes to all others
        sent[q] += slices[q].size * (R - 1)
    return np.concatenate(slices), sent


def own_shards_first(shards, R):
    """The usual way: each rank adds its own shards, then the ranks' sums are added."""
    S = len(shards)
    return sum(sum(shards[S * r // R:S * (r + 1) // R]) for r in range(R))


shards = shard_gradients(small, batch, 4)
P = shards[0].size
for R in (1, 2, 4):
    joined, sent = all_reduce(shards, R)
    usual = own_shards_first(shards, R)
    print(f"{R} rank(s): by number {checksum(joined):08x}, own shards first {checksum(usual):08x}, "
          f"sent per rank {sent.max() / P:.2f} P")
    assert checksum(joined) == checksum(all_reduce(shards, 1)[0])
assert checksum(own_shards_first(shards, 1)) != checksum(own_shards_first(shards, 2))

# %% [markdown]
# The usual way has other bits on two ranks than on one. (On four ranks each has a single shard, so both ways are one.)
#
# With one shard per rank (R = 4 above) each rank sends 2 (R - 1)/R · P numbers: less than 2 P, however many ranks there
# are. No all-reduce can send fewer (Patarasuk and Yuan 2009). If instead one rank collected everything, it would
# receive (R - 1) P numbers, and the other ranks would wait for it.
#
# ## What it costs
#
# A step on R ranks takes about
#
#     t(R) = compute / R  +  latency · 2 log2 R  +  2 (R - 1)/R · 4 P / bandwidth
#
# seconds: work that is shared, messages that must follow each other, and bytes of float32 that must travel. No more
# ranks than rows can have work. As compute time we take three times the forward's multiply-adds (lesson 18), at 40
# billion per second and core. For the network we take 20 microseconds and 10 Gbit/s, an ordinary office network. A
# cluster's network has 1 to 2 microseconds and 100 to 400 Gbit/s.

# %%
OFFICE, CLUSTER = (20e-6, 10e9 / 8), (2e-6, 200e9 / 8)   # seconds per message, bytes per second


def step_seconds(R, compute, P, network):
    latency, bandwidth = network
    return compute / R + latency * 2 * np.log2(R) + 2 * (R - 1) / R * 4 * P / bandwidth


speedup = {}
for name, rows, segments in (("tiny", 64, 4), ("lm2-1.7b", 1024, 1)):
    preset = counting.PRESETS[name]
    compute = 3 * rows * segments * sum(counting.multiply_adds(preset).values()) / 40e9
    R = 2 ** np.arange(np.log2(rows) + 1)
    print(f"{name}, {rows:,} rows: {compute:.2g} s per step on one rank, {4 * count_params(preset) / 1e6:,.1f} MB of "
          "gradients")
    for network, place in ((OFFICE, "office"), (CLUSTER, "cluster")):
        speedup[name, place] = R, compute / step_seconds(R, compute, count_params(preset), network)
        print(f"    {place}: {R[-1]:,.0f} ranks are {speedup[name, place][1][-1]:,.0f} times as fast as one")
assert speedup["tiny", "office"][1][-1] < 64 / 1.5
assert speedup["lm2-1.7b", "cluster"][1][-1] > 1000

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 3, figsize=(11, 3))
    for lr, differences in apart.items():
        axes[0].semilogy(differences, label=f"learning rate {lr}")
    axes[0].legend(fontsize=7)
    axes[0].set(xlabel="step", ylabel="largest difference", title="same batches, shards added in another order")
    for axis, name in zip(axes[1:], ("tiny", "lm2-1.7b"), strict=True):
        R = speedup[name, "office"][0]
        axis.loglog(R, R, ":", color="gray", label="ideal")
        for place in ("office", "cluster"):
            axis.loglog(*speedup[name, place], "o-", markersize=3, label=f"{place} network")
        axis.set(xlabel="ranks", ylabel="times as fast as one rank", title=f"{name}, estimated")
        axis.legend(fontsize=7)
    lesson.show(figure, "22-many-hands")

# %% [markdown]
# The left picture shows how a difference in the last bit goes on. The other two show the model of the cost. The small
# model has 29 milliseconds of work per step, and soon latency and bytes take longer than a rank's share of it. The
# large model has 6.6 GB of gradients, but also five minutes of work per row, so it uses a thousand ranks well. This is
# an estimate. It leaves out what every rank does again, such as the update of the parameters and Python's own time.
# `docs/SCALING.md` has what was measured.
#
# ## With real processes
#
# `mpiexec -n 2` starts a program twice. The communicator gives each process its rank. Here each rank makes its own
# shards of random numbers and joins them with the library's `sum_shards`.

# %%
PROGRAM = """
import numpy as np
from tinylm2.training.communicator import checksum, own_shards, world

comm = world()
mine = [np.random.default_rng([7, shard]).standard_normal(1001, dtype="float32") for shard in own_shards(comm, 4)]
total = comm.sum_shards(mine)
for line in comm.gather(f"rank {comm.rank} of {comm.size}: shards {list(own_shards(comm, 4))}, {checksum(total):08x}"):
    if comm.rank == 0:
        print(line)
"""
expected = all_reduce([np.random.default_rng([7, s]).standard_normal(1001, dtype="float32") for s in range(4)], 1)[0]
mpiexec = Path(sys.executable).parent / "mpiexec"
probe = [sys.executable, "-c", "import mpi4py"]
if mpiexec.exists() and subprocess.run(probe, capture_output=True).returncode == 0:
    done = subprocess.run([mpiexec, "-n", "2", sys.executable, "-c", PROGRAM], capture_output=True, text=True,
                          cwd=lesson.ROOT)
    print(done.stdout, end="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{checksum(expected):08x}") == 2
else:
    print("mpiexec or mpi4py is not installed: pip install 'tinylm2[mpi]'")
print(f"one process:                {checksum(expected):08x}")

# %% [markdown]
# A whole training is `mpiexec -n 2 python train_tiny.py --shards 4`. It leaves the files of
# `python train_tiny.py --shards 4`, byte for byte.
#
# ## Exercise
#
# Adding by number is one fixed order. A *tree* is another one: (s0 + s1) + (s2 + s3). Does its result depend on the
# number of ranks? When could you let a rank add its own shards first and still have fixed bits?
#
# <details><summary>Answer</summary>
#
# The tree is fixed by the shards' numbers, so its bits do not depend on who computes which branch. If each rank's
# shards are exactly one branch of the tree (R and S powers of two), a rank may add its own shards first. It then sends
# one array instead of S/R. Rounding errors also grow more slowly, with log2 S instead of S.
#
# ```python
# def tree(shards):
#     half = len(shards) // 2
#     return shards[0] if half == 0 else tree(shards[:half]) + tree(shards[half:])
#
# shards = shard_gradients(small, batch, 4)
# for R in (1, 2, 4):
#     of_ranks = [tree(shards[4 * r // R:4 * (r + 1) // R]) for r in range(R)]
#     assert checksum(tree(of_ranks)) == checksum(tree(shards))
# print("the tree's bits are the same on 1, 2 and 4 ranks")
# ```
#
# </details>
#
# ## What usually goes wrong
#
# Each rank draws its rows from its own random generator, seeded with its rank. Then the rows depend on the number of
# ranks, and no comparison between two numbers of ranks is possible. Here a row is a function of seed, step and its
# number in the batch. The second mistake is a mean of means, as above. The third: every rank writes the checkpoint to
# the same file.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. Shard 1 has 3 answer tokens, shard 2 has 9. By what must each divide its sum of
# losses?</summary>
#
# Both by 12, the total of the whole batch. If each divided by its own number, the answers of shard 1 would count three
# times as much.
#
# </details>
#
# <details><summary>2. A run has 4 shards. May it continue on 2 ranks, on 3, on 8?</summary>
#
# On 2 ranks yes, with two shards each and the same bits. Not on 3, because they cannot share 4 shards evenly. Not on 8,
# because four ranks would have nothing to do. `train_tiny.py` refuses both in one line.
#
# </details>
#
# <details><summary>3. Twice as many ranks join, with one shard each. How many more bytes does each rank send per
# step?</summary>
#
# Almost none: 2 (R - 1)/R · P numbers stay below 2 P. Only the number of messages grows.
#
# </details>
