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


STORIES |= {f"{memory}, sizes of the main job": main_job(memory) for memory in MEMORIES
            if memory not in torch_reference.torch_gallery.MEMORIES}     # their loops over tokens take minutes


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


CONFIGURATIONS = 24                                      # `python -m tests.full configurations` takes 300


@pytest.mark.parametrize("seed", range(CONFIGURATIONS))
def test_a_random_configuration_agrees(seed):
    """Any memory, heads, groups, sizes, padding, tail, truncation, computed again or not: one model, one answer."""
    worst, constants = disagreement(np.random.default_rng([18, seed]), tuple(MEMORIES)[seed % len(MEMORIES)])
    assert worst < 1e-10, constants


def test_a_disagreement_is_seen(monkeypatch):
    """The comparison itself: an error of a thousandth in one memory's reading is found in every configuration."""
    first, read, write = torch_reference.torch_gallery.MEMORIES["infini"]
    monkeypatch.setitem(torch_reference.torch_gallery.MEMORIES, "infini",
                        (first, lambda *given: 1.001 * read(*given), write))
    found = [disagreement(np.random.default_rng([18, seed]), "infini", segments=3)[0] for seed in range(3)]
    assert min(found) > 1e-6


def configuration(rng, memory, segments=None):
    """A random small Config and the constants of a story."""
    def draw(low, high):
        return int(rng.integers(low, high + 1))

    while True:
        H, K, L, T = draw(1, 4), 2 * draw(1, 3), draw(1, 3), draw(1, 7)
        G = int(rng.choice([g for g in range(1, H + 1) if H % g == 0]))
        blocks = None if draw(0, 1) or segments else tuple(i for i in range(L) if draw(0, 1))
        try:
            cfg = model.Config(V=draw(3, 12), D=H * K, L=L, H=H, G=G, F=draw(1, 12), N=draw(1, 8), T=T, memory=memory,
                               tied=bool(draw(0, 1)), memory_blocks=blocks)
        except ValueError:                               # a memory asks for more: another one is drawn
            continue
        length = draw(1, 4 * T) if segments is None else segments * T
        tail = length - (length - 1) // T * T
        ids = rng.integers(0, cfg.V, (2, length))
        pad = rng.integers(0, min(T, length), 2) if draw(0, 1) else None
        return cfg, {"ids": ids, "cfg": cfg, "pad": pad, "last": draw(1, tail) if draw(0, 1) else None,
                     "truncate": draw(1, 3) if draw(0, 2) == 0 and not segments else None,
                     "recompute": bool(draw(0, 1))}


def disagreement(rng, memory, segments=None):
    """The largest difference of logits and gradients from PyTorch's in a random configuration, and its constants."""
    cfg, constants = configuration(rng, memory, segments)
    params = Draw(rng, "float64").params(model.param_shapes(cfg))
    logits, cache = story_forward(params, **constants)
    counts = meaningful(logits.shape[1], **{**constants, "pad": (0, 0) if constants["pad"] is None else
                                            constants["pad"]})
    dlogits = rng.standard_normal(logits.shape) * counts
    grads = story_backward(dlogits, cache)
    leaves = {name: torch.tensor(W, requires_grad=True) for name, W in params.items()}
    expected = torch_reference.story(leaves, torch.tensor(constants["ids"]), cfg, constants["pad"],
                                     constants["truncate"])
    expected = expected[:, expected.shape[1] - logits.shape[1]:]
    expected.backward(torch.tensor(dlogits))
    pairs = [(logits * counts, expected.detach().numpy() * counts)]
    pairs += [(grads[name], np.zeros_like(grads[name]) if leaf.grad is None else leaf.grad.numpy())
              for name, leaf in leaves.items()]
    # gradients that are nothing but rounding (of keys where there is one token) are measured as if they were 0.001
    return max(abs(a - b).max() / max(abs(b).max(), 1e-3) for a, b in pairs), constants


def meaningful(rows, *, ids, cfg, pad=(0, 0), **_):
    """(B, rows, 1): False at the padding of a segment's own memory, which moves the rows there."""
    positions = np.arange(ids.shape[1])[-rows:]
    return (positions >= np.array(pad)[:, None] * (cfg.memories[-1] is not None))[..., None]


def distance(a, b):
    """The largest difference, relative to the largest entry."""
    assert a.shape == b.shape
    assert abs(b).max() > 0
    return abs(a - b).max() / abs(b).max()
