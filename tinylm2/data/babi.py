"""The official bAbI file format (Weston et al. 2015), read and written.

A fact is `NUMBER TEXT`. A question is `NUMBER TEXT<tab>ANSWER<tab>NUMBERS OF THE SUPPORTING LINES`, or ends after the
answer in files without supporting facts. The number is 1 again where a new story starts.
"""

import re
from pathlib import Path
from typing import Any

from tinylm2.data.stories import Fact, Question, examples
from tinylm2.errors import BadInput, read_lines
from tinylm2.files import replacing


def read_stories(path: Any, tokenizer: Any = None) -> list:
    """The stories of a file. BadInput names the line that breaks the format. With a tokenizer, it also names the
    words that its vocabulary lacks."""
    stories, story = [], []
    for number, text in enumerate(read_lines(path), 1):
        match = re.fullmatch(r"([0-9]{1,9}) (.+)", text)
        if not match:
            raise BadInput.at(path, number, repr(text[:40]), "a line number, a space and text")
        given = int(match[1])
        if given == 1:
            story = []
            stories.append(story)
        elif given != len(story) + 1 or not story:
            following = f"{len(story) + 1} or 1" if story else "1"
            raise BadInput.at(path, number, f"line number {given}", f"line number {following}")
        fields = [field.strip() for field in match[2].split("\t")]
        story.append(_read_line(fields, story, path, number))
        if tokenizer:
            tokenizer.check(" ".join(fields[:2]), path, number)
    return [tuple(story) for story in stories]


def _read_line(fields, story, path, number):
    """The Fact or Question with these fields, the next line of `story`."""
    if len(fields) > 3 or not all(fields[:2]):
        raise BadInput.at(path, number, repr("\t".join(fields)), "question, answer and supporting lines between tabs")
    if len(fields) == 1:
        return Fact(fields[0])
    text, answer, *support = fields
    lines = support[0].split() if support else []
    facts = {str(number) for number, line in enumerate(story, 1) if isinstance(line, Fact)}
    for line in lines:
        if line not in facts:
            raise BadInput.at(path, number, f"supporting line {line!r}", "the number of a fact of this story")
    return Question(text, answer, tuple(map(int, lines)))


def story_text(story: Any) -> str:
    """A story in the official format, with a space before the first tab, as in most of the official files."""
    lines = []
    for number, line in enumerate(story, 1):
        asked = f" \t{line.answer}\t{' '.join(map(str, line.support))}" if isinstance(line, Question) else ""
        lines.append(f"{number} {line.text}{asked}\n")
    return "".join(lines)


def write_stories(path: Any, stories: Any) -> None:
    """Write a file in the official format, from any iterable of stories."""
    with replacing(path) as file:
        file.writelines(story_text(story).encode() for story in stories)


def read_examples(path: Any, task: Any = None, tokenizer: Any = None) -> Any:
    """One Example per question of a file. task: by default the one that the file's name starts with (`qa1_...txt`)."""
    task = task or task_of(path)
    found = [example for story in read_stories(path, tokenizer) for example in examples(story, task)]
    if not found:
        raise BadInput.at(path, 1, "a file without a question", "at least one line with a tab and an answer")
    return found


def task_of(path: Any) -> Any:
    """The last qa1 .. qa20 in a path: "qa1" of `en/qa1_single-supporting-fact_test.txt`."""
    names = re.findall(r"(?<![a-zA-Z0-9])qa(?:[1-9]|1[0-9]|20)(?![0-9])", str(path))
    if not names:
        raise BadInput(f"{path}: found no task in the name, expected one of qa1 .. qa20")
    return names[-1]


def find_file(folder: str, task: str, parts: Any = ("test", "train")) -> Any:
    """The file of a task in a folder of official files: its test file if there is one, else its training file."""
    for part in parts:
        for path in sorted(Path(folder).glob(f"{task}_*_{part}.txt")):
            return path
    raise BadInput(f"{folder}: found no file of {task}, expected {task}_*_{parts[0]}.txt or {task}_*_{parts[1]}.txt")


class FileTask:
    """A task whose stories come from an official file. It has the interface of `Task`."""

    def __init__(self, name: str, stories: Any) -> None:
        self.name, self.number, self.stories = name, int(name[2:]), stories
        self._examples = [example for story in stories for example in examples(story, name)]
        self._by_facts = {}
        for example in self._examples:
            self._by_facts.setdefault(len(example.facts), []).append(example)

    @classmethod
    def of(cls, folder: Any, name: str) -> Any:
        """The task with the stories of its training file, or else its test file, in a folder of official files."""
        path = find_file(folder, name, ("train", "test"))
        stories = [story for story in read_stories(path) if any(isinstance(line, Question) for line in story)]
        if not stories:
            raise BadInput.at(path, 1, "a file without a question", "at least one line with a tab and an answer")
        return cls(name, stories)

    def story(self, rng: Any, *, questions: Any = None, facts: Any = None) -> Any:
        """A random story of the file. With `facts`: a question with about that many facts before it."""
        if facts is None:
            return rng.choice(self.stories)
        count = min(self._by_facts, key=lambda n: (abs(n - facts), n))
        example = rng.choice(self._by_facts[count])
        return (*map(Fact, example.facts), Question(example.question, example.answer,
                                                    tuple(i + 1 for i in example.support)))
