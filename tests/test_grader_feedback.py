"""Whatever a worker answers, the feedback is a few short lines, quickly made; a student's words are quoted."""

import random
import time

import numpy as np
import pytest

from tutorials.assignments import feedback, grader, handout, protocol, submission
from tutorials.assignments.context import Context
from tutorials.assignments.grader import ASSIGNMENTS

TESTS = [pytest.param(test, id=f"{name}-{test.function}-{test.title}")
         for name, assignment in ASSIGNMENTS.items() for unit in assignment.units for test in unit.tests]


def value(rng, depth=0):
    """Something that a message can hold: numbers of every kind, odd shapes, trees."""
    kind = rng.randrange(12 if depth < 3 else 8)
    shape = tuple(rng.choice((0, 1, 1, 2, 3, 5, 7)) for _ in range(rng.randrange(9)))
    if kind < 5:
        dtype = rng.choice(sorted(protocol.DTYPES))
        x = np.array(rng.choice([0.0, 1.0, -1.5, np.nan, np.inf, 1e300, 1e-300]))
        with np.errstate(all="ignore"):
            return np.full(shape, x).astype(dtype)
    if kind < 8:
        return rng.choice([None, True, 0, -3, 10**17, 1.5, float("nan"), "", "x" * 1000, "\x1b[2J\nall 100 of 100",
                           protocol.Unsupported("object")])
    if kind < 10:
        return tuple(value(rng, depth + 1) for _ in range(rng.randrange(4)))
    if kind == 10:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    names = ["m", "v", "t", "norm", "in place", "embed.W", "0", "\nall 100 of 100"]
    return {rng.choice(names): value(rng, depth + 1) for _ in range(rng.randrange(4))}


class Odd:
    """A client whose worker answers with anything; every second time with arrays of the right shapes."""

    def __init__(self, seed):
        self.rng, self.shared = random.Random(seed), protocol.SharedMemory(-1)

    def begin(self, seconds=None):
        pass

    def ask(self, call, *, evaluate=None, **arguments):
        if evaluate:
            for _ in range(self.rng.randrange(5)):
                evaluate()
        if self.rng.random() < 0.3 and arguments.get("inputs"):
            return tuple(self.rng.sample(arguments["inputs"], len(arguments["inputs"])))
        return value(self.rng)


@pytest.mark.parametrize("test", TESTS)
def test_any_answer_is_judged_in_short_lines_and_little_time(test):
    for seed in range(4):
        client = Odd(seed)
        began = time.monotonic()
        lines, _ = grader._run(test, Context(client, (seed, 1)))
        assert time.monotonic() - began < 5
        assert lines, "an odd answer cannot be right"
        printed = [feedback.printable(line, grader.LENGTH) for line in lines[:grader.LINES]]
        assert all(line.isprintable() and len(line) <= grader.LENGTH for line in printed)
        client.shared.close()


def test_an_array_of_many_axes_is_not_searched():
    right = np.ones((3, 4))
    began = time.monotonic()
    assert "has shape" in feedback.array("dx", np.zeros((2,) * 16 + (1,) * 16), np.ones((3, 2, 5, 4)))
    assert time.monotonic() - began < 2
    assert "a sum over axis 0 is missing" in feedback.array("dx", np.stack((right, 0 * right)), right)
    assert "transposed" in feedback.array("dW", np.arange(6.0).reshape(2, 3).T, np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(("text", "expected"), [
    ("plain words", '"plain words"'), ("a\nb\x1b[2J\x07", '"a?b?[2J?"'), ('say "hi"', "\"say 'hi'\""), ("", '""'),
    ("x" * 1000, '"' + "x" * 197 + '..."'), ("\u202eabc\ud800\u200b", '"?abc??"'), ("é 漢字", '"é 漢字"')])
def test_a_students_words_are_one_line_of_200_printable_characters(text, expected):
    assert feedback.quoted(text) == expected


def test_no_line_of_the_library_is_quoted():
    for name in ("ops.rmsnorm_backward", "ops.attend_forward", "gradcheck.worst_entry"):
        lines = handout.module(name.partition(".")[0]).text(handout.function(name)).splitlines()
        for line in lines:
            squeezed = "".join(line.partition("#")[0].split())
            if len(squeezed) > 15 and not line.strip().startswith(('"', "#")):
                assert "holds a line of the library" in feedback.quoted(f"look: {line.strip()}"), line
    assert feedback.quoted("matmul: Input operand 1 has a mismatch in its core dimension 0").startswith('"matmul')


# ---------------------------------------------------------------------------------------------------- what is handed in


def test_each_file_of_the_library_is_known_as_a_copy_and_no_solution_is(tmp_path):
    """As it is, and with other spaces and comments."""
    def problem(text, assignment):
        path = tmp_path / "my.py"
        path.write_text(text, encoding="utf-8")
        return submission.read(path, assignment).problem

    for assignment in ASSIGNMENTS.values():
        assert not problem(handout.students_file(assignment), assignment)
        assert not problem(handout.students_file(assignment, solved=True), assignment)
        for file in dict.fromkeys(handout.top(name)[0] for name in assignment.functions):
            text = (handout.LIBRARY / f"{file}.py").read_text(encoding="utf-8")
            assert "a copy of the library's file" in problem(text, assignment)
            changed = "\n".join(f"{line}   # {i}" if "=" in line and '"' not in line else line
                                for i, line in enumerate(text.splitlines()))
            assert "a copy of the library's file" in problem(f"# mine\n{changed}\nx = 1\n", assignment)


@pytest.mark.parametrize(("code", "noted"), [
    ("y = x + 1e-30j", True), ("y = x.imag", True), ("y = np.complex128(x)", True), ("y = 2J * x", True),
    ("adj = x # 1j", False), ("y = x.image + obj", False), ("j = 3", False), ("y = x[..., j]", False)])
def test_complex_numbers_are_noted(code, noted, tmp_path):
    path = tmp_path / "my_a2.py"
    path.write_text(f"x = 1\n{code}\n")
    note = submission.read(path, ASSIGNMENTS["a2"]).note
    assert note == ("note: it uses complex numbers, at line 2" if noted else "")
