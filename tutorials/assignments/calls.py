"""What the grader asks of a library, one step at a time.

The worker answers with the student's functions in the library's places, the grader with the library's own. Nothing
here compares, copies or knows what is right: the student's code runs beside it and could change it. `library[file]` is
looked up at every use, so the function that stands there is the one that runs.
"""


class Unfit(TypeError):
    """A function returned something that cannot be used any further; the text says what it is."""


class Calls:
    """library: its files by name.  evaluate: returns a value of the function whose slopes are wanted."""

    def __init__(self, library, evaluate=None):
        self.library, self.evaluate, self.caches, self.returned = library, evaluate, {}, {}

    def forward(self, slot, file, name, inputs, constants):
        """The outputs of a forward; its cache stays here, under the number `slot`."""
        if "cfg" in constants:
            constants = {**constants, "cfg": self.library["model"].Config(**constants["cfg"])}
        results = getattr(self.library[file], f"{name}_forward")(*inputs, **constants)
        if not isinstance(results, tuple) or len(results) < 2:
            raise Unfit(f"tuple of {len(results)}" if isinstance(results, tuple) else type(results).__name__)
        self.caches[slot] = results[-1]
        return results[:-1]

    def backward(self, slot, file, name, upstreams):
        """The gradients of a backward, from the cache of a slot."""
        self.returned[slot] = getattr(self.library[file], f"{name}_backward")(*upstreams, self.caches[slot])
        return self.returned[slot]

    def function(self, file, name, arguments):
        """What any other function returns."""
        return getattr(self.library[file], name)(*arguments)

    def slopes(self, x, moves, eps):
        """Central differences of a function that only the grader knows: it looks at x, and says its value."""
        return self.library["gradcheck"].central_differences(self.evaluate, x, moves, eps=eps)

    def fill(self, slot, numbers):
        """Write numbers into the buffer of the gradients that a backward returned.  -> the gradients by their names,
        which then show these numbers; None where there is no such buffer."""
        buffer = getattr(self.returned[slot], "buffer", None)
        if getattr(buffer, "shape", None) != numbers.shape:
            return None
        buffer[...] = numbers
        return dict(self.returned[slot])

    def adamw(self, shapes, params, options):
        """Begin to optimize these parameters."""
        flat = self._flat(shapes, params)
        self.params, self.optimizer = flat, self.library["optim"].AdamW(flat, **options)

    def adamw_step(self, shapes, grads, rate):
        """Take one step; the parameters and the gradients are where they were."""
        buffer = self.params.buffer
        self.optimizer.step(self.params, self._flat(shapes, grads), rate)
        return {"m": self.optimizer.m, "v": self.optimizer.v, "t": self.optimizer.t,
                "in place": self.params.buffer is buffer}

    def clip(self, shapes, grads, limit):
        """The norm that `clip` returns; the gradients are where they were."""
        flat = self._flat(shapes, grads)
        norm = self.library["optim"].clip(flat, limit)
        return {"norm": norm, "in place": flat.buffer is grads}

    def _flat(self, shapes, buffer):
        """A Flat over a buffer."""
        return self.library["flat"].Flat({name: tuple(shape) for name, shape in shapes.items()}, None, None, buffer)
