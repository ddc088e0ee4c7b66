"""A folder lives through training, kills, damage, two processes and a full disk in any order (support/life.py)."""

import sys

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install -e '.[test]'")
pytest.importorskip("resource", reason="this system has no limits of resources")

from tests.support import crash, life  # noqa: E402
from tinylm2 import files  # noqa: E402
from tinylm2.training import run_dir  # noqa: E402

LIVES = 3                                                # `python -m tests.full lives` lives a hundred

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="processes are forked"),
              pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]


def test_whatever_happens_to_a_folder_a_run_is_whole_or_says_why_not():
    life.live(LIVES, steps=6)


def lived(*events):
    """One life of these events, written down."""
    one = life.Life()
    one.begin()
    try:
        for name, more in events:
            getattr(one, name)(**more)
    finally:
        one.teardown()


CLAIM = run_dir.RunDir.claim
WHOLE = ("start", {"seed": 0, "die_at": None, "most": None})
CUT = ("start", {"seed": 0, "die_at": 1200, "most": None})
ALL = (
    CUT,
    ("resume", {"die_at": None, "most": 30_000}),
    ("resume", {"die_at": 900, "most": None}),
    ("resume", {"die_at": None, "most": None}),
    ("evaluate", {"most": 40}),
    ("two_at_once", {"die_at": None, "more": "resume", "seed": 0}),
    ("overwrite", {"seed": 1, "die_at": None, "most": None}),
)


def test_a_life_of_one_of_each_event_holds():
    lived(*ALL)


@pytest.mark.parametrize(("where", "name", "planted", "events"), [
    (run_dir.RunDir, "claim", lambda self, overwrite: CLAIM(self, overwrite=True), (WHOLE, ("start", {
        "seed": 1, "die_at": None, "most": None}))),
    (files, "temporary_of", lambda path: path.with_name(path.name), (WHOLE, ("evaluate", {"most": None}), (
        "evaluate", {"most": 40}))),
], ids=["overwrites unasked", "no temporary file"])
def test_a_planted_fault_is_seen(monkeypatch, where, name, planted, events):
    life.undisturbed(0)
    life.undisturbed(1)
    monkeypatch.setattr(where, name, planted)
    with pytest.raises((AssertionError, ValueError, OSError)):
        lived(*events)


def test_the_children_train_as_the_program_does(tmp_path):
    """A forked training leaves the files of one that was started from a shell."""
    with open(tmp_path / "log", "w") as log:
        assert crash.start(tmp_path / "run", log=log).wait() == 0
    for name, raw in life.undisturbed(0).items():
        assert (tmp_path / "run" / name).read_bytes() == raw
