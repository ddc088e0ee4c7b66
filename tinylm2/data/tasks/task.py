"""What a task is, and the table of all of them."""

from dataclasses import dataclass
from typing import Any

from tinylm2.data.rng import DATA, Rng
from tinylm2.data.stories import Story
from tinylm2.data.tasks.world import MOST, World


@dataclass(frozen=True)
class Task:
    """One of the twenty: the kind of world that its stories tell of."""

    name: str
    title: str
    world: type[World]

    @property
    def number(self) -> int:
        return int(self.name[2:])

    def sample(self, count: int) -> Any:
        """The random streams of the first so many stories of seed 0, for a look at the task's words."""
        return (Rng(0, DATA, self.number, number) for number in range(count))

    def story(self, rng: Rng, *, questions: int | None = None, facts: int | None = None) -> Story:
        """A story that asks `questions` questions and tells `facts` facts before each. None: as the official file does.

        So many facts, or the nearest number that the task allows, stand before the first question. A later one waits
        for more where nothing can be asked yet, or for none where the task tells all before it asks; and when nothing
        more can happen, the story ends.
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
        raise ValueError(f"{self.name}: nothing could be asked in {MOST:,} stories")


TASKS: dict[str, Task] = {}


def task(name: str, title: str) -> Any:
    """Enter the decorated kind of world in TASKS."""

    def enter(world):
        TASKS[name] = Task(name, title, world)
        return world

    return enter
