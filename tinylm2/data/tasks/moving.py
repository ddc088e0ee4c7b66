"""A world in which people walk from place to place."""

from tinylm2.data.tasks.task import task

PEOPLE = ("Mary", "Sandra", "John", "Daniel")
PLACES = ("kitchen", "bathroom", "bedroom", "garden", "office", "hallway")
WENT = ("went to", "moved to", "travelled to", "journeyed to", "went back to")

RECENT = 5                                               # the official files ask about one of the last five facts


@task("qa1", "single supporting fact")
def single_supporting_fact(tale, questions=5, facts=2):
    """Where is somebody? The last of her moves says it."""
    dice, where, moves = tale.dice, {}, []               # where: person -> (place, line of the move)
    for _ in range(questions):
        for _ in range(facts):
            person, place = dice.pick(PEOPLE), dice.pick(PLACES)
            while person in where and place == where[person][0]:
                place = dice.pick(PLACES)
            where[person] = place, tale.tell(f"{person} {dice.pick(WENT)} the {place}.")
            moves.append(person)
        person = dice.pick(moves[-RECENT:])
        place, line = where[person]
        tale.ask(f"Where is {person}?", place, line)
