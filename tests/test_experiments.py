"""The experiments run from end to end, keep what they computed, and every ablation has the right gradients."""

import importlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import ablations, alone, gallery, horizon, joint, leaderboard, parts, plateaus, runner
from experiments.ablations import ABLATIONS, IDLE
from experiments.baselines import NAMES, baseline
from tests.support.solver import solve
from tinylm2 import model, recurrence
from tinylm2.checking import cases
from tinylm2.data import TASKS, BucketSampler, Rng, Stories
from tinylm2.gradcheck import Checker
from tinylm2.inspect.evaluate import babilong
from tinylm2.inspect.trace import trace
from tinylm2.memories import MEMORIES, lm2
from tinylm2.model import Config, count_params, init_params
from tinylm2.training.curriculum import Stage
from tinylm2.training.trainer import NotLearned

CFG = Config(V=7, D=8, L=2, H=4, G=2, F=30, N=3, T=5)
BIG = Config(V=300)


@pytest.fixture
def registered():
    with ablations.registered():
        yield


def _params(cfg):
    """Parameters moved off their start. A gate that is held open stays there: a bias of 100 cannot be moved far."""
    params = init_params(cfg, 0, dtype="float64")
    params.buffer += np.random.default_rng(0).normal(0, 0.3, params.buffer.shape)
    return params


def _story(name):
    """A small story with an ablation: parameters, the names of idle ones, and the constants of `story_forward`."""
    cfg, rng = replace(CFG, memory=name), np.random.default_rng(0)
    params = _params(cfg)
    idle = [key for key in params if key.partition("blocks.")[2].partition(".")[2] in IDLE.get(name, ())]
    return params, idle, {"cfg": cfg, "ids": rng.integers(0, CFG.V, (2, 3 * CFG.T)), "pad": np.array([2, 0])}


@pytest.mark.parametrize("name", ABLATIONS)
def test_gradients_of_every_pair_of_an_ablation(name, registered):
    for case in cases.memory_cases(name):
        assert case.check().passed, case.check()


@pytest.mark.parametrize("name", ABLATIONS)
def test_gradients_of_a_whole_story_with_an_ablation(name, registered):
    params, idle, constants = _story(name)
    moving = {key: W for key, W in params.items() if key not in idle}

    def forward(moving, **constants):
        return recurrence.story_forward({key: moving.get(key, W) for key, W in params.items()}, **constants)

    def backward(dlogits, cache):
        grads = recurrence.story_backward(dlogits, cache)
        return ({key: grads[key] for key in moving},)

    check = Checker(directions=2, op=name).check(forward, backward, moving, **constants)
    assert check.passed, check


@pytest.mark.parametrize("name", IDLE)
def test_what_an_ablation_removes_is_never_trained(name, registered):
    params, idle, constants = _story(name)
    logits, cache = recurrence.story_forward(params, **constants)
    grads = recurrence.story_backward(np.ones_like(logits), cache)
    assert len(idle) == CFG.L * len(IDLE[name])
    assert all(not grads[key].any() for key in idle)
    other = {key: W * 0.9 if key in idle and W.ndim > 1 else W for key, W in params.items()}        # weight decay
    np.testing.assert_array_equal(recurrence.story_forward(other, **constants)[0], logits)


@pytest.mark.parametrize("pair", ["stretched_gate", "linear_gate"])
def test_clipped_gates_have_a_slope_inside_and_none_where_clipped(pair):
    forward, backward = getattr(ablations, f"{pair}_forward"), getattr(ablations, f"{pair}_backward")
    z = np.random.default_rng(0).normal(0, 3, (4, 50))
    g, cache = forward(z)
    assert (g == 0).any()
    assert (g == 1).any()
    assert ((g > 0) & (g < 1)).any()
    check = Checker(op=pair).check(forward, backward, z)
    assert check.passed, check
    (dz,) = backward(np.ones_like(z), cache)
    np.testing.assert_array_equal(dz == 0, (g == 0) | (g == 1))
    assert forward(z.astype("float32"))[0].dtype == "float32"
    assert backward(np.ones_like(z, "float32"), forward(z.astype("float32"))[1])[0].dtype == "float32"


