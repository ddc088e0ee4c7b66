"""Tasks about where people are. They walk alone, in pairs or at times of the day, and some facts are uncertain."""

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
    """People at places. `at`: where each of them is. `seen`: the place that facts last stated, with its lines."""

    people = ("Mary", "Sandra", "John", "Daniel")
    places = HOUSE

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.at = {}
        self.seen = {}

    def elsewhere(self, *people: Any) -> Any:
        """A random place where none of these people is."""
        taken = [self.at.get(person) for person in people]
        while (place := self.rng.choice(self.places)) in taken:
            pass
        return place

    def move(self, *people: Any) -> Any:
        """Move people to one place that is new for all of them. Return the place."""
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
    """A person walks twice; the second fact names them only as "she" or "he"."""

    least = 2

    def happen(self) -> None:
        person = self.rng.choice(self.people)
        first = self.tell(f"{person} {self.went_to(self.move(person))}.", person)
        place = self.move(person)
        then = self.tell(f"{self.rng.choice(THEN)} {PRONOUN[person]} {self.went_to(place)}.", person)
        self.seen[person] = place, first, then


@task("qa12", "conjunction")
class Conjunction(SingleSupportingFact):
    """Two people walk together; a question is about one of them."""

    def happen(self) -> None:
        pair = self.rng.sample(self.people, 2)
        place = self.move(*pair)
        line = self.tell(f"{' and '.join(pair)} {self.went_to(place)}.", *pair)
        for person in pair:
            self.seen[person] = place, line


@task("qa13", "compound coreference")
class CompoundCoreference(SingleSupportingFact):
    """Two people walk together twice; the second fact names them only as "they"."""

    least = 2

    def happen(self) -> None:
        pair = self.rng.sample(self.people, 2)
        first = self.tell(f"{' and '.join(pair)} {self.went_to(self.move(*pair))}.", *pair)
        place = self.move(*pair)
        then = self.tell(f"{self.rng.choice(THEN)} they {self.went_to(place)}.", *pair)
        for person in pair:
            self.seen[person] = place, first, then


class Doubt(Walk):
    """People move. Half of the facts state where a person is now, and half of these are vague.

    `seen` holds (answer, places, line): the answer to "is the person there?" for these places. For others it is no.
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
        """A vague statement of a move: (its text, the answer it gives, the places for which it gives this answer)."""
        raise NotImplementedError

    def question(self, person: Any) -> Any:
        """Is the person there? The place is the true one half of the time; after a "not in", it is the denied place."""
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
        """The true place or a random one, perhaps the same: the official file has "either in the park or the park"."""
        one, other = self.rng.shuffled((place, self.rng.choice(self.places)))
        return f"is either in the {one} or the {other}", "maybe", [one, other]


@task("qa14", "time reasoning")
class TimeReasoning(Walk):
    """People visit places through a day. Facts between questions are shuffled until none keeps its position."""

    people = ("Mary", "Bill", "Fred", "Julie")
    places = TOWN
    least, most = 2, len(people) * len(TIMES)

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.day = {person: [] for person in self.people}  # person -> the place at each time so far
        self.line = {}                                     # (person, time) -> the line that states it
        self.asked = 0                                     # line number of the last question

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
        """"Before the place" means before the last visit to it. Before the first time of day nothing is known."""
        return time > 0 and self.day[person][time] not in self.day[person][time + 1:]

    def disorder(self) -> None:
        """Shuffle the facts since the last question until none has its old position."""
        facts = self.lines[self.asked:]
        order = range(len(facts))                        # order[new position] = old position
        while len(facts) > 1 and any(new == old for new, old in enumerate(order)):
            order = self.rng.shuffled(order)
        self.lines[self.asked:] = [facts[old] for old in order]
        for new, old in enumerate(order):
            self.line[self.topics[old - len(facts)]] = self.asked + new + 1
