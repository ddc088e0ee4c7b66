"""The material of a run: tasks, filler and vocabulary, from the names and files in its settings.

Files that settings name are opened only here, and only if the command line names them: for a new run, or for one that
is resumed with the same options. A checkpoint from somebody else must not open files.
"""

import re
import runpy
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm2.data import (
    TASKS,
    BookFiller,
    Fact,
    FileTask,
    GrammarFiller,
    Question,
    Stories,
    bpe_tokenizer,
    generated_examples,
    max_answer_len,
    without_filler,
    word_tokenizer,
    words_of,
)
from tinylm2.errors import BadInput, read_lines
from tinylm2.training.settings import weighted_tasks

OPENED = ("task", "train_on", "filler", "words", "text")         # settings that may name a file
SAMPLE = 200                                             # stories per task that are searched for words and answers


@dataclass(frozen=True)
class Material:
    """Task -> weight, filler, tokenizer, and the length of the longest answer."""

    tasks: dict
    filler: object
    tokenizer: object
    answer_len: int

    def stories(self, seed: int) -> Stories:
        """The Stories of a run."""
        return Stories(self.tasks, weights=self.tasks.values(), tokenizer=self.tokenizer, filler=self.filler, seed=seed)


def gather_material(settings: Any) -> Material:
    """The Material for these settings.  BadInput names what is wrong with a file, before training."""
    tasks = _tasks(settings)
    own = settings.task.endswith(".py") or bool(settings.train_on)
    filler = BookFiller(settings.filler) if settings.filler else GrammarFiller()
    examples = [example for task in tasks for example in generated_examples(task, SAMPLE if own else 100, seed=0)]
    if settings.tokenizer == "bpe":
        tokenizer = bpe_tokenizer(settings.vocab, _texts(examples, filler) if own or settings.filler else None)
    else:
        more = words_of("\n".join(read_lines(settings.words))) if settings.words else []
        if own:
            more += [word for task in tasks for text in _all_texts(task) for word in words_of(text)]
        if settings.filler:
            more += [word for sentence in filler.sentences for word in words_of(sentence)]
        tokenizer = word_tokenizer(more)
    return Material(tasks, filler, tokenizer, max_answer_len(examples, tokenizer))


def _tasks(settings):
    """Task -> weight: from the twenty tasks, a Python file, or a folder of official files."""
    if settings.task.endswith(".py"):
        return dict.fromkeys(load_tasks(settings.task), 1.0)
    tasks = weighted_tasks(settings.task)
    if settings.train_on:
        return {FileTask.of(settings.train_on, task.name): weight for task, weight in tasks.items()}
    return tasks


def load_tasks(path: Any) -> Any:
    """The tasks that a Python file adds to TASKS (docs/DATA.md shows one), each tried on some stories.

    BadInput where the file adds none, where its code fails (with the line), and where a story is not valid.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path}: found no such file, expected Python code that declares a task (docs/DATA.md)")
    before = dict(TASKS)
    with _failures_of(path):
        runpy.run_path(str(path))
    found = [task for name, task in TASKS.items() if before.get(name) is not task]
    if not found:
        raise BadInput(f"{path}: found no task in it, expected a class under @task(\"qa21\", \"a title\")")
    for task in found:
        if not re.fullmatch(r"qa\d{1,6}", task.name):
            raise BadInput(f"{path}: found the task name {task.name!r}, expected qa and a number, such as qa21")
        with _failures_of(path):
            odd = next(filter(None, (_what_is_odd(task.story(rng)) for rng in task.sample(SAMPLE))), None)
            task.story(next(task.sample(1)), questions=1, facts=2)       # as in the first stage
        if odd:
            raise BadInput(f"{path}: found a story of {task.name} with {odd}")
    return found


@contextmanager
def _failures_of(path):
    """Whatever the code of this file raises, or even an end of the program, becomes one line with the file's line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        lines += [error.lineno] if isinstance(error, SyntaxError) and error.filename == str(path) else []
        place = f"{path}:{lines[-1]}" if lines else path
        raise BadInput(f"{place}: found code that fails ({type(error).__name__}: {error}), expected a task") from None


def _what_is_odd(story):
    """What is wrong with a story, None where nothing is."""
    facts = []
    for number, line in enumerate(story, 1):
        if not _has_words(line.text):
            return f"{line.text!r:.40} as its line {number}, expected words"
        if isinstance(line, Fact):
            facts.append(number)
        elif not _has_words(line.answer):
            return f"the answer {line.answer!r:.40} in its line {number}, expected words"
        elif not all(support in facts for support in line.support):
            return f"the support {line.support!r:.40} in its line {number}, expected numbers of earlier facts"
    return None if len(facts) < len(story) else "no question in it, expected one at least"


def _has_words(text):
    return isinstance(text, str) and re.search(r"\w", text) is not None


def _texts(examples, filler):
    return [text for e in examples for text in (*e.facts, e.question, e.answer)] + list(filler.sentences)


def _all_texts(task):
    """All texts of a FileTask; of another task, the texts of a sample."""
    stories = task.stories if isinstance(task, FileTask) else [task.story(rng) for rng in task.sample(SAMPLE)]
    for story in stories:
        for line in story:
            yield line.text
            if isinstance(line, Question):
                yield line.answer


def short_rows(stories: Stories, segment_len: int, short: int = 16) -> tuple[int, int]:
    """(segments, segment_len) of the first stage's rows: as short as possible for a story of two facts.

    BadInput, before the first step, where a segment is too short for a question and its answer.
    """
    longest = 0
    for task in stories.tasks:
        for example in generated_examples(task, 50, seed=0):
            without_filler(example, tokenizer=stories.tokenizer, segment_len=segment_len)
    for i in range(50):
        (task, *_), rng = stories.tasks, stories.rng(0, i)
        lines = task.story(rng, questions=1, facts=2)
        longest = max(longest, sum(len(stories.tokenizer.encode(text)) for line in lines
                                   for text in (line.text, *([line.answer] if isinstance(line, Question) else []))))
    if longest <= min(short, segment_len):
        return 1, min(short, segment_len)
    return (1, longest) if longest <= segment_len else (-(-longest // segment_len), segment_len)
