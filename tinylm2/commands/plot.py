"""Draw a run and one of its stories: training, gates, what was read and written, as PNG and SVG."""

from itertools import chain
from pathlib import Path

from tinylm2 import plots
from tinylm2.commands.explore import add_story_arguments, story
from tinylm2.data import BadInput
from tinylm2.data.errors import parse_json, read_lines
from tinylm2.trace import pieces, watch


def add_arguments(parser):
    add_story_arguments(parser)
    parser.add_argument("--out", help="the folder to write to (default: RUN/pictures)")


def main(args):
    run, out = Path(args.run), Path(args.out or Path(args.run) / "pictures")
    loaded, row, places = story(args)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in chain(of_run(run), of_story(loaded, row, places)):
            print(*plots.save(figure, out / name))
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from None


def of_run(run):
    """(name, figure) of how training went and how the run did, where it left the files."""
    if (run / "metrics.jsonl").exists():
        yield "curves", plots.curves(read_metrics(run / "metrics.jsonl"))
    if (run / "evaluation.json").exists():
        yield "accuracy-by-distance", plots.accuracy_by_distance(read_json(run / "evaluation.json"))


def of_story(loaded, row, places):
    """(name, figure) of what the memory did in one story, block by block."""
    trace, frozen = (watch(loaded.params, row, cfg=loaded.cfg, tokenizer=loaded.tokenizer, places=places,
                           frozen=frozen).trace for frozen in (False, True))
    words, blocks = pieces(loaded.tokenizer, row.prompt), plots.blocks_with_memory(trace)
    if blocks:
        yield "gates", plots.gates(trace)
        yield "bank-similarity", plots.bank_similarity(trace)
    for i in blocks:
        yield f"read-block-{i + 1}", plots.read_map(trace, row, words, block=i)
        if row.segments > 1:
            yield f"write-block-{i + 1}", plots.write_map(trace, row, words, block=i)
        yield f"before-after-block-{i + 1}", plots.before_and_after(trace, frozen, row, words, block=i)


def read_metrics(path):
    return [parse_json(line, path, number) for number, line in enumerate(read_lines(path), 1)]


def read_json(path):
    return parse_json("\n".join(read_lines(path)), path)
