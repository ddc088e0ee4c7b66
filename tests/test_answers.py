"""Answers written token by token from a cache are those of the whole text read again; and how they are judged."""

import json
import re
import time
from dataclasses import fields

import numpy as np
import pytest

from tests.support import small
from tests.support.official import asked, needs_files, official
from tinylm2.cli import train
from tinylm2.cli.console import Parser, Progress, question_bar
from tinylm2.cli.evaluate import render, token_lengths
from tinylm2.data import TASKS, BadInput, Example, generated_examples, word_tokenizer
from tinylm2.decoding import answer, read
from tinylm2.inspect.evaluate import LABELS, babilong, exact, score
from tinylm2.memories import MEMORIES
from tinylm2.model import Config, count_params, first_states, init_params
from tinylm2.recurrence import story_forward
from tinylm2.training import run_dir
from tinylm2.training.settings import Settings

WORDS = word_tokenizer()
END = 1


def fixture(memory="lm2", G=2, N=4):
    cfg = Config(V=13, D=8, L=2, H=2, G=G, F=10, N=N, T=6, memory=memory)
    params = init_params(cfg, 3, dtype="float64")
    params.buffer += 0.3 * np.random.default_rng(0).standard_normal(params.buffer.size)
    return cfg, params


def answer_without_cache(params, ids, cfg, answer_len, pad):
    """The whole story is read again for every token."""
    for _ in range(answer_len):
        logits, _ = story_forward(params, ids=ids, cfg=cfg, pad=pad, last=1)
        ids = np.concatenate((ids, logits[:, -1].argmax(-1)[:, None]), 1)
    tokens = ids[:, -answer_len:]
    for row in tokens:
        ended = np.flatnonzero(row == END)
        if ended.size:
            row[ended[0]:] = END
    return tokens


@pytest.mark.parametrize(("memory", "G"), [*((name, 2) for name in MEMORIES), ("lm2", 1), ("window", 1)])
@pytest.mark.parametrize("segments", [1, 3])
def test_answers_from_the_cache_equal_those_of_the_whole_text_read_again(memory, G, segments):
    cfg, params = fixture(memory, G)
    rng = np.random.default_rng(segments)
    ids, pad = rng.integers(0, 13, (40, segments * 6 - 3)), rng.integers(0, 3, 40)
    got = answer(params, ids=ids, cfg=cfg, answer_len=3, end=END, pad=pad)
    assert np.array_equal(got, answer_without_cache(params, ids, cfg, 3, pad))
    assert len({tuple(row) for row in got.tolist()}) > 5                 # they differ: the text is read


def test_an_answer_ends_at_its_first_end_even_where_others_go_on():
    cfg, params = fixture()
    ids = np.random.default_rng(1).integers(0, 13, (200, 3))
    first = answer(params, ids=ids, cfg=cfg, answer_len=1, end=END)[:, 0]
    end = np.bincount(first).argmax()                    # what many answers begin with shall end them
    got = answer(params, ids=ids, cfg=cfg, answer_len=3, end=end)
    assert (got[first == end] == end).all()
    assert (got[:, 2] != end).any()


@pytest.mark.parametrize("memory", [name for name, memory in MEMORIES.items() if memory is not None])
def test_frozen_states_are_those_of_the_beginning(memory):
    cfg, params = fixture(memory)
    ids = np.random.default_rng(1).integers(0, 13, (2, 15))
    frozen, last = read(params, ids=ids, cfg=cfg, frozen=True)
    assert last == 12
    assert small.same_states(cfg, frozen, first_states(params, cfg, 2)[0])
    written, last = read(params, ids=ids, cfg=cfg)
    assert last == 12
    assert not small.same_states(cfg, written, frozen)
    assert small.same_states(cfg, written, story_forward(params, ids=ids, cfg=cfg, last=1)[1]["states"][-1])


def test_the_first_bank_of_lm2_is_the_identity():
    cfg, params = fixture()
    states, _ = read(params, ids=np.zeros((2, 15), int), cfg=cfg, frozen=True)
    for (M,) in states[:cfg.L]:
        assert np.array_equal(M, np.broadcast_to(np.eye(4, 8), (2, 4, 8)))


def test_an_answer_needs_its_positions_free():
    cfg, params = fixture()
    with pytest.raises(ValueError, match="2 positions are free in the last segment, expected at least 3"):
        answer(params, ids=np.zeros((1, 10), int), cfg=cfg, answer_len=3, end=END)


# ------------------------------------------------------------------------------------------------------------ judgement


def example(task, question, target):
    return Example(task, (), question, target)


