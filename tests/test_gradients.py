"""Every hand-written gradient of the library, against central differences; and nothing is skipped."""

import inspect

import pytest

from tinylm2 import layers, model, ops, recurrence
from tinylm2.checking.cases import CASES
from tinylm2.memories import MEMORIES, primitives

DIRECTIONS = 8                                           # of a model's tensors; the command checks every entry of them
MODULES = {"ops": ops, "layers": layers, "primitives": primitives, "model": model, "recurrence": recurrence,
           **{name: memory for name, memory in MEMORIES.items() if memory is not None}}

pytestmark = pytest.mark.core


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.part}: {case.name}")
def test_backward_is_the_derivative_of_forward(case):
    check = case.check(directions=DIRECTIONS if case.part == "model" else None)
    assert check.passed, check


@pytest.mark.parametrize("name", MODULES)
def test_every_public_pair_has_a_case(name):
    module = MODULES[name]
    named = {name for name, _ in inspect.getmembers(module, inspect.isfunction) if not name.startswith("_")}
    forwards = {name.removesuffix("_forward") for name in named if name.endswith("_forward")}
    backwards = {name.removesuffix("_backward") for name in named if name.endswith("_backward")}
    assert forwards == backwards == {case.pair for case in CASES if case.module is module}


def test_case_names_are_unique():
    assert len({(case.part, case.name) for case in CASES}) == len(CASES)


def test_a_case_runs_the_function_that_stands_in_the_module_now(monkeypatch):
    (case,) = (case for case in CASES if case.name == "tanh")
    monkeypatch.setattr(ops, "tanh_backward", lambda dy, y: (dy * (1 - y),))
    assert not case.check().passed