def test_an_open_gate_is_exactly_one_in_float32(registered):
    for name, gate in (("no output gate", "output"), ("no input gate", "input"), ("no forget gate", "forget")):
        cfg = replace(CFG, memory=name)
        params = init_params(cfg, 0)
        params.matrices[...] *= 3                        # as far as training moves them, and farther
        seen = trace(params, ids=np.arange(10).reshape(1, 10) % CFG.V, cfg=cfg)
        assert (getattr(seen.places[0][0], gate) == 1).all()


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_the_model_and_not_lm2(name, registered):
    before, others = dict(vars(lm2)), dict(vars(model))
    params, _, constants = _story(name)
    changed, _ = recurrence.story_forward(params, **constants)
    assert (dict(vars(lm2)), dict(vars(model))) == (before, others)
    plain = _params(CFG)                                 # the same numbers, but for biases that start elsewhere
    logits, _ = recurrence.story_forward(plain, **constants | {"cfg": CFG})
    assert not np.array_equal(logits, changed)


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_can_be_traced(name, registered):
    params, _, constants = _story(name)
    place = trace(params, ids=constants["ids"], cfg=constants["cfg"]).places[0][0]
    plain = trace(_params(CFG), ids=constants["ids"], cfg=CFG).places[0][0]
    for key in ("read", "write", "output", "input", "forget"):
        assert getattr(place, key).shape == getattr(plain, key).shape


def test_ablations_are_memories_only_while_they_are_registered():
    names = tuple(MEMORIES)
    with ablations.registered():
        assert tuple(MEMORIES) == (*names, *ABLATIONS)
    assert tuple(MEMORIES) == names
    with pytest.raises(ValueError, match="memory 'no output gate', expected one of lm2, "):
        Config(V=7, memory="no output gate")


def test_a_slots_query_is_rotated_to_the_end_of_the_segment_but_in_one_ablation(registered):
    """Position 0 turns nothing, so there the write with and without rotation is the same."""
    rng = np.random.default_rng(0)
    k, v, Wqkv, Wo = rng.normal(size=(2, 5, 2, 2)), rng.normal(size=(2, 5, 2, 2)), rng.normal(size=(8, 16)), np.eye(8)
    forward, bare = lm2.write_attention_forward, ABLATIONS["slot queries not rotated"].write_attention_forward
    constants = {"heads": (4, 2), "slots": 3}
    np.testing.assert_array_equal(forward(k, v, Wqkv, Wo, **constants)[0],
                                  forward(k, v, Wqkv, Wo, **constants, start=5)[0])
    assert not np.allclose(bare(k, v, Wqkv, Wo, **constants)[0], forward(k, v, Wqkv, Wo, **constants)[0])
    np.testing.assert_array_equal(bare(k, v, Wqkv, Wo, **constants)[0],
                                  forward(k, v, Wqkv, Wo, **constants, start=0)[0])


@pytest.mark.parametrize("name", [*NAMES, *ABLATIONS])
def test_all_memories_have_equal_numbers_of_parameters_within_2_percent(name, registered):
    cfg = baseline(name, BIG)
    assert count_params(cfg) == init_params(cfg, 0).buffer.size == pytest.approx(count_params(BIG), rel=0.02)


def test_variants_name_what_there_is(registered):
    for variant in (*parts.VARIANTS.values(), *horizon.VARIANTS.values()):
        assert variant.get("memory", "lm2") in MEMORIES
        assert set(variant) <= {"plan", "memory", "N", "lr", "lm"}


@pytest.mark.parametrize("name", ["parts", "horizon", "million", "blocks", "general", "rates", "table", "joint",
                                  "alone", "gallery", "plateaus", "leaderboard", "repeated", "smollm2"])
def test_an_experiment_runs_end_to_end(name, tmp_path):
    command = importlib.import_module(f"experiments.{name}").main
    assert command(["--quick", "--out", str(tmp_path)]) == 0
    trials = json.loads((tmp_path / f"{name}.json").read_text())["trials"]
    report = (tmp_path / f"{name}.md").read_text()
    assert all(trial["variant"] in report and trial["wall_s"] >= 0 for trial in trials.values())
    assert f"python -m experiments.{name} --budget quick" in report


