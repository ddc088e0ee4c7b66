"""Curves as text for a terminal, without a browser or matplotlib."""

import sys
from typing import Any

import numpy as np

BARS = " ▁▂▃▄▅▆▇█"                                       # eighths of a character cell
PLAIN = " .....###"                                      # for a terminal that cannot show BARS
HEIGHT = 8                                               # lines of a curve
MARGIN = 9                                               # columns for the numbers at the left


def curves(metrics: Any, *, width: int = 80, bars: str | None = None) -> str:
    """Loss and accuracy over the steps, as text. metrics: the lines of metrics.jsonl as dicts. width: in columns."""
    count = max(1, min(width - MARGIN - 1, len(metrics)))
    edges = [i * len(metrics) // count for i in range(count + 1)]
    parts = [metrics[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    losses, accuracies = ([float(np.mean([m[name] for m in part])) for part in parts] for name in ("loss", "accuracy"))
    stages = [metrics[a]["stage"] for a in edges[:-1]]
    low, high = min(losses), max(losses)
    loss = area([np.log(max(x, 1e-9)) for x in losses], np.log(max(low, 1e-9)), np.log(max(high, 1e-9)), bars)
    accuracy = area(accuracies, 0.0, 1.0, bars)
    last = metrics[-1]
    return "\n".join([
        f"loss (logarithmic), {losses[-1]:.3g} at the end", *_beside(loss, f"{high:.3g}", f"{low:.3g}"), "",
        f"accuracy, {accuracies[-1]:.2f} at the end", *_beside(accuracy, "1", "0"),
        " " * MARGIN + _names(stages),
        f"{' ' * MARGIN}step {metrics[0]['step']} to {last['step']}, stage {last['stage']}"])


def area(values: Any, low: float, high: float, bars: str | None = None) -> list:
    """HEIGHT lines: a bar chart whose column i goes up to values[i], on a scale from low to high."""
    bars = bars or fitting()
    span, lines = (high - low) or 1.0, []
    eighths = [round(8 * HEIGHT * min(max((v - low) / span, 0.0), 1.0)) or 1 for v in values]     # at least one eighth
    for row in reversed(range(HEIGHT)):
        lines.append("".join(bars[min(max(n - 8 * row, 0), 8)] for n in eighths))
    return lines


def fitting() -> str:
    """The bars that standard output can show."""
    try:
        BARS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return BARS


def _beside(lines, top, bottom):
    """The lines with a scale on the left."""
    names = [top, *[""] * (len(lines) - 2), bottom]
    return [f"{name:>{MARGIN - 2}}  {line}".rstrip() for name, line in zip(names, lines, strict=True)]


def _names(stages):
    """A line with the name of each stage where it begins, shortened if the next one is near."""
    line = ""
    for i, name in enumerate(stages):
        if i == 0 or name != stages[i - 1]:
            line = line[:i - 1] + " " * (i - len(line[:i - 1])) if len(line) >= i > 0 else line.ljust(i)
            line += f"|{name}"
    return line[:len(stages) + 2]
