"""The whole model against PyTorch's autograd: logits and every gradient, in float64."""

import numpy as np
import pytest

from tinylm2 import model
from tinylm2.checking.cases import CASES, Draw
from tinylm2.memories import MEMORIES
from tinylm2.recurrence import story_backward, story_forward

torch = pytest.importorskip("torch", reason="PyTorch, to compare with, is not installed (pip install torch==2.13.0)")

from tests.support import torch_reference  # noqa: E402  (it needs torch)

STORIES = {case.name: case.build for case in CASES if case.pair == "story"}


def main_job(memory):
    """Three segments at the default sizes."""
    def build(rng):
        cfg, d = model.Config(V=80, memory=memory), Draw(rng, "float64")
        ids = d.ids(cfg.V, 2, 3 * cfg.T)
        return (d.params(model.param_shapes(cfg)),), {"cfg": cfg, "ids": ids, "pad": (9, 0)}
    return build


STORIES |= {f"{memory}, sizes of the main job": main_job(memory) for memory in MEMORIES}


def test_the_memories_are_known_in_pytorch():
    """A new memory may go without; the gradient checks and all other tests take it all the same."""
    assert {"lm2", "pooled", "rmt", "window", "none", "full"} <= {*torch_reference.KNOWN} & MEMORIES.keys()


@pytest.mark.parametrize("name", STORIES)
def test_logits_and_every_gradient_agree(name):
    rng = np.random.default_rng(5)
    (params,), constants = STORIES[name](rng)
    if constants["cfg"].memory not in torch_reference.KNOWN:
        pytest.skip(f"memory {constants['cfg'].memory} has no equations in PyTorch")
    constants.pop("states", None)                        # the cut story's are the checker's, not the model's
    logits, cache = story_forward(params, **constants)
    counts = meaningful(logits.shape[1], **constants)
    dlogits = rng.standard_normal(logits.shape) * counts
    grads = story_backward(dlogits, cache)

    leaves = {name: torch.tensor(W, requires_grad=True) for name, W in params.items()}
    expected = torch_reference.story(leaves, torch.tensor(constants["ids"]), constants["cfg"],
                                     constants.get("pad"), constants.get("truncate"))
    expected = expected[:, expected.shape[1] - logits.shape[1]:]
    expected.backward(torch.tensor(dlogits))
    assert distance(logits * counts, expected.detach().numpy() * counts) < 1e-10
    worst = {name: distance(grads[name], leaf.grad.numpy()) for name, leaf in leaves.items()}
    assert max(worst.values()) < 1e-10, worst
    assert set(grads) == set(leaves)


def meaningful(rows, *, ids, cfg, pad=(0, 0), **_):
    """(B, rows, 1): False at the padding of a segment's own memory, which moves the rows there."""
    positions = np.arange(ids.shape[1])[-rows:]
    return (positions >= np.array(pad)[:, None] * (cfg.memories[-1] is not None))[..., None]


def distance(a, b):
    """The largest difference, relative to the largest entry."""
    assert a.shape == b.shape
    assert abs(b).max() > 0
    return abs(a - b).max() / abs(b).max()
