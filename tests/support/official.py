"""The official bAbI files as the tests read them: on their own, so that no fault of the project's reader can hide."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

WHERE = Path("shared", "data", "babi")
FILES = next((folder / WHERE for folder in Path(__file__).parents if (folder / WHERE).is_dir()), WHERE)
TASKS = [f"qa{number}" for number in range(1, 21)]

needs_files = pytest.mark.skipif(not FILES.is_dir(), reason=f"the official bAbI files are not in {FILES}")


class Line(NamedTuple):
    number: int                                          # in the file, from 1
    text: str
    answer: str | None = None                            # of a question


@lru_cache(None)
def official(task):
    """The stories of a task's training file, each a list of Lines."""
    stories = []
    (path,) = FILES.glob(f"{task}_*_train.txt")
    for number, row in enumerate(path.read_text().splitlines(), 1):
        place, _, told = row.partition(" ")
        if place == "1":
            stories.append([])
        text, *answer = told.split("\t")[:2]
        stories[-1].append(Line(number, text.strip(), *answer))
    return stories


def asked(story):
    """(question, the texts told before it) of every question of a story."""
    told = []
    for line in story:
        if line.answer is None:
            told.append(line.text)
        else:
            yield line, told
