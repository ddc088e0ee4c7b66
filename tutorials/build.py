"""Render the lessons to executed notebooks: `python tutorials/build.py` renders those that are older than their script.

    python tutorials/build.py 03 08      these, whether or not they need it
    python tutorials/build.py --check    render nothing; exit 1 when a notebook is missing or older than its script

A notebook carries the SHA-256 of the script that it was made from: Git keeps no file times.
"""

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def lessons():
    """The lessons' scripts, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def digest(script):
    """What a notebook must carry to be this script's."""
    return hashlib.sha256(script.read_text(encoding="utf-8").encode()).hexdigest()       # whatever its line ends are


def is_fresh(script):
    """Is this script's notebook there, and made from it as it stands?"""
    try:
        notebook = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return notebook["metadata"].get("script") == digest(script)


def render(script):
    """Run a lesson as a notebook and write it, outputs included, beside the script."""
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                         "script": digest(script)}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"                       # random ones would change in every line of a diff
        cell.source = re.sub(r"\((\d\d_\w+)\.py\)", r"(\1.ipynb)", cell.source)      # from notebook to notebook
    NotebookClient(notebook, timeout=300, record_timing=False, resources={"metadata": {"path": FOLDER}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata = {}
    notebook.metadata.pop("language_info", None)         # it names the Python that happened to run
    nbformat.write(notebook, script.with_suffix(".ipynb"))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="such as 03 08; those that need it when none is given")
    parser.add_argument("--check", action="store_true", help="render nothing, fail when one is older than its script")
    args = parser.parse_args(argv)
    chosen = [script for script in lessons()
              if (script.name[:2] in args.numbers if args.numbers else not is_fresh(script))]
    if args.check:
        for script in chosen:
            print(f"{script.with_suffix('.ipynb').name} is missing or older than {script.name}: "
                  f"python tutorials/build.py", file=sys.stderr)
        return 1 if chosen else 0
    for script in chosen:
        render(script)
        size = script.with_suffix(".ipynb").stat().st_size
        print(f"{script.with_suffix('.ipynb').name}  {size / 1024:.0f} KB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
