"""No kill, no full disk and no refused write costs a run more than the steps since its last checkpoint."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.support import crash
from tests.support.small import FewSentences
from tinylm2.cli import train
from tinylm2.cli.console import Parser
from tinylm2.errors import BadInput
from tinylm2.training import checkpoint, loop, material, run_dir, trained_model
from tinylm2.training.run_dir import RunDir
from tinylm2.training.settings import Settings

KILLS = 10                                               # `python -m tests.full kills` makes a hundred
SMALL = Settings(hidden_size=8, ff=12, slots=4, segments="2")


@pytest.fixture
def small(monkeypatch):
    """A new run of a few steps: (TrainedModel, Trainer)."""
    monkeypatch.setattr(trained_model, "curriculum", crash.curriculum)
    monkeypatch.setattr(material, "GrammarFiller", FewSentences)
    model = run_dir.new(SMALL)
    return model, model.trainer()


def test_a_run_killed_at_any_moment_resumes_to_the_same_result():
    seed = time.time_ns()
    kills, *_, faults = crash.kills(KILLS, seed=seed, show=lambda line: None)
    assert not faults, f"seed {seed}"
    assert kills == KILLS


# -------------------------------------------------------------------------------------------------- a disk that says no


class Refusal:
    """Stands for a function of the system: the n-th call fails as a full or a read-only disk lets it fail."""

    def __init__(self, function, nth, number):
        self.function, self.left, self.number = function, nth, number

    def __call__(self, *args, **keywords):
        self.left -= 1
        if not self.left:
            raise OSError(self.number, os.strerror(self.number))
        return self.function(*args, **keywords)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What an undisturbed run leaves behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained_model, "curriculum", crash.curriculum)
        patch.setattr(material, "GrammarFiller", FewSentences)
        folder, model = RunDir(tmp_path_factory.mktemp("straight")), run_dir.new(SMALL)
        loop.train(folder, model, model.trainer(), save_every=2)
    return folder.path


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("nth", [1, 2, 5])
@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (os, "replace"), (os, "open"), (np, "savez")],
                         ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_run_reports_a_full_disk_and_resumes(straight, tmp_path, monkeypatch, small, module, name, nth,
                                                            number):
    folder, (model, trainer) = RunDir(tmp_path / "run"), small
    folder.claim()
    folder.describe(model)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, Refusal(getattr(module, name), nth, number))
        with pytest.raises(BadInput, match=rf"run.* cannot be written \({os.strerror(number)}\)$"):
            loop.train(folder, model, trainer, save_every=2)
    assert not list(folder.path.glob("*.tmp"))
    loop.train(folder, *run_dir.resume(folder), save_every=2)
    for file in ("model.npz", "metrics.jsonl"):
        assert (folder.path / file).read_bytes() == (straight / file).read_bytes()


def test_a_disk_without_second_names_keeps_the_checkpoint_before_all_the_same(tmp_path, monkeypatch, small):
    model, trainer = small
    monkeypatch.setattr(os, "link", Refusal(os.link, 1, errno.EPERM))
    folder = RunDir(tmp_path)
    folder.save(model, trainer)
    first = (tmp_path / "model.npz").read_bytes()
    trainer.step()
    folder.save(model, trainer)
    assert (tmp_path / "model.previous.npz").read_bytes() == first
    assert (tmp_path / "model.npz").read_bytes() != first


@pytest.mark.skipif(sys.platform == "win32", reason="files have no size limit to set here")
def test_a_file_that_may_not_grow_ends_in_one_line_and_status_2(tmp_path):
    """The system itself cuts the write short, in the middle of a checkpoint."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))"
    argv = ["--out", str(tmp_path / "run"), *crash.ARGUMENTS]
    done = subprocess.run([sys.executable, "-c", f"{limit}; from tests.support import crash; raise SystemExit("
                           f"crash.child({argv})[0])"], cwd=crash.ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.endswith(f"error: {tmp_path / 'run' / 'model.npz'}: cannot be written (File too large)\n")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    with open(tmp_path / "log", "w") as log:
        assert crash.start(tmp_path / "run", "--resume", log=log).wait() == 0


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        with pytest.raises(BadInput, match="cannot be written"):
            RunDir(tmp_path / place).claim()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_is_refused_before_anything_is_trained(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(BadInput, match="cannot be written"):
        RunDir(tmp_path).claim()


# -------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter here")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_step_saves_and_leaves_with_its_status(tmp_path, number, status):
    with open(tmp_path / "log", "w") as log:
        process = crash.start(tmp_path / "run", log=log)
        while not (tmp_path / "run" / "model.npz").exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(number)
        found = process.wait()
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    if (tmp_path / "run" / "evaluation.json").exists() or "loss  " in said:
        pytest.skip("the run was over before the signal came")
    assert found == status, said
    _, _, progress = run_dir.load(tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == progress["step"]


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    program = ("import os, signal, time; from tinylm2.training.loop import polite_signals\n"
               "with polite_signals():\n"
               "    os.kill(os.getpid(), signal.SIGTERM); print('on', flush=True)\n"
               "    os.kill(os.getpid(), signal.SIGTERM); print('never')")
    done = subprocess.run([sys.executable, "-c", program], cwd=crash.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "on\n")


# -------------------------------------------------------------------------------------------------- what a folder holds


def test_the_previous_checkpoint_is_kept_and_used_if_the_last_is_missing(tmp_path, small):
    model, trainer = small
    folder = RunDir(tmp_path)
    for _ in range(3):
        folder.save(model, trainer)
        trainer.step()
    (tmp_path / "model.npz").unlink()
    _, again = run_dir.resume(folder)
    assert again.progress.step == 1


def test_a_damaged_checkpoint_is_an_error_that_names_the_previous_one(tmp_path, small):
    model, trainer = small
    folder = RunDir(tmp_path)
    folder.save(model, trainer)
    trainer.step()
    folder.save(model, trainer)
    (tmp_path / "model.npz").write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"model.npz: found a damaged file.*; model.previous.npz is the one before"):
        run_dir.resume(folder)
    os.replace(tmp_path / "model.previous.npz", tmp_path / "model.npz")
    assert run_dir.resume(folder)[1].progress.step == 0


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again(tmp_path, small):
    folder = RunDir(tmp_path)
    folder.claim()
    folder.describe(small[0])
    again, trainer = run_dir.resume(folder)
    assert again.settings == SMALL
    assert trainer.progress.step == 0
    assert np.array_equal(trainer.params.buffer, small[1].params.buffer)


@pytest.mark.parametrize("there", [("config.json",), ("config.json", "model.npz"), ("model.npz",)], ids="+".join)
def test_resuming_writes_what_a_kill_kept_from_being_written(tmp_path, small, there):
    folder = RunDir(tmp_path)
    folder.describe(small[0])
    folder.save(*small)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in before.keys() - set(there):
        (tmp_path / name).unlink()
    parser = Parser()
    train.add_arguments(parser)
    train.start(folder, parser.parse_args(["--resume"]))
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == before[name]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 5}', '{"settings": {"hidden_size": "8"}}',
                                  '{"settings": {"size": 8}}', '{"settings": {"lr": NaN}}', "[" * 100_000])
