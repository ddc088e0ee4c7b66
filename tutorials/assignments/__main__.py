"""`tinylm2 handout a3 -o handout/` and `tinylm2 grade a3 my_a3.py`, also as `python -m tutorials.assignments ...`."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")       # the products are small: two threads are slower than one

import argparse
import json
import secrets
import sys
from datetime import datetime
from pathlib import Path

from tinylm2.cli.console import Parser, command, whole
from tinylm2.errors import BadInput
from tutorials.assignments import a7, classroom, handout, intake, pages, platforms
from tutorials.assignments.client import Limits
from tutorials.assignments.grader import ASSIGNMENTS as CUT
from tutorials.assignments.grader import grade, what_is_lacking

ASSIGNMENTS = type(CUT)({**CUT, "a7": a7.ASSIGNMENT})    # its command in a7.py trains the memory, too
CLASS_OPTIONS = ("csv", "report")


def write_handout(args):
    """Write the folder that students get."""
    assignment, folder = ASSIGNMENTS[args.assignment], Path(args.out)
    files = handout.files(assignment, solved=args.solved)
    _write_folder(files, folder)
    print(f"{folder}: {', '.join(path for path in files if '/' not in path)} and what they need of tinylm2")
    return 0


def _write_folder(files, folder, executable=()):
    """Write {path: text}, where none of them is there yet."""
    if taken := [path for path in files if (folder / path).exists()]:
        raise BadInput(f"{folder / taken[0]}: exists already, expected a folder without it")
    handout.write(files, folder)
    for path in executable:
        (folder / path).chmod(0o755)


def run_grade(args):
    """Grade a file or a class, or write what a platform needs to do it."""
    assignment = ASSIGNMENTS[args.assignment]
    args.seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    limits = getattr(assignment, "limits", Limits())
    args.seconds, args.budget = args.seconds or limits.seconds, args.budget or limits.total
    if args.gradescope or args.github:
        if args.solution:
            raise BadInput(f"{args.solution}: found a file to grade, expected none beside --gradescope and --github")
        return _write_platforms(assignment, args)
    if not args.solution:
        raise BadInput("the following arguments are required: solution (see --help)")
    place = Path(args.solution)
    if place.is_dir() or any(getattr(args, name) for name in CLASS_OPTIONS) or _is_archive(place):
        return _grade_class(assignment, place, args)
    return _grade_file(assignment, place, args)


def _is_archive(place):
    if not place.is_file():
        return False
    with place.open("rb") as file:
        return intake.is_archive(file.read(512))


def _grade_file(assignment, solution, args):
    """Print the table of points; status 0 for all of them, else 1."""
    target = Path(args.json) if args.json else None
    if target:
        _refuse_target("--json", target, solution)
    report = grade(assignment, solution, seed=args.seed, limits=Limits(seconds=args.seconds, total=args.budget))
    if target:
        tree = report.as_json()
        tree |= {"assignment": args.assignment}
        tree = {**classroom.about(args.student or solution.resolve().parent.name, solution.stat().st_mtime, args.due),
                **tree, "stopped": classroom.stopped(tree)}
        _replace(target, json.dumps(tree, indent=1) + "\n")
    print(report)
    if lacking := what_is_lacking(report.walls):
        print(lacking, file=sys.stderr)
    return 0 if report.points == report.out_of else 1


def _grade_class(assignment, place, args):
    """Grade every submission, write what was asked for; status 0 when each could be graded, else 1."""
    if not place.exists():
        raise BadInput(f"{place}: found no such file, expected submissions")
    if place.is_file() and not _is_archive(place):
        raise BadInput(f"{place}: found one file, expected a folder or an archive of submissions for --csv")
    targets = {option: Path(path) for option, path in (("--csv", args.csv), ("--json", args.json)) if path}
    for option, target in targets.items():
        _refuse_target(option, target, place)
    folder = Path(args.report) if args.report else None
    if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"--report {folder}: found files there, expected a new or an empty folder")
    for path in (*targets.values(), *filter(None, [folder])):
        if place.is_dir() and place.resolve() in (path.resolve(), *path.resolve().parents):
            raise BadInput(f"{path}: found a place among the submissions, expected one outside of {place}")
    found = classroom.submissions(place, assignment)
    say = _say_progress
    say(f"{args.assignment}, {assignment.subject}: {len(found)} submissions, {args.jobs} at a time, seed {args.seed}")
    reports = classroom.grade_class(found, assignment, asked=args.assignment, seed=args.seed, due=args.due,
                                    seconds=args.seconds, budget=args.budget, jobs=args.jobs, say=say)
    klass = classroom.summary(reports, assignment, due=args.due)
    if "--csv" in targets:
        _replace(targets["--csv"], pages.table(reports))
    if "--json" in targets:
        _replace(targets["--json"], json.dumps(klass, indent=1) + "\n")
    if folder:
        handout.write(pages.files(klass), folder)
    _print_class(klass)
    walls = [{wall for wall, held in report["walls"].items() if held} for report in reports if report["walls"]]
    if walls and (lacking := what_is_lacking(sorted(set.intersection(*walls)))):
        print(lacking, file=sys.stderr)
    return 0 if klass["graded"] == klass["students"] else 1


def _say_progress(line):
    print(line, file=sys.stderr, flush=True)


def _print_class(klass):
    """A line per student, and what stands out."""
    width = max(len(report["student"]) for report in klass["reports"])
    for report in klass["reports"]:
        marks = [f"not graded: {report['problem']}"] if report["problem"] else []
        marks += ["late"] * bool(report["late"]) + [f"{len(report['stopped'])} stopped"] * bool(report["stopped"])
        marks += report["rules_broken"][:1]
        print(f"{report['student']:<{width}}  {report['points']:>3} of {report['out_of']}  {', '.join(marks)}".rstrip())
    mean = f", mean {klass['mean']:g}, median {klass['median']:g}" if klass["graded"] else ""
    number = klass["similar_pairs"] + len(klass["published"])
    alike = f", {number} similar functions to look at" if number else ""
    print(f"\n{klass['graded']} of {klass['students']} graded, seed {klass['seed']}{mean}{alike}")


def _write_platforms(assignment, args):
    """Write what Gradescope or GitHub Classroom needs."""
    if args.gradescope:
        files = platforms.gradescope_files(args.assignment, args.seed)
        _write_folder(files, Path(args.gradescope), executable=("setup.sh", "run_autograder"))
        print(f"{args.gradescope}: zip what is in this folder, and upload it as the autograder (seed {args.seed})")
    if args.github:
        _write_folder(platforms.github_files(args.assignment, assignment.name), Path(args.github))
        print(f"{args.github}: commit this to the template repository of the assignment")
    return 0


def _refuse_target(option, target, solution):
    """Raises BadInput where the report must not be written."""
    if target.exists() and solution.exists() and os.path.samefile(target, solution):
        raise BadInput(f"{option} {target}: found the solution itself, expected another file")
    if target.exists() and not target.is_file():
        raise BadInput(f"{option} {target}: found no regular file, expected a file or a new name")
    if not target.parent.is_dir():
        raise BadInput(f"{option} {target}: found no folder {target.parent}")
    ours = [handout.HERE.parent, handout.LIBRARY]
    if any(folder in target.resolve().parents for folder in ours):
        raise BadInput(f"{option} {target}: found a place in the project's own folders, expected another one")


def _replace(path, text):
    """Write a file whole, or leave the one that was there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def seconds(low, high):
    """For an argument's `type=`: seconds from low to high."""
    def number(text):
        if not low <= float(text) <= high:
            raise argparse.ArgumentTypeError(f"found {text:.40}, expected a number from {low:g} to {high:g}")
        return float(text)
    return number


