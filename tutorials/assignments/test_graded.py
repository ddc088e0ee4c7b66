"""Grading as pytest tests, in a clone and from an installed package:

    pytest -m a3 --impl my_a3.py
    pytest --pyargs tutorials.assignments -m a3 --impl my_a3.py         from any folder

Without a file the library's own solutions are graded. `tinylm2/course.py` has the options.
"""

from pathlib import Path

import pytest

from tutorials.assignments import handout
from tutorials.assignments.__main__ import ASSIGNMENTS
from tutorials.assignments.client import Limits
from tutorials.assignments.grader import grade


def written(folder, assignment, **how):
    """A file with the stubs of an assignment, or with its solution."""
    path = folder / f"my_{assignment.name}.py"
    path.write_text(handout.students_file(assignment, **how), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def reports(request, tmp_path_factory):
    """The report on an assignment's solution, the student's or the library's, made when it is first asked for."""
    made = {}

    def report(assignment):
        if assignment.name not in made:
            student = request.config.getoption("impl", None)
            path = Path(student) if student else written(tmp_path_factory.mktemp("solved"), assignment, solved=True)
            seed = request.config.getoption("seed", None)
            made[assignment.name] = grade(assignment, path, seed=0 if seed is None and not student else seed,
                                          limits=getattr(assignment, "limits", Limits()))
        return made[assignment.name]

    return report


GRADED = [pytest.param(assignment, test, id=f"{assignment.name}-{test.function}-{test.title}",
                       marks=getattr(pytest.mark, assignment.name))
          for assignment in ASSIGNMENTS.values() for unit in assignment.units for test in unit.tests]


@pytest.mark.parametrize(("assignment", "test"), GRADED)
def test_graded(assignment, test, reports):
    """Every test of every assignment, with the library's own solution unless --impl names another."""
    report = reports(assignment)
    result = next(result for result in report.results if result.test is test)
    if result.feedback:
        pytest.fail("\n".join([f"seed {report.seed}", *report.broken, *result.feedback]), pytrace=False)
