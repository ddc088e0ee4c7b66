"""What attackers and unlucky users found: each is one line and status 2, and costs no file. Classes: test_fuzz.py."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install -e '.[test]'")

from tests.support import fuzz, toy_experiment, watched  # noqa: E402
from tinylm2.__main__ import main  # noqa: E402
from tinylm2.data import bpe_tokenizer, read_stories, word_tokenizer  # noqa: E402
from tinylm2.data.tokenizer import Tokenizer  # noqa: E402
from tinylm2.errors import BadInput, read_lines  # noqa: E402
from tinylm2.files import replacing  # noqa: E402
from tinylm2.training import checkpoint, run_dir  # noqa: E402
from tinylm2.training.run_dir import FILES  # noqa: E402

ROOT = Path(__file__).parents[1]
DIGITS = "9" * 5000
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="pipes, limits and closed outputs are POSIX's")


@pytest.fixture
def run(tmp_path):
    """A small run's folder."""
    watched.save(tmp_path / "run")
    with run_dir.RunDir(tmp_path / "run").metrics(0) as lines:
        lines.write(json.dumps({"step": 0, "stage": "A", "loss": 2.5, "accuracy": 0.5}).encode() + b"\n")
    return tmp_path / "run"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def refused(capsys):
    """Run a command that must say one line and leave with status 2; the line."""
    def tried(*argv, command=main):
        assert command(list(map(str, argv))) == 2
        lines = [line for line in capsys.readouterr().err.splitlines()
                 if line and not line.startswith("running on the CPU") and "trial/s" not in line]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        assert len(lines[0]) < 600
        return lines[0]
    return tried


def python(*argv, before="", **options):
    """A command in a process of its own; `before`: lines of Python that run first."""
    program = f"import sys; from tinylm2.__main__ import main\n{before}\nsys.exit(main({list(map(str, argv))}))"
    return subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, **options)


# --------------------------------------------------------------------------------------------- numbers out of all range


def test_a_line_number_of_5000_digits_is_one_line(tmp_path):
    (tmp_path / "story.txt").write_text(f"{DIGITS} Mary moved to the garden.\n")
    with pytest.raises(BadInput, match="story.txt:1: found '9999.*expected a line number"):
        read_stories(tmp_path / "story.txt")


@pytest.mark.parametrize("weight", ["9" * 400, "1" * 10, "0", "0.0", "-1", "nan", "1e3", "1." + "0" * 10])
def test_the_weight_of_a_task_is_a_number_above_0_and_below_a_thousand_million(refused, weight):
    assert "expected a number above 0" in refused("stories", "--task", f"qa1:{weight}")


@pytest.mark.parametrize("argv", [
    ("stories", "--seed=-1"), ("stories", "--seed", DIGITS), ("stories", "--count", DIGITS),
    ("stories", "--count", "0"), ("gradcheck", "--seed=-1"), ("train", "--lr", "nan"),
    ("train", "--lr", "inf"), ("train", "--lm=-1"),
    ("train", "--seed=-1"), ("train", "--slots", "99999999"), ("train", "--save-every=-1"),
    ("train", "--eval-segments", DIGITS), ("train", "--steps", DIGITS), ("train", "--shards=0"),
], ids=lambda argv: " ".join(argv)[:30])
def test_a_number_out_of_its_range_is_one_line(refused, tmp_path, argv, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*argv)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv", [("--seeds=-1",), ("--seeds", "nan"), ("--seeds", ""), ("--minutes", "nan"),
                                  ("--minutes", "inf"), ("--minutes=-1",), ("--out", "")],
                         ids="".join)
def test_an_experiment_s_numbers_have_ranges(refused, tmp_path, argv):
    given = () if "--out" in argv else ("--out", tmp_path / "out")
    if argv == ("--seeds", ""):
        pytest.skip("an empty list of seeds is the default one")
    refused(*given, *argv, command=toy_experiment.experiment(0).main)


# ------------------------------------------------------------------------------------------------ what is read, damaged


