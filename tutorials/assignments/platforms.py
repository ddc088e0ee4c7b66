"""What Gradescope and GitHub Classroom need to grade an assignment with the same command.

Gradescope: a folder with setup.sh, run_autograder, the library and the grader. Its format of results.json is described
at https://gradescope-autograders.readthedocs.io/en/latest/specs/, that of submission_metadata.json at
https://gradescope-autograders.readthedocs.io/en/latest/submission_metadata/. In the container, run_autograder calls
this file. GitHub: a workflow that grades at every push. GitHub ends GitHub Classroom (https://gh.io/classroom-sunset),
so the workflow needs none of its actions.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from tutorials.assignments.client import Limits

HERE = Path(__file__).resolve().parent
NEEDED = ("numpy>=2.0", "tokenizers", "tqdm")
REPOSITORY = "https://github.com/OWNER/tinylm2"          # for a teacher to replace: where the course's copy lies
SECONDS = 180                                            # for one file in a platform's container, which may be slow

SETUP = """#!/usr/bin/env bash
# Runs once, when Gradescope builds the image. The grader needs Python 3.10 or newer: choose Ubuntu 22.04 or newer.
set -euo pipefail
apt-get update
apt-get install -y python3 python3-venv
python3 -c 'import sys; assert sys.version_info >= (3, 10), "the grader needs Python 3.10: choose a newer image"'
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install {needed}
"""

RUN = """#!/usr/bin/env bash
# Runs for each submission: grades it, and writes results/results.json.
root="${{AUTOGRADER:-/autograder}}"
cd "$root/source" || exit 1
python="$root/venv/bin/python"
[ -x "$python" ] || python=python3
OPENBLAS_NUM_THREADS=1 exec "$python" -m tutorials.assignments.platforms gradescope {name} {seed} "$root"
"""

WORKFLOW = """# Grades my_{name}.py at every push. Replace the address by that of your copy of the course.
# A student can read and change this file, and read the whole library: it is for feedback. For the mark, grade with
# `tinylm2 grade {asked} submissions/` on a machine of your own. GitHub Classroom, where it still runs, finds the
# points by the names of the workflow and of its job.
name: Autograding Tests
on: [push, workflow_dispatch]
permissions:
  contents: read
jobs:
  run-autograding-tests:
    runs-on: ubuntu-latest
    if: github.actor != 'github-classroom[bot]'
    timeout-minutes: 15
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: python -m pip install "tinylm2 @ git+{repository}"
      - name: Grade my_{name}.py
        working-directory: ${{{{ runner.temp }}}}
        run: python -m tutorials.assignments.platforms github {asked} "$GITHUB_WORKSPACE/my_{name}.py"
"""


# ----------------------------------------------------------------------------------------------------------- Gradescope


def gradescope_files(asked, seed):
    """{path: text} of the folder that a teacher zips and uploads."""
    root = HERE.parents[1]
    parts = [*sorted((root / "tinylm2").rglob("*.py")), HERE.parent / "__init__.py", *sorted(HERE.glob("*.py")),
             *sorted(HERE.glob("*.md")), *sorted(HERE.glob("*.json"))]
    files = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in parts}
    needed = " ".join(f"'{name}'" for name in NEEDED)
    return {"setup.sh": SETUP.format(needed=needed), "run_autograder": RUN.format(name=asked, seed=seed),
            **files}


def gradescope_results(report):
    """results.json of a report: a test for each test, what is wrong as its output."""
    return {
        "score": report["points"], "execution_time": round(report["seconds"]), "visibility": "visible",
        "stdout_visibility": "hidden", "output_format": "text", "test_output_format": "text",
        "test_name_format": "text", "output": "\n".join(filter(None, [
            f"{report['assignment']}, {report['subject']}: {report['points']} of {report['out_of']} points, "
            f"seed {report['seed']}", report["note"], *report["rules_broken"]])),
        "tests": [{"name": f"{test['function']}: {test['title']}", "number": str(number), "score": test["points"],
                   "max_score": test["out_of"], "status": "failed" if test["feedback"] else "passed",
                   "output": "\n".join(test["feedback"]), "tags": [test["function"]], "visibility": "visible"}
                  for number, test in enumerate(report["tests"], 1)],
        "extra_data": {key: report[key] for key in ("assignment", "student", "file", "sha256", "seed", "time", "due",
                                                    "late", "walls") if key in report}}


def gradescope_failure(text):
    """results.json where nothing could be graded."""
    return {"score": 0, "output": text, "output_format": "text", "visibility": "visible", "stdout_visibility": "hidden",
            "tests": []}


def metadata(path):
    """Who handed in, when, and until when, from submission_metadata.json: names, two datetimes; or "", None, None."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
        names = ", ".join(str(user["name"]) for user in tree.get("users", ()))
        moments = tree.get("created_at"), (tree.get("assignment") or {}).get("due_date")
        return names, *(datetime.fromisoformat(text) if text else None for text in moments)
    return "", None, None


