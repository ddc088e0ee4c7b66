"""Assignment 1: the checker, and a first pair to check."""

import numpy as np

from tutorials.assignments import feedback, trying
from tutorials.assignments.checks import ROUNDS, Assignment, Pair, Test, Unit, call
from tutorials.assignments.context import curve

# -------------------------------------------------------------------------------------------------- central_differences


def _drawn(ctx, eps, entries=False):
    """Arguments of the call `slopes`: a curve, a place on it, and moves."""
    d = ctx.draw()
    shape = tuple(d.lengths("TD"))
    moves = np.eye(shape[0] * shape[1]).reshape(-1, *shape) if entries else d(4, *shape)
    return {"weights": d(3, *shape), "x": d(*shape), "moves": list(moves), "eps": eps}


def _differences_are_right(ctx):
    for _ in range(ROUNDS):
        draws = [_measured(ctx), _measured(ctx)]
        arguments, found, truth = draws[0]
        letters = [dict(zip("TD", one["x"].shape, strict=True), eps=one["eps"]) for one, _, _ in draws]
        how = feedback.How(letters[0], again={"slopes": draws[1][1:]}, letters_again=letters[1])
        text = feedback.array("slopes", found, truth, how)
        if text:
            yield from feedback.explanations(trying.explain(*map(_slope_trial, draws)))
            yield from _where_it_looked(arguments, ctx.student("slopes", **arguments)["seen"])
            if np.shape(found) == (4,) and np.allclose(found, 2 * truth):
                text = "slopes is wrong by the factor 2: the two places are 2 eps apart"
            yield text
            return


def _measured(ctx):
    """(arguments, the student's slopes, the right ones)"""
    arguments = _drawn(ctx, 1e-4)
    return arguments, ctx.student("slopes", **arguments)["slopes"], ctx.truth("slopes", **arguments)["slopes"]


def _slope_trial(draw):
    arguments, found, truth = draw

    def measured(function):
        x = arguments["x"].copy()
        return {"slopes": function(lambda: curve(arguments["weights"], x), x, arguments["moves"],
                                   eps=arguments["eps"])}

    runs = ((text, lambda function=function: measured(function))
            for text, function in trying.changed("central_differences"))
    return runs, {"slopes": found}, {"slopes": truth}


def _where_it_looked(arguments, seen):
    """f must be asked on both sides of x, eps times a move away."""
    x, eps, move = arguments["x"], arguments["eps"], arguments["moves"][0]

    def asked_at(way):
        return any(np.allclose(place, x + way * eps * move, rtol=0, atol=1e-3 * eps) for place in seen)

    if asked_at(1) != asked_at(-1):
        yield (f"f was never asked at x {'-' if asked_at(1) else '+'} eps move: a one-sided difference is off by eps "
               "times the curvature")
    elif not asked_at(1):
        yield "f was never asked at x + eps move" + next(
            (f", but at x + {way:g} eps move" for way in (2, 0.5) if asked_at(way)), "")


def _after_being_right(look):
    """A test that gives no points as long as the slopes of a plain curve are wrong."""
    def check(ctx):
        arguments = _drawn(ctx, 1e-4)
        found, truth = ctx.student("slopes", **arguments), ctx.truth("slopes", **arguments)
        if feedback.array("slopes", found["slopes"], truth["slopes"]):
            yield "not judged yet: its slopes must be right first"
        else:
            yield from look(ctx)
    return check


@_after_being_right
def _x_is_put_back(ctx):
    arguments = _drawn(ctx, 1e-5)
    x = ctx.student("slopes", **arguments)["x"]
    if not np.array_equal(x, arguments["x"]):
        away = abs(x - arguments["x"]).max()
        yield (f"x is not what it was: some entry moved by {away:.1e}" + (
            "; adding and subtracting eps does not lead back to the bit, a copy does" if away < 1e-9 else ""))


@_after_being_right
def _any_layout(ctx):
    arguments = _drawn(ctx, 1e-4, entries=True)
    found, truth = ctx.student("slopes", **arguments, layout="strided"), ctx.truth("slopes", **arguments)
    if text := feedback.array("slopes", found["slopes"], truth["slopes"]):
        yield f"{text} (x is not contiguous in memory: is it x that is moved, or a copy?)"


@_after_being_right
def _eps_as_told(ctx):
    arguments = _drawn(ctx, 0.25)
    found, truth = ctx.student("slopes", **arguments), ctx.truth("slopes", **arguments)
    if text := feedback.array("slopes", found["slopes"], truth["slopes"]):
        yield f"{text} (with eps = 0.25: is another eps built in?)"


DIFFERENCES = [Test("central_differences", *test) for test in (
    ("right, on a curve", 12, _differences_are_right), ("x is put back", 5, _x_is_put_back),
    ("any layout of x", 4, _any_layout), ("eps as told", 4, _eps_as_told))]

# ---------------------------------------------------------------------------------------------------------- worst_entry


