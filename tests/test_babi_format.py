"""The official file format and BABILong's: what is written is read back, and a broken file is told by file and line."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.official import FILES, needs_files
from tinylm2.data import (
    TASKS,
    BadInput,
    Fact,
    Question,
    Rng,
    find_file,
    read_babilong,
    read_examples,
    read_stories,
    story_text,
    word_tokenizer,
    write_stories,
)
from tinylm2.data.babi import FileTask, task_of

STORY = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary got the milk.
5 What is Mary carrying? \tmilk,football\t4 1
"""


def write(tmp_path, text, name="qa1_test.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_story_is_read_line_by_line(tmp_path):
    assert read_stories(write(tmp_path, STORY)) == [(
        Fact("Mary moved to the bathroom."),
        Fact("John went to the hallway."),
        Question("Where is Mary?", "bathroom", (1,)),
        Fact("Mary got the milk."),
        Question("What is Mary carrying?", "milk,football", (4, 1)),
    )]


def test_number_one_starts_a_new_story(tmp_path):
    first, second = read_stories(write(tmp_path, STORY + STORY))
    assert first == second
    assert len(first) == 5


def test_support_of_examples_points_at_earlier_facts(tmp_path):
    one, other = read_examples(write(tmp_path, STORY))
    assert (one.task, one.question, one.support) == ("qa1", "Where is Mary?", (0,))
    assert one.facts == ("Mary moved to the bathroom.", "John went to the hallway.")
    assert other.facts == (*one.facts, "Mary got the milk.")
    assert (other.answer, other.support) == ("milk,football", (2, 0))


@pytest.mark.parametrize("ending", ["", "\t"])
def test_files_without_supporting_facts_are_read(tmp_path, ending):
    (story,) = read_stories(write(tmp_path, f"1 Mary moved to the bathroom.\n2 Where is Mary?\tbathroom{ending}\n"))
    assert story[1] == Question("Where is Mary?", "bathroom", ())


@pytest.mark.parametrize("variant", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text,
                                     lambda text: text + "\n\n", str.rstrip])
def test_line_ends_marks_and_blank_lines_at_the_end_do_not_matter(tmp_path, variant):
    assert read_stories(write(tmp_path, variant(STORY))) == read_stories(write(tmp_path, STORY))


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_generated_stories_survive_writing_and_reading(tmp_path, task):
    stories = [task.story(Rng(3, task.number, i)) for i in range(20)]
    write_stories(tmp_path / "stories.txt", stories)
    assert read_stories(tmp_path / "stories.txt") == stories


@needs_files
@pytest.mark.parametrize("number", range(1, 21))
def test_official_files_come_back_as_they_were(number):
    path = find_file(FILES, f"qa{number}")
    stories = read_stories(path, word_tokenizer())
    assert "".join(map(story_text, stories)).replace("? \t", "?\t") == path.read_text().replace("? \t", "?\t")
    assert len(read_examples(path)) == 1000


@pytest.mark.parametrize(("text", "line", "found", "expected"), [
    ("", 1, "an empty file", "text"),
    ("\n \n", 1, "an empty file", "text"),
    ("Mary moved.\n", 1, "'Mary moved.'", "a line number"),
    ("1\n", 1, "'1'", "a line number"),
    ("1 Mary moved.\n\n2 John moved.\n", 2, "''", "a line number"),
    ("2 Mary moved.\n", 1, "line number 2", "line number 1"),
    ("0 Mary moved.\n", 1, "line number 0", "line number 1"),
    ("1 Mary moved.\n3 John moved.\n", 2, "line number 3", "line number 2 or 1"),
    ("1 Mary moved.\n2 Where is Mary?\t\t1\n", 2, r"'Where is Mary?\t\t1'", "question, answer"),
    ("1 Mary moved.\n2 \tgarden\t1\n", 2, r"'\tgarden\t1'", "question, answer"),
    ("1 Mary moved.\n2 Where is Mary?\tgarden\t1\t1\n", 2, r"'Where is Mary?\tgarden\t1\t1'", "question, answer"),
    ("1 Mary moved.\n2 Where is Mary?\tgarden\t2\n", 2, "supporting line '2'", "the number of a fact"),
    ("1 Mary moved.\n2 Where is Mary?\tgarden\t0\n", 2, "supporting line '0'", "the number of a fact"),
    ("1 Mary moved.\n2 Where is Mary?\tgarden\tone\n", 2, "supporting line 'one'", "the number of a fact"),
    ("1 Where is Mary?\tgarden\t\n2 Where is Mary?\tgarden\t1\n", 2, "supporting line '1'", "the number of a fact"),
    ("1 Mary moved.\n", 1, "a file without a question", "at least one"),
    (b"1 Mary moved.\n2 Zo\xeb moved.\n", 2, "the byte 0xeb", "text in UTF-8"),
])
def test_a_broken_file_is_named_with_its_line(tmp_path, text, line, found, expected):
    path = write(tmp_path, text)
    with pytest.raises(BadInput) as error:
        read_examples(path)
    assert str(error.value).startswith(f"{path}:{line}: found {found}, expected {expected}")
    assert "\n" not in str(error.value)


