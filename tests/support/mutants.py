"""Plant one small error at a time, and see whether the tests notice: `pytest -m core` in the numeric core (MODULES);
in what keeps runs and grades solutions, the test files that GUARDS names.

A mutant is one change of the syntax tree of a module: a sign, an operator, a comparison, a
constant, a term dropped, two arguments or results or keys swapped, a transpose or an axis changed, a condition turned
round, a line or a check taken away. Messages, docstrings, decorators and type hints are left alone.

Each mutant is tried in a fork of one process that has collected the core tests: its functions get the code of the
changed ones. First it meets the gradient checks of its own module (they are core tests, too, and the fastest to fail),
then all core tests until one fails. A mutant that breaks the import, or runs into the clock, counts as killed.
"""

import ast
import copy
import importlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import numpy as np

ROOT = Path(__file__).parents[2]
MODULES = ("ops", "layers", "memories.lm2", "model", "recurrence", "optim")
GUARDS = {                                               # module -> the tests that must notice
    "training.trainer": "training resume parity_torch",
    "training.checkpoint": "training resume crash bad_input",
    "training.run_dir": "crash bad_input resume training",
    "files": "crash bad_input plots",
    "data.samplers": "batches segments training tasks",
    "tutorials.assignments.protocol": "grader_protocol grader_sandbox",
}
SLOW = "not killed_at_any_moment and not start_at_once and not closed_output and not full_disk and not may_not_grow"
SECONDS = 600                                            # a mutant that takes longer hangs
SURVIVED = 3                                             # exit status of a fork
VALUES = int | float | str | tuple | dict                # of the constants of a module

OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
             ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
               ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
OPTIONS = {"causal", "pad", "past", "start", "step", "write", "truncate", "last", "total", "frozen"}     # of the pairs


@dataclass(frozen=True)
class Mutant:
    """One change: of which module's tree, at which place, and what stands there then."""

    module: str
    tree: ast.Module
    parent: ast.AST
    field: str
    index: int | None
    new: ast.AST | None                                  # None: the statement is taken away

    @property
    def old(self):
        value = getattr(self.parent, self.field)
        return value if self.index is None else value[self.index]

    def __str__(self):
        new = "nothing" if self.new is None else _text(self.new)
        return f"{file_of(self.module)}:{getattr(self.old, 'lineno', 0)}: {_text(self.old)}  ->  {new}"

    def code(self):
        """The changed module, compiled. The tree is changed for good: call it in a fork."""
        new = ast.Pass() if self.new is None else self.new
        if self.index is None:
            setattr(self.parent, self.field, new)
        else:
            getattr(self.parent, self.field)[self.index] = new
        return compile(ast.fix_missing_locations(self.tree), f"{file_of(self.module)}, changed", "exec")


def file_of(module):
    """The file of a module, below tinylm2/ or below the repository."""
    return module.replace(".", "/") + ".py"


def path_of(module):
    return (ROOT if module.startswith("tutorials.") else ROOT / "tinylm2") / file_of(module)


# ---------------------------------------------------------------------------------------------------------- the changes


