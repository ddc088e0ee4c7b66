"""The told stories are as the official ones, measured; and the measure sees a story that is not."""

import re
import sys
from importlib.util import find_spec

import pytest

from tests.support.official import FILES, needs_files
from tests.test_tasks import GUIDE, every_task
from tinylm2.data import TASKS, BadInput, Fact, Question, Rng, find_file, read_stories, two_sample, write_stories
from tinylm2.data.distributions import (
    Asked,
    Distance,
    asked,
    chance,
    classified,
    compare,
    main,
    row,
    variations,
    write,
)
from tinylm2.data.tasks.carrying import GAVE
from tinylm2.data.two_sample import (
    THRESHOLD,
    Verdict,
    delexicalised,
    generated,
    grams,
    measurements,
    text_of,
    trees,
    verdict,
)

STORY = (Fact("Mary went to the garden."), Fact("John went to the office."), Question("Where is Mary?", "garden", (1,)),
         Fact("Mary took the milk there."), Question("Where is the milk?", "garden", (4, 1)))


@needs_files
@every_task
def test_generated_stories_are_distributed_as_the_official_ones(task):
    found = compare(task, find_file(FILES, task.name))
    far = {name: str(distance) for name, distance in zip(Asked._fields, found, strict=True) if not distance.close}
    assert not far
    assert row(f"{task.name} {task.title}", *found) in GUIDE.read_text(encoding="utf-8"), "docs/DATA.md is out of date"


@needs_files
def test_a_world_with_fewer_recent_topics_is_noticed(monkeypatch):
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


def test_a_distance_above_the_allowance_is_printed_in_bold():
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


def test_bad_input_of_the_command_gives_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: found no file of qa1, expected qa1_*_test.txt or qa1_*_train.txt\n"
    write_stories(tmp_path / "qa1_one_train.txt", [STORY])
    assert main([str(tmp_path)]) == 2
    assert "found 1 stories with questions, expected at least 2 to compare\n" in capsys.readouterr().err


needs_sklearn = pytest.mark.skipif(not find_spec("sklearn"), reason="scikit-learn is not installed")
mended = pytest.mark.parametrize("name", ["qa15", "qa18", "qa19"])


@needs_sklearn
@needs_files
@mended
def test_a_classifier_cannot_separate_the_mended_tasks_from_the_official_ones(name):
    official = read_stories(find_file(FILES, name))
    assert verdict(grams, TASKS[name], official, draws=2).area <= THRESHOLD + .02    # two draws vary more than five


@needs_sklearn
@pytest.mark.parametrize("judge", [grams, trees])
def test_a_classifier_notices_fewer_recent_topics_and_only_these(judge, monkeypatch):
    ours, others = generated(TASKS["qa1"], 400, 0, 0), generated(TASKS["qa1"], 400, 0, 1)
    assert abs(judge(ours, others) - .5) < .08
    monkeypatch.setattr(TASKS["qa1"].world, "recent", 1)
    assert judge(generated(TASKS["qa1"], 400, 0, 2), others) > .65


def test_the_table_of_the_classifiers_has_all_tasks_and_none_above_the_threshold_except_by_chance():
    _, _, rest = GUIDE.read_text(encoding="utf-8").partition("<!-- classifier: -->\n")
    rows = [line.strip("| ").split(" | ") for line in rest.partition("<!-- :classifier -->")[0].splitlines()][2:]
    assert [task for task, *_ in rows] == [f"{task.name} {task.title}" for task in TASKS.values()]
    for _, _, *verdicts in rows:
        for area, _, _, deviation in (found.strip("*").split() for found in verdicts):
            assert float(area) <= max(THRESHOLD, .5 + 3 * float(deviation))


def test_names_places_and_things_are_numbered_by_their_appearance():
    assert [" ".join(words) for words in delexicalised(STORY)] == [
        "person1 went to the place1", "person2 went to the place2", "where is person1 ? place1",
        "person1 took the thing1 there", "where is the thing1 ? place1"]
    kinds = (Fact("Sheep are afraid of wolves."), Fact("Emily is a wolf."),
             Question("What is emily afraid of?", "mouse"))
    assert text_of(kinds) == "#1 kind1 are afraid of kind2 #2 person1 is a kind2 #3 what is person1 afraid of ? kind3"
    assert delexicalised([Fact("The box fits inside the box of chocolates.")]) == [
        ["the", "thing1", "fits", "inside", "the", "thing2"]]


