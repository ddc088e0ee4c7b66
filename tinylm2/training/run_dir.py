"""The folder of a run. A crash loses none of its files.

    config.json        the settings, named as on the command line, and the model's Config
    tokenizer.json     the vocabulary, a file of the `tokenizers` library
    model.npz          the checkpoint: a run continues from this file alone (model.previous.npz: the previous one)
    metrics.jsonl      one line per step
    evaluation.json    accuracy by length, distance and depth
"""

import errno
import json
import math
import os
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tinylm2.checking.diagnose import finite
from tinylm2.data import PublishedTokenizer, Tokenizer
from tinylm2.errors import BadInput, parse_json, read_lines, refuse_special
from tinylm2.files import refuse_output, replacing
from tinylm2.model import count_params, param_shapes
from tinylm2.training import checkpoint
from tinylm2.training.curriculum import WINDOW
from tinylm2.training.material import OPENED, gather_material
from tinylm2.training.settings import Settings
from tinylm2.training.step import SINGLE, NotFinite
from tinylm2.training.trained_model import TrainedModel, new
from tinylm2.training.trainer import Progress

# The order in which an old run is removed: after a crash in between, the run is whole or can start again.
FILES = ("model.previous.npz", "model.npz", "metrics.jsonl", "evaluation.json", "tokenizer.json", "config.json")


