"""Pictures of a run and of a story. Each function returns a matplotlib figure; `save` writes it as PNG and SVG.

Maps use the colour map cividis, and lines differ in marker and dash, so all readers can tell them apart, in grey, too.
matplotlib is imported when the first picture is drawn.
"""

import warnings
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from tinylm2.errors import BadInput
from tinylm2.files import replacing

SMOOTH = 20                                              # steps of the running mean
LINES = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
         ("#56B4E9", "v", "-"), ("#E69F00", "P", "--"))  # colour (Okabe and Ito 2008), mark, dash
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9, "figure.titlesize": 11, "legend.fontsize": 8,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#dddddd", "grid.linewidth": 0.6, "lines.markersize": 4, "lines.linewidth": 1.4,
    "text.parse_math": False,                            # a story's "$" is a dollar
    "svg.hashsalt": "tinylm2",                           # equal pictures give equal files
}


def _picture(draw):
    """Decorate a function that draws: use STYLE.  BadInput where matplotlib is missing."""

    @wraps(draw)
    def drawn(*args, **options):
        try:
            import matplotlib
        except ImportError:
            raise BadInput("found no matplotlib, expected it for pictures: pip install matplotlib") from None
        with matplotlib.rc_context(STYLE):                 # type: ignore[arg-type]
            return draw(*args, **options)

    return drawn


@_picture
def save(figure: Any, path: Any) -> Any:
    """Write the figure as `path`.png and `path`.svg. Returns the two paths."""
    paths = [Path(f"{path}.{kind}") for kind in ("png", "svg")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")       # a character that the font lacks is drawn as a box
        warnings.filterwarnings("ignore", "constrained_layout not applied")          # much text, no space for maps
        with replacing(paths[0]) as file:
            figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        figure.set_layout_engine("none")                 # keep the layout of the PNG
        with replacing(paths[1]) as file:
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return paths


def _figure(title, width, height, rows=1, columns=1, **options):
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


# ----------------------------------------------------------------------------------------------------------- of a run


@_picture
def curves(metrics: Any) -> Any:
    """Loss and accuracy over the steps, with the stages marked. metrics: the lines of metrics.jsonl as dicts."""
    figure, axes = _figure("Training", 7, 4.6, rows=2, sharex=True)
    steps = np.array([m["step"] for m in metrics])
    stages = [m["stage"] for m in metrics]
    first = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    for ax, name, (colour, _, _) in zip(axes[:, 0], ("loss", "accuracy"), LINES, strict=False):
        values = np.array([m[name] for m in metrics])
        ax.plot(steps, values, color="#bbbbbb", linewidth=0.6, label="per step")
        ax.plot(steps, _running_mean(values), color=colour, label=f"mean of {SMOOTH}")
        ax.set_ylabel(name)
        for k, i in enumerate(first):
            end = steps[first[k + 1]] if k + 1 < len(first) else steps[-1] + 1
            if k % 2:
                ax.axvspan(steps[i], end, color="#f1f1f1", zorder=0)
            if name == "loss":
                ax.annotate(f"stage {stages[i]}" if len(steps) < 12 * (end - steps[i]) else stages[i],
                            ((steps[i] + end) / 2, 1), (0, 2), xycoords=("data", "axes fraction"),
                            textcoords="offset points", ha="center")
    if any(m["loss"] > 0 for m in metrics):              # a log axis cannot show only zeros
        axes[0, 0].set_yscale("log")
    axes[0, 0].yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes[0, 0].legend(loc="upper right")
    axes[1, 0].set_ylim(-0.03, 1.03)
    axes[1, 0].set_xlabel("step")
    return figure


def _running_mean(values):
    """The mean of the last SMOOTH values, of fewer at the start."""
    total = np.cumsum(np.insert(values, 0, 0.0))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - SMOOTH, 0)
    return (total[end] - total[start]) / (end - start)


@_picture
def accuracy_by_distance(evaluation: Any) -> Any:
    """Accuracy over distance, in segments, with one line per length. evaluation: the content of evaluation.json."""
    figure, axes = _figure("Accuracy by distance", 1 + 3.7 * len(evaluation), 3.3, columns=len(evaluation), sharey=True)
    for ax, (source, lengths) in zip(axes[0], evaluation.items(), strict=True):
        known = [(length, score["by_distance"]) for length, score in lengths.items() if score["by_distance"]]
        for i, (length, by_distance) in enumerate(known):
            colour, mark, dash = LINES[i % len(LINES)]
            name = "no filler" if length == "0" else f"{length} segments"
            ax.plot([int(d) for d in by_distance], by_distance.values(), color=colour, marker=mark, linestyle=dash,
                    label=name, clip_on=False, zorder=3 + len(known) - i)        # short ones above long ones
        ax.set_title(f"{source} stories" if source == "generated" else f"official {source}")
        ax.set_xlabel("segments back")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_ylim(0, 1.02)
        if known:
            ax.legend(loc="lower left")
    axes[0, 0].set_ylabel("accuracy")
    return figure


