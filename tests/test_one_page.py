"""tutorials/lm2_on_one_page.py is the library's model, loss and optimizer, and still fits on one page."""

import ast
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import small
from tinylm2.data import Batch
from tinylm2.flat import Flat
from tinylm2.model import Config, init_params, param_shapes
from tinylm2.optim import AdamW, clip
from tinylm2.training.step import loss_and_gradients
from tutorials import lm2_on_one_page as page

CFG = Config(V=page.V)                                   # the library's defaults
BRIEF = (("A", [2], [None], 0.0, 8, 15, 0.0), ("B", [2, 4], [2 * page.T, 3 * page.T], 0.7, 8, 15, 0.0))


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


# ------------------------------------------------------------------------------------------------------------- the page


def test_it_is_one_page():
    lines = Path(page.__file__).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300
    assert max(map(len, lines)) <= 120


def test_it_imports_numpy_and_the_standard_library_only():
    imported = set()
    for node in ast.walk(ast.parse(Path(page.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert "numpy" in imported
    assert imported - {"numpy"} <= sys.stdlib_module_names


# ---------------------------------------------------------------------------------------------------------- the stories


@pytest.mark.parametrize("segments", [None, 2, 4])
def test_a_story_ends_with_the_place_where_the_person_went_last(segments):
    rng = random.Random(0)
    for count in (2, 4, 10):
        for _ in range(50):
            row = page.row(rng, count, segments and segments * page.T, gap=0.5)
            words = [page.WORDS[number] for number in row]
            assert (len(row) - 1) % page.T == 0
            if segments:
                assert len(row) == segments * page.T + 1
                assert "[pad]" not in words
            *text, _, _, person, answer, end = words
            assert end == "[end]"
            last = len(text) - 1 - text[::-1].index(person)
            assert next(word for word in text[last:] if word in page.PLACES) == answer
            assert sum(word in page.PEOPLE for word in text) == count


# ------------------------------------------------------------------------------------------------------------ the model


def test_sizes_are_the_librarys_defaults():
    assert Config(V=page.V, D=page.D, L=page.L, H=page.H, G=page.H, F=page.F, N=page.N, T=page.T) == CFG
    assert page.K == CFG.K


def test_parameters_have_the_librarys_names_shapes_and_distributions():
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


# --------------------------------------------------------------------------------------------------------- the training


@pytest.mark.parametrize("size", [0.01, 1.0], ids=["not clipped", "clipped"])
def test_steps_of_the_optimizer_are_the_librarys(size):
    theirs = small.params(CFG)
    ours = {name: W.copy() for name, W in theirs.items()}
    moments = {name: np.zeros((2, *W.shape)) for name, W in ours.items()}
    optimizer, rng = AdamW(theirs), np.random.default_rng(0)
    for step in (1, 2, 3):
        grads = Flat(param_shapes(CFG), np, "float64")
        grads.buffer[...] = rng.normal(0, size, grads.buffer.shape) / grads.buffer.size**0.5
        page.adamw(ours, {name: step * 2 * g for name, g in grads.items()}, moments, step, rate=0.01)
        grads.buffer *= step * 2
        clip(grads, 1.0)
        optimizer.step(theirs, grads, 0.01)
    for name, W in theirs.items():
        assert abs(ours[name] - W).max() <= 1e-10, name


def test_thirty_steps_lower_the_loss_and_repeat_bit_for_bit(capsys):
    params, losses = page.train(0, BRIEF)
    again, same = page.train(0, BRIEF)
    assert losses == same
    assert all(np.array_equal(again[name], W) for name, W in params.items())
    assert all(W.dtype == np.float32 for W in params.values())
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < losses[0] - 1


def test_an_answer_is_right_when_the_place_and_the_end_are(monkeypatch):
    """Logits that name the right place always and the end every other time."""
    calls = []

    def story_forward(params, ids):
        calls.append(ids.shape)
        logits = np.zeros((1, page.A, page.V))
        logits[0, 0, ids[0, -1]] = 1                     # the answer, which the model reads to predict the end
        logits[0, 1, page.NUMBER["[end]" if len(calls) % 2 else "the"]] = 1
        return logits, None

    monkeypatch.setattr(page, "story_forward", story_forward)
    assert page.accuracy(None, random.Random(0), 4, questions=10) == 0.5
    assert calls == [(1, 4 * page.T)] * 10