def load(folder: Any, *, xp: Any = np) -> tuple:
    """(TrainedModel, moments, progress) of a run's folder, from its model.npz alone.

    If there is only the previous checkpoint, it is used. A damaged checkpoint is always an error.
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
        raise BadInput(f"{error}; {before.name} is the one before: rename it to {path.name} to use it") from None
    return model, moments, progress


def _model(meta, params, path):
    try:
        settings = Settings(**meta["settings"])
        if "imported" in meta:
            tokenizer = PublishedTokenizer.from_json(meta["tokenizer"], **meta["imported"]["special"])
            cfg = settings.exactly(meta["imported"]["config"], tokenizer.size)
        else:
            tokenizer = Tokenizer.from_json(meta["tokenizer"])
            cfg = settings.config(tokenizer.size)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: found settings that cannot be read ({error}), expected those of a run") from None
    if param_shapes(cfg) != params.shapes:
        raise BadInput(f"{path}: found tensors of another model, expected those that its settings name")
    answer_len = meta.get("answer_len")
    if type(answer_len) is not int or not 1 <= answer_len <= cfg.T:
        raise BadInput(f"{path}: found answer_len {answer_len!r:.20}, expected 1 to {cfg.T}")
    return TrainedModel(settings, cfg, params, tokenizer, answer_len)


def _checked_progress(found, path):
    """The progress in a checkpoint.  BadInput where it is not possible."""
    try:
        counts, losses = [found[name] for name in ("step", "stage", "first")], found["losses"]
        sound = (len(found) == 4 and all(type(n) is int and n >= 0 for n in counts) and found["first"] <= found["step"]
                 and len(losses) <= WINDOW and all(type(x) is float and math.isfinite(x) for x in losses))
    except (KeyError, TypeError):
        sound = False
    if not sound:
        raise BadInput(f"{path}: found the progress {str(found)[:60]}, expected step, stage, first and losses of a run")
    return found


def resume(folder: Any, given: dict | None = None, *, xp: Any = np, comm: Any = SINGLE) -> tuple:
    """(TrainedModel, Trainer) from the folder's last checkpoint, or from the start where it has none yet.

    given: the settings on the command line. They must repeat every file that the run's settings name: files are opened
    only if the command line names them.
    """
    path = folder.path
    refused = comm.gather(_hold(folder) if comm.rank == 0 else None)[0]
    if refused:                                          # on every rank, so that all end together
        raise BadInput(refused)
    if folder.held() and not (set(folder.held()) & {"model.npz", "model.previous.npz"}):
        settings = _begun(path / "config.json")
        _check_files(settings, given)
        model = new(settings, xp=xp)
        return model, model.trainer(comm)
    if path.is_dir() and not folder.held():
        raise BadInput(f"{path}: found no run in it, expected one to resume (leave out --resume to begin a new one)")
    model, moments, progress = load(path, xp=xp)
    _check_files(model.settings, given)
    material = gather_material(model.settings)
    model.filler = material.filler                       # questions get the filler of the training
    trainer = model.trainer(comm, material)
    if progress["stage"] > len(trainer.stages):
        raise BadInput(f"{path}: found stage {progress['stage']}, expected at most {len(trainer.stages)}")
    trainer.restore(moments, progress)
    return model, trainer


def _hold(folder):
    """Lock a run before it is read: another process may be writing it. Returns an error message, or None."""
    try:
        if folder.path.is_dir():
            folder.hold()
    except BadInput as error:
        return str(error)
    return None


def continue_from(source: Any, given: dict, *, xp: Any = np) -> TrainedModel:
    """A run's model with new settings for training on a text: those in `given`, otherwise the source's.

    BadInput where `given` changes a setting of the model itself, or has no text.
    """
    model, _, _ = load(source, xp=xp)
    asked = {f.name: given[f.name] for f in fields(Settings) if given.get(f.name) is not None}
    if not asked.get("text"):
        raise BadInput("--from: found no --text, expected a text file to train on")
    for f in fields(Settings):
        fixed = f.metadata["letter"] or f.name in ("memory_blocks", "tokenizer", "vocab", "words")
        if fixed and asked.get(f.name, getattr(model.settings, f.name)) != getattr(model.settings, f.name):
            raise BadInput(f"--{f.name.replace('_', '-')}: found {asked[f.name]}, expected "
                           f"{getattr(model.settings, f.name)}, the setting of {source}")
    model.settings = replace(model.settings, **asked)
    return model


def _check_files(settings, given):
    given = given or {}
    for name in OPENED:
        value = getattr(settings, name)
        if value and (name != "task" or value.endswith(".py")) and given.get(name) != value:
            flag = "--" + name.replace("_", "-")
            raise BadInput(f"{flag}: found a run that was trained with {value!r:.80}, expected this option again: "
                           "files are opened only if the command line names them")


def _begun(path):
    """The Settings in a config.json.  BadInput where it is damaged or of another version."""
    found = parse_json("\n".join(read_lines(path)), path)
    try:
        if found.get("format") != checkpoint.FORMAT:
            raise BadInput(f"{path}: found a run of format {found.get('format', 1)!r:.20}, expected "
                           f"{checkpoint.FORMAT}: train it again, or use the version of tinylm2 that made it")
        return Settings(**found["settings"])
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: found settings that cannot be read ({error}), expected those of a run") from None


class RunDir:
    """The folder in which a run writes: only the files named above, and only one process at a time."""

    def __init__(self, path: str | Path) -> None:
        self.path, self._holds = Path(path), False

    def held(self) -> list:
        """The files of a run that are in the folder."""
        return [name for name in FILES if (self.path / name).exists()]

    def hold(self) -> None:
        """Lock the folder as long as this object lives, so no other process trains in it.  BadInput where one does.

        The folder itself is locked, because its files are replaced and removed. Some systems have no such lock.
        """
        if self._holds or not hasattr(os, "O_DIRECTORY"):
            return
        handle = os.open(self.path, os.O_DIRECTORY)
        try:
            if _lock(handle, self.path):
                self._sweep()
        except BaseException:
            os.close(handle)
            raise
        weakref.finalize(self, os.close, handle)         # if the process is killed, the system closes it
        self._holds = True

    def _sweep(self):
        """Remove the temporary files of a killed process. The lock is held, so no other process writes here."""
        for path in self.path.iterdir():
            if (match := re.fullmatch(r"(.+)\.\d+\.tmp", path.name)) and match[1] in FILES:
                path.unlink(missing_ok=True)

    def claim(self, *, overwrite: bool = False) -> None:
        """Prepare the folder for a new run.  BadInput where it has another run (unless `overwrite`), or where another
        process trains in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self.hold()                                  # lock before anything is changed
            held = self.held()
            if held and not overwrite:
                raise BadInput(f"{self.path}: found another run ({', '.join(held)}), expected an empty folder; "
                               "--resume continues it, --overwrite replaces it, --out names another")
            if odd := [name for name in held if not (self.path / name).is_file()]:
                raise BadInput(f"{self.path / odd[0]}: found no regular file, expected one of a run to overwrite")
            for name in held:
                (self.path / name).unlink()
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be written ({error.strerror})") from None

    def describe(self, model: Any) -> None:
        """Write config.json, from which a run can start again, and tokenizer.json."""
        self.write_json("config.json", {"format": checkpoint.FORMAT, "settings": asdict(model.settings),
                                        "model": asdict(model.cfg), "parameters": count_params(model.cfg)})
        with replacing(self.path / "tokenizer.json") as file:
            file.write(model.tokenizer.to_json().encode())

    def save(self, model: Any, trainer: Any) -> None:
        """Write model.npz.  NotFinite where a parameter or moment is not finite: the last good checkpoint stays."""
        moments = trainer.moments
        for name, W in (*trainer.params.items(), *moments.items()):
            if not finite(W):
                raise NotFinite(f"step {trainer.progress.step}: {name} is not finite; the last checkpoint stays")
        self._save(model, moments, trainer.progress)

    def save_imported(self, model: Any) -> None:
        """Write the run of an imported model. It has no moments, because no step was taken."""
        self.describe(model)
        self._save(model, {}, Progress())

    def _save(self, model, moments, progress):
        meta = {"settings": asdict(model.settings), "tokenizer": model.tokenizer.to_json(),
                "answer_len": model.answer_len, "progress": progress.state()}
        if isinstance(model.tokenizer, PublishedTokenizer):              # the settings do not describe it completely
            meta["imported"] = {"config": asdict(model.cfg), "special": model.tokenizer.special}
        checkpoint.save(self.path / "model.npz", model.params, moments, meta)

    def write_json(self, name: str, value: Any) -> None:
        with replacing(self.path / name) as file:
            file.write((json.dumps(value, indent=2) + "\n").encode())

    @contextmanager
    def metrics(self, step: int) -> Iterator:
        """metrics.jsonl, opened to append the line of `step`. Later lines, of steps after the checkpoint, are cut off.

        BadInput where another process trains in this folder.
        """
        self.hold()
        refuse_special(self.path / "metrics.jsonl")
        with open(self.path / "metrics.jsonl", "ab+", buffering=0) as file:
            _lock(file, self.path)                       # on a network disk, a folder's lock is for one machine
            file.seek(0)
            kept = sum(len(line) for line in islice(file, step) if line.endswith(b"\n"))
            file.truncate(kept)                          # in place: a crash here must not lose the kept lines
            yield file


def output_path(path: Any, *, option: str = "--out", inputs: Any = ()) -> Path:
    """The path at which a command writes a result.  BadInput for one of its inputs and for the files of a run."""
    path = Path(path)
    if path.name.lower() in FILES and RunDir(path.parent).held():
        raise BadInput(f"{option} {path}: found a name that belongs to the run in {path.parent}, expected another")
    refuse_output(path, option, inputs)
    return path


def _lock(file, folder):
    """Lock a file until this process ends. False where the system has no such lock."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(f"{folder}: found another process that trains in it, expected none") from None
    except OSError:                                      # some network disks have no locks
        return False
    return True