def test_a_config_that_cannot_be_read_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput, match=r"config.json") as error:
        run_dir.resume(RunDir(tmp_path))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(BadInput, match="found no run in it, expected one to resume"):
        run_dir.resume(RunDir(tmp_path))
    with pytest.raises(BadInput, match="found no such folder"):
        run_dir.resume(RunDir(tmp_path / "nowhere"))


def test_overwriting_takes_an_old_run_away_in_an_order_that_can_be_stopped_anywhere(tmp_path, small):
    model, trainer = small
    folder = RunDir(tmp_path)
    for stop in range(len(run_dir.FILES) + 1):
        folder.claim(overwrite=True)
        folder.describe(model)
        loop.train(folder, model, model.trainer(), save_every=3)
        folder.write_json("evaluation.json", {})
        for name in run_dir.FILES[:stop]:                   # as far as it came
            (tmp_path / name).unlink()
        if folder.held():
            _, again = run_dir.resume(folder)
            assert again.progress.step == (crash.STEPS if stop < 2 else 0)
        else:
            folder.claim()


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    pytest.importorskip("fcntl", reason="this system has no such locks")
    folder = RunDir(tmp_path)
    with folder.metrics(0), pytest.raises(BadInput, match="found another process that trains in it"), folder.metrics(0):
        pass
    with folder.metrics(0):
        pass


