"""One training step: forward, loss, backward, clip, update."""

import math

from tinylm2 import ops, recurrence
from tinylm2.backend import get_xp, to_device, to_host
from tinylm2.checking.diagnose import first_not_finite
from tinylm2.optim import clip


class NotFinite(ArithmeticError):
    """The loss or the gradient is no longer a number."""


def train_step(params, optimizer, batch, *, lr, limit=1.0, **options):
    """Forward, loss, backward, clip, update, in place.  -> (answer loss, gradient norm, correct (B,)), on the host.

    `options` are those of `loss_and_gradients`. All three come back in one copy, the only one of the step.  NotFinite
    where loss or gradient is not finite: it says where that began, and nothing was updated.
    """
    xp = get_xp(params.buffer)
    loss, correct, grads = loss_and_gradients(params, batch, **options)
    norm = clip(grads, limit)
    numbers = to_host(xp.concatenate((xp.stack((loss, norm)), correct.astype(loss.dtype))))
    loss, norm = float(numbers[0]), float(numbers[1])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        origin = first_not_finite(lambda: loss_and_gradients(params, batch, **options), params)
        raise NotFinite(f"the loss is {loss}, the gradient's norm {norm}; "
                        f"first not finite: {origin or 'the norm, of finite gradients'}")
    optimizer.step(params, grads, lr)
    return loss, norm, numbers[2:] > 0


def loss_and_gradients(params, batch, *, cfg, lm=0.0, truncate=None, recompute=False):
    """The answer loss of a batch, which rows are correct (B,), and the gradients of all parameters, on their device.

    The gradients are those of cross-entropy at the answer + lm * cross-entropy at every token, both means. The loss is
    the first alone: a stage's threshold asks what was learned of the answer, and next words stay uncertain. A row is
    correct when every answer token and the end are the likeliest.
    """
    xp = get_xp(params.buffer)
    ids, targets, weights = (to_device(x, xp) for x in (batch.ids, batch.targets, batch.weights))
    logits, cache = recurrence.story_forward(params, ids=ids, cfg=cfg, pad=batch.pad, last=None if lm else batch.last,
                                             truncate=truncate, recompute=recompute)
    loss, correct, dlogits = _answer_loss(logits, targets, weights, to_device(batch.lm_weights, xp) if lm else None, lm)
    del logits                                           # backward needs the memory and not the logits
    return loss, correct, recurrence.story_backward(dlogits, cache)


def _answer_loss(logits, targets, weights, lm_weights, lm):
    """The answer's loss, which rows are correct, and the gradient at the logits of the last positions."""
    targets, weights = targets[:, -logits.shape[1]:], weights[:, -logits.shape[1]:]
    loss, loss_cache = ops.cross_entropy_forward(logits, targets=targets, weights=weights)
    (dlogits,) = ops.cross_entropy_backward(1.0, loss_cache)
    if lm:
        _, lm_cache = ops.cross_entropy_forward(logits, targets=targets, weights=lm_weights)
        dlogits += ops.cross_entropy_backward(lm, lm_cache)[0]
    correct = ((logits.argmax(-1) == targets) | (weights == 0)).all(-1)
    return loss, correct, dlogits