@pytest.mark.parametrize("text", ["5", "[]", "{}", '{"step": 0}',
                                  '{"step": "a", "stage": "A", "loss": 1, "accuracy": 0}',
                                  '{"step": 1, "stage": 3, "loss": 1, "accuracy": 0}', "[" * 10**5, "1" * 5000,
                                  '{"step": 1, "stage": "A", "loss": [1], "accuracy": 0}',
                                  '{"step": 1, "stage": "A", "loss": -1, "accuracy": 0}',
                                  '{"step": 1, "stage": "A", "loss": 1e999, "accuracy": 0}',
                                  '{"step": 1, "stage": "A", "loss": NaN, "accuracy": 0}',
                                  '{"step": -1, "stage": "A", "loss": 1, "accuracy": 0}',
                                  '{"step": 1, "stage": "A", "loss": 1, "accuracy": 2}'], ids=lambda text: text[:40])
def test_a_picture_of_odd_metrics_is_refused(refused, run, text):
    (run / "metrics.jsonl").write_text(text + "\n")
    assert "metrics.jsonl:1: found" in refused("plot", run)
    assert not list((run / "pictures").glob("*"))


@pytest.mark.parametrize("found", [5, [], {}, {"generated": 5}, {"generated": {"0": 5}}, {"x" * 100: {}},
                                   {"generated": {"0": {}}}, {"generated": {"0": {"by_distance": {"x": 1}}}},
                                   {"generated": {"x": {"by_distance": {}}}}, {str(i): {} for i in range(99)},
                                   {"generated": {"0": {"by_distance": {"0": "a"}}}},
                                   {"generated": {"0": {"by_distance": {"9" * 5000: 1}}}},
                                   {"generated": {"0": {"by_distance": [1]}}}], ids=lambda found: str(found)[:50])
def test_a_picture_of_an_odd_evaluation_is_refused(refused, run, found):
    (run / "evaluation.json").write_text(json.dumps(found))
    assert "evaluation.json: found" in refused("plot", run)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"trials": 5}', '{"trials": {"a": 5}}', "9" * 5000,
                                  "[" * 10**5], ids=lambda text: text[:20])
def test_a_damaged_file_of_an_experiment_is_one_line(refused, tmp_path, text):
    (tmp_path / "toy.json").write_text(text)
    assert "toy.json" in refused("--out", tmp_path, command=toy_experiment.experiment(0).main)
    assert (tmp_path / "toy.json").read_text() == text


def test_odd_numbers_in_a_file_of_an_experiment_are_one_line(refused, tmp_path):
    command = toy_experiment.experiment(0).main
    assert command(["--out", str(tmp_path), "--seeds", "0"]) == 0
    report = (tmp_path / "toy.md").read_bytes()
    text = (tmp_path / "toy.json").read_text()
    for odd in ('"accuracy": "much"', '"accuracy": {}', '"accuracy": [1]'):
        (tmp_path / "toy.json").write_text(text.replace('"accuracy": 97.0', odd))
        assert "toy.json: found trials that cannot be reported" in refused("--out", tmp_path, "--seeds", "0",
                                                                           command=command)
        assert (tmp_path / "toy.md").read_bytes() == report


# --------------------------------------------------------------------------------------------------- devices and pipes


TELLS = 'self.tell(f"{person} hid the {thing} in the {place}.", thing)'


@pytest.mark.parametrize(("old", "new", "found"), [
    ("def happen(self)", "def happen(self", ":12: found code that fails (SyntaxError"),
    ("person, thing, place = ", "raise KeyError(5)\n        ", ":13: found code that fails (KeyError: 5)"),
    ("class HiddenThings", "exit(3)\nclass HiddenThings", "SyntaxError"),
    ("if __name__", "exit(3)\nif __name__", ":21: found code that fails (SystemExit: 3)"),
    ("    things =", "    questions = 0\n    things =", "no question in it"),
    ("return self.ask", "return False and self.ask", "10,000 events in one story"),
    ("person, thing", "return False\n        person, thing", "nothing could be asked in 10,000 stories"),
    (TELLS, "self.tell(5, thing)", "5 as its line 1, expected words"),
    ('?", place, line)', '?", 3, line)', "the answer 3"), ('?", place, line)', '?", " ", line)', "the answer ' '"),
    ('?", place, line)', '?", place, 99)', "the support (99,)"),
    ('?", place, line)', '?", place, [line])', "the support (["),
    ('?", place, line)', '?", "+", line)', "the answer '+'"),
    ("return self.ask", "return len(self.lines) > 2 and self.ask", "after 2 facts: `least` says how many"),
])
def test_a_task_file_that_is_wrong_is_one_line_before_any_training(refused, tmp_path, old, new, found):
    """Its line where its code fails; a world in which nothing is ever asked ends, too."""
    assert old in fuzz.TASK_FILE
    file = tmp_path / "my_task.py"
    file.write_text(fuzz.TASK_FILE.replace(old, new))
    line = refused("train", "--out", tmp_path / "run", "--task", file, command=fuzz.of_a_task_file)
    assert f"{file}:" in line
    assert found in line
    assert not (tmp_path / "run").exists()


