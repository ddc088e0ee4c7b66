"""Training on several ranks: the bits of one process with as many shards, whatever fails on the way."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tests.support import crash, fake_cupy, ranks, small
from tests.test_devices import a_batch
from tinylm2.backend import to_device, to_host
from tinylm2.data import TASKS, BucketSampler, HaystackSampler, Stories, word_tokenizer
from tinylm2.errors import BadInput
from tinylm2.inspect.evaluate import ask
from tinylm2.model import Config, init_params
from tinylm2.training import communicator
from tinylm2.training.communicator import SingleProcess, agree, checksum, own_shards
from tinylm2.training.curriculum import Stage
from tinylm2.training.step import SINGLE, NotFinite, train_step
from tinylm2.training.trainer import Trainer

TOKENIZER, FILLER = word_tokenizer(), small.FewSentences()


# --------------------------------------------------------------------------------------------- one step, in one process


class Kept:
    """Stands for an optimizer: keeps the gradients."""

    def step(self, params, grads, lr):
        self.grads = to_host(grads.buffer).copy()


def gradients(params, cfg, *shards, comm=SINGLE, **options):
    """(loss, gradients, correct) of a step over these shards, nothing clipped."""
    kept = Kept()
    loss, _, correct = train_step(params, kept, *shards, cfg=cfg, lr=0.0, limit=1e9, comm=comm, **options)
    return loss, kept.grads, correct


def parts(batch, shards, of=None):
    return [batch.part(shard, shards) for shard in of or range(shards)]


def uneven(cfg):
    """Three rows whose weights and padding differ, so that means of means would be wrong."""
    batch = a_batch(cfg)
    weights = batch.weights.copy()
    weights[1, -1] = 0
    weights[2] = 1
    return replace(batch, weights=weights, last=None)


@pytest.mark.parametrize("options", [{}, {"lm": 0.5}, {"lm": 0.5, "truncate": 1, "recompute": True}], ids=str)
@pytest.mark.parametrize("shards", [2, 3, 5])
def test_the_gradients_of_the_shards_add_up_to_the_batchs(shards, options):
    """Five shards of three rows: two are empty."""
    cfg = small.CFG
    params, batch = small.params(cfg), uneven(cfg)
    loss, whole, correct = gradients(params, cfg, batch, **options)
    split_loss, split, split_correct = gradients(params, cfg, *parts(batch, shards), **options)
    assert abs(whole).max() > 1e-3
    np.testing.assert_allclose(split, whole, rtol=0, atol=1e-12 * abs(whole).max())
    assert split_loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_array_equal(split_correct, correct)


def test_means_over_shards_alone_would_be_wrong():
    """The test above can fail: without the totals of the whole batch the sum is another one."""
    cfg = small.CFG
    params, batch = small.params(cfg), uneven(cfg)
    _, whole, _ = gradients(params, cfg, batch)
    each = [gradients(params, cfg, part)[1] for part in parts(batch, 3)]
    assert abs(sum(each) / 3 - whole).max() > 1e-3 * abs(whole).max()


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_fixed_shards_give_the_same_bits_on_any_number_of_ranks(size):
    cfg = small.CFG
    params, batch = small.params(cfg, "float32"), uneven(cfg)
    expected = gradients(params, cfg, *parts(batch, 6), lm=0.5)

    def of_rank(comm):
        return gradients(params, cfg, *parts(batch, 6, own_shards(comm, 6)), lm=0.5, comm=comm)

    for loss, grads, correct in ranks.simulated(size, of_rank):
        assert loss == expected[0]
        np.testing.assert_array_equal(grads, expected[1])
        np.testing.assert_array_equal(correct, expected[2])


SHARDS = np.random.default_rng(0).normal(0, 1, (8, 1001)).astype("float32")


def sums(size, buffers=SHARDS, sum_shards=communicator.MPI.sum_shards):
    """What each of so many ranks has for the sum of all shards."""
    each = len(buffers) // size
    return ranks.simulated(size, lambda comm: sum_shards(
        comm, [x.copy() for x in buffers[comm.rank * each:(comm.rank + 1) * each]]))


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("length", [1001, 3, 1])
def test_shards_are_added_by_number_also_where_there_are_fewer_numbers_than_ranks(size, length):
    expected = SHARDS[0, :length]
    for shard in SHARDS[1:]:
        expected = expected + shard[:length]
    for found in sums(size, SHARDS[:, :length]):
        np.testing.assert_array_equal(found, expected)


def test_another_order_of_addition_is_caught(monkeypatch):
    """What most programs do, each rank its own shards first, and an order that is just reversed."""
    def own_first(comm, buffers):
        return sum(comm.gather(sum(buffers)))

    (expected,) = sums(1)
    (wrong, _) = sums(2, sum_shards=own_first)
    assert not np.array_equal(wrong, expected)
    np.testing.assert_allclose(wrong, expected, rtol=0, atol=1e-5)
    fold = communicator._fold
    monkeypatch.setattr(communicator, "_fold", lambda buffers: fold(buffers[::-1]))
    assert not np.array_equal(sums(2)[0], expected)


@pytest.mark.parametrize("size", [2, 4])
def test_a_step_that_is_not_finite_is_named_on_every_rank_alike(size):
    cfg = small.CFG
    params, batch = small.params(cfg, "float32"), a_batch(cfg)
    params["embed.W"][batch.ids[2, 0]] = np.nan          # row 2: of the last rank alone, or of others, too

    def of_rank(comm):
        with np.errstate(all="ignore"), pytest.raises(NotFinite) as error:
            gradients(params, cfg, *parts(batch, 4, own_shards(comm, 4)), comm=comm)
        return str(error.value)

    said = ranks.simulated(size, of_rank)
    assert len(set(said)) == 1
    assert "first not finite" in said[0]


# ---------------------------------------------------------------------------------------------------------- a device


@pytest.mark.parametrize(("size", "shards"), [(1, 4), (2, 4), (4, 4)])
@pytest.mark.parametrize("direct", [False, True], ids=["over the host", "TINYLM2_CUDA_MPI=1"])
def test_gradients_leave_the_device_in_one_copy_per_rank_or_in_none(size, shards, direct, monkeypatch):
    monkeypatch.setenv("TINYLM2_CUDA_MPI", "1" if direct else "0")
    there = [to_device(x, fake_cupy.xp) for x in SHARDS[:shards]]
    expected = sums(1, SHARDS[:shards])[0]
    with fake_cupy.watch() as seen:
        found = sums(size, there)
    assert len(seen.copies) == (0 if direct else size)
    assert len(seen.uploads) == len(seen.copies)
    for total in found:
        np.testing.assert_array_equal(to_host(total), expected)


@pytest.mark.parametrize("direct", [False, True], ids=["over the host", "TINYLM2_CUDA_MPI=1"])
def test_a_step_on_two_devices_has_the_bits_of_one_host(direct, monkeypatch):
    """Of its copies one is for the gradients, one for loss, norm and correct answers."""
    monkeypatch.setenv("TINYLM2_CUDA_MPI", "1" if direct else "0")
    cfg = small.CFG
    params, batch = small.params(cfg, "float32"), a_batch(cfg)
    expected = gradients(params, cfg, *parts(batch, 4))
    there = small.on_device(params, fake_cupy.xp)
    with fake_cupy.watch() as seen:
        found = ranks.simulated(2, lambda comm: train_step(
            there, Nothing(), *parts(batch, 4, own_shards(comm, 4)), cfg=cfg, lr=0.0, comm=comm))
    assert len(seen.copies) == (2 if direct else 4)
    assert [loss for loss, _, _ in found] == 2 * [expected[0]]


class Nothing:
    """Stands for an optimizer that changes nothing."""

    def step(self, params, grads, lr):
        pass


# ------------------------------------------------------------------------------------------------------- the trainer


STAGES = {
    "haystack": HaystackSampler(facts=(2, 4), segments=(1, 2), gap=0.5),
    "bucketed": BucketSampler(every=0.5),
}


def trained(comm, sampler, shards, tasks=("qa1", "qa6"), **options):
    """(parameters, m, v, metrics) after eight steps."""
    stories = Stories([TASKS[name] for name in tasks], tokenizer=TOKENIZER, filler=FILLER, seed=0)
    cfg = Config(V=TOKENIZER.size, D=8, L=1, H=2, G=2, F=12, N=4, T=32)
    trainer = Trainer(init_params(cfg, 0), cfg=cfg, stories=stories, stages=(Stage("B", sampler, 4, 8),), warmup=1,
                      shards=shards, comm=comm, **options)
    metrics = list(trainer.steps())
    return trainer.params.buffer.copy(), trainer.moments["m"].copy(), trainer.moments["v"].copy(), metrics


@pytest.mark.parametrize("options", [{}, {"lm": 0.3}], ids=["answers", "language model"])
@pytest.mark.parametrize("sampler", STAGES)
def test_a_training_has_the_same_bits_on_any_number_of_ranks(sampler, options):
    *expected, metrics = trained(SingleProcess(), STAGES[sampler], 4, **options)
    for size in (2, 4):
        for *arrays, lines in ranks.simulated(size, partial(trained, sampler=STAGES[sampler], shards=4, **options)):
            assert lines == metrics
            assert all(map(np.array_equal, arrays, expected))


def test_a_bucketed_batch_has_fewer_rows_than_shards_here_and_there():
    """So the test above meets empty shards: a batch of long stories has one row or two."""
    stories = Stories([TASKS["qa1"], TASKS["qa6"]], tokenizer=TOKENIZER, filler=FILLER, seed=0)
    rows = [len(STAGES["bucketed"].batch(stories, step, 4).ids) for step in range(8)]
    assert min(rows) < 4 < max(rows)


def test_shards_change_a_run_by_rounding_alone():
    whole, _, _, metrics = trained(SingleProcess(), STAGES["haystack"], 1)
    split, _, _, others = trained(SingleProcess(), STAGES["haystack"], 4)
    assert metrics[0]["loss"] == pytest.approx(others[0]["loss"], rel=1e-6)
    assert metrics[0]["norm"] == pytest.approx(others[0]["norm"], rel=1e-5)
    assert not np.array_equal(whole, split)


def test_questions_are_dealt_out_and_answers_joined_in_order(monkeypatch):
    monkeypatch.setattr("tinylm2.inspect.evaluate.BATCH", 3)
    from tinylm2.data import encode_examples, generated_examples

    cfg = Config(V=TOKENIZER.size, D=8, L=1, H=2, G=2, F=12, N=4, T=32)
    rows, _ = encode_examples(generated_examples(TASKS["qa1"], 20, seed=0), 2, tokenizer=TOKENIZER, filler=FILLER,
                              segment_len=32, seed=0)
    params = small.params(cfg, "float32")
    given = {"cfg": cfg, "tokenizer": TOKENIZER, "answer_len": 1}
    alone = ask(params, rows, **given)
    assert len(set(alone)) > 1
    for size in (2, 3, 8):
        assert ranks.simulated(size, lambda comm: ask(params, rows, **given, comm=comm)) == [alone] * size


# ------------------------------------------------------------------------------------------------------- the agreement


def test_ranks_that_disagree_are_told_which_and_in_what():
    def of_rank(comm):
        with pytest.raises(BadInput) as error:
            agree(comm, version="1", **{"--seed": 7 if comm.rank == 2 else 0, "--lr": comm.rank})
        return str(error.value)

    assert set(ranks.simulated(3, of_rank)) == {"rank 1: found --lr 1, expected rank 0's 0"}
    assert ranks.simulated(3, lambda comm: agree(comm, version="1", seed=0)) == [None] * 3


def test_a_checksum_sees_one_bit():
    x = np.zeros(10, "float32")
    y = x.copy()
    y[3] = np.float32(1e-45)
    assert checksum(x) == checksum(x.copy()) != checksum(y)


def test_shards_that_the_ranks_cannot_share_are_one_line():
    def of_rank(comm):
        with pytest.raises(BadInput, match=r"^--shards: found 3, expected a multiple of the 2 processes$"):
            own_shards(comm, 3)
        return list(own_shards(comm, 4))

    assert ranks.simulated(2, of_rank) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("name", communicator.STARTED_BY_MPI)
def test_an_mpi_that_does_not_see_the_others_is_refused(name, tmp_path):
    """mpi4py built for one MPI under the mpiexec of another: each process would be alone, and write."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed (pip install '.[mpi]')")
    done = subprocess.run([sys.executable, "-m", "tests.support.crash", "--out", tmp_path / "run", *crash.ARGUMENTS],
                          cwd=ranks.ROOT, env=ranks.environment() | {name: "2"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "2 processes" in done.stderr
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------- real ranks


real = pytest.mark.skipif(ranks.lacking() is not None, reason=ranks.lacking() or "")
SHARDED = (*crash.ARGUMENTS, "--shards", "4")


def run(size, folder, *more, hooks=(), arguments=SHARDED, **environment):
    """Train to the end on so many ranks. -> (status, what was printed)."""
    hooked = [word for hook in hooks for word in ("--hook", *map(str, hook))]
    command = ranks.command(size, "-m", "tests.support.ranks", *hooked, "--out", folder, *arguments, *more)
    done = subprocess.run(command, cwd=ranks.ROOT, env=ranks.environment(**environment), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120)
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What one process with four shards leaves behind."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    with open(folder.parent / "log", "w") as log:
        assert crash.start(folder, "--shards", "4", log=log).wait() == 0
    return folder


@real
@pytest.mark.parametrize("size", [2, 4])
def test_real_ranks_leave_the_files_of_one_process(straight, tmp_path, size):
    """model.npz holds parameters and moments; every file is compared byte for byte."""
    status, said = run(size, tmp_path / "run")
    assert status == 0, said
    assert not crash.different(straight, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        path.name for path in straight.iterdir())
    assert said.count("parameters, ") == 1               # one process speaks


@real
def test_without_shards_there_are_as_many_as_ranks_and_one_line_says_so(tmp_path):
    status, said = run(2, tmp_path / "run", arguments=crash.ARGUMENTS)
    assert status == 0, said
    assert said.count("--shards 2: one part of each batch per process\n") == 1
    assert '"shards": 2' in (tmp_path / "run" / "config.json").read_text()


class Begun:
    """A training on two ranks that pauses after each step: `pids` of the ranks once it has saved."""

    def __init__(self, home):
        self.home, self.log = home, open(home / "log", "w")      # noqa: SIM115
        self.process = ranks.start(2, "-m", "tests.support.ranks", "--hook", "pids", home, "--hook", "pause", "0.1",
                                   "--out", home / "run", *SHARDED, log=self.log)
        ends = time.monotonic() + 60
        while not (home / "run" / "model.npz").exists():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < ends
            time.sleep(0.01)
        self.pids = ranks.pids(home, 2)

    def said(self):
        return (self.home / "log").read_text()

    def ended(self, within=60):
        """(status, seconds) from now to its end."""
        began = time.monotonic()
        status = self.process.wait(within)
        self.log.close()
        return status, time.monotonic() - began


def resumed_equals(straight, folder, size):
    """Resumed on so many ranks, a run ends with the undisturbed one's files."""
    assert not (folder / "evaluation.json").exists()
    status, said = run(size, folder, "--resume")
    assert status == 0, said
    assert not crash.different(straight, folder)


@real
@pytest.mark.parametrize(("number", "rank", "size"), [(signal.SIGTERM, 1, 1), (signal.SIGINT, 0, 4)],
                         ids=["SIGTERM to rank 1", "SIGINT to rank 0"])
def test_a_signal_to_any_rank_saves_and_the_run_goes_on_with_another_number(straight, tmp_path, number, rank, size):
    begun = Begun(tmp_path)
    os.kill(begun.pids[rank], number)
    status, _ = begun.ended()
    assert status == 128 + number, begun.said()
    assert begun.said().count("--resume continues") == 1
    assert "Traceback" not in begun.said()
    resumed_equals(straight, tmp_path / "run", size)


@real
@pytest.mark.parametrize(("rank", "size"), [(1, 2), (0, 1)])
def test_a_killed_rank_ends_the_job_within_seconds_and_the_run_goes_on(straight, tmp_path, rank, size):
    begun = Begun(tmp_path)
    os.kill(begun.pids[rank], signal.SIGKILL)
    status, seconds = begun.ended()
    assert status != 0
    assert seconds < 10
    resumed_equals(straight, tmp_path / "run", size)


@real
@pytest.mark.parametrize(("more", "expected"), [
    (["--shards", "3"], "error: --shards: found 3, expected a multiple of the 2 processes"),
    (["--shards", "8"], "error: --shards: found 8, expected a number that divides a batch of 4 rows"),
    (["--filler", "no-such-book.txt"], "no-such-book.txt"),
    (["--shards", "two"], "error: argument --shards: invalid int value: 'two' (see --help)"),
], ids=["ranks", "rows", "a missing file", "no number"])
def test_what_all_ranks_refuse_is_one_line_once(tmp_path, more, expected):
    status, said = run(2, tmp_path / "run", *more, arguments=crash.ARGUMENTS)
    assert (status, said.count("\n")) == (2, 1), said
    assert expected in said
    assert not (tmp_path / "run").exists()


@real
def test_a_folder_that_holds_a_run_is_refused_once_and_stays(straight):
    before = {path.name: path.read_bytes() for path in straight.iterdir()}
    status, said = run(2, straight)
    assert (status, said.count("\n")) == (2, 1), said
    assert f"error: {straight}: found another run (" in said
    assert {path.name: path.read_bytes() for path in straight.iterdir()} == before


@real
def test_ranks_that_were_given_other_settings_do_not_start(tmp_path):
    status, said = run(2, tmp_path / "run", hooks=[("seed-of-rank-1", 7)])
    assert (status, said) == (2, "error: rank 1: found --seed 7, expected rank 0's None\n")
    assert not (tmp_path / "run").exists()


@real
def test_ranks_that_drift_apart_are_stopped_before_they_save(tmp_path):
    status, said = run(2, tmp_path / "run", "--save-every", "2", hooks=[("drift", 1)])
    assert status == 2, said
    assert said.count("error: rank 1: found parameters with the checksum ") == 1
    assert not (tmp_path / "run" / "model.npz").exists()


@real
def test_a_fault_in_one_rank_ends_all_of_them(tmp_path):
    began = time.monotonic()
    status, said = run(2, tmp_path / "run", hooks=[("fault", 1)])
    assert status == 1, said
    assert "ZeroDivisionError" in said
    assert time.monotonic() - began < 30


@real
def test_under_mpiexec_without_mpi4py_nothing_is_trained(tmp_path):
    status, said = run(2, tmp_path / "run", hooks=[("hide", 1)])
    assert status == 2, said
    assert set(said.splitlines()) == {"error: started by mpiexec with 2 processes, but mpi4py cannot be imported "
                                      "(ModuleNotFoundError): pip install 'tinylm2[mpi]'"}
    assert not (tmp_path / "run").exists()


@real
def test_the_commands_of_the_readme_name_what_is_there():
    readme = (ranks.ROOT / "README.md").read_text(encoding="utf-8")
    assert "mpiexec -n 2 python train_tiny.py" in readme