def test_stories_that_differ_only_in_names_have_equal_measurements():
    def renamed(text):
        return re.sub("Mary|John|garden|office", lambda name: {"Mary": "John", "John": "Mary", "garden": "office",
                                                               "office": "garden"}[name[0]], text)

    other = [Fact(renamed(line.text)) if isinstance(line, Fact) else
             Question(renamed(line.text), renamed(line.answer), line.support) for line in STORY]
    assert text_of(other) == text_of(STORY)
    assert list(measurements(other)) == list(measurements(STORY))
    first, second = measurements(STORY)
    # line, questions before, facts, facts since the last question, supporting lines: how many, nearest, farthest, first
    assert (first[:8], second[:8]) == ([3, 0, 2, 2, 1, 2, 2, 2], [5, 1, 3, 1, 2, 1, 4, 1])
    assert first[8:12] == [2, 2, 0, 0]                   # people, places, things, kinds
    # of Mary, of the garden: how often they were told, how many facts ago last and first, how many words
    assert (first[18:22], first[22:]) == ([1, 2, 2, 3], [1, 2, 2, 1])


def test_the_mean_area_decides():
    assert str(Verdict([.5, .6], .02)) == "0.550 (0.500-0.600) ± 0.020"
    assert str(Verdict([.5, .62], .02)) == "**0.560 (0.500-0.620) ± 0.020**"


@needs_sklearn
def test_the_classifiers_name_the_most_typical_n_grams(tmp_path, monkeypatch):
    """Official stories in which everybody always walks to the garden."""
    monkeypatch.setattr(two_sample, "FEWEST", 60)
    write_stories(tmp_path / "qa1_one_train.txt",
                  [[Fact("Mary moved to the garden."), Fact("John moved to the garden."),
                    Question("Where is Mary?", "garden", (1,))]] * 10)
    text, far, signs = classified(tmp_path, tasks=["qa1"])
    assert far == 2
    assert text.splitlines()[2].startswith("| qa1 single supporting fact | 10 | **1.000 (1.000-1.000) ± ")
    assert "official ['" in signs
    official, generated, _ = signs.partition("generated")
    assert generated
    assert "place1" in official


def test_without_scikit_learn_the_command_gives_one_line(tmp_path, capsys, monkeypatch):
    write_stories(tmp_path / "qa1_one_train.txt", [STORY] * 10)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    assert main([str(tmp_path), "--classifier"]) == 2
    assert capsys.readouterr().err == "--classifier: found no scikit-learn, expected pip install scikit-learn\n"


def test_too_few_stories_for_the_folds_are_refused(tmp_path, capsys):
    write_stories(tmp_path / "qa1_one_train.txt", [STORY])
    assert main([str(tmp_path), "--classifier"]) == 2
    assert capsys.readouterr().err == "qa1: found 1 stories with questions, expected at least 5 to judge\n"


def sources(name):
    """Generated stories, and the official ones where they are: both must follow a rule."""
    found = [generated(TASKS[name], 1000, 0, 0)]
    return [*found, read_stories(find_file(FILES, name))] if FILES.is_dir() else found


def test_a_question_of_qa18_goes_on_from_a_fact_by_the_first_other_one_that_names_the_thing():
    for stories in sources("qa18"):
        for story in stories:
            for number, line in enumerate(story):
                if isinstance(line, Question):
                    facts = {i: two_sizes(told.text) for i, told in enumerate(story[:number], 1)
                             if isinstance(told, Fact)}
                    start, then = line.support
                    shared = facts[start][line.answer == "yes"]
                    assert then == next(i for i in facts if i != start and shared in facts[i])


def two_sizes(text):
    """(larger, smaller) of a fact of qa18."""
    one, fits, other = re.match(r"The (.*) (fits inside|is bigger than) the (.*)\.", text).groups()
    return (other, one) if fits == "fits inside" else (one, other)


def test_in_qa19_five_different_rooms_begin_the_facts_of_nearly_half_of_the_stories():
    for stories in sources("qa19"):
        different = [len({line.text.split()[1] for line in story if isinstance(line, Fact)}) for story in stories]
        assert .4 < different.count(5) / len(different) < .51


def test_in_qa15_the_fact_of_a_kind_comes_before_its_members_and_often_first():
    for stories in sources("qa15"):
        fears = [["afraid" in line.text for line in story if isinstance(line, Fact)] for story in stories]
        assert all(told[0] for told in fears)
        assert .04 < sum(told[-1] for told in fears) / len(fears) < .3


def test_directly_after_a_gift_only_the_same_thing_is_given():
    for name in ("qa5", "qa7"):
        for stories in sources(name):
            for story in stories:
                facts = [line.text.split() for line in story if isinstance(line, Fact)]
                for first, then in zip(facts, facts[1:], strict=False):
                    if first[-2] == then[-2] == "to" and first[1] in GAVE and then[1] in GAVE:
                        assert first[3] == then[3]
                        assert first[-1].rstrip(".") == then[0]