@pytest.fixture(params=["/dev/zero", "a pipe", "a link"])
def special(request, tmp_path):
    """A place whose bytes have no end, or never come."""
    if sys.platform == "win32":
        pytest.skip("POSIX only")
    if request.param == "/dev/zero":
        return "/dev/zero"
    path = tmp_path / "qa1_special_train.txt"
    if request.param == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return str(path)


ASKED = ("Mary moved to the garden.", "Where is Mary?")


@pytest.mark.parametrize("argv", [
    ("ask", "{run}", *ASKED, "--filler", "{special}"), ("ask", "{run}", "--story", "{special}"),
    ("explore", "{run}", "--story", "{special}"), ("plot", "{run}", "--filler", "{special}"),
    ("explore", "{run}", "--out", "{special}"), ("evaluate", "{run}", "--out", "{special}"),
    ("ask", "{special}", *ASKED), ("evaluate", "{run}", "--lengths", "0", "--filler", "{special}"),
    ("plot", "{run}", "--out", "{special}"),
    ("train", "--out", "{new}", "--words", "{special}"), ("train", "--out", "{new}", "--filler", "{special}"),
    ("train", "--out", "{new}", "--task", "{special}"), ("train", "--out", "{special}"),
], ids=" ".join)
def test_a_device_or_a_pipe_is_refused_wherever_a_file_is_named(refused, run, tmp_path, special, argv):
    places = {"run": run, "special": special, "new": tmp_path / "new"}
    refused(*(arg.format(**places) for arg in argv))
    assert not (tmp_path / "new").exists()


def test_a_folder_of_stories_with_a_device_in_it_is_refused(refused, run, tmp_path, special):
    folder = tmp_path / "stories"
    folder.mkdir()
    (folder / "qa1_x_test.txt").symlink_to(special)
    assert "found a device or a pipe" in refused("evaluate", run, "--lengths", "0", "--stories", folder)
    (folder / "qa1.json").symlink_to(special)
    assert "found a device or a pipe" in refused("evaluate", run, "--babilong", folder / "qa1.json")


@pytest.mark.parametrize("name", ["model.npz", "metrics.jsonl", "config.json"])
def test_a_device_among_a_run_s_files_holds_no_resume(refused, run, special, name):
    (run / name).unlink()
    if name == "config.json":
        (run / "model.npz").unlink()
    (run / name).symlink_to(special)
    line = refused("train", "--resume", "--device", "cpu", "--eval-segments", "1", "--out", run)
    assert f"{name}: found a device or a pipe, expected a file" in line


