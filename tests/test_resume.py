"""A run stopped and resumed, wherever and however often, is the undisturbed run: bit for bit, line for line."""

import json
import os
import signal
from argparse import Namespace
from dataclasses import asdict

import pytest

from tests.support import crash
from tests.support.small import FewSentences
from tinylm2.cli import train
from tinylm2.memories import MEMORIES
from tinylm2.training import loop, material, run_dir, trained_model
from tinylm2.training.settings import Settings

SMALL = {"hidden_size": 8, "ff": 12, "slots": 4, "segments": "2"}
VARIANTS = {
    **{name: {"memory": name} for name in MEMORIES},
    "language model": {"lm": 0.5},
    "two shards": {"shards": 2},
    "truncate, recompute": {"truncate": 1, "recompute": True},
    "several tasks": {"task": "qa1:2,qa6"},
    "a book as filler": {"filler": "book.txt"},
}


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(trained_model, "curriculum", crash.curriculum)
    monkeypatch.setattr(material, "GrammarFiller", FewSentences)
    monkeypatch.setattr(train, "QUESTIONS", 10)


def begin(path, settings):
    folder, model = run_dir.RunDir(path), run_dir.new(settings)
    folder.claim()
    folder.describe(model)
    return folder, model, model.trainer()


def stop_behind(step):
    """What a user does who presses Ctrl-C in the middle of a step."""
    def show(metrics):
        if metrics["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)
    return show


def evaluate(folder, model, trainer):
    train.evaluate(folder, model, trainer.stories.tasks, Namespace(eval_segments="2", stories=None))


def results(folder):
    return {name: (folder.path / name).read_bytes() for name in ("model.npz", "metrics.jsonl", "evaluation.json")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_behind_every_step_and_evaluated_in_between_a_run_ends_as_the_undisturbed_one(
        tmp_path, monkeypatch, variant):
    """Twelve steps in three stages, so a stop falls behind the last step of each, too."""
    (tmp_path / "book.txt").write_text("The pirate sings of rum. Waves roll by. " * 3 + "Nobody sleeps.")
    monkeypatch.chdir(tmp_path)
    settings = Settings(**SMALL, **VARIANTS[variant])
    straight, model, trainer = begin(tmp_path / "straight", settings)
    loop.train(straight, model, trainer, save_every=0)
    evaluate(straight, model, trainer)

    folder, model, trainer = begin(tmp_path / "stopped", settings)
    for step in range(crash.STEPS):
        with pytest.raises(loop.Stopped) as stopped:
            loop.train(folder, model, trainer, save_every=0, show=stop_behind(step))
        assert stopped.value.status == 130
        if step % 4 == 3:                                # where a stage ends
            evaluate(folder, model, trainer)
        model, trainer = run_dir.resume(folder, asdict(settings))
        assert trainer.progress.step == step + 1
    loop.train(folder, model, trainer, save_every=0)
    evaluate(folder, model, trainer)

    assert results(folder) == results(straight)
    lines = [json.loads(line) for line in results(folder)["metrics.jsonl"].splitlines()]
    assert [line["step"] for line in lines] == list(range(crash.STEPS))
    assert [line["stage"] for line in lines] == ["A"] * 4 + ["A2"] * 4 + ["B"] * 4


def test_lines_behind_the_checkpoint_are_written_anew_and_a_torn_one_is_cut(tmp_path):
    folder, model, trainer = begin(tmp_path, Settings(**SMALL))
    with pytest.raises(loop.Stopped):
        loop.train(folder, model, trainer, show=stop_behind(5))
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole + b'{"step": 6}\n{"step": 7}\n{"st')
    model, trainer = run_dir.resume(folder, SMALL)
    with pytest.raises(loop.Stopped):
        loop.train(folder, model, trainer, show=stop_behind(6))
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:6]) == whole
    assert [json.loads(line)["step"] for line in lines] == list(range(7))


def test_a_run_that_is_over_is_resumed_to_the_same_end(tmp_path):
    folder, model, trainer = begin(tmp_path, Settings(**SMALL))
    loop.train(folder, model, trainer)
    evaluate(folder, model, trainer)
    before = results(folder)
    model, trainer = run_dir.resume(folder, SMALL)
    assert trainer.done
    loop.train(folder, model, trainer)
    evaluate(folder, model, trainer)
    assert results(folder) == before
