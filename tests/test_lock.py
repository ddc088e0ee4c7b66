"""requirements.lock, which .ci/run installs: it has every package that the project names, each with the hashes of its
files, so that a package changed by anybody is refused."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
NOT_LOCKED = {"mpi", "gpu", "gguf", "hf"}                # .ci/run installs MPI where it can; torch too


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked():
    """Name -> the lines of its entries: a package may have one version for old Pythons and one for new ones."""
    found, name = {}, None
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([\w.-]+)==\S+", line):
            name = plain(match[1])
            found.setdefault(name, [])
        if name:
            found[name].append(line)
    return found


def test_every_package_that_the_project_names_is_locked():
    tomllib = pytest.importorskip("tomllib", reason="this Python reads no TOML (3.11 and later do)")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    named = [*project["project"]["dependencies"], *project["build-system"]["requires"],
             *(ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n"),
             *(package for extra, packages in extras.items() if extra not in NOT_LOCKED for package in packages)]
    names = {plain(re.match(r"[\w.-]+", package)[0]) for package in named if package.strip()}
    assert not names - locked().keys()


def test_every_entry_has_hashes():
    entries = locked()
    assert len(entries) > 50
    for name, lines in entries.items():
        versions = [line for line in lines if "==" in line and not line.startswith(" ")]
        hashes = [line for line in lines if re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line)]
        assert len(hashes) >= len(versions), name
        assert len(hashes) + len(versions) == len(lines), name


def test_ci_installs_what_is_locked_and_nothing_else_from_the_project():
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip --require-hashes -r requirements.lock" in text
    assert "pip --no-deps --no-build-isolation -e ." in text
