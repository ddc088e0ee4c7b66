"""Every cheat and attack of tutorials/assignments/cheats.py: it earns nothing, is named, and harms nobody.

A subset runs in plain `python -m pytest`; `-m long` or the name of this file runs all.
"""

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from tutorials.assignments.cheats import CHEATS, FORWARD
from tutorials.assignments.client import Limits

CORE = CHEATS[::6]


def processes():
    """The numbers of all processes, with the start of their command."""
    if not sys.platform.startswith("linux"):
        return {}
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(path.parent.name)] = path.read_bytes()
        except OSError:
            continue
    return found


def state_of_this_process():
    """What an attack on the grader would change."""
    if not sys.platform.startswith("linux"):
        return ()
    import resource
    limits = [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
    return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), limits


def check(cheat, folder):
    """Grade a cheat and look at everything that must hold."""
    if cheat.wall and not sys.platform.startswith("linux"):
        pytest.skip("this limit is Linux's")
    before, began = state_of_this_process(), time.monotonic()
    with patch.object(tempfile, "tempdir", str(folder)):                 # workers of other graders are not ours
        report = cheat.grade(folder, seed=1)
    text, tree = str(report), json.dumps(report.as_json())
    if cheat.wall and cheat.wall not in (report.walls or []):
        pytest.skip(f"this system does not limit {cheat.wall}")
    assert report.points <= cheat.earned, text
    assert re.search(cheat.report, text), text
    assert time.monotonic() - began < cheat.limits.total + 5, text
    assert state_of_this_process() == before
    lines = text.split("\n")
    assert all(line.isprintable() and len(line) <= 600 for line in lines), text
    assert len(lines) <= 100
    assert len(tree) < 100_000
    assert len([line for line in lines if re.match(r"all +\d+ of \d+$", line)]) == 1
    assert [line for line in lines if line.endswith("100 of 100")] == []
    ours = str(folder).encode()
    left = [number for number, command in processes().items() if ours in command and b"worker.py" in command]
    assert not left, "a worker is left"
    return report


@pytest.mark.parametrize("cheat", CORE, ids=str)
def test_a_cheat_earns_nothing_and_is_named(cheat, tmp_path):
    check(cheat, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("cheat", [cheat for cheat in CHEATS if cheat not in CORE], ids=str)
def test_every_other_cheat_earns_nothing_and_is_named(cheat, tmp_path):
    check(cheat, tmp_path)


def test_there_are_enough_and_each_is_its_own():
    assert len({str(cheat) for cheat in CHEATS}) == len(CHEATS) >= 80


@pytest.mark.long
def test_complex_steps_are_too_slow_in_proportion_to_the_library(tmp_path):
    """Also for a grader that waits longer, and on a fast machine."""
    cheat = next(cheat for cheat in CHEATS if "complex plane" in cheat.trick)
    report = cheat.grade(tmp_path, seed=1, limits=Limits(seconds=60.0, total=120.0))
    assert report.points == FORWARD, str(report)
