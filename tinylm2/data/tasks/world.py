"""The base of all tasks: a world in which events happen, line by line, and questions about what is true in it."""

from math import inf
from typing import Any

from tinylm2.data.stories import Fact, Question

MOST = 10_000                                            # events per story, and stories that are begun


class World:
    """A story in the making. A subclass says what can happen (`happen`) and what can be asked (`question`).

    A world stores what is true together with the numbers of the lines that made it true, so an answer and its support
    are looked up together. Each fact adds a topic (a person, a thing, anything). As in the official files, a question
    is about one of the last topics; `recent` is how many of them.
    """

    questions = 5                                        # questions per story of the official file
    pace = 2                                             # facts added at a time, until a question is possible
    pause = True                                         # facts before each question; False: only before the first
    recent = 5
    least, most = 1, inf                                 # facts that are possible before a question

    def __init__(self, rng: Any) -> None:
        self.rng = rng
        self.lines = []
        self.topics = []
        self.happened = 0

    def happen(self) -> None:
        """Let one event happen and add one or more facts. Return False when nothing more can happen."""
        raise NotImplementedError

    def question(self, topic: Any) -> None:
        """Ask about a topic: return the result of `ask`, or False when there is nothing to ask about it."""
        raise NotImplementedError

    def tell(self, text: str, *topics: Any) -> int:
        """Add a fact and its topics. Return its line number, counted from 1 as in the official files."""
        self.lines.append(Fact(text))
        self.topics.extend(topics)
        return len(self.lines)

    def ask(self, text: str, answer: Any, *support: Any) -> bool:
        """Add a question with its answer and its supporting lines, in the order of the official files."""
        self.lines.append(Question(text, answer, support))
        return True

    def run(self, questions: Any, facts: Any = None) -> bool:
        """Make the story. Return False when nothing can be asked after exactly `facts` facts: then try a new world.

        Without `facts`, `pace` facts are added until a question is possible. The story ends early when nothing more can
        happen.
        """
        self.advance(facts or self.pace)
        for asked in range(questions):
            if asked and self.pause and not self.advance(facts or self.pace):
                break
            while not self.inquire():
                if facts and not asked or not self.advance(1 if facts else self.pace):
                    return asked > 0
        return True

    def advance(self, facts: Any) -> bool:
        """Add this number of facts, or as many as can happen; False when none can.  ValueError after MOST events."""
        start = len(self.lines)
        while len(self.lines) < start + facts and self.happen() is not False:
            self.happened += 1
            if self.happened > MOST:
                raise ValueError(f"{MOST:,} events in one story, and still nothing to ask")
        return len(self.lines) > start

    def inquire(self) -> bool:
        """Ask one question about one of the recent topics. Return False when none of them allows one."""
        if not any(map(self.question, self.rng.shuffled(self.topics[-self.recent:]))):
            return False
        self.happened = 0
        return True