def test_an_unknown_word_is_named_with_its_line(tmp_path):
    path = write(tmp_path, STORY.replace("hallway", "pub"))
    assert len(read_examples(path)) == 2
    with pytest.raises(BadInput, match=r"qa1_test\.txt:2: found pub, expected words of the vocabulary"):
        read_examples(path, tokenizer=word_tokenizer())


def test_an_unknown_answer_is_named_with_its_line(tmp_path):
    with pytest.raises(BadInput, match=r":5: found cheese"):
        read_examples(write(tmp_path, STORY.replace("milk,football", "cheese")), tokenizer=word_tokenizer())


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="nothing.txt: cannot be read"):
        read_stories(tmp_path / "nothing.txt")


@pytest.mark.parametrize(("path", "task"), [
    ("en/qa1_single-supporting-fact_test.txt", "qa1"), ("qa20_a_train.txt", "qa20"), ("qa3/4k.json", "qa3"),
    ("qa1/qa12_4k.json", "qa12"),
])
def test_the_task_is_read_from_the_name(path, task):
    assert task_of(path) == task


@pytest.mark.parametrize("path", ["stories.txt", "qa21_train.txt", "qa0.txt", "aqa1.txt"])
def test_a_name_without_a_task_is_bad_input(path):
    with pytest.raises(BadInput, match="expected one of qa1 .. qa20"):
        task_of(path)


def test_the_test_file_is_found_before_the_training_file(tmp_path):
    for name in ("qa1_x_train.txt", "qa10_x_test.txt"):
        write(tmp_path, STORY, name)
    assert find_file(tmp_path, "qa1").name == "qa1_x_train.txt"
    write(tmp_path, STORY, "qa1_x_test.txt")
    assert find_file(tmp_path, "qa1").name == "qa1_x_test.txt"
    with pytest.raises(BadInput, match="no file of qa2"):
        find_file(tmp_path, "qa2")


ENTRY = {"input": "John went to the hallway. The wind sings.\nMary moved to the garden.", "question": "Where is Mary? ",
         "target": "garden"}


def test_babilong_entries_become_examples(tmp_path):
    (example,) = read_babilong(write(tmp_path, json.dumps([ENTRY]), "qa1_0k.json"))
    assert example.task == "qa1"
    assert example.facts == ("John went to the hallway.", "The wind sings.", "Mary moved to the garden.")
    assert (example.question, example.answer, example.support) == ("Where is Mary?", "garden", ())


@pytest.mark.parametrize(("text", "message"), [
    ("", ":1: found an empty file"),
    ('[\n{"input": }]', ":2: found '{\"input\": }]', expected JSON"),
    ("{}", ":1: found a JSON dict, expected a list"),
    ("[]", ":1: found a JSON list, expected a list with at least one entry"),
    (json.dumps([ENTRY, 7]), ":entry 2: found 7, expected an object"),
    (json.dumps([ENTRY, {**ENTRY, "target": 3}]), ":entry 2: found "),
    (json.dumps([{key: ENTRY[key] for key in ("input", "question")}]), ":entry 1: found "),
    (json.dumps([{**ENTRY, "target": " "}]), ":entry 1: found no question or no target"),
])
def test_a_broken_babilong_file_is_named_with_its_entry(tmp_path, text, message):
    path = write(tmp_path, text, "qa1_0k.json")
    with pytest.raises(BadInput) as error:
        read_babilong(path)
    assert str(error.value).startswith(f"{path}{message}")


def test_an_unknown_word_of_babilong_is_named_with_its_entry(tmp_path):
    path = write(tmp_path, json.dumps([ENTRY, {**ENTRY, "input": "Bob went to the pub."}]), "qa1_0k.json")
    with pytest.raises(BadInput, match="entry 2: found bob, pub, expected"):
        read_babilong(path, tokenizer=word_tokenizer())


def test_the_guides_own_world_is_a_folder_that_can_be_trained_on(tmp_path, monkeypatch):
    guide = (Path(__file__).parents[1] / "docs" / "DATA.md").read_text(encoding="utf-8")
    code = guide.split("## Three walks")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.setattr(sys, "argv", ["harbour.py", str(tmp_path / "harbour")])
    exec(code, {})
    task = FileTask.of(tmp_path / "harbour", "qa1")
    asked = read_examples(find_file(tmp_path / "harbour", "qa1"))
    assert (len(task.stories), len(asked)) == (1000, 1000)
    for example in asked:                                # the place in the last fact about the thing
        thing = example.question.rstrip("?").split()[-1]
        last = [fact for fact in example.facts if f" {thing} " in fact][-1]
        assert last.rstrip(".").split()[-1] == example.answer