def test_exact_match_takes_the_whole_answer_and_nothing_else():
    one = example("qa8", "What is Mary carrying?", "football,milk")
    assert exact("football milk", one, WORDS)
    assert not exact("milk football", one, WORDS)
    assert not exact("football", one, WORDS)
    assert not exact("football milk apple", one, WORDS)


@pytest.mark.parametrize(("said", "correct"), [
    ("garden", True), ("Mary is in the garden.", True), ("garden or kitchen", False), ("kitchen", False), ("", False),
    ("not the office but the garden", True),             # the question names the office: it does not count
])
def test_babilongs_rule_wants_the_only_label_that_the_question_does_not_name(said, correct):
    one = example("qa3", "Where was the apple before the office?", "garden")
    assert babilong(said, one, WORDS) is correct


def test_babilongs_rule_compares_lists_as_sets():
    one = example("qa8", "What is Mary carrying?", "football,milk")
    assert babilong("milk, football", one, WORDS)
    assert not babilong("milk", one, WORDS)


@needs_files
@pytest.mark.parametrize("task", TASKS)
def test_the_labels_of_a_task_are_those_of_its_official_file(task):
    """Of a path the pair is a label; a list is made of labels, as is every other answer."""
    answers = {question.answer.lower() for story in official(task) for question, _ in asked(story)}
    found = answers if task == "qa19" else {word for answer in answers for word in answer.split(",")}
    assert found <= LABELS[task]
    assert len(LABELS[task] - found) <= {"qa7": 1}.get(task, 0)          # "three" is rare


@pytest.mark.parametrize(("task", "question", "target", "text", "correct"), [
    ("qa1", "Where is Mary?", "garden", "In the garden. Not in the kitchen.", True),
    ("qa1", "Where is Mary?", "garden", "garden <context> kitchen", True),
    ("qa1", "Where is Mary?", "garden", "The gardener's shed", True),    # labels are parts of the text
    ("qa5", "Who gave the football to Jeff?", "Fred", "Fred gave Jeff the football", True),
    ("qa5", "What did Fred give to Bill?", "milk", "the apple and the milk", False),
    ("qa8", "What is Mary carrying?", "football,milk", "football, apple and milk", False),
    ("qa19", "How do you go?", "n,w", "n,w", True), ("qa19", "How do you go?", "n,w", "w,n", False),
    ("qa19", "How do you go?", "n,w", "north and west", False), ("qa10", "Is Mary here?", "maybe", "Maybe", True),
    ("qa6", "Is Mary in the kitchen now?", "no", "no", False),           # the question's "now" names the label, too
])
def test_babilongs_rule_on_free_text(task, question, target, text, correct):
    assert babilong(text, example(task, question, target)) is correct


def test_a_path_whose_comma_the_tokenizer_dropped_is_one_label_still():
    one = example("qa19", "How do you go from the hallway to the garden?", "n,w")
    assert babilong("n w", one, WORDS)
    assert not babilong("w n", one, WORDS)


class Row:
    def __init__(self, answer, distance, depth):
        self.example, self.distance, self.depth = example("qa1", "Where is Mary?", answer), distance, depth


def test_accuracy_is_split_by_distance_and_depth():
    rows = [Row("garden", 0, 0.95), Row("garden", 2, 0.1), Row("office", 2, 0.15), Row("office", None, None)]
    found = score(rows, ["garden", "kitchen", "office", "office"], WORDS)
    assert found == {"accuracy": 0.75, "questions": 4, "by_distance": {"0": 1.0, "2": 0.5},
                     "by_depth": {"0.0": 0.5, "0.8": 1.0}}


def test_a_table_counts_what_remains_and_gives_no_accuracy_of_few():
    def cell(accuracy, questions, left_out=0):
        return {"accuracy": accuracy, "questions": questions, "left_out": left_out}

    text = render({"qa1": {"0": cell(1.0, 200), "64": cell(0.5, 150, 50)},
                   "qa3": {"0": cell(0.9, 200), "64": cell(1.0, 7, 193)}}, [0, 64])
    lines = [line.split() for line in text.splitlines()]
    assert lines[2:] == [["qa1", "1.000", "0.500", "(150)"], ["qa3", "0.900", "-", "(7)"], ["mean", "0.950", "0.500"],
                         ["solved", "(95%)", "1/2", "0/1"]]


def test_lengths_are_numbers_of_tokens():
    assert token_lengths("0,128,1k,128") == [0, 128, 1024]
    with pytest.raises(BadInput, match="expected numbers of tokens such as 0,128,1k"):
        token_lengths("1m")


