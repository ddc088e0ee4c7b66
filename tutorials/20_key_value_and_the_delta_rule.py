# %% [markdown]
# # 20. Key, value, and the delta rule
#
# **Time:** 30 minutes. **Before it:** lessons 4 and 11.
#
# A slot is a row that holds something. This lesson needs no slots. It stores pairs, "under this key, that value", in
# one matrix, and finds a value again by its key. Two memories of the gallery work so: *Infini-attention* (Munkhdalai et
# al. 2024), the smallest of all, and *ARMT* (Rodkin et al. 2024), which holds the published records for long contexts.
# Between them stands one idea from 1960, the *delta rule*: store not the value, but what is new in it.

# %%
import lesson
import numpy as np

from tinylm2.gradcheck import check_grads
from tinylm2.memories import armt, primitives

rng = np.random.default_rng(0)
B, U, C, E = 2, 5, 6, 3                                  # stories, rows that ask or store, widths of a key and a value

# %% [markdown]
# ## A matrix that remembers
#
# Store the pair (k, v) by adding the matrix `k' v`, a column times a row. Read by a product:
#
#     A = sum_i k_i' v_i                 q A = sum_i (q.k_i) v_i
#
# So a read returns every value, weighted by how much its key resembles the query. If the keys are orthonormal, the
# query k_j finds v_j and nothing else. If they are not, the others answer, too. This is attention without a softmax:
# the scores are used as they are, so the sum over all tokens can be computed once, and kept.

# %%
def crosstalk(pairs, width=32):
    """Error of what is found under each key, relative to the values, with random keys of length one."""
    keys, values = rng.standard_normal((2, pairs, width))
    keys /= np.sqrt((keys**2).sum(-1, keepdims=True))
    A = keys.T @ values
    return np.sqrt(((keys @ A - values) ** 2).mean())


orthonormal, _ = np.linalg.qr(rng.standard_normal((32, 32)))
values = rng.standard_normal((32, 32))
assert np.allclose(orthonormal @ (orthonormal.T @ values), values)       # 32 pairs, all found again
counts = [1, 2, 4, 8, 16, 32, 64]
for n in (1, 4, 16, 64):
    print(f"{n:>2} random keys of width 32: relative error {crosstalk(n):.2f}")
assert crosstalk(1) < 1e-12
assert crosstalk(64) > 1

# %% [markdown]
# ## An average instead of a sum
#
# A sum grows with the story. So both memories also keep the sum of the keys, z, and divide by the query's product with
# it. For this no product may be negative, so keys and queries pass a *feature map* f first, which is nowhere negative:
#
#     y = f A / den,      den = f.z + eps,      z = sum_i f(k_i)
#
# Infini-attention takes `elu + 1`: e^x below zero, 1 + x above. ARMT takes *dpfp*: it makes a row twice as long,
# [x, -x] without its negative entries, and multiplies neighbours. Most entries are then zero, so two keys rarely meet.

# %%
x = rng.standard_normal((500, 16))
for name, feature_map in (("elu + 1", primitives.elu1_forward), ("dpfp", primitives.dpfp_forward)):
    f, _ = feature_map(x)
    rows = f / np.sqrt((f**2).sum(-1, keepdims=True))
    resemblance = (rows @ rows.T)[np.triu_indices(500, k=1)].mean()
    print(f"{name:<8} width {f.shape[1]}, zeros {np.mean(f == 0):.2f}, two random keys resemble by {resemblance:.2f}")
    assert f.min() >= 0
    assert (resemblance < 0.4) == (name == "dpfp")

# %% [markdown]
# That is the price of elu + 1: any two keys resemble each other by .7. A memory that reads an average over all of them
# must tell them apart by what is left.
#
# Backward of the read. y is a fraction, so its gradient goes to the top as it is, divided by den. The bottom lowers
# every entry of the row by y / den:
#
#     dnum = dy / den,      dden = -sum(dnum y)
#     df = dnum A' + dden z,      dA = f' dnum,      dz = f' dden

# %%
EPS = 0.1


def recall_forward(f, A, z):
    den = f @ z[..., None] + EPS                         # (B, U, 1)
    y = f @ A / den
    return y, (f, A, z, y, den)


def recall_backward(dy, cache):
    f, A, z, y, den = cache
    dnum = dy / den
    dden = -(dnum * y).sum(-1, keepdims=True)
    df = dnum @ A.swapaxes(1, 2) + dden * z[:, None]
    return df, f.swapaxes(1, 2) @ dnum, (f.swapaxes(1, 2) @ dden)[..., 0]


