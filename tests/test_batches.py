"""Batches: the layout of a row, chance that keeps rows apart, and the questions of an evaluation."""

from dataclasses import replace

import numpy as np
import pytest

from tinylm2.data import (
    TASKS,
    BadInput,
    BucketSampler,
    Example,
    GrammarFiller,
    HaystackSampler,
    Sequence,
    Stories,
    Task,
    encode_examples,
    generated_examples,
    make_batch,
    make_prompts,
    max_answer_len,
    without_filler,
    word_tokenizer,
)
from tinylm2.data.filler import FILLER_WORDS
from tinylm2.data.samplers import GROUP, _cut
from tinylm2.data.tasks.world import World

WORDS, FILLER = word_tokenizer(), GrammarFiller()
QA1 = TASKS["qa1"]
FILLER_ONLY = set(WORDS.encode(" ".join(FILLER_WORDS))) - set(WORDS.encode("the"))

SHORT = HaystackSampler(facts=(2,), segments=(1,), segment_len=16, filler=False)
LONG = HaystackSampler(facts=(2, 4, 6, 8, 10), segments=(2, 3, 4), segment_len=32, gap=0.7)


class Carry(World):
    """A task with answers of one and of two words."""

    questions = 1

    def happen(self):
        self.tell("Mary got the milk.", len(self.lines) + 1)

    def question(self, line):
        return self.ask("What is Mary carrying?", self.rng.choice(("milk", "milk,football")), line)


CARRY = Task("qa8", "a stand-in for lists", Carry)


def stories(tasks=(QA1,), seed=0, **knobs):
    return Stories(tasks, tokenizer=WORDS, filler=FILLER, seed=seed, **knobs)


def row(task, *facts, question, answer, segment_len=16):
    return without_filler(Example(task, facts, question, answer), tokenizer=WORDS, segment_len=segment_len)


def test_a_batch_is_laid_out_as_padding_story_question_answer_end():
    rows = [row("qa8", "Mary got the milk.", question="What is Mary carrying?", answer="milk,football", segment_len=12),
            row("qa1", "Mary went back to the garden.", question="Where is Mary?", answer="garden", segment_len=12)]
    batch = make_batch(rows, WORDS.end)
    whole = [WORDS.encode(text) for text in ("Mary got the milk. What is Mary carrying? milk,football",
                                             "Mary went back to the garden. Where is Mary? garden")]
    for ids, targets, tokens, pad in zip(batch.ids, batch.targets, whole, (2, 2), strict=True):
        assert ids.tolist() == [WORDS.pad] * pad + tokens
        assert targets.tolist() == [WORDS.pad] * (pad - 1) + tokens + [WORDS.end]
    assert batch.pad.tolist() == [2, 2]
    assert batch.weights.tolist() == [[0] * 9 + [1] * 3, [0] * 10 + [1] * 2]
    assert batch.last == 3
    assert batch.tasks == ("qa8", "qa1")


def test_the_dtypes_are_those_of_the_model():
    batch = LONG.batch(stories(), 0, 4)
    assert [a.dtype for a in (batch.ids, batch.targets, batch.weights, batch.lm_weights, batch.pad)] == [
        np.int64, np.int64, np.float32, np.float32, np.int64]


@pytest.mark.parametrize("sampler", [
    SHORT, LONG, HaystackSampler(facts=(None,), segments=(1, 2, 3), segment_len=24, filler=False)])
@pytest.mark.parametrize("tasks", [(QA1,), (QA1, CARRY)], ids=["one", "mixed"])
def test_every_row_has_the_right_weights(sampler, tasks):
    for step in range(5):
        batch = sampler.batch(stories(tasks), step, 16)
        size, length = batch.ids.shape
        assert size == 16
        assert length in [segments * sampler.segment_len for segments in sampler.segments]
        assert np.array_equal(batch.ids[:, 1:], batch.targets[:, :-1])
        assert (batch.targets[:, -1] == WORDS.end).all()
        assert not batch.weights[:, : -batch.last].any()
        assert (batch.weights.sum(1).max(), batch.weights[:, -1].min()) == (batch.last, 1)
        assert (batch.pad < sampler.segment_len).all()
        for ids, pad, task in zip(batch.ids, batch.pad, batch.tasks, strict=True):
            assert (ids[:pad] == WORDS.pad).all()
            assert (ids[pad:] != WORDS.pad).all()
            assert ("carrying" in WORDS.decode(ids)) == (task == "qa8")


