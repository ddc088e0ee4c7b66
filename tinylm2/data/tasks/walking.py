"""Tasks about where people are: they walk alone, in pairs, at times of the day, and not everything told is certain."""

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

    def __init__(self, dice):
        super().__init__(dice)
        self.at = {}
        self.seen = {}

    def elsewhere(self, *people):
        """A place where none of them is."""
        taken = [self.at.get(person) for person in people]
        while (place := self.dice.pick(self.places)) in taken:
            pass
        return place

    def went_to(self, place):
        return f"{self.dice.pick(WENT)} the {place}"


@task("qa1", "single supporting fact")
class SingleSupportingFact(Walk):
    def happen(self):
        person = self.dice.pick(self.people)
        self.at[person] = place = self.elsewhere(person)
        self.seen[person] = place, self.tell(f"{person} {self.went_to(place)}.", person)

    def question(self, person):
        place, *lines = self.seen[person]
        return self.ask(f"Where is {person}?", place, *lines)


@task("qa11", "basic coreference")
class BasicCoreference(SingleSupportingFact):
    """She went somewhere, then she went on: who "she" is stands in the line before."""

    least = 2

    def happen(self):
        person = self.dice.pick(self.people)
        self.at[person] = place = self.elsewhere(person)
        first = self.tell(f"{person} {self.went_to(place)}.", person)
        self.at[person] = place = self.elsewhere(person)
        then = self.tell(f"{self.dice.pick(THEN)} {PRONOUN[person]} {self.went_to(place)}.", person)
        self.seen[person] = place, first, then


@task("qa12", "conjunction")
class Conjunction(SingleSupportingFact):
    def happen(self):
        pair, place = self.go_together()
        line = self.tell(f"{' and '.join(pair)} {self.went_to(place)}.", *pair)
        for person in pair:
            self.seen[person] = place, line

    def go_together(self):
        """Two people move to one place: they and it."""
        pair = self.dice.sample(self.people, 2)
        return pair, self.go_on(pair)

    def go_on(self, pair):
        place = self.elsewhere(*pair)
        for person in pair:
            self.at[person] = place
        return place


@task("qa13", "compound coreference")
class CompoundCoreference(Conjunction):
    least = 2

    def happen(self):
        pair, place = self.go_together()
        first = self.tell(f"{' and '.join(pair)} {self.went_to(place)}.", *pair)
        place = self.go_on(pair)
        then = self.tell(f"{self.dice.pick(THEN)} they {self.went_to(place)}.", *pair)
        for person in pair:
            self.seen[person] = place, first, then


class Doubt(Walk):
    """People move, and half of the moves are told by what is so afterwards. `seen` holds (claim, places, line)."""

    def __init__(self, dice):
        super().__init__(dice)
        self.at = {person: dice.pick(self.places) for person in self.people}

    def happen(self):
        person = self.dice.pick(self.people)
        left, self.at[person] = self.at[person], self.elsewhere(person)
        place = self.at[person]
        event = self.dice.below(4)
        if event == 0:
            text, claim, places = self.unclear(person, left)
        elif event == 1:
            text, claim, places = f"is in the {place}", "yes", (place,)
        else:
            text, claim, places = self.went_to(place), "yes", (place,)
        self.seen[person] = claim, places, self.tell(f"{person} {text}.", person)

    def unclear(self, person, left):
        """What can be told less plainly of a move away from a place: text, what it makes of its places, the places."""
        raise NotImplementedError

    def question(self, person):
        """Is she there? Half of the time about where she is, where anything but there is open to doubt."""
        claim, places, line = self.seen[person]
        place = places[0] if claim == "no" else self.at[person] if self.dice.chance(.5) else self.elsewhere(person)
        return self.ask(f"Is {person} in the {place}?", claim if place in places else "no", line)


@task("qa9", "simple negation")
class SimpleNegation(Doubt):
    def unclear(self, person, left):
        return f"is {self.dice.pick(('no longer', 'not'))} in the {left}", "no", (left,)


@task("qa10", "indefinite knowledge")
class IndefiniteKnowledge(Doubt):
    people = ("Mary", "Bill", "Fred", "Julie")
    places = TOWN

    def unclear(self, person, left):
        """Either here or anywhere: sometimes that is the same place twice, as in the official file."""
        places = self.dice.shuffled((self.at[person], self.dice.pick(self.places)))
        return f"is either in the {places[0]} or the {places[1]}", "maybe", places


@task("qa14", "time reasoning")
class TimeReasoning(Walk):
    """Each person's day in order, told out of order: the facts of a round change places, and none keeps its own."""

    people = ("Mary", "Bill", "Fred", "Julie")
    places = TOWN
    least, most = 2, len(people) * len(TIMES)

    def __init__(self, dice):
        super().__init__(dice)
        self.day = {person: [] for person in self.people}  # person -> the place at each time so far
        self.line = {}                                     # (person, time) -> line that tells of it
        self.asked = 0                                     # lines up to the last question

    def happen(self):
        awake = [person for person in self.people if len(self.day[person]) < len(TIMES)]
        if not awake:
            return False
        person = self.dice.pick(awake)
        time = len(self.day[person])
        self.at[person] = place = self.elsewhere(person)
        self.day[person].append(place)
        moved, when = f"{person} {self.went_to(place)}", TIMES[time]
        text = f"{moved} {when}." if self.dice.chance(.5) else f"{when.capitalize()} {moved}."
        self.line[person, time] = self.tell(text, (person, time))
        return True

    def inquire(self):
        """Of a place visited twice, "before" means before the last visit: no other one is asked for."""
        askable = [(person, time) for person, time in self.topics[-self.recent:]
                   if time and self.day[person][time] not in self.day[person][time + 1:]]
        if not askable:
            return False
        self.disorder()
        person, time = self.dice.pick(askable)
        before, place = self.day[person][time - 1:time + 1]
        lines = self.line[person, time], self.line[person, time - 1]
        self.ask(f"Where was {person} before the {place}?", before, *lines)
        self.asked = len(self.lines)
        return True

    def disorder(self):
        """Shuffle the facts told since the last question until none stands in its old place."""
        told = self.lines[self.asked:]
        if len(told) < 2:
            return
        order = range(len(told))                         # order[new place] = old place
        while any(new == old for new, old in enumerate(order)):
            order = self.dice.shuffled(order)
        self.lines[self.asked:] = [told[old] for old in order]
        for new, old in enumerate(order):
            self.line[self.topics[old - len(told)]] = self.asked + new + 1
