"""A reader of the twenty bAbI tasks that knows nothing of the generators: sentences in, answers out.

`World` is all that a reader remembers; `GRAMMAR` says what each sentence form of the official files means to it, and
which tasks say it. No answer is looked up: it follows from the words alone. Whatever makes no sense is refused: a
sentence that its task never says, a deed that the story rules out (dropping what is not held), a question that it
leaves open.
"""

import re
from collections import defaultdict, deque
from functools import lru_cache
from typing import NamedTuple


class Refused(ValueError):
    """The sentence is not in its task's language, or the story contradicts it or leaves it open."""


def solve(task, told, question):
    """The answer, as the official files print it, to a question asked after the sentences `told`."""
    world = World()
    for text in told:
        _, meaning, values = read(task, text)
        meaning(world, *values)
    _, meaning, values = read(task, question)
    answer = meaning(world, *values)
    if answer is None:
        raise Refused(f"{task}: the story leaves open: {question}")
    return answer


def sentence_form(task, text):
    """The sentence with names, places and objects masked: "[person] is either in the [place] or the [same place]."."""
    form, _, _ = read(task, text)
    return form


# ---- words: what each stands for -------------------------------------------------------------------------------------

def _themselves(words):
    return {word: word for word in words.split(", ")}


def _capitalized(words):
    return {word.capitalize(): meaning for word, meaning in words.items()}


PEOPLE = _themselves("Mary, Sandra, John, Daniel, Bill, Fred, Jeff, Julie, Gertrude, Winona, Emily, Jessica, "
                     "Lily, Bernhard, Brian, Julius, Greg, Sumit, Yann, Jason, Antoine")
HERDS = {"mice": "mouse", "cats": "cat", "wolves": "wolf", "sheep": "sheep"}
TIMES = {"yesterday": 0, "this morning": 1, "this afternoon": 2, "this evening": 3}
NORTH, SOUTH, EAST, WEST = (0, 1), (0, -1), (1, 0), (-1, 0)                       # steps (x, y)

MASKED = {
    "person": PEOPLE,
    "name": {name.lower(): name for name in PEOPLE},                 # some questions print names in lower case
    "place": _themselves("bathroom, bedroom, kitchen, hallway, garden, office, park, cinema, school"),
    "object": _themselves("football, apple, milk, pajamas"),
    "animal": _themselves("mouse, cat, wolf, sheep, frog, lion, swan, rhino"),
    "animals": HERDS,
    "Animals": _capitalized(HERDS),
    "color": _themselves("green, gray, white, yellow"),
    "shape": _themselves("triangle, pink rectangle, blue square, red square, yellow square, red sphere"),
    "box": _themselves("box of chocolates, box, chocolate, chest, container, suitcase"),
}
SPOKEN = {                                                           # part of the form: not masked
    "mood": _themselves("tired, bored, hungry, thirsty"),
    "he": _themselves("he, she"),
    "time": TIMES,
    "Time": _capitalized(TIMES),
    "north": {"north": NORTH, "south": SOUTH, "east": EAST, "west": WEST},
    "above": {"above": NORTH, "below": SOUTH, "to the right of": EAST, "to the left of": WEST},
}
WORDS = MASKED | SPOKEN
SYNONYMS = {                                                         # whichever is said, it means the same
    "went": "went|went back|moved|travelled|journeyed",
    "took": "took|got|grabbed|picked up",
    "dropped": "dropped|discarded|left|put down",
    "gave": "gave|handed|passed",
    "Then": "Then|Afterwards|After that|Following that",
}

# What everybody knows and no story tells.
PRONOUN = {"Mary": "she", "Sandra": "she", "John": "he", "Daniel": "he"}
ERRANDS = {"tired": ("bedroom", "pajamas"), "bored": ("garden", "football"),      # mood: where it leads, to get what
           "hungry": ("kitchen", "apple"), "thirsty": ("kitchen", "milk")}
