"""Grade a class: a folder or an archive of submissions of any names, some at a time, with one seed.

Every file is graded by a process of its own, which is the command for one file. A submission that harms its grader, or
runs into a limit, costs nobody else anything. What cannot be opened gets a report, too, which says why.
"""

import base64
import bisect
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import combinations
from pathlib import Path

from tinylm2.errors import BadInput
from tutorials.assignments import handout, intake
from tutorials.assignments.feedback import printable

HERE = Path(__file__).resolve().parent
FILE_LIMIT = 32 << 20                                    # bytes of one file in a submission, an archive included
FILES_LIMIT = 20_000                                     # files of one submission, or submissions of a class
GRACE = 90                                               # seconds that a grader has beside the time of its file
NOT_THEIRS = ("check.py", "checking.py")                 # of a handout, beside its tinylm2/
MOODLE = re.compile(r"(.+)_(\d+)_assignsubmission_\w*?_")                        # "Ann Lee_4711_assignsubmission_file_"
STOPPED = re.compile(r"it was stopped|it ended the process|not run: |seconds for the whole file|GiB of memory")
CONSEQUENCE = re.compile(r"not judged|no points|not run|its contract is kept|.* in spite of that")       # of a mistake
NUMBER = re.compile(r"(?<!\w)-?\d+(\.\d+)?(e[+-]?\d+)?(?!\w)")
ALIKE = 0.8                                              # from here on two functions are reported as similar
LONG_ENOUGH = 12                                         # pieces of a function's tree: shorter ones are alike by chance
PAIRS = 1000                                             # of similar functions that are kept, the most similar ones


@dataclass
class Submission:
    """What one student handed in: files as (path, bytes), or the problem that kept them from being read.

    identifier: Moodle's number of the participant, or "".  time: seconds since 1970, of the newest file.
    """

    student: str
    identifier: str = ""
    files: list[tuple[str, bytes]] = field(default_factory=list)
    time: float = 0.0
    problem: str = ""


# --------------------------------------------------------------------------------------------------- finding the files


def submissions(place, assignment):
    """A Submission for each entry of a folder, or of an archive of a class.  Raises BadInput where nothing is there.

    A folder that holds my_a3.py itself is one submission.
    """
    place = Path(place)
    if place.is_dir():
        children = sorted(path for path in place.iterdir() if not path.name.startswith("."))
        if f"my_{assignment.name}.py" in [path.name for path in children]:
            children = [place.resolve()]
        found = [_of_path(path) for path in children]
    else:
        found = _of_archive(place)
    if not found:
        raise BadInput(f"{place}: found nothing, expected submissions")
    if len(found) > FILES_LIMIT:
        raise BadInput(f"{place}: found {len(found)} entries, expected at most {FILES_LIMIT}")
    return found


def _of_path(path):
    """The submission in a file or a folder. Links are not followed: they may lead to another student's work."""
    made = _named(path.name, path.is_dir())
    if path.is_symlink():
        return _with_problem(made, "it is a link")
    try:
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        if len(below) > FILES_LIMIT:
            return _with_problem(made, f"it has more than {FILES_LIMIT} files")
        for file in below:
            if file.is_symlink():
                return _with_problem(made, f"{file.name} is a link")
            if file.is_file() and not file.name.startswith("."):
                _add(made, str(file.relative_to(path.parent)), file)
    except OSError as error:
        return _with_problem(made, f"it cannot be read ({error.strerror})")
    return made


def _add(made, name, file):
    """A file of a submission: a Python file as it is; of an archive its Python files; of others only that they are."""
    status = file.stat()
    made.time = max(made.time, status.st_mtime)
    if status.st_size > FILE_LIMIT:
        made.problem = made.problem or f"{file.name} has more than {FILE_LIMIT >> 20} MiB"
        return
    _add_bytes(made, name, file.read_bytes())


def _add_bytes(made, name, data):
    if intake.is_archive(data):
        try:
            made.files += [(f"{name}/{path}", found) for path, found, _ in _unpacked(data, ".py")]
        except intake.Refused as refused:
            made.problem = made.problem or f"the archive {name} is not opened: {refused}"
    else:
        made.files.append((name, data if name.lower().endswith(".py") else b""))


