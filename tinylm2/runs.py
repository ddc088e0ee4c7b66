"""A run as a folder: what it was made of, what it learned, how it went, how it did. Nothing in it is lost by a crash.

    config.json        the settings, in the words of the command line, and the model's letters
    tokenizer.json     the vocabulary, a file of the `tokenizers` library
    model.npz          the checkpoint, whole: a run continues from this file alone (model.previous.npz: the one before)
    metrics.jsonl      a line a step
    evaluation.json    accuracy by length, distance and depth
"""

import io
import json
import os
import re
import signal
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np

from tinylm2 import checkpoint
from tinylm2.data import TASKS, BadInput, BookFiller, GrammarFiller, Stories, Tokenizer, bpe_tokenizer, word_tokenizer
from tinylm2.model import Config, init_params, param_shapes
from tinylm2.train import Run, curriculum

FILES = ("config.json", "tokenizer.json", "model.npz", "model.previous.npz", "metrics.jsonl", "evaluation.json")


@dataclass(frozen=True)
class Settings:
    """Everything that makes a run what it is, in the words of the command line."""

    task: str = "qa1"
    segments: str = "4"
    steps: str = "1000"
    seed: int = 0
    memory: str = "slots"
    width: int = 32
    blocks: int = 2
    heads: int = 2
    kv_heads: int = 2
    ff: int = 78
    slots: int = 16
    segment: int = 32
    rate: float = 6e-3
    lm: float = 0.0
    truncate: int = 0
    replay: bool = False
    tokenizer: str = "word"
    vocab: int = 512
    filler: str = ""

    def config(self, V):
        """The model's Config. `ff` is what `slots` has; other memories get as much as makes the parameters as many."""
        cfg = Config(V=V, D=self.width, L=self.blocks, H=self.heads, G=self.kv_heads, F=self.ff, N=self.slots,
                     T=self.segment, memory=self.memory)
        spare = count(replace(cfg, memory="slots")) - count(cfg)
        return replace(cfg, F=cfg.F + round(spare / (3 * cfg.D * cfg.L)))


def count(cfg):
    """How many numbers the parameters are."""
    return sum(prod(shape) for shape in param_shapes(cfg).values())


def tasks_of(names):
    """The tasks that "qa1", "qa1,qa6", "qa1-qa10" or "all" name.  BadInput lists the known ones."""
    return list(weighted_tasks(names))


def weighted_tasks(names):
    """Task -> how often it is told: "qa1:2,qa6" tells qa1 twice as often as qa6."""
    found = {}
    for part in ("qa1-qa20" if names == "all" else names).split(","):
        span, _, weight = part.partition(":")
        first, _, last = span.partition("-")
        if first not in TASKS or (last or first) not in TASKS:
            raise BadInput(f"task: found {span!r}, expected all, or some of {', '.join(TASKS)}")
        if not re.fullmatch(r"|\d+(\.\d+)?", weight) or weight and not float(weight):
            raise BadInput(f"task: found the weight {weight!r} of {span}, expected a number above 0")
        low, high = TASKS[first].number, TASKS[last or first].number
        found |= {task: float(weight or 1) for task in TASKS.values() if low <= task.number <= high}
    return found


def plan_of(settings):
    """(segments, steps) of stage B's parts: "4,8" and "600,400" are two parts, and one number of steps serves all."""
    segments, steps = whole_numbers("segments", settings.segments), whole_numbers("steps", settings.steps)
    if len(steps) == 1:
        steps = steps * len(segments)
    if len(steps) != len(segments):
        raise BadInput(f"steps: found {settings.steps!r}, expected one number or one for each of {settings.segments!r}")
    return segments, steps


