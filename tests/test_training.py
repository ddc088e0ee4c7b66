"""A run learns, stops where it must, and continues from its checkpoint as if nothing had happened."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from tinylm2.data import TASKS, BadInput, BucketSampler
from tinylm2.memories import MEMORIES
from tinylm2.model import count_params, init_params
from tinylm2.recurrence import story_forward
from tinylm2.training import checkpoint, loop, run_dir
from tinylm2.training.curriculum import WINDOW, Stage, curriculum, growing
from tinylm2.training.run_dir import RunDir
from tinylm2.training.settings import Settings, given_settings
from tinylm2.training.step import NotFinite, loss_and_gradients
from tinylm2.training.trainer import NotLearned

SMALL = Settings(hidden_size=8, ff=12, slots=4, segments="2", steps="5")


def small_run(settings=SMALL, stages=None):
    model = run_dir.new(settings)
    trainer = model.trainer()
    trainer.stages = stages or tuple(
        Stage(s.name, s.sampler, 4, count) for s, count in zip(trainer.stages, (6, 5, 9), strict=True))
    return model, trainer


def test_steps_saved_and_more_steps_equal_one_undisturbed_run_bit_for_bit_across_changes_of_stage(tmp_path):
    model, whole = small_run()
    straight = list(whole.steps())
    assert [m["stage"] for m in straight] == ["A"] * 6 + ["A2"] * 5 + ["B"] * 9

    folder = RunDir(tmp_path)
    model, first = small_run()
    before = list(islice(first.steps(), 11))             # 11: a checkpoint at the very end of stage A2
    folder.save(model, first)
    again, moments, progress = run_dir.load(tmp_path)
    second = again.trainer()
    second.stages = first.stages
    second.restore(moments, progress)
    after = list(second.steps())
    assert before + after == straight
    assert np.array_equal(second.params.buffer, whole.params.buffer)
    assert all(np.array_equal(second.moments[k], whole.moments[k]) for k in ("m", "v"))


def test_a_mix_grows_from_short_stories_of_its_first_task_to_full_stories_of_all():
    plan = curriculum(segment_len=32, segments=(4,), steps=(7,), mixed=20)
    assert [stage.sampler.tasks for stage in plan] == [1, 1, 6, 6, 12, 12, 20, 20, None]
    for brief, full in zip(plan[:-1:2], plan[1:-1:2], strict=True):
        assert max(n or 0 for n in brief.sampler.facts) < max(n or 0 for n in full.sampler.facts)
        assert isinstance(brief.sampler, BucketSampler)  # it knows no filler between facts
    assert [stage.loss_threshold is None for stage in plan] == [False] * 7 + [True] * 2  # the mix goes on to its end
    assert (plan[-1].steps, plan[-1].sampler.filler) == (7, True)


def test_the_stages_of_a_growing_mix_have_the_batch_size_given_and_the_first_twice_as_many():
    stages = growing([[1, 10, 20], [3, 30, 40]], segment_len=32, batch_size=8)
    assert [(stage.batch_size, stage.steps) for stage in stages] == [(16, 10), (8, 20), (8, 30), (8, 40)]


OWN_TASK = """from tinylm2.data.tasks.task import task
from tinylm2.data.tasks.walking import SingleSupportingFact

@task("qa21", "of one's own")
class Own(SingleSupportingFact):
    people = {people}
"""


@pytest.mark.parametrize(("people", "first"), [(("Ann", "Bob"), "A"), (("Ann of " + "the " * 8 + "hill",), "A1")])
def test_a_task_of_ones_own_begins_with_two_facts_as_qa1_does_where_they_fit(tmp_path, people, first):
    """After a growing mix's first stages, a task as easy as qa1 stood at .5. It need not be learned at all."""
    (tmp_path / "my_task.py").write_text(OWN_TASK.format(people=people))
    try:
        stages = run_dir.new(replace(SMALL, task=str(tmp_path / "my_task.py"), segments="8")).trainer().stages
        assert stages[0].name == first
        assert not any(stage.required for stage in stages)
        qa1 = run_dir.new(replace(SMALL, segments="8")).trainer().stages
        assert qa1[0].required
        assert (stages == (replace(qa1[0], required=False), *qa1[1:])) is (first == "A")
    finally:
        TASKS.pop("qa21", None)


@pytest.mark.parametrize(("task", "sizes"), [
    ("qa2", [1]), ("qa1,qa6", [1, 2]), ("qa1-qa6", [1, 6]), ("all", [1, 6, 12, 20])])
def test_a_mix_grows_to_as_many_tasks_as_it_has(task, sizes):
    trainer = run_dir.new(replace(SMALL, task=task, segments="0")).trainer()
    assert [stage.sampler.tasks for stage in trainer.stages[:-1]] == [size for size in sizes for _ in ("short", "full")]
    stage = trainer.stages[-2]
    batch = stage.sampler.batch(trainer.stories, 0, 4 * len(sizes) ** 3)
    assert len(set(batch.tasks)) > len(sizes) // 2
    assert trainer.stages[-1].sampler == replace(stage.sampler, tasks=None)


@pytest.mark.parametrize(("settings", "line"), [
    ({"segment": 8}, "qa1: found no story among 1000 that fits 1 segments of 8 tokens"),                  # stage A2
    ({"segment": 8, "task": "qa1,qa19"}, "the question 'How do you go .*found 1. tokens, expected at most 8")])
def test_what_no_segment_holds_is_said_before_the_first_step(settings, line):
    model = run_dir.new(replace(SMALL, **settings))
    with pytest.raises(BadInput, match=line):
        model.trainer()