def test_the_language_models_weights_are_one_behind_every_real_token():
    batch = SHORT.batch(stories(), 0, 32)
    assert batch.pad.max() > 0
    assert np.array_equal(batch.lm_weights == 1, batch.ids != WORDS.pad)
    assert (batch.lm_weights >= batch.weights).all()


def test_the_same_seed_and_step_give_the_same_batch_and_others_do_not():
    one = LONG.batch(stories(), 3, 8).ids
    assert np.array_equal(one, LONG.batch(stories(), 3, 8).ids)
    assert not np.array_equal(one[:, -32:], LONG.batch(stories(), 4, 8).ids[:, -32:])
    assert not np.array_equal(one[:, -32:], LONG.batch(stories(seed=1), 3, 8).ids[:, -32:])


def test_a_row_does_not_depend_on_the_size_of_its_batch():
    assert np.array_equal(LONG.batch(stories(), 3, 8).ids[:4], LONG.batch(stories(), 3, 4).ids)


def test_an_extra_draw_in_one_task_changes_no_row_of_another():
    class Wordier(Carry):
        def question(self, line):
            self.rng.integers(2)
            return super().question(line)

    before = LONG.batch(stories((QA1, CARRY)), 0, 32)
    after = LONG.batch(stories((QA1, Task("qa8", "an extra draw", Wordier))), 0, 32)
    qa1 = np.array(before.tasks) == "qa1"
    assert before.tasks == after.tasks
    assert np.array_equal(before.ids[qa1], after.ids[qa1])
    assert not np.array_equal(before.ids[~qa1], after.ids[~qa1])


def test_tasks_are_drawn_in_proportion_to_their_weights():
    source = stories((QA1, CARRY), weights=(1, 3))
    drawn = [task for step in range(10) for task in LONG.batch(source, step, 64).tasks]
    assert 0.7 < drawn.count("qa8") / len(drawn) < 0.8


def test_segments_are_drawn_evenly_for_a_batch():
    lengths = [LONG.batch(stories(), step, 1).ids.shape[1] for step in range(300)]
    assert all(70 < lengths.count(32 * segments) < 130 for segments in LONG.segments)


def test_the_gap_has_the_probability_of_the_sampler():
    def last_fact(gap):
        texts = map(WORDS.decode, HaystackSampler(facts=(2,), segments=(4,), gap=gap).batch(stories(), 0, 64).ids)
        return sum(text.rfind(" to the ") / len(text) for text in texts) / 64

    assert last_fact(0.0) > last_fact(0.7) + 0.1


def test_a_stage_that_no_story_fits_is_bad_input():
    with pytest.raises(BadInput, match="qa1: found no story among 1000 that fits 1 segments of 16 tokens"):
        HaystackSampler(facts=(6,), segments=(1,), segment_len=16, filler=False).batch(stories(), 0, 1)


def test_a_task_that_never_fits_is_replaced_by_another():
    batch = HaystackSampler(facts=(6,), segments=(2,), segment_len=16, filler=False).batch(stories((QA1, CARRY)), 0, 16)
    assert set(batch.tasks) == {"qa8"}   # six moves need three segments, six times "Mary got the milk." two


def test_stories_without_filler_fill_up_only_what_their_batch_needs():
    made = stories()
    for segments, filled in ((1, False), (3, True)):     # two facts and a question take 13 or more of 16 tokens
        batch = HaystackSampler(facts=(2,), segments=(segments,), segment_len=16, filler=False).batch(made, 0, 8)
        assert [bool(FILLER_ONLY & set(row)) for row in batch.ids.tolist()] == [filled] * 8


BUCKETS = BucketSampler(facts=(None,), segment_len=32)
MIX = (TASKS["qa1"], TASKS["qa2"], TASKS["qa15"])


