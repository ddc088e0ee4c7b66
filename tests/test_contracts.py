"""What every pair promises whatever it computes: inputs left alone, any layout taken, the dtype kept, errors that say.

The pairs are those of tinylm2.checking.cases, where every public one must have its case.
"""

import re

import numpy as np
import pytest

from tests.support import fake_cupy
from tests.support.leaves import leaves, map_arrays
from tinylm2 import backend, layers, ops
from tinylm2.checking.cases import CASES
from tinylm2.memories import lm2, pooled, rmt, window

pytestmark = pytest.mark.core


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


def build(case, dtype="float64"):
    return case.build(np.random.default_rng(0), dtype)


def upstream(y, seed=1):
    """A random gradient at every array of y: an output, or a tuple of them with None where there is no state."""
    rng = np.random.default_rng(seed)
    return map_arrays(lambda a: rng.standard_normal(a.shape).astype(a.dtype), y)


def run(case, inputs, constants):
    """Outputs, and one gradient an input."""
    *outputs, cache = case.forward(*inputs, **constants)
    gradients = case.backward(*upstream(outputs), cache)
    return outputs, gradients if isinstance(gradients, tuple) else (gradients,)      # a story has but one input


def copies(tree):
    return map_arrays(np.copy, tree)


def assert_same(found, expected):
    found, expected = dict(leaves(found)), dict(leaves(expected))
    assert found.keys() == expected.keys()
    for path, x in expected.items():
        assert np.array_equal(found[path], x), path


# --------------------------------------------------------------------------------------------------------------- inputs


def test_inputs_and_upstream_gradients_are_left_as_they_were(case):
    inputs, constants = build(case)
    before = copies((inputs, constants))
    *outputs, cache = case.forward(*inputs, **constants)
    assert_same((inputs, constants), before)
    d_outputs = upstream(outputs)
    d_before = copies(d_outputs)
    case.backward(*d_outputs, cache)
    assert_same((inputs, constants), before)
    assert_same(d_outputs, d_before)


def test_backward_may_be_called_twice(case):
    """Nothing in the cache or the outputs is used up: a lesson may print them between, and ask again."""
    inputs, constants = build(case)
    *outputs, cache = case.forward(*inputs, **constants)
    once = copies(case.backward(*upstream(outputs), cache))
    outputs_then = copies(outputs)
    assert_same(case.backward(*upstream(outputs), cache), once)
    assert_same(outputs, outputs_then)


def test_gradients_share_no_memory_with_inputs_or_cache(case):
    """The caller adds into what it gets."""
    inputs, constants = build(case)
    *outputs, cache = case.forward(*inputs, **constants)
    held = [x for _, x in leaves((inputs, constants, cache))]
    for path, g in leaves(case.backward(*upstream(outputs), cache)):
        assert not any(np.shares_memory(g, x) for x in held), path


def every_second(x):
    """The same numbers, each with a stranger behind it along every axis."""
    wide = np.full([2 * n for n in x.shape], 77).astype(x.dtype)
    wide[tuple([slice(None, None, 2)] * x.ndim)] = x
    return wide[tuple([slice(None, None, 2)] * x.ndim)]


@pytest.mark.parametrize("layout", [every_second, np.asfortranarray, lambda x: np.flip(np.flip(x).copy())],
                         ids=["every second", "Fortran", "backwards"])
def test_arrays_of_any_layout_are_taken(case, layout):
    inputs, constants = build(case)
    expected = dict(leaves(run(case, inputs, constants)))
    found = dict(leaves(run(case, *map_arrays(layout, (inputs, constants)))))
    for path, x in expected.items():
        np.testing.assert_allclose(found[path], x, rtol=1e-11, atol=1e-13, err_msg=path)


def test_upstream_gradients_of_any_layout_are_taken(case):
    inputs, constants = build(case)
    *outputs, cache = case.forward(*inputs, **constants)
    expected = dict(leaves(case.backward(*upstream(outputs), cache)))
    found = dict(leaves(case.backward(*map_arrays(every_second, upstream(outputs)), cache)))
    for path, x in expected.items():
        np.testing.assert_allclose(found[path], x, rtol=1e-11, atol=1e-13, err_msg=path)


