"""Bad input of every kind, made by hypothesis and given to the commands as a user would give it.

A case is a command line and the files that it names. It must end in a right result, or in one line and status 2: no
exception may leave the command, nothing may hang, be run, or be written outside of the folder that was named, and what
was refused must stand as it stood. tests/test_fuzz.py runs some cases, `python -m tests.full fuzz` a hundred thousand.
"""

import contextlib
import io
import json
import math
import os
import pickle
import re
import shutil
import signal
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.support import small, sources, toy_experiment
from tinylm2 import gpu
from tinylm2.__main__ import COMMANDS, main
from tinylm2.cli import plot, train
from tinylm2.cli.console import Parser, command, place
from tinylm2.data import DATA, TASKS, GrammarFiller, Rng, story_text
from tinylm2.inspect import plots
from tinylm2.memories import MEMORIES
from tinylm2.training import material, trained_model
from tinylm2.training.settings import Settings
from tutorials.assignments.__main__ import main as course

MARK = Path(tempfile.gettempdir()) / "tinylm2-was-here"
SECONDS = 60                                             # a case that takes longer hangs
SETTINGS = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate])             # a fault is shown as found: making it smaller takes hours
FORBIDDEN = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork",
             "socket.connect", "urllib.Request")


class Hung(BaseException):
    """The clock ran out."""


# ----------------------------------------------------------------------------------------------------------- the ground


@dataclass(repr=False)
class Case:
    """A command line; `main` is the program. files: what to write first, {name: bytes}; "{home}" in argv: where."""

    kind: str
    main: object
    argv: list
    files: dict

    def __repr__(self):
        """Short: a checkpoint in full would be hundreds of kilobytes, and hypothesis warns of that."""
        files = {name: raw if len(raw) < 500 else f"{len(raw)} bytes, {raw[:200]!r}..."
                 for name, raw in self.files.items()}
        return f"Case({self.kind!r}, {self.argv}, {files})"


class Ground:
    """A folder with a run in it, and the watch on what a case does."""

    def __init__(self, home):
        self.home, self.events, self.watching, self.seen = Path(home).resolve(), [], False, Counter()
        self.run = self.home / "good"
        with patched():
            status = main(["train", "--out", str(self.run), *SMALL, "--eval-segments", "1"])
        assert status == 0
        self.good = {path.name: path.read_bytes() for path in self.run.iterdir()}
        if hasattr(os, "mkfifo"):
            os.mkfifo(self.home / "pipe")
        gpu.gpu()                                        # asked first, CuPy runs ldconfig to find its libraries
        sys.addaudithook(self._audit)                    # for the life of the process: there is no way back

    def _audit(self, event, args):
        if not self.watching:
            return
        if event in FORBIDDEN:
            self.events.append(f"{event} {args!r:.100}")
        elif event == "open" and isinstance(args[0], str | bytes) and args[2] & (os.O_WRONLY | os.O_RDWR):
            path = Path(os.fsdecode(args[0])).resolve()
            if self.home not in path.parents and path != Path(os.devnull) and path != Path("/proc/x"):
                self.events.append(f"writes {path}")

    def fault(self, case):
        """What is wrong with how a case ended, "" where nothing is."""
        self.seen[case.kind] += 1
        home = self.home / "case"
        shutil.rmtree(home, ignore_errors=True)
        for name, raw in case.files.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(raw)
        home.mkdir(exist_ok=True)
        places = {"{home}": str(home), "{run}": str(self.run), "{pipe}": str(self.home / "pipe")}
        argv = [re.sub(r"\{(home|run|pipe)\}", lambda match: places[match[0]], arg) for arg in case.argv]
        out, err = io.StringIO(), io.StringIO()
        before = _files(self.home)
        self.events.clear()
        try:
            with patched(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _clock():
                self.watching = True
                status = case.main(argv)
        except SystemExit as exit_:
            status = exit_.code or 0
        except Hung:
            return f"hangs: {argv}"
        except BaseException as error:                   # even what pyo3 raises when Rust panics
            return f"{type(error).__module__}.{type(error).__name__}: {error!s:.300} escapes {argv}"
        finally:
            self.watching = False
        said = [line for line in re.split(r"[\r\n]+", err.getvalue())
                if line.strip() and not line.startswith("running on the CPU") and "[00:" not in line]
        if self.events:
            return f"{self.events}: {argv}"
        if status == 2 and (len(said) != 1 or not said[0].startswith("error: ")):
            return f"status 2 says {said}: {argv}"
        if status == 2 and _files(self.home) != before and not _only_begun(before, _files(self.home)):
            return f"status 2, but files have changed: {argv}"
        if status not in (0, 2) and not re.match("NotLearned|NotFinite", said[-1] if said else ""):
            return f"status {status}, says {said}: {argv}"
        if any(self.good[name] != (self.run / name).read_bytes() for name in ("model.npz", "config.json")):
            return f"the run was overwritten: {argv}"
        return ""


def _files(home):
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def _only_begun(before, after):
    """Did a run, refused later (in training, say), leave but new files?"""
    return all(after.get(path) == raw for path, raw in before.items())


@contextlib.contextmanager
def _clock():
    def ring(*_):
        raise Hung

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


@contextlib.contextmanager
def patched():
    """A curriculum of one small step a stage, few questions, few filler sentences: all else is as users have it."""
    curriculum, questions = trained_model.curriculum, train.QUESTIONS
    trained_model.curriculum = lambda **given: tuple(
        replace(stage, batch_size=2, steps=1, loss_threshold=None, required=False) for stage in curriculum(**given))
    material.GrammarFiller, train.QUESTIONS = small.FewSentences, 3
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")               # a warning is no clear line
            yield
    finally:
        trained_model.curriculum, material.GrammarFiller, train.QUESTIONS = curriculum, GrammarFiller, questions


# ------------------------------------------------------------------------------------------------------------- mischief

WORDS = ("Mary", "John", "moved", "went", "to", "the", "garden", "office", "Where", "is", "yes", "football,milk",
         "Mary moved to the garden.", "Where is Mary?", "Mary?", ".", "?", "!", "1", "2", "3", "15", "\t", "\n", "\r\n",
         " ", "[end]", "[pad]", "é", "ß", "İ", "\u2028", "\x00", "\x1b[31m", "😀", "zebra", "a" * 3000, "-1", "1e9", "")
SMALL = ("--device", "cpu", "--hidden-size", "8", "--ff", "12", "--slots", "4", "--segments", "2")
words = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=12).map(" ".join)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-10, 300), st.floats(), words,
    st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 10**30, 1e308, math.nan, math.inf, "", "qa1", "qa99", "bpe"]))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3)
                      | st.dictionaries(st.sampled_from(["step", "type", "vocab", "id", "x"]), inner, max_size=3),
                      max_leaves=5)


