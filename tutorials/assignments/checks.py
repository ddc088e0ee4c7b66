"""What an assignment consists of, and the tests that every pair goes through.

A test draws arguments, makes the same call with the student's functions and with the library's, and yields a line for
everything that is wrong. No line means that the test is passed. Where something else must be right first, the test says
so and gives no points.
"""

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from tinylm2.model import Config
from tutorials.assignments import feedback, trying
from tutorials.assignments.client import Failed, Gone
from tutorials.assignments.context import TRUTH, Context, mapped

ROUNDS = 2                                               # random shapes per test
OWN_FORWARD = 0.75                                       # of the points: a backward right for a forward that is wrong
DIRECTIONS = 4                                           # along which the slopes of such a forward are measured
SLOWEST = 2.0, 100                                       # seconds for large arrays, or so often the library's own


@dataclass(frozen=True)
class Test:
    """Some points for one function."""

    function: str
    title: str
    points: int
    check: Callable[[Context], Iterator[str]]


@dataclass(frozen=True)
class Unit:
    """Functions that are examined together, in one worker: a pair shares its cache."""

    functions: tuple[str, ...]
    tests: tuple[Test, ...]


@dataclass(frozen=True)
class Assignment:
    """hidden: parts of the library that would give a solution away.  needs: what the check and the calls use of the
    library, beside what the functions themselves use."""

    name: str
    subject: str
    units: tuple[Unit, ...]
    hidden: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    variants: tuple = ()                                 # what differs from the library: see variants.py

    @property
    def title(self):
        return f"Assignment {self.name[1:]}"

    @property
    def functions(self):
        return tuple(function for unit in self.units for function in unit.functions)

    @property
    def points(self):
        return sum(test.points for unit in self.units for test in unit.tests)


# ------------------------------------------------------------------------------------------------------- tests of pairs


