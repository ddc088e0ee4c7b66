"""A story: lines that are facts or questions. All of data/ passes these values on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    """A line that states something, as the official files print it: "Mary moved to the bathroom."."""

    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A line that asks. `answer` is as in the official files ("bathroom", "football,milk", "s,e"). `support`: the
    numbers of the lines that give the answer, counted from 1, questions included."""

    text: str
    answer: str
    support: tuple[int, ...] = ()


Story = tuple[Fact | Question, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A question with the facts before it. `support`: indices into `facts`, from 0."""

    task: str
    facts: tuple[str, ...]
    question: str
    answer: str
    support: tuple[int, ...] = ()


def examples(story: Any, task: str) -> Iterator:
    """One Example per question of the story, with all facts before it and without the earlier questions."""
    facts, place = [], {}                                # place: line number -> index among the facts
    for number, line in enumerate(story, 1):
        if isinstance(line, Fact):
            place[number] = len(facts)
            facts.append(line.text)
        else:
            yield Example(task, tuple(facts), line.text, line.answer, tuple(place[n] for n in line.support))