@pytest.mark.parametrize("name", [path.stem for path in sorted(runner.FOLDER.glob("*.json"))])
def test_every_kept_trial_has_a_variant_of_today_and_a_budget_of_today(name):
    """A renamed variant or budget key would make hours of trials disappear from the reports."""
    experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
    trials = json.loads((runner.FOLDER / f"{name}.json").read_text(encoding="utf-8"))["trials"]
    for key, trial in trials.items():
        given = {option: trial["budget"][option] for option in experiment.options}
        budget = json.loads(json.dumps(experiment.budgets[key.partition(" / ")[0]] | given))
        assert trial["budget"] == budget
        assert trial["variant"] in experiment.variants(budget)
        assert key == f"{key.partition(' / ')[0]} / {trial['variant']} / seed {trial['seed']}"


def test_the_tables_of_the_results_page_are_those_that_the_commands_wrote():
    page = (runner.FOLDER.parent / "RESULTS.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.S | re.M))
    tables = {name: re.findall(r"(?:^\|.*\n)+", text, re.M) for name, text in sections.items()}
    with_one = {name for name, found in tables.items() if found}
    assert {"parts", "table", "horizon", "blocks", "general", "joint", "alone"} <= with_one
    for name, found in tables.items():
        written = (runner.FOLDER / f"{name}.md").read_text(encoding="utf-8")
        assert all(table in written for table in found), f"RESULTS.md, {name}: not the table in results/{name}.md"


class _Trainer:
    """Stands in for the library's: remembers what it was made of, and fails after two steps where it should."""

    made, fails = [], False

    def __init__(self, params, *, stories, **_):
        self.made.append(stories)
        self.stage, self.progress = SimpleNamespace(name="A"), SimpleNamespace(step=2)

    def steps(self):
        for step in range(2):
            yield {"step": step, "stage": "A", "loss": 1.0, "accuracy": 0.5}
        if self.fails:
            raise NotLearned


def test_tasks_are_drawn_by_the_weights_of_a_budget(monkeypatch):
    monkeypatch.setattr(_Trainer, "made", [])
    monkeypatch.setattr(runner, "Trainer", _Trainer)
    for weights in (None, {"qa6": 3}):
        runner.train(None, cfg=None, tasks=["qa1", "qa6"], stages=(), seed=0, show=lambda text: None, weights=weights)
    assert [stories.weights for stories in _Trainer.made] == [(1, 1), (1, 3)]
    assert [task.name for task in _Trainer.made[0].tasks] == ["qa1", "qa6"]


def test_a_trial_whose_stage_fails_is_marked_and_evaluated(monkeypatch):
    monkeypatch.setattr(_Trainer, "fails", True)
    monkeypatch.setattr(runner, "Trainer", _Trainer)
    found = runner.train(None, cfg=None, tasks=["qa1"], stages=(), seed=0, show=lambda text: None)
    assert found == {"steps": 2, "learned": "no: stage A failed", "stages": {"A": 0}, "losses": [1.0],
                     "accuracies": [0.5], "earlier_s": (0, 0)}


def test_alone_trains_the_model_of_joint_on_the_one_task(monkeypatch):
    measured = []
    monkeypatch.setattr(joint, "measure", lambda *given: measured.append(given))
    alone.measure("qa4", 3, {"tasks": ["qa1", "qa4"], "batch_size": 32}, print)
    assert measured == [("lm2", 3, {"tasks": ["qa4"], "batch_size": 32, "weights": {}}, print)]
    for name in ("model", "lr", "batch_size"):
        assert alone.EXPERIMENT.budgets["small"][name] == joint.EXPERIMENT.budgets["medium"][name]


NUMBERS = {"accuracy": {"4": 0.5}, "steps": 1, "parameters": 1}


def test_a_finished_trial_is_kept_and_not_computed_again(tmp_path, monkeypatch):
    measured = []

    def measure(variant, seed, budget, show):
        measured.append((variant, seed))
        if len(measured) == 3:
            raise RuntimeError("power cut")
        return NUMBERS

    monkeypatch.setattr(runner, "pyplot", lambda: None)
    arguments = ["--quick", "--seeds", "0,1", "--out", str(tmp_path)]
    experiment = _experiment(measure)
    with pytest.raises(RuntimeError, match="power cut"):
        experiment.main(arguments)
    assert experiment.main(arguments) == 0
    assert measured == [("a", 0), ("b", 0), ("a", 1), ("a", 1), ("b", 1)]


def test_another_budget_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "pyplot", lambda: None)
    seen = []

    def measure(variant, seed, budget, show):
        seen.append(budget["steps"])
        return NUMBERS

    for steps in (2, 2, 3):
        _experiment(measure, steps).main(["--quick", "--out", str(tmp_path)])
    assert seen == [2, 2, 3, 3]


