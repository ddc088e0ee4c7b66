"""A run as a folder: what it was made of, what it learned, how it went, how it did. Nothing in it is lost by a crash.

    config.json        the settings, in the words of the command line, and the model's letters
    tokenizer.json     the vocabulary, a file of the `tokenizers` library
    model.npz          the checkpoint, whole: a run continues from this file alone (model.previous.npz: the one before)
    metrics.jsonl      a line a step
    evaluation.json    accuracy by length, distance and depth
"""

import errno
import json
import math
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
from tinylm2.data import (
    TASKS,
    BadInput,
    BookFiller,
    GrammarFiller,
    Stories,
    Tokenizer,
    alone,
    bpe_tokenizer,
    fresh_examples,
    word_tokenizer,
)
from tinylm2.data.errors import parse_json, read_lines
from tinylm2.diagnose import finite
from tinylm2.model import MEMORIES, Config, init_params, param_shapes
from tinylm2.train import LENGTHS, WINDOW, NotFinite, Run, curriculum

# In the order in which an old run is taken away: killed on the way, it is whole, or begins again, or is gone.
FILES = ("model.previous.npz", "model.npz", "metrics.jsonl", "evaluation.json", "tokenizer.json", "config.json")


KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
CHOICES = {"memory": MEMORIES, "tokenizer": ("word", "bpe")}
RANGES = {"seed": (0, 2**63 - 1), "width": (1, 16384), "blocks": (1, 1024), "heads": (1, 16384),
          "kv_heads": (1, 16384), "ff": (1, 131072), "slots": (1, 16384), "segment": (1, 65536), "rate": (0.0, 10.0),
          "lm": (0.0, 1000.0), "truncate": (0, 65536), "vocab": (0, 131072)}


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

    def __post_init__(self):
        """BadInput for a value of another type or out of its range: settings come from files, too."""
        for f in fields(self):
            value, kind = getattr(self, f.name), type(f.default)
            if kind is float and type(value) is int:
                value = float(value)
                object.__setattr__(self, f.name, value)
            if type(value) is not kind:
                raise BadInput(f"{f.name}: found {value!r:.40}, expected {KINDS[kind]}")
            if f.name in RANGES and not RANGES[f.name][0] <= value <= RANGES[f.name][1]:
                raise BadInput(f"{f.name}: found {value}, expected {' to '.join(map(str, RANGES[f.name]))}")
            if f.name in CHOICES and value not in CHOICES[f.name]:
                raise BadInput(f"{f.name}: found {value!r:.40}, expected {' or '.join(CHOICES[f.name])}")

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
        if low > high:
            raise BadInput(f"task: found {span!r}, expected the lower number first")
        found |= {task: float(weight or 1) for task in TASKS.values() if low <= task.number <= high}
    return found


def plan_of(settings):
    """(segments, steps) of stage B's parts: "4,8" and "600,400" are two parts, and one number of steps serves all."""
    segments, steps = segment_counts("segments", settings.segments), whole_numbers("steps", settings.steps)
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


def segment_counts(name, text):
    """`whole_numbers`, none above what a story may have."""
    counts = whole_numbers(name, text)
    if max(counts) > LENGTHS[-1]:
        raise BadInput(f"{name}: found {max(counts)}, expected at most {LENGTHS[-1]}")
    return counts


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
        stages = curriculum(width=s.segment, segments=segments, steps=steps, mixed=0 if alone else len(weights))
        _tell_ahead(stories, stages, s.segment)
        return Run(self.params, cfg=self.cfg, stories=stories, stages=stages, peak=s.rate, lm=s.lm,
                   truncate=s.truncate or None, replay=s.replay)


def _tell_ahead(stories, stages, width):
    """BadInput before the first step, and not hours later, where a stage finds no story or a segment holds no question.

    A few questions of every task, since a long one is rare, and one row of every stage.
    """
    for task in stories.tasks:
        for example in fresh_examples(task, 50, seed=0):
            alone(example, tokenizer=stories.tokenizer, width=width)
    for stage in stages:
        stories.batch(stage.shape, 0, 1)


