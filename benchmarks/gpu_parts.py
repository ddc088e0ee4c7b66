"""The parts of `python -m benchmarks.gpu`; each runs as `python -m benchmarks.gpu_parts PART --out FOLDER`.

A part is a function of a Record, which writes FOLDER/PART.json after every line, and of the seconds that it may take.
With --dry the fake CuPy stands for CuPy, and every size is tiny.
"""

import argparse
import faulthandler
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 9                                               # turns of each side
PEAK = 8192                                              # rows and columns of the product that shows the GPU's peak
EXPECTED = 0.9                                           # accuracy of the default run without filler


class Record:
    """What a part has found so far, kept in a file."""

    def __init__(self, path):
        self.path, self.began = path, time.monotonic()
        self.found = {"lines": []}

    def seconds(self):
        return time.monotonic() - self.began

    def say(self, line):
        print(line, flush=True)
        self.found["lines"].append(line)
        self.save()

    def save(self, **values):
        self.found |= values
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps(self.found, indent=1), encoding="utf-8")
        os.replace(temporary, self.path)


def the_machine(record, seconds, dry):
    """What ran; False where no GPU can be used."""
    from benchmarks import machine
    from tinylm2.gpu import gpu

    usable, why = gpu()
    libraries = ", ".join(f"{name} {version(name)}" for name in machine.LIBRARIES if machine.has(name))
    record.say(f"{why if usable else f'no GPU can be used: {why}'}; {machine.processor()}, {machine.CORES} cores")
    record.say(f"Python {platform.python_version()}, {libraries}; {time.strftime('%Y-%m-%d %H:%M')}")
    if usable:
        import cupy

        free, total = cupy.cuda.Device().mem_info
        record.say(f"CUDA driver {cupy.cuda.runtime.driverGetVersion()}, runtime "
                   f"{cupy.cuda.runtime.runtimeGetVersion()}, compute capability "
                   f"{cupy.cuda.Device().compute_capability}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    return usable


# ------------------------------------------------------------------------------------------------------------- a: tests


def tests(record, seconds, dry):
    """Every test marked gpu; the file names each that failed, with the end of what it said."""
    import pytest

    counts, failures, skipped, slow = {"passed": 0, "failed": 0, "skipped": 0}, {}, {}, []

    class Watch:
        """Keeps every result at once: the process may be stopped."""

        def pytest_runtest_logreport(self, report):
            if report.when != "call" and report.outcome == "passed":
                return
            counts[report.outcome] += 1
            slow.append((round(report.duration, 1), report.nodeid))
            if report.failed:
                text = report.longreprtext
                failures[report.nodeid] = text[-2000:]
                record.say(f"FAILED {report.nodeid}: {text.splitlines()[-1] if text else ''}"[:300])
            elif report.skipped:
                reason = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
                skipped[reason] = skipped.get(reason, 0) + 1
            if report.failed or sum(counts.values()) % 10 == 0:
                record.save(counts=counts, failures=failures, skipped=skipped)

    files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py"))
             if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]
    few = ["-k", "lm2 or sums or tokens or growing or learns"] if dry else []
    status = pytest.main(["-m", "gpu", "-q", "-W", "default", "-p", "no:cacheprovider", "--tb=short", *few, *files],
                         plugins=[Watch()])
    record.save(counts=counts, failures=failures, skipped=skipped, slowest=sorted(slow, reverse=True)[:10])
    record.say(", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + f" in {record.seconds():.0f} s")
    for reason, count in skipped.items():
        record.say(f"skipped {count}: {reason}"[:200])
    return status == 0 and counts["passed"] > 0


# --------------------------------------------------------------------------------------------------- b: the default run


def default_run(record, seconds, dry):
    """`python train_tiny.py --device gpu`: the command itself, with its evaluation."""
    from tinylm2.cli import train
    from tinylm2.cli.console import Parser
    from tinylm2.training.run_dir import RunDir
    from tinylm2.training.step import SINGLE

    parser = Parser()
    train.add_arguments(parser)
    with tempfile.TemporaryDirectory() as folder:
        args = parser.parse_args(["--device", "gpu", "--out", str(Path(folder) / "run"), "--eval-segments",
                                  "2" if dry else "4,8,16"])
        out = RunDir(args.out)
        model, trainer = train.start(out, args, SINGLE)
        if dry:
            trainer.stages = [replace(stage, steps=2, batch_size=4, required=False) for stage in trainer.stages]
            train.QUESTIONS = 8
        train.train(out, model, trainer, args)
        trained = record.seconds()
        losses = [json.loads(line)["loss"] for line in (out.path / "metrics.jsonl").read_text().splitlines()]
        record.say(f"{trainer.progress.step} steps in {trained:.1f} s, start included; last losses "
                   f"{sum(losses[-20:]) / len(losses[-20:]):.3f}")
        record.save(steps=trainer.progress.step, train_seconds=trained, losses=losses[::10])
        train.evaluate(out, model, trainer.stories.tasks, args)
        scores = json.loads((out.path / "evaluation.json").read_text())["generated"]
    accuracy = {count: score["accuracy"] for count, score in scores.items()}
    record.save(accuracy=accuracy)
    record.say("accuracy by segments of filler: " + ", ".join(f"{n}: {a:.3f}" for n, a in accuracy.items())
               + f"; evaluation {record.seconds() - trained:.1f} s")
    return dry or accuracy["0"] >= EXPECTED


# ---------------------------------------------------------------------------------------------------- c: beside PyTorch


def beside_pytorch(record, seconds, dry):
    """Every model against PyTorch eager, then those again against torch.compile, each in a process of its own."""
    from benchmarks import step
    from tinylm2.gpu import array_module

    lacking = step.torch_lacks(array_module("gpu"))
    if lacking:
        record.say(f"{lacking}: this library's side alone")
    rows, worked = [], True
    jobs = [("eager", name) for name in (*step.WORKLOADS, *step.LARGE)]
    if not lacking:                                      # compiling takes long: what says most comes first
        jobs += [("compiled", name) for name in ("tiny", "large", "lm2-tiny", "medium", "small", "joint")]
    for other, name in jobs:
        left = seconds - record.seconds() - 5
        if left < 10:
            record.say(f"{name}, {other}: no time was left")
            continue
        found, why = asked(["race", "--out", str(record.path.parent), "--name", name, "--other",
                            "none" if lacking else other, *(["--dry"] if dry else [])], min(left, 60))
        worked = worked and bool(found)
        rows += found
        record.save(rows=rows)
        for row in found:
            record.say(in_words(row))
        if why:
            record.say(f"{name}, {other}: {why}")
    return worked


def asked(arguments, limit):
    """(rows, why there are no more): what a process of this file printed as JSON, line by line."""
    command = [sys.executable, "-m", "benchmarks.gpu_parts", *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
        out, why = done.stdout, (done.stderr.strip().splitlines() or ["no word"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        out = error.stdout or b""
        out, why = out.decode() if isinstance(out, bytes) else out, f"stopped after {limit:.0f} s"
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")], why[:200]


def in_words(row):
    sides = ", ".join(f"{side} {1e3 * median(taken):.2f} ms" for side, taken in row["seconds"].items())
    ratio = f", ratio {row['ratio']}" if row["ratio"] else ""
    speed = f", {row['flops'] / median(row['seconds']['tinylm2']) / 1e12:.1f} TFLOP/s" if row["flops"] else ""
    return f"{row['model']}, {row['precision']}: {sides}{ratio}{speed}"


def race(args):
    """One model in float32 and in TF32: a line of JSON each."""
    from benchmarks import step
    from benchmarks.tables import median_quartiles
    from tinylm2.cli.console import keep_memory
    from tinylm2.gpu import array_module

    keep_memory()
    xp, work = array_module("gpu"), sized((step.WORKLOADS | step.LARGE)[args.name], args.dry)
    for precision in ("float32", "TF32"):
        set_precision(precision, args.dry)
        sides = {"tinylm2": step.tinylm2_step(work, xp)}
        if args.other != "none":
            compiled = args.other == "compiled"
            sides["torch.compile" if compiled else "PyTorch"] = step.torch_step(work, xp, compiled=compiled)
        for side in sides.values():
            side()                                       # kernels are compiled, the memory pools grow
            side()
        taken = step.race(sides, 5 if args.dry else ROUNDS, time.perf_counter, least=0 if args.dry else 0.1, most=8)
        ratios = [a / b for a, b in zip(*taken.values(), strict=True)] if len(taken) == 2 else []
        print(json.dumps({"model": args.name, "precision": precision, "seconds": taken, "flops": work.products(),
                          "ratio": median_quartiles(ratios) if ratios else ""}), flush=True)


def sized(work, dry):
    """A workload, or a tiny one of its kind."""
    if not dry:
        return work
    cfg = replace(work.cfg, V=20, D=8, L=2, H=2, G=2, F=8, N=4, T=6)
    return replace(work, cfg=cfg, batch=3, last=cfg.T if work.products() else 2)


def set_precision(precision, dry):
    """float32 with all its digits, or TF32, on both sides: in matrix products alone."""
    if dry:
        return
    import cupy
    from cupy._core import _routines_linalg as products

    kind = products.COMPUTE_TYPE_TF32 if precision == "TF32" else products.COMPUTE_TYPE_DEFAULT
    products.set_compute_type(cupy.dtype("float32"), kind)
    with suppress(ImportError):
        import torch

        torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")


# ---------------------------------------------------------------------------------------------- d: launches and kernels


def launches(record, seconds, dry):
    """Operations per step, what the host waits for, time per kernel, and matrix products beside the peak."""
    from benchmarks import step
    from tinylm2.gpu import array_module

    xp = array_module("gpu")
    for name in ("tiny", "lm2-tiny", "large"):
        work = sized((step.WORKLOADS | step.LARGE)[name], dry)
        record.say(f"{name}: {operations(work)} array operations per step (counted on the fake CuPy), "
                   f"{waiting(work, xp)}")
        for line in kernels(work, xp, dry):
            record.say(f"{name}: {line}")
        pool = xp.get_default_memory_pool()
        record.say(f"{name}: CuPy's pool holds {pool.total_bytes() / 2**20:.0f} MiB")
        pool.free_all_blocks()
    products(record, xp, dry)
    return True


def operations(work):
    """Array operations of one step, as the fake CuPy counts them, on a batch as small as can be: it is the same."""
    from benchmarks import step
    from tests.support import fake_cupy

    work = replace(work, batch=2, cfg=replace(work.cfg, V=20, D=8, H=2, G=2, F=8, N=4, T=6),
                   last=min(work.last, 6))
    one = step.tinylm2_step(work, fake_cupy.xp)
    one()
    with fake_cupy.watch() as seen:
        one()
    return seen.operations.total()


def waiting(work, xp):
    """How a step's time is spent: launching, until the device is asked, and waiting for its answer."""
    from benchmarks import step
    from tinylm2.model import init_params
    from tinylm2.optim import AdamW
    from tinylm2.training.step import train_step

    params, batch, asked_at, spent = init_params(work.cfg, 0, xp=xp), work.draw(), [], []
    optimizer = AdamW(params)
    for _ in range(12):
        began = time.perf_counter()
        train_step(params, optimizer, batch, cfg=work.cfg, lr=step.LR,
                   meanwhile=lambda: asked_at.append(time.perf_counter()))
        spent.append((asked_at[-1] - began, time.perf_counter() - asked_at[-1]))
    launching, answer = (1e3 * median(part) for part in zip(*spent[2:], strict=True))
    return f"{launching:.2f} ms until the device is asked, {answer:.2f} ms until it has answered and moved on"


def kernels(work, xp, dry):
    """Launches and their time, by kernel, as PyTorch's profiler sees them: it sees CuPy's, too."""
    from benchmarks import machine, step

    if dry or not machine.has("torch"):
        return ["time per kernel: not measured, " + ("not with --dry" if dry else "PyTorch's profiler is missing")]
    import torch

    if not torch.cuda.is_available():
        return ["time per kernel: not measured, PyTorch finds no GPU"]
    torch.cuda.init()
    one = step.tinylm2_step(work, xp)
    one()
    one()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        one()
        xp.cuda.Device().synchronize()
    by_name = {}
    for event in seen.events():
        if event.device_type.name == "CUDA":
            count, spent = by_name.get(event.name, (0, 0.0))
            by_name[event.name] = count + 1, spent + event.time_range.elapsed_us()
    if not by_name:
        return ["time per kernel: not measured, PyTorch's profiler sees no kernel of CuPy's"]
    total, spent = (sum(x) for x in zip(*by_name.values(), strict=True))
    lines = [f"{total} kernels and copies in a step, {spent / 1e3:.2f} ms of the GPU's time"]
    for name, (count, each) in sorted(by_name.items(), key=lambda item: -item[1][1])[:8]:
        lines.append(f"{each / 1e3:8.3f} ms, {count:4d} times {name[:90]}")
    return lines


def products(record, xp, dry):
    """Matrix products of the large model beside the best square one."""
    import numpy as np

    from tinylm2.backend import to_device

    rng, n = np.random.default_rng(0), 64 if dry else PEAK
    shapes = {"square": (n, n, n), "D to D": (n, n // 8, n // 8), "D to F": (n, n // 8, n * 11 // 32),
              "weights": (n // 8, n, n * 11 // 32)}
    for precision in ("float32", "TF32"):
        set_precision(precision, dry)
        speeds = {}
        for name, (rows, inner, columns) in shapes.items():
            x = to_device(rng.standard_normal((rows, inner), np.float32), xp)
            W = to_device(rng.standard_normal((inner, columns), np.float32), xp)
            taken = []
            for _ in range(8):
                xp.cuda.Device().synchronize()
                began = time.perf_counter()
                for _ in range(4):
                    x @ W
                xp.cuda.Device().synchronize()
                taken.append((time.perf_counter() - began) / 4)
            speeds[name] = 2 * rows * inner * columns / median(taken[2:]) / 1e12
        peak = max(speeds.values())
        record.say(f"products in {precision}: " + ", ".join(
            f"{name} {'x'.join(map(str, shapes[name]))} {speed:.1f} TFLOP/s ({100 * speed / peak:.0f} %)"
            for name, speed in speeds.items()))
        record.save(**{precision: speeds})


# --------------------------------------------------------------------------------------------------- e: a long training


def joint(record, seconds, dry):
    """The experiment `joint`, budget medium, for as long as there is time; FOLDER/joint.npz, saved often, goes on."""
    from experiments import joint as experiment
    from experiments.runner import DEVELOPMENT, evaluate, generated
    from tinylm2.training import checkpoint
    from tinylm2.training.curriculum import WINDOW

    budget = experiment.EXPERIMENT.budgets["quick" if dry else "medium"]
    path = record.path.with_name("joint.npz")
    trainer, meta = joint_trainer(budget, path)
    began, saved, losses, accuracies = trainer.progress.step, time.monotonic(), [], []
    record.say(f"{trainer.params.buffer.size} parameters, from step {began}")

    def save():
        meta["seconds"] += time.monotonic() - meta.pop("since")
        meta["since"] = time.monotonic()
        kept = {key: value for key, value in meta.items() if key != "since"}
        checkpoint.save(path, trainer.params, trainer.moments, {**kept, "progress": trainer.progress.state()})
        checkpoint.previous(path).unlink(missing_ok=True)                # a lender takes back a few files only
        record.save(curve=meta["curve"], step=trainer.progress.step)

    for metrics in trainer.steps():
        losses.append(metrics["loss"])
        accuracies.append(metrics["accuracy"])
        if metrics["step"] % 200 == 199:
            meta["curve"].append([metrics["step"] + 1, round(sum(losses[-200:]) / len(losses[-200:]), 4),
                                  round(sum(accuracies[-200:]) / len(accuracies[-200:]), 4)])
        if time.monotonic() - saved > 15:
            save()
            saved = time.monotonic()
        if record.seconds() > 0.85 * seconds - 5:
            break
    save()
    count = trainer.progress.step - began
    recent = losses[-WINDOW:] or [float("nan")]
    record.say(f"{count} steps at {count / max(record.seconds(), 1e-9):.0f} per second, to step "
               f"{trainer.progress.step}; last losses {sum(recent) / len(recent):.3f}; the file has "
               f"{path.stat().st_size / 2**20:.1f} MiB")
    examples = generated(budget["tasks"], 2 if dry else 50, DEVELOPMENT)
    scores = evaluate(trainer.params, examples, [0], cfg=trainer.cfg, seed=DEVELOPMENT)["0"]
    accuracy = {task: score["accuracy"] for task, score in scores.items()}
    record.save(accuracy=accuracy)
    record.say(f"{sum(a >= experiment.PASS for a in accuracy.values())} of {len(accuracy)} tasks pass 95 %: "
               + ", ".join(f"{task} {a:.2f}" for task, a in accuracy.items()))
    return True


def joint_trainer(budget, path):
    """(Trainer, what a file must hold beside it): a new one, or the one of FOLDER/joint.npz."""
    from experiments.baselines import baseline
    from experiments.runner import language
    from tinylm2.data import TASKS, Stories
    from tinylm2.gpu import array_module
    from tinylm2.model import Config, init_params
    from tinylm2.training import checkpoint
    from tinylm2.training.curriculum import growing
    from tinylm2.training.trainer import Trainer

    xp = array_module("gpu")
    tokenizer, filler = language()
    cfg = baseline("lm2", Config(V=tokenizer.size, **budget["model"]))
    stories = Stories([TASKS[name] for name in budget["tasks"]], tokenizer=tokenizer, filler=filler, seed=0,
                      weights=[budget["weights"].get(name, 1) for name in budget["tasks"]])
    params, moments, meta = init_params(cfg, 0, xp=xp), None, {"curve": [], "seconds": 0.0}
    if path.exists():
        params, moments, meta = checkpoint.load(path, xp=xp)
    trainer = Trainer(params, cfg=cfg, stories=stories, max_lr=budget["lr"],
                      stages=growing(budget["grow"], segment_len=cfg.T, batch_size=budget["batch_size"]))
    if moments:
        trainer.restore(moments, meta.pop("progress"))
    return trainer, {**meta, "since": time.monotonic()}


PARTS = {"machine": the_machine, "a": tests, "b": default_run, "c": beside_pytorch, "d": launches, "e": joint}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=(*PARTS, "race"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--name", help="race: which model")
    parser.add_argument("--other", choices=("none", "eager", "compiled"), help="race: which PyTorch")
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args(argv)
    if args.dry:
        import tests.support.pretend_gpu  # noqa: F401  (before all that asks for CuPy)
    if args.part == "race":
        race(args)
        return 0
    record = Record(args.out / f"{args.part}.json")
    faulthandler.dump_traceback_later(max(args.seconds - 3, 1))          # before it is stopped: where it stands
    try:
        passed = PARTS[args.part](record, args.seconds, args.dry)
    except Exception as error:                           # whatever went wrong, the other parts are to run
        record.save(traceback=traceback.format_exc()[-4000:])
        record.say(f"FAILED: {type(error).__name__}: {error}"[:300])
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