@st.composite
def damaged(draw, raw):
    """Bytes with up to three wounds."""
    for _ in range(draw(st.integers(0, 3))):
        at, to = sorted(draw(st.tuples(*[st.integers(0, len(raw))] * 2)))
        wound = draw(st.sampled_from(("cut", "drop", "flip", "put", "twice", "word")))
        if wound == "cut":
            raw = raw[:at]
        elif wound == "drop":
            raw = raw[:at] + raw[to:]
        elif wound == "flip" and at < len(raw):
            raw = raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1:]
        elif wound == "put":
            raw = raw[:at] + draw(st.binary(max_size=8)) + raw[at:]
        elif wound == "twice":
            raw = raw[:to] + raw[at:]
        else:
            raw = raw[:at] + draw(words).encode("utf-8", "replace") + raw[to:]
    return raw


@st.composite
def bent(draw, tree):
    """A JSON value with up to three of its parts replaced, taken away, or renamed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        node = tree
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(min(len(node), 10))))
            inner = node[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 4)):
                node = inner
                continue
            deed = draw(st.sampled_from(("replace", "replace", "replace", "drop", "rename")))
            if deed == "replace":
                node[key] = draw(values)
            else:
                taken = node.pop(key)
                if deed == "rename" and isinstance(node, dict):
                    node[draw(words)] = taken
            break
    return tree


def jsons(tree):
    """The bytes of a JSON file like this one: bent, damaged, something else, or too deep to read."""
    text = json.dumps(tree, indent=1)
    return st.one_of(bent(tree).map(lambda t: json.dumps(t).encode("utf-8", "replace")), damaged(text.encode()),
                     values.map(lambda t: json.dumps(t).encode("utf-8", "replace")),
                     st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b'"\\ud800"', b"\xef\xbb\xbf[]"]))


# ---------------------------------------------------------------------------------------------------------------- files

STORIES = "".join(story_text(TASKS[name].story(Rng(7, DATA, 1, n))) for n, name in enumerate(("qa1", "qa6", "qa8")))
BABILONG = [{"input": "Mary moved to the garden. The river sings.", "question": "Where is Mary?", "target": "garden"},
            {"input": "John went to the office.", "question": "Where is John?", "target": "office"}]
story_line = st.tuples(
    st.sampled_from(("1", "2", "3", "0", "x", "")), words,
    st.sampled_from(("", "\tgarden\t1", "\tno", "\tgarden\t9", "\t\t", "\t\t\t\t"))).map("{0[0]} {0[1]}{0[2]}".format)
story_files = st.one_of(
    damaged(STORIES.encode()), st.binary(max_size=60),
    st.lists(story_line, max_size=6).map(lambda lines: "\n".join(lines).encode("utf-8", "replace")))


def from_story_files():
    def cases(drawn):
        raw, (main, argv, name) = drawn
        return Case("story file", main, argv, {name: raw})
    return st.tuples(story_files, st.sampled_from([
        (main, ["evaluate", "{run}", "--stories", "{home}", "--lengths", "0,64", "--questions", "2",
                         "--out", "{home}/table.json"], "qa1_x_test.txt"),
        (main, ["train", "--out", "{home}/run", *SMALL, "--eval-segments", "1", "--stories", "{home}"],
         "qa1_x_train.txt"),
        (main, ["explore", "{run}", "--story", "{home}/story", "--out", "{home}/page.html"], "story"),
    ])).map(cases)


def from_babilong():
    argv = ["evaluate", "{run}", "--babilong", "{home}/qa1.json", "--questions", "2", "--out", "{home}/table.json"]
    return jsons(BABILONG).map(lambda raw: Case("babilong", main, argv, {"qa1.json": raw}))


def from_filler():
    text = b"The river sings. The old moon waits!\n\nThe wind follows the ship.\n"
    argv = ["train", "--out", "{home}/run", *SMALL, "--eval-segments", "1", "--filler", "{home}/book"]
    return (damaged(text) | words.map(lambda t: t.encode("utf-8", "replace")) | st.binary(max_size=40)).map(
        lambda raw: Case("filler", main, argv, {"book": raw}))


def from_words():
    argv = ["train", "--out", "{home}/run", *SMALL, "--eval-segments", "1", "--words", "{home}/words"]
    return (damaged(b"zebra giraffe\nMary\n") | words.map(lambda t: t.encode("utf-8", "replace"))).map(
        lambda raw: Case("words", main, argv, {"words": raw}))


def of_a_task_file(argv):
    """`train`, after which the tasks of the file are forgotten."""
    before = dict(TASKS)
    try:
        return main(argv)
    finally:
        TASKS.clear()
        TASKS.update(before)


TASK_FILE = re.search(r"```python\n(from tinylm2.data import Rng, story_text\n.*?)```",
                      (Path(__file__).parents[2] / "docs" / "DATA.md").read_text(encoding="utf-8"), re.DOTALL)[1]
NAMES = ("person", "place", "line", "thing", "things", "self", "self.rng", "self.seen", "self.people", "None", "3",
         "-1", "[]", "True", "False", "print", "''", "'zebra'", "Walk", "object", "1 / 0", "exit(3)", "lambda: 0",
         "return")


@st.composite
def from_task_file(draw):
    """The example of docs/DATA.md with other names in it, or damaged."""
    source = TASK_FILE
    for _ in range(draw(st.integers(0, 3))):
        places = list(re.finditer(r"[A-Za-z_.]+|\d+", source))
        at = draw(st.sampled_from(range(len(places))))
        source = source[:places[at].start()] + draw(st.sampled_from(NAMES)) + source[places[at].end():]
    raw = draw(damaged(source.encode()) if draw(st.integers(0, 1)) else st.just(source.encode()))
    return Case("task file", of_a_task_file, ["train", "--out", "{home}/run", *SMALL, "--eval-segments", "1", "--task",
                                              "{home}/my_task.py"], {"my_task.py": raw})


def from_official_stories():
    argv = ["train", "--out", "{home}/run", *SMALL, "--eval-segments", "1", "--train-on", "{home}"]
    return story_files.map(lambda raw: Case("official stories", main, argv, {"qa1_x_train.txt": raw}))


@command
def pictures_of_a_run(argv):
    """`plot` without the story, whose pictures take seconds."""
    for name, figure in plot.of_run(Path(argv[0])):
        plots.save(figure, Path(argv[0]) / name)


def from_metrics(ground):
    lines = ground.good["metrics.jsonl"]
    one = jsons(json.loads(lines.splitlines()[0]))
    raw = st.one_of(damaged(lines), one, st.lists(one, min_size=1, max_size=3).map(b"\n".join))
    return raw.map(lambda raw: Case("metrics", pictures_of_a_run, ["{home}"], {"metrics.jsonl": raw}))


def from_evaluation(ground):
    return jsons(json.loads(ground.good["evaluation.json"])).map(
        lambda raw: Case("evaluation", pictures_of_a_run, ["{home}"], {"evaluation.json": raw}))


def from_experiment():
    trial = {"variant": "a", "seed": 0, "budget": {"seconds": 0}, "machine": "m", "date": "2026-01-01",
             "accuracy": 97.0, "wall_s": 0.0, "cpu_s": 0.0}
    return jsons({"trials": {"small / a / seed 0": trial}}).map(lambda raw: Case(
        "experiment", toy_experiment.experiment(0).main, ["--out", "{home}", "--minutes", "0"], {"toy.json": raw}))


def from_config(ground):
    argv = ["train", "--out", "{home}", "--resume", "--device", "cpu", "--eval-segments", "1"]
    return jsons(json.loads(ground.good["config.json"])).filter(affordable).map(
        lambda raw: Case("config", main, argv, {"config.json": raw}))


SPANS = {f.name: f.metadata["span"] for f in fields(Settings) if f.metadata["span"]}


def affordable(raw):
    """Settings that are large but not too large are a long job, not bad input."""
    try:
        found = json.loads(raw)["settings"]
        return all(not isinstance(found.get(name), int) or not most < found[name] <= SPANS[name][1]
                   for name, most in (("hidden_size", 64), ("ff", 500), ("blocks", 8), ("segment", 128),
                                      ("vocab", 600)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return True


ASK = ["ask", "{home}", "Mary moved to the garden. John went to the office.", "Where is Mary?"]


def from_tokenizer(ground):
    """A checkpoint that is sound but for the tokenizer in it."""
    arrays = npz_arrays(ground)
    meta = json.loads(arrays["meta"].tobytes())

    def with_tokenizer(raw):
        meta["tokenizer"] = raw.decode("utf-8", "replace")
        return Case("tokenizer", main, ASK, {"model.npz": npz({**arrays, "meta": as_array(meta)})})
    return jsons(json.loads(meta["tokenizer"])).map(with_tokenizer)


def from_checkpoint(ground):
    def case(raw):
        return Case("checkpoint", main, ASK, {"model.npz": raw})
    return (damaged(ground.good["model.npz"]) | forged(ground)).map(case)


def from_resumed_checkpoint(ground):
    argv = ["train", "--out", "{home}", "--resume", "--device", "cpu", "--eval-segments", "1"]
    return forged(ground).map(lambda raw: Case("resumed checkpoint", main, argv, {
        "model.npz": raw, "config.json": ground.good["config.json"], "metrics.jsonl": ground.good["metrics.jsonl"]}))


def from_resumed_metrics(ground):
    argv = ["train", "--out", "{home}", "--resume", "--device", "cpu", "--eval-segments", "1"]
    return damaged(ground.good["metrics.jsonl"]).map(lambda raw: Case("resumed metrics", main, argv, {
        "model.npz": ground.good["model.npz"], "metrics.jsonl": raw}))


# ----------------------------------------------------------------------------------------------------- published models

HUGE = (0, 1, 2, 3, 8, 2**31, 2**48, 2**62, 2**64 - 1)


@st.composite
def from_import(draw):
    """`import` of a folder or a GGUF file of which one part is damaged, bent, missing or says too much."""
    if draw(st.integers(0, 2)) == 0:
        return Case("import", main, ["import", "{home}/x.gguf", "--out", "{home}/run"],
                    {"x.gguf": draw(gguf_files())})
    files = dict(sources.folder(draw(st.sampled_from(("none", "lm2")))))
    name = draw(st.sampled_from(sorted(files)))
    if draw(st.integers(0, 9)) == 0:
        del files[name]
    elif name.endswith(".json"):
        files[name] = draw(jsons(json.loads(files[name])))
    elif name.endswith(".safetensors"):
        files[name] = draw(safetensors_files(files[name]))
    if draw(st.integers(0, 9)) == 0:
        home = {one: draw(values | st.sampled_from(sorted(files))) for one in ("a", "model.norm.weight")}
        files["model.safetensors.index.json"] = draw(jsons({"weight_map": home}))
    if not all(affordable_sizes(raw) for one, raw in files.items() if one.endswith("config.json")):
        files["config.json"] = b"{}"
    return Case("import", main, ["import", "{home}/hf", "--out", "{home}/run",
                                 *draw(st.sampled_from(([], ["--memory", "lm2", "--slots", "2", "--segment", "4"])))],
                {f"hf/{name}": raw for name, raw in files.items()} | {"hf/kept": b"mine"})


@st.composite
def safetensors_files(draw, raw):
    """A safetensors file whose header is bent, whose numbers are no numbers, or whose length is another."""
    header, numbers = sources.header_of(raw)
    deed = draw(st.sampled_from(("damaged", "bent", "bent", "length", "nan", "place", "shape", "twice")))
    if deed == "bent":
        return sources.safetensors(draw(bent(header)), numbers)
    if deed == "length":
        return sources.safetensors(header, numbers, draw(st.sampled_from(HUGE)))
    if deed == "nan":
        return sources.safetensors(header, draw(st.sampled_from((b"\xff", b"\x7f"))) * len(numbers))
    if deed in ("place", "shape"):
        entry = header[draw(st.sampled_from(sorted(header.keys() - {"__metadata__"})))]
        where, size = ("data_offsets", 2) if deed == "place" else ("shape", 3)
        entry[where] = draw(st.lists(st.sampled_from(HUGE) | st.integers(-9, 99), max_size=size))
        return sources.safetensors(header, numbers)
    return draw(damaged(raw)) if deed == "damaged" else raw + raw


@st.composite
def gguf_files(draw):
    """A GGUF file with a setting bent, a tensor of another shape or at another place, or huge numbers."""
    settings_, tensors = sources.gguf_parts()
    settings_, tensors = dict(settings_), dict(tensors)
    key, name = draw(st.sampled_from(sorted(settings_))), draw(st.sampled_from(sorted(tensors)))
    deed = draw(st.sampled_from(("damaged", "setting", "setting", "shape", "nan", "counts", "entry", "missing")))
    counts = entry = None
    if deed == "setting":
        settings_[key] = draw(st.sampled_from((*HUGE, "x", "", 0.0, math.nan, math.inf, [], ["x"], [1] * 300)))
        if "ggml" not in key and not affordable_number(settings_[key]):
            settings_[key] = "x"
    elif deed == "shape":
        tensors[name] = np.zeros(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)), "<f4")
    elif deed == "nan":
        tensors[name] = np.full_like(tensors[name], draw(st.sampled_from([math.nan, math.inf, 3e38])))
    elif deed == "counts":
        counts = draw(st.tuples(st.sampled_from(HUGE), st.sampled_from(HUGE)))
    elif deed == "entry":
        shape = draw(st.lists(st.sampled_from(HUGE), max_size=5))
        entry = draw(st.sampled_from((name, "x"))), shape, draw(st.integers(0, 40)), draw(st.sampled_from(HUGE))
    elif deed == "missing":
        del tensors[name], settings_[key]
    raw = sources.gguf(settings_, tensors, counts, entry)
    return draw(damaged(raw)) if deed == "damaged" else raw


def affordable_sizes(raw):
    """Whether no size of a config.json is large and yet allowed: that would be a long job, not bad input."""
    try:
        found = json.loads(raw)
        return all(map(affordable_number, [*found.values(), *found.get("tinylm2", {}).get("config", {}).values()]))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return True


def affordable_number(x):
    return not isinstance(x, int) or not 10**4 < x < 2**31


# ---------------------------------------------------------------------------------------------------------- checkpoints


class Payload:
    """What a pickle can do to whoever opens it."""

    def __reduce__(self):
        return os.system, (f"touch {MARK}",)


def npz_arrays(ground):
    with np.load(io.BytesIO(ground.good["model.npz"])) as file:
        return dict(file)


def as_array(meta):
    return np.frombuffer(json.dumps(meta).encode("utf-8", "replace"), np.uint8)


def npz(arrays, compressed=False, raw=None):
    """The bytes of an .npz; raw: entries to add as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, array)
            archive.writestr(f"{name}.npy", part.getvalue())
        for name, entry in (raw or {}).items():
            archive.writestr(name, entry)
    return file.getvalue()