# ------------------------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a few steps: it answers badly, but it answers."""
    out = tmp_path_factory.mktemp("run")
    model = run_dir.new(Settings(task="qa1,qa8", hidden_size=8, ff=12, slots=4, segments="2", steps="1"))
    folder = run_dir.RunDir(out)
    folder.claim()
    folder.describe(model)
    folder.save(model, model.trainer())
    return out


def call(*argv):
    from tinylm2.__main__ import main

    return main([str(part) for part in argv])


def test_evaluate_prints_and_writes_a_table(trained, capsys):
    assert call("evaluate", trained, "--lengths", "0,64", "--questions", "100", "--metric", "babilong") == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[2:4]] == ["qa1", "qa8"]
    assert "2 at 64" in text
    table = json.loads((trained / "table.json").read_text())
    assert table["metric"] == "babilong"
    assert table["cells"]["qa1"]["64"]["questions"] + table["cells"]["qa1"]["64"]["left_out"] == 100
    assert text.strip() in (trained / "table.md").read_text()


def test_evaluate_asks_babilongs_files(trained, tmp_path, capsys):
    path = tmp_path / "qa1_0k.json"
    path.write_text(json.dumps([{"input": "Mary moved to the garden.", "question": "Where is Mary?",
                                 "target": "garden"}] * 100))
    assert call("evaluate", trained, "--babilong", path, "--metric", "babilong") == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("qa1_0k")


def test_ask_answers_and_names_every_unknown_word(trained, capsys):
    assert call("ask", trained, "Mary moved to the garden.", "Where is Mary?") == 0
    assert WORDS.unknown(capsys.readouterr().out) == []
    assert call("ask", trained, "Fritz moved to Mars.", "Where is Fritz?") == 2
    assert "fritz, mars" in capsys.readouterr().err


STORY, QUESTION = "Mary moved to the garden. John went to the office.", "Where is Mary?"


def test_options_of_ask_may_stand_anywhere(trained, capsys):
    orders = [[trained, STORY, QUESTION, "--length", 128], [trained, "--length", 128, STORY, QUESTION],
              ["--length", 128, trained, STORY, QUESTION], [trained, STORY, "--length", 128, QUESTION]]
    said = []
    for order in orders:
        assert call("ask", *order) == 0
        said.append(capsys.readouterr().out)
    assert "with the memory frozen" in said[0]
    assert said == said[:1] * 4
    assert call("ask", trained, STORY, QUESTION, "--nonsense") == 2


def test_a_file_with_the_story_is_asked_as_the_same_text_is(trained, tmp_path, capsys):
    (tmp_path / "story.txt").write_text(STORY.replace(". ", ".\n"))
    (tmp_path / "both.txt").write_text(f"{STORY} {QUESTION}")
    texts, story, both = [STORY, QUESTION], ["--story", tmp_path / "story.txt"], ["--story", tmp_path / "both.txt"]
    said = []
    for parts in texts, [*story, QUESTION], [QUESTION, *story], both:
        assert call("ask", trained, *parts, "--length", 128) == 0
        said.append(capsys.readouterr().out)
    assert said == said[:1] * 4
    for parts in [*both, QUESTION], story, [*story, *texts]:
        assert call("ask", trained, *parts) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_help_of_training_says_every_default_in_its_group():
    parser = Parser()
    train.add_arguments(parser)
    told = {action.dest: (group.title, action.help) for group in parser._action_groups
            for action in group._group_actions}
    assert {name for name, (title, _) in told.items() if title == "options"} == {"help"}
    assert {title for title, _ in told.values()} == {"options", *train.GROUPS.values(), "the run"}
    for f in fields(Settings):
        if f.default is not False and f.default != "":
            assert told[f.name][1].endswith(f" ({f.default})"), f.name