def moment(text):
    """For an argument's `type=`: a date and a time; this machine's zone where none is named."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"found {text:.40}, expected such as 2026-11-30T23:59") from None


def _add_grade(parser):
    """The options of `grade`."""
    parser.add_argument("assignment", choices=ASSIGNMENTS)
    parser.add_argument("solution", nargs="?",
                        help="a student's file; or a folder, a zip or a tar of a class, with a file, a folder or an "
                             "archive per student")
    parser.add_argument("--seed", type=whole(0), help="seed of the random arguments (a new one each time, printed)")
    parser.add_argument("--json", metavar="FILE", help="write the report for a learning platform")
    parser.add_argument("--seconds", type=seconds(0.1, Limits.total),
                        help=f"time limit per test ({Limits.seconds:g}; a7: {a7.LIMITS.seconds:g})")
    parser.add_argument("--budget", type=seconds(1, 600),
                        help=f"seconds for a whole file ({Limits.total:g}; a7: {a7.LIMITS.total:g})")
    parser.add_argument("--due", type=moment, metavar="WHEN",
                        help="date and time, such as 2026-11-30T23:59: files that are newer are marked as late")
    one = parser.add_argument_group("one file")
    one.add_argument("--student", metavar="NAME", help="the name in the JSON (that of the file's folder)")
    some = parser.add_argument_group("a class")
    some.add_argument("--csv", metavar="FILE", help="write a table for Moodle or a spreadsheet")
    some.add_argument("--report", metavar="FOLDER", help="write a page for each student and one for the class")
    some.add_argument("--jobs", type=whole(1, 64), default=2, help="files that are graded at a time (%(default)s)")
    other = parser.add_argument_group("platforms")
    other.add_argument("--gradescope", metavar="FOLDER", help="write an autograder for Gradescope, and grade nothing")
    other.add_argument("--github", metavar="FOLDER", help="write a workflow for GitHub Classroom, and grade nothing")
    parser.set_defaults(run=run_grade)


@command
def main(argv=None):
    parser = Parser(prog="tinylm2", description="Write handouts, grade solutions.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("handout", help="write the folder that students get")
    one.add_argument("assignment", choices=ASSIGNMENTS)
    one.add_argument("-o", "--out", required=True, help="the folder")
    one.add_argument("--solved", action="store_true", help="with the library's solution in place of the stubs")
    one.set_defaults(run=write_handout)
    _add_grade(commands.add_parser("grade", help="test a solution, or those of a class, and count the points"))
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