@POSIX
def test_a_device_is_never_replaced_by_a_result(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="pipe: cannot be written"), replacing(tmp_path / "pipe") as file:
        file.write(b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_text_file_without_end_is_refused_after_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("tinylm2.errors.LARGEST", 10)
    (tmp_path / "book").write_bytes(b"x" * 10)
    assert read_lines(tmp_path / "book") == ["x" * 10]
    (tmp_path / "book").write_bytes(b"x" * 11)
    with pytest.raises(BadInput, match="found more than 10 bytes"):
        read_lines(tmp_path / "book")


# -------------------------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", ["evaluate", "explore"])
def test_a_result_never_replaces_a_file_of_a_run(refused, run, command, name):
    before = contents(run)
    for out in (run / name, run / name.upper(), run / ".." / "run" / name):
        assert "expected another" in refused(command, run, "--out", out)
    assert contents(run) == before


@pytest.mark.parametrize("command", ["evaluate", "explore"])
def test_a_result_never_replaces_what_was_read(refused, run, tmp_path, command):
    book = tmp_path / "book.json"
    book.write_text("The river sings.\n")
    os.link(book, tmp_path / "again.json")
    (tmp_path / "link.json").symlink_to(book)
    for out in ("book.json", "again.json", "link.json"):
        assert "expected another name" in refused(command, run, "--filler", book, "--out", tmp_path / out)
    assert book.read_text() == "The river sings.\n"


def test_the_two_files_of_an_evaluation_are_two(refused, run, tmp_path):
    assert "expected the name of the .json" in refused("evaluate", run, "--out", tmp_path / "table.md")


@pytest.mark.parametrize("command", ["evaluate", "explore"])
def test_a_result_that_has_no_place_is_refused_before_any_work(refused, run, command, monkeypatch):
    monkeypatch.setattr(run_dir, "load", lambda *_, **__: pytest.fail("the run was read"))
    for out in (run / "none" / "file", run, run / "config.json" / "file"):
        refused(command, run, "--out", out)


@pytest.mark.parametrize("argv", [("train", "--out", ""), ("train", "--out", " "), ("evaluate", "{run}", "--out", ""),
                                  ("explore", "{run}", "--out", ""), ("plot", "{run}", "--out", ""),
                                  ("ask", "", *ASKED), ("ask", "{run}", "--story", ""),
                                  ("explore", "{run}", "--filler", ""),
                                  ("train", "--stories", "")], ids=" ".join)
def test_an_empty_name_is_not_the_current_folder(refused, run, tmp_path, monkeypatch, argv):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "found an empty name" in refused(*(arg.format(run=run) for arg in argv))
    assert not list((tmp_path / "here").iterdir())


def test_overwriting_takes_nothing_away_where_not_all_can_go(refused, run):
    (run / "evaluation.json").mkdir()
    before = contents(run)
    assert "found no regular file" in refused("train", "--overwrite", "--device", "cpu", "--out", run)
    assert contents(run) == before


@POSIX
@pytest.mark.parametrize(("argv", "kept"), [
    (("evaluate", "{run}", "--lengths", "0", "--questions", "2"), "table.json"),
    (("explore", "{run}"), "explore.html"), (("plot", "{run}", "--out", "{run}"), "gates.png"),
], ids=lambda x: x if isinstance(x, str) else None)
def test_a_full_disk_leaves_the_results_of_before(run, argv, kept):
    """The system cuts every file at 40 bytes."""
    (run / kept).write_text("the one before")
    before = contents(run)
    done = python(*(arg.format(run=run) for arg in argv),
                  before="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"cannot be written (File too large)" in done.stderr
    assert contents(run) == before


def test_a_full_disk_leaves_an_experiment_s_files_of_before(refused, tmp_path, monkeypatch):
    command = toy_experiment.experiment(0).main
    assert command(["--out", str(tmp_path), "--seeds", "0"]) == 0
    before = contents(tmp_path)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in refused("--out", tmp_path, "--seeds", "0,1", command=command)
    assert contents(tmp_path) == before


@POSIX
@pytest.mark.parametrize("closed", ["1", "2", "1 2", "0 1 2"])
def test_a_closed_output_is_one_line_and_nothing_is_printed_into_a_file(tmp_path, closed):
    watched.save(tmp_path / "run")
    shell = " ".join(f"{handle}>&-" for handle in closed.split())
    done = subprocess.run(f"{sys.executable} -m tinylm2 explore {tmp_path / 'run'} {shell}", shell=True, cwd=ROOT,
                          capture_output=True)
    spoken = "1" not in closed
    assert done.returncode == (0 if spoken else 2)
    if spoken:
        assert (tmp_path / "run" / "explore.html").read_text().startswith("<!")
    else:
        expected = b"error: output: found it closed, expected a terminal, a file or a pipe\n"
        assert done.stderr == (b"" if "2" in closed else expected)


# ----------------------------------------------------------------------------------------- what comes with a checkpoint


def changed(folder, **more):
    """The run with another `meta` in its checkpoint, whole in every other way."""
    with np.load(folder / "model.npz") as file:
        arrays = dict(file)
    meta = json.loads(arrays["meta"].tobytes())
    for name, value in more.items():
        meta[name] = meta[name] | value if isinstance(value, dict) else value
    (folder / "model.npz").write_bytes(fuzz.npz({**arrays, "meta": fuzz.as_array(meta)}))
    return meta


@pytest.mark.parametrize("found", [1, 3, 99, "2", None, True, [2], 2.5, "x" * 999], ids=lambda x: repr(x)[:10])
def test_a_checkpoint_of_another_format_is_refused_in_one_line(refused, run, found):
    changed(run, format=found)
    line = refused("ask", run, *ASKED)
    assert "model.npz: found checkpoint format" in line
    assert "expected 2" in line


def test_a_later_format_is_told_from_damage_whatever_else_it_holds(tmp_path):
    np.savez(tmp_path / "model.npz", meta=np.frombuffer(b'{"format": 3, "weights": "elsewhere"}', np.uint8))
    with pytest.raises(BadInput, match="found checkpoint format 3, expected 2"):
        checkpoint.load(tmp_path / "model.npz")


@pytest.mark.parametrize("found", [1, 3, "2", None])
def test_a_config_of_another_format_is_refused_in_one_line(refused, run, found):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"format": found}))
    (run / "model.npz").unlink()
    assert "found a run of format" in refused("train", "--resume", "--device", "cpu", "--out", run)


