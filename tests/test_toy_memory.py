"""One file to add a memory: the example of docs/MODEL.md, put into a copy of the package, trains, answers and is drawn.

The copy gets the file and the two lines that the page names, and nothing else. What runs there are the commands, in
processes of their own; `train` has a curriculum of seconds.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import crash

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "MODEL.md"
CASES = """
import sys
from tinylm2 import gradcheck
from tinylm2.checking import cases
sys.exit(gradcheck.report([case for case in cases.CASES if "toy" in case.name and case.part in sys.argv[1:]]))
"""
TRAIN = """
import sys
from tests.support import crash, small
from tinylm2.__main__ import main
from tinylm2.cli import train
from tinylm2.training import material, trained_model
trained_model.curriculum, material.GrammarFiller, train.QUESTIONS = crash.curriculum, small.FewSentences, 20
sys.exit(main(["train", *sys.argv[1:]]))
"""


def added(folder, plant=lambda code: code):
    """A copy of the package in `folder` with the toy memory in it; `plant` may spoil its code."""
    file, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[-2:]
    shutil.copytree(ROOT / "tinylm2", folder / "tinylm2", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tinylm2" / "memories" / "toy.py").write_text(plant(file), encoding="utf-8")
    table = folder / "tinylm2" / "memories" / "__init__.py"
    text = re.sub(r"(from tinylm2\.memories import \(?)", r"\1toy, ", table.read_text(encoding="utf-8"), count=1)
    table.write_text(text + line, encoding="utf-8")
    return folder


def run(home, *argv):
    """A Python process that finds the copy first; what it printed."""
    path = os.pathsep.join([str(home), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-W", "error", *map(str, argv)], cwd=home, env=environment, timeout=300,
                          capture_output=True, encoding="utf-8")
    return done.returncode, done.stdout + done.stderr


def commands(home, *argv):
    """What `python -m tinylm2 ...` prints in the copy; its status must be 0."""
    status, printed = run(home, "-m", "tinylm2", *argv)
    assert status == 0, printed
    return printed


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return added(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def trained(home):
    """A run of the toy memory, trained for seconds."""
    folder = home / "run"
    status, printed = run(home, "-c", TRAIN, "--out", folder, *crash.ARGUMENTS, "--memory", "toy")
    assert status == 0, printed
    assert "memory: toy" in printed
    return folder


def test_the_copy_is_what_runs(home):
    status, printed = run(home, "-c", "import tinylm2; from tinylm2.memories import MEMORIES; print(tinylm2.__file__, "
                                      "'toy' in MEMORIES)")
    assert (status, printed.split()) == (0, [str(home / "tinylm2" / "__init__.py"), "True"])


def test_every_gradient_of_the_example_is_checked_and_passes(home):
    status, printed = run(home, "-c", CASES, "memory", "model")
    assert status == 0, printed
    for case in ("toy read", "toy write", "toy write, padded", "toy leaky_average", "toy leaky_average, padded",
                 "block, toy", "segment, toy", "story, toy"):
        assert re.search(rf"\b{case} .*pass$", printed, re.MULTILINE), case


@pytest.mark.parametrize(("right", "wrong", "gradient"), [
    ("dmean = (1 - a) * dm_next", "dmean = dm_next", "dn"),
    ("(dm_next * (m - mean)).sum(0)", "(dm_next * m).sum(0)", "db"),
    ("return a * dm_next, share", "return dm_next, share", "dm"),
    ("share[..., None] * dmean[:, None], db", "dmean[:, None] / share.shape[1] + 0 * share[..., None], db", "dn"),
    ("return None, (dy.sum(1),), {}", "return None, (dy.mean(1),), {}", "dstate.0"),
])
def test_a_planted_error_is_found(tmp_path, right, wrong, gradient):
    def plant(code):
        assert code.count(right) == 1
        return code.replace(right, wrong)

    status, printed = run(added(tmp_path, plant), "-c", CASES, "memory")
    assert status == 1, printed
    assert f": {gradient} is wrong" in printed


def test_it_trains_and_is_evaluated(trained):
    metrics = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == crash.STEPS
    assert json.loads((trained / "config.json").read_text())["model"]["memory"] == "toy"
    assert set(json.loads((trained / "evaluation.json").read_text())["generated"]) == {"0", "2"}


def test_ask_shows_how_its_state_grows(home, trained):
    story = "Mary moved to the garden. John went to the office. " * 8
    printed = commands(home, "ask", trained, story, "Where is Mary?", "--show")
    (sizes,) = re.findall(r"^block 1 m: (.*)$", printed, re.MULTILINE)
    assert len(sizes.split(", ")) == 3
    assert sizes.startswith("0.000, 0.")


def test_plot_draws_its_gates_and_its_change(home, trained):
    commands(home, "plot", trained)
    drawn = {path.name for path in (trained / "pictures").glob("*.png")}
    assert drawn == {"accuracy-by-distance.png", "curves.png", "gates.png", "state-change.png"}


def test_explore_evaluate_and_count_take_it(home, trained):
    commands(home, "explore", trained)
    assert r"run: memory \u201ctoy\u201d" in (trained / "explore.html").read_text(encoding="utf-8")
    commands(home, "evaluate", trained, "--lengths", "0,128", "--questions", "3", "--out", trained / "table.json")
    assert "128" in (trained / "table.json").read_text()
    printed = commands(home, "count", "--memory", "toy")
    assert "tiny: toy," in printed
    (numbers,) = re.findall(r"^memory +([\d,]+)", printed, re.MULTILINE)
    assert int(numbers.replace(",", "")) == 2 * (32 * 32 + 2 * 32)       # two blocks: Wout, bout and bkeep