NUMBERS = "none", "one", "two", "three"
LETTERS = {NORTH: "n", SOUTH: "s", EAST: "e", WEST: "w"}


# ---- the world, as far as it was told --------------------------------------------------------------------------------

class Gift(NamedTuple):
    giver: str | None = None
    thing: str | None = None
    receiver: str | None = None


class World:
    """What a reader remembers, what sentences add to it (verbs) and what questions find in it (None: left open)."""

    def __init__(self):
        self.belief = {}                  # person -> (places, the answer if asked for one of them, if for another one)
        self.trail = defaultdict(list)    # person or object -> the places where it was, in order
        self.diary = defaultdict(dict)    # person -> time -> place
        self.mentioned = []               # the people of the last sentence: who "he", "she" or "they" is
        self.holds = defaultdict(dict)    # person -> object -> still held?   in the order in which they were first held
        self.gifts = []
        self.traits = defaultdict(dict)   # "kind", "color", "fear", "mood" -> of whom -> which
        self.steps = defaultdict(dict)    # place or shape -> step -> the next one
        self.larger = defaultdict(set)    # box -> what was told to be larger

    # people, places and objects

    def go(self, people, place):
        for person in people:
            self.be_in(person, place)
            for traveller in (person, *self.hands(person)):
                self.trail[traveller].append(place)
        self.mentioned = people

    def go_on(self, pronouns, place):
        """The people just mentioned go on: one "he" or "she", or two as "they"."""
        meant = "they" if len(self.mentioned) == 2 else "".join(PRONOUN[person] for person in self.mentioned)
        require(meant == pronouns, f"nobody is meant by {pronouns}")
        self.go(self.mentioned, place)

    def go_at(self, person, place, time):
        require(self.diary[person].setdefault(time, place) == place, "in two places at one time")

    def be_in(self, person, place):
        require(self.belief.get(person) != ({place}, "yes", "no"), "already there")
        self.belief[person] = {place}, "yes", "no"

    def be_out_of(self, person, place):
        self.belief[person] = {place}, "no", None

    def be_in_either(self, person, *places):
        self.belief[person] = set(places), "maybe", "no"

    def take(self, person, thing):
        require(not any(held.get(thing) for held in self.holds.values()), "somebody holds it")
        require(self._may_meet(person, thing), "it is elsewhere")
        self.holds[person][thing] = True
        if not self.trail[thing]:
            self.trail[thing] += self.trail[person][-1:]

    def drop(self, person, thing):
        require(self.holds[person].get(thing), "not held")
        self.holds[person][thing] = False

    def give(self, gift):
        require(gift.giver != gift.receiver and self._may_meet(gift.giver, gift.receiver), "out of reach")
        self.drop(gift.giver, gift.thing)
        self.holds[gift.receiver][gift.thing] = True
        self.gifts.append(gift)

    def _may_meet(self, one, other):
        return self.place(one) is None or self.place(other) is None or self.place(one) == self.place(other)

    def hands(self, person):
        return [thing for thing, held in self.holds[person].items() if held]

    def place(self, who):
        return self.trail[who][-1] if self.trail[who] else None

    def is_in(self, person, place):
        places, inside, outside = self.belief.get(person, ((), None, None))
        return inside if place in places else outside

    def gift(self, **known):
        """The last gift of which all this is known."""
        return next((gift for gift in reversed(self.gifts) if gift == gift._replace(**known)), Gift())

    def visits(self, person):
        return [place for _, place in sorted(self.diary[person].items())]

    # traits

    def learn(self, sort, who, trait):
        require(self.traits[sort].setdefault(who, trait) == trait, "told otherwise before")

    def color(self, name):
        """One swan's colour is every swan's; where swans differ, that of the last one introduced."""
        kind, color = self.traits["kind"], self.traits["color"]
        alike = [color[other] for other in kind if kind[other] == kind.get(name) and other in color]
        return alike[-1] if alike else None

    def reason(self, person, goal):
        mood = self.traits["mood"].get(person)
        return mood if goal in ERRANDS.get(mood, ()) else None

    # maps and sizes

    def lie(self, place, step, other):
        """`place` is one step from `other`. No map of the files has a loop: there is one way from place to place."""
        require(self.way(other, place) in (None, (step,)), "a second way")
        for start, way, end in (other, step, place), (place, opposite(step), other):
            require(self.steps[start].setdefault(way, end) == end, "two places in one")

    def way(self, start, end):
        """The steps from start to end, None where no way was told."""
        ways, queue = {start: ()}, deque([start])
        while queue and end not in ways:
            here = queue.popleft()
            for step, there in self.steps[here].items():
                if there not in ways:
                    ways[there] = (*ways[here], step)
                    queue.append(there)
        return ways.get(end)

    def lies(self, shape, step, other):
        way = self.way(other, shape)
        return way and yes_no(sum(x * step[0] + y * step[1] for x, y in way) > 0)

    def be_larger(self, box, other):
        require(box != other and not self._exceeds(other, box), "told otherwise before")
        self.larger[other].add(box)

    def is_larger(self, box, other):
        larger, smaller = self._exceeds(box, other), self._exceeds(other, box)
        return yes_no(larger) if larger or smaller else None

    def _exceeds(self, box, other):
        return any(larger == box or self._exceeds(box, larger) for larger in self.larger[other])


