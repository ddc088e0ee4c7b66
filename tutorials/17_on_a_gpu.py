# %% [markdown]
# # 17. The same code on a GPU
#
# **Time:** 20 minutes. **Before it:** lesson 6 (12 and 13 help).
#
# The library's formulas exist once. They run on NumPy arrays on the CPU and on CuPy arrays on a GPU, and nowhere in
# `ops.py` does it say which. This lesson shows how little is needed for that, and what one has to get used to.
#
# Where there is no GPU, the lesson takes the *fake CuPy* from `tests/support/fake_cupy.py`: an array type that wraps
# NumPy, gives the same bits, and is as strict as a device: it refuses to be read in passing, refuses to be mixed with
# host arrays, and counts what is done with it. As a teacher it is better than the real thing.

# %%
import time
from dataclasses import replace

import lesson
import numpy as np

from tests.support import fake_cupy
from tinylm2 import backend, gpu, ops
from tinylm2.data import TASKS, HaystackSampler, Stories
from tinylm2.flat import Flat
from tinylm2.model import init_params
from tinylm2.optim import AdamW
from tinylm2.training import trained_model
from tinylm2.training.settings import Settings
from tinylm2.training.step import train_step

usable, why = gpu.gpu()
if usable:
    xp, device = gpu.array_module("gpu"), why
else:
    xp, device = fake_cupy.xp, "the fake CuPy"
    print("no GPU here:", why)
print("this lesson runs on", device)

# %% [markdown]
# ## The module comes from the data
#
# `xp = get_xp(x)` is numpy for NumPy arrays and cupy for CuPy's. CuPy has NumPy's functions under NumPy's names, so a
# formula written with `xp` runs on both. Look at any function of `ops.py`: that line is all.

# %%
rng = np.random.default_rng(0)
x, g, dy = rng.standard_normal((2, 3, 8)), np.ones(8), rng.standard_normal((2, 3, 8))

results = {}
for name, module in (("host", np), ("device", xp)):
    there = [backend.to_device(array, module) for array in (x, g, dy)]
    y, cache = ops.rmsnorm_forward(*there[:2])
    dx, dg = ops.rmsnorm_backward(there[2], cache)
    results[name] = [backend.to_host(array) for array in (y, dx, dg)]
    print(f"{name:<7} get_xp says {backend.get_xp(y).__name__}, y is a {type(y).__module__}.{type(y).__name__}")
assert all(np.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(*results.values(), strict=True))

# %% [markdown]
# ## Two memories
#
# A device has a memory of its own. `to_device` copies an array over, `to_host` copies it back, and nothing else may.
# A host array among device arrays is an error, not a slow success:

# %%
on_device = backend.to_device(x, xp)
for attempt, action in (("a host array in device arithmetic", lambda: on_device * x),
                        ("arguments from both sides", lambda: ops.rmsnorm_forward(on_device, g)),
                        ("reading a device array in passing", lambda: np.asarray(on_device))):
    try:
        action()
    except TypeError as error:
        print(f"{attempt}: TypeError: {str(error)[:90]}")
    else:
        raise AssertionError(f"{attempt} should have been refused")

# %% [markdown]
# ## One training step
#
# The model and data of `train_tiny.py`, on both sides, from the same parameters. Random numbers always come from the
# host, so both see the same ones.

# %%
def fresh(module):
    """(params, cfg, batch): the model of train_tiny.py, untrained, and a batch of stories four segments long."""
    run = trained_model.new(Settings())
    params = Flat(run.params.shapes, module, "float32")
    params.buffer[...] = backend.to_device(run.params.buffer, module)
    stories = Stories([TASKS["qa1"]], tokenizer=run.tokenizer, filler=run.filler, seed=0)
    sampler = HaystackSampler(facts=(2, 4), segments=(4,), segment_len=run.cfg.T)
    return params, run.cfg, sampler.batch(stories, step=0, batch_size=32)


