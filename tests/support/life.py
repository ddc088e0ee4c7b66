"""A run's folder lives through anything, in any order: training, kills, resumes, overwriting, evaluation, damage, two
processes at once and a full disk. A state machine of hypothesis, which makes a failing order short.

After every event the folder is copied, and the copy is resumed. Then one of two must hold: the copy ends with the files
of an undisturbed run of its seed, or one line says why not, and that only after damage or where nothing was begun.
What nobody asked to remove is there, and no step that a checkpoint held is lost.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.support import crash
from tinylm2.errors import BadInput
from tinylm2.training import run_dir

SEEDS = 0, 1
NOTES = "notes.txt"                                      # a file of the user's own in the folder
KILLED = -signal.SIGKILL


def forked(*argv, die_at=None, most=None):
    """Begin a command in a child that has all modules already; most: bytes that its files may have. -> (id, pipe)."""
    read, write = os.pipe()                              # no file: that could be as full as the others
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    status = 70
    try:
        os.dup2(write, 1)
        os.dup2(write, 2)
        sys.stdout, sys.stderr = (open(i, "w", encoding="utf-8", closefd=False) for i in (1, 2))       # noqa: SIM115
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        if argv[0] == "train":
            status, _ = crash.child([*argv[1:], *crash.ARGUMENTS], die_at)
        else:
            from tinylm2.__main__ import main
            status = main(list(argv))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def ended(child, read):
    """(status, what was said) of a forked command."""
    with open(read, encoding="utf-8", errors="replace") as file:
        said = file.read().strip()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@cache
def undisturbed(seed):
    """The files that a run of this seed ends with."""
    home = Path(tempfile.mkdtemp(prefix="tinylm2-life-"))
    status, said = ended(*forked("train", "--out", str(home / "run"), "--seed", str(seed)))
    assert status == 0, said
    found = {name: (home / "run" / name).read_bytes() for name in crash.RESULTS}
    shutil.rmtree(home)
    return found


class Life(RuleBasedStateMachine):
    """One folder and all that happens to it."""

    @initialize()
    def begin(self):
        self.home = Path(tempfile.mkdtemp(prefix="tinylm2-life-"))
        self.run = self.home / "run"
        self.run.mkdir()
        (self.run / NOTES).write_text("mine")
        self.seeds, self.damaged = set(), set()
        for seed in SEEDS:
            undisturbed(seed)

    def teardown(self):
        shutil.rmtree(self.home, ignore_errors=True)

    # -------------------------------------------------------------------------------------------------------- events

    deaths = st.none() | st.integers(1, 2500)            # a line of the code that saves
    rooms = st.none() | st.none() | st.integers(0, 100_000)

    @rule(seed=st.sampled_from(SEEDS), die_at=deaths, most=rooms)
    def start(self, seed, die_at, most):
        self.commands([self.fresh(seed, die_at, most)])

    @rule(die_at=deaths, most=rooms)
    def resume(self, die_at, most):
        self.commands([(["--resume"], die_at, most)])

    @rule(seed=st.sampled_from(SEEDS), die_at=deaths, most=rooms)
    def overwrite(self, seed, die_at, most):
        self.commands([(["--overwrite", *self.fresh(seed, die_at, most)[0]], die_at, most)])

    @rule(die_at=deaths, more=st.sampled_from(["start", "resume", "overwrite"]), seed=st.sampled_from(SEEDS))
    def two_at_once(self, die_at, more, seed):
        argv = {"start": ["--seed", str(seed)], "resume": ["--resume"],
                "overwrite": ["--overwrite", "--seed", str(seed)]}[more]
        self.seeds |= set() if more == "resume" else {seed}
        self.commands([(argv, die_at, None), (["--resume"] if more == "resume" else argv, None, None)])

    @precondition(lambda self: (self.run / "model.npz").exists())
    @rule(most=rooms)
    def evaluate(self, most):
        before = self.contents()
        status, said = ended(*forked("evaluate", str(self.run), "--lengths", "0", "--questions", "2",
                                     "--out", str(self.run / "table.json"), most=most))
        assert status == 0 or self.one_line(status, said), said
        after = self.contents()
        assert {name: after.get(name) for name in before if name not in ("table.json", "table.md")} == {
            name: raw for name, raw in before.items() if name not in ("table.json", "table.md")}
        if "table.json" in after:
            json.loads(after["table.json"])              # whole, the old one or the new one

    @precondition(lambda self: any((self.run / name).exists() for name in run_dir.FILES))
    @rule(data=st.data())
    def damage(self, data):
        name = data.draw(st.sampled_from([name for name in run_dir.FILES if (self.run / name).exists()]))
        path, how = self.run / name, data.draw(st.sampled_from(["remove", "cut", "change", "device"]))
        raw = path.read_bytes() if path.is_file() else b""
        path.unlink()
        if how == "cut":
            path.write_bytes(raw[:data.draw(st.integers(0, len(raw)))])
        elif how == "change" and raw:
            at = data.draw(st.integers(0, len(raw) - 1))
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1:])
        elif how == "device":
            path.symlink_to("/dev/zero")
        self.damaged.add(name)
        self.check(before=0)

    def fresh(self, seed, die_at, most):
        self.seeds.add(seed)
        return ["--seed", str(seed)], die_at, most

    # -------------------------------------------------------------------------------------------------------- checks

    def commands(self, trainings):
        """Train once, or twice at the same time, and check what was said and what is left."""
        before, step = self.contents(), self.step()
        begun = [(argv, forked("train", "--out", str(self.run), *argv, die_at=die_at, most=most))
                 for argv, die_at, most in trainings]
        results = [(argv, *ended(*process)) for argv, process in begun]
        for argv, status, said in results:
            assert status in (0, KILLED) or self.one_line(status, said), (argv, status, said)
        if not any("--overwrite" in argv or "--resume" in argv for argv, _, _ in results):
            allowed = 0 if any(name in before for name in run_dir.FILES) else 1
            assert [status for _, status, _ in results].count(0) <= allowed, "a run was replaced unasked"
        if len(results) == 2 and KILLED not in (status for _, status, _ in results):
            assert not all("another process" in said for _, _, said in results), results
        if all(status == 2 and "cannot be written" not in said for _, status, said in results):
            assert self.contents() == before             # refused: untouched
        overwritten = any("--overwrite" in argv for argv, _, _ in results)
        if overwritten and any(status != 2 for _, status, _ in results):
            self.damaged = {name for name in self.damaged if (self.run / name).is_symlink()}
        self.check(before=0 if overwritten else step)

    def one_line(self, status, said):
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        return status == 2 and len(lines) == 1 and "Traceback" not in said

    def contents(self):
        return {path.name: path.read_bytes() for path in self.run.iterdir() if path.is_file()
                and ".tmp" not in path.name}

    def step(self):
        """The step that the folder's checkpoint holds; 0 where it has none that can be read."""
        with contextlib.suppress(BadInput):
            return run_dir.load(self.run)[2]["step"]
        return 0

    def check(self, before):
        """The promise."""
        assert (self.run / NOTES).read_text() == "mine"
        assert self.step() >= before or self.damaged, "a checkpoint went back"
        copy = self.home / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.run, copy, symlinks=True)
        status, said = ended(*forked("train", "--out", str(copy), "--resume"))
        if status:
            assert self.one_line(status, said), said
            assert self.damaged or not any((copy / name).exists() for name in run_dir.FILES), said
            return
        assert not list(copy.glob("*.tmp"))
        seed = json.loads((copy / "config.json").read_text())["settings"]["seed"]
        assert seed in self.seeds
        for name, raw in undisturbed(seed).items():
            if name != "metrics.jsonl" or not self.damaged:
                assert (copy / name).read_bytes() == raw, f"{name} differs from an undisturbed run's"


def live(count, steps=12, **more):
    """So many lives of so many events; AssertionError with the first fault."""
    run_state_machine_as_test(Life, settings=settings(
        max_examples=count, stateful_step_count=steps, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=more.pop("phases", [Phase.generate]), **more))