def whole_numbers(name, text):
    """The numbers of "4,8,16".  BadInput for anything else."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise BadInput(f"{name}: found {text!r}, expected whole numbers such as 4 or 4,8,16")
    return [int(part) for part in text.split(",")]


@dataclass
class Loaded:
    """A run read back from its folder, or a new one: all that asking and training need."""

    settings: Settings
    cfg: Config
    params: dict
    tokenizer: Tokenizer
    filler: object

    def training(self):
        """The Run that trains it."""
        s = self.settings
        weights = weighted_tasks(s.task)
        stories = Stories(weights, weights=weights.values(), tokenizer=self.tokenizer, filler=self.filler, seed=s.seed)
        segments, steps = plan_of(s)
        alone = list(weights) == [TASKS["qa1"]]
        stages = curriculum(width=s.segment, segments=segments, steps=steps, mixed=not alone)
        return Run(self.params, cfg=self.cfg, stories=stories, stages=stages, peak=s.rate, lm=s.lm,
                   truncate=s.truncate or None, replay=s.replay)


def new(settings, *, xp=np):
    """A model that has learned nothing yet.  BadInput where the settings do not fit together."""
    tasks_of(settings.task)
    plan_of(settings)
    for name in ("seed", "truncate"):
        if getattr(settings, name) < 0:
            raise BadInput(f"{name}: found {getattr(settings, name)}, expected at least 0")
    tokenizer = bpe_tokenizer(settings.vocab) if settings.tokenizer == "bpe" else word_tokenizer()
    filler = _filler(settings)
    try:
        cfg = settings.config(tokenizer.size)
    except ValueError as error:
        raise BadInput(str(error)) from None
    return Loaded(settings, cfg, init_params(cfg, settings.seed, xp=xp), tokenizer, filler)


def load(folder, *, xp=np):
    """(Loaded, moments, progress) of a run's folder, from its model.npz alone."""
    path = Path(folder) / "model.npz"
    if not Path(folder).is_dir():
        raise BadInput(f"{folder}: found no such folder, expected a run (train_tiny.py makes one)")
    params, moments, meta = checkpoint.load(path, xp=xp)
    try:
        settings = Settings(**meta["settings"])
        tokenizer = Tokenizer.from_json(meta["tokenizer"])
        cfg = settings.config(tokenizer.size)
        progress = meta["progress"]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: found settings that cannot be read ({error}), expected those of a run") from None
    if param_shapes(cfg) != params.shapes:
        raise BadInput(f"{path}: found tensors of another model, expected those that its settings name")
    return Loaded(settings, cfg, params, tokenizer, _filler(settings)), moments, progress


def _filler(settings):
    return BookFiller(settings.filler) if settings.filler else GrammarFiller()


class Folder:
    """Where a run writes. Only the files named above are ever touched."""

    def __init__(self, path):
        self.path = Path(path)

    def held(self):
        """The files of a run that the folder holds already."""
        return [name for name in FILES if (self.path / name).exists()]

    def claim(self, *, overwrite=False):
        """Make the folder ready for a new run.  BadInput where it holds another, unless that may be overwritten."""
        held = self.held()
        if held and not overwrite:
            raise BadInput(f"{self.path}: found another run ({', '.join(held)}), expected an empty folder; "
                           "--resume continues it, --overwrite replaces it, --out names another")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in held:
                (self.path / name).unlink()
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be written ({error.strerror})") from None

    def describe(self, loaded):
        """Write config.json and tokenizer.json."""
        self.write_json("config.json", {"settings": asdict(loaded.settings), "model": asdict(loaded.cfg),
                                        "parameters": count(loaded.cfg)})
        loaded.tokenizer.save(self.path / "tokenizer.json")

    def save(self, loaded, run):
        """Write model.npz."""
        checkpoint.save(self.path / "model.npz", run.params, run.moments, {
            "settings": asdict(loaded.settings), "tokenizer": loaded.tokenizer.to_json(),
            "progress": run.progress.state()})

    def write_json(self, name, value):
        with open(self.path / name, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")

    @contextmanager
    def metrics(self, step):
        """metrics.jsonl, open for the line of `step`: later lines, which no checkpoint remembers, are cut off."""
        with open(self.path / "metrics.jsonl", "ab+") as file:
            file.seek(0)
            kept = sum(len(line) for line in islice(file, step))
            file.truncate(kept)                          # in place: a crash here must not cost the lines that stay
            with io.TextIOWrapper(file, encoding="utf-8", newline="\n") as lines:
                yield lines


class Stopped(Exception):
    """A signal asked the run to end; it was saved. `status` is what the process should exit with."""

    def __init__(self, number):
        super().__init__(f"stopped by {signal.Signals(number).name}; --resume continues")
        self.status = 128 + number


@contextmanager
def polite_signals():
    """SIGINT and SIGTERM are noted, so that the step in work can end and be saved; a second one ends the process."""
    caught = []

    def note(number, frame):
        if caught:
            os._exit(128 + number)
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(folder, loaded, run, *, save_every=200, show=None):
    """Train to the end of the curriculum, saving on the way; `show(metrics)` after each step.

    Raises what the run raises (NotLearned, NotFinite) with the last good checkpoint in place, and Stopped.
    """
    with folder.metrics(run.progress.step) as lines, polite_signals() as caught:

        def save():
            lines.flush()
            os.fsync(lines.fileno())                     # first the lines, then the checkpoint that counts on them
            folder.save(loaded, run)

        for metrics in run.steps():
            lines.write(json.dumps(metrics) + "\n")
            if show:
                show(metrics)
            if caught:
                save()
                raise Stopped(caught[0])
            if save_every and run.progress.step % save_every == 0:
                save()
        save()


def given_settings(given, stored=None):
    """Settings from what the command line gave (None: not given).  BadInput where it contradicts a stored run."""
    given = {f.name: given[f.name] for f in fields(Settings) if given.get(f.name) is not None}
    if stored is None:
        return Settings(**given)
    for name, value in given.items():
        if getattr(stored, name) != value:
            raise BadInput(f"--{name.replace('_', '-')}: found {value}, expected {getattr(stored, name)}, "
                           "with which the run was made")
    return stored