after, losses = {}, {}
for name, module in (("host", np), ("device", xp)):
    params, cfg, batch = fresh(module)
    optimizer = AdamW(params)
    losses[name] = [train_step(params, optimizer, batch, cfg=cfg, lr=1e-3)[0] for _ in range(3)]
    after[name] = backend.to_host(params.buffer)
    print(f"{name:<7} losses {losses[name]}")
print("largest difference of any parameter after three steps:", abs(after["host"] - after["device"]).max())
assert np.allclose(losses["host"], losses["device"], rtol=1e-3)
if not usable:
    assert np.array_equal(after["host"], after["device"])                # the fake CuPy gives NumPy's bits

# %% [markdown]
# A real GPU adds up in another order, so its last digits differ. Those of the fake CuPy do not: where it disagrees
# with NumPy in a single bit, there is a bug in how the code uses the device.
#
# ## What the device is asked
#
# A GPU works on its own: the host puts an operation into a queue and goes on at once. Two things cost:
#
# - **Launches.** Every array operation is one launch, some microseconds for the host, however small the arrays are.
#   With small models the GPU waits for launches. So the library joins what it can: one flat buffer for all
#   parameters, and chains of small steps written as one kernel (`@fused` in `backend.py`).
# - **Questions.** Every copy back to the host, a printed loss, an `if` on a value, waits until the queue is empty. A
#   training step should ask *once*.
#
# The fake CuPy counts both:

# %%
params, cfg, batch = fresh(fake_cupy.xp)
optimizer = AdamW(params)
train_step(params, optimizer, batch, cfg=cfg, lr=1e-3)                 # the first one also computes tables
with fake_cupy.watch() as seen:
    train_step(params, optimizer, batch, cfg=cfg, lr=1e-3)
launches = seen.operations.total()
print(f"one step: {launches} launches; uploads {len(seen.uploads)}; copies back {len(seen.copies)}: {seen.copies}")
assert len(seen.copies) == 1
assert launches < 3000

# %%
names = {"__matmul__": "matrix products", "matmul": "matrix products", "__imul__": "multiply", "__mul__": "multiply",
         "__iadd__": "add", "__add__": "add", "__isub__": "subtract", "__sub__": "subtract", "__rsub__": "subtract",
         "set": "copy into", "ascontiguousarray": "copy into", "__itruediv__": "divide", "__truediv__": "divide",
         "einsum": "sums (einsum)"}
kinds = {}
for operation, count in seen.operations.items():
    kind = names.get(operation, operation.strip("_"))
    kinds[kind] = kinds.get(kind, 0) + count
kinds = dict(sorted(kinds.items(), key=lambda item: -item[1]))
print("launches of one step by kind:", ", ".join(f"{kind} {count}" for kind, count in kinds.items()))

# %% [markdown]
# The batch does not appear in these numbers: a step over 32 stories makes as many launches as one over 2. That is
# what makes a GPU worthwhile: the work grows, the launches do not.

# %%
def launches_of(batch_size, segments):
    """Launches of one step on a batch of so many rows and segments."""
    params, cfg, _ = fresh(fake_cupy.xp)
    run = trained_model.new(Settings())
    stories = Stories([TASKS["qa1"]], tokenizer=run.tokenizer, filler=run.filler, seed=0)
    sampler = HaystackSampler(facts=(2,), segments=(segments,), segment_len=cfg.T)
    batch = sampler.batch(stories, step=0, batch_size=batch_size)
    optimizer = AdamW(params)
    train_step(params, optimizer, batch, cfg=cfg, lr=1e-3)
    with fake_cupy.watch() as seen:
        train_step(params, optimizer, batch, cfg=cfg, lr=1e-3)
    return seen.operations.total()


by_stories = {B: launches_of(B, 2) for B in (2, 8, 32)}
by_segments = {S: launches_of(4, S) for S in (1, 2, 3, 4)}
print("launches by stories in a batch:", by_stories)
print("launches by segments:", by_segments)
assert len(set(by_stories.values())) == 1
assert by_segments[4] > by_segments[3] > by_segments[2] > by_segments[1]

