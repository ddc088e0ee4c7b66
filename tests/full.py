"""The full figures of docs/TRUST.md, each by its name; what plain pytest and CI run is a tenth or a sample of them.

    python -m tests.full kills | ranks | lives | fuzz | mutants | configurations | lessons | bank | page |
                         coverage | bits
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


def kills(count=1000):
    """Kill a training run so many times, resume it, compare it with an undisturbed one."""
    from tests.support import crash

    done, inside, beside, chains, faults = crash.kills(count, seed=int(time.time()), show=say)
    print(*faults, sep="\n")
    return (f"{done} kills, {inside} of them inside saving, {beside} with a second process at the folder; {chains} "
            f"runs resumed, {len(faults)} faults", not faults)


def ranks(count=50):
    """Kill one rank of a training on two or four ranks so many times, and resume it on another number."""
    from tests.support import ranks

    if ranks.lacking():
        return ranks.lacking(), False
    done, chains, slowest, faults = ranks.kills(count, show=say)
    print(*faults, sep="\n")
    return (f"{done} killed ranks, {chains} runs resumed to the end, {len(faults)} faults, a job ended at most "
            f"{slowest:.1f} s after a kill", not faults)


def lives(count=100):
    """So many folders, each of which lives through twelve random events."""
    from tests.support import life

    try:
        life.live(count)
    except AssertionError as error:
        return f"a fault: {error}", False
    return f"{count} lives of 12 events, 0 faults", True


def fuzz(count=100_000):
    """Give the commands so many cases of bad input."""
    from tests import test_fuzz
    from tests.support import fuzz

    with tempfile.TemporaryDirectory() as home:
        ground = fuzz.Ground(home)
        try:
            for done in range(0, count, 500):           # in parts: a stopped test says how far it came
                test_fuzz.run(ground, min(500, count - done))
                say(f"{ground.seen.total()} of {count} cases, 0 faults")
        except AssertionError as error:
            return f"a fault: {error}", False
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(ground.seen.items()))
    return f"{ground.seen.total()} cases ({kinds}), 0 faults, at most {memory:.0f} MB", memory < 1000


def mutants(count=10**9, module=None):
    """Plant one error at a time in the numeric core, or in a module that keeps runs or grades, or so many of them."""
    from tests.support import mutants

    tried, survivors = mutants.run(count, show=say, modules=[module] if module else mutants.MODULES)
    print(*survivors, sep="\n")
    return (f"{tried} mutants of {module or 'the numeric core'}, {tried - len(survivors)} killed "
            f"({1 - len(survivors) / tried:.1%})", not survivors)


def configurations(count=300):
    """Compare so many random configurations with PyTorch."""
    import numpy as np

    from tests import test_parity_torch
    from tinylm2.memories import MEMORIES

    names, found = tuple(MEMORIES), []
    for seed in range(count):
        found.append(test_parity_torch.disagreement(np.random.default_rng([18, seed]), names[seed % len(names)])[0])
        if found[-1] >= 1e-10:
            say(f"seed {seed}, {names[seed % len(names)]}: {found[-1]:.1e}")
    return f"{count} configurations of {len(names)} memories, at most {max(found):.1e} apart", max(found) < 1e-10


def lessons():
    """Every lesson as a user runs it."""
    from tests import test_lessons

    failed = test_lessons.run_as_scripts()
    return f"{len(test_lessons.LESSONS)} lessons", not failed


def bank():
    """The course: every assignment with its reference answers and its wrong ones."""
    from tests import test_assignments

    failed = test_assignments.run_bank()
    return "the bank of answers", not failed


def page(count=200):
    """Compare the page's own model, in a browser, with Python on so many stories, with edits and operations."""
    from tests import test_page_model
    from tests.support import browser

    if why := browser.missing():
        return why, False
    with tempfile.TemporaryDirectory() as home, browser.chromium(Path(home)) as tab:
        try:
            float32, float64 = test_page_model.parity(tab, count, show=say)
        except AssertionError as error:
            return f"a fault: {error}", False
    return f"{count} stories; at most {float32:.1e} from float32 (trained runs), {float64:.1e} from float64", True


def coverage(least=95):
    """Lines and branches of tinylm2/ that the suite and its fuzz take, in this process and in those that they start."""
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "rc").write_text(f"[run]\nbranch = true\nsource = tinylm2\nparallel = true\npatch = subprocess\n"
                                       f"data_file = {home}/data\n")

        def run(command, *more):
            return subprocess.call([sys.executable, "-m", "coverage", command, f"--rcfile={home}/rc", *more], cwd=ROOT)

        without = [f"--ignore=tests/test_{name}.py" for name in ("lessons", "assignments")]
        without.append("--deselect=tests/test_crash.py::test_a_file_that_may_not_grow_ends_in_one_line_and_status_2")
        tests = run("run", "-m", "pytest", "-q", "tests", *without)      # there coverage's own file may not grow either
        run("combine", "-q")
        report = run("report", "--show-missing", "--skip-covered", "--precision=1", f"--fail-under={least}")
    found = "at least" if not report else "less than"
    return f"{found} {least} % of lines and branches{', but tests failed' if tests else ''}", not tests and not report


def bits():
    """Train and answer as tests/support/bits.json was written: the same machine must give the same bits."""
    from tests.support import bits

    moved = bits.compare(bits.measure(show=say), json.loads(bits.KEPT.read_text(encoding="utf-8")))
    print(*moved, sep="\n")
    return f"{len(bits.CASES)} cases, {len(moved)} figures moved", not moved


def say(line):
    print(line, flush=True)


FIGURES = {f.__name__: f for f in (kills, ranks, lives, fuzz, mutants, configurations, lessons, bank, page, coverage,
                                   bits)}


def main(argv=None):
    from benchmarks import machine
    from tinylm2.cli.console import whole

    parser = argparse.ArgumentParser(prog="python -m tests.full", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=FIGURES)
    parser.add_argument("--count", type=whole(1), help="how many kills, cases, mutants or stories")
    parser.add_argument("--module", help="of mutants: a module that tests/support/mutants.py names")
    args = parser.parse_args(argv)
    began = time.perf_counter()
    given = {name: value for name, value in (("count", args.count), ("module", args.module)) if value}
    figure, good = FIGURES[args.name](**given)
    print(f"{args.name}: {figure}; {time.perf_counter() - began:.0f} s; {machine.in_short()}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
