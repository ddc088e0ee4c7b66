"""A run stopped and resumed, wherever and however often, is the undisturbed run: bit for bit, line for line."""

import json
import os
import signal
from argparse import Namespace

import pytest

from tests import crash
from tests.support.small import FewSentences
from tinylm2 import runs
from tinylm2.cli import learn
from tinylm2.training.run_dir import RunDir, Settings, Stopped

SMALL = {"width": 8, "ff": 12, "slots": 4, "segments": "2"}
VARIANTS = {
    "slots": {},
    "printed": {"memory": "printed"},
    "no memory": {"memory": "none"},
    "language model": {"lm": 0.5},
    "truncate, recompute": {"truncate": 1, "recompute": True},
    "several tasks": {"task": "qa1:2,qa6"},
}


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(runs, "curriculum", crash.curriculum)
    monkeypatch.setattr(runs, "GrammarFiller", FewSentences)
    monkeypatch.setattr(learn, "QUESTIONS", 10)


def begin(path, settings):
    folder, loaded = RunDir(path), runs.new(settings)
    folder.claim()
    folder.describe(loaded)
    return folder, loaded, loaded.training()


def stop_behind(step):
    """What a user does who presses Ctrl-C in the middle of a step."""
    def show(metrics):
        if metrics["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)
    return show


def evaluate(folder, loaded):
    learn.evaluate(folder, loaded, Namespace(eval_segments="2", stories=None))


def results(folder):
    return {name: (folder.path / name).read_bytes() for name in ("model.npz", "metrics.jsonl", "evaluation.json")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_behind_every_step_and_evaluated_in_between_a_run_ends_as_the_undisturbed_one(tmp_path, variant):
    """Twelve steps in three stages, so a stop falls behind the last step of each, too."""
    settings = Settings(**SMALL, **VARIANTS[variant])
    straight, loaded, run = begin(tmp_path / "straight", settings)
    runs.train(straight, loaded, run, save_every=0)
    evaluate(straight, loaded)

    folder, loaded, run = begin(tmp_path / "stopped", settings)
    for step in range(crash.STEPS):
        with pytest.raises(Stopped) as stopped:
            runs.train(folder, loaded, run, save_every=0, show=stop_behind(step))
        assert stopped.value.status == 130
        if step % 4 == 3:                                # where a stage ends
            evaluate(folder, loaded)
        loaded, run = runs.resume(folder)
        assert run.progress.step == step + 1
    runs.train(folder, loaded, run, save_every=0)
    evaluate(folder, loaded)

    assert results(folder) == results(straight)
    lines = [json.loads(line) for line in results(folder)["metrics.jsonl"].splitlines()]
    assert [line["step"] for line in lines] == list(range(crash.STEPS))
    assert [line["stage"] for line in lines] == ["A"] * 4 + ["A2"] * 4 + ["B"] * 4


def test_lines_that_no_checkpoint_remembers_are_told_anew_and_a_torn_one_is_cut(tmp_path):
    folder, loaded, run = begin(tmp_path, Settings(**SMALL))
    with pytest.raises(Stopped):
        runs.train(folder, loaded, run, show=stop_behind(5))
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole + b'{"step": 6}\n{"step": 7}\n{"st')
    loaded, run = runs.resume(folder)
    with pytest.raises(Stopped):
        runs.train(folder, loaded, run, show=stop_behind(6))
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:6]) == whole
    assert [json.loads(line)["step"] for line in lines] == list(range(7))


def test_a_run_that_is_over_is_resumed_to_the_same_end(tmp_path):
    folder, loaded, run = begin(tmp_path, Settings(**SMALL))
    runs.train(folder, loaded, run)
    evaluate(folder, loaded)
    before = results(folder)
    loaded, run = runs.resume(folder)
    assert run.done
    runs.train(folder, loaded, run)
    evaluate(folder, loaded)
    assert results(folder) == before
