"""Tasks about conclusions: from a kind to its members, from one member to another, from a motive to an action."""

from typing import Any

from tinylm2.data.tasks.carrying import GOT
from tinylm2.data.tasks.task import task
from tinylm2.data.tasks.walking import Walk
from tinylm2.data.tasks.world import World

PLURAL = {"mouse": "mice", "sheep": "sheep", "wolf": "wolves", "cat": "cats"}
KINDS = ("swan", "lion", "frog", "rhino")
COLORS = ("gray", "white", "yellow", "green")
MOODS = {"hungry": ("kitchen", "apple"), "thirsty": ("kitchen", "milk"),
         "tired": ("bedroom", "pajamas"), "bored": ("garden", "football")}


@task("qa15", "basic deduction")
class BasicDeduction(World):
    """Every kind of animal fears another kind, and so do its members. A topic is (name, kind, line)."""

    names = ("Gertrude", "Winona", "Jessica", "Emily")
    questions = 4
    pace = 8
    pause = False
    least, most = 2, 8

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.waiting = list(self.names)
        self.fear = {}                                   # kind -> (what it fears, line)

    def happen(self) -> bool:
        """State a fact about a random name or kind that has none yet. A name's fact comes after that of its kind: if it
        would come earlier, the draw is repeated."""
        while True:
            left = [*self.waiting, *(kind for kind in PLURAL if kind not in self.fear)]
            if not left:
                return False
            one, kind = self.rng.choice(left), self.rng.choice(list(PLURAL))
            if one in PLURAL:
                fear = self.rng.choice([other for other in PLURAL if other != one])
                self.fear[one] = fear, self.tell(f"{PLURAL[one].capitalize()} are afraid of {PLURAL[fear]}.")
                return True
            if kind in self.fear:
                self.waiting.remove(one)
                self.topics.append((one, kind, self.tell(f"{one} is a {kind}.")))
                return True

    def question(self, topic: Any) -> Any:
        name, kind, line = topic
        fear, fear_line = self.fear[kind]
        return self.ask(f"What is {name.lower()} afraid of?", fear, line, fear_line)


@task("qa16", "basic induction")
class BasicInduction(World):
    """A member has the colour of the others of its kind. Where they differ, the last one of that kind counts."""

    names = ("Lily", "Bernhard", "Brian", "Julius", "Greg")
    questions = 1
    pace = 9
    pause = False
    least, most = 3, 9

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.kind, self.color = {}, {}                   # name -> (kind or colour, line)
        self.usual = {}                                  # kind -> the colour of its next members

    def happen(self) -> bool:
        """A name's kind is stated first, then its colour. A new member may change the colour of its kind."""
        open_names = [name for name in self.names if name not in self.color]
        if not open_names:
            return False
        name = self.rng.choice(open_names)
        if name in self.kind:
            color = self.usual[self.kind[name][0]]
            self.color[name] = color, self.tell(f"{name} is {color}.")
        else:
            kind = self.rng.choice(KINDS)
            self.usual[kind] = self.rng.choice(COLORS)
            self.kind[name] = kind, self.tell(f"{name} is a {kind}.", name)
        return True

    def question(self, name: str) -> Any:
        if name in self.color:
            return False
        kind, line = self.kind[name]
        peers = [peer for peer in self.kind if peer != name and self.kind[peer][0] == kind]
        if len(peers) not in (1, 3, 4) or not all(peer in self.color for peer in peers):
            return False                                 # as in the official file, never exactly two
        *_, peer = peers
        color, seen = self.color[peer]
        return self.ask(f"What color is {name}?", color, line, self.kind[peer][1], seen)


@task("qa20", "agent's motivations")
class AgentsMotivations(Walk):
    """A person has a mood, goes to a fitting place and takes a fitting thing. A topic is (person, earlier facts)."""

    people = ("Sumit", "Yann", "Jason", "Antoine")
    questions = most = 12                                # fewer where two people want the same thing
    pace = recent = 1

    def __init__(self, rng: Any) -> None:
        super().__init__(rng)
        self.mood = {person: rng.choice(list(MOODS)) for person in self.people}
        self.done = dict.fromkeys(self.people, 0)
        self.line = {}                                   # person -> the line that states the mood
        self.taken = set()

    def happen(self) -> bool:
        busy = [person for person in self.people
                if self.done[person] < 2 or self.done[person] == 2 and self.mood[person] not in self.taken]
        if not busy:
            return False
        person = self.rng.choice(busy)
        mood, done = self.mood[person], self.done[person]
        place, thing = MOODS[mood]
        self.done[person] += 1
        if done == 0:
            self.line[person] = self.tell(f"{person} is {mood}.", (person, done))
        elif done == 1:
            self.tell(f"{person} {self.went_to(place)}.", (person, done))
        else:
            self.taken.add(mood)
            self.tell(f"{person} {self.rng.choice(GOT)} the {thing} there.", (person, done))
        return True

    def question(self, topic: Any) -> Any:
        person, done = topic
        mood, name = self.mood[person], person.lower()
        place, thing = MOODS[mood]
        text, answer = ((f"Where will {name} go?", place),
                        (f"Why did {name} go to the {place}?", mood),
                        (f"Why did {name} get the {thing}?", mood))[done]
        return self.ask(text, answer, self.line[person])
