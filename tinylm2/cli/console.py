"""Shared by the commands: errors in one line, tables, progress, sparklines."""

import argparse
import ctypes
import os
import sys
import time
import traceback
from contextlib import suppress
from functools import wraps
from typing import Any

import numpy as np
from tqdm import tqdm

from tinylm2.errors import BadInput
from tinylm2.gpu import NoGPU
from tinylm2.training.communicator import SingleProcess, world
from tinylm2.training.loop import Stopped
from tinylm2.training.step import NotFinite
from tinylm2.training.trainer import NotLearned

LONGEST = 500                                            # characters of a message, which may quote megabytes
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3                  # numbers of mallopt's options, from malloc.h


def command(main: Any) -> Any:
    """Wrap a command: bad input ends it with one line and status 2, a failed run with 1, signal n with 128 + n."""

    @wraps(main)
    def run(argv=None):
        keep_memory()
        if not _has_output():
            return _say("error: output: found it closed, expected a terminal, a file or a pipe", 2)
        for stream in (sys.stdout, sys.stderr):          # a name that the terminal cannot show must not end a run
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")    # type: ignore[attr-defined]
        try:
            with np.errstate(all="ignore"):              # the trainer finds and names numbers that are not finite
                status = main(argv) or 0
            sys.stdout.flush()
            return status
        except (BadInput, NoGPU) as error:
            return _say(f"error: {error}", 2)
        except (NotLearned, NotFinite) as error:
            return _say(f"{type(error).__name__}: {error}", 1)
        except Stopped as error:
            return _say(str(error), error.status)
        except KeyboardInterrupt:
            return _say("stopped by SIGINT", 130)
        except MemoryError as error:
            return _say(f"error: out of memory ({error}), expected a smaller model, batch or story", 2)
        except BrokenPipeError:                          # the reader of the output ended: `... | head`
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # for Python's last flush
            return _leave(1)
        except OSError as error:
            return _say(f"error: {error.filename or 'output'}: {error.strerror or error}", 2)
        except Exception:
            if _world().size == 1:
                raise
            traceback.print_exc()
            return _world().abort(1)                     # now: the other processes would wait for ever

    return run


def _has_output():
    """Whether standard output is open. If a standard stream is closed (`>&-`), open it on /dev/null: otherwise the next
    file gets its number, and printed text could end up in a checkpoint."""
    has_output = sys.stdout is not None
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(handle)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")               # noqa: SIM115, to the process's end
    return has_output


def keep_memory() -> None:
    """Let the C library keep the memory of freed arrays for the next step. Commands call this.

    Otherwise glibc returns large arrays to the system and gets them again page by page, each page zeroed. This costs up
    to a third of a step. Other C libraries have no such option, and nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):         # macOS, musl, Windows
        return
    for option in MMAP_THRESHOLD, TRIM_THRESHOLD:
        mallopt(option, 2**30)


class Parser(argparse.ArgumentParser):
    """argparse, with one-line errors like all others, and with options anywhere on the command line."""

    mixing = False

    def error(self, message: str) -> None:
        raise BadInput(f"{message} (see --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Plain argparse gives a `*` the words before the first option alone, and calls those after it unknown."""
        if self.mixing or not any(action.nargs == "*" for action in self._get_positional_actions()):
            return super().parse_known_args(args, namespace)
        self.mixing = True                               # Python 3.10 and 3.11 come back here for each of two passes
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.mixing = False


def whole(low: int, high: int = 2**63 - 1) -> Any:
    """For an argument's `type=`: a whole number from low to high."""
    def parse(text):
        if not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"found {text:.40}, expected a whole number from {low} to {high}")
        return int(text)
    parse.__name__ = "whole number"                      # argparse uses it in its own message
    return parse


def number(low: Any, high: Any) -> Any:
    """For an argument's `type=`: a number from low to high; nan is refused."""
    def parse(text):
        if not low <= float(text) <= high:
            raise argparse.ArgumentTypeError(f"found {text:.40}, expected a number from {low:g} to {high:g}")
        return float(text)
    parse.__name__ = "number"
    return parse


def place(text: str) -> str:
    """For an argument's `type=`: the name of a file or folder, not empty: that would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("found an empty name, expected a file or a folder")
    return text


def _say(text, status):
    """Print one line and return the status. If several processes end in the same way, only the first one prints."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:LONGEST])      # one line, always
    if _world().rank:
        return _leave(status, f"rank {_world().rank}: {text}")
    print(text, file=sys.stderr, flush=True)
    return _leave(status)


def _leave(status, text=None):
    """Return the status. A process that ends alone prints why and ends the others, which would wait for it for ever."""
    comm = _world()
    if not comm.all_end():
        if text:
            print(text, file=sys.stderr, flush=True)
        comm.abort(status)
    return status


def _world():
    try:
        return world()
    except BadInput:
        return SingleProcess()


class Progress:
    """Progress of training: a bar at a terminal, else a line every few seconds. The end shown is the latest possible
    one, because a stage may end early."""

    EVERY = 5                                            # seconds between two lines

    def __enter__(self):
        self.bar = tqdm(unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None
        self.began = self.said = time.monotonic()
        self.first = None
        return self

    def show(self, step: int, left: Any, stage: Any, text: str) -> None:
        """Show that step number `step` is done and at most `left` more follow."""
        self.first = step - 1 if self.first is None else self.first
        if self.bar is not None:
            self.bar.total, self.bar.n, self.bar.initial = step + left, step, self.first
            self.bar.set_description(stage, refresh=False)
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(0)
        elif time.monotonic() - self.said >= self.EVERY:
            self.said = time.monotonic()
            rate = (step - self.first) / (self.said - self.began)
            print(f"{stage}, step {step} of at most {step + left}, {text}, {rate:.0f} steps per second, at most "
                  f"{left / rate:.0f} s left", file=sys.stderr, flush=True)

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()


class Lines:
    """A file for tqdm where there is no terminal: each drawing of the bar becomes a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Every line has been flushed."""


def question_bar(total: int) -> Any:
    """How many questions are answered: a bar at a terminal, a line every few seconds elsewhere."""
    if sys.stderr.isatty():
        return tqdm(total=total, unit="question", leave=False)
    return tqdm(total=total, leave=False, file=Lines(), mininterval=Progress.EVERY, delay=Progress.EVERY,
                unit=" questions", bar_format="{desc}{n_fmt} of {total_fmt} questions, {rate_fmt}, {remaining} left")


def table(header: Any, rows: Any) -> str:
    """A table as text. The first column is aligned left, the others right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" ".join([row[0].ljust(widths[0]), *(c.rjust(w + 1) for c, w in zip(row[1:], widths[1:], strict=True))])
             for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def percent(accuracy: Any) -> Any:
    return "-" if accuracy is None else f"{accuracy:.3f}"


def sparkline(values: Any, width: int = 60) -> str:
    """A curve in one line of text: at most `width` bars, each the mean of several `values`."""
    if not values:
        return ""
    width = min(width, len(values))
    cut = [i * len(values) // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(cut, cut[1:], strict=False)]
    low, span = min(means), max(means) - min(means) or 1
    return "".join("▁▂▃▄▅▆▇█"[min(int((v - low) / span * 8), 7)] for v in means)