def _experiment(measure, steps=2):
    budget = {"variants": ["a", "b"], "steps": steps, "segments": [4]}
    return runner.Experiment(name="toy", question="Why?", measure=measure, report=parts.report, draw=parts.draw,
                             variants=lambda budget: budget["variants"], budgets={"small": budget, "quick": budget})


def test_only_the_chosen_variants_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "pyplot", lambda: None)
    measured = []

    def measure(variant, seed, budget, show):
        measured.append(variant)
        return NUMBERS

    assert _experiment(measure).main(["--quick", "--only", "b", "--out", str(tmp_path)]) == 0
    assert measured == ["b"]


def _chooser(measured):
    """An experiment whose variant "b" needs both trials of "b at ..."; it notes what was measured with what."""
    def measure(variant, seed, budget, show):
        measured.append((variant, seed, sorted(budget.get("before", ()))))
        return NUMBERS | {"score": len(measured)}

    budget = {"segments": [4], "names": ["b at 1", "b", "b at 2", "c"]}
    return runner.Experiment(
        name="toy", question="Why?", measure=measure, report=parts.report, draw=parts.draw,
        before=lambda variant, budget: ["b at 1", "b at 2"] if variant == "b" else [],
        variants=lambda budget: budget["names"], budgets={"small": budget, "quick": budget})


def test_a_choice_is_measured_first_with_one_seed_and_passed_to_its_trials(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "pyplot", lambda: None)
    measured, choice = [], ["b at 1", "b at 2"]
    _chooser(measured).main(["--quick", "--seeds", "1,2", "--out", str(tmp_path)])
    assert measured == [("b at 1", 0, []), ("b at 2", 0, []), ("b", 1, choice), ("c", 1, []), ("b", 2, choice),
                        ("c", 2, [])]
    _chooser(measured).main(["--quick", "--seeds", "1,2", "--out", str(tmp_path)])
    assert len(measured) == 6


def test_a_variant_alone_brings_the_choice_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "pyplot", lambda: None)
    measured = []
    _chooser(measured).main(["--quick", "--seeds", "3", "--only", "b", "--out", str(tmp_path)])
    assert [(variant, seed) for variant, seed, _ in measured] == [("b at 1", 0), ("b at 2", 0), ("b", 3)]


class _Workers(ThreadPoolExecutor):
    """What mpi4py.futures offers, in threads of this process."""

    num_workers = 2


def test_a_trial_that_needs_a_choice_waits_for_it_when_trials_are_spread(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "pyplot", lambda: None)
    monkeypatch.setattr(runner, "pool", lambda: lambda: _Workers(2))
    measured = []
    _chooser(measured).main(["--quick", "--seeds", "0,1", "--out", str(tmp_path)])
    assert sorted(measured)[:2] == [("b", 0, ["b at 1", "b at 2"]), ("b", 1, ["b at 1", "b at 2"])]
    order = [variant for variant, _, _ in measured]
    assert max(order.index("b at 1"), order.index("b at 2")) < order.index("b")


def test_only_takes_patterns(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "pyplot", lambda: None)
    measured = []
    _chooser(measured).main(["--quick", "--only", "b at *", "--out", str(tmp_path)])
    assert [variant for variant, _, _ in measured] == ["b at 1", "b at 2"]