@dataclass(frozen=True)
class Pair:
    """A pair of the library and how to examine it.

    draws: by their names, how to draw (inputs, constants). A gradient that is right for "plain" must be right for
    "large", too. Those arrays are so large that a backward is stopped which evaluates its forward once for every
    number, in real or in complex steps. questions: what to
    ask where a constant factor is found. looks: by a draw's name, functions (ctx, pair, inputs, constants) that yield
    a symptom of a wrong output where they see one; looks_back: functions (ctx, pair, inputs, constants, upstreams,
    gradients) that do so for gradients. unasked: upstream gradients that are None in a draw, by their places.
    """

    file: str
    name: str
    outputs: tuple[str, ...]
    draws: dict[str, Callable]
    questions: dict[str, str] = field(default_factory=dict)
    looks: dict[str, tuple[Callable, ...]] = field(default_factory=dict)
    looks_back: tuple[Callable, ...] = ()
    unasked: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def forward(self):
        return f"{self.name}_forward"

    @property
    def backward(self):
        return f"{self.name}_backward"

    @property
    def functions(self):
        return f"{self.file}.{self.forward}", f"{self.file}.{self.backward}"

    def names(self, inputs):
        """What the differentiable arguments are called."""
        return list(inspect.signature(getattr(TRUTH[self.file], self.forward)).parameters)[:len(inputs)]

    def call(self, inputs, constants, **more):
        """What the calls `forward` and `pair` ask for."""
        return {"file": self.file, "name": self.name, "inputs": tuple(inputs), "constants": constants, **more}

    def drawn(self, ctx, title, dtype="float64"):
        """(draw, inputs, constants, upstreams) for one of the draws."""
        draw = ctx.draw(dtype)
        inputs, constants = self.draws[title](draw)
        constants = {key: asdict(x) if isinstance(x, Config) else x for key, x in constants.items()}
        right = ctx.truth("forward", **self.call(inputs, constants))
        upstreams = mapped(lambda y: draw(*y.shape), right["outputs"])
        upstreams = tuple(None if i in self.unasked.get(title, ()) else dy for i, dy in enumerate(upstreams))
        return draw, inputs, constants, upstreams

    def right(self, title, points):
        """Are the forward's outputs right on random shapes? If not, with which symptoms?"""
        return Test(self.forward, f"right, {title}", points, partial(self._right, title))

    def _right(self, title, ctx):
        for _ in range(ROUNDS):
            found, truth, drawn = self._both(ctx, title)
            draw, inputs, constants, _ = drawn
            if any(feedback.outputs(self.outputs, found["outputs"], truth["outputs"])):
                first, varied = (found, truth, drawn), self._varied(ctx)
                if not self._named(*first, False):       # what is no array of the right shape is not looked at further
                    yield from feedback.outputs(self.outputs, found["outputs"], truth["outputs"],
                                                feedback.How(draw.letters))
                    return
                draws = [first, self._both(ctx, title)]
                looks = ignored_arguments, ignored_constants, *(() if varied else self.looks.get(title, ()))
                if varied:
                    yield from self._is_the_librarys(found["outputs"], inputs, constants)
                yield from self._mistake(ctx, draws)
                yield from _first_to_speak(look(ctx, self, inputs, constants) for look in looks)
                yield from feedback.outputs(self.outputs, found["outputs"], truth["outputs"], self._how(draws))
                return

    def _varied(self, ctx):
        """The variant that is asked for in the place of the library's pair, or None."""
        return next((variant for variant in ctx.variants if variant.name == self.name), None)

    def _is_the_librarys(self, found, inputs, constants):
        """A student may have written what a lesson says."""
        right = getattr(TRUTH[self.file], self.forward)(*inputs, **constants)[0]
        if feedback.same(np.asarray(found[0]), right):
            yield f"{self.outputs[0]} is what the lessons' equation gives; the sheet asks for another one"

    def _both(self, ctx, title):
        """The outputs of a draw: the student's, the right ones, and the draw itself."""
        drawn = self.drawn(ctx, title)
        arguments = self.call(*drawn[1:3])
        return ctx.student("forward", **arguments), ctx.truth("forward", **arguments), drawn

    def _how(self, draws, gradients=False):
        """What helps `feedback` to name a factor: the same results of a second draw."""
        (_, _, first), (found, truth, second) = draws
        both = self._named(found, truth, second, gradients)
        return feedback.How(first[0].letters, self.questions, again={
            name: (a, both[1][name]) for name, a in both[0].items()} if both else {}, letters_again=second[0].letters)

    def _named(self, found, truth, drawn, gradients):
        """({name: array} of the student's results, and of the right ones), or None where they cannot be compared."""
        if gradients:
            return feedback.by_name(self.names(drawn[1]), drawn[1], found["gradients"], truth["gradients"])
        ys, ns = found["outputs"], truth["outputs"]
        fit = len(ys) == len(ns) and all(isinstance(n, np.ndarray) and np.shape(y) == n.shape
                                         for y, n in zip(ys, ns, strict=True))
        return tuple(dict(zip(self.outputs, map(np.asarray, some), strict=True)) for some in (ys, ns)) if fit else None

    def _mistake(self, ctx, draws, gradients=False, given=False):
        """The lines that say which mistake gives these results, where `trying` finds one."""
        if self._varied(ctx):                            # what it knows is the library's equation
            return []
        return ctx.once(self.backward if gradients else self.forward, lambda: list(feedback.explanations(
            trying.explain(*self._trials(draws, gradients, given)))))

    def _trials(self, draws, gradients=False, given=False):
        """(runs, found, right) of each draw, for `trying.explain`."""
        trials = []
        for found, truth, drawn in draws:
            both = self._named(found, truth, drawn, gradients)
            if not both or not hasattr(trying.plain, self.backward if gradients else self.forward):
                return []
            runs = self._runs_back if gradients else self._runs
            trials.append((runs(truth, *drawn[1:], given), *both))
        return trials

    def _runs(self, truth, inputs, constants, upstreams, given):
        trying.locked((inputs, constants))
        return trying.of_forward(self.forward, inputs, constants,
                                 lambda ys: dict(zip(self.outputs, map(np.asarray, ys), strict=True)))

    def _runs_back(self, truth, inputs, constants, upstreams, given):
        names = self.names(inputs)
        real = {key: Config(**x) if key == "cfg" else x for key, x in constants.items()}
        cache: Any = getattr(TRUTH[self.file], self.forward)(*inputs, **real)[-1] if given else self.forward

        def gradients(results):
            both = feedback.by_name(names, inputs, results, truth["gradients"])
            return both[0] if both else {}

        return trying.of_backward(self.backward, cache, inputs, real, upstreams, gradients, truth["outputs"])

    def right_back(self, title, points, *, given=False):
        """Are the backward's gradients right on random shapes? given: the forward is the library's."""
        return Test(self.backward, f"right, {title}", points, partial(self._right_back, title, given))

    def _right_back(self, title, given, ctx):
        for name in [title] * ROUNDS + ["large"] * (title == "plain"):
            found, truth, drawn = self._both_back(ctx, name, given)
            draw, inputs, constants, upstreams = drawn
            variant = self._varied(ctx)
            if variant and name == "large":
                yield from self._along_directions(variant, found, drawn)
                return
            if not given and any(feedback.outputs(self.outputs, found["outputs"], truth["outputs"])):
                yield from self._by_its_own_forward(ctx, title)
                return
            if any(feedback.gradients(self.names(inputs), inputs, found["gradients"], truth["gradients"])):
                ctx.share = self._share(found, truth, drawn)
                small = name != "large"                  # right on small arrays: there is no need to try
                first = found, truth, drawn
                fits = small and self._named(*first, True)
                draws = [first, self._both_back(ctx, name, given) if fits else first]
                explained = self._mistake(ctx, draws, True, given) if small else []
                looks = ignored_upstreams, *(() if variant else self.looks_back), one_story_alone
                said = _first_to_speak(look(ctx, self, inputs, constants, upstreams, found["gradients"])
                                       for look in looks)
                if title != "plain" and not explained:
                    yield from self._only_here(ctx, title, given)
                if small and not explained and not said:
                    said = self._known(ctx, given, (found, truth, drawn))
                yield from explained
                yield from said
                wrong = feedback.gradients(self.names(inputs), inputs, found["gradients"], truth["gradients"],
                                           self._how(draws, True))
                yield from sorted(wrong, key=lambda text: "zero everywhere" not in text)     # it explains the others
                return

    def _along_directions(self, variant, found, drawn):
        """Are the gradients of large arrays right along random directions?"""
        draw, inputs, constants, (dy,) = drawn
        for i, (name, x) in enumerate(zip(self.names(inputs), inputs, strict=True)):
            move = draw.rng.choice((-1.0, 1.0), x.shape)
            gradients = found["gradients"] if len(inputs) > 1 or isinstance(found["gradients"], tuple) else (
                found["gradients"],)                     # a lone gradient needs no tuple around it
            a = gradients[i] if isinstance(gradients, tuple) and len(gradients) == len(inputs) else None
            if getattr(a, "shape", None) != x.shape:
                yield f"d{name} has not the shape {x.shape}"
                continue
            slope, said = variant.slope(i, move, inputs, constants, dy), float((a * move).sum())
            if not abs(said - slope) <= 1e-9 * (np.sqrt((a**2).sum()) + abs(slope)):
                yield (f"d{name} is wrong for large arrays: along a random direction it gives {said:.6g}, expected "
                       f"{slope:.6g}")

    def _share(self, found, truth, drawn):
        """The part of the gradients that is right. One that is wrong by a constant factor, or by its sign, counts half;
        one that only hands an upstream on, or must be zero, counts nothing."""
        _, inputs, _, upstreams = drawn
        both = feedback.by_name(self.names(inputs), inputs, found["gradients"], truth["gradients"], strict=False)
        if not both:
            return 0.0
        counted = [name for name, n in both[1].items() if n.any() and not any(
            isinstance(dy, np.ndarray) and dy.shape == n.shape and feedback.same(n, dy) for dy in upstreams)]
        right = 0.0
        for name, a in both[0].items():
            if name in counted and isinstance(a, np.ndarray):
                n = both[1][name]
                right += 1.0 if feedback.same(a, n) else 0.5 if feedback.factor_of(a, n) is not None else 0.0
        return right / len(counted) if counted else 0.0

    def _by_its_own_forward(self, ctx, title):
        """A backward whose forward is wrong: is it right for that forward? Then its derivation is, and most points are
        given. Large arrays must end in their time all the same."""
        shares = []
        for name in [title] * ROUNDS + ["large"] * (title == "plain"):
            both = self._both_back(ctx, name, False)
            if name == "large":                          # it ended in its time, and that is what is asked here
                break
            share, wrong = self._own_share(ctx, both)
            shares.append(share)
            if wrong:
                yield wrong
                break
        ctx.share = OWN_FORWARD * min(shares)
        if ctx.share == OWN_FORWARD:
            yield (f"{self.forward} is wrong; all gradients are right in spite of that, which gives {OWN_FORWARD:.0%} "
                   "of the points")

    def _own_share(self, ctx, both):
        """(the part of the gradients that is right in spite of the forward, what is wrong or "").

        Right is what is the true gradient, or the slope of the student's own forward, or what a right backward makes of
        the cache of such a forward.
        """
        found, truth, drawn = both
        draw, inputs, constants, upstreams = drawn
        not_yet = 0.0, f"not judged yet: {self.forward} must be right first"
        named = self._named(found, truth, drawn, True)
        if not named or (self._varied(ctx) and any(self._is_the_librarys(found["outputs"], inputs, constants))):
            return not_yet
        wrong = {name: "" for name, a in named[0].items() if not feedback.same(a, named[1][name])}
        for gradients in self._behind_it(ctx, found, truth, drawn) if wrong else ():
            wrong = {name: "" for name in wrong if not trying.close(named[0][name], gradients[name])}
        if wrong and not self._is_simpler(ctx, both):
            for i, (name, x) in enumerate(zip(self.names(inputs), inputs, strict=True)):
                if f"d{name}" in wrong:
                    moves = [draw.rng.choice((-1.0, 1.0), x.shape) for _ in range(DIRECTIONS)]
                    wrong[f"d{name}"] = self._off(ctx, inputs, constants, upstreams, i, named[0][f"d{name}"], moves)
            wrong = {name: text for name, text in wrong.items() if text is not None}
        elif wrong and len(wrong) == len(named[0]):
            return not_yet
        said = "; ".join(f"{name}{text}" for name, text in list(wrong.items())[:2])
        return 1 - len(wrong) / len(inputs), (f"{self.forward} is wrong, and for that forward, too, {said} is wrong"
                                              if wrong else "")

    def _behind_it(self, ctx, found, truth, drawn):
        """Gradients that a right backward makes of the cache of a forward with this mistake, where `trying` knows the
        mistake."""
        _, inputs, constants, upstreams = drawn
        if not hasattr(trying.plain, self.backward) or self._varied(ctx):
            return
        trying.locked((inputs, constants, upstreams))
        names = self.names(inputs)
        for results in trying.behind(self.forward, self.backward, inputs, constants, upstreams, found["outputs"]):
            both = feedback.by_name(names, inputs, results, truth["gradients"])
            if both:
                yield both[0]
                return

    def _off(self, ctx, inputs, constants, upstreams, i, gradient, moves):
        """None where a gradient is the slope of the student's own forward along some moves, or how far it is off."""
        for move in moves:
            slope, said = self._slope(ctx, inputs, constants, upstreams, i, move), float((gradient * move).sum())
            if not abs(said - slope) <= 1e-5 * (np.sqrt((gradient**2).sum()) + abs(slope)):
                return f" (along a random direction it must be {slope:.6g}, and is {said:.6g})"
        return None

    def _slope(self, ctx, inputs, constants, upstreams, i, move, eps=1e-5):
        """The slope of the student's forward along a move of one argument, weighed with the upstream gradients."""
        sides = [ctx.student("forward", **self.call((*inputs[:i], inputs[i] + way * eps * move, *inputs[i + 1:]),
                                                    constants))["outputs"] for way in (1, -1)]
        return sum(float(((above - below) * dy).sum()) for above, below, dy in zip(*sides, upstreams, strict=True)
                   ) / (2 * eps)

    def _is_simpler(self, ctx, both):
        """Is there nothing to measure? Or does some gradient of the student's pair not move with an argument with which
        the right one does? Such a forward lacks what makes its derivation hard."""
        found, truth, (_, inputs, constants, upstreams) = both
        named, ys = self._named(found, truth, both[2], True), found["outputs"]
        if len(ys) != len(truth["outputs"]) or any(
                getattr(y, "shape", None) != n.shape or y.dtype != n.dtype or not np.isfinite(y).all()
                for y, n in zip(ys, truth["outputs"], strict=True)):
            return True
        for i, x in enumerate(inputs):
            moved = (*inputs[:i], x + np.cos(np.arange(x.size)).reshape(x.shape), *inputs[i + 1:])
            arguments = self.call(moved, constants, upstreams=upstreams)
            there = self._named(ctx.student("pair", **arguments), ctx.truth("pair", **arguments), both[2], True)
            for name in named[0]:
                if not there or (feedback.same(there[0][name], named[0][name])
                                 and not feedback.same(there[1][name], named[1][name])):
                    return True
        return False

    def _only_here(self, ctx, title, given):
        """That the plain case is right says that what this case adds is wrong."""
        found, truth, drawn = self._both_back(ctx, "plain", given)
        names = self.names(drawn[1])
        if not any(feedback.gradients(names, drawn[1], found["gradients"], truth["gradients"])):
            wrong = ", ".join("grads" if name == "params" else f"d{name}" for name in names)
            yield f"{wrong}: all is right in the plain case, so what goes wrong here is what is special: {title}"

    def _known(self, ctx, given, both):
        """What is known of a wrong gradient that nothing explains: does it move with what it must, and double with the
        upstream gradient?  -> lines"""
        found, truth, (_, inputs, constants, upstreams) = both
        named = self._named(found, truth, both[2], True)
        if not named:
            return []
        if len(named[0]) > trying.TREE:
            right = [name for name, a in named[0].items() if feedback.same(a, named[1][name])]
            return [f"grads: {len(right)} of {len(named[0])} are right{right and ': ' or ''}{', '.join(right[:6])}"
                    f"{' and others' * (len(right) > 6)}"]
        names, facts = self.names(inputs), {name: [] for name, a in named[0].items()
                                            if not feedback.same(a, named[1][name])}
        for i, other in enumerate((*names, *(f"d{name}" for name in self.outputs))):
            if not isinstance((*inputs, *upstreams)[i], np.ndarray):
                continue
            moved = [x + np.cos(np.arange(x.size)).reshape(x.shape) if i == j else x
                     for j, x in enumerate((*inputs, *upstreams))]
            arguments = self.call(moved[:len(inputs)], constants, upstreams=moved[len(inputs):])
            there = self._named(self._played(ctx, given, **arguments), ctx.truth("pair", **arguments), both[2], True)
            for name in facts if there else ():
                sees, must = (not feedback.same(after[name], before[name])
                              for after, before in zip(there, named, strict=True))
                if sees != must:
                    facts[name].append(f"it {'moves' if sees else 'does not move'} with {other}, and must"
                                       f"{' not' if sees else ''}")
        twice = self._played(ctx, given, **self.call(inputs, constants, upstreams=mapped(lambda dy: 2 * dy, upstreams)))
        double = self._named(twice, truth, both[2], True)
        for name, some in facts.items():
            if double:
                linear = feedback.same(double[0][name], 2 * named[0][name])
                some.append("it doubles with the upstream gradient, as it must" if linear else
                            "it does not double with the upstream gradient, and must")
            if len(some) == 1 and linear:
                some.insert(0, f"it moves with what it must ({', '.join(names)})")
        return [f"{name} is wrong; known of it: {'; '.join(some)}" for name, some in facts.items() if some][:2]

    def _both_back(self, ctx, title, given):
        """The same of outputs and gradients. Large arrays have a time limit of their own."""
        drawn = self.drawn(ctx, title)
        arguments = self.call(*drawn[1:3], upstreams=drawn[3])
        began = time.monotonic()
        if title == "large" and self._varied(ctx):       # forward alone: entry by entry would take too long here
            truth = ctx.truth("forward", **self.call(*drawn[1:3]))
        else:
            truth = ctx.truth("pair", **arguments)
        if title == "large":                             # in proportion, so that a fast machine helps nobody
            ctx.begin(max(SLOWEST[0], SLOWEST[1] * (time.monotonic() - began)))
        try:
            found = self._played(ctx, given, **arguments)
        except Gone as gone:
            if title == "large":
                gone.final = True
                gone.text += " (about arrays of a real size: does it ask its forward for every number?)"
            raise
        return found, truth, drawn

    def keeps_contract(self, points, title="plain"):
        """The forward keeps its contract: float32 stays float32, any memory layout is accepted, arguments are not
        changed, wrong shapes are refused."""
        return Test(self.forward, "keeps its contract", points, partial(self._keeps_contract, title))

    def _keeps_contract(self, title, ctx):
        for dtype, layout in (("float64", "plain"), ("float32", "plain"), ("float64", "strided")):
            draw, inputs, constants, _ = self.drawn(ctx, title, dtype)
            arguments = self.call(inputs, constants)
            found, truth = ctx.student("forward", **arguments, layout=layout), ctx.truth("forward", **arguments)
            wrong = list(feedback.outputs(self.outputs, found["outputs"], truth["outputs"], feedback.How(draw.letters)))
            if wrong and (dtype, layout) == ("float64", "plain"):
                yield "not judged yet: its values must be right first"
                return
            yield from (f"{text} ({_circumstance(dtype, layout)})" for text in wrong[:1])
            yield from self._left_alone(inputs, constants, found)
            if wrong:
                return
        for wrong in wrong_shapes(inputs):
            yield from self._refuses(ctx, wrong, constants)

    def keeps_contract_back(self, points, title="plain", *, given=False):
        """The backward keeps its contract: dtype, layout, arguments and upstream gradients, two calls at once."""
        return Test(self.backward, "keeps its contract", points, partial(self._keeps_contract_back, title, given))

    def _keeps_contract_back(self, title, given, ctx):
        share, own = self._value(ctx, title, given)
        if share == 0:
            yield "not judged yet: its gradients must be right first"
            return
        for dtype, layout in (("float64", "plain"), ("float32", "plain"), ("float64", "strided")):
            draw, inputs, constants, upstreams = self.drawn(ctx, title, dtype)
            arguments = self.call(inputs, constants, upstreams=upstreams)
            found = self._played(ctx, given, **arguments, layout=layout)
            expected = self._own_gradients(ctx, given, arguments, dtype) if own else ctx.truth(
                "pair", **arguments)["gradients"]
            names = self.names(inputs)
            wrong = list(feedback.gradients(names, inputs, found["gradients"], expected, feedback.How(draw.letters)))
            yield from (f"{text} ({_circumstance(dtype, layout)})" for text in wrong[:1])
            yield from self._left_alone(found["between"], constants, found)
            yield from (f"it changed its argument {name} in place" for name in feedback.left_alone(
                [f"d{name}" for name in self.outputs], upstreams, found["upstreams"]))
            if wrong:
                return
        apart = list(self._kept_apart(ctx, title, own))
        yield from apart
        if own and not apart:
            ctx.share = share
            yield "its contract is kept, as far as its gradients are right"

    def _value(self, ctx, title, given):
        """(the part of the gradients that is right, whether a contract is judged by the student's own gradients)."""
        both = self._both_back(ctx, title, given)
        found, truth, drawn = both
        if not given and any(feedback.outputs(self.outputs, found["outputs"], truth["outputs"])):
            return OWN_FORWARD * self._own_share(ctx, both)[0], True
        wrong = any(feedback.gradients(self.names(drawn[1]), drawn[1], found["gradients"], truth["gradients"]))
        if wrong and not self._named(*both, True):       # there is nothing to hold the next ones against
            return 0.0, True
        return (self._share(*both), True) if wrong else (1.0, False)

    def _own_gradients(self, ctx, given, arguments, dtype):
        """What the student's pair gives for the same arguments in float64 and plain, as arrays of a dtype."""
        wide = mapped(lambda x: x.astype("float64") if x.dtype.kind == "f" else x, arguments)
        gradients = self._played(ctx, given, **wide)["gradients"]
        return mapped(lambda x: x.astype(dtype) if x.dtype.kind == "f" else x, gradients)

    def _kept_apart(self, ctx, title, own=False):
        """What a backward needs must be in the cache, so that two calls at once do not mix."""
        draw = ctx.draw()
        _, *first = self.drawn(ctx, title)
        second = [mapped(lambda x: draw(*x.shape) if x.dtype.kind == "f" else x, first[0]), *first[1:]]
        arguments = {"file": self.file, "name": self.name, "first": first, "second": second}
        found = ctx.student("two_at_once", **arguments)
        if own:                                          # what each call gives when it is alone
            truth = {which: ctx.student("pair", **self.call(*call[:2], upstreams=call[2]))["gradients"]
                     for which, call in (("first", first), ("second", second), ("again", first))}
        else:
            truth = ctx.truth("two_at_once", **arguments)
        texts = {"first": "its gradients are another call's when two are under way: does something beside the cache "
                          "remember?",
                 "again": "asked twice with one cache, it answers differently: does it write into the cache?"}
        for which, text in texts.items():
            if any(feedback.gradients(self.names(first[0]), first[0], found[which], truth[which])):
                yield text
                return

    def _played(self, ctx, given, **arguments):
        """The call `pair` with the student's functions. A failure of the forward is reported as such."""
        try:
            return ctx.student("pair", **arguments)
        except Failed as failed:
            if failed.function == self.forward and not given:
                failed.text = f"not judged yet: {self.forward} must run first"
            raise

    def _left_alone(self, inputs, constants, found):
        names = self.names(inputs)
        for name in feedback.left_alone(names, inputs, found["inputs"]):
            yield f"it changed its argument {name} in place, where it must write into arrays of its own"
        for name in feedback.left_alone(constants, constants.values(), found["constants"].values()):
            yield f"it changed its constant {name} in place"

    def _refuses(self, ctx, inputs, constants):
        """Shapes that the library refuses must be refused."""
        arguments = self.call(inputs, constants)
        try:
            ctx.truth("forward", **arguments)
        except ValueError as error:
            try:
                ctx.student("forward", **arguments)
            except Failed as failed:
                if failed.error == "ValueError":
                    return
            yield f"it takes shapes that do not fit, where its contract raises ValueError ({error})"


