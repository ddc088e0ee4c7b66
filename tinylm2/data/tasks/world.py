"""The one idea behind all tasks: a world in which something happens, line by line, and questions about what is true."""

from math import inf
from typing import Any

from tinylm2.data.stories import Fact, Question

MOST = 10_000                                            # events per story, and stories begun: more ask nothing


class World:
    """A story while it is told. A kind of world says what can happen in it and what can be asked.

    Everybody who tells keeps, beside what is true, the numbers of the lines that made it true: an answer and its
    support are looked up together. Each fact leaves a topic (a person, a thing, what you like), and every question of
    the official files is about one of the last few topics: `recent`.
    """

    questions = 5                                        # that a story of the official file asks
    pace = 2                                             # facts told at a time, until there is something to ask
    pause = True                                         # facts between the questions, too; else only before the first
    recent = 5
    least, most = 1, inf                                 # facts that can be told before a question

    def __init__(self, rng: Any) -> None:
        self.rng = rng
        self.lines = []
        self.topics = []
        self.happened = 0

    def happen(self) -> None:
        """Let something happen and tell it in one or more facts. Return False when nothing more can happen."""
        raise NotImplementedError

    def question(self, topic: Any) -> None:
        """Ask about a topic; the result of `ask`, or False when there is nothing to ask about it."""
        raise NotImplementedError

    def tell(self, text: str, *topics: Any) -> int:
        """Add a fact. Its line number, counted from 1 as in the official files."""
        self.lines.append(Fact(text))
        self.topics.extend(topics)
        return len(self.lines)

    def ask(self, text: str, answer: Any, *support: Any) -> bool:
        """Add a question with its answer and the lines that give it, in the order of the official files."""
        self.lines.append(Question(text, answer, support))
        return True

    def run(self, questions: Any, facts: Any = None) -> bool:
        """Tell the story. False when nothing can be asked after exactly `facts` facts: the story must be told anew.

        Without `facts`, a few are told (`pace`) as often as it takes. The story ends early when nothing happens any
        more.
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
        """Tell so many facts, or as many as can happen. False when none can.  ValueError after MOST events."""
        start = len(self.lines)
        while len(self.lines) < start + facts and self.happen() is not False:
            self.happened += 1
            if self.happened > MOST:
                raise ValueError(f"{MOST:,} events in one story, and still nothing to ask")
        return len(self.lines) > start

    def inquire(self) -> Any:
        """Ask one question about one of the recent topics. False when none of them raises any."""
        return any(map(self.question, self.rng.shuffled(self.topics[-self.recent:])))
