"""Assignment 7: the model solution gets all points, typical mistakes are named, and a memory can be trained."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tinylm2.memories import MEMORIES
from tinylm2.training import curriculum
from tutorials.assignments import a7, a7_solution, handout, own_memory
from tutorials.assignments.a7_wrong import WRONG
from tutorials.assignments.client import Limits
from tutorials.assignments.grader import grade

QUICK = {"plan": {"segments": [2], "steps": [2], "short": (1, 16)}, "questions": 4}


def written(folder, text):
    path = folder / "my_a7.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def solution(tmp_path):
    return written(tmp_path, handout.students_file(a7.ASSIGNMENT, solved=True))


def graded(path, **how):
    return grade(a7.ASSIGNMENT, path, **{"seed": 0, "limits": a7.LIMITS, **how})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_model_solution_gets_all_points(solution, seed):
    report = graded(solution, seed=seed)
    assert (report.points, report.out_of) == (100, 100), str(report)


def test_stubs_get_nothing_and_the_report_says_why(tmp_path):
    report = graded(written(tmp_path, handout.students_file(a7.ASSIGNMENT)))
    assert report.points == 0
    assert "it is not written yet" in str(report)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_mistake_costs_points_and_is_named(wrong, tmp_path):
    report = graded(written(tmp_path, wrong.text()))
    assert any(wrong.symptom in line for line in report.feedback(wrong.function)), str(report)
    assert report.points < 100


@pytest.mark.long
@pytest.mark.parametrize("name", ["lm2", "memformer", "infini", "armt", "titans"])
def test_the_librarys_memories_would_get_all_points(name, tmp_path, monkeypatch):
    """The tests fit every idea, not the model solution alone. In the worker the memory's own file is given."""
    library = own_memory.OwnMemory.library

    def with_memories(self):
        files = library(self)
        for path in (handout.LIBRARY / "memories").glob("*.py"):
            if path.stem != "__init__":
                files[f"tinylm2/memories/{path.name}"] = path.read_text(encoding="utf-8")
        return files

    monkeypatch.setattr(own_memory.OwnMemory, "library", with_memories)
    names = ", ".join(own_memory.NEEDED)
    text = (f"from tinylm2.memories import {name} as memory\nfrom tinylm2.memories.{name} import {names}, VECTORS\n\n\n"
            "def param_shapes(cfg):\n    shapes = memory.param_shapes(cfg)\n"
            "    return {key: shape for key, shape in shapes.items() if key not in ('mem.Wout', 'mem.bout')}\n")
    report = graded(written(tmp_path, text))
    assert report.points == 100, str(report)


def test_a_copy_of_a_memory_of_the_library_is_not_graded(tmp_path):
    text = (handout.LIBRARY / "memories" / "armt.py").read_text(encoding="utf-8")
    assert "a copy of the library's file" in str(graded(written(tmp_path, text)))


def test_no_finished_memory_is_beside_a_solution(tmp_path):
    report = graded(written(tmp_path, "from tinylm2.memories.lm2 import *\n"))
    assert report.points == 0
    assert "cannot be loaded" in str(report)
    files = handout.files(a7.ASSIGNMENT)
    assert not {f"tinylm2/memories/{name}.py" for name in MEMORIES} & files.keys()


def test_a_memory_that_writes_a_file_breaks_the_rules(solution, tmp_path):
    text = solution.read_text(encoding="utf-8").replace(
        "    n, (A,), H = seg[0], state, cfg.H\n",
        f"    n, (A,), H = seg[0], state, cfg.H\n    open({str(tmp_path / 'stolen')!r}, 'w')\n")
    report = graded(written(tmp_path, text))
    assert report.points == 0
    assert "writes" in str(report)
    assert not (tmp_path / "stolen").exists()


def test_a_memory_that_does_not_end_is_stopped(solution, tmp_path):
    loops = "    (A,) = state\n    while True:\n        pass\n"
    text = solution.read_text(encoding="utf-8").replace("    (A,) = state\n", loops)
    report = graded(written(tmp_path, text), limits=Limits(seconds=2.0, total=20.0))
    assert "stopped after 2 seconds" in str(report)


# -------------------------------------------------------------------------------------------------------- the training


def test_a_memory_is_trained_in_the_worker_as_it_would_be_here(solution, monkeypatch):
    """The same numbers as with the memory's functions in this process, to the last bit of every gradient."""
    monkeypatch.setattr(a7, "curriculum", _short)
    there = a7.train_solution(solution, **QUICK)
    mine = a7_solution

    class Here(own_memory.Remote):
        """The interface answered by the module itself."""

        def declared(self, cfg):
            return {"params": mine.param_shapes(cfg), "state": mine.state_shapes(cfg), "vectors": mine.VECTORS}

    class Local:
        caches = {}

        def forward(self, slot, name, inputs, cfg, **constants):
            forward, cfg = getattr(mine, f"{name}_forward"), SimpleNamespace(**cfg)
            *outputs, self.caches[slot] = forward(*inputs, cfg=cfg, **constants)
            return tuple(outputs)

        def backward(self, slot, name, upstreams):
            return getattr(mine, f"{name}_backward")(*upstreams, self.caches[slot])

    here = Here(Local())
    like = a7.Config(V=a7.word_tokenizer().size)
    here.known[like] = here.declared(like)
    with own_memory.registered(a7.NAME, here):
        cfg = a7.with_params_of(like, replace(like, memory=a7.NAME))
        local = a7.trained(cfg, begin=here.begin, **QUICK)
    assert isinstance(there, dict), there
    assert {**there, "seconds": 0} == {**local, "seconds": 0}
    assert there["parameters"] == pytest.approx(48928, rel=0.02)