OPENING = [("filler", "/dev/zero"), ("filler", "{file}"), ("words", "{file}"), ("train_on", "{folder}"),
           ("task", "{task}")]


@pytest.mark.parametrize(("name", "place"), OPENING, ids=lambda x: x)
@pytest.mark.parametrize("argv", [("ask", "{run}", *ASKED), ("explore", "{run}"),
                                  ("evaluate", "{run}", "--lengths", "0"),
                                  ("train", "--resume", "--device", "cpu", "--out", "{run}")], ids=lambda argv: argv[0])
def test_no_file_that_a_checkpoint_names_is_opened_unasked(run, tmp_path, capsys, name, place, argv):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file.txt").write_text("password hunter2")
    (secret / "task.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    places = {"file": secret / "file.txt", "folder": secret, "task": secret / "task.py"}
    changed(run, settings={name: place.format(**places)})
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" and watching else None)
    watching = True
    status = main([arg.format(run=run) for arg in argv] + (["--questions", "2"] if argv[0] == "evaluate" else []))
    watching = False
    said = capsys.readouterr()
    assert status in (0, 2)
    assert not [path for path in opened if str(secret) in path or path == "/dev/zero"]
    assert "hunter2" not in said.out + said.err
    assert not (tmp_path / "ran").exists()


WRONG_PARTS = [
    {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "aa"}},
    {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}},
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 99}] * 99}},
    {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?<=a|b|"}, "behavior": "Removed", "invert": False}},
    {"pre_tokenizer": {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": False}},
    {"decoder": {"type": "Replace", "pattern": {"String": ""}, "content": "aa"}},
    {"post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}},
    {"truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}},
    {"padding": {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}},
    {"added_tokens": []}, {"added_tokens": None}, {"model": None}, {"model": {"type": "Unigram", "vocab": []}},
]


@pytest.mark.parametrize("wrong", WRONG_PARTS, ids=lambda wrong: json.dumps(wrong)[:50])
@pytest.mark.parametrize("made", [word_tokenizer, lambda: bpe_tokenizer(300, ["Mary moved"])], ids=["words", "pairs"])
def test_a_tokenizer_has_only_the_parts_that_this_program_writes(made, wrong):
    found = json.loads(made().to_json())
    with pytest.raises(BadInput) as error:
        Tokenizer.from_json(json.dumps(found | wrong))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["normalizer", "pre_tokenizer", "decoder", "added_tokens"])
def test_a_tokenizer_that_lacks_a_part_is_refused(name):
    found = json.loads(word_tokenizer().to_json())
    del found[name]
    with pytest.raises(BadInput, match=f"found {name} \"nothing\""):
        Tokenizer.from_json(json.dumps(found))


@pytest.mark.parametrize("merges", [[["a"]], ["a b c"], [["a", "b"]], [5], 5, [["Ġ", 5]], None], ids=str)
def test_merges_that_are_none_are_refused(merges):
    found = json.loads(bpe_tokenizer(300, ["Mary moved"]).to_json())
    found["model"]["merges"] = merges
    with pytest.raises(BadInput, match="found no tokenizer of this program"):
        Tokenizer.from_json(json.dumps(found))


@pytest.mark.parametrize("made", [word_tokenizer, lambda: bpe_tokenizer(400)], ids=["words", "pairs"])
def test_a_tokenizer_that_is_read_back_is_the_same_to_the_byte(made):
    text = made().to_json()
    assert Tokenizer.from_json(text).to_json() == text


def test_options_that_another_version_of_the_library_leaves_out_are_no_fault():
    found = json.loads(bpe_tokenizer(300, ["Mary moved"]).to_json())
    del found["model"]["ignore_merges"]
    found["model"]["merges"] = [" ".join(merge) for merge in found["model"]["merges"]]
    assert Tokenizer.from_json(json.dumps(found)).encode("Mary") == bpe_tokenizer(300, ["Mary moved"]).encode("Mary")
