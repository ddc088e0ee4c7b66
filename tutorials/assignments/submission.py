"""Read a student's file once: what is graded is what was read, and a file of the library is no solution."""

import hashlib
import re
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tinylm2.errors import BadInput
from tutorials.assignments import handout
from tutorials.assignments.feedback import printable

SIZE_LIMIT = 1 << 20                                     # bytes of a student's file
COMPLEX = re.compile(rb"\b\d[\d.]*(e[+-]?\d+)?j\b|\bcomplex|\.imag\b|\bc(single|double)\b", re.IGNORECASE)
SHORTEST, FEWEST, SHARE = 12, 3, 0.8                     # of the library's lines that make a copy: see `_copied_from`


@dataclass(frozen=True)
class Submission:
    """problem: why the file is not graded, or "".  note: what a teacher may want to look at; it costs no points."""

    name: str
    source: bytes
    problem: str = ""
    note: str = ""

    @property
    def digest(self):
        return hashlib.sha256(self.source).hexdigest()


def read(path, assignment):
    """The student's file.  Raises BadInput where there is none."""
    path = Path(path)
    name = " ".join(printable(path.name, 60).split())
    if not path.exists():
        raise BadInput(f"{path}: found no such file, expected a solution")
    if not stat.S_ISREG(path.stat().st_mode):
        raise BadInput(f"{path}: found no regular file, expected a solution")
    with path.open("rb") as file:
        source = file.read(SIZE_LIMIT + 1)
    problem = ""
    if len(source) > SIZE_LIMIT:
        problem = f"it has more than {SIZE_LIMIT} bytes"
    elif handout.LIBRARY in path.resolve().parents:
        problem = f"it is the library's own file {path.resolve().name}"
    elif original := _copied_from(source, assignment):
        problem = f"it is a copy of the library's file {original}"
    return Submission(name, source, problem and f"{name} is not graded: {problem}", _note(source, assignment))


def _note(source, assignment):
    """Where the file uses complex numbers, beside the lines that the handout gives: a complex step takes slopes to the
    last digit, without any derivation."""
    given = frozenset(handout.students_file(assignment).encode().splitlines())
    lines = [str(i) for i, line in enumerate(source.splitlines(), 1)
             if line not in given and COMPLEX.search(line.partition(b"#")[0])]
    return f"note: it uses complex numbers, at line {', '.join(lines[:5])}" if lines else ""


def _copied_from(source, assignment):
    """The library's file that this is a copy of, or "".

    It is one if it holds most lines of a file of the library that do not belong to the assignment's own solution. The
    lines are compared as text: a hostile file must not be parsed in the grader's process.
    """
    mine = _lines(source.decode("utf-8", "replace"))
    return next((name for name, lines in _foreign_lines(assignment) if len(lines & mine) >= SHARE * len(lines)), "")


@cache
def _foreign_lines(assignment):
    """(file, its lines that are not in the assignment's solution) for each file of the library."""
    own = _lines(handout.students_file(assignment, solved=True))
    files = [(path.name, _lines(path.read_text(encoding="utf-8")) - own)
             for path in sorted(handout.LIBRARY.rglob("*.py"))]
    return [(name, lines) for name, lines in files if len(lines) >= FEWEST]


def _lines(text):
    stripped = ("".join(line.partition("#")[0].split()) for line in text.splitlines())
    return frozenset(line for line in stripped if len(line) >= SHORTEST)
