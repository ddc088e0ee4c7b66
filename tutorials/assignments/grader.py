"""Grade a solution: run every test of an assignment, count the points, say what is wrong."""

import secrets
import time
import zlib
from dataclasses import dataclass, field

import numpy as np

from tutorials.assignments import a1, a2, a3, a4, a5, a6, submission, variants
from tutorials.assignments.checks import Test
from tutorials.assignments.client import Client, Failed, Limits
from tutorials.assignments.context import TRUTH, Context
from tutorials.assignments.feedback import printable
from tutorials.assignments.sandbox import WALLS

ASSIGNMENTS = variants.Assignments({a.ASSIGNMENT.name: a.ASSIGNMENT for a in (a1, a2, a3, a4, a5, a6)})
LINES = 3                                                # of feedback per test
LENGTH = 500                                             # characters per line
SHOWN = 4                                                # lines per function in the table; the JSON has them all
CONTAINER = ('docker run --rm --memory 1g -v "$PWD:/course" -w /course python:3.12 sh -c '
             '"pip install -q numpy tokenizers tqdm && python -m tutorials.assignments grade a3 my_a3.py"')


@dataclass(frozen=True)
class Result:
    """The outcome of one test.  share: what it is worth where there is feedback, from 0 to 1."""

    test: Test
    feedback: tuple[str, ...]
    share: float = 0.0

    @property
    def points(self):
        return min(int(self.test.points * self.share), self.test.points - 1) if self.feedback else self.test.points


@dataclass
class Report:
    """The outcome of one solution.

    broken: rules that it broke, as lines.  note: what a teacher may want to look at, or "".  walls: the kernel's limits
    that held, by name; None where no worker ran.
    """

    assignment: str
    subject: str
    file: str
    digest: str
    seed: int
    results: list[Result] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    note: str = ""
    walls: list[str] | None = None
    seconds: float = 0.0

    @property
    def points(self):
        return sum(result.points for result in self.results)

    @property
    def out_of(self):
        return sum(result.test.points for result in self.results)

    def feedback(self, function=None):
        """Every line of feedback, or those of one function."""
        return [f"{result.test.function}: {line}" for result in self.results for line in result.feedback
                if function in (None, result.test.function)]

    def as_json(self):
        """A tree for a learning platform."""
        functions = dict.fromkeys(result.test.function for result in self.results)
        return {
            "assignment": self.assignment, "subject": self.subject, "file": self.file, "sha256": self.digest,
            "seed": self.seed, "points": self.points, "out_of": self.out_of, "seconds": round(self.seconds, 1),
            "rules_broken": self.broken, "note": self.note,
            "walls": {name: name in self.walls for name in WALLS} if self.walls else {},
            "functions": {name: {"points": sum(r.points for r in self.results if r.test.function == name),
                                 "out_of": sum(r.test.points for r in self.results if r.test.function == name)}
                          for name in functions},
            "tests": [{"function": r.test.function, "title": r.test.title, "points": r.points,
                       "out_of": r.test.points, "feedback": list(r.feedback)} for r in self.results]}

    def __str__(self):
        lines = [f"{self.assignment}, {self.subject}: {self.file}, seed {self.seed}", ""]
        width = max(len(r.test.function) for r in self.results)
        titles = max(len(r.test.title) for r in self.results)
        before = ""
        for r in self.results:
            name, before = "" if r.test.function == before else r.test.function, r.test.function
            lines.append(f"{name:<{width}}  {r.test.title:<{titles}}  {r.points:>3} of {r.test.points}")
        lines += ["", f"{'all':<{width}}  {'':<{titles}}  {self.points:>3} of {self.out_of}"]
        said = [*([self.note] if self.note else []), *dict.fromkeys(self.broken)]
        for function in dict.fromkeys(r.test.function for r in self.results):
            own = list(dict.fromkeys(self.feedback(function)))
            said += own[:SHOWN] + [f"{function}: and {len(own) - SHOWN} lines more"] * (len(own) > SHOWN)
        held = "no worker ran" if self.walls is None else f"walls that held: {', '.join(self.walls) or 'none'}"
        return "\n".join([*lines, *([""] if said else []), *said, "", held])


def grade(assignment, solution, *, seed=None, limits=None, units=None):
    """Grade a file.  -> Report, whatever the file does.  Raises BadInput where there is no file.

    seed: the same seed asks the same questions; a new one is drawn where none is given, and the report names it.
    units: only these of the assignment's units, by their numbers.
    """
    began, limits = time.monotonic(), limits or Limits()
    file = submission.read(solution, assignment)
    report = Report(assignment.name, assignment.subject, file.name, file.digest,
                    secrets.randbelow(10**6) if seed is None else seed, note=file.note)
    examiner = _Examiner(assignment, file, limits, report, began + limits.total)
    for number, unit in enumerate(assignment.units):
        if units is None or number in units:
            examiner.examine(unit)
    report.seconds = time.monotonic() - began
    return report


