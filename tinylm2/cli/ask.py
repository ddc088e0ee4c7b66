"""Ask a trained run about a story of your own; --show prints what its memory did."""

from argparse import Namespace
from textwrap import wrap
from typing import Any

import numpy as np

from tinylm2.cli.console import place, whole
from tinylm2.cli.story import add_model_arguments, model_of, read_facts, story_of
from tinylm2.errors import BadInput
from tinylm2.inspect.trace import pieces

SHADES = " ░▒▓█"


def add_arguments(parser: Any) -> None:
    add_model_arguments(parser)
    parser.add_argument("text", nargs="*", metavar="TEXT", help='a story and a question, such as '
                        '"Mary moved to the garden. John went to the office." "Where is Mary?"')
    parser.add_argument("--story", type=place, metavar="FILE", help="a file with the story; without a question beside "
                        "it, its last sentence asks, or its first question in the official format")
    parser.add_argument("--length", type=whole(0, 10**5), default=0,
                        help="tokens of filler and story together, in whole segments (0: no filler)")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the filler and of the facts' places (0)")
    parser.add_argument("--show", action="store_true", help="print which slots each token read")


def main(args: Namespace) -> None:
    if len(args.text) not in ((0, 1) if args.story else (2,)):
        raise BadInput(f"found {len(args.text)} texts{' and --story' if args.story else ''}, expected a story and a "
                       "question, or --story FILE and at most a question")
    model, args.task = model_of(args, args.length > 0), None
    if args.text:
        story = [read_facts(args.story)] if args.story else []
        row = model.encoded(*story, *args.text, length=args.length, seed=args.seed)
    else:
        row = story_of(args, model)
    answer, frozen = model.traced(row), model.traced(row, frozen=True)
    if args.show:
        print(heat_map(answer.trace, row, pieces(model.tokenizer, row.prompt)))
    print(answer.text)
    if row.segments > 1:
        print(f"{frozen.text}  (with the memory frozen, over {row.segments} segments)")


def heat_map(trace: Any, row: Any, words: Any) -> Any:
    """The story as text, one token per line with one character per slot: the darker, the more the token read the slot.

    The largest weight over the heads is shown. The darkest is the largest of the block in this segment.
    """
    blocks = [i for i, place in enumerate(trace.places[0]) if place.read is not None]
    if not blocks:
        return _changes(trace)
    words = ["".join(c if c.isprintable() else "?" for c in word) or "·" for word in words]
    lines = [f"Each line is a token, each column a slot: {SHADES.strip()} from little to much read.", ""]
    for s, places in enumerate(trace.places):
        start, end = max(s * row.segment_len, row.pad), min((s + 1) * row.segment_len, len(words))
        shown = words[start:end]
        rows = slice(start - s * row.segment_len, end - s * row.segment_len)
        maps = [places[i].read[0, :, rows].max(0) for i in blocks]       # (T, N)
        lines += wrap(f"Segment {s + 1} of {row.segments}: {' '.join(shown)}", 100, subsequent_indent="  ")
        for i, read in zip(blocks, maps, strict=True):
            most = np.argsort(-read.mean(0))[:3]
            named = (f"slot {n + 1} ({read[:, n].mean():.2f})" for n in most)
            lines.append(f"  block {i + 1} reads most: {', '.join(named)}")
        margin = max(map(len, shown)) + 2
        heads = (f"block {i + 1}".ljust(read.shape[1] + 2) for i, read in zip(blocks, maps, strict=True))
        lines.append(f"{'':{margin}}  {'  '.join(heads)}".rstrip())
        for t, word in enumerate(shown):
            lines.append(f"{word:>{margin}}  {'  '.join(f'|{_shaded(read[t] / read.max())}|' for read in maps)}")
        lines.append("")
    return "\n".join(lines)


def _changes(trace):
    """For a memory without slots to show: the size of its state before each segment."""
    kept = [(i, name) for i, place in enumerate(trace.places[-1]) for name in place.before]
    if not kept:
        return "This model has no memory to show.\n"
    lines = ["This memory has no slots to show. Size (root mean square) of its state before each segment:", ""]
    for i, name in kept:
        sizes = [places[i].before.get(name) for places in trace.places]
        lines.append(f"{f'block {i + 1}' if i + 1 < len(trace.places[0]) else 'segment'} {name}: " + ", ".join(
            "-" if x is None or not x.size else f"{float((x * x).mean() ** 0.5):.3f}" for x in sizes))
    return "\n".join([*lines, ""])


def _shaded(weights):
    """One character per slot, for weights from 0 to 1."""
    return "".join(SHADES[min(int(w * len(SHADES)), len(SHADES) - 1)] for w in weights)
