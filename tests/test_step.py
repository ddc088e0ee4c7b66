"""`python -m tutorials.step`: a lesson in a shell, cell by cell; and what lessons print says what it is."""

import builtins
import json
import os
import re
import subprocess
import sys

import pytest

from tests.test_lessons import FOLDER, LESSONS, NAMES, python
from tutorials import step


def typed(*words, keys="", cwd=FOLDER.parent):
    """Step through a lesson with these lines typed in; (status, output, errors)."""
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run([sys.executable, "-W", "error", "-m", "tutorials.step", *map(str, words)], input=keys,
                          cwd=cwd, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def lesson(tmp_path):
    """A lesson of four cells, and what it prints."""
    path = tmp_path / "01_x.py"
    path.write_text("# %% [markdown]\n# # 1. A title\n#\n# Some **text**.\n\n# %%\nx = 2\nprint('x is', x)\n\n"
                    "# %%\nprint('twice', 2 * x)\nassert __name__ == '__main__'\n\n"
                    "# %% [markdown]\n# <details><summary>1. Why?</summary>\n#\n# Because.\n#\n# </details>\n")
    return path


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_every_line_of_a_lesson_is_in_one_cell(path):
    found = step.cells(path)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and line[:4] != "# %%"]
    shown = [line for _, text, _ in found for line in text.splitlines() if line.strip()]
    assert len(shown) == len([line for line in lines if line != "#"])
    for is_text, text, first in found:
        if not is_text:
            script = path.read_text(encoding="utf-8").splitlines()
            assert script[first - 1:first - 1 + text.count("\n") + 1][-1] == text.splitlines()[-1]


def test_a_cell_shows_its_text_its_code_and_its_result_and_waits(lesson, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(builtins, "input", lambda prompt: asked.append((prompt, capsys.readouterr().out)) or "")
    assert step.step(lesson) == 0
    shown = [out for _, out in asked]
    assert "1. A title" in shown[0]
    assert "Some text." in shown[0]
    assert "  | print('x is', x)" in shown[0]
    assert "x is 2" in shown[0]
    assert "twice" not in shown[0]
    assert "twice 4" in shown[1]
    assert "1. Why?" in shown[2]
    assert "Because." not in "".join(shown)              # it waits for Enter
    assert "Because." in capsys.readouterr().out


def test_q_ends_and_says_how_to_go_on(lesson, monkeypatch, capsys):
    monkeypatch.setattr(builtins, "input", lambda prompt: "q")
    assert step.step(lesson) == 0
    said = capsys.readouterr().out
    assert "twice" not in said
    assert "python -m tutorials.step 1 --from 2" in said


def test_cells_before_the_first_one_run_unseen(lesson, monkeypatch, capsys):
    monkeypatch.setattr(builtins, "input", lambda prompt: "")
    assert step.step(lesson, first=3) == 0
    said = capsys.readouterr().out
    assert "twice 4" in said
    assert "x is 2" not in said


def test_an_error_names_the_line_of_the_script(lesson):
    lesson.write_text(lesson.read_text().replace("print('twice', 2 * x)", "1 / 0"))
    with pytest.raises(ZeroDivisionError) as caught:
        step.step(lesson, wait=False)
    assert caught.traceback[-1].lineno + 1 == lesson.read_text().splitlines().index("1 / 0") + 1


def test_pictures_are_named_and_opened_where_that_is_asked(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="draws a picture: pip install matplotlib")
    import webbrowser

    from tutorials import lesson as shared

    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(shared, "PICTURES", tmp_path)
    for opens in (False, True):
        monkeypatch.setattr(shared, "OPENS", opens)
        figure, _ = shared.plt.subplots()
        shared.show(figure, "x")
        assert "picture: " in capsys.readouterr().out
    assert opened == [(tmp_path / "x.png").as_uri()]


def test_a_lesson_runs_to_its_end_in_a_shell_of_any_folder(tmp_path):
    status, said, errors = typed(1, cwd=tmp_path)
    assert status == 0, errors
    assert "1. A pair and its check" in said
    assert "scale: passed" in said
    assert "Three questions" in said
    path = re.search(r"picture: (\S+)", said)
    assert path is None or (tmp_path / path[1]).is_file()
    status, said, _ = typed(1, keys="\nq\n")
    assert status == 0
    assert "--from " in said
    assert "Three questions" not in said


def test_the_list_names_every_lesson_and_a_wrong_number_is_refused():
    status, said, _ = typed()
    assert status == 0
    assert [int(line.partition(".")[0]) for line in said.splitlines()] == [int(name[:2]) for name in NAMES]
    for words, text in (((99,), "found no lesson 99, expected one of 1, 2,"), ((1, "--from", 999), "found 19 cells"),
                        (("x",), "whole number")):
        status, said, errors = typed(*words)
        assert (status, said, errors.count("\n")) == (2, "", 1)
        assert text in errors


@pytest.mark.parametrize("path", LESSONS, ids=NAMES)
def test_what_a_lesson_prints_begins_with_words(path):
    """In a shell nothing stands beside a number: the first line that a cell prints says what it is."""
    for cell in json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]:
        said = "".join("".join(output["text"]) for output in cell.get("outputs", ()) if "text" in output)
        if said.strip():
            first = re.sub(r"inf|nan|\d[\d.]*(e[+-]?\d+)?", "", said.strip().splitlines()[0])
            assert re.search("[A-Za-z]", first), said


def test_a_lesson_as_a_script_prints_the_same_as_its_notebook():
    done = python(LESSONS[0])
    notebook = json.loads(LESSONS[0].with_suffix(".ipynb").read_text(encoding="utf-8"))
    said = "".join("".join(output["text"]) for cell in notebook["cells"] for output in cell.get("outputs", ())
                   if output.get("name") == "stdout")
    assert [line for line in done.stdout.splitlines() if not line.startswith("picture: ")] == said.splitlines()
