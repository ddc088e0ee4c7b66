"""Grade a solution: run every test of an assignment, count points, say what is wrong."""

import hashlib
import secrets
import time
import zlib
from dataclasses import dataclass, field

import numpy as np

from tutorials.assignments import a1, a2, a3, a4, a5, a6
from tutorials.assignments.checks import Test
from tutorials.assignments.client import Client, Context, Failed, Gone, Limits

ASSIGNMENTS = {a.ASSIGNMENT.name: a.ASSIGNMENT for a in (a1, a2, a3, a4, a5, a6)}
LINES = 3                                                # of feedback a test
SHOWN = 4                                                # of feedback a function, in the table; JSON has them all


@dataclass(frozen=True)
class Result:
    """What became of one test."""

    test: Test
    feedback: tuple[str, ...]

    @property
    def points(self):
        return 0 if self.feedback else self.test.points


@dataclass
class Report:
    """What became of one solution. broken: rules that it broke, as lines. walls: what kept it in, by name."""

    assignment: str
    subject: str
    file: str
    digest: str
    seed: int
    results: list[Result] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    walls: dict = field(default_factory=dict)
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
            "rules_broken": self.broken, "walls": self.walls,
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
        said = list(dict.fromkeys(self.broken))
        for function in dict.fromkeys(r.test.function for r in self.results):
            own = list(dict.fromkeys(self.feedback(function)))
            said += own[:SHOWN] + [f"{function}: and {len(own) - SHOWN} lines more"] * (len(own) > SHOWN)
        return "\n".join([*lines, *([""] if said else []), *said])


def grade(assignment, solution, *, seed=None, limits=None, units=None):
    """Grade a file.  -> Report

    seed: the same seed asks the same questions; a new one is drawn where none is given, and the report names it.
    units: only these of the assignment's units, by their numbers.
    """
    seed, limits, began = secrets.randbelow(10**6) if seed is None else seed, limits or Limits(), time.monotonic()
    report = Report(assignment.name, assignment.subject, solution.name,
                    hashlib.sha256(solution.read_bytes()).hexdigest(), seed)
    fatal = ""
    for number, unit in enumerate(assignment.units):
        if units is None or number in units:
            fatal = _examine(assignment, unit, solution, limits, report, fatal)
    report.seconds = time.monotonic() - began
    return report


def _examine(assignment, unit, solution, limits, report, fatal):
    """All tests of one unit, into the report. -> why the file needs no other try, or ""."""
    client, stops, results, refused = None, 0, [], []
    for test in unit.tests:
        problem = fatal
        if stops >= limits.stops:
            problem = f"not run: the process had to be stopped {stops} times"
        elif not problem and client is None:
            client = Client(assignment, unit.functions, solution, limits)
            try:
                client.start()
            except Failed as failed:
                problem = f"{solution.name} cannot be loaded: {failed.text}"
                fatal = problem
        if not problem:
            problem = _absent(test, client, solution)
        feedback, gone = ([problem], False) if problem else _run(test, Context(client, _seed(report.seed, test)))
        results.append(Result(test, tuple(dict.fromkeys(feedback))[:LINES]))
        if client:
            report.walls = client.walls or report.walls
        if gone or client and problem and fatal:
            refused += client.refused
            client.close()
            client, stops = None, stops + 1
    if client:
        refused += client.refused
        client.close()
    if refused:
        report.broken += dict.fromkeys(f"{function or solution.name} broke the rules: it {what}"
                                       for function, what in refused)
        results = [Result(result.test, ("no points: the rules were broken",)) for result in results]
    report.results += results
    return fatal


def _run(test, ctx):
    """(feedback, whether the process is gone) of one test."""
    try:
        with np.errstate(all="ignore"):                  # NaN and infinity are judged, not warned about
            return list(test.check(ctx)), False
    except Failed as failed:
        blamed = failed.function in ("", test.function) or failed.text.startswith("not judged")
        text = failed.text if blamed else f"not judged yet: {failed.function} must run first ({failed.text})"
        return [text], isinstance(failed, Gone)
    except Exception as error:                           # whatever a solution returns, grading goes on
        return [f"it returned something that cannot be judged ({type(error).__name__}: {error})"], False


def _absent(test, client, solution):
    missing = [name.partition(".")[2] for name in client.missing]
    if test.function in missing:
        return f"{solution.name} has no {test.function}"
    return ""


def _seed(seed, test):
    return seed, zlib.crc32(f"{test.function}, {test.title}".encode())


def what_is_lacking(walls):
    """What did not keep the solution in, in words; "" where nothing was lacking."""
    lacking = [text for name, text in (("RLIMIT_AS", "memory is not bounded"),
                                       ("RLIMIT_CPU", "processor time is not bounded"))
               if name not in walls.get("limits", ())]
    if not walls.get("confined"):
        lacking.append("no kernel refuses files, only Python's audit hooks do")
    if not lacking:
        return ""
    return f"on this system {', and '.join(lacking)}: grade what you do not trust on Linux, or in a container"
