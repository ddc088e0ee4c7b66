"""A float32 run stays float32, and a float64 one float64: one double among them would cost more than it gives."""

import numpy as np
import pytest

from tests.support import small
from tests.support.leaves import leaves
from tinylm2 import ops, optim
from tinylm2.model import init_params
from tinylm2.recurrence import story_backward, story_forward
from tinylm2.training.curriculum import learning_rate

pytestmark = pytest.mark.core
FLOATS = ["float32", "float64"]


def training_step(cfg, dtype, **options):
    """All that two steps make: parameters, moments, logits, loss, gradients and caches, by name."""
    params, ids = small.params(cfg, dtype), small.ids(cfg, 2 * cfg.T + 1)
    optimizer = optim.AdamW(params)
    weights = (ids % 2 == 0).astype(np.float32)          # as batches bring them, whatever the model's precision
    for step in range(2):
        logits, cache = story_forward(params, ids=ids, cfg=cfg, **options)
        rows = slice(-logits.shape[1], None)
        loss, loss_cache = ops.cross_entropy_forward(logits, targets=ids[:, rows], weights=weights[:, rows] + 1)
        (dlogits,) = ops.cross_entropy_backward(1.0, loss_cache)
        grads = story_backward(dlogits, cache)
        norm = optim.clip(grads, 1.0)
        optimizer.step(params, grads, learning_rate(1e-2, step, warmup=10))
    return {"params": {**params, "buffer": params.buffer}, "grads": {**grads, "buffer": grads.buffer},
            "moments": {"m": optimizer.m, "v": optimizer.v}, "logits": logits, "loss": loss, "norm": norm,
            "cache": cache, "loss cache": loss_cache, "dlogits": dlogits}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("options", [{}, {"last": 1, "pad": True}, {"recompute": True, "truncate": 1}],
                         ids=["plain", "last, pad", "recompute, truncate"])
def test_every_number_of_a_run_keeps_its_precision(cfg, dtype, options):
    if "pad" in options:
        options = {**options, "pad": np.minimum([0, 2, 1], cfg.T - 1)}
    allowed = {np.dtype(dtype), np.result_type(dtype, np.complex64)}     # a turn of RoPE is complex
    found = list(leaves(training_step(cfg, dtype, **options)))
    assert len(found) > 50
    for path, x in found:
        assert x.dtype in allowed or x.dtype.kind in "ib", f"{path} is {x.dtype}"


@pytest.mark.parametrize("dtype", FLOATS)
def test_parameters_have_the_requested_precision(cfg, dtype):
    params = init_params(cfg, 0, dtype=dtype)
    assert {W.dtype for W in (*params.values(), params.buffer, params.matrices)} == {np.dtype(dtype)}


def test_both_precisions_start_from_the_same_numbers(cfg):
    single, double = (init_params(cfg, 0, dtype=dtype) for dtype in FLOATS)
    assert np.array_equal(single.buffer, double.buffer.astype("float32"))


def test_single_precision_gives_what_double_gives_to_its_last_digits(cfg):
    single, double = (training_step(cfg, dtype) for dtype in FLOATS)
    # AdamW divides a gradient near zero by its own size, so one weight of a step may differ by 1e-4.
    np.testing.assert_allclose(single["logits"], double["logits"], rtol=0, atol=3e-4)
    np.testing.assert_allclose(single["grads"]["buffer"], double["grads"]["buffer"], rtol=0, atol=1e-4)