def require(possible, why_not):
    if not possible:
        raise Refused(why_not)


def opposite(step):
    return -step[0], -step[1]


def yes_no(is_so):
    return "yes" if is_so else "no"


# ---- the language: every sentence form, what it means, who says it ---------------------------------------------------

# A slot in braces takes any word of its class; what its WORDS stand for is handed to the meaning, in order.
GRAMMAR = (
    ("1 2 3 5 6 7 8 9 10 11 20", "{person} {went} to the {place}.", lambda w, who, to: w.go([who], to)),
    ("12 13", "{person} and {person} {went} to the {place}.", lambda w, one, other, to: w.go([one, other], to)),
    ("11", "{Then} {he} {went} to the {place}.", World.go_on),
    ("13", "{Then} they {went} to the {place}.", lambda w, to: w.go_on("they", to)),
    ("14", "{person} {went} to the {place} {time}.", World.go_at),
    ("14", "{Time} {person} {went} to the {place}.", lambda w, when, who, to: w.go_at(who, to, when)),
    ("9 10", "{person} is in the {place}.", World.be_in),
    ("9", "{person} is not in the {place}.", World.be_out_of),
    ("9", "{person} is no longer in the {place}.", World.be_out_of),
    ("10", "{person} is either in the {place} or the {place}.", World.be_in_either),
    ("1 11 12 13", "Where is {person}?", World.place),
    ("6 9 10", "Is {person} in the {place}?", World.is_in),
    ("14", "Where was {person} before the {place}?", lambda w, who, place: before(w.visits(who), place)),

    ("2 3 5 6 7 8 20", "{person} {took} the {object} there.", World.take),
    ("3", "{person} {took} the {object}.", World.take),
    ("2 3 5 6 7 8", "{person} {dropped} the {object} there.", World.drop),
    ("2 3 5 6 7 8", "{person} {dropped} the {object}.", World.drop),
    ("5 7", "{person} {gave} the {object} to {person}.", lambda w, *gift: w.give(Gift(*gift))),
    ("2", "Where is the {object}?", World.place),
    ("3", "Where was the {object} before the {place}?", lambda w, thing, place: before(w.trail[thing], place)),
    ("5", "What did {person} give to {person}?", lambda w, one, other: w.gift(giver=one, receiver=other).thing),
    ("5", "Who did {person} give the {object} to?", lambda w, who, what: w.gift(giver=who, thing=what).receiver),
    ("5", "Who gave the {object} to {person}?", lambda w, what, who: w.gift(thing=what, receiver=who).giver),
    ("5", "Who gave the {object}?", lambda w, what: w.gift(thing=what).giver),
    ("5", "Who received the {object}?", lambda w, what: w.gift(thing=what).receiver),
    ("7", "How many objects is {person} carrying?", lambda w, who: NUMBERS[len(w.hands(who))]),
    ("8", "What is {person} carrying?", lambda w, who: ",".join(w.hands(who)) or "nothing"),

    ("15 16", "{person} is a {animal}.", lambda w, who, kind: w.learn("kind", who, kind)),
    ("15", "{Animals} are afraid of {animals}.", lambda w, kind, other: w.learn("fear", kind, other)),
    ("15", "What is {name} afraid of?", lambda w, who: w.traits["fear"].get(w.traits["kind"].get(who))),
    ("16", "{person} is {color}.", lambda w, who, color: w.learn("color", who, color)),
    ("16", "What color is {person}?", World.color),
    ("20", "{person} is {mood}.", lambda w, who, mood: w.learn("mood", who, mood)),
    ("20", "Where will {name} go?", lambda w, who: ERRANDS.get(w.traits["mood"].get(who), (None,))[0]),
    ("20", "Why did {name} go to the {place}?", World.reason),
    ("20", "Why did {name} get the {object}?", World.reason),

    ("4 19", "The {place} is {north} of the {place}.", World.lie),
    ("4", "What is {north} of the {place}?", lambda w, step, place: w.steps[place].get(step)),
    ("4", "What is the {place} {north} of?", lambda w, place, step: w.steps[place].get(opposite(step))),
    ("19", "How do you go from the {place} to the {place}?", lambda w, *ends: letters(w.way(*ends))),
    ("17", "The {shape} is {above} the {shape}.", World.lie),
    ("17", "Is the {shape} {above} the {shape}?", World.lies),
    ("18", "The {box} is bigger than the {box}.", World.be_larger),
    ("18", "The {box} fits inside the {box}.", lambda w, box, other: w.be_larger(other, box)),
    ("18", "Is the {box} bigger than the {box}?", World.is_larger),
    ("18", "Does the {box} fit in the {box}?", lambda w, box, other: w.is_larger(other, box)),
)