def claims(shape, dtype="<f4", version=b"\x01\x00"):
    """An .npy of a few bytes that says it is an array of this shape."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + b"\0" * 8


@st.composite
def forged(draw, ground):
    """A checkpoint of sound zip and unsound content."""
    arrays = npz_arrays(ground)
    name = draw(st.sampled_from(sorted(arrays)))
    deed = draw(st.sampled_from(("meta", "meta", "meta", "progress", "shape", "type", "nan", "pickle", "raw pickle",
                                 "packed", "bomb", "huge", "missing", "extra", "format", "old npy", "twice", "shapes")))
    meta = json.loads(arrays["meta"].tobytes())
    if deed == "meta":
        kept = {key: value for key, value in meta.items() if key != "tokenizer"}
        found = draw(bent(kept))
        if isinstance(found, dict):
            found = {"tokenizer": meta["tokenizer"], **found}
        if not affordable(json.dumps(found)):
            return b""
        return npz({**arrays, "meta": as_array(found)})
    if deed == "progress":
        meta["progress"] = draw(bent(meta["progress"]) | values)
        return npz({**arrays, "meta": as_array(meta)})
    if deed == "format":
        meta["format"] = draw(values)
        return npz({**arrays, "meta": as_array(meta)})
    if deed == "shapes":
        shape = draw(st.lists(st.sampled_from([0, 1, -1, 8, 10**6, 2**62]), max_size=3))
        meta["shapes"][draw(st.sampled_from(sorted(meta["shapes"])))] = shape
        return npz({**arrays, "meta": as_array(meta)})
    if deed == "shape":
        arrays[name] = np.zeros(draw(st.lists(st.integers(0, 5), max_size=3)), arrays[name].dtype)
    elif deed == "type":
        arrays[name] = arrays[name].astype(draw(st.sampled_from(["f8", "f2", "i4", "?", "c8", "S1", "U2", ">f4"])))
    elif deed == "nan":
        arrays[name] = np.full_like(arrays[name], draw(st.sampled_from([math.nan, math.inf, 1e38]))
                                    if arrays[name].dtype.kind == "f" else 255)
    elif deed == "pickle":
        arrays[name] = np.array([Payload()], object)
    elif deed == "packed":
        return npz(arrays, compressed=True)
    elif deed == "old npy":
        version = draw(st.sampled_from([b"\x02\x00", b"\x00\x00", b"\x09\x09"]))
        return npz(without(arrays, name), raw={f"{name}.npy": claims((2,), version=version)})
    elif deed == "raw pickle":
        return npz(without(arrays, name), raw={f"{name}.npy": pickle.dumps(Payload())})
    elif deed == "bomb":
        file = io.BytesIO(npz(without(arrays, name)))
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", bytes(10**7))
        return file.getvalue()
    elif deed == "huge":
        shape = draw(st.sampled_from([(10**12,), (2**62, 2), (10**6, 10**6), (-1,), (2,) * 60, (0, 2**63)]))
        dtype = draw(st.sampled_from(["<f4", "|O", "<U99999999", "|V0"]))
        return npz(without(arrays, name), raw={f"{name}.npy": claims(shape, dtype)})
    elif deed == "missing":
        arrays = without(arrays, name)
    elif deed == "extra":
        arrays[draw(words).replace("\0", "")] = np.zeros(2)               # a zip writes no name that begins with one
    elif deed == "twice":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")              # zipfile says that it notices
            return npz(arrays, raw={f"{name}.npy": claims((2,))})
    return npz(arrays)


def without(arrays, name):
    return {key: array for key, array in arrays.items() if key != name}


# -------------------------------------------------------------------------------------------------------- command lines

NUMBERS = ("0", "1", "2", "3", "8", "-1", "-0", "x", "", "1.5", "nan", "inf", "1e3", "١", " 8", "8 ", "0x8", "1_0",
           "99999999999", "1" * 5000)
COUNTS = ("0", "1", "2", "1,2", "2,2", ",", "1,", "-1", "x", "", "1.5", "6145", "999999999", "9999999999",
          "1,999999999")
TASKS_GIVEN = ("qa1", "qa2", "qa6,qa1", "qa1:2,qa20", "qa19-qa20", "qa20-qa19", "qa0", "qa21", "all:0", "", ",",
               "qa1:0", "qa1:x", "qa1-", "-qa1", "QA1", "qa1:" + "9" * 400)
MAIN_OPTIONS = {
    "--task": TASKS_GIVEN, "--segments": COUNTS, "--steps": COUNTS, "--seed": NUMBERS,
    "--memory": (*MEMORIES, "slot", ""), "--memory-blocks": ("", "0", "1", "0,1", "2", "-1", "x", "0,0"),
    "--tied": None,
    "--hidden-size": ("8", "4", "6", "10", "0", "-8", "16385", "99999999"),
    "--blocks": ("1", "2", "0", "-1", "1025", "1000000000"), "--heads": ("1", "2", "3", "4", "8", "0", "-1", "99999"),
    "--kv-heads": ("1", "2", "3", "0", "-1"), "--ff": ("1", "12", "0", "-1", "99999999"),
    "--slots": ("1", "4", "8", "9", "0", "-1", "99999999"),
    "--segment": ("8", "16", "32", "40", "1", "0", "-1", "99999999"),
    "--lr": ("0", "0.01", "-1", "nan", "inf", "1e9", "x"), "--lm": ("0", "0.5", "-1", "nan", "x"),
    "--truncate": NUMBERS, "--recompute": None, "--tokenizer": ("word", "bpe", "x"),
    "--vocab": ("300", "1", "-1", "999999999"),
    "--filler": ("{home}", "{home}/none", "/dev/null", "/dev/zero", "{pipe}", "{run}/model.npz", "{run}/config.json",
                 ""),
    "--train-on": ("{home}", "{home}/none", "/dev/null", ""), "--shards": NUMBERS,
    "--words": ("{home}", "{home}/none", "/dev/null", "/dev/zero", "{pipe}", "{run}/config.json", "{run}/model.npz",
                 ""),
    "--eval-segments": COUNTS, "--stories": ("{home}", "{run}", "/dev/null", "", "{home}/none"),
    "--device": ("cpu", "auto", "gpu", "tpu"), "--save-every": NUMBERS, "--resume": None, "--overwrite": None,
    "--out": ("{home}/run", "{home}", "{home}/a/b/c", "{run}/config.json", "{run}/config.json/x", "/dev/null",
              "/proc/x", "{run}", "{home}/" + "n" * 300, "{home}/\udcff", "{home}/new\nline"),
    "--nonsense": ("1",), "--help": None, "-h": None, "--": None, "extra": None,
}
PLACES_READ = ("{home}", "{home}/none", "{run}/model.npz", "{run}/config.json", "{pipe}", "/dev/zero", "/dev/null",
               "")
PLACES_WRITTEN = ("{home}", "{run}/config.json", "{run}/model.npz", "{run}/metrics.jsonl", "{run}/model.previous.npz",
                  "{run}/tokenizer.json", "{run}/evaluation.json", "{pipe}", "/dev/null", "/proc/x", "")
COMMAND_OPTIONS = {
    "evaluate": (["{run}"], {
        "--tasks": TASKS_GIVEN, "--lengths": (*COUNTS, "1k", "k", "0,64", "999999999k"), "--questions": ("1", *NUMBERS),
        "--stories": ("{home}", "/dev/null"), "--babilong": ("{home}", "/dev/null", "{run}/config.json"),
        "--seed": NUMBERS, "--metric": ("exact", "babilong", "x"), "--device": ("cpu", "gpu", "x"),
        "--filler": PLACES_READ, "--out": ("{home}/t.json", "{home}/t.md", "{home}/none/t", *PLACES_WRITTEN)}),
    "ask": (["{run}", "Mary moved to the garden.", "Where is Mary?"],
            {"--show": None, "--device": ("cpu", "gpu", "x"), "--length": ("0", "32", "-1", "x", "999999999999"),
             "--seed": NUMBERS, "--story": PLACES_READ, "--filler": PLACES_READ}),
    "explore": (["{run}", "--out", "{home}/page.html"], {
        "--task": TASKS_GIVEN, "--seed": NUMBERS, "--length": ("0", "32", "64", "-1", "x", "1", "999999999999"),
        "--story": PLACES_READ, "--filler": PLACES_READ, "--out": PLACES_WRITTEN}),
    "stories": ([], {"--task": TASKS_GIVEN, "--length": (*COUNTS, "1k"), "--count": ("1", "2", "0", "-1", "x"),
                     "--seed": NUMBERS, "--segment": ("32", "8", "1", "0", "-1", "x"), "--official": None}),
    "count": ([], {"--preset": ("tiny", "lm2-1.7b", "x"), "--memory": (*MEMORIES, "x", ""), "--nonsense": None}),
    "gradcheck": ([], {"--seed": ("x", ""), "--help": None}),
    "plot": (["{run}", "--out", "/proc/x"], {
        "--task": TASKS_GIVEN, "--seed": NUMBERS, "--length": ("0", "x", "-1", "999999999999"),
        "--out": ("", "/proc/x"), "--story": ("{home}", "/dev/zero", "{pipe}", ""), "--filler": ("{pipe}",
                     "/dev/zero", "{home}/none", "")}),
    "nonsense": ([], {"--x": None}),
}
NO_SOLUTION = ("{home}/none", "{pipe}", "/dev/zero", "/dev/null", "")         # a folder is a class: it takes its time
PLACES = (*NO_SOLUTION, "{home}", "{run}", "{run}/model.npz", "{run}/config.json")


def of_setting(setting):
    """What a setting without values of its own may be given."""
    if isinstance(setting.default, bool):
        return None
    return (*setting.metadata["choices"], "x") if setting.metadata["choices"] else PLACES if isinstance(
        setting.default, str) else NUMBERS


SETTINGS_GIVEN = {f"--{f.name.replace('_', '-')}": of_setting(f) for f in fields(Settings)}
MAIN_OPTIONS |= {name: given for name, given in SETTINGS_GIVEN.items() if name not in MAIN_OPTIONS}


def from_parser(name):
    """What a command without a table of its own may be given, as its parser tells: (positional arguments, options)."""
    parser, given, table = Parser(), [], {}
    COMMANDS[name].add_arguments(parser)
    for action in parser._actions:
        values = (*action.choices, "x", "") if action.choices else PLACES if action.type in (None, place) else NUMBERS
        if not action.option_strings:
            given.append("{run}" if action.dest == "run" else "{home}/none")
        elif action.dest != "help":
            given += [action.option_strings[-1], "{home}/needed"] if action.required else []
            table[action.option_strings[-1]] = None if action.nargs == 0 else values
    return given, table


COMMAND_OPTIONS |= {name: from_parser(name) for name in COMMANDS.keys() - COMMAND_OPTIONS.keys() - {"train"}}
COURSE = {"--json": (*PLACES, "{home}/none/x"), "--seed": NUMBERS,
          "--seconds": ("nan", "1e300", "-1", "0", "inf", "x", "1"), "--out": ("", "/dev/null"), "--solved": None,
                       "--nonsense": None}


@st.composite
def options(draw, table, most):
    argv = []
    for name in draw(st.lists(st.sampled_from(sorted(table)), max_size=most, unique=True)):
        argv.append(name)
        if table[name] is not None:
            argv.append(draw(st.sampled_from(table[name])))
    return argv


def from_main_line():
    def case(argv):
        return Case("command line", main,
                    ["train", "--out", "{home}/run", *SMALL, "--eval-segments", "1", *argv], {})
    return options(MAIN_OPTIONS, 4).map(case)


@st.composite
def from_command_line(draw):
    name = draw(st.sampled_from(sorted(COMMAND_OPTIONS)))
    given, table = COMMAND_OPTIONS[name]
    more = draw(options(table, 3))
    if name == "evaluate":
        given = [*given, "--out", "{home}/t.json", "--lengths", "0", "--questions", "2"]
    if name == "plot":                                   # sound, it draws for seconds
        return Case("command line", main, [name, "{run}", *more, "--out", "/dev/null"], {})
    if name == "gradcheck":
        return Case("command line", main, [name, *more, "--x"], {})         # sound, it takes its time
    shuffled = [*given, *more] if draw(st.integers(0, 3)) else [*more, *given][:draw(st.integers(0, 4))]
    return Case("command line", main, [name, *shuffled] if draw(st.integers(0, 9)) else shuffled, {})


def from_course_line():
    """`grade` and `handout` of the course, of what is no solution: a solution takes its time and its processes."""
    return st.tuples(st.sampled_from(("grade", "grade", "handout", "x")), st.sampled_from(("a1", "a6", "a7", "")),
                     st.sampled_from(NO_SOLUTION), options(COURSE, 3)).map(
                         lambda drawn: Case("course", course, [*drawn[:3], *drawn[3]], {}))


def from_questions():
    speech = words | st.text(max_size=30) | st.sampled_from(["Mary moved to the garden. " * 99, "the " * 40, "\udcff"])
    return st.tuples(speech, speech).map(lambda said: Case(
        "question", main, ["ask", "{run}", *(s.replace("{", "").replace("\x00", "") for s in said)], {}))


def cases(ground):
    """Any case, each kind as often."""
    kinds = (from_story_files(), from_babilong(), from_filler(), from_config(ground), from_tokenizer(ground),
             from_checkpoint(ground), from_resumed_checkpoint(ground), from_main_line(), from_command_line(),
             from_questions(), from_words(), from_official_stories(), from_metrics(ground), from_evaluation(ground),
             from_experiment(), from_resumed_metrics(ground), from_course_line(),
             from_task_file(), from_import())
    return st.sampled_from(range(len(kinds))).flatmap(kinds.__getitem__)