f, A, z = rng.random((B, U, C)), rng.standard_normal((B, C, E)), rng.random((B, C))
dy = rng.standard_normal((B, U, E))
y, cache = recall_forward(f, A, z)
theirs, den, their_cache = primitives.recall_forward(f, A, z, eps=EPS)
assert np.allclose(y, theirs, atol=1e-13)
assert all(np.allclose(a, b, atol=1e-13) for a, b in zip(
    recall_backward(dy, cache), primitives.recall_backward(dy, None, their_cache), strict=True))
verdict = check_grads(recall_forward, recall_backward, f, A, z)
print(verdict)
assert verdict.passed

# %% [markdown]
# ## The same key again
#
# "Mary is in the garden." Later: "Mary is in the office." The key is the same, the value is new. A sum holds both. What
# one wants is a memory that *replaces*. The delta rule asks the memory first what it says already, and stores the
# difference:
#
#     old = f A / den                        what the memory says under this key
#     A'  = A + f' (v - old)                 so that it says v
#     z'  = z + f
#
# With the first two lines alone and a key of length one, this is exact: `f A' = f A + 1 (v - old) = v` where den is 1.
# But look at z. It grew, although no new key came, and the next read divides by more. Let a key of length one come for
# the n+1st time. Then `den` is n before the write and n + 1 after it, and `f A = n old`:
#
#     new = (n old + v - old) / (n + 1) = old + (v - 2 old) / (n + 1)
#
# This is Infini-attention's write (its equations 4 and 5). It does not move towards v. It moves towards the row that
# solves `v = 2 old`: half of v. A difference is stored where the average expects a value. ARMT adds a factor gamma,
# which counts a key into z only as far as z does not hold it yet:
#
#     gamma = max(0, 1 - den / (f.f + eps))           z' = z + gamma f
#
# A key that z does not know has den = eps, and gamma is nearly 1. A key that z holds has den = f.f + eps, and gamma is
# zero. Here are the three, with one key and a new value each time:

# %%
RULES = {"sum": (False, False), "delta (Infini)": (True, False), "delta with gamma (ARMT)": (True, True)}


def store(A, z, f, v, *, delta, count_once, eps=1e-3):
    """One pair into a memory A (C, E), z (C)."""
    den = f @ z + eps
    old = f @ A / den if delta else 0.0
    gamma = max(0.0, 1 - den / (f @ f + eps)) if count_once else 1.0
    return A + np.outer(f, v - old), z + gamma * f


def rewritten(rule, times=8):
    """What is found under one key after each of several writes: the values are 1, 2, 3, ..."""
    delta, count_once = RULES[rule]
    f, A, z, found = np.array([0.6, 0.0, 0.8]), np.zeros((3, 1)), np.zeros(3), []
    for value in range(1, times + 1):
        A, z = store(A, z, f, np.array([float(value)]), delta=delta, count_once=count_once)
        found.append((f @ A / (f @ z + 1e-3)).item())
    return found


told = {rule: rewritten(rule) for rule in RULES}
for rule, found in told.items():
    print(f"{rule:<24}", *(f"{value:5.2f}" for value in found), "  (stored: 1 to 8)")
assert np.allclose(told["delta with gamma (ARMT)"], range(1, 9), rtol=0.01)
assert np.isclose(told["sum"][-1], 4.5, rtol=0.01)
assert told["delta (Infini)"][-1] < told["sum"][-1]

# %% [markdown]
# The sum finds the mean of all values. Infini's write is behind even that: it runs after half of the newest value. ARMT
# finds the last value.
#
# ## Backward of the delta rule
#
# A model stores many rows R at once, and all of them see the old A. Keys, values and a share beta, "how much of it",
# are made of R by matrices. We leave these out, you know them. What is left:
#
#     old, den = read of (A, z) by k
#     stored = beta (v - old)
#     A' = A + k' stored
#     z' = z + sum_i gamma_i k_i,       gamma = max(0, 1 - den / l),   l = k.k + eps
#
# Count where each name stands. A: in A' and in old. z: in z' and in den. k: in both sums, in the read, and in its own
# length l. v and beta once each. The read has two outputs now, old and den, and both get a gradient:
#
#     dstored = k dA'                dbeta = dstored (v - old)          dv = beta dstored          dold = -dv
#     dgamma  = k.dz'                dden  = -dgamma / l  where gamma > 0
#     dk = stored dA'  +  gamma dz'  +  dgamma den / l² · 2 k  where gamma > 0  +  what the read hands back
#     dA = dA' + from the read       dz = dz' + from the read

# %%
def delta_forward(k, v, beta, A, z):
    old, read = recall_forward(k, A, z)
    den = read[-1]
    length = (k * k).sum(-1, keepdims=True) + EPS
    gamma = np.maximum(0, 1 - den / length)              # (B, U, 1)
    stored = beta * (v - old)
    keys = k.swapaxes(1, 2)
    return A + keys @ stored, z + (keys @ gamma)[..., 0], (k, v, beta, old, read, length, gamma, stored)