def test_a_memory_of_the_gallery_trains_at_the_learning_rate_with_the_best_score(monkeypatch):
    used = []
    monkeypatch.setattr(gallery, "_learn", lambda cfg, seed, plan, questions, question_seed, lr, show:
                        used.append((lr, question_seed)) or {})
    monkeypatch.setattr(gallery, "step_cost", lambda cfg: {})
    budget = gallery.EXPERIMENT.budgets["small"]
    tried = {"armt at 0.003": {"score": 0.5}, "armt at 0.006": {"score": 0.7}, "armt at 0.012": {"score": 0.6}}
    assert gallery.before("armt, equal state", budget) == list(tried)
    gallery.measure("armt", 0, budget | {"before": tried}, print)
    gallery.measure("armt at 0.012", 0, budget, print)
    assert used == [(0.006, runner.HELD_OUT), (0.012, runner.DEVELOPMENT)]


def test_gradients_of_infini_without_the_delta_rule():
    with gallery.registered():
        found = list(cases.memory_cases("infini, sum"))
        assert any(case.pair == "store" for case in found)
        assert all(case.check().passed for case in found)
    assert "infini, sum" not in MEMORIES


@pytest.mark.parametrize("name", gallery.EQUAL_STATE)
def test_equal_state_is_that_of_window_armt_and_titans_within_3_percent(name):
    cfg = gallery._config(name, gallery.EQUAL_STATE[name])
    assert gallery.state_size(cfg) == pytest.approx(2 * 1050, rel=0.03)
    assert count_params(cfg) == pytest.approx(count_params(gallery._config("lm2")), rel=0.02)


@pytest.mark.parametrize(("accuracies", "steps"), [([0.2, 0.9, 0.8], 25), ([0.9, 0.2, 0.9], 50), ([0.9, 0.2], None)])
def test_a_memory_has_learned_from_the_step_on_which_its_accuracy_stays_high(accuracies, steps):
    assert gallery.steps_to_learn(accuracies) == steps


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--seeds", "a"], "--seeds: found 'a', expected whole numbers such as "),
    (["--seeds=-1"], "--seeds: found '-1', expected whole numbers such as "),
    (["--only", "nothing"], "expected one of 'all parts', "),
    (["--budget", "huge"], "invalid choice: 'huge'"),
])
def test_bad_arguments_end_in_one_line_and_status_2(arguments, expected, tmp_path, capsys):
    assert parts.main(["--quick", *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("text", "expected"), [
    ("", "toy.json:1: found an empty file"),
    ('{"trials": {', "toy.json:1: found '{\"trials\": {', expected JSON"),
    ("\xff", "expected JSON"),
    ("[1]", "toy.json: found no trials in it"),
    ('{"cells": {}}', "toy.json: found no trials in it"),
    ('{"trials": [3]}', "toy.json: found no trials in it"),
    ('{"trials": {"a": 3}}', "found no variant in the trial 'a', expected one (str)"),
    ('{"trials": {"a": {"variant": "a", "seed": "0"}}}', "found no seed in the trial 'a', expected one (int)"),
])
def test_a_damaged_file_of_results_ends_in_one_line_and_status_2_and_stays(text, expected, tmp_path, capsys):
    path = tmp_path / "toy.json"
    path.write_text(text, encoding="utf-8")
    assert _experiment(None).main(["--quick", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert path.read_text(encoding="utf-8") == text


def test_every_curve_has_its_name_at_its_end_and_no_two_overlap():
    drawn = pytest.importorskip("matplotlib.figure", reason="pictures need matplotlib")
    from matplotlib.text import Text

    figure = drawn.Figure((6, 3))
    axes = figure.subplots()
    for k, end in enumerate((0.5, 0.5, 0.51, 0.99, 1.0, 1.0, 0.0, 0.0)):
        axes.plot([0, 1], [0.2, end], label=f"model {k}")
    axes.plot([0, 1], [0.3, 0.3])                        # a line without a name
    axes.set_ylim(0, 1)
    runner.label_ends(axes)
    figure.draw_without_rendering()
    places = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}  # without the line
    boxes = sorted(places.values(), key=lambda box: box.y0)
    assert sorted(places) == [f"model {k}" for k in range(8)]
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))
    assert all(box.x0 > axes.get_window_extent().x1 for box in boxes)
    assert axes.get_window_extent().y0 - 10 < boxes[0].y0
    assert boxes[-1].y1 < axes.get_window_extent().y1 + 10
    heights = {name: box.y0 for name, box in places.items()}
    assert heights["model 6"] < heights["model 0"] < heights["model 2"] < heights["model 3"] < heights["model 4"]


