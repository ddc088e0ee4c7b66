"""Tasks about where people are: they walk alone, in pairs, at times of the day, and not all that is told is certain."""

from typing import Any

from tinylm2.data.tasks.task import task
from tinylm2.data.tasks.world import World

WENT = ("went to", "moved to", "travelled to", "journeyed to", "went back to")
THEN = ("Then", "After that", "Following that", "Afterwards")
TIMES = ("yesterday", "this morning", "this afternoon", "this evening")
PRONOUN = {"Mary": "she", "Sandra": "she", "John": "he", "Daniel": "he"}

HOUSE = ("kitchen", "bathroom", "bedroom", "garden", "office", "hallway")
TOWN = ("kitchen", "bedroom", "office", "school", "park", "cinema")


class Walk(World):
    """People at places. `at` is where they are; `seen` what was told of it last, and by which lines."""

    people = ("Mary", "Sandra", "John", "Daniel")
    places = HOUSE

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.at = {}
        self.seen = {}

    def elsewhere(self, *people: Any) -> Any:
        """A place where none of them is."""
        taken = [self.at.get(person) for person in people]
        while (place := self.rng.choice(self.places)) in taken:
            pass
        return place

    def move(self, *people: Any) -> Any:
        """Bring people to one place, away from where each of them is. The place."""
        place = self.elsewhere(*people)
        for person in people:
            self.at[person] = place
        return place

    def went_to(self, place: Any) -> str:
        return f"{self.rng.choice(WENT)} the {place}"


@task("qa1", "single supporting fact")
class SingleSupportingFact(Walk):
    def happen(self) -> None:
        person = self.rng.choice(self.people)
        place = self.move(person)
        self.seen[person] = place, self.tell(f"{person} {self.went_to(place)}.", person)

    def question(self, person: Any) -> Any:
        place, *lines = self.seen[person]
        return self.ask(f"Where is {person}?", place, *lines)


@task("qa11", "basic coreference")
class BasicCoreference(SingleSupportingFact):
    """She went somewhere, then she went on: who "she" is stands in the line before."""

    least = 2

    def happen(self) -> None:
        person = self.rng.choice(self.people)
        first = self.tell(f"{person} {self.went_to(self.move(person))}.", person)
        place = self.move(person)
        then = self.tell(f"{self.rng.choice(THEN)} {PRONOUN[person]} {self.went_to(place)}.", person)
        self.seen[person] = place, first, then


@task("qa12", "conjunction")
class Conjunction(SingleSupportingFact):
    """Two people walk together; each of them may be asked for."""

    def happen(self) -> None:
        pair = self.rng.sample(self.people, 2)
        place = self.move(*pair)
        line = self.tell(f"{' and '.join(pair)} {self.went_to(place)}.", *pair)
        for person in pair:
            self.seen[person] = place, line


@task("qa13", "compound coreference")
class CompoundCoreference(SingleSupportingFact):
    """Two people walk together, then they go on."""

    least = 2

    def happen(self) -> None:
        pair = self.rng.sample(self.people, 2)
        first = self.tell(f"{' and '.join(pair)} {self.went_to(self.move(*pair))}.", *pair)
        place = self.move(*pair)
        then = self.tell(f"{self.rng.choice(THEN)} they {self.went_to(place)}.", *pair)
        for person in pair:
            self.seen[person] = place, first, then


class Doubt(Walk):
    """People move; half of the moves are told by what is so afterwards, and half of these only vaguely.

    `seen` holds (answer, places, line): the answer to "is she there?" for these places. For any other it is no.
    """

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.at = {person: rng.choice(self.places) for person in self.people}

    def happen(self) -> None:
        person = self.rng.choice(self.people)
        left, place = self.at[person], self.move(person)
        text, answer, places = self.went_to(place), "yes", [place]
        if self.rng.bernoulli(.5):
            text = f"is in the {place}"
            if self.rng.bernoulli(.5):
                text, answer, places = self.vaguely(left, place)
        self.seen[person] = answer, places, self.tell(f"{person} {text}.", person)

    def vaguely(self, left: Any, place: Any) -> Any:
        """Tell less than the whole of a move: the text, the answer that it gives, the places that it gives it for."""
        raise NotImplementedError

    def question(self, person: Any) -> Any:
        """Is she there? Half of the time there is where she is. What is only denied is asked as it was told."""
        answer, places, line = self.seen[person]
        place = self.at[person] if self.rng.bernoulli(.5) else self.elsewhere(person)
        if answer == "no":
            (place,) = places
        return self.ask(f"Is {person} in the {place}?", answer if place in places else "no", line)


@task("qa9", "simple negation")
class SimpleNegation(Doubt):
    def vaguely(self, left: Any, place: Any) -> tuple:
        return f"is {self.rng.choice(('no longer', 'not'))} in the {left}", "no", [left]


@task("qa10", "indefinite knowledge")
class IndefiniteKnowledge(Doubt):
    people = ("Mary", "Bill", "Fred", "Julie")
    places = TOWN

    def vaguely(self, left: Any, place: Any) -> tuple:
        """Here or anywhere, which may be the same: "either in the park or the park" stands in the official file."""
        one, other = self.rng.shuffled((place, self.rng.choice(self.places)))
        return f"is either in the {one} or the {other}", "maybe", [one, other]


@task("qa14", "time reasoning")
class TimeReasoning(Walk):
    """Each person's day in order, told in disorder: the facts of a round change places, and none keeps its own."""

    people = ("Mary", "Bill", "Fred", "Julie")
    places = TOWN
    least, most = 2, len(people) * len(TIMES)

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.day = {person: [] for person in self.people}  # person -> her place at each time so far
        self.line = {}                                     # (person, time) -> line that tells of it
        self.asked = 0                                     # number of the last question's line

    def happen(self) -> bool:
        awake = [person for person in self.people if len(self.day[person]) < len(TIMES)]
        if not awake:
            return False
        person = self.rng.choice(awake)
        time, place = len(self.day[person]), self.move(person)
        self.day[person].append(place)
        moved, when = f"{person} {self.went_to(place)}", TIMES[time]
        text = self.rng.choice((f"{moved} {when}.", f"{when.capitalize()} {moved}."))
        self.line[person, time] = self.tell(text, (person, time))
        return True

    def inquire(self) -> Any:
        if not any(self.askable(*topic) for topic in self.topics[-self.recent:]):
            return False
        self.disorder()
        self.asked = len(self.lines) + 1
        return super().inquire()

    def question(self, topic: Any) -> Any:
        if not self.askable(*topic):
            return False
        person, time = topic
        before, place = self.day[person][time - 1:time + 1]
        lines = self.line[person, time], self.line[person, time - 1]
        return self.ask(f"Where was {person} before the {place}?", before, *lines)

    def askable(self, person: Any, time: Any) -> Any:
        """Before a place means before the last visit to it; before the first time of the day nothing is known."""
        return time > 0 and self.day[person][time] not in self.day[person][time + 1:]

    def disorder(self) -> None:
        """Shuffle the facts told since the last question until none stands in its old place."""
        told = self.lines[self.asked:]
        order = range(len(told))                         # order[new place] = old place
        while len(told) > 1 and any(new == old for new, old in enumerate(order)):
            order = self.rng.shuffled(order)
        self.lines[self.asked:] = [told[old] for old in order]
        for new, old in enumerate(order):
            self.line[self.topics[old - len(told)]] = self.asked + new + 1