def batches_of(sampler, steps, size=16):
    return [sampler.batch(stories(MIX), step, size) for step in range(steps)]


def texts(batch):
    """Each row of a batch without padding and the sentences that open it."""
    for pad, row in zip(batch.pad, np.concatenate((batch.ids, batch.targets[:, -1:]), 1).tolist(), strict=True):
        opened = max((place + 1 for place, token in enumerate(row) if token in FILLER_ONLY), default=0)
        yield tuple(row[max(pad, opened):])


@pytest.mark.parametrize("every", [0.0, 1.0])
def test_stories_of_similar_length_share_a_batch(every):
    batches = sorted(batches_of(replace(BUCKETS, every=every), GROUP), key=lambda batch: sorted(map(len, texts(batch))))
    lengths = [[len(text) for text in texts(batch)] for batch in batches]
    share = sum(map(sum, lengths)) / GROUP
    for batch, each, longer in zip(batches, lengths, [*lengths[1:], [10_000]], strict=True):
        assert max(each) <= min(longer)
        assert sum(each) <= share + max(each)
        columns = batch.ids.shape[1]
        assert columns == max(each) - 1 or (columns % 32 == 0 and 32 < max(each) - 1 <= columns < max(each) + 31)
        assert (batch.pad < min(columns, 32)).all()
        assert columns > 32 or not np.isin(batch.ids, list(FILLER_ONLY)).any()
    assert len(lengths[0]) > 16 > len(lengths[-1])       # many short ones, few long ones
    assert batches[-1].ids.shape[1] > 64


def test_the_batches_of_a_group_hold_each_of_its_stories_once():
    source, sampler = stories(MIX), replace(BUCKETS, every=0.5)
    for group in (0, 1):
        found = [text for step in range(GROUP) for text in texts(sampler.batch(source, GROUP * group + step, 4))]
        drawn = [tuple(sampler.sequence(source, group, i).ids) for i in range(GROUP * 4)]
        assert sorted(found) == sorted(drawn)


def test_the_longest_stories_of_a_group_have_a_place_of_their_own_in_each():
    columns = np.array([batch.ids.shape[1] for batch in batches_of(BUCKETS, 8 * GROUP)]).reshape(8, GROUP)
    assert len(set(columns.argmax(1).tolist())) > 3


def test_a_batch_does_not_depend_on_earlier_batches():
    source, full = stories(MIX), replace(BUCKETS, every=1.0)
    for step, sampler, size in ((3, BUCKETS, 4), (3, full, 4), (3, full, 2), (40, full, 2), (3, BUCKETS, 4)):
        assert np.array_equal(sampler.batch(source, step, size).ids, sampler.batch(stories(MIX), step, size).ids)


@pytest.mark.parametrize("lengths", [[5] * GROUP, [5] * (GROUP + 1), [1] * GROUP + [1000], [1] * 100 + [50, 60, 70],
                                     list(range(1, 200)), [1] + [7] * GROUP])
def test_a_group_has_one_batch_per_step_and_none_is_empty(lengths):
    rows = [Sequence("", [0] * length, []) for length in lengths]
    batches = _cut(rows)
    assert len(batches) == GROUP
    assert all(batches)
    assert [row for batch in batches for row in batch] == rows


def test_every_question_of_a_story_is_where_the_official_file_asks_it():
    class Walk(World):
        questions, pace = 2, 1

        def happen(self):
            self.tell(("Mary went to the garden.", "Mary went to the office.")[len(self.lines) > 0], "Mary")

        def question(self, topic):
            return self.ask("Where is Mary?", ("garden", "office")[len(self.lines) > 1])

    batch = replace(BUCKETS, every=1.0).batch(stories((Task("qa1", "a walk", Walk),)), 0, 4)
    text = ("Mary went to the garden. Where is Mary? garden", "Mary went to the office. Where is Mary? office")
    whole = [token for part in text for token in [*WORDS.encode(part), WORDS.end]]
    for ids, targets, weights in zip(batch.ids, batch.targets, batch.weights, strict=True):
        assert ids.tolist() == whole[:-1]
        assert targets.tolist() == whole[1:]
        assert targets[weights > 0].tolist() == [*WORDS.encode("garden"), WORDS.end, *WORDS.encode("office"), WORDS.end]
        assert weights.sum() == 4
    assert batch.last == 12                              # from the first answer on