# ----------------------------------------------------------------------------------- long trials, plateaus, leaderboard


def _small_training(kept=None, show=lambda text: None):
    """A training of six steps in two stages, and its parameters."""
    cfg = Config(V=runner.language()[0].size, D=8, L=1, H=2, G=1, F=12, N=2, T=16)
    params = init_params(cfg, 0)
    stages = tuple(Stage(name, BucketSampler(facts=(1, 2), segment_len=16), 4, 3) for name in "ab")
    found = runner.train(params, cfg=cfg, tasks=["qa1"], stages=stages, seed=0, show=show, kept=kept)
    return found, params


def test_a_stopped_training_continues_from_its_file_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SAVE_AFTER", -1)        # after every step
    monkeypatch.setattr(runner, "EVERY", 1)
    path = tmp_path / "trials" / "one.npz"

    def cut(text):
        if text.startswith("b 4"):
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        _small_training(path, cut)
    seen = []
    found, params = _small_training(path, seen.append)
    whole, straight = _small_training()
    assert [text.split()[1] for text in seen] == ["4", "5"]
    assert sum(found.pop("earlier_s")) > sum(whole.pop("earlier_s")) == 0
    assert found == whole
    assert found["stages"] == {"a": 0, "b": 3}
    np.testing.assert_array_equal(params.buffer, straight.buffer)
    again, params = _small_training(path, lambda text: pytest.fail("it was trained to its end"))
    assert again["steps"] == 6
    np.testing.assert_array_equal(params.buffer, straight.buffer)


def test_a_short_training_leaves_no_file(tmp_path):
    _small_training(tmp_path / "one.npz")
    assert not list(tmp_path.iterdir())


def test_the_seconds_of_a_trial_are_those_of_all_its_parts():
    found = runner.trial(lambda *given: {"earlier_s": (100, 50)}, "a", 0, {})
    assert found["wall_s"] >= 100
    assert 50 <= found["cpu_s"] < 100
    assert "earlier_s" not in found


def test_another_seed_variant_or_budget_has_another_file():
    given = ("plateaus", "qa16, hops", 0, {"lr": 1})
    assert runner.checkpoint_of(*given) == runner.checkpoint_of(*given)
    assert runner.checkpoint_of(*given).name.startswith("plateaus-qa16-hops-0-")
    others = [("joint", *given[1:]), (given[0], "qa16, plain", *given[2:]), (*given[:2], 1, given[3]),
              (*given[:3], {"lr": 2})]
    assert len({runner.checkpoint_of(*other) for other in (given, *others)}) == 5


