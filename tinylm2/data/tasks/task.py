"""What a task is: a function that tells one story, entered in the table of tasks under its name."""

from collections.abc import Callable
from dataclasses import dataclass

from tinylm2.data.dice import Dice
from tinylm2.data.stories import Fact, Question, Story


class Tale:
    """A story while it is told. Its lines are numbered from 1, so that whoever tells knows what an answer rests on."""

    def __init__(self, dice):
        self.dice = dice
        self.lines = []

    def tell(self, text):
        """Add a fact; its line number."""
        self.lines.append(Fact(text))
        return len(self.lines)

    def ask(self, text, answer, *support):
        """Add a question, its answer and the numbers of the lines that give it, in the official files' order."""
        self.lines.append(Question(text, answer, support))


@dataclass(frozen=True)
class Task:
    """One of the twenty. `tell(tale, questions=..., facts=...)` tells a story; its defaults are the real file's way."""

    name: str
    title: str
    tell: Callable

    @property
    def number(self):
        return int(self.name[2:])

    def story(self, dice: Dice, *, questions: int | None = None, facts: int | None = None) -> Story:
        """A story that asks `questions` questions and tells `facts` facts before each; None: as the real file does."""
        knobs = {name: value for name, value in (("questions", questions), ("facts", facts)) if value is not None}
        for name, value in knobs.items():
            if value < 1:
                raise ValueError(f"{self.name}: found {name}={value}, expected at least 1")
        tale = Tale(dice)
        self.tell(tale, **knobs)
        return tuple(tale.lines)


TASKS: dict[str, Task] = {}


def task(name, title):
    """Enter the decorated function in TASKS."""

    def enter(tell):
        TASKS[name] = Task(name, title, tell)
        return tell

    return enter