def delta_backward(dA_next, dz_next, cache):
    k, v, beta, old, read, length, gamma, stored = cache
    f, A, z, _, den = read
    dstored = k @ dA_next
    dbeta, dv = dstored * (v - old), beta * dstored
    dgamma = (k @ dz_next[..., None]) * (gamma > 0)
    dk = stored @ dA_next.swapaxes(1, 2) + gamma * dz_next[:, None] + 2 * k * dgamma * den / length**2
    dk_read, dA, dz = recall_backward(-dv, read)
    dden = -dgamma / length                              # den is an output of the read as well: two products with k
    dk += dk_read + dden * z[:, None]
    return dk, dv, dbeta, dA_next + dA, dz_next + dz + (k.swapaxes(1, 2) @ dden)[..., 0]


k, v, beta = rng.random((B, U, C)), rng.standard_normal((B, U, E)), rng.random((B, U, E))
A, z = rng.standard_normal((B, C, E)), 0.2 * rng.random((B, C))
arguments = k, v, beta, A, z
gamma = delta_forward(*arguments)[2][-2]
print("gamma of each key:", gamma[..., 0].round(2).tolist())
assert (gamma > 0).any()
verdict = check_grads(delta_forward, delta_backward, *arguments)
print(verdict)
assert verdict.passed

# %% [markdown]
# The library's `armt.associate` is this with its matrices in front. We put them in front, too, and compare:

# %%
R, D = rng.standard_normal((B, U, 8)), 8
A, z = rng.standard_normal((B, D, D)), rng.random((B, D))
Wk, Wv, Wbeta = rng.standard_normal((D, 4)), rng.standard_normal((D, D)), rng.standard_normal((D, 2))
key, _ = primitives.dpfp_forward(R @ Wk)
share = np.repeat(1 / (1 + np.exp(-(R @ Wbeta))), 4, axis=-1)            # one number per head of four columns
EPS = armt.EPS
A_next, z_next, cache = delta_forward(key, R @ Wv, share, A, z)
theirs = armt.associate_forward(R, A, z, Wk, Wv, Wbeta, np.zeros(2))
assert np.allclose(A_next, theirs[0], atol=1e-12)
assert np.allclose(z_next, theirs[1], atol=1e-12)
dA_next, dz_next = rng.standard_normal((B, D, D)), rng.standard_normal((B, D))
_, _, _, dA, dz = delta_backward(dA_next, dz_next, cache)
library = armt.associate_backward(dA_next, dz_next, theirs[2])
assert np.allclose(dA, library[1], atol=1e-12)
assert np.allclose(dz, library[2], atol=1e-12)

# %% [markdown]
# ## Many rows at once
#
# Row after row, the delta rule corrects what the row before it wrote. All at once, every row sees the same old A, so
# sixteen equal keys store the same difference sixteen times. Without z that is an explosion: what is read overshoots by
# a factor of 15, with the other sign, and the next write corrects that by 15 again. z prevents it: den has grown
# sixteenfold, too. (With Infini's z what is read then rests at half of what was stored, as derived above.)

# %%
def equal_keys(with_z, rows=16, segments=8):
    """The largest number read after each segment of so many equal keys, all stored at once."""
    k, v = np.repeat(rng.random((1, 1, C)), rows, axis=1), np.ones((1, rows, 1))
    k /= np.sqrt((k**2).sum(-1, keepdims=True))
    A, z, seen = np.zeros((1, C, 1)), np.zeros((1, C)), []
    for _ in range(segments):
        old = k @ A / (k @ z[..., None] + 1e-3) if with_z else k @ A
        A = A + k.swapaxes(1, 2) @ (v - old)
        z = z + k.sum(1)
        seen.append(abs(k @ A / (k @ z[..., None] + 1e-3) if with_z else k @ A).max())
    return seen


overshoot = {"without z": equal_keys(False), "with z": equal_keys(True)}
for name, seen in overshoot.items():
    print(f"{name}: what is read after 1, 2, 4, 8 segments", *(f"{seen[i]:.1e}" for i in (0, 1, 3, 7)))
assert overshoot["without z"][7] > 1e8
assert np.isclose(overshoot["with z"][7], 0.5, rtol=0.01)

# %%
def error_by_rule(rule, pairs, repeats=20):
    """Mean error of what is found under `pairs` keys, each stored three times with a new value each time."""
    delta, count_once = RULES[rule]
    errors = []
    for seed in range(repeats):
        d = np.random.default_rng([pairs, seed])
        keys, _ = primitives.dpfp_forward(2 * d.standard_normal((pairs, 16)))
        A, z = np.zeros((32, 1)), np.zeros(32)
        for _ in range(3):
            values = d.standard_normal((pairs, 1))
            for f, v in zip(keys, values, strict=True):
                A, z = store(A, z, f, v, delta=delta, count_once=count_once)
        errors.append(np.sqrt(((keys @ A / (keys @ z[:, None] + 1e-3) - values) ** 2).mean()))
    return np.mean(errors)


