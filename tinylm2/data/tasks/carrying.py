"""Tasks about things that people take, carry, put down and give away."""

from typing import Any

from tinylm2.data.tasks.task import task
from tinylm2.data.tasks.walking import Walk

THINGS = ("football", "milk", "apple")
GOT = ("got", "took", "grabbed", "picked up")
LEFT = ("left", "dropped", "discarded", "put down")
GAVE = ("gave", "handed", "passed")
NUMBERS = ("none", "one", "two", "three")


class Carry(Walk):
    """People and things at places. All of them are somewhere from the start, but no line states where.

    True: `at` (place of each person), `lies` (place of each thing that nobody holds), `holds` (things of each person).
    Stated, with line numbers: `seen` (place of each person), `spot` (place of each thing, from the moves of its
    carrier), `trail` (all such places since the thing was last taken), `moved` (line where the thing last changed
    hands), `touched` (per person and thing, the lines in which the person took, dropped, gave or received it).
    A topic is (person, thing, receiver), with None for what an event lacks.
    """

    events = ("go", "get", "drop")                       # equally likely; another where one cannot happen
    got_there = 1.0                                      # probability that "there" ends the fact of a get

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.cast = self.people
        self.at = {person: rng.choice(self.places) for person in self.people}
        self.lies = {thing: rng.choice(self.places) for thing in THINGS}
        self.holds = {person: [] for person in self.people}
        self.spot, self.trail, self.moved = {}, {}, {}
        self.touched = {person: {} for person in self.people}

    def run(self, questions: Any, facts: Any = None) -> Any:
        """In a short story a few people and all things start at one place. Otherwise hardly one story in 100 would
        allow a question."""
        if facts and self.least > 1 and facts < 2 * len(self.people):
            self.cast = self.rng.sample(self.people, max(2, facts // 2))
            here = self.rng.choice(self.places)
            self.at, self.lies = dict.fromkeys(self.people, here), dict.fromkeys(THINGS, here)
        return super().run(questions, facts)

    def happen(self) -> None:
        happened = False
        while not happened:
            event = getattr(self, self.rng.choice(self.events))
            happened = event(self.rng.choice(self.cast))

    def go(self, person: Any) -> bool:
        place = self.rng.choice(self.places)
        if place == self.at[person]:
            return False
        self.at[person] = place
        line = self.tell(f"{person} {self.went_to(place)}.", (person, None, None))
        self.seen[person] = place, line
        for thing in self.holds[person]:
            self.spot[thing] = place, line
            self.trail[thing].append((place, line))
        return True

    def get(self, person: Any) -> bool:
        place = self.at[person]
        here = [thing for thing, where in self.lies.items() if where == place]
        if not here:
            return False
        thing = self.rng.choice(here)
        del self.lies[thing]
        self.holds[person].append(thing)
        self.spot[thing], self.trail[thing] = None, []
        self.handle(person, thing, f"{self.rng.choice(GOT)} the {thing}{self.there(self.got_there)}")
        return True

    def drop(self, person: Any) -> bool:
        if not self.holds[person]:
            return False
        thing = self.let_go(person)
        self.lies[thing] = self.at[person]
        self.spot[thing] = self.seen.get(person)
        self.handle(person, thing, f"{self.rng.choice(LEFT)} the {thing}{self.there(.2)}")
        return True

    def give(self, person: Any) -> bool:
        """Give a thing to somebody at the same place. Directly after a gift, only the same thing is passed on."""
        near = [other for other in self.people if other != person and self.at[other] == self.at[person]]
        _, last, given = self.topics[-1] if self.topics else (None, None, None)
        things = [thing for thing in self.holds[person] if not given or thing == last]
        if not things or not near:
            return False
        thing, receiver = self.rng.choice(things), self.rng.choice(near)
        self.holds[person].remove(thing)
        self.holds[receiver].append(thing)
        self.handle(person, thing, f"{self.rng.choice(GAVE)} the {thing} to {receiver}", receiver)
        return True

    def let_go(self, person: Any) -> Any:
        thing = self.rng.choice(self.holds[person])
        self.holds[person].remove(thing)
        return thing

    def there(self, chance: Any) -> Any:
        return " there" if self.rng.bernoulli(chance) else ""

    def handle(self, person: Any, thing: Any, did: Any, receiver: Any = None) -> None:
        self.moved[thing] = line = self.tell(f"{person} {did}.", (person, thing, receiver))
        for toucher in (person, receiver) if receiver else (person,):
            self.touched[toucher].setdefault(thing, []).append(line)


@task("qa2", "two supporting facts")
class TwoSupportingFacts(Carry):
    """A thing is where its carrier went last, or where it was put down."""

    least = 2

    def question(self, topic: Any) -> Any:
        _, thing, _ = topic
        if not thing or not self.spot[thing]:
            return False
        place, line = self.spot[thing]
        return self.ask(f"Where is the {thing}?", place, self.moved[thing], line)


@task("qa3", "three supporting facts")
class ThreeSupportingFacts(TwoSupportingFacts):
    """A thing was carried to two places, one after the other. Where was it before the second one?"""

    got_there = .2
    least = 3

    def question(self, topic: Any) -> Any:
        """If a place was visited twice, only its last visit is asked about."""
        _, thing, _ = topic
        if not thing or len(self.trail[thing]) < 2:
            return False
        trail = self.trail[thing]
        places = [place for place, _ in trail]
        then = self.rng.choice([i for i in range(1, len(trail)) if places[i] not in places[i + 1:]])
        (before, came), (place, went_on) = trail[then - 1:then + 1]
        return self.ask(f"Where was the {thing} before the {place}?", before, self.moved[thing], went_on, came)


@task("qa5", "three argument relations")
class ThreeArgumentRelations(Carry):
    """Who gave what to whom? A question asks for one of the three, about the last gift."""

    people = ("Mary", "Bill", "Fred", "Jeff")
    events = ("go", "get", "drop") + 4 * ("give",)
    least = 2

    def handle(self, person: Any, thing: Any, did: Any, receiver: Any = None) -> None:
        super().handle(person, thing, did, receiver)
        if receiver:
            self.gift = person, thing, receiver
            self.given = self.moved[thing]

    def question(self, topic: Any) -> Any:
        giver, thing, receiver = topic
        if not receiver or topic != self.gift:
            return False
        text, answer = self.rng.choice(self.rng.choice((
            ((f"What did {giver} give to {receiver}?", thing),),
            ((f"Who received the {thing}?", receiver), (f"Who did {giver} give the {thing} to?", receiver)),
            ((f"Who gave the {thing}?", giver), (f"Who gave the {thing} to {receiver}?", giver)))))
        return self.ask(text, answer, self.given)


@task("qa6", "yes/no questions")
class YesNoQuestions(Carry):
    def question(self, topic: Any) -> Any:
        person, thing, _ = topic
        if thing:
            return False
        place, line = self.seen[person]
        if self.rng.bernoulli(.5):
            return self.ask(f"Is {person} in the {place}?", "yes", line)
        return self.ask(f"Is {person} in the {self.elsewhere(person)}?", "no", line)


@task("qa7", "counting")
class Counting(Carry):
    events = ("go", "get", "drop") + 4 * ("give",)

    def question(self, topic: Any) -> Any:
        person, thing, _ = topic
        if not thing:
            return False
        lines = sorted(line for lines in self.touched[person].values() for line in lines)
        return self.ask(f"How many objects is {person} carrying?", NUMBERS[len(self.holds[person])], *lines)


@task("qa8", "lists/sets")
class ListsSets(Carry):
    """What does a person carry? Things and supporting lines are in the order in which they were first taken."""

    def question(self, topic: Any) -> Any:
        person, thing, _ = topic
        if not thing:
            return False
        carried = [thing for thing in self.touched[person] if thing in self.holds[person]]
        lines = [line for lines in self.touched[person].values() for line in lines]
        return self.ask(f"What is {person} carrying?", ",".join(carried) or "nothing", *lines)
