"""`python -m benchmarks.gpu`: its whole course on the fake CuPy, what it keeps when it is stopped, what it says."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu as command
from benchmarks import gpu_parts, machine
from tinylm2 import gpu
from tinylm2.training import checkpoint

ROOT = Path(__file__).resolve().parents[1]
LENT = 12_000                                            # characters of output that a lender of GPUs gives back
FILES = 8                                                # files that it gives back


def benchmark(*arguments):
    return subprocess.run([sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, timeout=600)


def test_the_whole_course_runs_on_the_fake_cupy(tmp_path):
    done = benchmark("--out", tmp_path, "--dry", "--minutes", 5)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "log.txt").read_text()
    summary = (tmp_path / "summary.txt").read_text()
    assert done.stdout.endswith(summary)
    assert len(summary) < LENT
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"{part}.json" for part in "abcde"), "joint.npz", "log.txt", "summary.txt"]
    assert len(list(tmp_path.iterdir())) <= FILES
    found = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in "abcde"}
    assert found["a"]["counts"]["passed"] > 50
    assert not found["a"]["failures"]
    assert set(found["b"]["accuracy"]) == {"0", "2"}
    assert {row["model"] for row in found["c"]["rows"]} == {"tiny", "small", "medium", "lm2-tiny", "joint", "large"}
    assert {row["precision"] for row in found["c"]["rows"]} == {"float32", "TF32"}
    assert "190 array operations per step" in summary
    assert set(found["e"]["accuracy"]) == {"qa1", "qa20"}


def test_without_a_gpu_it_says_why(tmp_path):
    usable, _ = gpu.gpu()
    if usable:
        pytest.skip("there is a GPU")
    done = benchmark("--out", tmp_path)
    assert done.returncode == 2
    assert "no GPU can be used: " in done.stdout
    assert not (tmp_path / "a.json").exists()


def test_a_part_that_does_not_exist_is_refused(tmp_path):
    done = benchmark("--out", tmp_path, "--only", "a,z")
    assert done.returncode == 2
    assert "found 'z', expected some of a, b, c, d, e" in done.stderr


def a_part(monkeypatch, tmp_path, code, limit):
    """`run` of a part whose process runs this code: (status, seconds, what stands in its file)."""
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: popen([sys.executable, "-c", code], **options))
    args = command.arguments(["--out", str(tmp_path)])
    (tmp_path / "a.json").write_text(json.dumps({"lines": ["one thing is known"]}))
    return *command.run("a", args, limit), command.found(tmp_path, "a")["lines"]


def test_what_a_part_found_before_its_limit_is_kept_and_its_processes_end(monkeypatch, tmp_path):
    late = f"import time; time.sleep(4); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys; print('began', flush=True); subprocess.run([sys.executable, '-c', {late!r}])"
    status, seconds, lines = a_part(monkeypatch, tmp_path, code, 2)
    assert status == "STOPPED at its time limit"
    assert seconds < 4
    assert lines == ["one thing is known", "log.txt: began"]
    time.sleep(4)
    assert not (tmp_path / "late").exists()


def test_a_crash_is_told_with_its_last_words(monkeypatch, tmp_path, capsys):
    status, _, lines = a_part(monkeypatch, tmp_path, "raise MemoryError('no room on the device')", 30)
    assert status == "FAILED with status 1"
    assert lines[-1] == "log.txt: MemoryError: no room on the device"
    assert capsys.readouterr().out.endswith(lines[-1] + "\n")


def test_a_summary_goes_into_its_place_on_the_page(monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- gpu -->\nold\n<!-- end of gpu -->\nbehind")
    monkeypatch.setattr(machine, "PAGE", page)
    (tmp_path / "summary.txt").write_text("a GPU\n")
    assert command.main(["--out", str(tmp_path), "--write"]) == 0
    assert page.read_text() == "before\n<!-- gpu -->\n\n```text\na GPU\n```\n\n<!-- end of gpu -->\nbehind"
    assert "<!-- gpu -->" in (ROOT / "docs" / "PERFORMANCE.md").read_text()


def test_a_long_summary_loses_the_middle_of_its_parts(tmp_path):
    for part in "abc":
        (tmp_path / f"{part}.json").write_text(json.dumps({"lines": [f"{part} {i} " + 150 * "x" for i in range(500)]}))
    statuses = {"a": "passed", "b": "FAILED", "c": "passed", "e": "not run"}
    text = command.summary({"lines": ["a GPU"]}, statuses, tmp_path)
    assert len(text) <= command.LONGEST < LENT
    for part in "abc":
        assert f"{part} 0 xxx" in text
        assert f"{part} 499 xxx" in text
    assert text.endswith("e: not run")


def test_joint_continues_from_its_file_bit_for_bit(monkeypatch, tmp_path):
    """No time at all is one step per call."""
    monkeypatch.setattr(gpu, "array_module", lambda device: np)
    numbers = []
    for name, seconds, calls in (("straight", 1000, 1), ("in steps", 0, 8)):
        (tmp_path / name).mkdir()
        for _ in range(calls):
            record = gpu_parts.Record(tmp_path / name / "e.json")
            gpu_parts.joint(record, seconds, dry=True)
        params, moments, meta = checkpoint.load(tmp_path / name / "joint.npz")
        assert meta["progress"]["step"] == 8
        numbers.append([params.buffer, moments["m"], moments["v"]])
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["e.json", "joint.npz"]
    for x, y in zip(*numbers, strict=True):
        assert np.array_equal(x, y)


def test_its_state_is_small_enough_to_be_given_back():
    from experiments import joint

    trainer, _ = gpu_parts_trainer(joint.EXPERIMENT.budgets["medium"])
    assert 3 * trainer.params.buffer.nbytes < 15 * 2**20


def gpu_parts_trainer(budget):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "array_module", lambda device: np)
        return gpu_parts.joint_trainer(budget, Path("no such file"))