def _worst(ctx, analytic, slopes, *scale):
    """(error, index) of the student's, made plain, and of the library's; or a line that says what it is instead."""
    arguments = {"file": "gradcheck", "name": "worst_entry", "arguments": (analytic, slopes, *scale)}
    found, truth = ctx.student("called", **arguments), ctx.truth("called", **arguments)
    if not isinstance(found, tuple) or len(found) != 2:
        return f"it returned {feedback.kind(found)}, expected a tuple: error, index", truth
    error, index = found
    if np.ndim(error) or not isinstance(error, float | int | np.ndarray):
        return f"error is {feedback.kind(error)}, expected one number", truth
    if not isinstance(index, tuple | list) or len(index) != np.ndim(slopes):
        return f"index is {feedback.kind(index)}, expected a tuple of {np.ndim(slopes)} whole numbers", truth
    return (float(error), tuple(int(i) for i in index)), truth


def _worst_is_right(ctx, scale=()):
    d = ctx.draw()
    shape = d.lengths("TD")
    slopes = d(*shape, std=3)
    slopes.flat[d.number(0, slopes.size - 1)] = -12.5    # the largest is negative: its sign must not matter
    tried = []
    for sign in (1, -1):                                 # farthest above, then farthest below
        analytic = slopes + d(*shape, std=0.1)
        analytic.flat[d.number(0, slopes.size - 1)] += 2 * sign
        found, truth = _worst(ctx, analytic, slopes, *scale)
        if isinstance(found, tuple):
            tried.append(_worst_trial(found, truth, analytic, slopes, *scale))
        if isinstance(found, str):
            yield found
        elif found[1] != truth[1]:
            number = np.ravel_multi_index(truth[1], slopes.shape)
            if found[1] == np.unravel_index(number, slopes.shape[::-1]):
                yield (f"index is wrong: {found[1]} counts to the entry {number} along axes of another order, "
                       f"expected {truth[1]} in an array {slopes.shape}")
            yield from feedback.explanations(trying.explain(*tried[-1:]))
            yield (f"index is wrong: {found[1]}, expected {truth[1]}, where analytic is farthest "
                   f"{'above' if sign > 0 else 'below'} the slopes" + ("" if sign > 0 else ": is abs missing?"))
        elif text := feedback.array("error", np.float64(found[0]), np.float64(truth[0])):
            away = abs(analytic - slopes)[found[1]]
            yield from feedback.explanations(trying.explain(*tried[-1:]))
            yield text + (": is it relative to the scale?" if np.isclose(found[0], away) else
                          ": is it relative to the slope there, and not to the largest?"
                          if np.isclose(found[0], away / abs(slopes[found[1]])) else "")
        else:
            continue
        return


def _worst_trial(found, truth, *arguments):
    """For `trying.explain`: a worst_entry with a mistake, asked the same."""
    def named(result):
        return {"error": np.float64(result[0]), "index": np.array(result[1])}

    runs = ((text, lambda function=function: named(function(*arguments)))
            for text, function in trying.changed("worst_entry"))
    return runs, named(found), named(truth)


def _nan_is_infinite(ctx):
    d = ctx.draw()
    slopes = d(3, 4)
    analytic = slopes.copy()
    found, truth = _worst(ctx, analytic + 1, slopes)
    if found != truth:
        yield "not judged yet: it must be right on numbers first"
        return
    analytic[1, 2] = np.nan
    found, truth = _worst(ctx, analytic, slopes)
    if isinstance(found, str) or found != truth:
        said = found[0] if isinstance(found, tuple) else found
        yield (f"with a NaN at [1, 2], error is {said}, expected inf: compared with a tolerance, a NaN is neither "
               "above nor below")


WORST = [Test("worst_entry", *test) for test in (
    ("right", 8, _worst_is_right), ("relative to a scale", 3, lambda ctx: _worst_is_right(ctx, (0.5,))),
    ("NaN", 4, _nan_is_infinite))]

# --------------------------------------------------------------------------------------------------------------- linear


def _rows(*letters):
    def draw(d):
        *lead, D, E = d.lengths((*letters, "D", "E"))
        return call(d(*lead, D), d.W(D, E))
    return draw


LINEAR = Pair("ops", "linear", ("y",), draws={"plain": _rows("B", "T"), "one axis of rows": _rows("R"),
                                              "more axes": _rows("B", "T", "H"),
                                              "large": lambda d: call(d(4, 64, 640), d.W(640, 256))})

ASSIGNMENT = Assignment("a1", "the checker, and a first pair", (
    Unit(("gradcheck.central_differences", "gradcheck.worst_entry"), (*DIFFERENCES, *WORST)),
    Unit(LINEAR.functions, (
        LINEAR.right("plain", 11), LINEAR.right("one axis of rows", 4), LINEAR.keeps_contract(5),
        LINEAR.right_back("plain", 24), LINEAR.right_back("one axis of rows", 4), LINEAR.right_back("more axes", 5),
        LINEAR.keeps_contract_back(7))),
), needs=("gradcheck.check_grads",))