def new(settings, *, xp=np):
    """A model that has learned nothing yet.  BadInput where the settings do not fit together, or into memory."""
    tasks_of(settings.task)
    plan_of(settings)
    tokenizer = bpe_tokenizer(settings.vocab) if settings.tokenizer == "bpe" else word_tokenizer()
    filler = _filler(settings, tokenizer)
    try:
        cfg = settings.config(tokenizer.size)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if xp is np and least_memory(cfg) > machine_memory():
        raise BadInput(f"found a model that needs {least_memory(cfg) / 2**30:,.0f} GiB or more to train, expected at "
                       f"most this machine's {machine_memory() / 2**30:,.0f}: make width, blocks or segment smaller")
    return Loaded(settings, cfg, init_params(cfg, settings.seed, xp=xp), tokenizer, filler)


def least_memory(cfg, rows=64):
    """Bytes that a training step cannot do without: four numbers a parameter, and what one segment leaves behind."""
    a_token = 8 * cfg.D + 3 * cfg.F + cfg.H * (cfg.T + cfg.N)
    return 16 * count(cfg) + 4 * rows * cfg.T * cfg.L * a_token


def machine_memory():
    """Bytes of memory that this machine has; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def load(folder, *, xp=np):
    """(Loaded, moments, progress) of a run's folder, from its model.npz alone.

    Where only the checkpoint before is there, that one. A damaged one is never passed over in silence.
    """
    path = Path(folder) / "model.npz"
    if not Path(folder).is_dir():
        raise BadInput(f"{folder}: found no such folder, expected a run (train_tiny.py makes one)")
    before = checkpoint.previous(path)
    if not path.exists() and before.exists():
        path, before = before, path
    try:
        params, moments, meta = checkpoint.load(path, xp=xp)
        loaded = _loaded(meta, params, path)
        progress = _checked_progress(meta.get("progress"), path)
    except BadInput as error:
        if not before.exists():
            raise
        raise BadInput(f"{error}; {before.name} holds the one before: moved to {path.name}, it is continued") from None
    return loaded, moments, progress


def _loaded(meta, params, path):
    try:
        settings = Settings(**meta["settings"])
        tokenizer = Tokenizer.from_json(meta["tokenizer"])
        cfg = settings.config(tokenizer.size)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: found settings that cannot be read ({error}), expected those of a run") from None
    if param_shapes(cfg) != params.shapes:
        raise BadInput(f"{path}: found tensors of another model, expected those that its settings name")
    return Loaded(settings, cfg, params, tokenizer, _filler(settings, tokenizer))


def _checked_progress(found, path):
    """Progress as a checkpoint tells it.  BadInput where no run can stand there."""
    try:
        counts, losses = [found[name] for name in ("step", "stage", "first")], found["losses"]
        sound = (len(found) == 4 and all(type(n) is int and n >= 0 for n in counts) and found["first"] <= found["step"]
                 and len(losses) <= WINDOW and all(type(x) is float and math.isfinite(x) for x in losses))
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise BadInput(f"{path}: found the progress {str(found)[:60]}, expected where a run stands")
    return found


def resume(folder, *, xp=np):
    """(Loaded, Run) as the folder's last checkpoint left them; from its start, where a run was stopped before one."""
    path = folder.path
    if folder.held() and not (set(folder.held()) & {"model.npz", "model.previous.npz"}):
        loaded = new(_begun(path / "config.json"), xp=xp)
        return loaded, loaded.training()
    if path.is_dir() and not folder.held():
        raise BadInput(f"{path}: found no run in it, expected one that was begun; without --resume, one begins")
    loaded, moments, progress = load(path, xp=xp)
    run = loaded.training()
    if progress["stage"] > len(run.stages):
        raise BadInput(f"{path}: found stage {progress['stage']}, expected at most {len(run.stages)}")
    run.restore(moments, progress)
    return loaded, run