def wrong_shapes(inputs):
    """The inputs with one axis of one array one longer, for each axis of each."""
    for i, x in enumerate(inputs):
        for axis in range(np.ndim(x)):
            yield *inputs[:i], np.concatenate((x, x.take([0], axis)), axis), *inputs[i + 1:]


def _circumstance(dtype, layout):
    return "with float32 arguments" if dtype == "float32" else f"with {layout} arguments, not contiguous in memory"


def call(*inputs, **constants):
    """The arguments of a pair, written as in a call."""
    return inputs, constants


# ----------------------------------------------------------------------------------------------------- what to look for


def first_output(ctx, pair, inputs, constants):
    """The student's and the library's first output, or None and None where the student's has not its shape."""
    arguments = pair.call(inputs, constants)
    found, right = (play("forward", **arguments)["outputs"] for play in (ctx.student, ctx.truth))
    return (found[0], right[0]) if getattr(found[0], "shape", None) == np.shape(right[0]) else (None, None)


def _first_to_speak(looks):
    """The lines of the first look that has any. A look calls a wrong function with arguments of its own, so what that
    raises says nothing new."""
    for look in looks:
        try:
            lines = list(look)
        except Gone:
            raise
        except Exception:
            continue
        if lines:
            return lines
    return []


def ignored_arguments(ctx, pair, inputs, constants):
    """An argument that moves the output must move it."""
    here = first_output(ctx, pair, inputs, constants)
    for i, (name, x) in enumerate(zip(pair.names(inputs), inputs, strict=True)):
        if isinstance(x, np.ndarray) and here[0] is not None:
            there = first_output(ctx, pair, (*inputs[:i], x + np.cos(np.arange(x.size)).reshape(x.shape),
                                               *inputs[i + 1:]), constants)
            if there[0] is not None and np.array_equal(here[0], there[0]) and not np.allclose(here[1], there[1]):
                yield f"{pair.outputs[0]} does not move with {name}, and must"


