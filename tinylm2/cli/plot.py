"""Draw a run and a story as PNG and SVG: training curves, gates, what the memory read and wrote."""

import re
import shutil
from argparse import Namespace
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tinylm2.cli.console import place
from tinylm2.cli.story import add_story_arguments, length_of, model_of, story_of
from tinylm2.errors import BadInput, parse_json, read_lines
from tinylm2.inspect import plots, terminal
from tinylm2.inspect.trace import pieces

LONGEST_NAME, MOST_SOURCES = 60, 20                      # limits of what a picture shows


def add_arguments(parser: Any) -> None:
    add_story_arguments(parser)
    parser.add_argument("--out", type=place, help="the folder to write to (default: RUN/pictures)")
    parser.add_argument("--terminal", action="store_true", help="print loss and accuracy as text here; write no file")


def main(args: Namespace) -> None:
    run, out = Path(args.run), Path(args.out or Path(args.run) / "pictures")
    if args.terminal:
        print(terminal.curves(read_metrics(run / "metrics.jsonl"), width=shutil.get_terminal_size().columns))
        return
    model = model_of(args, length_of(args) > 0)
    row = story_of(args, model)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in chain(of_run(run), of_story(model, row)):
            print(*plots.save(figure, out / name))
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from None


def of_run(run: Any) -> Iterator:
    """(name, figure) of training and of evaluation, as far as the run has their files."""
    readers = {"metrics.jsonl": read_metrics, "evaluation.json": read_evaluation}
    left = {name: read(run / name) for name, read in readers.items() if (run / name).exists()}     # before any picture
    if "metrics.jsonl" in left:
        yield "curves", plots.curves(left["metrics.jsonl"])
    if "evaluation.json" in left:
        yield "accuracy-by-distance", plots.accuracy_by_distance(left["evaluation.json"])


def of_story(model: Any, row: Any) -> Iterator:
    """(name, figure) of what the memory did in one story. What a memory does not have is left out."""
    trace, frozen = (model.traced(row, frozen=frozen).trace for frozen in (False, True))
    words = pieces(model.tokenizer, row.prompt)
    if plots.places_with(trace, "input"):
        yield "gates", plots.gates(trace)
    if plots.places_with_memory(trace):
        if figure := plots.state_similarity(trace):
            yield "state-similarity", figure
        if figure := plots.state_change(trace):
            yield "state-change", figure
    for i in plots.places_with(trace, "read"):
        yield f"read-block-{i + 1}", plots.read_map(trace, row, words, block=i)
        yield f"before-after-block-{i + 1}", plots.before_and_after(trace, frozen, row, words, block=i)
    for i in plots.places_with(trace, "write"):
        yield f"write-block-{i + 1}", plots.write_map(trace, row, words, block=i)


def read_metrics(path: Any) -> list:
    """The lines of a metrics.jsonl as dicts.  BadInput names the first line that training cannot have written."""
    found = []
    for number, line in enumerate(read_lines(path), 1):
        metrics = parse_json(line, path, number)
        if not (isinstance(metrics, dict) and type(metrics.get("step")) is int and 0 <= metrics["step"] < 2**53
                and isinstance(metrics.get("stage"), str) and len(metrics["stage"]) <= LONGEST_NAME
                and _is_number(metrics.get("loss")) and metrics["loss"] >= 0 and _is_share(metrics.get("accuracy"))):
            raise BadInput.at(path, number, repr(line[:40]), "step, stage, loss and accuracy of a training step")
        found.append(metrics)
    return found


def read_evaluation(path: Any) -> dict:
    """An evaluation.json as a dict.  BadInput where it is not one."""
    found = parse_json("\n".join(read_lines(path)), path)
    if not isinstance(found, dict) or not 1 <= len(found) <= MOST_SOURCES:
        raise BadInput(f"{path}: found {str(found)[:40]!r}, expected scores by source of the stories")
    for source, lengths in found.items():
        if not isinstance(lengths, dict) or len(source) > LONGEST_NAME:
            raise BadInput(f"{path}: found {str(lengths)[:40]!r} under {source!r:.40}, expected numbers of segments")
        for length, scores in lengths.items():
            by_distance = scores.get("by_distance") if isinstance(scores, dict) else None
            if not (re.fullmatch(r"\d{1,9}", length) and isinstance(by_distance, dict)
                    and all(re.fullmatch(r"\d{1,9}", d) and _is_share(x) for d, x in by_distance.items())):
                raise BadInput(f"{path}: found {str(scores)[:40]!r} at {length!r:.40} segments, expected accuracies by "
                               "distance")
    return found


def _is_number(x):
    return type(x) in (int, float) and abs(x) < 1e300    # False for nan and infinity, too


def _is_share(x):
    return _is_number(x) and 0 <= x <= 1