def test_where_there_is_no_terminal_questions_are_counted_in_whole_lines(monkeypatch, capsys):
    monkeypatch.setattr(Progress, "EVERY", 0.01)
    with question_bar(400) as bar:
        for _ in range(4):
            time.sleep(.02)
            bar.update(100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert all(re.fullmatch(r"\d+ of 400 questions, .* left", line) for line in lines)
    monkeypatch.undo()
    with question_bar(400) as bar:                       # what is over within seconds needs no line
        bar.update(400)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("own", ["files", "a task"])
def test_a_run_of_ones_own_stories_is_asked_no_others_unless_they_are_named(own, tmp_path, capsys):
    """A run that had learned a user's own files got .000 on our stories, without a word."""
    files, code, out = tmp_path / "files", tmp_path / "my_task.py", tmp_path / "out"
    files.mkdir()
    story = "1 Ann hid the map in the net.\n2 Bob hid the rope in the tub.\n3 Where is the map?\tnet\t1\n"
    (files / "qa1_own_test.txt").write_text(story * 100)
    (files / "qa1_own_train.txt").write_text(story * 100)
    code.write_text("from tinylm2.data.tasks.task import task\nfrom tinylm2.data.tasks.walking import Walk, "
                    "SingleSupportingFact\n\n@task('qa21', 'own')\nclass Own(SingleSupportingFact):\n    "
                    "people = 'Ann', 'Bob'\n")
    named = {"task": str(code)} if own == "a task" else {"train_on": str(files)}
    try:
        model = run_dir.new(Settings(hidden_size=8, ff=12, slots=4, segments="2", steps="1", **named))
        folder = run_dir.RunDir(out)
        folder.claim()
        folder.describe(model)
        folder.save(model, model.trainer())
        for argv in ["evaluate", out, "--lengths", "0"], ["explore", out]:
            assert call(*argv) == 2
            assert f"trained with '{code if own == 'a task' else files}'" in capsys.readouterr().err
        chosen = ["--tasks", code] if own == "a task" else ["--stories", files]
        assert call("evaluate", out, "--lengths", "0", *chosen) == 0
        assert capsys.readouterr().out.splitlines()[2].startswith("qa")
    finally:
        TASKS.pop("qa21", None)


def test_a_run_with_a_book_says_when_another_filler_is_asked(tmp_path, capsys):
    book, out = tmp_path / "book.txt", tmp_path / "out"
    book.write_text("Call me Ishmael. " * 20)
    model = run_dir.new(Settings(hidden_size=8, ff=12, slots=4, segments="2", steps="1", filler=str(book)))
    folder = run_dir.RunDir(out)
    folder.claim()
    folder.describe(model)
    folder.save(model, model.trainer())
    for argv, warned in ([], False), (["--length", 128], True), (["--length", 128, "--filler", book], False):
        assert call("ask", out, STORY, QUESTION, *argv) == 0
        assert (f"trained with --filler '{book}'" in capsys.readouterr().err) is warned


def test_a_trained_model_introduces_itself_in_one_line(trained):
    text = repr(run_dir.load(trained)[0])
    assert len(text) < 300
    assert f"{count_params(run_dir.load(trained)[0].cfg):,} parameters" in text


def test_stories_of_a_task_of_ones_own_may_use_new_words(tmp_path, capsys):
    (tmp_path / "my_task.py").write_text("""
from tinylm2.data.tasks.task import task
from tinylm2.data.tasks.walking import SingleSupportingFact

@task("qa21", "new words")
class NewWords(SingleSupportingFact):
    people = "Ursula", "Kolya"
""")
    try:
        assert call("stories", "--task", tmp_path / "my_task.py", "--length", 96) == 0
        assert "[kolya" in capsys.readouterr().out
    finally:
        TASKS.pop("qa21", None)


@pytest.mark.parametrize("argv", [
    ["evaluate", "RUN", "--tasks", "qa21"], ["evaluate", "RUN", "--lengths", "x"], ["evaluate", "nowhere"],
    ["evaluate", "RUN", "--stories", "nowhere"], ["stories", "--task", "qa1-qa0"], ["ask", "RUN", "Mary left.", "?"],
    ["stories", "--task", "qa3", "--length", "32"], ["nonsense"], ["ask", "RUN"],
])
def test_what_a_command_cannot_use_is_one_line_and_status_2(trained, capsys, argv):
    assert call(*(trained if part == "RUN" else part for part in argv)) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_stories_mark_the_supporting_facts(capsys):
    assert call("stories", "--task", "qa2", "--seed", "7") == 0
    lines = capsys.readouterr().out.splitlines()
    first = generated_examples(TASKS["qa2"], 1, seed=7)[0]
    assert [line[2:] for line in lines if line.startswith("> ")] == [first.facts[i] for i in sorted(first.support)]
    assert call("stories", "--task", "qa1", "--length", "128", "--seed", "7") == 0
    assert capsys.readouterr().out.count("[") == 1


def test_official_stories_can_be_read_back(tmp_path, capsys):
    from tinylm2.data import Rng, read_stories

    assert call("stories", "--task", "qa5", "--official", "--count", "3", "--seed", "2") == 0
    (tmp_path / "qa5.txt").write_text(capsys.readouterr().out)
    assert read_stories(tmp_path / "qa5.txt") == [TASKS["qa5"].story(Rng(2, 1, 5, n)) for n in range(3)]
