"""One training step: forward, loss, backward, clip, update."""

import math
from typing import Any

import numpy as np

from tinylm2 import ops, recurrence
from tinylm2.backend import Array, get_xp, to_device, to_host
from tinylm2.checking.diagnose import first_not_finite
from tinylm2.flat import Flat
from tinylm2.gpu import upload
from tinylm2.optim import clip
from tinylm2.training.communicator import SingleProcess

SINGLE = SingleProcess()


class NotFinite(ArithmeticError):
    """The loss or the gradient is not finite."""


def train_step(params: Flat, optimizer: Any, *shards: Any, lr: float, limit: float = 1.0, comm: Any = SINGLE,
               meanwhile: Any = lambda: None, **options: Any) -> tuple[float, float, Array]:
    """Forward, loss, backward, clip, update, in place.  -> (answer loss, gradient norm, correct (B,)), on the host.

    shards: the Batch, or the parts of it that this process computes (None: an empty part); `comm` joins them with those
    of other processes. lr: from `curriculum.learning_rate`. limit: of `clip`. `options`: of `loss_and_gradients`. The
    numbers come back from the device in one copy, after `meanwhile()`.  NotFinite says where; nothing is updated then.
    """
    xp = get_xp(params.buffer)
    counts = comm.gather([(0, 0) if shard is None else (float(shard.weights.sum()), float(shard.lm_weights.sum()))
                          for shard in shards])
    totals = [sum(kind) for kind in zip(*(count for rank in counts for count in rank), strict=True)]

    def compute():
        return [_empty(params) if shard is None else loss_and_gradients(params, shard, totals=totals, **options)
                for shard in shards]

    losses, correct, grads = zip(*compute(), strict=True)
    grads = grads[0].like(comm.sum_shards([part.buffer for part in grads]))
    norm = clip(grads, limit)
    numbers = xp.concatenate((xp.stack((*losses, norm)), *(part.astype(norm.dtype) for part in correct)))
    meanwhile()
    numbers = to_host(numbers)
    norm = float(numbers[len(losses)])
    parts = comm.gather((numbers[:len(losses)].tolist(), numbers[len(losses) + 1:] > 0))
    loss = sum(x for part, _ in parts for x in part)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        origin = next(filter(None, comm.gather(first_not_finite(compute, params))), "")
        raise NotFinite(f"the loss is {loss}, the gradient's norm {norm}; "
                        f"first not finite: {origin or 'the norm, of finite gradients'}")
    optimizer.step(params, grads, lr)
    return loss, norm, np.concatenate([part for _, part in parts])


def loss_and_gradients(params: Flat, batch: Any, *, cfg: Any, totals: Any = (None, None), lm: float = 0.0,
                       truncate: int | None = None, recompute: bool = False) -> tuple[Any, Array, Flat]:
    """The answer loss of a batch, which rows are correct (B,), and the gradients of all parameters, on their device.

    The gradients are those of (cross-entropy of the answer) + lm * (cross-entropy of every token), both means. totals:
    the sums of their weights over the whole batch, if this is a part of it. The loss is the first term alone: a stage's
    threshold is about the answer. A row is correct when every answer token and the end token are the likeliest.
    """
    xp = get_xp(params.buffer)
    ids, targets, weights = upload(xp, batch.ids, batch.targets, batch.weights)
    logits, cache = recurrence.story_forward(params, ids=ids, cfg=cfg, pad=batch.pad, last=None if lm else batch.last,
                                             truncate=truncate, recompute=recompute)
    targets, weights = targets[:, -logits.shape[1]:], weights[:, -logits.shape[1]:]
    loss, loss_cache = ops.cross_entropy_forward(logits, targets=targets, weights=weights, total=totals[0])
    (dlogits,) = ops.cross_entropy_backward(1.0, loss_cache)
    if lm:
        _, lm_cache = ops.cross_entropy_forward(logits, targets=targets, weights=to_device(batch.lm_weights, xp),
                                                total=totals[1])
        dlogits += ops.cross_entropy_backward(lm, lm_cache)[0]
    correct = ((logits.argmax(-1) == targets) | (weights == 0)).all(-1)
    del logits, loss_cache                               # backward needs the memory and not the logits
    return loss, correct, recurrence.story_backward(dlogits, cache)


def _empty(params):
    """The result of a shard without rows."""
    zeros = get_xp(params.buffer).zeros_like(params.buffer)
    return zeros[:1].sum(), zeros[:0] > 0, params.like(zeros)