def _begun(path):
    """The Settings of a config.json."""
    found = parse_json("\n".join(read_lines(path)), path)
    try:
        return Settings(**found["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: found settings that cannot be read ({error}), expected those of a run") from None


def _filler(settings, tokenizer):
    return BookFiller(settings.filler, tokenizer) if settings.filler else GrammarFiller()


class Folder:
    """Where a run writes. Only the files named above are ever touched."""

    def __init__(self, path):
        self.path = Path(path)

    def held(self):
        """The files of a run that the folder holds already."""
        return [name for name in FILES if (self.path / name).exists()]

    def claim(self, *, overwrite=False):
        """Make the folder ready for a new run.  BadInput where it holds another, unless that may be overwritten."""
        try:
            held = self.held()
            if held and not overwrite:
                raise BadInput(f"{self.path}: found another run ({', '.join(held)}), expected an empty folder; "
                               "--resume continues it, --overwrite replaces it, --out names another")
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            for name in held:
                (self.path / name).unlink()
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be written ({error.strerror})") from None

    def describe(self, loaded):
        """Write config.json, with which a run can begin, and tokenizer.json."""
        self.write_json("config.json", {"settings": asdict(loaded.settings), "model": asdict(loaded.cfg),
                                        "parameters": count(loaded.cfg)})
        with checkpoint.replacing(self.path / "tokenizer.json") as file:
            file.write(loaded.tokenizer.to_json().encode())

    def save(self, loaded, run):
        """Write model.npz.  NotFinite where the run has gone wrong: the last good one stays."""
        for name, W in (*run.params.items(), *run.moments.items()):
            if not finite(W):
                raise NotFinite(f"step {run.progress.step}: {name} is not finite; the checkpoint before stays")
        checkpoint.save(self.path / "model.npz", run.params, run.moments, {
            "settings": asdict(loaded.settings), "tokenizer": loaded.tokenizer.to_json(),
            "progress": run.progress.state()})

    def write_json(self, name, value):
        with checkpoint.replacing(self.path / name) as file:
            file.write((json.dumps(value, indent=2) + "\n").encode())

    @contextmanager
    def metrics(self, step):
        """metrics.jsonl, open for the line of `step`: later lines, which no checkpoint remembers, are cut off.

        BadInput where another process trains in this folder: its lines and ours would mix.
        """
        with open(self.path / "metrics.jsonl", "ab+", buffering=0) as file:
            _lock(file, self.path)
            file.seek(0)
            kept = sum(len(line) for line in islice(file, step) if line.endswith(b"\n"))
            file.truncate(kept)                          # in place: a crash here must not cost the lines that stay
            yield file


def _lock(file, folder):
    """Hold a file until this process ends, however it ends; where the system has no such lock, hope."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(f"{folder}: found another process that trains in it, expected to be alone") from None
    except OSError:                                      # some network disks have no locks
        return


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

    Raises what the run raises (NotLearned, NotFinite) with the last good checkpoint in place, Stopped, and BadInput
    where the disk refuses.
    """
    try:
        with folder.metrics(run.progress.step) as lines, polite_signals() as caught:

            def save():
                os.fsync(lines.fileno())                 # first the lines, then the checkpoint that counts on them
                folder.save(loaded, run)

            for metrics in run.steps():
                _write_line(lines, json.dumps(metrics))
                if show:
                    show(metrics)
                if caught:
                    break
                if save_every and run.progress.step % save_every == 0:
                    save()
            save()
            if caught:
                raise Stopped(caught[0])
    except OSError as error:
        raise BadInput(f"{folder.path}: cannot be written ({error.strerror or error})") from None


def _write_line(file, text):
    line = text.encode() + b"\n"
    if file.write(line) < len(line):                     # the disk took a part only: it is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