def _of_archive(place):
    """The submissions in one archive of a class, as a learning platform hands it out: by the first part of a path."""
    if place.stat().st_size > 16 * FILE_LIMIT:
        raise BadInput(f"{place}: found more than {16 * FILE_LIMIT >> 20} MiB, expected a folder or a smaller archive")
    try:
        entries = _unpacked(place.read_bytes())
    except intake.Refused as refused:
        raise BadInput(f"{place}: {refused}, expected a folder or an archive of submissions") from None
    groups = defaultdict(list)
    for path, data, seconds in entries:
        groups[path.partition("/")[0]].append((path, data, seconds))
    if len(groups) == 1 or any(re.fullmatch(r"my_a\d\.py", name) for name in groups):     # one student's own
        groups = {place.name: entries}
    found = []
    for name, group in sorted(groups.items()):
        made = _named(name, all("/" in path for path, _, _ in group))
        for path, data, seconds in group:
            made.time = max(made.time, seconds)
            _add_bytes(made, path, data)
        found.append(made)
    return found


def _named(name, folder):
    """An empty submission with the student's name, as Moodle writes it into a file's name or as the file is called."""
    moodle = MOODLE.match(name)
    plain = name if folder else re.sub(r"(\.tar)?\.\w{1,8}$", "", name)
    student, identifier = moodle.groups() if moodle else (plain, "")
    return Submission(" ".join(printable(student or name, 100).split()), identifier)


def _with_problem(made, problem):
    made.problem = problem
    return made


def _unpacked(data, only=""):
    """The files of an archive, opened by a process with limits.  Raises Refused."""
    return [(path, base64.b64decode(found), seconds) for path, found, seconds in _opened(data, "unpack", only)["files"]]


def _opened(data, what, only=""):
    command = [sys.executable, "-I", "-S", "-B", str(HERE / "intake.py"), what, only, str(os.getpid())]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=60, start_new_session=True)
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise intake.Refused("it takes more than a minute to open") from None
    except ValueError:
        raise intake.Refused("it ends the process that opens it") from None
    if "refused" in answer:
        raise intake.Refused(printable(answer["refused"], 200))
    return answer


def chosen(made, assignment):
    """(path, source) of the file to grade: my_a3.py, else the only Python file that is not the handout's.

    Raises Refused where there is none, or no single one.
    """
    name = f"my_{assignment.name}.py"
    if made.problem:
        raise intake.Refused(made.problem)
    written = [(path, source) for path, source in made.files if path.lower().endswith(".py")]
    for wanted in (lambda path: path.rpartition("/")[2] == name,
                   lambda path: path.rpartition("/")[2] not in NOT_THEIRS and "tinylm2" not in path.split("/")):
        found = [(path, source) for path, source in written if wanted(path)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(printable(path, 60) for path, _ in found)[:3])
            raise intake.Refused(f"found {len(found)} files ({names}), expected one named {name}")
    raise intake.Refused(f"found no Python file, expected {name}")


# ----------------------------------------------------------------------------------------------------------- grading


def grade_class(found, assignment, *, asked, seed, due=None, seconds, budget, jobs=2, say=print):
    """A dict per submission, in their order: its report as JSON, and who, which file, when, late, stopped, problem.

    asked: the assignment as the command names it.  due: a datetime or None.  seconds, budget: for one test, and for one
    file.  say: called with a line of progress.
    """
    began, reports = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="tinylm2-class-") as folder, ThreadPoolExecutor(jobs) as pool:
        one = partial(_graded, assignment=assignment, asked=asked, folder=Path(folder), seed=seed, seconds=seconds,
                      budget=budget)
        futures = [pool.submit(one, number, made) for number, made in enumerate(found)]
        try:
            for made, future in zip(found, futures, strict=True):
                report = future.result()
                reports[len(reports)] = {**report, **about(made.student, made.time, due), "assignment": asked,
                                         "identifier": made.identifier}
                left = (time.monotonic() - began) / len(reports) * (len(found) - len(reports))
                what = f"not graded: {report['problem']}" if report["problem"] else (
                    f"{report['points']} of {report['out_of']}, {report['seconds']:.0f} s")
                say(f"{len(reports)} of {len(found)}  {made.student}: {what}  (about {_minutes(left)} left)")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return list(reports.values())


