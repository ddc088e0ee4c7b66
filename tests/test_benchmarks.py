"""The benchmarks compare the same model, and what they say of a process is true."""

import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import cost_model, machine, memories, parallel, step, tables
from tests.support import ranks
from tinylm2.gpu import array_module
from tinylm2.memories import MEMORIES
from tinylm2.model import Config


@pytest.mark.parametrize(("memory", "segments", "last"), [("none", 1, 6), ("none", 2, 3), ("lm2", 3, 2)])
@pytest.mark.parametrize("compiled", [False, True])
def test_pytorch_trains_the_same_model(memory, segments, last, compiled, monkeypatch):
    """Loss after loss: the forward pass, every gradient, clipping and AdamW are the same on both sides."""
    torch = pytest.importorskip("torch", reason="PyTorch, to compare with, is not installed (pip install torch)")
    monkeypatch.setattr(torch, "compile", lambda function: function)     # what it would compile, without the minute
    work = step.Workload(Config(V=11, D=8, L=2, H=2, G=2, F=12, N=4, T=6, memory=memory), 3, last, segments)
    xp = array_module("cpu")
    ours, theirs = step.tinylm2_step(work, xp), step.torch_step(work, xp, compiled=compiled)
    losses = [(ours(), theirs()) for _ in range(8)]
    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-4)
    assert losses[-1][0] < losses[0][0]


@pytest.mark.parametrize(("values", "text"), [([2.0], "2.00 (2.00-2.00)"), ([1.0, 3.0], "2.00 (0.50-3.50)"),
                                              ([3.0, 1.0, 2.0], "2.00 (1.00-3.00)")])
def test_a_median_is_between_its_quartiles_even_of_few_values(values, text):
    assert tables.median_quartiles(values) == text


def test_arrays_that_are_freed_leave_their_memory_to_the_next():
    """Each page that the system hands out is a fault; without `keep_memory` every array of the loop faults anew."""
    resource = pytest.importorskip("resource", reason="page faults are not counted here")
    if sys.platform != "linux":
        pytest.skip("glibc alone has the knob")
    assert resource
    code = """
import resource
import numpy as np
from tinylm2.cli.console import keep_memory
if KEEP: keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        held = [np.ones(2**18) for _ in range(16)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    kept, handed_back = (int(subprocess.run([sys.executable, "-c", code.replace("KEEP", keep)], check=True, text=True,
                                            stdout=subprocess.PIPE).stdout) for keep in ("True", "False"))
    assert 10 * kept < handed_back


def test_a_fitted_network_and_work_are_those_that_made_the_times():
    """Planted figures come back; noise of a tenth moves them little; a negative part is set to none."""
    planted = cost_model.Network(5e-6, 2e9)
    sizes = [2**n for n in range(8, 24, 2)]
    times = np.array([planted.all_reduce(size, 2) for size in sizes])
    found = cost_model.fitted_network(sizes, times, 2)
    assert (found.latency, found.bandwidth) == pytest.approx((5e-6, 2e9))
    noisy = cost_model.fitted_network(sizes, times * np.random.default_rng(0).uniform(0.9, 1.1, times.size), 2)
    assert (noisy.latency, noisy.bandwidth) == pytest.approx((5e-6, 2e9), rel=0.2)
    assert cost_model.fit_line([64, 32, 8], [0.67, 0.35, 0.11]) == pytest.approx((0.03, 0.01))
    assert cost_model.fit_line([2, 1], [2.2, 1.0])[0] == 0
    assert cost_model.fit_line([2, 1], [1.0, 1.1])[1] == 0


def test_the_cost_model_names_what_a_step_waits_for():
    work = cost_model.Work(fixed=0.001, compute=1.0, rows=64, size=1000)
    slow, thin = cost_model.Network(1.0, 1e12), cost_model.Network(1e-9, 1.0)
    fast = cost_model.Network(1e-9, 1e12)
    assert work.step(1, fast) == pytest.approx(1.001)
    assert work.speedup(1, fast) == 1
    assert 60 < work.speedup(64, fast) < 64
    assert cost_model.limits(work, slow, 64)[0] == "latency"
    assert cost_model.limits(work, thin, 64)[0] == "bandwidth"
    assert cost_model.limits(work, fast, 64)[0] == "rows"
    assert cost_model.limits(cost_model.Work(1.0, 0.1, 64, 10), fast, 64)[0] == "work that no rank shares"


@pytest.mark.long
def test_the_parallel_benchmark_runs_and_its_sides_train_the_same_model():
    """Every side must give the same first loss, PyTorch's two among them, or the command fails."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.parallel", "--quick"], cwd=ranks.ROOT, text=True,
                          env=ranks.environment(), capture_output=True)
    assert done.returncode == 0, done.stderr
    for side in parallel.sides()[0]:
        assert f"| lm2-tiny | {side} | " in done.stdout
    for reason in parallel.sides()[1]:
        assert reason in done.stdout
    assert "Load average" in done.stdout
    assert "| lm2-1.7b, 1,024 rows | 200 Gbit/s InfiniBand | " in done.stdout


def test_the_plan_is_drawn_for_all_models(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    works = {"a": cost_model.Work(0.001, 0.03, 64, 50_000), "b": cost_model.Work(10.0, 3e5, 1024, 1_700_000_000)}
    cost_model.draw(works, cost_model.NETWORKS, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 10_000


def test_memories_are_timed_turn_by_turn_at_equal_parameters():
    rows = {name: row for name, *row in memories.measure(["lm2", "armt"], rounds=2)}
    assert rows["lm2"][1] == [1.0, 1.0]
    assert rows["armt"][0] > 0
    assert rows["armt"][2] > 10                          # MB: more than the batch
    assert rows["armt"][3] == 2 * (32 * 32 + 32)
    assert rows["armt"][4] == pytest.approx(rows["lm2"][4], rel=0.02)


def test_the_page_has_a_row_for_every_memory_and_none_takes_twice_lm2s_time():
    page = (machine.PAGE).read_text(encoding="utf-8")
    table = page.partition("<!-- memories -->")[2].partition("<!-- end of memories -->")[0]
    ratios = dict(re.findall(r"^\| (\w+) \| [\d.]+ \| ([\d.]+) ", table, flags=re.MULTILINE))
    assert set(ratios) == set(MEMORIES)
    assert all(float(ratio) <= memories.LIMIT for name, ratio in ratios.items() if name != "full")
