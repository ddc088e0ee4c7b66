"""Parameters, gradients and moments are views of one buffer each, and stay so."""

import numpy as np
import pytest

from tests.support import fake_cupy, small
from tinylm2.backend import to_host
from tinylm2.flat import Flat
from tinylm2.model import param_shapes
from tinylm2.recurrence import story_backward, story_forward

pytestmark = pytest.mark.core

SHAPES = {"b": (3,), "W": (2, 4), "g": (5,), "U": (4, 1)}


def flat():
    return Flat(SHAPES, np, "float64")


def assert_whole(flat, shapes):
    """Every number of the buffer belongs to one view, and every view is the buffer's own memory."""
    assert flat.buffer.size == sum(view.size for view in flat.values())
    assert {name: view.shape for name, view in flat.items()} == shapes
    flat.buffer[...] = np.arange(flat.buffer.size)
    assert sorted(np.concatenate([view.ravel() for view in flat.values()])) == list(range(flat.buffer.size))
    for view in flat.values():
        assert np.shares_memory(view, flat.buffer)
        view[...] = -1
    assert (flat.buffer == -1).all()


def test_every_view_is_the_buffers_memory():
    assert_whole(flat(), SHAPES)


def test_every_parameter_and_gradient_is_its_buffers_memory(cfg):
    params, ids = small.params(cfg), small.ids(cfg, 2 * cfg.T)
    logits, cache = story_forward(params, ids=ids, cfg=cfg)
    grads = story_backward(np.ones(logits.shape), cache)
    assert grads.buffer.any()
    assert_whole(grads, param_shapes(cfg))
    assert_whole(params, param_shapes(cfg))


def test_the_matrices_come_first_and_alone(cfg):
    params = small.params(cfg)
    params.buffer[...] = 0
    params.matrices[...] = 1
    for name, W in params.items():
        assert np.all(W == 1 if W.ndim >= 2 else W == 0), name
    assert np.shares_memory(params.matrices, params.buffer)


def test_the_names_keep_their_order():
    assert list(flat()) == list(SHAPES)


def test_rebinding_a_key_is_refused_and_changes_nothing():
    f = flat()
    view = f["W"]
    with pytest.raises(KeyError, match="W: would be detached from the buffer"):
        f["W"] = np.ones((2, 4))
    with pytest.raises(KeyError, match="new: would be detached from the buffer"):
        f["new"] = np.ones(3)
    assert f["W"] is view
    assert not f.buffer.any()


def test_adding_in_place_reaches_the_buffer():
    f = flat()
    f["W"] += 2
    f["g"][...] = 3
    assert f.buffer.sum() == 2 * 8 + 3 * 5


@pytest.mark.parametrize("detach", [
    lambda f: f.update(W=np.ones((2, 4))),
    lambda f: f.__ior__({"W": np.ones((2, 4))}),
    lambda f: f.pop("W"),
    lambda f: f.__delitem__("W"),
    lambda f: f.setdefault("new", np.ones(3)),
    lambda f: f.clear(),
    lambda f: f.popitem(),
], ids=["update", "|=", "pop", "del", "setdefault", "clear", "popitem"])
def test_no_other_way_in_detaches_a_key_either(detach):
    f = flat()
    with pytest.raises(TypeError, match="none can be replaced or removed"):
        detach(f)
    assert_whole(f, SHAPES)


def test_the_same_names_over_another_buffer():
    f = flat()
    moment = np.zeros(f.buffer.size)
    like = f.like(moment)
    assert like.buffer is moment
    assert_whole(like, SHAPES)
    assert not f.buffer.any()


def test_views_share_memory_on_a_device_too():
    f = Flat(SHAPES, fake_cupy.xp, "float32")
    f.buffer[...] = 1.0
    f["U"] += 1
    assert to_host(f.buffer).sum() == f.buffer.size + 4