# ---------------------------------------------------------------------------------------------------------------- dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_that_comes_in_goes_out(case, dtype):
    """Outputs, gradients and everything in the cache; a turn of RoPE is complex of the same precision."""
    inputs, constants = build(case, dtype)
    *outputs, cache = case.forward(*inputs, **constants)
    gradients = case.backward(*upstream(outputs), cache)
    allowed = {np.dtype(dtype), np.result_type(dtype, np.complex64)}
    for path, x in leaves((outputs, gradients, cache)):
        assert x.dtype in allowed or x.dtype.kind in "ib", f"{path} is {x.dtype}"
    for path, x in leaves((outputs, gradients)):
        assert x.dtype == dtype, path


def test_a_gradient_has_the_shape_of_its_argument(case):
    inputs, constants = build(case)
    shapes = dict(leaves(inputs))
    for path, g in leaves(run(case, inputs, constants)[1]):
        assert g.shape == shapes[path].shape, path


# --------------------------------------------------------------------------------------------------------------- shapes


def test_a_wrong_shape_is_refused_in_one_line_by_the_op_or_is_right_after_all(case):
    """One axis one longer, or one axis more: if that is another right call, its gradients have its shapes."""
    known = {case.pair for case in CASES} | {case.name for case in CASES}                # "write", "window write"
    inputs, constants = build(case)
    for i, x in enumerate(inputs):
        for longer in wrong_shapes(x):
            gradients, refusal = attempt(case, (*inputs[:i], longer, *inputs[i + 1:]), constants)
            if refusal is not None:
                assert re.match(r"[\w ]+", refusal)[0] in known, refusal
                assert re.fullmatch(r"[\w ]+: .+", refusal)
            else:
                shapes = dict(leaves(longer))
                for path, g in leaves(gradients[i]):
                    assert g.shape == shapes[path].shape, path


def attempt(case, inputs, constants):
    """(gradients, None), or (None, what the refusal says)."""
    try:
        return run(case, inputs, constants)[1], None
    except ValueError as error:
        return None, str(error)


def wrong_shapes(x):
    """x with each of its axes one longer, and with one axis more; so each array of a tuple. Dicts stay as they are."""
    if isinstance(x, tuple):
        for i, part in enumerate(x):
            yield from ((*x[:i], longer, *x[i + 1:]) for longer in wrong_shapes(part))
    if isinstance(x, np.ndarray):
        for axis in range(x.ndim):
            yield np.concatenate((x, x[(slice(None),) * axis + (slice(1),)]), axis)
        yield x[None]


def zeros(*shapes):
    return [np.zeros(shape) for shape in shapes]


