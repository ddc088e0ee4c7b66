"""The checker itself: planted errors are found and named, blind checks are refused."""

from itertools import combinations

import numpy as np
import pytest

from tests.support import fake_cupy
from tinylm2 import gradcheck, ops
from tinylm2.checking.cases import CASES
from tinylm2.gradcheck import Checker, Refused, check_grads

pytestmark = pytest.mark.core


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def failures(forward, backward, *inputs, **constants):
    """What a check finds wrong: argument -> finding."""
    return {f.name: f for f in check_grads(forward, backward, *inputs, **constants).failures}


# ------------------------------------------------------------------------------------------------------- planted errors


def test_a_right_pair_passes_with_an_error_far_below_the_tolerance():
    check = check_grads(ops.rmsnorm_forward, ops.rmsnorm_backward, normal(2, 3, 4), normal(4))
    assert check.passed
    assert check.error < 1e-9
    assert [f.name for f in check.findings] == ["x", "g"]


@pytest.mark.parametrize("directions", [None, 8])
def test_a_factor_of_one_in_ten_thousand_is_found_and_printed(directions):
    def backward(dy, cache):
        dx, dg = ops.rmsnorm_backward(dy, cache)
        return dx * 1.0001, dg

    check = Checker(directions=directions).check(ops.rmsnorm_forward, backward, normal(2, 3, 4), normal(4))
    (finding,) = check.failures
    assert finding.name == "x"
    assert finding.error == pytest.approx(1e-4, rel=1e-3)
    assert "every entry is 1.0001 times" in finding.cause


def test_a_dropped_term_is_found():
    def backward(dy, cache):
        n, r, g = cache
        return dy * g * r, ops.rmsnorm_backward(dy, cache)[1]            # without what r itself does

    found = failures(ops.rmsnorm_forward, backward, normal(2, 3, 4), normal(4))
    assert list(found) == ["x"]
    assert "is a term dropped" in found["x"].cause


def test_a_term_dropped_in_one_place_is_found_there():
    def forward(x):
        return x * x, x

    def backward(dy, x):
        dx = 2 * x * dy
        dx[1, 2] = 0
        return (dx,)

    finding = failures(forward, backward, normal(3, 4))["x"]
    assert finding.index == (1, 2)
    assert finding.analytic == 0 != finding.numeric
    assert "1 of 12 entries are wrong, all at 1 of axis 0 and 2 of axis 1, and zero there" in finding.cause


def test_a_transposed_product_is_found_even_where_the_shapes_fit():
    def backward(dy, cache):
        x, W = cache
        return dy @ W, x.T @ dy                          # dy W where dy W' belongs

    assert list(failures(ops.linear_forward, backward, normal(3, 4), normal(4, 4))) == ["x"]


@pytest.mark.parametrize("width", [4, 5])
def test_a_transposed_gradient_is_called_transposed(width):
    def backward(dy, cache):
        dx, dW = ops.linear_backward(dy, cache)
        return dx, dW.T

    assert "it is transposed" in failures(ops.linear_forward, backward, normal(3, 4), normal(4, width))["W"].cause


def test_the_upstream_has_its_own_random_numbers():
    seen = []
    check_grads(ops.tanh_forward, lambda dy, y: seen.append(dy) or ops.tanh_backward(dy, y), normal(3, 4, seed=0))
    assert not np.isin(seen, normal(3, 4, seed=0)).any()


def mean_forward(x):
    return x.mean(0), x.shape


def test_a_sum_for_a_mean_is_found_and_called_so():
    finding = failures(mean_forward, lambda dy, shape: (np.broadcast_to(dy, shape) + 0,), normal(3, 4))["x"]
    assert "every entry is 3 times" in finding.cause
    assert "a sum where a mean belongs" in finding.cause


def test_a_mean_for_a_sum_is_found_and_called_so():
    def backward(dy, cache):
        dx, dg = ops.rmsnorm_backward(dy, cache)
        return dx, dg / 6                                # 2 x 3 rows

    assert "(1/6): is it a mean where a sum belongs" in failures(
        ops.rmsnorm_forward, backward, normal(2, 3, 4), normal(4))["g"].cause


