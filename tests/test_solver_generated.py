"""Generated stories say what the official files say, and mean it: judged by a reader that shares no code with them."""

import re
from functools import lru_cache

import pytest

from tests.support import official
from tests.support.solver import Refused, read, solve
from tinylm2.data.rng import DATA, Rng
from tinylm2.data.stories import Fact, examples
from tinylm2.data.tasks import TASKS

QUESTIONS = 2_000                                        # a task
STORIES = 5_000                                          # at most, until the rarest word was said

every_task = pytest.mark.parametrize("task", TASKS)


@lru_cache(None)
def story(task, number, **knobs):
    return TASKS[task].story(Rng(7, DATA, TASKS[task].number, 0, number), **knobs)


@lru_cache(None)
def enough(task):
    """How many stories ask QUESTIONS questions."""
    asked = stories = 0
    while asked < QUESTIONS:
        asked += sum(not isinstance(line, Fact) for line in story(task, stories))
        stories += 1
    return stories


def reading(task, facts, question):
    try:
        return solve(task, facts, question)
    except Refused as refused:
        return f"refused: {refused}"


def failures(stories, task, facts_of=lambda example: example.facts):
    """The first few questions that are read otherwise than answered, with all that was told before them."""
    wrong = ((facts_of(example), example.question, example.answer, answer)
             for story in stories for example in examples(story, task)
             if (answer := reading(task, facts_of(example), example.question.strip())) != example.answer)
    return [failure for failure, _ in zip(wrong, range(3), strict=False)]


@every_task
def test_every_generated_question_is_answered(task):
    assert not failures((story(task, i) for i in range(enough(task))), task)


@every_task
def test_every_training_story_is_answered(task):
    """Training tells a given number of facts, then asks one question."""
    assert not failures((story(task, i, questions=1, facts=2 + i % 9) for i in range(300)), task)


# In the others the support says that a thing was dropped or given, and leaves out that it was taken.
@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("qa2", "qa3", "qa5", "qa7")])
def test_the_supporting_facts_alone_answer_the_question(task):
    def supporting(example):
        return [example.facts[i] for i in sorted(example.support)]

    assert not failures((story(task, i) for i in range(enough(task))), task, supporting)


def said(task, text, answer):
    """What a line says: its form, what fills it ("pink rectangle"), its words and those of its answer."""
    form, _, filling = read(task, text)
    return {form, *filling, *re.findall(r"\w+", f"{text} {answer or ''}")}


@official.needs_files
@every_task
def test_the_forms_and_words_are_those_of_the_official_file(task):
    theirs = set().union(*(said(task, line.text, line.answer) for lines in official.official(task) for line in lines))
    ours, i = set(), 0
    while i < enough(task) or (i < STORIES and ours < theirs):
        for line in story(task, i):
            ours |= said(task, line.text.strip(), getattr(line, "answer", None))
        i += 1
    assert ours == theirs