def test_a_logged_experiment_adds_a_line_per_trial_and_no_other_does(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "pyplot", lambda: None)
    experiment = _experiment(lambda *given: NUMBERS)
    assert experiment.main(["--quick", "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "trials.jsonl").exists()
    for steps in (3, 3, 4):
        assert replace(_experiment(lambda *given: NUMBERS, steps), logged=True).main(
            ["--quick", "--out", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [(line["variant"], line["settings"]["steps"]) for line in lines] == [("a", 3), ("b", 3), ("a", 4), ("b", 4)]


@pytest.mark.parametrize("task", plateaus.HOPS)
def test_every_hop_is_answered_by_one_fact_or_by_the_hop_before(task):
    """And the last hop gives the answer, or its end; read by a program that knows nothing of the generators."""
    for number in range(200):
        *told, asked = story = TASKS[task].story(Rng(0, number))
        hops = plateaus.hops(story, task)
        facts = [fact.text.lower() for fact in told]
        assert len(hops) == plateaus.HOPS[task]
        if task == "qa16":
            kind, peer, color = (hop.answer for hop in hops)
            name = asked.text.split()[-1].rstrip("?")
            assert {f"{name} is a {kind}.".lower(), f"{peer} is a {kind}.".lower(), f"{peer} is {color}.".lower()
                    } <= set(facts)
            assert color == asked.answer
        else:
            assert ",".join(hop.answer for hop in hops) == asked.answer
            for hop in hops:
                assert solve(task, [fact.text for fact in told], hop.text) == hop.answer


def test_hops_are_taken_away_from_the_first_one_on_and_a_fraction_in_that_share_of_rows():
    tokenizer, filler = runner.language()
    stories = Stories([TASKS["qa16"]], tokenizer=tokenizer, filler=filler, seed=0)

    def asked(removed, row):
        sequence = plateaus.HopSampler(removed=removed).sequence(stories, 0, row)
        return sequence.weights.count(1) // 2            # an answer and its end each

    assert {asked(0.0, row) for row in range(20)} == {4}
    assert {asked(3.0, row) for row in range(20)} == {1}
    found = [asked(1.3, row) for row in range(300)]
    assert set(found) == {2, 3}
    assert 0.2 < found.count(2) / 300 < 0.4
    what = tokenizer.encode("What is")
    text = plateaus.HopSampler(removed=1.0).sequence(stories, 0, 0).ids
    assert not any(text[i:i + 2] == what for i in range(len(text)))      # the first hop went first


def test_without_hops_a_row_is_that_of_the_library():
    tokenizer, filler = runner.language()
    stories = Stories([TASKS["qa19"]], tokenizer=tokenizer, filler=filler, seed=0)
    assert (plateaus.HopSampler(removed=2.0).sequence(stories, 0, 0).ids
            == BucketSampler(every=1.0).sequence(stories, 0, 0).ids)


def test_a_plan_of_hops_removes_them_in_equal_parts_and_half_steps_are_half_as_large():
    budget = plateaus.EXPERIMENT.budgets["small"]
    for name, steps in (("qa16, hops", 30), ("qa19, hops", 20), ("qa19, hops, half steps", 40)):
        first, *fewer, last = plateaus.plan(plateaus.VARIANTS[name], budget, 128)
        count = plateaus.HOPS[name[:4]]
        removed = [count * i / steps for i in range(1, steps + 1)]
        assert [stage.sampler.removed for stage in fewer] == pytest.approx(removed)
        assert (first.sampler.removed, last.sampler.removed) == (0, count)
        assert [stage.steps for stage in (first, fewer[0], last)] == [20_000, 6000, 2000]
        assert all(stage.required and stage.loss_threshold for stage in (first, *fewer))
        assert last.loss_threshold is None
        assert len({stage.name for stage in (first, *fewer, last)}) == steps + 2
    (plain,) = plateaus.plan(plateaus.VARIANTS["qa16, plain"], budget, 128)
    assert plain.sampler.removed == plateaus.HOPS["qa16"]


def test_the_leaderboard_uses_the_official_rule(monkeypatch):
    asked = []

    def evaluate(params, examples, segments, *, metric, **_):
        asked.append((segments, metric))
        return {str(segments[0]): {"qa1": {"accuracy": 1.0}}}

    monkeypatch.setattr(leaderboard, "train", lambda *given, **options: {"steps": 0})
    monkeypatch.setattr(leaderboard, "evaluate", evaluate)
    budget = {**leaderboard.EXPERIMENT.budgets["quick"], "stories": None, "questions": {"0": 1, "1048576": 1},
              "model": {"T": 128}}
    found = leaderboard.measure("lm2, qa1", 0, budget, lambda text: None)
    assert asked == [([0], babilong), ([8192], babilong)]
    assert found["accuracy"] == {"0": 1.0, "1048576": 1.0}


def test_the_leaderboards_mean_needs_every_task():
    results = SimpleNamespace(budget={"tasks": ["qa1", "qa2"]},
                              values=lambda name, key, tokens: {"lm2, qa1": [0.5, 1.0], "lm2, qa2": seconds}[name])
    seconds = [0.25]
    assert leaderboard._mean(results, "lm2", "0") == 0.5
    seconds = []
    assert leaderboard._mean(results, "lm2", "0") is None
