"""Ask a trained run a question about a story of your own; --show prints what its memory did."""

from textwrap import wrap

import numpy as np

from tinylm2.backend import array_module
from tinylm2.data import Example, generated_examples, max_answer_len, without_filler
from tinylm2.data.filler import sentences
from tinylm2.errors import BadInput
from tinylm2.inspect.trace import pieces, traced_answer
from tinylm2.training import run_dir
from tinylm2.training.settings import tasks_of

SHADES = " ░▒▓█"


def add_arguments(parser):
    parser.add_argument("run", help="a run's folder, such as runs/tiny")
    parser.add_argument("story", help='"Mary moved to the garden. John went to the office."')
    parser.add_argument("question", help='"Where is Mary?"')
    parser.add_argument("--show", action="store_true", help="print what each token read of the memory")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="cpu")


def main(args):
    model, _, _ = run_dir.load(args.run, xp=array_module(args.device))
    example, answer_len = question_of(model, args.story, args.question), answer_len_of(model)
    row = without_filler(example, tokenizer=model.tokenizer, segment_len=model.cfg.T, answer_len=answer_len)
    answer = traced_answer(model.params, row, cfg=model.cfg, tokenizer=model.tokenizer, answer_len=answer_len)
    if args.show:
        print(heat_map(answer.trace, row, pieces(model.tokenizer, row.prompt)))
    print(answer.text)


def question_of(model, story, question):
    """The Example that asks the question of the story.  BadInput names every word that is not known."""
    if unknown := model.tokenizer.unknown(f"{story} {question}"):
        raise BadInput(f"found {', '.join(unknown)}, expected words that the model knows (see tokenizer.json)")
    if not model.tokenizer.encode(question):
        raise BadInput(f"question: found {question!r}, expected words")
    return Example("", tuple(sentences(story)), question, "")


def answer_len_of(model):
    """How many tokens an answer may take: as many as the longest of the tasks that the run learned."""
    return max_answer_len([example for task in tasks_of(model.settings.task)
                           for example in generated_examples(task, 100, seed=0)], model.tokenizer)


def heat_map(trace, row, words):
    """The story as lines of text, a token a line: how dark each slot is shows how much the token read of it.

    Of all heads the one that read a slot most counts; darkest is the most read slot of the block in the segment.
    """
    blocks = [i for i, place in enumerate(trace.places[0]) if place.read is not None]
    if not blocks:
        return _changes(trace)
    words = ["".join(c if c.isprintable() else "?" for c in word) or "·" for word in words]
    lines = [f"Each line is a token, each place a slot: {SHADES.strip()} the more it was read.", ""]
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
    """For a memory without slots that tokens read: how much each segment changed its state."""
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
    """A character a slot, for weights from 0 to 1."""
    return "".join(SHADES[min(int(w * len(SHADES)), len(SHADES) - 1)] for w in weights)
