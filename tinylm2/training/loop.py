"""A run from its first step to its last, saved on the way: signals, the lines of metrics.jsonl, a disk that refuses."""

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
    """A signal asked the run to end; it was saved. `status` is what the process should exit with."""

    def __init__(self, number: Any) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; --resume continues")
        self.status = 128 + number


@contextmanager
def polite_signals() -> Iterator:
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


def train(folder: Any, model: Any, trainer: Any, *, save_every: int = 200, show: Any = None) -> None:
    """Train to the end of the curriculum, saving on the way; `show(metrics)` after each step.

    Of several processes only the first writes; a signal to any of them ends the step everywhere. Raises what the
    trainer raises (NotLearned, NotFinite) with the last good checkpoint in place, Stopped, and BadInput where the disk
    refuses.
    """
    comm = trainer.comm
    writes = comm.rank == 0
    try:
        with folder.metrics(trainer.progress.step) if writes else nullcontext() as lines, polite_signals() as caught:

            def save():
                if comm.size > 1:                        # processors that round differently would drift apart unseen
                    agree(comm, **{"parameters with the checksum": checksum(trainer.params.buffer)})
                if lines is not None:
                    os.fsync(lines.fileno())             # first the lines, then the checkpoint that counts on them
                    folder.save(model, trainer)
                comm.gather(None)                        # no process ends while the first one writes

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
    if file.write(line) < len(line):                     # the disk took a part only: it is full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


