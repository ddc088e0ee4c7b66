"""Compare generated stories with official ones: python -m tinylm2.data.distributions FOLDER [--write DATA.md].

For every task and every measure of a question it prints the total variation distance

    TV(p, q) = 1/2 * sum over x of |p(x) - q(x)|

between generated and official stories. Beside it stands the distance between two random halves of the official file,
which is due to chance alone. Generated stories are close enough when their distance is at most ALLOWANCE larger.

--classifier measures how well two classifiers separate generated from official stories (tinylm2/data/two_sample.py).
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from math import fsum
from typing import Any, NamedTuple

from tinylm2.data import two_sample
from tinylm2.data.babi import find_file, read_stories
from tinylm2.data.rng import EVALUATION, Rng
from tinylm2.data.stories import Question
from tinylm2.data.tasks import TASKS
from tinylm2.errors import BadInput, read_lines
from tinylm2.files import replacing

ALLOWANCE = .05
STORIES = 2000                                           # generated per task
HALVINGS = 20                                            # of the official file; their mean distance is used


class Asked(NamedTuple):
    """The measures of a question. A field's name, with spaces for underscores, is the head of its column."""

    answer: str
    facts_before: int                                    # facts in the story before the question
    since_the_last: int                                  # of them, after the previous question
    supporting: int
    lines_to_the_nearest: int | None                     # supporting fact


class Distance(NamedTuple):
    """The distance of one measure: generated to official stories, and by chance (between halves of the official)."""

    generated: float
    chance: float

    @property
    def close(self) -> bool:
        return self.generated <= self.chance + ALLOWANCE

    def __str__(self):
        text = f"{self.generated:.3f} / {self.chance:.3f}"
        return text if self.close else f"**{text}**"


def asked(story: Any) -> Iterator:
    """An Asked for every question of a story."""
    facts = before = 0
    for number, line in enumerate(story, 1):
        if isinstance(line, Question):
            nearest = number - max(line.support) if line.support else None
            yield Asked(line.answer, facts, facts - before, len(line.support), nearest)
            before = facts
        else:
            facts += 1


def variations(one: Any, other: Any) -> list:
    """The total variation distance of every measure between two lists of stories, each story a list of Asked."""
    return [_variation(p, q) for p, q in zip(_counts(one), _counts(other), strict=True)]


def _counts(stories):
    """The number of times that each value of each measure occurs."""
    return map(Counter, zip(*(question for story in stories for question in story), strict=True))


def _variation(p, q):
    return fsum(abs(p[x] / p.total() - q[x] / q.total()) for x in p | q) / 2


def chance(stories: Any, rng: Any) -> list:
    """The distances that are due to chance: means over HALVINGS of those between two random halves of the stories."""
    found = []
    for _ in range(HALVINGS):
        mixed = rng.shuffled(stories)
        half = len(mixed) // 2
        found.append(variations(mixed[:half], mixed[half:]))
    return [fsum(values) / HALVINGS for values in zip(*found, strict=True)]         # sum() depends on the version


def compare(task: Any, path: Any, *, seed: int = 0) -> list:
    """The Distance of every measure, in the order of Asked: a task's stories and the official file `path`."""
    official = [questions for story in read_stories(path) if (questions := list(asked(story)))]
    if len(official) < 2:
        raise BadInput(f"{path}: found {len(official)} stories with questions, expected at least 2 to compare")
    generated = [list(asked(task.story(Rng(seed, EVALUATION, task.number, number)))) for number in range(STORIES)]
    by_chance = chance(official, Rng(seed, EVALUATION, task.number, STORIES))
    return list(map(Distance, variations(generated, official), by_chance))


def row(*cells: Any) -> str:
    """A line of the Markdown table."""
    return f"| {' | '.join(map(str, cells))} |\n"


def table(folder: Any, *, seed: int = 0) -> tuple:
    """(Markdown table of all tasks, number of distances that are too large). These are printed in bold."""
    heads = [name.replace("_", " ") for name in Asked._fields]
    rows, far = [row("task", *heads), row("---", *["---:"] * len(heads))], 0
    for task in TASKS.values():
        found = compare(task, find_file(folder, task.name), seed=seed)
        rows.append(row(f"{task.name} {task.title}", *found))
        far += sum(not distance.close for distance in found)
    return "".join(rows), far


def classified(folder: Any, *, seed: int = 0, tasks: Any = None) -> tuple:
    """(Markdown table of `two_sample`, number of areas above its threshold, each task's most typical n-grams)."""
    rows, far, found = [row("task", "stories", "n-grams", "trees"), row("---", *["---:"] * 3)], 0, []
    for task in (TASKS[name] for name in tasks or TASKS):
        official = [story for story in read_stories(find_file(folder, task.name)) if any(asked(story))]
        verdicts = [two_sample.verdict(judge, task, official, seed=seed)
                    for judge in (two_sample.grams, two_sample.trees)]
        rows.append(row(f"{task.name} {task.title}", len(official), *verdicts))
        far += sum(verdict.area > two_sample.THRESHOLD for verdict in verdicts)
        theirs, ours = two_sample.signs(official, two_sample.generated(task, two_sample.FEWEST, seed, 0))
        found.append(f"{task.name}: official {theirs}, generated {ours}\n")
    return "".join(rows), far, "".join(found)


def write(path: Any, text: str, place: str = "distributions") -> None:
    """Write a table between the two comments of a document that mark its place."""
    head, start, rest = ("\n".join(read_lines(path)) + "\n").partition(f"<!-- {place}: -->\n")
    _, end, tail = rest.partition(f"<!-- :{place} -->\n")
    if not end:
        raise BadInput(f"{path}: found no place for the table, expected <!-- {place}: --> and its end")
    with replacing(path) as file:
        file.write((head + start + text + end + tail).encode())


def main(arguments: Any = None) -> Any:
    parser = argparse.ArgumentParser(prog="python -m tinylm2.data.distributions",
                                     description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", help="the official files, qa1_..._train.txt to qa20_..._train.txt")
    parser.add_argument("--classifier", action="store_true",
                        help="can a classifier separate generated from official stories? Needs scikit-learn and ten "
                             "minutes")
    parser.add_argument("--write", metavar="FILE", help="write the table into this document, such as docs/DATA.md")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        if options.seed < 0:
            raise BadInput(f"--seed: found {options.seed}, expected 0 or more")
        if options.classifier:
            text, far, signs = classified(options.folder, seed=options.seed)
            verdict = f"{signs}{far} areas are above {two_sample.THRESHOLD}"
        else:
            text, far = table(options.folder, seed=options.seed)
            verdict = f"{far} distances are more than {ALLOWANCE} above chance"
        if options.write:
            write(options.write, text, "classifier" if options.classifier else "distributions")
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    print(text, end="")
    print(verdict)
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