def test_a_missing_scale_is_named_by_its_root():
    def backward(dy, cache):
        dq, dk, dv = ops.attend_backward(dy, cache)
        return dq * 6**0.5, dk, dv

    found = failures(ops.attend_forward, backward, normal(2, 3, 2, 6), normal(2, 5, 2, 6), normal(2, 5, 2, 6, seed=1))
    assert "sqrt(6)" in found["q"].cause


def bias_forward(x, b):
    return x + b, None


@pytest.mark.parametrize(("db", "cause"), [
    (lambda dy: dy, "shape is (2, 3, 4), expected (4,): a sum over axis 0 and 1 is missing"),
    (lambda dy: dy.sum((0, 1), keepdims=True), "only the shape is not"),
    (lambda dy: -dy.sum((0, 1)), "sign is flipped"),
    (lambda dy: dy.sum((0, 1)).astype("float32"), "it is float32, expected float64"),
    (lambda dy: dy.sum((0, 1)) * np.nan, "4 of 4 entries are not finite"),
    (lambda dy: dy.sum((0, 1)) * 0, "it is zero everywhere"),
    (lambda dy: None, "left out"),
    (lambda dy: np.full(4, dy.sum()), "does not change along axis 0"),
])
def test_the_cause_of_a_wrong_bias_gradient_is_named(db, cause):
    found = failures(bias_forward, lambda dy, _: (dy, db(dy)), normal(2, 3, 4), normal(4))
    assert list(found) == ["b"]
    assert cause in found["b"].cause


def test_swapped_results_are_named():
    def forward(a, b):
        return np.tanh(a) * b, (a, b)

    def backward(dy, cache):
        a, b = cache
        return dy * np.tanh(a), dy * b * (1 - np.tanh(a) ** 2)

    found = failures(forward, backward, normal(3, 4), normal(3, 4, seed=1))
    assert "it is the gradient of b" in found["a"].cause
    assert "it is the gradient of a" in found["b"].cause


