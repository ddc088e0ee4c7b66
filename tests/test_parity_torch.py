"""The whole model against PyTorch's autograd: logits and every gradient, in float64."""

import numpy as np
import pytest

from tinylm2 import model
from tinylm2.checking.cases import CASES, Draw

torch = pytest.importorskip("torch", reason="PyTorch, to compare with, is not installed (pip install torch==2.13.0)")

from tests.support import torch_reference  # noqa: E402  (it needs torch)

STORIES = {case.name: case.build for case in CASES if case.pair == "story"}


def main_job(rng):
    """Three segments at the default sizes."""
    cfg, d = model.Config(V=80), Draw(rng, "float64")
    return (d.params(model.param_shapes(cfg)),), {"cfg": cfg, "ids": d.ids(cfg.V, 2, 3 * cfg.T), "pad": (9, 0)}


@pytest.mark.parametrize("build", [*STORIES.values(), main_job], ids=[*STORIES, "sizes of the main job"])
def test_logits_and_every_gradient_agree(build):
    rng = np.random.default_rng(5)
    (params,), constants = build(rng)
    constants.pop("banks", None)                         # the cut story's are the checker's, not the model's
    logits, cache = model.story_forward(params, **constants)
    dlogits = rng.standard_normal(logits.shape)
    grads = model.story_backward(dlogits, cache)

    leaves = {name: torch.tensor(W, requires_grad=True) for name, W in params.items()}
    expected = torch_reference.story(leaves, torch.tensor(constants["ids"]), constants["cfg"],
                                     constants.get("pad"), constants.get("truncate"))
    expected = expected[:, expected.shape[1] - logits.shape[1]:]
    expected.backward(torch.tensor(dlogits))
    assert distance(logits, expected.detach().numpy()) < 1e-10
    worst = {name: distance(grads[name], leaf.grad.numpy()) for name, leaf in leaves.items()}
    assert max(worst.values()) < 1e-10, worst
    assert set(grads) == set(leaves)


def distance(a, b):
    """The largest difference, relative to the largest entry."""
    assert a.shape == b.shape
    assert abs(b).max() > 0
    return abs(a - b).max() / abs(b).max()