def run_gradescope(name, seed, root):
    """Grade what lies in root/submission, write root/results/results.json."""
    from tutorials.assignments import classroom
    from tutorials.assignments.__main__ import ASSIGNMENTS

    assignment, target = ASSIGNMENTS[name], root / "results" / "results.json"
    limits = getattr(assignment, "limits", Limits())
    student, created, due = metadata(root / "submission_metadata.json")
    try:
        made = classroom.submissions(root / "submission", assignment)
        one = classroom.Submission(student, files=[file for part in made for file in part.files],
                                   problem=next((part.problem for part in made if part.problem), ""))
        (report,) = classroom.grade_class([one], assignment, asked=name, seed=seed, seconds=limits.seconds,
                                          budget=SECONDS, jobs=1)
        report |= {"time": created.isoformat() if created else None, "due": due.isoformat() if due else None,
                   "late": created > due if created and due else None}
        results = (gradescope_failure(f"not graded: {report['problem']}") if report["problem"]
                   else gradescope_results(report))
    except Exception as error:                           # whatever happens, Gradescope wants a file
        results = gradescope_failure(f"the grader failed ({type(error).__name__}): please tell your teacher")
        print(error, file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


# --------------------------------------------------------------------------------------------------------------- GitHub


def github_files(asked, name):
    """{path: text} to commit to the template repository of an assignment."""
    return {".github/workflows/classroom.yml": WORKFLOW.format(asked=asked, name=name, repository=REPOSITORY)}


def run_github(name, solution):
    """Grade a file with the plain command, then tell GitHub the points: as the two notices by which Classroom's own
    reporter told them, and as a table on the page of the run."""
    out = Path("report.json").resolve()
    done = subprocess.run([sys.executable, "-m", "tutorials.assignments", "grade", name, str(solution), "--budget",
                           str(SECONDS), "--json", str(out)])
    if out.exists():
        report = json.loads(out.read_text(encoding="utf-8"))
        for line in github_notices(report):
            print(line)
        if target := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(target, "a", encoding="utf-8") as file:
                file.write(github_summary(report))
    return done.returncode


def github_notices(report):
    """Two lines that GitHub takes out of what a job prints."""
    points = json.dumps({"totalPoints": report["points"], "maxPoints": report["out_of"]})
    return [f"::notice title=Autograding complete::Points {report['points']}/{report['out_of']}",
            f"::notice title=Autograding report::{points}"]


def github_summary(report):
    """The points of each function as a Markdown table. Feedback stays in the log: it holds a student's own words."""
    rows = [f"| `{name}` | {of['points']} of {of['out_of']} |" for name, of in report["functions"].items()]
    return "\n".join(["| function | points |", "|---|---|", *rows,
                      f"| **all** | **{report['points']} of {report['out_of']}** |", ""])


if __name__ == "__main__":
    if sys.argv[1] == "gradescope":
        run_gradescope(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        sys.exit(run_github(sys.argv[2], Path(sys.argv[3])))