def before(places, place):
    """Where somebody was before the last time there."""
    if place not in places[1:]:
        return None
    last = len(places) - 1 - places[::-1].index(place)
    return places[last - 1]


def letters(way):
    return ",".join(LETTERS[step] for step in way) if way else None


@lru_cache(None)
def read(task, text):
    """The sentence's form with its MASKED words masked, its meaning, and what its words stand for."""
    for pattern, slots, meaning in _patterns(task):
        match = pattern.fullmatch(text)
        if match:
            form, values, end = "", [], 0
            for i, slot in enumerate(slots, 1):
                value = WORDS[slot][match[i]]
                masked = f"[same {slot}]" if value in values else f"[{slot}]"
                form += text[end:match.start(i)] + (masked if slot in MASKED else match[i])
                values.append(value)
                end = match.end(i)
            return form + text[end:], meaning, tuple(values)
    raise Refused(f"{task} never says: {text}")


@lru_cache(None)
def _patterns(task):
    """The grammar of one task: (pattern, the classes of its groups, meaning) a sentence form."""
    def group(slot):
        return f"(?:{SYNONYMS[slot]})" if slot in SYNONYMS else f"({'|'.join(WORDS[slot])})"

    patterns = []
    for tasks, form, meaning in GRAMMAR:
        if task in {f"qa{number}" for number in tasks.split()}:
            parts = re.split(r"{(\w+)}", form)                       # text, slot, text, slot, ..., text
            pattern = "".join(group(part) if i % 2 else re.escape(part) for i, part in enumerate(parts))
            patterns.append((re.compile(pattern), [slot for slot in parts[1::2] if slot not in SYNONYMS], meaning))
    return patterns
