"""What a test works with: random arguments, and the same calls on two sides, the student's and the library's."""

import importlib
from dataclasses import dataclass, field

import numpy as np

from tinylm2.checking.cases import Draw
from tinylm2.flat import Flat
from tutorials.assignments import handout
from tutorials.assignments.calls import Calls

LENGTHS = (3, 5, 6, 7, 8)
TRIES = 2                                                # tests of a function in which its mistake is looked for


@dataclass(frozen=True)
class Lengths(Draw):
    """Random arrays, and random lengths for their letters: all different, none of them one."""

    letters: dict = field(default_factory=dict)

    def lengths(self, names):
        """A length for each letter of `names`. None is the root of another, so that a wrong factor has but one name."""
        chosen = [int(n) for n in self.rng.permutation(LENGTHS)[:len(names)]]
        self.letters.update(zip(names, chosen, strict=True))
        return chosen

    def number(self, low, high):
        """One whole number, low and high included."""
        return int(self.rng.integers(low, high + 1))


class Context:
    """What a test works with. Its random numbers are its own, whatever tests ran before it.

    share: what a test that is not passed is worth all the same, from 0 to 1; the test says so.
    """

    share = 0.0

    def __init__(self, client, seed, library=None, variants=()):
        self.worker, self.seed, self.draws = Worker(client), seed, 0
        self.library, self.variants = TRUTH if library is None else library, variants

    def draw(self, dtype="float64"):
        self.draws += 1
        return Lengths(np.random.default_rng([*self.seed, self.draws]), dtype)

    def student(self, call, **arguments):
        """What a call gives with the student's functions: one of the methods of `Side`."""
        return getattr(self.worker, call)(**arguments)

    def once(self, function, find):
        """What `find` finds, for the first wrong tests of a function; later ones of the same worker find nothing."""
        tried = vars(self.worker.client).setdefault("tried", {})
        tried[function] = tried.get(function, 0) + 1
        return find() if tried[function] <= TRIES else []

    def begin(self, seconds=None):
        """From here on the student's functions may take so many seconds."""
        self.worker.client.begin(seconds)

    def truth(self, call, **arguments):
        """The same call with the library's functions, or those of a variant."""
        return getattr(Here(self.library), call)(**arguments)


class Library(dict):
    """The library's files by name, as `Calls` asks for them."""

    def __missing__(self, name):
        self[name] = importlib.import_module(handout.dotted(name))
        return self[name]


TRUTH = Library()


# ------------------------------------------------------------------------------------------------------- the two sides