def about(student, seconds, due):
    """Who handed in, when, and whether that was late: None where no date is given."""
    moment = datetime.fromtimestamp(seconds).astimezone() if seconds else None
    return {"student": student, "time": moment.isoformat(timespec="seconds") if moment else None,
            "due": due.isoformat(timespec="seconds") if due else None,
            "late": moment > due if moment and due else None}


def _minutes(seconds):
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _graded(number, made, *, assignment, asked, folder, seed, seconds, budget):
    """The report on one submission."""
    try:
        path, source = chosen(made, assignment)
    except intake.Refused as refused:
        return _blank(assignment, seed, problem=str(refused), file=", ".join(name for name, _ in made.files[:3]))
    home = folder / f"{number:05}"
    home.mkdir()
    file, out = home / f"my_{assignment.name}.py", home / "report.json"
    file.write_bytes(source)
    command = [sys.executable, "-m", "tutorials.assignments", "grade", asked, str(file), "--seed", str(seed),
               "--seconds", str(seconds), "--budget", str(budget), "--json", str(out)]
    paths = [str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, timeout=budget + GRACE)
        said = done.stderr.strip().splitlines()[-1:]
        how = f"signal {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"status {done.returncode}"
        problem = f"its grader ended ({': '.join([how, *said])})"
    except subprocess.TimeoutExpired:
        problem = f"its grader was stopped after {budget + GRACE:.0f} s"
    try:
        report = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _blank(assignment, seed, problem=printable(problem, 300), file=path)
    try:
        pieces, unread = _opened(source, "trees")["trees"], ""
    except intake.Refused as refused:
        pieces, unread = {}, f"not compared with others: {refused}"
    return {**report, "file": printable(path, 200), "problem": "", "stopped": stopped(report), "pieces": pieces,
            "note": "; ".join(filter(None, [report["note"], unread]))}


def stopped(report):
    """What was stopped, and why: (function, test, line of feedback)."""
    return [[test["function"], test["title"], line] for test in report["tests"] for line in test["feedback"]
            if STOPPED.search(line)]


def _blank(assignment, seed, *, problem, file):
    """The report on what could not be graded: no points, and why."""
    points = Counter()
    for unit in assignment.units:
        for test in unit.tests:
            points[test.function] += test.points
    return {"assignment": assignment.name, "subject": assignment.subject, "file": printable(file, 200), "sha256": "",
            "seed": seed, "points": 0, "out_of": sum(points.values()), "seconds": 0.0, "rules_broken": [], "note": "",
            "walls": {}, "functions": {name: {"points": 0, "out_of": most} for name, most in points.items()},
            "tests": [], "problem": problem, "stopped": [], "pieces": {}}


# -------------------------------------------------------------------------------------------------------- similarity


