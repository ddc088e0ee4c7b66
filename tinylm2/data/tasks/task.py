"""A task, and the table of all tasks."""

from dataclasses import dataclass
from typing import Any

from tinylm2.data.rng import DATA, Rng
from tinylm2.data.stories import Story
from tinylm2.data.tasks.world import MOST, World


@dataclass(frozen=True)
class Task:
    """A task: its name, its title and its kind of world."""

    name: str
    title: str
    world: type[World]

    @property
    def number(self) -> int:
        return int(self.name[2:])

    def sample(self, count: int) -> Any:
        """The random streams of the first `count` stories of seed 0, from which a vocabulary is collected."""
        return (Rng(0, DATA, self.number, number) for number in range(count))

    def story(self, rng: Rng, *, questions: int | None = None, facts: int | None = None) -> Story:
        """A story with this number of questions, and of facts before each question. None: as in the official file.

        facts: if the task does not allow this number before the first question, the nearest one is used. Before a later
        question there may be more, if nothing can be asked yet, or none, if all facts of the task come first. The story
        ends early when nothing more can happen.
        """
        for name, value in (("questions", questions), ("facts", facts)):
            if value is not None and value < 1:
                raise ValueError(f"{self.name}: found {name}={value}, expected at least 1")
        if facts is not None:
            facts = int(min(max(facts, self.world.least), self.world.most))
        for _ in range(MOST):
            world = self.world(rng)
            if world.run(questions or self.world.questions, facts):
                return tuple(world.lines)
        raise ValueError(f"{self.name}: nothing could be asked in {MOST:,} stories" + (
            f" after {facts} facts: `least` says how many its world needs" if facts else ""))


TASKS: dict[str, Task] = {}


def task(name: str, title: str) -> Any:
    """A decorator that puts a kind of world into TASKS."""

    def enter(world):
        TASKS[name] = Task(name, title, world)
        return world

    return enter
