"""`python -m tutorials.assignments handout a3 -o handout/` and `python -m tutorials.assignments grade a3 my_a3.py`."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")       # the products are small: two threads are slower than one

import json
import sys
from pathlib import Path

from tinylm2.console import Parser, command
from tinylm2.data import BadInput
from tutorials.assignments import handout
from tutorials.assignments.client import Limits
from tutorials.assignments.grader import ASSIGNMENTS, grade, what_is_lacking


def write_handout(args):
    """Write the folder that students get."""
    assignment, folder = ASSIGNMENTS[args.assignment], Path(args.out)
    files = handout.files(assignment, solved=args.solved)
    if taken := [path for path in files if (folder / path).exists()]:
        raise BadInput(f"{folder / taken[0]}: is there already, expected a folder without it")
    handout.write(files, folder)
    print(f"{folder}: {', '.join(path for path in files if '/' not in path)} and what they need of tinylm2")
    return 0


def grade_file(args):
    """Print the table of points; status 0 for all of them, else 1."""
    if not Path(args.solution).is_file():
        raise BadInput(f"{args.solution}: found no such file, expected a solution")
    report = grade(ASSIGNMENTS[args.assignment], Path(args.solution), seed=args.seed,
                   limits=Limits(seconds=args.seconds))
    print(report)
    if lacking := report.walls and what_is_lacking(report.walls):
        print(lacking, file=sys.stderr)
    if args.json:
        Path(args.json).write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    return 0 if report.points == report.out_of else 1


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
    one.add_argument("--seed", type=int, help="ask the questions of this seed (a new one each time)")
    one.add_argument("--json", metavar="FILE", help="write the report for a learning platform")
    one.add_argument("--seconds", type=float, default=Limits.seconds, help="limit a test (%(default)s)")
    one.set_defaults(run=grade_file)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