PAD3 = np.zeros(3, int)
REFUSED = [
    (ops.linear_forward, zeros((2, 4), (3, 5)), {}, "linear: W has shape (3, 5), expected (D, E) with D=4 from x"),
    (ops.embedding_forward, zeros((6,)), {"ids": PAD3}, "embedding: W has shape (6,), expected (V, D)"),
    (ops.rmsnorm_forward, zeros((2, 8), (7,)), {}, "rmsnorm: g has shape (7,), expected (D) with D=8 from x"),
    (ops.rope_forward, zeros((2, 3, 4)), {}, "rope: x has shape (2, 3, 4), expected (B, T, H, K)"),
    (ops.rope_forward, zeros((2, 3, 4, 5)), {}, "rope: x has heads of size 5, expected an even size"),
    (ops.attend_forward, zeros((2, 3, 4, 2), (2, 5, 4, 2), (2, 6, 4, 2)), {},
     "attend: v has shape (2, 6, 4, 2), expected (B, U, G, K) with B=2 from q, U=5 from k, G=4 from k, K=2 from q"),
    (ops.attend_forward, zeros((2, 3, 4, 2), (2, 5, 3, 2), (2, 5, 3, 2)), {},
     "attend: 3 key heads do not divide 4 query heads"),
    (ops.attend_forward, zeros((2, 6, 4, 2), (2, 5, 4, 2), (2, 5, 4, 2)), {"causal": True},
     "attend: 6 causal queries, expected at most 5, the positions of k"),
    (ops.attend_forward, zeros((2, 3, 4, 2), (2, 5, 4, 2), (2, 5, 4, 2)), {"pad": PAD3},
     "attend: pad has shape (3,), expected (B) with B=2 from q"),
    (ops.cross_entropy_forward, zeros((2, 3, 5)), {"targets": np.zeros((2, 3), int), "weights": np.zeros((2, 4))},
     "cross_entropy: targets (2, 3) and weights (2, 4), expected (2, 3) from logits"),
    (layers.self_attention_forward, [*zeros((2, 5, 8)), None, *zeros((8, 15), (8, 8))], {"heads": (4, 2)},
     "self_attention: Wqkv has shape (8, 15), expected (D, 16) with D=8 from n"),
    (layers.self_attention_forward, [*zeros((2, 5, 8)), zeros((3, 5, 2, 2), (3, 5, 2, 2)), *zeros((8, 16), (8, 8))],
     {"heads": (4, 2)},
     "self_attention: past has shape (3, 5, 2, 2), expected (B, U, G, K) with B=2 from k, G=2 from k, K=2 from k"),
    (layers.feed_forward_forward, zeros((2, 8), (8, 11), (6, 8)), {},
     "feed_forward: Wgu has shape (8, 11), expected (D, 12) with D=8 from h"),
    (layers.output_gate_forward, zeros((2, 5, 8), (2, 5, 8), (2, 4, 8), (8, 8), (8,)), {},
     "output_gate: Emem has shape (2, 4, 8), expected (B, T, D) with B=2 from x, T=5 from x, D=8 from x"),
    (lm2.cross_attention_forward, zeros((2, 5, 8), (2, 3, 7), (8, 8), (8, 8), (8, 8)), {"heads": 2},
     "cross_attention: Mn has shape (2, 3, 7), expected (B, N, D) with B=2 from n, D=8 from n"),
    (lm2.write_attention_forward, zeros((2, 5, 2, 2), (2, 5, 2, 2), (8, 15), (8, 8)), {"heads": (4, 2), "slots": 3},
     "write_attention: Wqkv has shape (8, 15), expected (D, 16)"),
    (lm2.memory_update_forward, zeros((2, 3, 8), (2, 4, 8), (8, 8), (8,), (8, 8), (8,)), {},
     "memory_update: M has shape (2, 4, 8), expected (B, N, D) with B=2 from R, N=3 from R, D=8 from R"),
    (pooled.write_forward, [[*zeros((2, 5, 8), (2, 5, 8)), None, None], zeros((2, 3, 8)), {}],
     {"cfg": None, "pad": PAD3}, "pooled write: pad has shape (3,), expected (B) with B=2 from n"),
    (window.write_forward,
     [[None, None, *zeros((2, 5, 2, 4), (2, 5, 2, 4))], [*zeros((2, 3, 1, 4), (2, 3, 1, 4)), None], {}], {"cfg": None},
     "window write: old_k has shape (2, 3, 1, 4), expected (B, U, G, K) with B=2 from k, G=2 from k, K=4 from k"),
    (window.write_forward,
     [[None, None, *zeros((2, 5, 2, 4), (2, 5, 2, 4))], [*zeros((2, 3, 2, 4), (2, 4, 2, 4)), None], {}], {"cfg": None},
     "window write: old_v has shape (2, 4, 2, 4), expected (B, U, G, K) with B=2 from k, U=3 from old_k, G=2 from k, "
     "K=4 from k"),
    (rmt.enter_forward, [*zeros((2, 5, 8)), zeros((2, 3, 7))], {"cfg": None},
     "rmt enter: M has shape (2, 3, 7), expected (B, N, D) with B=2 from x, D=8 from x"),
]


@pytest.mark.parametrize(("forward", "inputs", "constants", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_an_error_names_the_op_the_argument_and_the_shapes(forward, inputs, constants, said):
    with pytest.raises(ValueError, match="^" + re.escape(said) + "$"):
        forward(*inputs, **constants)


def test_arrays_of_two_devices_do_not_meet_in_one_op():
    with pytest.raises(TypeError, match="arrays of numpy and of fake_cupy in one operation"):
        ops.rmsnorm_forward(np.zeros((2, 4)), backend.to_device(np.ones(4), fake_cupy.xp))