def changes(node):
    """Every change of one node: a fresh node to stand in its place, or None to take a statement away."""
    def like(**fields):
        other = copy.deepcopy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        return other

    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.MatMult):
            yield like(left=node.right, right=node.left)
        else:
            if type(node.op) in OPERATORS:
                yield like(op=OPERATORS[type(node.op)]())
        if isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.BitOr | ast.BitAnd):
            yield copy.deepcopy(node.left)               # a term or a factor dropped
        if isinstance(node.op, ast.Add | ast.Mult | ast.BitOr | ast.BitAnd):
            yield copy.deepcopy(node.right)
    elif isinstance(node, ast.AugAssign):
        if type(node.op) in OPERATORS:
            yield like(op=OPERATORS[type(node.op)]())
        yield None
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Invert | ast.Not):
        yield copy.deepcopy(node.operand)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield like(ops=[COMPARISONS[type(node.ops[0])]()])
    elif isinstance(node, ast.BoolOp):
        yield like(op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
    elif isinstance(node, ast.IfExp):
        yield like(body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield like(value=not node.value)
        elif isinstance(node.value, int):
            yield like(value=node.value + 1)
        elif isinstance(node.value, float):
            yield like(value=node.value * 1.1 if node.value else 0.1)
    elif isinstance(node, ast.Attribute) and node.attr == "T" and isinstance(node.ctx, ast.Load):
        yield copy.deepcopy(node.value)
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "transpose":
            yield like(args=[node.args[1], node.args[0], *node.args[2:]])
            yield like(args=[*node.args[:-2], node.args[-1], node.args[-2]])
        elif name in ("conj", "ascontiguousarray", "view") and not node.args:
            yield copy.deepcopy(node.func.value)
        elif name in ("max", "min", "maximum", "minimum"):
            other = copy.deepcopy(node)
            swapped = {"max": "min", "min": "max", "maximum": "minimum", "minimum": "maximum"}[name]
            if isinstance(other.func, ast.Attribute):
                other.func.attr = swapped
            else:
                other.func.id = swapped
            yield other
        elif name not in ("check_shapes", "range", "get_xp", "isinstance", "getattr"):
            for i in range(len(node.args) - 1):          # two arguments swapped
                if not isinstance(node.args[i], ast.Starred) and not isinstance(node.args[i + 1], ast.Starred):
                    args = list(node.args)
                    args[i], args[i + 1] = args[i + 1], args[i]
                    yield like(args=args)
        for i, keyword in enumerate(node.keywords):      # an option forgotten
            if keyword.arg in OPTIONS:
                yield like(keywords=node.keywords[:i] + node.keywords[i + 1:])
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        for i in range(len(node.value.elts) - 1):        # two results swapped
            elts = list(node.value.elts)
            elts[i], elts[i + 1] = elts[i + 1], elts[i]
            yield like(value=ast.Tuple(elts, ast.Load()))
    elif isinstance(node, ast.If):
        yield like(test=ast.UnaryOp(ast.Not(), node.test))
        if not node.orelse and all(isinstance(line, ast.Raise) for line in node.body):
            yield None                                   # a check taken away
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield None


def left_alone(node):
    """Docstrings, messages, decorators and type hints: they change no number."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield from node.decorator_list
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node, clean=False):
        yield node.body[0]
    if isinstance(node, ast.Raise):
        yield node
    if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation:
        yield node.annotation
    if isinstance(node, ast.JoinedStr):
        yield node


def mutants(module, source=None):
    """Every mutant of a module of the core, such as "memories.lm2"."""
    source = source or path_of(module).read_text(encoding="utf-8")
    tree = ast.parse(source)
    skipped = set()
    for node in ast.walk(tree):
        for part in left_alone(node):
            skipped |= set(map(id, ast.walk(part)))
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            for i, node in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(node, ast.AST) and id(node) not in skipped:
                    index = i if isinstance(value, list) else None
                    for new in changes(node):
                        if field in ("body", "orelse") if new is None else ast.dump(new) != ast.dump(node):
                            yield Mutant(module, tree, parent, field, index, new)


def _text(node):
    return " ".join(ast.unparse(node).split())[:70]


# -------------------------------------------------------------------------------------------------------------- a trial


def install(mutant):
    """Give the functions and methods of the living module the code of the changed ones, whoever holds them."""
    name = mutant.module if mutant.module.startswith("tutorials.") else f"tinylm2.{mutant.module}"
    module = importlib.import_module(name)
    namespace = {"__name__": module.__name__, "__file__": module.__file__}
    exec(mutant.code(), namespace)
    for name, new in namespace.items():
        old = getattr(module, name, None)
        if isinstance(old, type) and isinstance(new, type) and old.__module__ == module.__name__:
            for attribute, value in vars(new).items():
                _transfer(vars(old).get(attribute), value)
        elif not _transfer(old, new) and isinstance(new, VALUES) and not name.startswith("__"):
            setattr(module, name, new)


def _transfer(old, new):
    if isinstance(old, property):
        old, new = old.fget, new.fget
    while hasattr(old, "__wrapped__") and hasattr(new, "__wrapped__"):   # lru_cache, fused
        if hasattr(old, "cache_clear"):
            old.cache_clear()
        old, new = old.__wrapped__, new.__wrapped__
    if not isinstance(old, FunctionType) or not isinstance(new, FunctionType):
        return False
    if old.__code__.co_freevars == new.__code__.co_freevars:
        old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
    return True


def quickly_killed(module):
    """Does a gradient check of the core fail? The module's own first; of the model, a block and a segment suffice."""
    from tinylm2.checking.cases import CASES

    if module in GUARDS:
        return False
    own = [case for case in CASES if case.module.__name__.endswith(module) and case.pair != "story"]
    small = [case for case in CASES if case.part != "model" and case not in own]
    for case in own + small:
        try:
            if not case.check(directions=2 if case.part == "model" else None).passed:
                return True
        except Exception:
            return True
    return False


class Trials:
    """A pytest plugin: times the core tests once, and runs them for each mutant in a fork, the fast ones first."""

    def __init__(self, chosen, show):
        self.chosen, self.show, self.survivors = chosen, show, []

    def pytest_runtestloop(self, session):
        seconds = {}
        for item in session.items:
            began = time.perf_counter()
            assert passes(item), f"{item.nodeid} fails without a mutant"
            seconds[item] = time.perf_counter() - began
        items = sorted(session.items, key=seconds.get)
        began = time.perf_counter()
        for i, mutant in enumerate(self.chosen, 1):
            if not self.killed(mutant, items):
                self.survivors.append(mutant)
                self.show(f"survives: {mutant}")
            if i % 25 == 0:
                spent = time.perf_counter() - began
                self.show(f"{i} of {len(self.chosen)} tried, {len(self.survivors)} survive, {spent:.0f} s")
        return True

    @staticmethod
    def killed(mutant, items):
        """Tried in a fork, which the clock ends."""
        sys.stdout.flush()
        child = os.fork()
        if not child:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            signal.alarm(SECONDS)
            killed = True
            try:
                with np.errstate(all="ignore"):
                    install(mutant)
                    killed = quickly_killed(mutant.module) or not all(map(passes, items))
            finally:
                os._exit(0 if killed else SURVIVED)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != SURVIVED


def passes(item):
    """Run one collected test."""
    from _pytest.runner import runtestprotocol

    return not any(report.failed for report in runtestprotocol(item, log=False))


def sample(found, count):
    """`count` of the mutants, spread evenly over the files and lines; all of them where there are not more."""
    return found if len(found) <= count else [found[i * len(found) // count] for i in range(count)]


def run(count=10**9, show=print, modules=MODULES):
    """-> (tried, survivors). Of several groups, modules that share their tests, run each in a process of its own."""
    import pytest

    found = [mutant for module in modules for mutant in mutants(module)]
    trials = Trials(sample(found, count), show)
    show(f"{len(found)} mutants, {len(trials.chosen)} of them tried")
    guards = {GUARDS.get(module) for module in modules}
    assert len(guards) == 1, "these modules are not watched by the same tests"
    (guard,) = guards
    chosen = ["-m", "core", str(ROOT / "tests")] if guard is None else [
        "-k", SLOW, *(str(ROOT / "tests" / f"test_{name}.py") for name in guard.split())]
    status = pytest.main(["-p", "no:cacheprovider", "-s", *chosen], plugins=[trials])
    assert status in (0, 5), "the tests cannot be collected, or fail without a mutant"
    return len(trials.chosen), trials.survivors
