"""The model and the story that ask, explore and plot are asked for: their arguments, and what these choose."""

import re
import sys
from argparse import Namespace
from typing import Any

from tinylm2.cli.console import place, whole
from tinylm2.data import EVALUATION, BookFiller, Example, Rng, encode_examples, examples, read_examples
from tinylm2.data.filler import sentences
from tinylm2.errors import BadInput, read_lines
from tinylm2.gpu import array_module
from tinylm2.training import run_dir
from tinylm2.training.material import load_tasks
from tinylm2.training.settings import tasks_of

LENGTH = 256                                             # tokens of a generated story


def add_model_arguments(parser: Any) -> None:
    """The arguments that choose a run, its filler and its device."""
    parser.add_argument("run", type=place, help="a run's folder, such as runs/tiny")
    parser.add_argument("--filler", type=place, metavar="FILE",
                        help="a text file with sentences to put between the facts (a built-in grammar)")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="cpu", help="where the arrays live (cpu)")


def add_story_arguments(parser: Any) -> None:
    """The arguments that choose a run and a story."""
    add_model_arguments(parser)
    parser.add_argument("--task", help="a generated story of this task, such as qa1 or my_task.py (the run's first)")
    parser.add_argument("--seed", type=whole(0), default=3, help="seed of the generated story (3)")
    parser.add_argument("--story", type=place, metavar="FILE", help="a file with a story of your own: sentences with "
                        "the question last, or the official format (its first question)")
    parser.add_argument("--length", type=whole(0, 10**5), help="tokens of story and filler, in whole segments "
                                                               f"({LENGTH}; with --story: no filler)")


def model_of(args: Namespace, filled: bool) -> Any:
    """The TrainedModel that the arguments name. filled: whether filler will stand between the facts."""
    model, _, _ = run_dir.load(args.run, xp=array_module(args.device))
    if args.filler:
        model.filler = BookFiller(args.filler, model.tokenizer)
    elif model.settings.filler and filled:
        print(f"the filler is the built-in grammar; this run was trained with --filler {model.settings.filler!r:.80}",
              file=sys.stderr)
    return model


def length_of(args: Namespace) -> int:
    """--length, or its default: stories of one's own have no filler."""
    return args.length if args.length is not None else 0 if args.story else LENGTH


def story_of(args: Namespace, model: Any) -> Any:
    """The EncodedExample that the arguments name.  BadInput where the story does not fit."""
    if args.story and args.task:
        raise BadInput("found --story and --task, expected one of them")
    length = length_of(args)
    found = read_story(args.story, model) if args.story else generated_story(args, model)
    model.answer_len = max([model.answer_len, *(len(model.tokenizer.encode(example.answer)) for example in found)])
    rows, _ = encode_examples(found, -(-length // model.cfg.T), tokenizer=model.tokenizer, filler=model.filler,
                              segment_len=model.cfg.T, seed=args.seed, answer_len=model.answer_len)
    if not rows:
        raise BadInput(f"--length: found {length} tokens, too few for any question of this story")
    return max(rows, key=lambda row: row.distance or 0)


def named_tasks(given: str | None, settings: Any, options: str) -> list:
    """The tasks that the command line names, else those of the run.  BadInput where a run's own are in files.

    options: those that could name them, such as "--tasks, or --stories".
    """
    name = given or settings.task
    if not given and (name.endswith(".py") or settings.train_on):
        file = settings.train_on or name
        raise BadInput(f"found a run that was trained with {file!r:.80}, expected {options}: files are opened only "
                       "where the command line names them")
    return load_tasks(name) if name.endswith(".py") else tasks_of(name)


def generated_story(args: Namespace, model: Any) -> list:
    """The questions of a generated story. `story_of` takes the one whose facts lie farthest back."""
    (task, *_) = named_tasks(args.task, model.settings, "--task, or --story")
    return list(examples(task.story(Rng(args.seed, EVALUATION, task.number, 0)), task.name))


def read_facts(path: Any) -> str:
    """The text of a file that holds a story alone.  BadInput where it asks something itself."""
    lines = read_lines(path)
    if _official(lines):
        raise BadInput(f"{path}: found numbered lines and a question beside them, expected plain sentences")
    if any(sentence.endswith("?") for sentence in sentences("\n".join(lines))):
        raise BadInput(f"{path}: found a question in it and one beside it, expected one of them")
    return "\n".join(lines)


def _official(lines):
    """Are these the lines of an official file, each with its number?"""
    return re.match(r"\d+ ", lines[0]) is not None


def read_story(path: Any, model: Any) -> Any:
    """The first question of a file in the official format, or the question at the end of a plain text."""
    lines = read_lines(path)
    if _official(lines):
        return read_examples(path, "a file", model.tokenizer)[:1]
    *facts, question = list(sentences("\n".join(lines))) or [""]
    if not question.endswith("?"):
        raise BadInput.at(path, len(lines), repr(question[-40:]), "a question, such as 'Where is Mary?', at the end")
    for number, line in enumerate(lines, 1):
        model.tokenizer.check(line, path, number)
    return [Example("", tuple(facts), question, "")]