@pytest.mark.parametrize("ndim", [6, 7, 32])
def test_what_a_gradient_of_many_axes_may_cost_is_bounded(ndim, monkeypatch):
    """There are 600 million ways to choose 16 of 32 axes."""
    tried = []
    monkeypatch.setattr(gradcheck, "combinations", lambda *args: (tried.append(axes) or axes for axes in combinations(
        *args)))
    n = normal(*[2] * (ndim // 2))
    a = np.stack([n, n], -1).reshape(*n.shape, 2, *[1] * (ndim - n.ndim - 1))
    said = gradcheck.guess_shape(a, n / 2, 1e-6)
    assert len(tried) <= 20
    assert said == ""
    missing = gradcheck.guess_shape(normal(2, 2, 2, 2, 2, 2), normal(2, 2, 2, 2, 2, 2).sum((0, 1, 3, 5)), 1e-6)
    assert missing == ": a sum over axis 0 and 1 and 3 and 5 is missing"


def test_too_few_gradients_are_counted():
    (finding,) = failures(bias_forward, lambda dy, _: (dy,), normal(2, 3, 4), normal(4)).values()
    assert finding.cause == "backward returned 1 gradients, expected a tuple of 2"
    assert finding.name == "x, db"


@pytest.mark.parametrize("who", ["forward", "backward"])
def test_an_input_changed_in_place_is_found(who):
    def forward(x):
        if who == "forward":
            x *= 2
        return x * x, x

    def backward(dy, x):
        dx = 2 * x * dy
        x += 1
        return (dx,)

    x = normal(3, 4)
    (finding,) = failures(forward, backward, x).values()
    assert f"{who} changed x in place" in finding.cause
    np.testing.assert_array_equal(x, normal(3, 4))       # the caller's own array was never at risk


def test_an_upstream_changed_in_place_is_found():
    def backward(dy, x):
        dy *= 2 * x
        return (dy,)

    assert "changed dy0 in place" in failures(lambda x: (x * x, x), backward, normal(3, 4))["dy0"].cause


def test_a_gradient_that_adds_up_over_calls_is_found():
    total = np.zeros((3, 4))

    def backward(dy, x):
        total[...] += 2 * x * dy
        return (total,)

    assert list(failures(lambda x: (x * x, x), backward, normal(3, 4))) == ["x"]


def test_an_answer_remembered_from_an_earlier_call_is_found():
    answers = []

    def backward(dy, x):
        answers.append(2 * x * dy)
        return (answers[0],)

    assert list(failures(lambda x: (x * x, x), backward, normal(3, 4))) == ["x"]


def test_a_gradient_that_is_no_array_is_found():
    (finding,) = failures(bias_forward, lambda dy, _: (dy, 0.5), normal(2, 3, 4), normal(4)).values()
    assert finding.name == "b"
    assert finding.cause.startswith("found a builtins.float, expected an array of numpy.ndarray")


def test_a_failure_names_op_argument_index_and_both_values():
    def backward(dy, cache):
        return ops.rmsnorm_backward(dy, cache)[0], -ops.rmsnorm_backward(dy, cache)[1]

    check = check_grads(ops.rmsnorm_forward, backward, normal(2, 3, 4), normal(4))
    finding = check.failures[0]
    assert f"rmsnorm: dg is wrong; worst at [{finding.index[0]}]" in str(check)
    assert f"backward says {finding.analytic:.9g}" in str(check)
    assert f"central difference {finding.numeric:.9g}" in str(check)


# --------------------------------------------------------------------------------------------------------- blind checks


def softmax_forward(x):
    y = np.exp(x - x.max(-1, keepdims=True))
    y /= y.sum(-1, keepdims=True)
    return y, y


def wrong_softmax_backward(dy, y):
    """Three times too large; but the rows of y always sum to one, so under ones three times zero is zero."""
    return (y * (dy - (dy * y).sum(-1, keepdims=True)) * 3,)


def test_ones_as_upstream_are_blind_where_random_ones_see():
    x = normal(3, 4)
    y, cache = softmax_forward(x)
    np.testing.assert_allclose(wrong_softmax_backward(np.ones_like(y), cache)[0], 0, atol=1e-15)   # "as it must be"
    assert "3 times" in failures(softmax_forward, wrong_softmax_backward, x)["x"].cause


def test_an_argument_that_moves_nothing_is_refused():
    def summed_forward(x):                               # what ones as upstream amount to
        return softmax_forward(x)[0].sum(-1), x.shape

    with pytest.raises(Refused, match="summed: x moves no output"):
        check_grads(summed_forward, lambda dy, shape: (np.zeros(shape),), normal(3, 4))


def test_a_bias_on_every_key_is_known_to_move_nothing_though_rounding_moves_it():
    def forward(q, k, b):
        y, cache = ops.attend_forward(q, k + b, k)
        return y, cache

    def backward(dy, cache):
        dq, dk, dv = ops.attend_backward(dy, cache)
        return dq, dk + dv, dk.sum((0, 1, 2))

    inputs = normal(2, 3, 2, 4), normal(2, 5, 2, 4), normal(4)
    with pytest.raises(Refused, match="b moves no output"):
        check_grads(forward, backward, *inputs)
    assert Checker(zero=("b",)).check(forward, backward, *inputs).passed


def test_a_gradient_declared_zero_must_be_zero():
    def forward(x, unused):
        return x * x, (x, unused)

    def backward(dy, cache):
        x, unused = cache
        return 2 * x * dy, unused

    check = Checker(zero=("unused",)).check(forward, backward, normal(3, 4), normal(2, 3))
    assert [(f.name, f.cause) for f in check.failures] == [("unused", "it must be zero, for unused moves no output")]


def test_an_argument_declared_zero_that_moves_the_outputs_fails():
    check = Checker(zero=("b",)).check(bias_forward, lambda dy, _: (dy, None), normal(2, 3, 4), normal(4))
    assert "it was declared zero, but b moves the outputs" in check.failures[0].cause


def test_a_declaration_of_no_argument_is_refused():
    with pytest.raises(Refused, match="bias is declared, but the arguments are x, b"):
        Checker(zero=("bias",)).check(bias_forward, None, normal(2, 3, 4), normal(4))


def test_one_token_is_refused_unless_declared():
    inputs = normal(2, 1, 2, 4), normal(2, 5, 2, 4), normal(2, 5, 2, 4, seed=1)
    with pytest.raises(Refused, match=r"attend: q has shape \(2, 1, 2, 4\), expected every axis 2 or longer"):
        check_grads(ops.attend_forward, ops.attend_backward, *inputs)
    assert Checker(single=("q",)).check(ops.attend_forward, ops.attend_backward, *inputs).passed


def test_float32_is_refused():
    with pytest.raises(Refused, match="rmsnorm: g is float32, expected float64"):
        check_grads(ops.rmsnorm_forward, ops.rmsnorm_backward, normal(3, 4), normal(4).astype("float32"))


def test_a_forward_that_loses_precision_is_refused():
    with pytest.raises(Refused, match="half: forward made float32 out of float64"):
        check_grads(half_forward, None, normal(3, 4))


def half_forward(x):
    return x.astype("float32"), None


def test_a_forward_that_is_not_finite_is_refused():
    with pytest.raises(Refused, match="forward made numbers that are not finite"):
        check_grads(lambda x: (x * np.inf, x), None, normal(3, 4))


# ------------------------------------------------------------------------------------------------- structured arguments


def gated_forward(p, banks):
    """Two outputs, one of them None; parameters in a dict, banks in a tuple with a hole."""
    y = np.tanh(p["a.W"]) * banks[0]
    return y, (p["a.b"] * banks[0], None), (p, banks[0])


def gated_backward(dy, dbanks, cache):
    p, M = cache
    t = np.tanh(p["a.W"])
    dp = {"a.W": dy * M * (1 - t * t), "a.b": (dbanks[0] * M).sum(0)}
    return dp, (dy * t + dbanks[0] * p["a.b"], None)


GATED = {"a.W": normal(3, 4), "a.b": normal(4, seed=1)}, (normal(3, 4, seed=2), None)


def test_dicts_and_tuples_are_taken_apart_by_name_and_every_output_gets_an_upstream():
    check = check_grads(gated_forward, gated_backward, *GATED)
    assert check.passed, check
    assert [f.name for f in check.findings] == ["p.a.W", "p.a.b", "banks.0"]


def test_a_parameter_left_out_of_the_dict_is_a_zero_gradient_and_wrong():
    def backward(dy, dbanks, cache):
        dp, dM = gated_backward(dy, dbanks, cache)
        del dp["a.b"]
        return dp, dM

    found = failures(gated_forward, backward, *GATED)
    assert list(found) == ["p.a.b"]
    assert "left out" in found["p.a.b"].cause


def test_an_empty_dict_of_gradients_says_zero_for_all():
    found = failures(gated_forward, lambda *args: ({}, gated_backward(*args)[1]), *GATED)
    assert list(found) == ["p.a.W", "p.a.b"]


@pytest.mark.parametrize(("spoil", "cause"), [
    (lambda dp, dM: (dp | {"a.c": dp["a.b"]}, dM), "it names a.c, which p does not"),
    (lambda dp, dM: (dp["a.W"], dM), "it is a ndarray, expected a dict with the keys of p"),
    (lambda dp, dM: (dp, dM[0]), "it is a ndarray, expected a tuple of 2 gradients"),
    (lambda dp, dM: (dp, dM[:1]), "it holds 1 gradients, expected 2"),
    (lambda dp, dM: (dp, (dM[0], dM[0])), "it is given, but banks.1 is None"),
])
def test_gradients_of_another_structure_are_named(spoil, cause):
    (finding,) = failures(gated_forward, lambda *args: spoil(*gated_backward(*args)), *GATED).values()
    assert finding.cause == cause


# --------------------------------------------------------------------------------------------------------------- device


def test_arrays_of_a_device_are_checked_on_it():
    inputs = [fake_cupy.xp.asarray(x) for x in (normal(2, 3, 4), normal(4))]
    here = check_grads(ops.rmsnorm_forward, ops.rmsnorm_backward, *inputs)
    assert here.passed, here
    assert here == check_grads(ops.rmsnorm_forward, ops.rmsnorm_backward, normal(2, 3, 4), normal(4))


# --------------------------------------------------------------------------------------------------------------- report


def test_the_report_returns_zero_when_all_pass(capsys):
    assert gradcheck.report([case for case in CASES if case.part == "op"]) == 0
    assert "17 of 17 pass" in capsys.readouterr().out


def test_the_report_returns_one_and_says_what_failed(capsys, monkeypatch):
    monkeypatch.setattr(ops, "tanh_backward", lambda dy, y: (2 * dy * (1 - y * y),))
    monkeypatch.setattr(ops, "silu_backward", lambda dy, cache: 1 / 0)
    assert gradcheck.report([case for case in CASES if case.part == "op"]) == 1
    out = capsys.readouterr().out
    assert "tanh: dx is wrong" in out
    assert "every entry is 2 times" in out
    assert "silu: ZeroDivisionError" in out
    assert "15 of 17 pass" in out
