"""Kill a training run, again and again, resume it, and compare what comes out with an undisturbed run's.

    python -m tests.support.crash RUN ARGUMENTS...       train_tiny.py with a curriculum of seconds, to be killed

Half of the kills come from outside, after a random time; the other half strike at a random line of the very code that
saves (checkpoint.py, files.py, run_dir.py, loop.py and the standard library's zipfile, line by line), where a clock
would seldom hit. In a third of them a second process wants the same folder at the same time: one of the two trains, the
other one says so in a line.
"""

import filecmp
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAVING = ("tinylm2/files.py",
          "training/checkpoint.py", "training/run_dir.py", "training/loop.py", "zipfile.py", "zipfile/__init__.py")
STEPS = 12                                               # 4 of each stage
ARGUMENTS = ("--device", "cpu", "--hidden-size", "8", "--ff", "12", "--slots", "4", "--segments", "2",
             "--eval-segments", "2", "--save-every", "1")
RESULTS = ("model.npz", "metrics.jsonl", "evaluation.json", "config.json", "tokenizer.json")


# ------------------------------------------------------------------------------------------------------- what is killed


def curriculum(**_):
    """Three stages of a few steps, in the place of those that teach."""
    from tinylm2.data import HaystackSampler
    from tinylm2.training.curriculum import Stage

    return (Stage("A", HaystackSampler(facts=(2,), segment_len=16, filler=False), 4, STEPS // 3),
            Stage("A2", HaystackSampler(facts=(2,)), 4, STEPS // 3),
            Stage("B", HaystackSampler(facts=(2,), segments=(2,), gap=0.7), 4, STEPS // 3))


def child(argv, die_at=None):
    """`train` as it is, but for curriculum, filler, number of questions, and a line at which it may be killed."""
    from tests.support import small
    from tinylm2.__main__ import main
    from tinylm2.cli import train
    from tinylm2.training import material, trained_model

    trained_model.curriculum, material.GrammarFiller, train.QUESTIONS = curriculum, small.FewSentences, 20
    counter = _Counter(die_at)
    if die_at is not None:
        sys.settrace(counter.calls)
    try:
        return main(["train", *argv]), counter.lines
    finally:
        sys.settrace(None)


class _Counter:
    """Counts the lines of the code that saves, and kills the process at one of them. A trace function for sys."""

    def __init__(self, die_at):
        self.lines, self.die_at = 0, die_at

    def calls(self, frame, event, arg):
        return self.count if frame.f_code.co_filename.endswith(SAVING) else None

    def count(self, frame, event, arg):
        self.lines += 1
        if self.lines == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.count


def start(folder, *more, die_at=None, log):
    """The child process."""
    argv = ["--out", str(folder), *ARGUMENTS, *more]
    appointed = [] if die_at is None else ["--die-at", str(die_at)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen([sys.executable, "-m", "tests.support.crash", *appointed, *argv], cwd=ROOT, env=environment,
                            stdout=log, stderr=subprocess.STDOUT)


# -------------------------------------------------------------------------------------------------------------- harness


def undisturbed(folder, log):
    """Train without a kill. -> (seconds it took, lines of the code that saves)."""
    began = time.perf_counter()
    assert start(folder, log=log).wait() == 0, "an undisturbed run failed"
    seconds = time.perf_counter() - began
    counted = Path(f"{folder}.counted")
    assert start(counted, die_at=0, log=log).wait() == 0
    lines = int(log_tail(log).rpartition("lines ")[2])
    assert not different(folder, counted), "two undisturbed runs differ"
    return seconds, lines


def log_tail(log):
    return Path(log.name).read_text(encoding="utf-8").strip()


def different(one, other):
    """The names of what two runs left behind differently."""
    return filecmp.cmpfiles(one, other, RESULTS, shallow=False)[1] + filecmp.cmpfiles(one, other, RESULTS)[2]


def begun(folder):
    """Had the run written what it can be resumed from? Before, nothing is there to lose: it starts as at first."""
    return (folder / "config.json").exists()


def kills(count, *, seed=0, chain=4, show=print):
    """Kill `count` times, in chains: run, kill, resume, kill, ... then resume to the end and compare.

    -> (kills, of them inside the code that saves, of them beside a second process, chains, what went wrong as text).
    """
    rng, faults = random.Random(seed), []
    home = Path(tempfile.mkdtemp(prefix="tinylm2-kills-"))
    done = inside = beside = chains = 0
    try:
        with open(home / "log", "w", encoding="utf-8") as log:
            seconds, lines = undisturbed(home / "undisturbed", log)
            while done < count:
                folder, chains = home / f"chain{chains}", chains + 1
                in_chain = min(chain, count - done)
                finished = False
                while in_chain and not finished:
                    more = ["--resume"] if begun(folder) else []
                    by_line, second = rng.random() < 0.5, None
                    process = start(folder, *more, log=log, die_at=rng.randrange(1, lines // 2) if by_line else None)
                    lives = rng.uniform(0, seconds)
                    if rng.random() < 1 / 3:
                        time.sleep(wait := rng.uniform(0, lives))
                        second, lives = _Second(folder, more, home / "second"), lives - wait
                    if not by_line:
                        time.sleep(lives)
                        process.kill()
                    status = process.wait()
                    if second:
                        faults += [f"chain {chains}: {fault}" for fault in second.end()]
                        if status == 2 and second.trained:               # the second one was first
                            status = 0
                    finished = status == 0               # it was done before death came
                    if status == -signal.SIGKILL:
                        done, inside, in_chain = done + 1, inside + by_line, in_chain - 1
                        beside += second is not None
                    elif status:
                        faults.append(f"chain {chains}: status {status}: {log_tail(log)[-300:]}")
                        finished = True
                status = start(folder, *(["--resume"] if begun(folder) else []), log=log).wait()
                if status:
                    faults.append(f"chain {chains}: resuming ended with status {status}: {log_tail(log)[-300:]}")
                elif names := different(home / "undisturbed", folder):
                    faults.append(f"chain {chains}: {', '.join(names)} differ from an undisturbed run's")
                shutil.rmtree(folder, ignore_errors=True)
                show(f"{done} of {count} kills, {inside} of them inside saving, {len(faults)} faults")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return done, inside, beside, chains, faults


class _Second:
    """A process that wants the folder of another one. It trains if the other one is not there yet, or not any more."""

    def __init__(self, folder, more, log):
        self.log, self.trained = log, False
        with open(log, "w", encoding="utf-8") as file:
            self.process = start(folder, *more, log=file)

    def end(self):
        """What it did wrong, as texts."""
        status = self.process.wait()
        self.trained = status == 0
        said = self.log.read_text(encoding="utf-8").strip()
        refused = status == 2 and said.startswith("error: ") and "\n" not in said and "found another " in said
        if not self.trained and not refused:
            yield f"the second process ended with status {status}: {said[-300:]}"


if __name__ == "__main__":
    arguments, at = sys.argv[1:], None
    if arguments[0] == "--die-at":
        at, arguments = int(arguments[1]), arguments[2:]
    status, counted = child(arguments, at)
    if at is not None:
        print("lines", counted)
    sys.exit(status)