def similarities(reports, assignment):
    """(functions of two students that are alike, functions that are like a published one, the median of all pairs).

    Each function of a student is compared with the same function of every other student, and with every published
    function that is about as long. The share is that of the pieces of both syntax trees (intake.py) that both have,
    without the lines that the handout gives to everyone.
    """
    given = intake.trees(handout.students_file(assignment).encode())
    theirs = [{name: Counter(pieces) - given.get(name, Counter()) for name, pieces in report["pieces"].items()}
              for report in reports]
    theirs = [{name: pieces for name, pieces in one.items() if pieces.total() >= LONG_ENOUGH} for one in theirs]
    known = sorted(((pieces.total(), where, pieces) for where, pieces in _published(given)), key=lambda one: one[:2])
    shares, similar, published = [], [], []
    for (i, one), (j, other) in combinations(enumerate(theirs), 2):
        for name in sorted(one.keys() & other.keys()):
            shares.append(alike(one[name], other[name]))
            if shares[-1] >= ALIKE:
                similar.append([shares[-1], name, reports[i]["student"], reports[j]["student"]])
    for report, one in zip(reports, theirs, strict=True):
        for name, pieces in one.items():
            n = pieces.total()                           # of another length nothing can be as similar as that
            low, high = (bisect.bisect(known, m, key=lambda one: one[0]) for m in (
                n * ALIKE / (2 - ALIKE) - 1, n * (2 - ALIKE) / ALIKE + 1))
            share, where = max(((alike(pieces, other), where) for _, where, other in known[low:high]), default=(0, ""))
            if share >= ALIKE:
                published.append([share, name, report["student"], where])
    similar, published = ([{"share": round(share, 2), "function": name, "student": student, "like": like}
                           for share, name, student, like in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))]
                          for pairs in (similar, published))
    return similar, published, round(statistics.median(shares), 2) if shares else None


def alike(one, other):
    """The share of the pieces of two trees that both have (Sørensen's and Dice's)."""
    return 2 * (one & other).total() / max(1, one.total() + other.total())


def _published(given):
    """(where, pieces) of the functions that students can read, without what the handout gives: those of the library, of
    the lessons and the folds in them, and of the assignments (plain.py, by_hand.py); in a clone also those of the
    experiments, which have memories with their gradients."""
    root = HERE.parents[1]
    clone = (root / "pyproject.toml").is_file()          # beside an installed package they are somebody else's
    folders = [handout.LIBRARY, HERE.parent, *([root / "experiments"] if clone else [])]
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        folds = re.findall(r"^# ```python\n(.*?)^# ```", text, flags=re.DOTALL | re.MULTILINE)
        for source in [text, *(re.sub("^# ?", "", fold, flags=re.MULTILINE) for fold in folds)]:
            for name, pieces in intake.trees(source.encode()).items():
                pieces = pieces - given.get(name, Counter())
                if pieces.total() >= LONG_ENOUGH:
                    yield f"{path.relative_to(root).as_posix()}, {name}", pieces


# ---------------------------------------------------------------------------------------------------- the whole class


def summary(reports, assignment, *, due=None):
    """What the page of a class shows, as a tree for JSON; the reports without their trees."""
    similar, published, median = similarities(reports, assignment)
    graded = [report for report in reports if not report["problem"]]
    points = [report["points"] for report in graded]
    functions = {}
    for name in dict.fromkeys(name for report in reports for name in report["functions"]):
        of = [report["functions"][name] for report in graded if name in report["functions"]]
        functions[name] = {"mean": round(statistics.mean(f["points"] for f in of), 1) if of else 0,
                           "all": sum(f["points"] == f["out_of"] for f in of),
                           "none": sum(f["points"] == 0 for f in of),
                           "out_of": next(r["functions"][name]["out_of"] for r in reports if name in r["functions"])}
    return {"assignment": reports[0]["assignment"], "subject": assignment.subject, "seed": reports[0]["seed"],
            "due": due.isoformat(timespec="seconds") if due else None, "students": len(reports), "graded": len(graded),
            "mean": round(statistics.mean(points), 1) if points else None,
            "median": statistics.median(points) if points else None, "functions": functions,
            "mistakes": mistakes(graded), "published": published, "similar": similar[:PAIRS],
            "similar_pairs": len(similar), "similar_median": median,
            "reports": [{key: value for key, value in report.items() if key != "pieces"} for report in reports]}


def mistakes(reports):
    """What the feedback says most often: (function, text with its numbers left out, number of students).

    The first line of a test names the cause, where one is known. Where and how far a value is off follows it.
    """
    seen = Counter()
    for report in reports:
        seen.update({(test["function"], NUMBER.sub("…", line)) for test in report["tests"]
                     for line in test["feedback"][:1] if not CONSEQUENCE.match(line)})
    return [[function, text, n] for (function, text), n in seen.most_common(30)]
