"""The experiments: a variant's gradients are right and it leaves no trace; every command runs from end to end."""

import importlib
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import alone, joint, parts, runner
from experiments.baselines import NAMES, contender, size
from experiments.ablations import VARIANTS
from tinylm2 import memory, model, ops
from tinylm2.gradcheck import Checker
from tinylm2.model import Config

CFG = Config(V=7, D=8, L=2, H=4, G=2, F=30, N=3, T=5)
BIG = Config(V=300)
CHANGED = [name for name, variant in VARIANTS.items() if variant.replacements(CFG)]      # other code, not other numbers


def _story(name):
    """A small story under a variant: forward's inputs and constants, and the names of idle parameters."""
    variant, rng = VARIANTS[name], np.random.default_rng(0)
    cfg = variant.config(CFG)
    params = model.init_params(cfg, 0, dtype="float64")
    params.buffer += rng.normal(0, 0.3, params.buffer.shape)
    variant.start(params)
    idle = [key for key in params if key.endswith(variant.idle)] if variant.idle else []
    return params, idle, {"cfg": cfg, "ids": rng.integers(0, CFG.V, (2, 3 * CFG.T)), "pad": np.array([2, 0])}


@pytest.mark.parametrize("name", CHANGED)
def test_gradients_of_a_whole_story_are_right_under_every_variant(name):
    with VARIANTS[name].installed(CFG):
        params, idle, constants = _story(name)
        moving = {key: W for key, W in params.items() if key not in idle}

        def forward(moving, **constants):
            return model.story_forward(_whole(params, moving), **constants)

        def backward(dlogits, cache):
            grads = model.story_backward(dlogits, cache)
            return ({key: grads[key] for key in moving},)

        check = Checker(directions=2, op=name).check(forward, backward, moving, **constants)
    assert check.passed, check


def _whole(params, moving):
    return {key: moving.get(key, W) for key, W in params.items()}


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.idle])
def test_what_a_variant_takes_away_is_never_trained(name):
    with VARIANTS[name].installed(CFG):
        params, idle, constants = _story(name)
        logits, cache = model.story_forward(params, **constants)
        grads = model.story_backward(np.ones_like(logits), cache)
    assert idle
    assert all(not grads[key].any() for key in idle)


