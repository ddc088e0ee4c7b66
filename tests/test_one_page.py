"""lm2_on_one_page.py is the library's model: the same loss and the same gradients, in 300 lines of NumPy."""

import ast
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import small
from tinylm2.data.batches import Batch
from tinylm2.model import Config, init_params, param_shapes
from tinylm2.train import loss_and_gradients
from tutorials import lm2_on_one_page as page

FILE = Path(page.__file__)
CFG = Config(V=page.V, D=page.D, L=page.L, H=page.H, G=page.H, F=page.F, N=page.N, T=page.T)
BRIEF = (("A", [2], [16], 0.0, 16, 15, 0.0), ("B", [2, 4], [3 * page.T], 0.7, 8, 15, 0.0))


def stories(length, count=4, gap=0.5):
    rng = random.Random(5)
    return np.array([page.row(rng, facts, length, gap) for facts in (2, 4, 4, 2)[:count]])


def library(params, rows):
    """The library's loss and gradients of rows that are padded on the left until they fill whole segments."""
    pad = -(rows.shape[1] - 1) % CFG.T
    filled = np.pad(rows, ((0, 0), (pad, 0)))
    weights = np.zeros(filled[:, 1:].shape, np.float32)
    weights[:, -page.A:] = 1
    batch = Batch(filled[:, :-1], filled[:, 1:], weights, np.full(len(rows), pad), page.A, ("qa1",) * len(rows))
    loss, _, grads = loss_and_gradients(params, batch, cfg=CFG)
    return loss, grads


def test_the_default_sizes_are_the_librarys():
    assert Config(V=page.V) == CFG


def test_parameters_have_the_librarys_names_shapes_and_start():
    ours, theirs = page.initial_params(0), init_params(CFG, 0)
    assert {name: W.shape for name, W in ours.items()} == param_shapes(CFG)
    for name, W in ours.items():
        assert W.dtype == np.float32
        if W.ndim == 1:
            assert np.array_equal(W, theirs[name]), name
        else:
            assert W.std() == pytest.approx(theirs[name].std(), rel=0.1), name


@pytest.mark.parametrize("length", [3 * page.T, 2 * page.T + 9, page.T, 28], ids=str)
def test_loss_and_every_gradient_are_the_librarys(length):
    """Where the length is no multiple of T, the page's first segment is short and the library's is padded."""
    params, rows = small.params(CFG), stories(length)
    loss, grads = page.loss_and_gradients(dict(params), rows)
    expected_loss, expected = library(params, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert grads.keys() == expected.keys()
    for name, g in expected.items():
        if length > page.T or not name.endswith(("Win", "bin", "Wforget", "bforget")):
            assert abs(g).max() > 1e-6, f"{name}: a gradient of zero shows nothing"
        else:
            grads.setdefault(name, np.zeros_like(g))
        assert grads[name].shape == g.shape
        assert abs(grads[name] - g).max() <= 1e-12 * max(abs(g).max(), 1e-300), name
