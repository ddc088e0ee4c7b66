"""`python -m tutorials.assignments handout a3 -o handout/` and `python -m tutorials.assignments grade a3 my_a3.py`."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")       # the products are small: two threads are slower than one

import argparse
import json
import sys
from pathlib import Path

from tinylm2.cli.console import Parser, command, whole
from tinylm2.errors import BadInput
from tutorials.assignments import handout
from tutorials.assignments.client import Limits
from tutorials.assignments.grader import ASSIGNMENTS, grade, what_is_lacking


def write_handout(args):
    """Write the folder that students get."""
    assignment, folder = ASSIGNMENTS[args.assignment], Path(args.out)
    files = handout.files(assignment, solved=args.solved)
    if taken := [path for path in files if (folder / path).exists()]:
        raise BadInput(f"{folder / taken[0]}: exists already, expected a folder without it")
    handout.write(files, folder)
    print(f"{folder}: {', '.join(path for path in files if '/' not in path)} and what they need of tinylm2")
    return 0


def grade_file(args):
    """Print the table of points; status 0 for all of them, else 1."""
    solution, target = Path(args.solution), Path(args.json) if args.json else None
    if target:
        _refuse_target(target, solution)
    report = grade(ASSIGNMENTS[args.assignment], solution, seed=args.seed, limits=Limits(seconds=args.seconds))
    if target:
        _replace(target, json.dumps(report.as_json(), indent=1) + "\n")
    print(report)
    if lacking := what_is_lacking(report.walls):
        print(lacking, file=sys.stderr)
    return 0 if report.points == report.out_of else 1


def _refuse_target(target, solution):
    """Raises BadInput where the report must not be written."""
    if target.exists() and solution.exists() and os.path.samefile(target, solution):
        raise BadInput(f"--json {target}: found the solution itself, expected another file")
    if target.exists() and not target.is_file():
        raise BadInput(f"--json {target}: found no regular file, expected a file or a new name")
    if not target.parent.is_dir():
        raise BadInput(f"--json {target}: found no folder {target.parent}")
    if handout.HERE.parents[1] in target.resolve().parents and target.exists() and target.suffix != ".json":
        raise BadInput(f"--json {target}: found a file of the repository, expected another name")


def _replace(path, text):
    """Write a file whole, or leave the one that was there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def seconds(text):
    """For an argument's `type=`: seconds per test."""
    number = float(text)
    if not 0.1 <= number <= Limits.total:
        raise argparse.ArgumentTypeError(f"found {text:.40}, expected a number from 0.1 to {Limits.total:g}")
    return number


@command
def main(argv=None):
    parser = Parser(prog="python -m tutorials.assignments", description="Write handouts, grade solutions.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("handout", help="write the folder that students get")
    one.add_argument("assignment", choices=ASSIGNMENTS)
    one.add_argument("-o", "--out", required=True, help="the folder")
    one.add_argument("--solved", action="store_true", help="with the library's solution in place of the stubs")
    one.set_defaults(run=write_handout)
    one = commands.add_parser("grade", help="test a solution and count its points")
    one.add_argument("assignment", choices=ASSIGNMENTS)
    one.add_argument("solution", help="the student's file, such as my_a3.py")
    one.add_argument("--seed", type=whole(0), help="seed of the random arguments (a new one each time)")
    one.add_argument("--json", metavar="FILE", help="write the report for a learning platform")
    one.add_argument("--seconds", type=seconds, default=Limits.seconds, help="time limit per test (%(default)s)")
    one.set_defaults(run=grade_file)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
