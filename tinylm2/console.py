"""What the commands share at the terminal: errors in one line, tables, sparklines."""

import argparse
import sys
from functools import wraps

from tinylm2.backend import NoGPU
from tinylm2.data import BadInput
from tinylm2.runs import Stopped
from tinylm2.train import NotFinite, NotLearned


def command(main):
    """Wrap a command: bad input leaves with status 2 and one line, a run that failed with 1, a signal with 128 + it."""

    @wraps(main)
    def run(argv=None):
        try:
            return main(argv) or 0
        except (BadInput, NoGPU) as error:
            return _say(error, 2)
        except (NotLearned, NotFinite) as error:
            return _say(error, 1)
        except Stopped as error:
            return _say(error, error.status)
        except BrokenPipeError:                          # the reader of our output went away: `... | head`
            sys.stderr.close()
            return 1

    return run


class Parser(argparse.ArgumentParser):
    """argparse, with its errors as one line like all others."""

    def error(self, message):
        raise BadInput(f"{message} (see --help)")


def _say(error, status):
    print(f"{type(error).__name__ if status == 1 else 'error'}: {error}", file=sys.stderr)
    return status


def table(header, rows):
    """Rows of text under a header, in columns: the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" ".join([row[0].ljust(widths[0]), *(c.rjust(w + 1) for c, w in zip(row[1:], widths[1:], strict=True))])
             for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def percent(accuracy):
    return "-" if accuracy is None else f"{accuracy:.3f}"


def sparkline(values, width=60):
    """A curve in one line of text: `values` averaged into at most `width` bars."""
    if not values:
        return ""
    width = min(width, len(values))
    cut = [i * len(values) // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(cut, cut[1:], strict=False)]
    low, span = min(means), max(means) - min(means) or 1
    return "".join("▁▂▃▄▅▆▇█"[min(int((v - low) / span * 8), 7)] for v in means)
