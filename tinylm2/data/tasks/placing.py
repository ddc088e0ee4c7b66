"""Tasks about how things stand to one another: beside, above, larger than, and the way from here to there."""

from typing import Any

from tinylm2.data.tasks.task import task
from tinylm2.data.tasks.walking import HOUSE
from tinylm2.data.tasks.world import World

COMPASS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
SIDES = {"above": (0, 1), "below": (0, -1), "to the right of": (1, 0), "to the left of": (-1, 0)}
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east", "above": "below", "below": "above",
            "to the right of": "to the left of", "to the left of": "to the right of"}

SHAPES = ("triangle", "pink rectangle", "red square", "blue square", "yellow square", "red sphere")
SWEETS = ("chocolate", "box of chocolates")              # the smaller first
BOXES = ("box", "suitcase", "chest", "container")        # all larger than the sweets, among themselves in any order


class Map(World):
    """Things on a grid, all put there before the first line. A fact says how one lies next to another.

    `facts`, (one, direction, other) for "one is `direction` of other", wait to be told, the last one first; `line` has
    the line that told of two neighbours.
    """

    steps = COMPASS
    questions = 1
    pause = False
    new_first = .5                                       # how often a fact names the newly put thing first

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.at, self.facts, self.line = {}, [], {}

    def put(self, thing: Any, direction: Any, other: Any) -> bool:
        """Put a thing next to another. False where something lies already."""
        (x, y), (dx, dy) = self.at[other], self.steps[direction]
        if (x + dx, y + dy) in self.at.values():
            return False
        self.at[thing] = x + dx, y + dy
        new_first = self.rng.bernoulli(self.new_first)
        self.facts.append((thing, direction, other) if new_first else (other, OPPOSITE[direction], thing))
        return True

    def happen(self) -> bool:
        if not self.facts:
            return False
        fact = one, direction, other = self.facts.pop()
        self.line[one, other] = self.line[other, one] = self.tell(self.sentence(*fact), fact)
        return True

    def sentence(self, one: Any, direction: Any, other: Any) -> str:
        return f"The {one} is {direction} of the {other}."


@task("qa4", "two argument relations")
class TwoArgumentRelations(Map):
    """Three rooms in a row: which one is north of the middle, or what is it north of?"""

    least = most = 2
    new_first = .65

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        middle, first, second = rng.sample(HOUSE, 3)
        direction = rng.choice(list(COMPASS))
        self.at[middle] = 0, 0
        self.put(first, direction, middle)
        self.put(second, OPPOSITE[direction], middle)

    def question(self, fact: Any) -> Any:
        one, direction, other = fact
        text = self.rng.choice((f"What is {direction} of the {other}?",
                               f"What is the {other} {OPPOSITE[direction]} of?"))
        return self.ask(text, one, self.line[one, other])


@task("qa17", "positional reasoning")
class PositionalReasoning(Map):
    """Two shapes beside a third: how do the two lie to each other?"""

    steps = SIDES
    questions = 8
    least = most = 2
    new_first = .35

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.middle, *self.ends = rng.sample(SHAPES, 3)
        self.at[self.middle] = 0, 0
        for shape, direction in zip(self.ends, rng.sample(SIDES, 2), strict=True):
            self.put(shape, direction, self.middle)

    def sentence(self, one: Any, direction: Any, other: Any) -> str:
        return f"The {one} is {direction} the {other}."

    def question(self, _: Any) -> Any:
        one, other = self.rng.shuffled(self.ends)
        (x, y), (x0, y0) = self.at[one], self.at[other]
        answer = self.rng.choice(("yes", "no"))
        direction = self.rng.choice([side for side, (dx, dy) in SIDES.items()
                                    if ((x - x0) * dx + (y - y0) * dy > 0) == (answer == "yes")])
        lines = (self.line[end, self.middle] for end in (one, other))
        return self.ask(f"Is the {one} {direction} the {other}?", answer, *lines)


@task("qa19", "path finding")
class PathFinding(Map):
    """A way of two steps, and three rooms beside it."""

    pace = most = 5
    least = 2
    step_last = .27                                      # how often, beyond chance, a step of the way is told last

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        start, middle, goal, *others = rng.shuffled(HOUSE)
        self.stops = start, middle, goal
        self.at[start] = 0, 0
        self.way = [self.put_somewhere(middle, (start,)), self.put_somewhere(goal, (middle,))]
        steps = self.facts[:]
        for room in others:
            self.put_somewhere(room, self.stops)
        self.facts = rng.shuffled(self.facts)
        if rng.bernoulli(self.step_last):
            last = rng.choice(steps)
            self.facts.remove(last)
            self.facts.insert(0, last)

    def put_somewhere(self, room: Any, neighbours: Any) -> Any:
        """Put a room in any free place next to one of these; the direction."""
        while True:
            direction = self.rng.choice(list(COMPASS))
            if self.put(room, direction, self.rng.choice(neighbours)):
                return direction

    def question(self, _: Any) -> Any:
        start, middle, goal = self.stops
        if (start, middle) not in self.line or (middle, goal) not in self.line:
            return False
        way = ",".join(direction[0] for direction in self.way)
        lines = self.line[start, middle], self.line[middle, goal]
        return self.ask(f"How do you go from the {start} to the {goal}?", way, *lines)


@task("qa18", "size reasoning")
class SizeReasoning(World):
    """What is larger than what is larger than a third thing. A topic is (larger, smaller, line)."""

    pace = 5
    pause = False
    least = 2

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.sizes = *SWEETS, *rng.shuffled(BOXES)      # from small to large

    def happen(self) -> None:
        small, large = sorted(self.rng.sample(range(len(self.sizes)), 2))
        small, large = self.sizes[small], self.sizes[large]
        text = self.rng.choice((f"The {small} fits inside the {large}.", f"The {large} is bigger than the {small}."))
        self.topics.append((large, small, self.tell(text)))

    def question(self, fact: Any) -> Any:
        """Ask what follows from this fact and the first one that goes on from it, at either end."""
        for other in self.topics:
            for (large, middle, upper), (same, small, lower) in ((fact, other), (other, fact)):
                if middle == same:
                    return self.ask(*self.rng.choice((
                        (f"Is the {large} bigger than the {small}?", "yes", upper, lower),
                        (f"Is the {small} bigger than the {large}?", "no", lower, upper),
                        (f"Does the {small} fit in the {large}?", "yes", lower, upper),
                        (f"Does the {large} fit in the {small}?", "no", upper, lower))))
        return False
