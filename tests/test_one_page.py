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


def stories(counts, length=None):
    """One story for each number of facts; without a length they are padded, each by another number of words."""
    rng = random.Random(5)
    return np.array([page.row(rng, count, length, gap=0.5) for count in counts])


def library(params, rows):
    """The library's loss and gradients."""
    weights = np.zeros(rows[:, 1:].shape)
    weights[:, -page.A:] = 1
    pad = (rows == page.NUMBER["[pad]"]).sum(1)
    loss, _, grads = loss_and_gradients(
        params, Batch(rows[:, :-1], rows[:, 1:], weights, pad, page.A, ("qa1",) * len(rows)), cfg=CFG)
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


ROWS = {"3 segments of facts and filler": stories([2, 4, 10], 3 * page.T), "3 segments, padded": stories([12, 13, 14]),
        "2 segments, padded": stories([6, 8, 10, 8]), "1 segment": stories([2, 4], page.T),
        "1 segment, padded": stories([2, 3, 4])}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_loss_and_every_gradient_are_the_librarys(rows):
    params = small.params(CFG)
    loss, grads = page.loss_and_gradients(dict(params), rows)
    expected_loss, expected = library(params, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert grads.keys() == expected.keys()
    for name, g in expected.items():
        written = rows.shape[1] > page.T + 1 or name.rpartition(".")[2] not in ("Win", "bin", "Wforget", "bforget")
        assert (abs(g).max() > 1e-6) == written, f"{name}: a gradient of zero shows nothing"
        assert grads[name].shape == g.shape
        assert abs(grads[name] - g).max() <= 1e-12 * abs(g).max(), name