class Side:
    """The calls that tests make, each put together from single steps.

    The order of the steps is decided here, and arguments are read here, after each step, from the memory in which they
    lie. So no answer of a worker is believed about anything that is easier to claim than to do.
    """

    def clear(self):
        """The arguments of the last call are no longer needed."""

    def place(self, x, strided=False):
        """A copy of an array for a function to work on."""
        raise NotImplementedError

    def step(self, call, **arguments):
        """One method of `Calls`."""
        raise NotImplementedError

    def placed(self, tree, layout="plain"):
        """A copy of all arrays of a tree, "plain" or "strided", with other numbers between them."""
        return mapped(lambda x: self.place(np.asarray(x), layout == "strided"), tree)

    def forward(self, file, name, inputs, constants, layout="plain"):
        """The outputs of a forward, and what its arguments are afterwards."""
        self.clear()
        inputs, constants = self.placed((inputs, constants), layout)
        outputs = self.step("forward", slot=0, file=file, name=name, inputs=inputs, constants=constants)
        return {"outputs": outputs, "inputs": copied(inputs), "constants": copied(constants)}

    def pair(self, file, name, inputs, constants, upstreams, layout="plain"):
        """The outputs and gradients of a pair, what its inputs are between the two, and all arguments afterwards."""
        self.clear()
        inputs, constants, upstreams = self.placed((inputs, constants, tuple(upstreams)), layout)
        outputs = self.step("forward", slot=0, file=file, name=name, inputs=inputs, constants=constants)
        between = copied(inputs)
        gradients = self.step("backward", slot=0, file=file, name=name, upstreams=upstreams)
        return {"outputs": outputs, "gradients": gradients, "between": between, "inputs": copied(inputs),
                "constants": copied(constants), "upstreams": copied(upstreams)}

    def two_at_once(self, file, name, first, second):
        """Gradients of two calls of a pair. The second forward runs between the first forward and its backward, and the
        first backward is asked twice. Each call is (inputs, constants, upstreams)."""
        self.clear()
        calls = self.placed((tuple(first), tuple(second)))
        for slot, (inputs, constants, _) in enumerate(calls):
            self.step("forward", slot=slot, file=file, name=name, inputs=inputs, constants=constants)
        found = [self.step("backward", slot=slot, file=file, name=name, upstreams=calls[slot][2]) for slot in (0, 1, 0)]
        return dict(zip(("first", "second", "again"), found, strict=True))

    def called(self, file, name, arguments):
        """What any function returns."""
        self.clear()
        return self.step("function", file=file, name=name, arguments=self.placed(tuple(arguments)))

    def slopes(self, weights, x, moves, eps, layout="plain"):
        """Central differences of a weighted sum of cubes, squares and x itself, where it was evaluated, and what x is
        afterwards. The function is evaluated here, so its slopes cannot be read off its code."""
        self.clear()
        x, seen = self.placed(x, layout), []

        def f():
            seen.append(x.copy())
            return curve(weights, x)

        found = self.step("slopes", evaluate=f, x=x, moves=self.placed(list(moves)), eps=eps)
        return {"slopes": found, "x": x.copy(), "seen": seen}

    def adamw(self, shapes, start, gradients, rates, options):
        """Parameters and moments after every step. The parameters are read from the buffer that they began in."""
        self.clear()
        params, steps, found = self.placed(start), [], {}
        self.step("adamw", shapes=shapes, params=params, options=options)
        for g, rate in zip(gradients, rates, strict=True):
            grads = self.placed(g)
            found = self.step("adamw_step", shapes=shapes, grads=grads, rate=rate)
            steps.append({"params": params.copy(), "m": found["m"], "v": found["v"], "grads": grads.copy()})
        return {"steps": steps, "in place": found["in place"], "t": found["t"]}

    def clipped(self, shapes, gradients, limit):
        """The norm that `clip` returns, and what is then in the buffer of the gradients."""
        self.clear()
        grads = self.placed(gradients)
        found = self.step("clip", shapes=shapes, grads=grads, limit=limit)
        return {"norm": found["norm"], "grads": grads.copy(), "in place": found["in place"]}

    def story(self, params, constants, dlogits):
        """Gradients of a story, and whether their names look into one buffer: numbers are written into the buffer, and
        read under the names."""
        found = self.pair("recurrence", "story", (params,), constants, (dlogits,))
        shapes = {name: x.shape for name, x in params.items()}
        numbers = Flat(shapes, np, "float64")
        numbers.buffer[...] = np.random.default_rng().random(numbers.buffer.size)
        names = self.step("fill", slot=0, numbers=numbers.buffer)
        flat = isinstance(names, dict) and names.keys() == numbers.keys() and all(
            isinstance(x, np.ndarray) and np.array_equal(x, numbers[name]) for name, x in names.items())
        return {"gradients": found["gradients"], "flat": flat}


class Here(Side):
    """The library's own functions, in the grader's process."""

    def __init__(self, library=None):
        self.calls = Calls(TRUTH if library is None else library)

    def place(self, x, strided=False):
        return x.copy()

    def step(self, call, *, evaluate=None, **arguments):
        self.calls.evaluate = evaluate
        return copied(getattr(self.calls, call)(**arguments))


class Worker(Side):
    """The student's functions, in a process of their own."""

    def __init__(self, client):
        self.client = client

    def clear(self):
        self.client.shared.clear()

    def place(self, x, strided=False):
        return self.client.shared.place(x, strided and x.ndim > 0)

    def step(self, call, **arguments):
        return self.client.ask(call, **arguments)


# ---------------------------------------------------------------------------------------------------------- small parts


def curve(weights, x):
    """The function whose slopes are measured, entry by entry."""
    return weights[0] * x**3 + weights[1] * x**2 + weights[2] * x


def copied(tree):
    return mapped(np.copy, tree)


def mapped(function, tree):
    """The same tree with every array replaced."""
    if isinstance(tree, dict):
        return {key: mapped(function, part) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(mapped(function, part) for part in tree)
    return function(tree) if isinstance(tree, np.ndarray | np.generic) else tree
