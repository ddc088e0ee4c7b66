"""Print generated stories with their supporting facts marked, or in the official format."""

from argparse import Namespace
from itertools import islice
from typing import Any

from tinylm2.cli.console import whole
from tinylm2.cli.evaluate import token_lengths
from tinylm2.data import (
    DATA,
    GrammarFiller,
    Rng,
    generated_examples,
    insert_in_haystack,
    story_text,
    word_tokenizer,
    words_of,
)
from tinylm2.errors import BadInput
from tinylm2.training.material import load_tasks
from tinylm2.training.settings import tasks_of

LONGEST = 2**20                                          # tokens of a story to look at


def add_arguments(parser: Any) -> None:
    parser.add_argument("--task", default="qa1", help="as train's --task (qa1)")
    parser.add_argument("--length", default="0", help="tokens of story and filler, k for 1,024; 0: no filler (0)")
    parser.add_argument("--count", type=whole(1, 10**5), default=1, help="stories per task (1)")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the stories (0)")
    parser.add_argument("--segment", type=whole(1), default=32, help="tokens per segment (32)")
    parser.add_argument("--official", action="store_true", help="print whole stories in the official format")


def main(args: Namespace) -> None:
    (length,) = token_lengths(args.length)[:1]
    if max(length, args.segment) > LONGEST:
        raise BadInput(f"length: found {length} tokens in segments of {args.segment}, expected at most {LONGEST:,}")
    for task in load_tasks(args.task) if args.task.endswith(".py") else tasks_of(args.task):
        if args.official:
            for number in range(args.count):
                print(story_text(task.story(Rng(args.seed, DATA, task.number, number))), end="")
        else:
            shown = (marked(example, length, args, number)
                     for number, example in enumerate(generated_examples(task, 50 * args.count, seed=args.seed)))
            fitting = list(islice(filter(None, shown), args.count))
            if not fitting:
                raise BadInput(f"length: found {length} tokens, expected room for the facts of a story of {task.name}")
            print("\n".join(fitting))


def marked(example: Any, length: int, args: Namespace, number: int) -> Any:
    """A story with its question, one fact per line, `>` before each supporting one; None where it does not fit."""
    lines = [("> " if i in example.support else "  ") + fact for i, fact in enumerate(example.facts)]
    if length:
        lines = hidden(example, -(-length // args.segment), args, number)
    return lines and "\n".join([f"-- {example.task}", *lines, f"? {example.question}", f"= {example.answer}", ""])


def hidden(example: Any, segments: Any, args: Namespace, number: Any) -> list | None:
    """The facts in filler, one paragraph per segment, supporting facts in brackets; None where they do not fit."""
    texts = *example.facts, example.question, example.answer                # a user's task may have new words
    tokenizer = word_tokenizer([word for text in texts for word in words_of(text)])
    row = insert_in_haystack(example, Rng(args.seed, DATA, 0, number), tokenizer=tokenizer, filler=GrammarFiller(),
               segments=segments, segment_len=args.segment)
    if row is None:
        return None
    starts, ends = {start for start, _ in row.support}, {end for _, end in row.support}
    words = []
    for i, token in enumerate(row.prompt[:row.asked]):
        word = tokenizer.decode([token])
        words.append(("[" if i in starts else "") + word + ("]" if i + 1 in ends else ""))
    return [" ".join(words[i:i + args.segment]) + "\n" for i in range(0, len(words), args.segment)]
