"""The course's assignments: nothing of a solution leaks, the grader counts right and says what is true.

`pytest -m a3 --impl my_a3.py` grades a student's file by the tests that grade the library's own solutions here.
"""

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tutorials.assignments import client, handout, wrong_solutions
from tutorials.assignments.__main__ import main
from tutorials.assignments.grader import ASSIGNMENTS, grade
from tutorials.assignments.test_graded import reports, test_graded, written  # noqa: F401  tests here, too
from tutorials.assignments.wrong_solutions import WRONG_SOLUTIONS

ROOT = Path(__file__).resolve().parents[1]
NAMES = list(ASSIGNMENTS)
SAMPLE = WRONG_SOLUTIONS[::9]                            # in this file; run_wrong_solutions takes all
QUICK = client.Limits(seconds=2.0)       # for those that are known to run into a limit


@pytest.fixture(params=NAMES)
def assignment(request):
    return ASSIGNMENTS[request.param]


# ------------------------------------------------------------------------------------------------------ pytest -m a3


@pytest.mark.parametrize("solved", [True, False])
def test_pytest_grades_a_students_file(tmp_path, solved):
    path = written(tmp_path, ASSIGNMENTS["a1"], solved=solved)
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "a1", f"--impl={path}"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode == 0) == solved, done.stdout
    assert ("it is not written yet" in done.stdout) != solved


# -------------------------------------------------------------------------------------------------------------- points


def test_every_assignment_has_100_points_and_three_to_five_functions(assignment):
    assert assignment.points == 100
    assert 3 <= len(assignment.functions) <= 5
    names = {name.partition(".")[2] for name in assignment.functions}
    assert {test.function for unit in assignment.units for test in unit.tests} == names


def test_the_librarys_solution_scores_all_points(assignment, reports, request):  # noqa: F811
    if request.config.getoption("impl"):
        pytest.skip("a student's file is graded")
    report = reports(assignment)
    assert (report.points, report.out_of) == (100, 100), str(report)
    assert report.seconds < 60


def test_stubs_score_nothing_and_the_report_says_why(assignment, tmp_path):
    report = grade(assignment, written(tmp_path, assignment), seed=0)
    assert report.points == 0
    for name in assignment.functions:
        said = report.feedback(name.partition(".")[2])
        assert any("not written yet" in line or "must run first" in line for line in said), said


def test_one_unit_cannot_lose_the_points_of_another(tmp_path):
    """The right attend with a wrong rope: what is examined beside attend is the library's rope."""
    path = written(tmp_path, ASSIGNMENTS["a3"], solved=True)
    path.write_text(path.read_text() + "\n\ndef rope_forward(x, **_):\n    raise ValueError\n")
    report = grade(ASSIGNMENTS["a3"], path, seed=0)
    lost = {result.test.function for result in report.results if result.feedback}
    assert lost == {"rope_forward", "rope_backward"}


def test_the_same_seed_asks_the_same_and_another_one_something_else(tmp_path):
    wrong = next(wrong for wrong in WRONG_SOLUTIONS if wrong.function == "linear_backward")
    three = [wrong.grade(tmp_path, seed=seed) for seed in (3, 3, 4)]
    assert three[0].feedback() == three[1].feedback() != three[2].feedback()
    assert grade(ASSIGNMENTS["a1"], tmp_path / "my_a1.py", units=()).seed != grade(
        ASSIGNMENTS["a1"], tmp_path / "my_a1.py", units=()).seed


def test_the_report_names_a_function_that_is_missing(tmp_path):
    path = written(tmp_path, ASSIGNMENTS["a2"], solved=True)
    path.write_text(path.read_text().replace("def rmsnorm_backward", "def rmsnorm_back"))
    report = grade(ASSIGNMENTS["a2"], path, seed=0, units=(1,))
    assert report.feedback("rmsnorm_backward") == ["rmsnorm_backward: my_a2.py has no rmsnorm_backward"] * 3
    assert not report.feedback("rmsnorm_forward")


@pytest.mark.parametrize("text", ["def linear_forward(:\n", "\0", "import nowhere_to_be_found\n", "1 / 0\n"])
def test_the_report_says_why_a_file_cannot_be_loaded(tmp_path, text):
    path = tmp_path / "my_a1.py"
    path.write_text(text)
    report = grade(ASSIGNMENTS["a1"], path, seed=0)
    assert report.points == 0
    errors = "SyntaxError|ValueError|ModuleNotFoundError|ZeroDivisionError"
    assert re.search(f"my_a1.py cannot be loaded: it raised ({errors})", str(report))


# -------------------------------------------------------------------------------------------------------- nothing leaks


def statements(tree):
    """The statements of a piece of code, each as one normalised line; of a compound one, its head."""
    apart = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
    for node in ast.walk(tree):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and not isinstance(node, apart) and not docstring:
            line = ast.unparse(node).splitlines()[0]
            yield re.sub(r"^\(([^()]*)\) = ", r"\1 = ", line)            # Python 3.10 writes `(a, b) = ...`


