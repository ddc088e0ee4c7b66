"""The lessons run as they stand, every claim in them holds, their answers are right, and their notebooks are theirs."""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
LESSONS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
NAMES = [path.stem for path in LESSONS]
SLOW = ()                                                # these run by `python -m tests.full lessons` only
LIMIT = 60                                               # seconds a lesson may take on two cores


def prose(path):
    """The text of a lesson: its Markdown cells without the comment signs."""
    cells = re.split(r"^# %%", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return "\n".join(re.sub(r"^# ?", "", cell.partition("\n")[2], flags=re.MULTILINE)
                     for cell in cells if cell.startswith(" [markdown]"))


def answers(path):
    """The code in the folds of a lesson."""
    return [code for fold in re.findall(r"<details>.*?</details>", prose(path), flags=re.DOTALL)
            for code in re.findall(r"```python\n(.*?)```", fold, flags=re.DOTALL)]


def run(path):
    """A lesson, then the answers to its exercises, as a student would add them below."""
    sys.path.insert(0, str(FOLDER))                      # a script finds its neighbour lesson.py
    names = runpy.run_path(str(path))
    for code in answers(path):
        exec(compile(code, f"{path.name}, answer", "exec"), names)


def python(*arguments, **options):
    """A Python process of its own, without a display; warnings are errors."""
    return subprocess.run([sys.executable, "-W", "error", *map(str, arguments)], capture_output=True, text=True,
                          env=os.environ | {"MPLBACKEND": "Agg"}, **options)


def run_as_scripts(paths=LESSONS):
    """Every lesson as a user runs it, with its seconds: 0 when all ran, each within its time, else 1."""
    failed = 0
    for path in paths:
        began = time.perf_counter()
        done = python(path)
        seconds = time.perf_counter() - began
        bad = done.returncode != 0 or seconds > LIMIT
        print(f"{path.stem:<32} {seconds:5.1f} s{'  FAIL' if bad else ''}", flush=True)
        print(done.stderr, end="", file=sys.stderr)
        failed += bad
    return 1 if failed else 0


@pytest.mark.parametrize("path", [path for path in LESSONS if path.stem not in SLOW], ids=lambda path: path.stem)
def test_every_claim_and_every_answer_of_a_lesson_holds(path):
    done = python("-m", "tests.test_lessons", path, cwd=FOLDER.parent)
    assert done.returncode == 0, done.stderr


def test_a_lesson_runs_as_a_script_from_any_folder(tmp_path):
    done = python(LESSONS[0], cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_lesson_without_matplotlib_says_so_in_one_line_and_goes_on(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from tests import test_lessons as lessons; "
    done = python("-c", program + "lessons.run(lessons.LESSONS[0])", cwd=FOLDER.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("matplotlib is not installed")
    assert "picture" not in done.stdout.partition("\n")[2]


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_a_lesson_has_a_picture_an_exercise_with_its_answer_and_a_word_of_warning(path):
    text, code = prose(path), path.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(path.stem[:2])}. ")
    assert "lesson.show(" in code
    assert "assert " in code
    assert "## Exercise" in text
    assert re.search(r"<details><summary>Answer</summary>\n\n.*?\n\n</details>", text, flags=re.DOTALL)
    assert "## What usually goes wrong" in text


def prerequisites(path):
    """The lessons that a lesson says it builds on; what only helps stands in brackets."""
    line = re.search(r"^\*\*Time:\*\* \d\d minutes\. \*\*Before it:\*\* (.+)\.$", prose(path), flags=re.MULTILINE)
    return {int(number) for number in re.findall(r"\d+", line[1].partition("(")[0])}


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_a_lesson_says_what_it_needs_and_ends_in_three_questions(path):
    number, before = int(path.stem[:2]), prerequisites(path)
    assert all(0 < n < number for n in before)
    assert before or number == 1
    questions = prose(path).partition("## Three questions\n")[2]
    folds = re.findall(r"<details><summary>(\d)\. .+?\?</summary>\n\n.+?\n\n</details>\n", questions, flags=re.DOTALL)
    assert folds == ["1", "2", "3"]


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_a_link_leads_somewhere(path):
    text = re.sub(r"```.*?```", "", prose(path), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.startswith("http") or (FOLDER / target).exists(), target


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_a_notebook_is_not_older_than_its_script_and_ran_without_a_complaint(path):
    build = runpy.run_path(str(FOLDER / "build.py"))
    assert build["is_fresh"](path), f"python tutorials/build.py {path.stem[:2]}"
    notebook = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", ()) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


def test_a_changed_script_makes_its_notebook_stale(tmp_path):
    is_fresh = runpy.run_path(str(FOLDER / "build.py"))["is_fresh"]
    script, notebook = tmp_path / LESSONS[0].name, tmp_path / LESSONS[0].with_suffix(".ipynb").name
    script.write_bytes(LESSONS[0].read_bytes())
    assert not is_fresh(script)
    notebook.write_bytes(LESSONS[0].with_suffix(".ipynb").read_bytes())
    assert is_fresh(script)
    script.write_bytes(script.read_bytes() + b"#")
    assert not is_fresh(script)


def test_the_readme_names_every_lesson():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\((\d\d_\w+)\.ipynb\)", readme) == NAMES


def test_the_short_path_of_the_readme_holds_all_that_its_lessons_need():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    short = {int(n) for n in re.findall(r"\d+", re.search(r"little time, read lessons ([^:]+):", readme)[1])}
    for path in LESSONS:
        if int(path.stem[:2]) in short:
            assert prerequisites(path) <= short, path.stem


if __name__ == "__main__":                               # python -m tests.test_lessons tutorials/01_...py
    run(Path(sys.argv[1]))
