"""Tasks about relations between things: beside, above, larger than, and the way from one room to another."""

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
    """Things on a grid, all placed before the first line. A fact states the relation of two neighbours.

    `facts` holds (one, direction, other) for "one is `direction` of other": the facts that are not yet stated, the next
    one last. `line` has the line that states the relation of two neighbours.
    """

    steps = COMPASS
    questions = 1
    pause = False
    new_first = .5                                       # probability that a fact names the newly placed thing first

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.at, self.facts, self.line = {}, [], {}

    def put(self, thing: Any, direction: Any, other: Any) -> bool:
        """Place a thing next to another. Return False where the position is taken."""
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
    """Two shapes are next to a third one. What is the relation of the two?"""

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
class PathFinding(World):
    """A way of two steps, with three rooms beside it. Two of these may be at one position: no way leads through them.

    `beside` has the neighbours of every room by direction. `line` has the line that states the relation of two rooms.
    """

    questions = 1
    pace = most = 5
    pause = False
    least = 2

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        start, middle, goal, *others = rng.shuffled(HOUSE)
        self.stops = start, middle, goal
        self.beside, self.line = {start: {}}, {}
        self.way = [self.add(middle, (start,)), self.add(goal, (middle,))]
        for room in others:
            self.add(room, self.stops)

    def add(self, room: Any, neighbours: Any) -> Any:
        """Place a room on a random free side of one of these neighbours. Return the direction."""
        while True:
            other, direction = self.rng.choice(neighbours), self.rng.choice(list(COMPASS))
            if direction not in self.beside[other]:
                self.beside[other][direction] = room
                self.beside[room] = {OPPOSITE[direction]: other}
                return direction

    def happen(self) -> bool:
        """State how a random room lies to a random neighbour. So a room with only one neighbour often comes first in
        its fact."""
        if len(self.line) == 2 * self.most:
            return False
        while True:
            room = self.rng.choice(HOUSE)
            direction, other = self.rng.choice(list(self.beside[room].items()))
            if (room, other) not in self.line:
                line = self.tell(f"The {room} is {OPPOSITE[direction]} of the {other}.", room)
                self.line[room, other] = self.line[other, room] = line
                return True

    def question(self, _: Any) -> Any:
        start, middle, goal = self.stops
        if (start, middle) not in self.line or (middle, goal) not in self.line:
            return False
        way = ",".join(direction[0] for direction in self.way)
        lines = self.line[start, middle], self.line[middle, goal]
        return self.ask(f"How do you go from the {start} to the {goal}?", way, *lines)


@task("qa18", "size reasoning")
class SizeReasoning(World):
    """Size comparisons by two facts. A topic is (larger, smaller, line)."""

    pace = 5
    pause = False
    least = 2
    tries = 32                                           # tries to find a question before more facts are added

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.sizes = *SWEETS, *rng.shuffled(BOXES)      # from small to large

    def happen(self) -> None:
        small, large = sorted(self.rng.sample(range(len(self.sizes)), 2))
        small, large = self.sizes[small], self.sizes[large]
        text = self.rng.choice((f"The {small} fits inside the {large}.", f"The {large} is bigger than the {small}."))
        self.topics.append((large, small, self.tell(text)))

    def inquire(self) -> bool:
        return any(self.question(self.rng.choice(self.topics)) for _ in range(self.tries))

    def question(self, fact: Any) -> Any:
        """Ask what follows from this fact and another one that shares a thing with it.

        Either its smaller thing is the larger one of the other fact, or its larger thing is the smaller one there. Only
        the first other fact with that thing is considered.
        """
        end = self.rng.choice((0, 1))                    # 0: from the smaller thing, 1: from the larger one
        other = next((topic for topic in self.topics if topic is not fact and fact[1 - end] in topic[:2]), fact)
        if other[end] != fact[1 - end]:
            return False
        large, small = (fact if end == 0 else other)[0], (other if end == 0 else fact)[1]
        lines = fact[2], other[2]
        return self.ask(*self.rng.choice((
            (f"Is the {large} bigger than the {small}?", "yes", *lines),
            (f"Does the {small} fit in the {large}?", "yes", *lines)) if end == 0 else (
            (f"Is the {small} bigger than the {large}?", "no", *lines),
            (f"Does the {large} fit in the {small}?", "no", *lines))))