def withheld(assignment):
    """The statements of a solution that students do not get: the bodies behind their contracts, and the helpers."""
    for name in assignment.functions:
        stub = set(statements(ast.parse(textwrap.dedent(handout.stub(name, "")))))
        yield from (line for line in statements(handout.function(name)) if line not in stub)
    for file, name in handout.solution(assignment) - handout.offered(assignment):
        yield from statements(handout.module(file).definitions[name].node)


PLUMBING = re.compile(                                   # says nothing about how a gradient is found
    r"xp = get_xp\(.*\)|cache = \{.*\}|return \w+(, \w+)*|[\w, ]+ = [\w\[\]]+\.shape(\[[\d:-]*\])?|\w+(, \w+)* = cache"
    r"|else:|pass|continue|break")


def test_no_line_of_a_solution_is_in_its_handout(assignment):
    """Statement by statement in its code, and as text in everything that is handed out."""
    files = handout.files(assignment)
    secret = {line for line in withheld(assignment) if not PLUMBING.fullmatch(line)}
    assert len(secret) > 10
    given = {line for path, text in files.items() if path.endswith(".py") for line in statements(ast.parse(text))}
    assert not secret & given
    for path, text in files.items():
        squeezed = re.sub(r"\s|#.*", "", text)
        for line in secret:
            if len(line) > 15:
                assert re.sub(r"\s", "", line) not in squeezed, f"{path}: {line}"


def test_the_leak_test_finds_a_leak(assignment):
    """A handout with one line of the solution in it would not pass."""
    solved = set(statements(ast.parse(handout.students_file(assignment, solved=True))))
    assert {line for line in withheld(assignment) if not PLUMBING.fullmatch(line)} & solved


def test_a_handout_is_the_sheet_the_stubs_the_check_and_what_they_need(assignment, tmp_path):
    folder = tmp_path / "handout"
    assert main(["handout", assignment.name, "-o", str(folder)]) == 0
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {f"{assignment.name}.md", f"my_{assignment.name}.py", "check.py", "checking.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    for file, _ in map(handout.top, assignment.functions):
        names -= {f"tinylm2/{file}.py", f"tinylm2/{file.rpartition('/')[0]}/__init__.py"}
    library = {f"tinylm2/{file}.py" for file, _ in handout.offered(assignment)} | {"tinylm2/__init__.py"}
    assert {name for name in names if name.startswith("tinylm2")} <= library


def test_a_handout_holds_what_it_cites(assignment):
    """Every file that one of its texts names, and every function that the sheet names with its file."""
    files = handout.files(assignment)
    for path, text in files.items():
        for cited in re.findall(r"[\w/]*\w\.(?:py|js|md|json)\b", text):
            assert {cited, f"tinylm2/{cited}"} & files.keys(), f"{path} cites {cited}"
    own = {name.partition("/")[2] or name for name in assignment.functions}
    for file, name in re.findall(r"`(\w+)\.(\w+)", files[f"{assignment.name}.md"]):
        if f"tinylm2/{file}.py" in files and f"{file}.{name}" not in own and name != "something":
            assert f"def {name}(" in files[f"tinylm2/{file}.py"], f"the sheet cites {file}.{name}"


def test_a_handout_keeps_no_import_twice(assignment):
    lines = [line.split(" import ")[0] for line in handout.students_file(assignment).splitlines() if "import " in line]
    assert len(lines) == len(set(lines))


def test_what_is_handed_out_names_no_function_of_a_later_assignment(assignment):
    later = {handout.top(name) for other in ASSIGNMENTS.values() if other.name > assignment.name
             for name in other.functions}
    if assignment.name == "a1":
        later -= {("gradcheck", name) for name in ("central_differences", "worst_entry")}
    assert not later & handout.offered(assignment)


def test_a_stub_keeps_its_contract_and_says_what_to_write():
    names = {"ops": __import__("tinylm2.ops").ops}
    exec(compile(handout.students_file(ASSIGNMENTS["a3"]), "my_a3.py", "exec"), names)
    with pytest.raises(NotImplementedError, match="^Assignment 3: write attend_backward$"):
        names["attend_backward"](None, None)
    q, k = np.zeros((2, 3, 4, 2)), np.zeros((2, 5, 3, 2))
    with pytest.raises(ValueError, match="attend: 3 key heads do not divide 4 query heads"):
        names["attend_forward"](q, k, k)
    with pytest.raises(NotImplementedError, match="^Assignment 3: write attend_forward$"):
        names["attend_forward"](q, k[:, :, :2], k[:, :, :2])


def test_a_folder_that_holds_work_is_not_written_over(tmp_path, capsys):
    (tmp_path / "my_a1.py").write_text("my work")
    assert main(["handout", "a1", "-o", str(tmp_path)]) == 2
    assert (tmp_path / "my_a1.py").read_text() == "my work"
    assert capsys.readouterr().err.count("\n") == 1


# -------------------------------------------------------------------------------------------------- sheets and commands


def commands(path):
    """Every line that a sheet tells to type."""
    return [line for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            for line in block.splitlines()]


def typed(command, cwd):
    """Type a command; its exit status and all that it says."""
    program, *arguments = command.split()
    program = [sys.executable] if program == "python" else [sys.executable, "-m", program]
    done = subprocess.run([*program, *arguments], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    return done.returncode, done.stdout + done.stderr


def test_the_commands_of_a_sheet_do_what_it_says(assignment, tmp_path):
    """For whoever has solved it, and for whoever has not begun."""
    sheet = handout.HERE / f"{assignment.name}.md"
    assert commands(sheet) == ["python check.py"]
    for solved in (True, False):
        folder = tmp_path / str(solved)
        handout.write(handout.files(assignment, solved=solved), folder)
        status, said = typed(commands(sheet)[0], folder)
        assert (status == 0) == solved, said
        assert ("TO DO" in said) != solved
        assert "Traceback" not in said
        for name in assignment.functions:                # every function is asked for
            assert name.rpartition(".")[2].removesuffix("_forward").removesuffix("_backward") in said


def test_the_teachers_commands_do_what_the_page_says(tmp_path):
    page = handout.HERE / "README.md"
    expected = {"handout a3 -o": 0, "handout a3 --solved": 0, "grade a3 handout": 1, "-m a3 --impl": 1,       # stubs
                "grade a3 submissions": 0}
    (tmp_path / "submissions").mkdir()
    written(tmp_path / "submissions", ASSIGNMENTS["a3"])
    assert len(commands(page)) == len(expected)
    for name in ("conftest.py", "pyproject.toml", "tests", "tinylm2", "tutorials"):         # a clone, to be written to
        (tmp_path / name).symlink_to(ROOT / name)
    for command in commands(page):
        status, said = typed(command, tmp_path)
        assert [status] == [code for part, code in expected.items() if part in command], said
        assert "rror" not in said.replace("NotImplementedError", ""), said
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["points"], report["out_of"], report["seed"]) == (0, 100, 7)
    assert report["functions"]["attend_backward"]["out_of"] == 31
    assert all(test["feedback"] for test in report["tests"])


def test_a_sheets_points_and_names_are_the_graders(assignment):
    text = (handout.HERE / f"{assignment.name}.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (\d+) \|$", text, flags=re.MULTILINE))
    points = {}
    for unit in assignment.units:
        for test in unit.tests:
            points[test.function] = points.get(test.function, 0) + test.points
    assert {name: int(n) for name, n in rows.items()} == points
    assert text.startswith(f"# {assignment.title}: {assignment.subject}\n")
    assert text.count("<details><summary>") == text.count("</details>") >= 4