def _short(**plan):
    """Two steps of each stage, on few stories."""
    return tuple(replace(stage, steps=min(stage.steps, 2), required=False, batch_size=4)
                 for stage in curriculum.curriculum(**plan))


def test_the_table_is_left_as_it_was(solution, monkeypatch):
    monkeypatch.setattr(a7, "curriculum", _short)
    before = dict(MEMORIES)
    a7.train_solution(solution, **QUICK)
    assert dict(MEMORIES) == before


def test_a_memory_that_breaks_in_training_gets_a_line_and_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(a7, "curriculum", _short)
    path = written(tmp_path, handout.students_file(a7.ASSIGNMENT, solved=True).replace(
        "    (A,) = state\n", "    (A,) = state\n    assert n.shape[1] < 16\n"))
    found = a7.train_solution(path, **QUICK)
    assert found.startswith("no leaderboard line: read_forward: it raised AssertionError")


def test_a_memory_with_too_many_parameters_is_not_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(a7, "curriculum", _short)
    path = written(tmp_path, handout.students_file(a7.ASSIGNMENT, solved=True).replace(
        '"mem.Wgate": (cfg.D, cfg.H), ', '"mem.Wgate": (cfg.D, cfg.H), "mem.W": (cfg.D, 40 * cfg.D), '))
    assert "leave no room" in a7.train_solution(path, **QUICK)


def test_the_reference_was_trained_by_todays_plan():
    """`python -m tutorials.assignments.a7 reference` makes it."""
    found = json.loads(a7.REFERENCE.read_text(encoding="utf-8"))
    assert (found["plan"], found["questions"]) == (a7.PLAN, a7.QUESTIONS)
    assert list(found["models"]) == list(a7.RIVALS)
    for model in found["models"].values():
        assert model["parameters"] == pytest.approx(48928, rel=0.02)
        assert list(model["accuracy"]) == [str(n) for n in a7.SEGMENTS]
    assert found["models"]["lm2"]["accuracy"]["8"] > found["models"]["none"]["accuracy"]["8"]


def test_the_leaderboard_names_the_memory_first_and_all_others():
    mine = {"accuracy": {"4": 0.5, "8": 0.25, "16": 0.125}, "steps": 7, "learned": "yes", "parameters": 48000}
    lines = a7.leaderboard(mine, "my_a7.py").splitlines()
    assert re.match(r"my_a7\.py +0\.50 +0\.25 +0\.12 +48,000 +7$", lines[1])
    assert [line.split()[0] for line in lines[2:]] == list(a7.RIVALS)


# --------------------------------------------------------------------------------------------------- sheet and commands


def test_the_sheets_points_are_the_graders():
    text = (handout.HERE / "a7.md").read_text(encoding="utf-8")
    rows = {name: int(points) for name, points in re.findall(r"^\| `(\w+)` \| (\d+) \|", text, flags=re.MULTILINE)}
    found = {}
    for test in a7.TESTS:
        found[test.function] = found.get(test.function, 0) + test.points
    assert rows == found
    assert sum(rows.values()) == 100
    assert text.startswith(f"# {a7.ASSIGNMENT.title}: {a7.ASSIGNMENT.subject}\n")
    assert text.count("<details><summary>") == text.count("</details>") >= 4


@pytest.mark.parametrize("solved", [True, False])
def test_the_check_of_a_handout_does_what_the_sheet_says(tmp_path, solved):
    handout.write(handout.files(a7.ASSIGNMENT, solved=solved), tmp_path)
    done = subprocess.run([sys.executable, "check.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == solved, done.stdout
    assert ("TO DO" in done.stdout) != solved
    assert "Traceback" not in done.stdout + done.stderr


def test_the_check_of_a_handout_finds_wrong_gradients(tmp_path):
    handout.write(handout.files(a7.ASSIGNMENT, solved=True), tmp_path)
    for wrong in (w for w in WRONG if w.function.endswith("_backward")):
        (tmp_path / "my_a7.py").write_text(wrong.text(), encoding="utf-8")
        done = subprocess.run([sys.executable, "check.py"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1, wrong.name
        assert f"FAILED {wrong.function}" in done.stdout, wrong.name


def test_the_commands(tmp_path, solution, capsys):
    assert a7.main(["handout", "-o", str(tmp_path / "out")]) == 0
    assert a7.main(["handout", "-o", str(tmp_path / "out")]) == 2
    assert a7.main(["grade", str(solution), "--points-only", "--seed", "3", "--json", str(tmp_path / "r.json")]) == 0
    assert "100 of 100" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["points"] == 100
    assert a7.main(["grade", str(tmp_path / "nothing.py")]) == 2


def test_the_worker_answers_with_arrays_of_the_right_kind_or_not_at_all():
    remote = own_memory.Remote(None)
    good = np.zeros((2, 3), np.float32)
    assert remote._array("read_forward", "y", good, (2, 3), np.float32) is good
    for bad in (None, good.astype(float), good[:1], [[0.0]]):
        with pytest.raises(own_memory.Failed):
            remote._array("read_forward", "y", bad, (2, 3), np.float32)