@pytest.fixture
def occupied(tmp_path, small):
    """A folder with a whole run in which another process trains; what lies in it."""
    pytest.importorskip("fcntl", reason="this system has no such locks")
    folder = RunDir(tmp_path / "run")
    folder.claim()
    folder.describe(small[0])
    loop.train(folder, *small, save_every=2)
    yield folder.path, {path.name: path.read_bytes() for path in folder.path.iterdir()}
    assert folder.held()                                 # it lives, and holds the lock, up to here


@pytest.mark.parametrize("more", [(), ("--overwrite",), ("--resume",)], ids=" ".join)
def test_beside_a_training_no_command_touches_the_folder(occupied, more):
    folder, before = occupied
    parser = Parser()
    train.add_arguments(parser)
    with pytest.raises(BadInput, match=f"{folder}: found another process that trains in it, expected none"):
        train.start(RunDir(folder), parser.parse_args(["--out", str(folder), "--device", "cpu", *more]))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_is_locked_before_a_byte_of_it_is_read(occupied, monkeypatch):
    monkeypatch.setattr(run_dir, "load", lambda *_, **__: pytest.fail("the run was read"))
    with pytest.raises(BadInput, match="another process"):
        run_dir.resume(RunDir(occupied[0]))


def test_a_refused_lock_is_tried_again_and_the_end_of_a_process_frees_it(tmp_path):
    pytest.importorskip("fcntl", reason="this system has no such locks")
    first, second = RunDir(tmp_path), RunDir(tmp_path)
    first.hold()
    for _ in range(2):
        with pytest.raises(BadInput, match="another process"):
            second.hold()
    del first
    second.hold()


def test_what_a_killed_process_had_not_finished_is_taken_away(tmp_path, small):
    pytest.importorskip("fcntl", reason="this system has no such locks")
    mine = ["model.npz.backup.tmp", "notes.12.tmp", "model.npz.12.tmp2"]
    for name in ("model.npz.12.tmp", "config.json.345.tmp", *mine):
        (tmp_path / name).write_bytes(b"half")
    RunDir(tmp_path).claim()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(mine)


@pytest.mark.skipif(sys.platform == "win32", reason="the lock is a POSIX one")
@pytest.mark.parametrize("more", [(), ("--overwrite",), ("--resume",)], ids=" ".join)
def test_of_processes_that_start_together_only_one_trains(tmp_path, more):
    """As five processes do it that wait for one moment: one run, whole and of one seed."""
    folder = tmp_path / "run"
    with open(tmp_path / "log", "w") as log:
        if more:
            assert crash.start(folder, log=log).wait() == 0
        if more == ("--resume",):
            (folder / "evaluation.json").unlink()
        seeds = [()] * 5 if more == ("--resume",) else [("--seed", str(seed)) for seed in range(5)]
        with contextlib.ExitStack() as stack:
            outputs = [stack.enter_context(open(tmp_path / f"log{i}", "w")) for i in range(5)]
            processes = [crash.start(folder, *more, *seed, log=output)
                         for seed, output in zip(seeds, outputs, strict=True)]
            statuses = [process.wait() for process in processes]
    said = [(tmp_path / f"log{i}").read_text() for i in range(5)]
    assert statuses.count(0) >= 1
    for status, text in zip(statuses, said, strict=True):
        if status:
            assert status == 2
            assert text.count("\n") == 1
            assert "another process" in text or "another run" in text
    if more != ("--overwrite",):                         # there the last of several in a row is as good
        with open(tmp_path / "log", "w") as log:
            won = seeds[statuses.index(0)]
            assert crash.start(tmp_path / "alone", *won, log=log).wait() == 0
        assert not crash.different(folder, tmp_path / "alone")
    else:
        settings = run_dir.load(folder)[0].settings
        assert f'"seed": {settings.seed}' in (folder / "config.json").read_text()
        with open(tmp_path / "log", "w") as log:
            assert crash.start(tmp_path / "alone", "--seed", str(settings.seed), log=log).wait() == 0
        assert not crash.different(folder, tmp_path / "alone")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted():
        with checkpoint.replacing(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with checkpoint.replacing(path, keep=tmp_path / "kept") as file:
        file.write(b"new")
    assert (path.read_text(), (tmp_path / "kept").read_text()) == ("new", "old")