@pytest.mark.parametrize("name", CHANGED)
def test_a_variant_changes_the_model_while_installed_and_nothing_afterwards(name):
    before = [dict(vars(module)) for module in (model, memory, ops)]
    variant = VARIANTS[name]
    with variant.installed(CFG):
        params, _, constants = _story(name)
        changed, _ = model.story_forward(params, **constants)
    assert [dict(vars(module)) for module in (model, memory, ops)] == before
    plain = model.init_params(constants["cfg"], 0, dtype="float64")
    if plain.shapes == params.shapes:                    # else it has parameters of its own
        plain.buffer += np.random.default_rng(0).normal(0, 0.3, plain.buffer.shape)
        logits, _ = model.story_forward(plain, **constants)
        assert not np.array_equal(logits, changed)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_as_many_parameters_within_2_percent(name):
    cfg, plain = VARIANTS[name].config(BIG), model.init_params(BIG, 0)
    with VARIANTS[name].installed(cfg):
        assert model.init_params(cfg, 0).buffer.size == pytest.approx(plain.buffer.size, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_contenders_have_as_many_parameters_within_2_percent(name):
    module, cfg = contender(name, BIG)
    assert size(module, cfg) == module.init_params(cfg, 0).buffer.size
    assert size(module, cfg) == pytest.approx(size(model, BIG), rel=0.02)


@pytest.mark.parametrize("name", ["parts", "horizon", "blocks", "general", "rates", "table", "joint", "alone"])
def test_an_experiment_runs_end_to_end(name, tmp_path):
    command = importlib.import_module(f"experiments.{name}").main
    assert command(["--quick", "--out", str(tmp_path)]) == 0
    cells = json.loads((tmp_path / f"{name}.json").read_text())["cells"]
    report = (tmp_path / f"{name}.md").read_text()
    assert all(cell["variant"] in report and cell["wall_s"] >= 0 for cell in cells.values())
    assert f"python -m experiments.{name} --budget quick" in report


def test_the_tables_of_the_results_page_are_those_that_the_commands_wrote():
    page = (runner.FOLDER.parent / "RESULTS.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.S | re.M))
    tables = {name: re.findall(r"(?:^\|.*\n)+", text, re.M) for name, text in sections.items()}
    with_one = {name for name, found in tables.items() if found}
    assert {"parts", "table", "horizon", "blocks", "general", "joint", "alone"} <= with_one
    for name, found in tables.items():
        written = (runner.FOLDER / f"{name}.md").read_text(encoding="utf-8")
        assert all(table in written for table in found), f"RESULTS.md, {name}: not the table in results/{name}.md"


def test_tasks_are_told_by_the_weights_of_a_budget(monkeypatch):
    told = []
    monkeypatch.setattr(runner, "Run", lambda params, *, stories, **_: told.append(stories) or SimpleNamespace(
        steps=list, progress=SimpleNamespace(step=0)))
    for weights in (None, {"qa6": 3}):
        runner.learn(None, cfg=None, tasks=["qa1", "qa6"], stages=(), seed=0, show=print, weights=weights)
    assert [stories.weights for stories in told] == [(1, 1), (1, 3)]
    assert [task.name for task in told[0].tasks] == ["qa1", "qa6"]


def test_alone_trains_the_model_of_joint_on_the_one_task(monkeypatch):
    asked = []
    monkeypatch.setattr(joint, "measure", lambda *given: asked.append(given))
    alone.measure("qa4", 3, {"tasks": ["qa1", "qa4"], "size": 32}, print)
    assert asked == [("slots", 3, {"tasks": ["qa4"], "size": 32, "weights": {}}, print)]
    for name in ("model", "rate", "size"):
        assert alone.EXPERIMENT.budgets["small"][name] == joint.EXPERIMENT.budgets["medium"][name]


def test_a_finished_cell_is_kept_and_not_computed_again(tmp_path, monkeypatch):
    measured = []

    def measure(variant, seed, budget, show):
        measured.append((variant, seed))
        if len(measured) == 3:
            raise RuntimeError("power cut")
        return {"accuracy": {"4": 0.5}, "steps": 1, "parameters": 1}

    monkeypatch.setattr(runner, "pyplot", lambda: None)
    arguments = ["--quick", "--seeds", "0,1", "--out", str(tmp_path)]
    experiment = _experiment(measure)
    with pytest.raises(RuntimeError, match="power cut"):
        experiment.main(arguments)
    assert experiment.main(arguments) == 0
    assert measured == [("a", 0), ("b", 0), ("a", 1), ("a", 1), ("b", 1)]


def test_another_budget_is_measured_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "pyplot", lambda: None)
    seen = []

    def measure(variant, seed, budget, show):
        seen.append(budget["steps"])
        return {"accuracy": {"4": 0.5}, "steps": 1, "parameters": 1}

    for steps in (2, 2, 3):
        _experiment(measure, steps).main(["--quick", "--out", str(tmp_path)])
    assert seen == [2, 2, 3, 3]


def _experiment(measure, steps=2):
    budget = {"variants": ["a", "b"], "steps": steps, "segments": [4]}
    return runner.Experiment(name="toy", asks="Why?", measure=measure, report=parts.report, draw=parts.draw,
                             cells=lambda budget: budget["variants"], budgets={"small": budget, "quick": budget})


def test_only_the_variants_asked_for_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "pyplot", lambda: None)
    measured = []

    def measure(variant, seed, budget, show):
        measured.append(variant)
        return {"accuracy": {"4": 0.5}, "steps": 1, "parameters": 1}

    assert _experiment(measure).main(["--quick", "--only", "b", "--out", str(tmp_path)]) == 0
    assert measured == ["b"]


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--seeds", "a"], "expected whole numbers such as 0,1,2"),
    (["--only", "nothing"], "expected one of 'all parts', "),
    (["--budget", "huge"], "invalid choice: 'huge'"),
])
def test_bad_arguments_are_refused_in_one_line(arguments, expected, tmp_path, capsys):
    assert parts.main(["--quick", *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
