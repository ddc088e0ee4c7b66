"""Ask a trained run a question about a story of your own; --show prints what its memory did."""

from textwrap import wrap

import numpy as np

from tinylm2 import runs
from tinylm2.backend import array_module
from tinylm2.data import BadInput, Example, alone, fresh_examples, longest_answer
from tinylm2.data.filler import sentences
from tinylm2.trace import pieces, watch

SHADES = " ░▒▓█"


def add_arguments(parser):
    parser.add_argument("run", help="a run's folder, such as runs/tiny")
    parser.add_argument("story", help='"Mary moved to the garden. John went to the office."')
    parser.add_argument("question", help='"Where is Mary?"')
    parser.add_argument("--show", action="store_true", help="print what each token read of the memory")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="cpu")


def main(args):
    loaded, _, _ = runs.load(args.run, xp=array_module(args.device))
    example, places = told(loaded, args.story, args.question), places_of(loaded)
    row = alone(example, tokenizer=loaded.tokenizer, width=loaded.cfg.T, room=places)
    reading = watch(loaded.params, row, cfg=loaded.cfg, tokenizer=loaded.tokenizer, places=places)
    if args.show:
        print(heat_map(reading.trace, row, pieces(loaded.tokenizer, row.prompt)))
    print(reading.said)


def told(loaded, story, question):
    """The Example that asks the question of the story.  BadInput names every word that is not known."""
    if unknown := loaded.tokenizer.unknown(f"{story} {question}"):
        raise BadInput(f"found {', '.join(unknown)}, expected words that the model knows (see tokenizer.json)")
    if not loaded.tokenizer.encode(question):
        raise BadInput(f"question: found {question!r}, expected words")
    return Example("", tuple(sentences(story)), question, "")


def places_of(loaded):
    """How many tokens an answer may take: as many as the longest of the tasks that the run learned."""
    return longest_answer([example for task in runs.tasks_of(loaded.settings.task)
                           for example in fresh_examples(task, 100, seed=0)], loaded.tokenizer)


def heat_map(trace, row, words):
    """The story as lines of text, a token a line: how dark each slot is shows how much the token read of it.

    Of all heads the one that read a slot most counts; darkest is the most read slot of the block in the segment.
    """
    blocks = [i for i, look in enumerate(trace.looks[0]) if look.read is not None]
    if not blocks:
        return "This model has no memory to show.\n"
    words = ["".join(c if c.isprintable() else "?" for c in word) or "·" for word in words]
    lines = [f"Each line is a token, each place a slot: {SHADES.strip()} the more it was read.", ""]
    for s, looks in enumerate(trace.looks):
        start, end = max(s * row.width, row.pad), min((s + 1) * row.width, len(words))
        told = words[start:end]
        maps = [looks[i].read[0, :, start - s * row.width:end - s * row.width].max(0) for i in blocks]         # (T, N)
        lines += wrap(f"Segment {s + 1} of {row.segments}: {' '.join(told)}", 100, subsequent_indent="  ")
        for i, read in zip(blocks, maps, strict=True):
            most = np.argsort(-read.mean(0))[:3]
            named = (f"slot {n + 1} ({read[:, n].mean():.2f})" for n in most)
            lines.append(f"  block {i + 1} reads most: {', '.join(named)}")
        margin = max(map(len, told)) + 2
        heads = (f"block {i + 1}".ljust(read.shape[1] + 2) for i, read in zip(blocks, maps, strict=True))
        lines.append(f"{'':{margin}}  {'  '.join(heads)}".rstrip())
        for t, word in enumerate(told):
            lines.append(f"{word:>{margin}}  {'  '.join(f'|{_shaded(read[t] / read.max())}|' for read in maps)}")
        lines.append("")
    return "\n".join(lines)


def _shaded(weights):
    """A character a slot, for weights from 0 to 1."""
    return "".join(SHADES[min(int(w * len(SHADES)), len(SHADES) - 1)] for w in weights)
