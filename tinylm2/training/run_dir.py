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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from tinylm2.checking.diagnose import finite
from tinylm2.data import (
    TASKS,
    BookFiller,
    GrammarFiller,
    HaystackSampler,
    Stories,
    Tokenizer,
    bpe_tokenizer,
    generated_examples,
    without_filler,
    word_tokenizer,
)
from tinylm2.errors import BadInput, parse_json, read_lines
from tinylm2.model import Config, count_params, init_params, param_shapes
from tinylm2.training import checkpoint
from tinylm2.training.communicator import own_shards
from tinylm2.training.curriculum import WINDOW, curriculum
from tinylm2.training.settings import Settings, plan_of, tasks_of, weighted_tasks
from tinylm2.training.step import SINGLE, NotFinite
from tinylm2.training.trainer import Trainer

# In the order in which an old run is removed, so that a removal cut short leaves a run that is whole or can restart.
FILES = ("model.previous.npz", "model.npz", "metrics.jsonl", "evaluation.json", "tokenizer.json", "config.json")


@dataclass
class TrainedModel:
    """A run read back from its folder, or a new one: all that asking and training need."""

    settings: Settings
    cfg: Config
    params: dict
    tokenizer: Tokenizer
    filler: object

    def trainer(self, comm=SINGLE):
        """The Trainer that trains it, in this process or in all those of `comm`."""
        s = self.settings
        weights = weighted_tasks(s.task)
        stories = Stories(weights, weights=weights.values(), tokenizer=self.tokenizer, filler=self.filler, seed=s.seed)
        segments, steps = plan_of(s)
        mixed = 0 if list(weights) == [TASKS["qa1"]] else len(weights)
        stages = curriculum(segment_len=s.segment, segments=segments, steps=steps, mixed=mixed)
        own_shards(comm, s.shards)
        _try_stages(stories, stages, s.segment, s.shards)
        return Trainer(self.params, cfg=self.cfg, stories=stories, stages=stages, max_lr=s.lr, lm=s.lm,
                       truncate=s.truncate or None, recompute=s.recompute, shards=s.shards, comm=comm)


def _try_stages(stories, stages, segment_len, shards):
    """BadInput before the first step, and not hours later, where a stage finds no story or a segment holds no question.

    A few questions of every task, since a long one is rare, and one row of every stage.
    """
    for task in stories.tasks:
        for example in generated_examples(task, 50, seed=0):
            without_filler(example, tokenizer=stories.tokenizer, segment_len=segment_len)
    for stage in stages:
        stage.sampler.batch(stories, 0, 1)
        if isinstance(stage.sampler, HaystackSampler) and stage.batch_size % shards:
            raise BadInput(f"--shards: found {shards}, expected a number that divides a batch of {stage.batch_size} "
                           "rows")


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
                       f"most this machine's {machine_memory() / 2**30:,.0f}: make the model smaller")
    return TrainedModel(settings, cfg, init_params(cfg, settings.seed, xp=xp), tokenizer, filler)


def least_memory(cfg, rows=64):
    """Bytes that a training step cannot do without: four numbers a parameter, and what one segment leaves behind."""
    a_token = 8 * cfg.D + 3 * cfg.F + cfg.H * (cfg.T + cfg.N)
    return 16 * count_params(cfg) + 4 * rows * cfg.T * cfg.L * a_token


def machine_memory():
    """Bytes of memory that this machine has; infinite where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def load(folder, *, xp=np):
    """(TrainedModel, moments, progress) of a run's folder, from its model.npz alone.

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
        model = _model(meta, params, path)
        progress = _checked_progress(meta.get("progress"), path)
    except BadInput as error:
        if not before.exists():
            raise
        raise BadInput(f"{error}; {before.name} holds the one before: moved to {path.name}, it is continued") from None
    return model, moments, progress


def _model(meta, params, path):
    try:
        settings = Settings(**meta["settings"])
        tokenizer = Tokenizer.from_json(meta["tokenizer"])
        cfg = settings.config(tokenizer.size)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: found settings that cannot be read ({error}), expected those of a run") from None
    if param_shapes(cfg) != params.shapes:
        raise BadInput(f"{path}: found tensors of another model, expected those that its settings name")
    return TrainedModel(settings, cfg, params, tokenizer, _filler(settings, tokenizer))


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


def resume(folder, *, xp=np, comm=SINGLE):
    """(TrainedModel, Trainer) as the folder's last checkpoint left them, or from the start where it has none yet."""
    path = folder.path
    if folder.held() and not (set(folder.held()) & {"model.npz", "model.previous.npz"}):
        model = new(_begun(path / "config.json"), xp=xp)
        return model, model.trainer(comm)
    if path.is_dir() and not folder.held():
        raise BadInput(f"{path}: found no run in it, expected one that was begun; without --resume, one begins")
    model, moments, progress = load(path, xp=xp)
    trainer = model.trainer(comm)
    if progress["stage"] > len(trainer.stages):
        raise BadInput(f"{path}: found stage {progress['stage']}, expected at most {len(trainer.stages)}")
    trainer.restore(moments, progress)
    return model, trainer


def _begun(path):
    """The Settings of a config.json."""
    found = parse_json("\n".join(read_lines(path)), path)
    try:
        return Settings(**found["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: found settings that cannot be read ({error}), expected those of a run") from None


def _filler(settings, tokenizer):
    return BookFiller(settings.filler, tokenizer) if settings.filler else GrammarFiller()


class RunDir:
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

    def describe(self, model):
        """Write config.json, with which a run can begin, and tokenizer.json."""
        self.write_json("config.json", {"settings": asdict(model.settings), "model": asdict(model.cfg),
                                        "parameters": count_params(model.cfg)})
        with checkpoint.replacing(self.path / "tokenizer.json") as file:
            file.write(model.tokenizer.to_json().encode())

    def save(self, model, trainer):
        """Write model.npz.  NotFinite where the run has gone wrong: the last good one stays."""
        for name, W in (*trainer.params.items(), *trainer.moments.items()):
            if not finite(W):
                raise NotFinite(f"step {trainer.progress.step}: {name} is not finite; the checkpoint before stays")
        checkpoint.save(self.path / "model.npz", trainer.params, trainer.moments, {
            "settings": asdict(model.settings), "tokenizer": model.tokenizer.to_json(),
            "progress": trainer.progress.state()})

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
