"""The told stories are as the official ones, measured; and the measure sees a story that is not."""

import pytest

from tests.support.official import FILES, needs_files
from tests.test_tasks import GUIDE, every_task
from tinylm2.data import TASKS, BadInput, Fact, Question, Rng, find_file, write_stories
from tinylm2.data.distributions import Asked, Distance, asked, chance, compare, main, row, variations, write

STORY = (Fact("Mary went to the garden."), Fact("John went to the office."), Question("Where is Mary?", "garden", (1,)),
         Fact("Mary took the milk there."), Question("Where is the milk?", "garden", (4, 1)))


@needs_files
@every_task
def test_the_told_stories_are_as_the_official_ones(task):
    found = compare(task, find_file(FILES, task.name))
    far = {name: str(distance) for name, distance in zip(Asked._fields, found, strict=True) if not distance.close}
    assert not far
    assert row(f"{task.name} {task.title}", *found) in GUIDE.read_text(encoding="utf-8"), "docs/DATA.md is out of date"


@needs_files
def test_a_world_that_forgets_sooner_is_seen(monkeypatch):
    monkeypatch.setattr(TASKS["qa1"].world, "recent", 1)
    found = Asked(*compare(TASKS["qa1"], find_file(FILES, "qa1")))
    assert not found.lines_to_the_nearest.close
    assert found.answer.close


def test_what_is_measured_of_a_question():
    assert list(asked(STORY)) == [Asked("garden", 2, 2, 1, 2), Asked("garden", 3, 1, 2, 1)]


def test_without_supporting_facts_none_is_near():
    (question,) = asked((Fact("Mary is tired."), Question("Where will mary go?", "bedroom")))
    assert question == Asked("bedroom", 1, 1, 0, None)


def test_total_variation_is_half_of_what_differs():
    """Answers: half a and half b against a alone. Facts: the same two numbers in both. Support: nothing in common."""
    one = [[Asked("a", 1, 1, 1, 1), Asked("b", 2, 1, 1, 1)]]
    other = [[Asked("a", 2, 1, 2, 1)], [Asked("a", 1, 1, 2, 1)]]
    assert variations(one, other) == [.5, 0, 0, 1, 0]


def test_equal_stories_have_equal_halves():
    assert chance([[Asked("a", 1, 1, 1, 1)]] * 8, Rng(0)) == [0] * 5
    assert chance([[Asked("ab"[i % 2], 1, 1, 1, 1)] for i in range(8)], Rng(0))[0] > 0


def test_a_distance_beyond_the_allowance_stands_in_bold():
    assert str(Distance(.06, .02)) == "0.060 / 0.020"
    assert str(Distance(.08, .02)) == "**0.080 / 0.020**"


def test_the_table_takes_its_place_in_the_document(tmp_path):
    path = tmp_path / "DATA.md"
    path.write_text("before\n<!-- distributions: -->\nold\n<!-- :distributions -->\nafter\n")
    write(path, "new\n")
    write(path, "newer\n")
    assert path.read_text() == "before\n<!-- distributions: -->\nnewer\n<!-- :distributions -->\nafter\n"


def test_a_document_without_a_place_is_refused(tmp_path):
    path = tmp_path / "DATA.md"
    path.write_text("before\n<!-- distributions: -->\nafter\n")
    with pytest.raises(BadInput, match="found no place for the table"):
        write(path, "new\n")
    assert path.read_text() == "before\n<!-- distributions: -->\nafter\n"


def test_the_command_says_in_a_line_what_is_wrong(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: found no file of qa1, expected qa1_*_test.txt or qa1_*_train.txt\n"
    write_stories(tmp_path / "qa1_one_train.txt", [STORY])
    assert main([str(tmp_path)]) == 2
    assert "found 1 stories with questions, expected at least 2 to compare\n" in capsys.readouterr().err