@pytest.mark.parametrize(("arguments", "said"), [
    (["handout", "a9", "-o", "x"], "invalid choice"), (["grade", "a1", "not_there.py"], "found no such file"),
    (["grade", "a1"], "required"), (["mark", "a1"], "invalid choice")], ids=str)
def test_bad_input_leaves_with_status_2_and_one_line(arguments, said, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


# ------------------------------------------------------------------------------------------------------ wrong solutions


def test_there_are_enough_wrong_solutions_and_each_is_its_own():
    for name in NAMES:
        assert sum(wrong.assignment == name for wrong in WRONG_SOLUTIONS) >= 6
    assert len({str(wrong) for wrong in WRONG_SOLUTIONS}) == len(WRONG_SOLUTIONS) >= 200
    for wrong in WRONG_SOLUTIONS:
        ast.parse(wrong.text())


@pytest.mark.parametrize("wrong", SAMPLE, ids=str)
def test_a_wrong_solution_loses_points_and_the_report_says_why(wrong, tmp_path):
    report = wrong.grade(tmp_path, seed=1, limits=QUICK)
    assert report.points < report.out_of
    assert wrong.explained(report), str(report)
    assert not wrong.misled(report), str(report)


def run_wrong_solutions(seed=0, show=print):
    """All wrong solutions: 1 when one loses no points, when the feedback of one misleads, or when it is right for fewer
    than 95 %."""
    right, misleading, missed = wrong_solutions.measure(WRONG_SOLUTIONS, seed=seed, verbose=True, show=show)
    return 1 if missed or misleading or right < 0.95 * len(WRONG_SOLUTIONS) else 0


run_bank = run_wrong_solutions                           # the name that tests/full.py uses


def test_a_solutions_folder_holds_no_line_of_what_is_examined(assignment):
    """Neither the functions themselves nor what only they use; every other file is read without a wall in the way."""
    for unit in assignment.units:
        kept = handout.beside(assignment, unit.functions)
        assert not {handout.top(name) for name in unit.functions} & kept
        text = "\n".join(handout.library(kept).values())
        for name in unit.functions:
            assert f"def {name.rpartition('.')[2]}(" not in text or name.count(".") == 2
