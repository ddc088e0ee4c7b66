"""The twenty tasks as generators: their knobs, their chance, and that no story moves without a reason."""

import re
from collections import Counter
from hashlib import sha256
from math import inf
from pathlib import Path

import pytest

from tinylm2.data import DATA, TASKS, Fact, Question, Rng, Task, story_text

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)

GUIDE = Path(__file__).parents[1] / "docs" / "DATA.md"

# Facts that a task can tell before its first question; every number where it is not listed.
FEWEST = {"qa2": 2, "qa3": 3, "qa4": 2, "qa5": 2, "qa11": 2, "qa13": 2, "qa14": 2, "qa15": 2, "qa16": 3, "qa17": 2,
          "qa18": 2, "qa19": 2}
MOST = {"qa4": 2, "qa14": 16, "qa15": 8, "qa16": 9, "qa17": 2, "qa19": 5}

# The first eight digits of the hash of five stories as the official file tells them and five as training asks for them.
# A story may only change on purpose: checkpoints and reported figures name their stories by a seed.
PINNED = {
    "qa1": "9ffea9a6", "qa2": "e62259f6", "qa3": "f29161c5", "qa4": "ce9ddda0", "qa5": "2224575e",
    "qa6": "f62edb78", "qa7": "2440bdbf", "qa8": "fb55cfc3", "qa9": "0680f33c", "qa10": "52f1c5a0",
    "qa11": "238a57fc", "qa12": "150f8dc0", "qa13": "49189a88", "qa14": "e985378f", "qa15": "e1eda717",
    "qa16": "e0fb0af4", "qa17": "198f6656", "qa18": "ae56672d", "qa19": "1d8027e7", "qa20": "9a5c74b9",
}


def stories(task, count, seed=0, **knobs):
    return [task.story(Rng(seed, DATA, task.number, i), **knobs) for i in range(count)]


def fingerprint(task):
    told = [*stories(task, 5), *stories(task, 5, questions=1, facts=6)]
    return sha256("".join(map(story_text, told)).encode()).hexdigest()[:8]


def facts_before_questions(story):
    """How many facts stand before each question, counted from the question before."""
    counts, facts = [], 0
    for line in story:
        if isinstance(line, Question):
            counts.append(facts)
            facts = 0
        else:
            facts += 1
    return counts


def test_there_are_twenty_in_the_order_of_their_numbers():
    assert list(TASKS) == [f"qa{number}" for number in range(1, 21)]
    assert [task.number for task in TASKS.values()] == list(range(1, 21))
    assert len({task.title for task in TASKS.values()}) == 20


@every_task
def test_the_same_seed_tells_the_same_stories_for_ever(task):
    assert fingerprint(task) == PINNED[task.name]


@every_task
def test_a_change_in_one_task_moves_no_other(task):
    """A task that throws its rng once more tells other stories; what is told before and after it stays."""

    class Changed(task.world):
        def __init__(self, rng):
            rng.integers(2)
            super().__init__(rng)

    other = TASKS["qa1" if task.name != "qa1" else "qa2"]
    before = fingerprint(other)
    changed = Task(task.name, task.title, Changed)
    assert fingerprint(changed) != PINNED[task.name]
    assert fingerprint(other) == before
    assert fingerprint(task) == PINNED[task.name]


@every_task
@pytest.mark.parametrize("facts", [1, 2, 3, 4, 5, 6, 9, 10, 17])
def test_training_asks_once_after_exactly_so_many_facts(task, facts):
    nearest = min(max(facts, FEWEST.get(task.name, 1)), MOST.get(task.name, inf))
    if task.name in ("qa11", "qa13"):                    # they tell two facts at a time
        nearest += nearest % 2
    for story in stories(task, 5, questions=1, facts=facts):
        told = facts_before_questions(story)
        if task.name == "qa20" and facts > 9:            # two people who want the same thing can do less
            assert told[0] in range(10, facts + 1)
        else:
            assert told == [nearest]


@every_task
@pytest.mark.parametrize("questions", [1, 2, 7])
def test_a_story_asks_so_many_questions(task, questions):
    for story in stories(task, 5, questions=questions):
        assert len(facts_before_questions(story)) == questions
        assert isinstance(story[-1], Question)


def test_facts_stand_before_each_question():
    for story in stories(TASKS["qa1"], 5, questions=3, facts=4):
        assert facts_before_questions(story) == [4, 4, 4]


@every_task
def test_support_names_facts_told_before_the_question(task):
    for story in stories(task, 50):
        for number, line in enumerate(story, 1):
            if isinstance(line, Question):
                assert line.support
                assert len(set(line.support)) == len(line.support)
                assert all(told < number and isinstance(story[told - 1], Fact) for told in line.support)


# Words that may stand for each other in a task: every story draws them anew, so each comes up as often as the others.
PEOPLE = ("Mary", "Sandra", "John", "Daniel")
HOUSE = ("kitchen", "bathroom", "bedroom", "garden", "office", "hallway")
TOWN = ("kitchen", "bedroom", "office", "school", "park", "cinema")
THINGS = ("football", "milk", "apple")
EXCHANGEABLE = {
    **{f"qa{n}": (PEOPLE, HOUSE) for n in (1, 9, 11, 12, 13)},
    **{f"qa{n}": (PEOPLE, HOUSE, THINGS) for n in (2, 3, 6, 7, 8)},
    "qa4": (HOUSE,), "qa19": (HOUSE,),
    "qa5": (("Mary", "Bill", "Fred", "Jeff"), HOUSE, THINGS),
    **{f"qa{n}": (("Mary", "Bill", "Fred", "Julie"), TOWN) for n in (10, 14)},
    "qa15": (("gertrude", "winona", "jessica", "emily"), ("mouse", "wolf", "cat")),
    "qa16": (("Lily", "Bernhard", "Brian", "Julius", "Greg"), ("swan", "lion", "frog", "rhino"),
             ("gray", "white", "yellow", "green")),
    "qa17": (("triangle", "rectangle", "sphere", "blue", "yellow"),),
    "qa18": (("suitcase", "chest", "container"),),
    "qa20": (("sumit", "yann", "jason", "antoine"), ("hungry", "thirsty", "tired", "bored")),
}


@every_task
def test_names_places_and_things_are_exchangeable(task):
    words = Counter(word for story in stories(task, 600) for line in story
                    for word in re.findall(r"\w+", f"{line.text} {getattr(line, 'answer', '')}"))
    for group in EXCHANGEABLE[task.name]:
        counts = [words[word] for word in group]
        assert min(counts) > .85 * max(counts), dict(zip(group, counts, strict=True))


@pytest.mark.parametrize("knob", ["questions", "facts"])
def test_no_questions_and_no_facts_are_refused(knob):
    with pytest.raises(ValueError, match=f"qa3: found {knob}=0, expected at least 1"):
        TASKS["qa3"].story(Rng(0), **{knob: 0})


def test_the_guide_adds_a_task_in_thirty_lines(capsys):
    guide = GUIDE.read_text(encoding="utf-8").split("## Add a task in 30 lines")[1]
    code = guide.split("```python\n")[1].split("```")[0]
    assert code.count("\n") <= 30
    try:
        exec(code, {"__name__": "__main__"})
        assert "Where is the " in capsys.readouterr().out
        for story in stories(TASKS["qa21"], 20):
            seen = {}
            for line in story:
                words = line.text.rstrip(".?").split()
                if isinstance(line, Fact):               # Mary hid the map in the garden
                    seen[words[3]] = words[-1]
                else:
                    assert line.answer == seen[words[-1]]
    finally:
        TASKS.pop("qa21", None)
