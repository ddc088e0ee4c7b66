"""The training loop of a run: signals, checkpoints, the lines of metrics.jsonl, errors of the disk."""

import errno
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tinylm2.errors import BadInput
from tinylm2.training.communicator import agree, checksum


class Stopped(Exception):
    """A signal ended the run, after saving. `status` is the exit status."""

    def __init__(self, number: Any) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; --resume continues")
        self.status = 128 + number


@contextmanager
def polite_signals() -> Iterator:
    """Collect SIGINT and SIGTERM, so that the current step can end and be saved. A second one ends the process."""
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


def train(folder: Any, model: Any, trainer: Any, *, save_every: int = 200, show: Any = None) -> None:
    """Train to the end of the curriculum. Save every `save_every` steps; call `show(metrics)` after each step.

    Only the first of several processes writes. A signal to any of them ends all after the current step. Raises Stopped,
    NotLearned and NotFinite (the last good checkpoint stays), and BadInput where the disk refuses.
    """
    comm = trainer.comm
    writes = comm.rank == 0
    try:
        with folder.metrics(trainer.progress.step) if writes else nullcontext() as lines, polite_signals() as caught:

            def save():
                if comm.size > 1:                        # different rounding would make the processes differ
                    agree(comm, **{"parameters with the checksum": checksum(trainer.params.buffer)})
                if lines is not None:
                    os.fsync(lines.fileno())             # the checkpoint relies on these lines
                    folder.save(model, trainer)
                comm.gather(None)                        # all processes wait until the first one has written

            signals = []
            for metrics in trainer.steps():
                if lines is not None:
                    _write_line(lines, json.dumps(metrics))
                    if show:
                        show(metrics)
                signals = [number for rank in comm.gather(list(caught)) for number in rank]
                if signals:
                    break
                if save_every and trainer.progress.step % save_every == 0:
                    save()
            save()
            if signals:
                raise Stopped(signals[0])
    except OSError as error:
        raise BadInput(f"{folder.path}: cannot be written ({error.strerror or error})") from None


def _write_line(file, text):
    line = text.encode() + b"\n"
    if file.write(line) < len(line):                     # only a part was written: the disk is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