def test_one_question_per_story_where_every_is_zero():
    for batch in batches_of(BUCKETS, 20):
        assert (((batch.targets == WORDS.end) & (batch.weights > 0)).sum(1) == 1).all()
        assert batch.last == 2
        assert (batch.weights.sum(1) == 2).all()


def test_the_last_columns_hold_every_question_or_none_are_named():
    found = set()
    for batch in batches_of(replace(BUCKETS, every=1.0), 40):
        first = int(batch.weights.any(0).argmax())
        longest = min(32, batch.ids.shape[1])            # the columns of the last segment
        assert batch.last == (batch.ids.shape[1] - first if batch.ids.shape[1] - first <= longest else None)
        found.add(batch.last is None)
    assert found == {True, False}


def test_full_stories_have_early_and_late_questions():
    batch = HaystackSampler(facts=(None,), segments=(4,)).batch(stories(), 0, 100)
    facts = {WORDS.decode(ids).count(" to the ") for ids in batch.ids}
    assert facts == {2, 4, 6, 8, 10}


def test_generated_examples_are_the_first_of_an_endless_list():
    many = generated_examples(QA1, 50, seed=0)
    assert len(many) == 50
    assert many[:7] == generated_examples(QA1, 7, seed=0)
    assert many != generated_examples(QA1, 50, seed=1)


def test_evaluation_uses_no_training_story():
    """The streams differ: training's first rows and the first fresh stories share no story of four facts or more."""
    asked = {example.facts[:4] for example in generated_examples(QA1, 500, seed=0) if len(example.facts) >= 4}
    source, sampler, trained = stories(), HaystackSampler(facts=(10,)), []
    for step in range(10):
        trained += [sampler._row(source, 4, step, i).example.facts[:4] for i in range(64)]
    assert not asked & set(trained)


def ask(examples, segments, **knobs):
    return encode_examples(examples, segments, tokenizer=WORDS, filler=FILLER, segment_len=32, seed=0, **knobs)


def test_prompts_leave_positions_for_the_longest_answer():
    examples = generated_examples(CARRY, 20, seed=0)
    assert max_answer_len(examples, WORDS) == 2
    for segments in (0, 2):
        rows, out = ask(examples, segments)
        ids, pad = make_prompts(rows)
        assert (len(rows), out) == (20, 0)
        assert ids.shape == (20, (segments or 1) * 32 - 2)
        assert (ids[:, -4:] == WORDS.encode("What is Mary carrying?")).all()
        assert (pad > 0).all() == (segments == 0)
    assert make_prompts(ask(examples, 2, answer_len=3)[0])[0].shape == (20, 61)


def test_questions_that_do_not_fit_are_left_out_and_counted():
    examples = generated_examples(QA1, 200, seed=0)
    rows, out = ask(examples, 1)
    assert 0 < out < 200
    assert len(rows) + out == 200
    kept = [row.example for row in rows]
    assert kept == [example for example in examples if example in kept]
    assert max(len(example.facts) for example in kept) < max(len(example.facts) for example in examples)
    assert ask(examples, 0)[1] == 0


def test_one_question_less_changes_no_other():
    examples = generated_examples(QA1, 30, seed=0)
    assert [row.prompt for row in ask(examples, 4)[0][:20]] == [row.prompt for row in ask(examples[:20], 4)[0]]


def test_a_sampler_may_take_only_the_first_tasks_of_a_mix():
    mix = stories((QA1, CARRY))
    assert set(HaystackSampler(facts=(2,), segment_len=16, filler=False, tasks=1).batch(mix, 0, 32).tasks) == {"qa1"}
    assert set(HaystackSampler(facts=(2,), segment_len=16, filler=False).batch(mix, 0, 32).tasks) == {"qa1", "qa8"}