class _Examiner:
    """Grades the units of one file, one after another, into a report. fatal: why no further test can run, or ""."""

    def __init__(self, assignment, file, limits, report, end):
        self.assignment, self.file, self.limits, self.report, self.end = assignment, file, limits, report, end
        self.fatal, self.final = file.problem, {}
        self.library = variants.library(TRUTH, assignment)

    def examine(self, unit):
        """All tests of one unit, into the report."""
        self.client, self.stops, refused, results = None, 0, [], []
        for test in unit.tests:
            self.share = 0.0
            try:
                feedback = self._feedback(unit, test)
            except Exception as error:                   # the grader's own: the other tests go on, and a report is made
                feedback = [f"the grader failed here ({type(error).__name__}), please tell its authors"]
                self._end(refused)
            if feedback and not self.fatal and time.monotonic() >= self.end:
                feedback, self.share = [self._used_up()], 0.0
            lines = dict.fromkeys(printable(line, LENGTH) for line in feedback[:LINES])
            results.append(Result(test, tuple(lines), self.share))
            if self.client and self.client.process and self.client.process.poll() is not None:
                self.stops += 1
                self._end(refused)
        self._end(refused)
        if refused:
            lines = (f"{function or self.file.name} broke the rules: {what}" for function, what in refused)
            self.report.broken += dict.fromkeys(printable(line, LENGTH) for line in lines)
            results = [Result(result.test, ("no points: the rules were broken",)) for result in results]
        self.report.results += results

    def _feedback(self, unit, test):
        """What is wrong, line by line; nothing for a test that is passed."""
        if not self.fatal and time.monotonic() >= self.end:
            self.fatal = self._used_up()
        if self.fatal:
            return [self.fatal]
        if self.stops >= self.limits.stops:
            return [f"not run: the process had to be stopped {self.stops} times"]
        if self.client is None:
            client = getattr(self.assignment, "client", Client)          # an assignment may have its own kind
            self.client = client(self.assignment, unit.functions, self.file.source, self.limits, self.end)
            try:
                self.client.start()
            except Failed as failed:
                self.fatal = f"{self.file.name} cannot be loaded: {failed.text}"
                return [self.fatal]
            finally:
                self.report.walls = self.client.walls if self.report.walls is None else self.report.walls
        if test.function in [name.partition(".")[2] for name in self.client.missing]:
            return [f"{self.file.name} has no {test.function}"]
        if test.function in self.final:
            return [f"not judged: {self.final[test.function]}"]
        self.client.begin()
        context = Context(self.client, _seed(self.report.seed, test), self.library, self.assignment.variants)
        feedback, final = _run(test, context)
        self.share = context.share
        if final:
            self.final[test.function] = feedback[0]
        return feedback

    def _used_up(self):
        return f"not judged: the {self.limits.total:g} seconds for the whole file are used up"

    def _end(self, refused):
        if self.client:
            self.client.close()
            refused += self.client.refused
        self.client = None


def _run(test, ctx):
    """The feedback of one test, and whether it speaks for all tests of its function."""
    try:
        with np.errstate(all="ignore"):                  # NaN and infinity are compared, not warned about
            return list(test.check(ctx)), False
    except Failed as failed:
        ctx.share = 0.0
        blamed = failed.function in ("", test.function) or failed.text.startswith("not judged")
        text = failed.text if blamed else f"not judged yet: {failed.function} must run first ({failed.text})"
        return [text], failed.final
    except Exception as error:                           # whatever a solution returns, grading goes on
        ctx.share = 0.0
        return [f"it returned something that cannot be judged ({type(error).__name__})"], False


def _seed(seed, test):
    return seed, zlib.crc32(f"{test.function}, {test.title}".encode())


def what_is_lacking(walls):
    """Which of the kernel's limits did not hold, in words, and what to do; "" where none was lacking."""
    lacking = [text for names, text in (
        (("memory",), "memory is not bounded"),
        (("cpu",), "processor time is not bounded"),
        (("files",), "only Python's audit hooks refuse files"),
        (("system calls",), "only Python's audit hooks refuse connections and signals"),
        (("system calls", "processes"), "only Python's audit hooks refuse new processes"),
        (("session",), "a process may outlive the grader"),
    ) if walls is not None and not set(names) & set(walls)]
    if not lacking:
        return ""
    return (f"on this system {', '.join(lacking)}: grade what you do not trust on Linux, or in a container, such as "
            f"{CONTAINER}")