def ignored_constants(ctx, pair, inputs, constants):
    """The output is what it would be without one of the constants."""
    y, _ = first_output(ctx, pair, inputs, constants)
    for name in constants:
        others = {key: x for key, x in constants.items() if key != name}
        try:
            without = ctx.truth("forward", **pair.call(inputs, others))["outputs"][0]
        except TypeError:                                # it cannot be left out
            continue
        if y is not None and feedback.same(y, without):
            yield f"{pair.outputs[0]} is what it would be without {name}"


def influence(*moved, at="place", out="place"):
    """Which places of the output move with which places of the moved arguments, along axis 1 of both."""
    def look(ctx, pair, inputs, constants):
        places = [i for i, name in enumerate(pair.names(inputs)) if name in moved]
        here = first_output(ctx, pair, inputs, constants)
        for u in range(inputs[places[0]].shape[1]) if here[0] is not None else ():
            other = list(inputs)
            for i in places:
                other[i] = inputs[i].copy()
                other[i][0, u] += 1.0
            there = first_output(ctx, pair, other, constants)
            sees, must = (_moved(y, before) for y, before in zip(there, here, strict=True))
            if (sees[1:] & ~must[1:]).any():
                yield f"{pair.outputs[0]} of one story moves with {' and '.join(moved)} of another"
                return
            for t in np.flatnonzero(sees[0] != must[0])[:1]:
                pad = constants.get("pad")
                yield (f"{pair.outputs[0]} at {out} {t} {'moves' if sees[0, t] else 'does not move'} with "
                       f"{' and '.join(moved)} at {at} {u}"
                       f"{'' if pad is None else f' (where the first {int(pad[0])} are padding)'}, which it must "
                       f"{'not see' if sees[0, t] else 'see'}")
                return

    return look