# %%
if lesson.plt:
    figure, (left, right) = lesson.plt.subplots(1, 2, figsize=(9.5, 2.9), width_ratios=[1.5, 1])
    left.barh(list(kinds)[:10][::-1], list(kinds.values())[:10][::-1], color="lightsteelblue")
    left.set(xlabel="launches", title=f"one training step, four segments: {launches} launches, one question")
    right.plot(list(by_stories), list(by_stories.values()), "o-", label="by stories (2 segments)")
    right.plot(list(by_segments), list(by_segments.values()), "o-", label="by segments (4 stories)")
    right.set(xscale="log", ylim=0, ylabel="launches", title="more stories cost no launches")
    right.legend()
    lesson.show(figure, "17-launches")

# %% [markdown]
# ## On a real one
#
# With a GPU, `python train_tiny.py --device gpu` is all there is to it. The next cell times steps as the model gets
# wider; without a GPU it times NumPy alone. One must ask the device for a result before looking at the clock: the
# queue takes everything at once, and a clock that does not wait measures how fast one can fill a queue.

# %%
def seconds_per_step(module, D):
    _, cfg, batch = fresh(np)
    cfg = replace(cfg, D=D, F=2 * D, H=D // 16, G=D // 16)
    params = init_params(cfg, 0, xp=module)
    optimizer = AdamW(params)
    train_step(params, optimizer, batch, cfg=cfg, lr=1e-3)
    began = time.perf_counter()
    for _ in range(2):
        train_step(params, optimizer, batch, cfg=cfg, lr=1e-3)         # returns host numbers, so it has waited
    return (time.perf_counter() - began) / 2


for D in (32, 64, 128):
    host = seconds_per_step(np, D)
    line = f"D {D:>4}: NumPy {1e3 * host:6.0f} ms per step"
    print(line + (f", GPU {1e3 * seconds_per_step(xp, D):6.1f} ms" if usable else ""))

# %% [markdown]
# ## Exercise
#
# Clipping: if the norm of all gradients is above a limit, scale them down. The obvious code is `if norm > limit: g *=
# limit / norm`. What does it cost on a device? Try it on the fake CuPy, then write it without asking.
#
# <details><summary>Answer</summary>
#
# `if` needs the value, now: the host must wait until the device has finished everything before it. The fake CuPy
# refuses. Instead, compute a factor that is 1 where nothing is to be done, and multiply always.
#
# ```python
# g = backend.to_device(rng.standard_normal(100), fake_cupy.xp)
# norm = fake_cupy.xp.sqrt(g @ g)
# try:
#     if norm > 1.0:
#         g *= 1.0 / norm
# except TypeError as error:
#     print("refused:", error)
# else:
#     raise AssertionError("the fake CuPy should refuse a branch on a value")
#
# with fake_cupy.watch() as watched:
#     g *= fake_cupy.xp.minimum(1.0 / norm, 1.0)
# print("copies:", len(watched.copies), " norm now:", np.linalg.norm(backend.to_host(g)))
# assert not watched.copies
# assert np.isclose(np.linalg.norm(backend.to_host(g)), 1.0)
# ```
#
# </details>
#
# ## What usually goes wrong
#
# A `print(loss)` for debugging stays in the inner loop. Nothing is wrong with the numbers; every step now waits for
# the device, and nobody knows why the GPU is only half as fast as it was on Tuesday.

# %% [markdown]
# ## Three questions
#
# <details><summary>1. The batch gets twice as large. How many launches does a step make then?</summary>
#
# As many as before: each operation works on all rows at once. More segments do make more launches, because they come
# one after another.
#
# </details>
#
# <details><summary>2. Why does an if on a value of the device cost more than a launch?</summary>
#
# A launch goes into the queue, and the host goes on. The if needs the value, so the host must wait until everything
# before it has been computed.
#
# </details>
#
# <details><summary>3. Where do the library's random numbers come from, and why?</summary>
#
# From the host, whatever the device. So both devices see the same stories and the same first parameters, and can be
# compared.
#
# </details>
#
# Next: [18. How far it scales](18_how_far_it_scales.py)