def test_metrics_have_every_step_once_after_a_resume(tmp_path):
    folder = RunDir(tmp_path)
    for number in (10, 20):                              # the first time, stop behind the last checkpoint
        model, trainer = small_run()
        if number == 20:
            again, moments, progress = run_dir.load(tmp_path)
            trainer.restore(moments, progress)

        def show(metrics, stop=number):
            if metrics["step"] == 11 and stop == 10:
                raise KeyboardInterrupt

        try:
            loop.train(folder, model, trainer, save_every=5, show=show)
        except KeyboardInterrupt:
            assert number == 10
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(20))


def test_a_required_stage_above_its_threshold_ends_the_run():
    _, trainer = small_run()
    first = Stage("A", trainer.stages[0].sampler, 4, 3, loss_threshold=0.15, required=True)
    trainer.stages = (first, *trainer.stages[1:])
    with pytest.raises(NotLearned, match="binding was .* A stands at a loss of .* after 3 steps.*--hidden-size"):
        list(trainer.steps())


def test_a_stage_ends_when_the_mean_of_its_last_twenty_losses_is_below_its_threshold():
    _, trainer = small_run()
    sampler = trainer.stages[0].sampler
    trainer.stages = (Stage("A", sampler, 4, 100, loss_threshold=1e9), Stage("B", sampler, 4, 2))
    assert [m["stage"] for m in trainer.steps()] == ["A"] * WINDOW + ["B"] * 2


def test_a_loss_that_is_no_number_stops_the_run_with_the_step():
    _, trainer = small_run()
    trainer.step()
    trainer.params["blocks.0.ff.Wdown"][0, 0] = np.nan
    with pytest.raises(NotFinite, match="step 1"):
        trainer.step()


def test_learning_lowers_the_loss():
    _, trainer = small_run(stages=(Stage("A", small_run()[1].stages[0].sampler, 32, 60),))
    losses = [m["loss"] for m in trainer.steps()]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:2])


def test_the_language_model_loss_trains_the_rows_of_every_token():
    model, trainer = small_run(replace(SMALL, lm=0.5))
    before = trainer.params["head.W"].copy()
    trainer.step()
    moved = np.abs(trainer.optimizer.m).max() > 0 and not np.array_equal(before, trainer.params["head.W"])
    filler = model.tokenizer.encode("moved")[0]         # a word that no answer ever is
    grads = trainer.params.like(trainer.optimizer.m)
    assert moved
    assert grads["head.W"][:, filler].any()


@pytest.mark.parametrize("segment_len", [128, 8])        # all questions in the last segment, or in earlier ones, too
def test_every_question_of_a_row_has_the_same_weight_wherever_it_is_asked(segment_len):
    model = run_dir.new(replace(SMALL, task="qa1,qa6"))
    stories, cfg = model.trainer().stories, replace(model.cfg, T=segment_len)
    params = init_params(cfg, 0, dtype="float64")
    batch = BucketSampler(facts=(None,), segment_len=segment_len, every=1.0).batch(stories, 0, 3)
    assert (batch.last is None) == (segment_len == 8)
    loss, _, grads = loss_and_gradients(params, batch, cfg=cfg)
    logits, _ = story_forward(params, ids=batch.ids, cfg=cfg, pad=batch.pad)
    said = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = -np.take_along_axis(said, batch.targets[..., None], -1)[..., 0][batch.weights > 0]
    assert len(each) == len(batch.ids) * 5 * 2           # five questions a row, an answer and an end each
    assert loss == pytest.approx(each.mean())
    _, _, whole = loss_and_gradients(params, replace(batch, last=None), cfg=cfg)
    assert np.allclose(grads.buffer, whole.buffer, atol=1e-12)
    assert grads.buffer.any()


def test_a_threshold_is_of_the_answer_s_loss_and_not_of_the_language_model_s():
    """Next words stay uncertain: with their loss beside the answer's no stage would ever reach its threshold."""
    (_, plain), (_, beside) = small_run(), small_run(replace(SMALL, lm=0.5))
    first, other = plain.step(), beside.step()
    assert other["loss"] == pytest.approx(first["loss"], rel=1e-6)
    assert other["norm"] != pytest.approx(first["norm"], rel=1e-3)


def test_variants_have_as_many_parameters_within_one_percent():
    counts = [count_params(Settings(memory=memory).config(204)) for memory in MEMORIES]
    assert max(counts) < 1.01 * min(counts)


def test_a_new_run_never_touches_another(tmp_path):
    folder = RunDir(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    folder.claim()
    model, trainer = small_run()
    folder.describe(model)
    folder.save(model, trainer)
    with pytest.raises(BadInput, match="found another run"):
        folder.claim()
    folder.claim(overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("damage", ["cut", "flip", "shape", "empty", "text"])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, damage):
    model, trainer = small_run()
    RunDir(tmp_path).save(model, trainer)
    path = tmp_path / "model.npz"
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        raw = raw[:len(raw) // 2]
    elif damage == "flip":
        raw[len(raw) // 3] ^= 0xFF
    elif damage == "empty":
        raw = b""
    elif damage == "text":
        raw = b"not a checkpoint"
    path.write_bytes(bytes(raw))
    if damage == "shape":
        params = init_params(Settings(hidden_size=16).config(204), 0)
        checkpoint.save(path, params, {"m": params.buffer, "v": params.buffer}, {
            "settings": {"hidden_size": 8}, "tokenizer": model.tokenizer.to_json(), "progress": {}})
    with pytest.raises(BadInput) as error:
        run_dir.load(tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_options_that_contradict_the_stored_run_are_refused():
    with pytest.raises(BadInput, match="--seed: found 1, expected 0, the run's own setting"):
        given_settings({"seed": 1}, SMALL)
    assert given_settings({"seed": 0, "hidden_size": None}, SMALL) == SMALL