by_rule = {rule: [error_by_rule(rule, n) for n in counts] for rule in RULES}
for rule, errors in by_rule.items():
    print(f"{rule:<24}", *(f"{error:5.2f}" for error in errors))
assert by_rule["delta with gamma (ARMT)"][1] < 0.3 * by_rule["delta (Infini)"][1]
assert by_rule["delta with gamma (ARMT)"][-1] > 0.9

# %%
if lesson.plt:
    figure, axes = lesson.plt.subplots(1, 3, figsize=(11.5, 2.9))
    for rule, found in told.items():
        axes[0].plot(range(1, 9), found, "o-", markersize=3, label=rule)
    axes[0].set(xlabel="the value that was stored last", ylabel="what is found", title="one key, stored again")
    axes[0].legend(fontsize=8)
    for rule, errors in by_rule.items():
        axes[1].plot(counts, errors, "o-", markersize=3, label=rule)
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(counts, counts)
    axes[1].axhline(1, color="gray", linestyle=":")
    axes[1].set(xlabel="keys in a memory of 32 x 1, each stored 3 times", ylabel="error (a guess: 1)",
                title="how much fits")
    for name, seen in overshoot.items():
        axes[2].semilogy(range(1, 9), seen, "o-", markersize=3, label=name)
    axes[2].set(xlabel="segments of 16 equal keys", ylabel="what is read (stored: 1)", title="all at once")
    axes[2].legend()
    lesson.show(figure, "20-delta-rule")

# %% [markdown]
# ## Exercise
#
# ARMT's published code takes gamma for a constant in backward. How wrong are the gradients at k and z then? Measure it
# with random upstream gradients, as a share of the true gradient's length. Would you notice in training?
#
# <details><summary>Answer</summary>
#
# Here a few per cent of the gradient at k are missing, and more of the one at z. The direction is nearly right, so
# training goes on, and no curve would show it. Only a check does. Whether it *matters* is another question: a gradient
# may be cut on purpose (lesson 12). But then it should say so.
#
# ```python
# EPS = 0.1
# k, v, beta, A, z = arguments
# _, _, cache = delta_forward(*arguments)
# upstream = rng.standard_normal((B, C, E)), rng.standard_normal((B, C))
# right = delta_backward(*upstream, cache)
# _, _, _, _, _, length, gamma, stored = cache
# constant = cache[:-2] + (-gamma, stored)                 # below zero: the backward takes it for cut off
# wrong = list(delta_backward(*upstream, constant))
# wrong[0] += 2 * gamma * upstream[1][:, None]             # put back the share of z' = z + gamma k
# for name, a, b in (("k", right[0], wrong[0]), ("z", right[4], wrong[4])):
#     print(f"d{name}: {np.linalg.norm(a - b) / np.linalg.norm(a):.1%} of the gradient is missing")
#     assert 0.001 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.9
# ```
#
# </details>
#
# ## What usually goes wrong
#
# The read inside the write is taken for a number. `old` depends on A, on z and on the key, so the write has a second
# path to each of them. Leave it out, and the memory's gradient says that storing a value twice is as good as storing it
# once:

# %%
def takes_old_for_a_number(dA_next, dz_next, cache):
    dk, dv, dbeta, _, dz = delta_backward(dA_next, dz_next, cache)
    return dk, dv, dbeta, dA_next, dz


EPS = 0.1
verdict = check_grads(delta_forward, takes_old_for_a_number, *arguments)
print(verdict)
assert [argument.name for argument in verdict.failures] == ["A"]

# %% [markdown]
# ## Three questions
#
# <details><summary>1. What does a matrix find under a query that is halfway between two orthonormal keys?</summary>
#
# Half of each value, or, with z, their average. A matrix does not choose. Choosing is what the softmax is for.
#
# </details>
#
# <details><summary>2. Infini-attention uses the delta rule. Why does it not replace what a key means?</summary>
#
# z counts the key every time that it comes, so a difference is averaged as if it were a value. What is found moves
# towards half of the new value, by a smaller and smaller share.
#
# </details>
#
# <details><summary>3. In how many places does a key stand in ARMT's write, and where?</summary>
#
# Five: in A', in z', in the numerator and the denominator of the read, and in its own length.
#
# </details>
#
# Next: [21. A memory that learns while it reads](21_a_memory_that_learns_while_it_reads.py)