# --------------------------------------------------------------------------------------------------------- of a story


def places_with_memory(trace: Any) -> list:
    """The numbers of the places with a state: blocks, then the segment as a whole."""
    return [i for i, place in enumerate(trace.places[0]) if place.before]


def places_with(trace: Any, name: str) -> list:
    """The numbers of the places whose memory has these weights or gates in any segment."""
    return [i for i, _ in enumerate(trace.places[0])
            if any(getattr(places[i], name) is not None for places in trace.places)]


def place_name(trace: Any, i: Any) -> Any:
    """ "block 2", or the segment's own memory."""
    return f"block {i + 1}" if i + 1 < len(trace.places[0]) else "the segment's memory"


def key_segments(row: Any) -> list:
    """The segments with supporting facts (if not known, the first one) and the last one, which has the question."""
    return sorted({row.segments - 1, *([(end - 1) // row.segment_len for _, end in row.support] or [0])})


@_picture
def read_map(trace: Any, row: Any, words: Any, *, block: Any) -> Any:
    """Tokens x slots: what each token read, per head, in the segments with supporting facts and the question."""
    panels = []
    for s in key_segments(row):
        labels, rows = _tokens(row, words, s)
        panels += [(f"segment {s + 1}, head {h + 1}", labels, weights[rows])
                   for h, weights in enumerate(trace.places[s][block].read[0])]
    return _maps(f"What the tokens read, block {block + 1}", panels, "weight of a slot (a row sums to 1)")


@_picture
def write_map(trace: Any, row: Any, words: Any, *, block: Any) -> Any:
    """Tokens x slots: from which tokens each slot wrote, per head, in the segments with supporting facts.

    The last segment writes nothing. If all supporting facts are there, the segment before it is shown.  ValueError
    where the story has only one segment.
    """
    if row.segments == 1:
        raise ValueError("write_map: the story has one segment, expected more: the last one writes nothing")
    panels = []
    last = row.segments - 1
    for s in [s for s in key_segments(row) if s < last] or [last - 1]:
        labels, rows = _tokens(row, words, s)
        panels += [(f"segment {s + 1}, head {h + 1}", labels, weights.T[rows])
                   for h, weights in enumerate(trace.places[s][block].write[0])]
    return _maps(f"What the slots wrote from, block {block + 1}", panels, "weight of a token (a column sums to 1)")


@_picture
def before_and_after(trace: Any, frozen: Any, row: Any, words: Any, *, block: Any) -> Any:
    """What the question's segment reads from the first bank and from the last bank (the paper's Figure 6).

    trace, frozen: traces of the same story with and without writes.
    """
    panels = []
    labels, rows = _tokens(row, words, row.segments - 1)
    for h in range(len(trace.places[-1][block].read[0])):
        panels += [(f"head {h + 1}, {when}", labels, story.places[-1][block].read[0, h, rows])
                   for when, story in (("before", frozen), ("after", trace))]
    return _maps(f"Reading the bank before and after the story's updates, block {block + 1}", panels,
                 "weight of a slot (a row sums to 1)")


@_picture
def gates(trace: Any) -> Any:
    """The gates over the segments, one panel per block: means over tokens or slots, and over D."""
    blocks = places_with(trace, "output")
    figure, axes = _figure("How far the gates open", 1 + 3.2 * len(blocks), 3.2, columns=len(blocks), sharey=True)
    for ax, i in zip(axes[0], blocks, strict=True):
        for name, (colour, mark, dash) in zip(("output", "input", "forget"), LINES, strict=False):
            found = enumerate((getattr(places[i], name) for places in trace.places), 1)
            opened = {s: gate[0].mean() for s, gate in found if gate is not None}
            ax.plot(opened.keys(), opened.values(), color=colour, marker=mark, linestyle=dash, label=f"{name} gate")
        ax.set_title(f"block {i + 1}")
        ax.set_xlabel("segment")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_ylim(0, 1)
    axes[0, 0].set_ylabel("0 shut, 1 open")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@_picture
def state_similarity(trace: Any) -> Any:
    """The similarity of the states of any two segments: the cosine between their rows, averaged over the rows.

    One panel per place and array of the state. Arrays that grow with the story are left out; None if none is left.
    """
    panels = [(i, name) for i in places_with_memory(trace) for name in trace.places[-1][i].before
              if len({places[i].before.get(name, np.empty(0)).shape for places in trace.places}) == 1
              and trace.places[0][i].before[name].ndim > 2]
    if not panels:
        return None
    figure, axes = _figure("How alike the memory stays", 1.1 + 2.9 * len(panels), 3.4, columns=len(panels))
    edges = np.arange(len(trace.places) + 1) + 0.5
    for ax, (i, name) in zip(axes[0], panels, strict=True):
        rows = np.stack([places[i].before[name][0] for places in trace.places])
        rows = rows.reshape(len(rows), -1, rows.shape[-1])               # (S, N, D)
        unit = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        alike = np.einsum("snd,tnd->st", unit, unit) / rows.shape[1]
        mesh = ax.pcolormesh(edges, edges, alike, cmap="cividis", vmin=min(0, alike.min()), vmax=1)
        ax.invert_yaxis()
        ax.grid(False)
        ax.set_title(f"{place_name(trace, i)}, {name}")
        ax.set_xlabel("read by segment")
        for axis in (ax.xaxis, ax.yaxis):
            axis.get_major_locator().set_params(integer=True, nbins=8)
    axes[0, 0].set_ylabel("read by segment")
    figure.colorbar(mesh, ax=axes[0].tolist(), label="mean cosine over the rows", shrink=0.9)
    return figure


@_picture
def state_change(trace: Any) -> Any:
    """How much each segment changed the memory, one line per place and array: |after - before| / |before|.

    Arrays that grow with the story are left out; None if none is left.
    """
    figure, axes = _figure("How much a segment changes the memory", 7, 3.2)
    for k, i in enumerate(places_with_memory(trace)):
        for name in trace.places[-1][i].before:
            found = enumerate((places[i].change(name) for places in trace.places[:-1]), 1)
            changes = {s: change for s, change in found if change is not None}
            if changes:
                colour, mark, dash = LINES[k % len(LINES)]
                axes[0, 0].plot(changes.keys(), changes.values(), color=colour, marker=mark, linestyle=dash,
                                label=f"{place_name(trace, i)}, {name}")
    axes[0, 0].set_xlabel("segment")
    axes[0, 0].set_ylabel("relative change")
    axes[0, 0].xaxis.get_major_locator().set_params(integer=True)
    if not axes[0, 0].lines:
        return None
    axes[0, 0].legend(loc="upper right")
    return figure


def _tokens(row, words, s):
    """The tokens of a segment, without padding: [(text, "support", "question" or "")], and a slice of their rows."""
    start, end = max(s * row.segment_len, row.pad), min((s + 1) * row.segment_len, len(words))
    labels = []
    for t in range(start, end):
        support = any(low <= t < high for low, high in row.support)
        labels.append((words[t] or "·", "support" if support else "question" if t >= row.asked else ""))
    return labels, slice(start - s * row.segment_len, end - s * row.segment_len)


def _maps(title, panels, unit):
    """Maps side by side. The tokens are shown left of the first map, and again where they change."""
    tall = max(len(labels) for _, labels, _ in panels)
    cell = min(max(5.3 / tall, 0.08), 0.17)              # inches
    changes = [k == 0 or labels is not panels[k - 1][1] for k, (_, labels, _) in enumerate(panels)]
    widths = [max(1.15, cell * weights.shape[1]) for _, _, weights in panels]
    figure, axes = _figure(title, sum(widths) + 1.1 * sum(changes) + 1.2, cell * tall + 1.1, columns=len(panels),
                           width_ratios=widths)
    highest = max(weights.max() for _, _, weights in panels)
    for ax, (heading, labels, weights), new in zip(axes[0], panels, changes, strict=True):
        T, N = weights.shape
        mesh = ax.pcolormesh(np.arange(N + 1) + 0.5, np.arange(T + 1) - 0.5, weights, cmap="cividis", vmin=0,
                             vmax=highest)
        ax.set_ylim(tall - 0.5, -0.5)
        ax.set_title(heading, fontsize=8)
        ax.set_xlabel("slot")
        ax.xaxis.get_major_locator().set_params(integer=True, nbins=8)
        ax.grid(False)
        ax.set_yticks(range(T), [_marked(*label) for label in labels] if new else [], fontsize=min(8, cell * 50))
        for text, (_, kind) in zip(ax.get_yticklabels(), labels, strict=False):
            text.set(fontweight="bold" if kind == "support" else "normal",
                     fontstyle="italic" if kind == "question" else "normal")
        ax.tick_params("y", length=2 if new else 0)
    figure.colorbar(mesh, ax=axes[0].tolist(), label=unit, fraction=0.04, shrink=0.8)
    if any(kind == "support" for _, labels, _ in panels for _, kind in labels):
        figure.supxlabel("▸ bold: a fact that the answer needs.   Italic: the question.", fontsize=8)
    return figure


def _marked(text, kind):
    return f"▸ {text}" if kind == "support" else text
