"""Write a page, one HTML file, to walk through a story segment by segment and see what the memory does."""

import re
from pathlib import Path

from tinylm2 import runs
from tinylm2.backend import array_module
from tinylm2.commands.ask import places_of, told
from tinylm2.console import whole
from tinylm2.data import EVALUATION, BadInput, Dice, evaluation_rows, examples, read_examples
from tinylm2.data.errors import read_lines
from tinylm2.data.filler import sentences
from tinylm2.explore import page
from tinylm2.trace import watch

LENGTH = 256                                             # tokens of a story that is told anew


def add_arguments(parser):
    add_story_arguments(parser)
    parser.add_argument("--out", help="the file to write (default: RUN/explore.html)")


def add_story_arguments(parser):
    """A run, and which story to look at."""
    parser.add_argument("run", help="a run's folder, such as runs/tiny")
    parser.add_argument("--task", help="tell a story of this task, such as qa1 (default: the run's first)")
    parser.add_argument("--seed", type=whole(0), default=3, help="which story is told (3)")
    parser.add_argument("--story", metavar="FILE", help="a file with a story of your own: sentences, the last of which "
                                                        "asks, or the official format, whose first story is taken")
    parser.add_argument("--length", type=whole(0, 10**5), help="tokens to hide the story in, in whole segments "
                                                               f"({LENGTH}; with --story: as long as the story is)")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="cpu")


def main(args):
    loaded, row, places = story(args)
    live, frozen = (watch(loaded.params, row, cfg=loaded.cfg, tokenizer=loaded.tokenizer, places=places, frozen=frozen)
                    for frozen in (False, True))
    text = page(row, live, frozen, cfg=loaded.cfg, tokenizer=loaded.tokenizer, about=about(loaded, row, args),
                params=loaded.params, filler=loaded.filler, places=places)
    out = Path(args.out or Path(args.run) / "explore.html")
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from None
    print(f"{out}: {len(text.encode()) / 1e6:.2f} MB, opens in any browser")


def about(loaded, row, args):
    """A line that says what is shown."""
    cfg = loaded.cfg
    source = args.story or f"{row.example.task}, seed {args.seed}"
    return (f"{Path(args.run).name}: memory “{cfg.memory}”, {cfg.L} blocks, {cfg.H} heads, {cfg.N} slots. "
            f"Story: {source}, {len(row.prompt)} tokens.")


def story(args):
    """(Loaded, Row, places of an answer) that the arguments name.  BadInput where the story does not fit."""
    loaded, _, _ = runs.load(args.run, xp=array_module(args.device))
    width = loaded.cfg.T
    length = args.length if args.length is not None else 0 if args.story else LENGTH
    if args.story and args.task:
        raise BadInput("found --story and --task, expected one of them")
    found = read_story(args.story, loaded) if args.story else fresh_story(loaded, args)
    places = max([places_of(loaded), *(len(loaded.tokenizer.encode(example.answer)) for example in found)])
    rows, _ = evaluation_rows(found, -(-length // width), tokenizer=loaded.tokenizer, filler=loaded.filler, width=width,
                              seed=args.seed, room=places)
    if not rows:
        raise BadInput(f"--length: found {length} tokens, too few for any question of this story")
    return loaded, max(rows, key=lambda row: row.distance or 0), places


def fresh_story(loaded, args):
    """The questions of a story told anew; the one whose facts lie farthest back is the one to look at."""
    tasks = runs.tasks_of(args.task or loaded.settings.task)
    return list(examples(tasks[0].story(Dice(args.seed, EVALUATION, tasks[0].number, 0)), tasks[0].name))


def read_story(path, loaded):
    """The first question of a file in the official format, or the one that a plain text ends in."""
    lines = read_lines(path)
    if re.match(r"\d+ ", lines[0]):
        return read_examples(path, "a file", loaded.tokenizer)[:1]
    *facts, question = list(sentences("\n".join(lines))) or [""]
    if not question.endswith("?"):
        raise BadInput.at(path, len(lines), repr(question[-40:]), "a question, such as 'Where is Mary?', at the end")
    try:
        return [told(loaded, " ".join(facts), question)]
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
