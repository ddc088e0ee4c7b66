"""Draw a run and one of its stories: training, gates, what was read and written, as PNG and SVG."""

import shutil
from argparse import Namespace
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tinylm2.cli.story import add_story_arguments, model_of, story_of
from tinylm2.errors import BadInput, parse_json, read_lines
from tinylm2.inspect import plots, terminal
from tinylm2.inspect.trace import pieces


def add_arguments(parser: Any) -> None:
    add_story_arguments(parser)
    parser.add_argument("--out", help="the folder to write to (default: RUN/pictures)")
    parser.add_argument("--terminal", action="store_true", help="loss and accuracy here, in characters; writes nothing")


def main(args: Namespace) -> None:
    run, out = Path(args.run), Path(args.out or Path(args.run) / "pictures")
    if args.terminal:
        print(terminal.curves(read_metrics(run / "metrics.jsonl"), width=shutil.get_terminal_size().columns))
        return
    model = model_of(args)
    row = story_of(args, model)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in chain(of_run(run), of_story(model, row)):
            print(*plots.save(figure, out / name))
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from None


def of_run(run: Any) -> Iterator:
    """(name, figure) of how training went and how the run did, where it left the files."""
    if (run / "metrics.jsonl").exists():
        yield "curves", plots.curves(read_metrics(run / "metrics.jsonl"))
    if (run / "evaluation.json").exists():
        yield "accuracy-by-distance", plots.accuracy_by_distance(read_json(run / "evaluation.json"))


def of_story(model: Any, row: Any) -> Iterator:
    """(name, figure) of what the memory did in one story: what it has, block by block, and how its state changed."""
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
    """The lines of metrics.jsonl as dicts; a run that is being trained adds whole lines."""
    return [parse_json(line, path, number) for number, line in enumerate(read_lines(path), 1)]


def read_json(path: Any) -> Any:
    return parse_json("\n".join(read_lines(path)), path)
