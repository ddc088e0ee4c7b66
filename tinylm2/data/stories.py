"""What a story is: facts told line by line, questions asked midway. The value that all of data/ passes on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    """One told line, as the official files print it: "Mary moved to the bathroom."."""

    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """One asked line. `answer` is printed as in the official files ("bathroom", "football,milk", "s,e");
    `support` holds the numbers of the lines that answer it, counted from 1 through the story, questions included."""

    text: str
    answer: str
    support: tuple[int, ...] = ()


Story = tuple[Fact | Question, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One question with the facts told before it. `support` indexes `facts`, from 0."""

    task: str
    facts: tuple[str, ...]
    question: str
    answer: str
    support: tuple[int, ...] = ()


def examples(story: Any, task: str) -> Iterator:
    """One Example a question of the story: what was told up to it; what was asked before it is left out."""
    facts, place = [], {}                                # place: line number -> index among the facts
    for number, line in enumerate(story, 1):
        if isinstance(line, Fact):
            place[number] = len(facts)
            facts.append(line.text)
        else:
            yield Example(task, tuple(facts), line.text, line.answer, tuple(place[n] for n in line.support))