def _moved(y, before):
    """(B, T): which rows of which stories are no longer what they were."""
    moved = ~np.isclose(y, before, rtol=1e-9, atol=1e-12, equal_nan=True)
    return moved.reshape(*moved.shape[:2], -1).any(-1)


def shares_of(P, S, *, letters, rows="a query"):
    """What is wrong with softmax shares P (..., U), given the scores S that they should come from, in words."""
    if not np.allclose(P.sum(-1), 1):
        return (f"the shares of {rows} must add up to one, and add up to {P.sum(-1).flat[0]:.4g}: over which axis does "
                "the softmax run?")
    if (P <= 0).any():
        return ""
    logs, scores = (z - z.mean(-1, keepdims=True) for z in (np.log(P), S))
    factor = float((logs * scores).sum() / (scores * scores).sum())
    if not np.allclose(logs, factor * scores, atol=1e-6) or np.isclose(factor, 1):
        return ""
    name = feedback.name_of(factor, letters)
    return (f"the scores are {factor:.4g} times what they should be{f', which is {name}' if name else ''}: is their "
            "scale missing, or applied twice?")


def ignored_upstreams(ctx, pair, inputs, constants, upstreams, gradients):
    """The gradients are what they would be were an upstream gradient zero, or they do not move with it at all."""
    names = [f"d{name}" for name in pair.outputs]
    arguments = pair.call(inputs, constants)
    here = gradients if isinstance(gradients, tuple) else (gradients,)
    for left_out in [which for n in (1, 2) for which in combinations(range(len(names)), n)] if len(names) > 1 else ():
        without = [mapped(lambda dy: 0 * dy, dy) if i in left_out else dy for i, dy in enumerate(upstreams)]
        truth = ctx.truth("pair", **arguments, upstreams=without)["gradients"]
        if any(upstreams[i] is not None for i in left_out) and not any(
                feedback.gradients(pair.names(inputs), inputs, here, truth)):
            which = " and ".join(names[i] for i in left_out)
            mine = ", ".join("grads" if name == "params" else f"d{name}" for name in pair.names(inputs))
            yield f"{mine} are what they would be were {which} zero"
            return
    twice = ctx.student("pair", **arguments, upstreams=mapped(lambda dy: 2 * dy, upstreams))["gradients"]
    twice = twice if isinstance(twice, tuple) else (twice,)
    for name, a, there in zip(pair.names(inputs), here, twice, strict=False):
        if isinstance(a, np.ndarray) and a.any() and np.array_equal(a, there):
            yield f"d{name} does not move with {' and '.join(names)}, and must"


def one_story_alone(ctx, pair, inputs, constants, upstreams, gradients):
    """The gradient of a matrix that every story met is the sum of their shares, and not one of them."""
    arguments = pair.call(inputs, constants)
    names, arrays = pair.names(inputs), [dy for dy in upstreams if isinstance(dy, np.ndarray) and dy.ndim > 1]
    if not arrays or not isinstance(gradients, tuple) or len(gradients) != len(names):
        return
    for b in (0, arrays[0].shape[0] - 1):
        only = mapped(lambda dy, b=b: dy * (np.arange(dy.shape[0]) == b).reshape(-1, *[1] * (dy.ndim - 1)), upstreams)
        alone = ctx.truth("pair", **arguments, upstreams=only)["gradients"]
        for name, x, a, n in zip(names, inputs, gradients, alone, strict=True):
            matrix = isinstance(x, np.ndarray) and x.ndim < 3
            if matrix and isinstance(a, np.ndarray) and n.any() and feedback.same(a, n):
                yield f"d{name} is the gradient of story {b} alone: are the stories' shares added up?"
                return
