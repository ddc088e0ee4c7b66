"""Step through a lesson in a shell: `python -m tutorials.step 8` shows text, code and result cell by cell, and waits.

    python -m tutorials.step             the list of lessons
    python -m tutorials.step 8 --open    opens the pictures, which are otherwise only named
    python -m tutorials.step 8 --from 5  runs the cells before cell 5 without showing them

Enter shows the next cell, `q` ends. Questions and exercises show their answer after Enter.
"""

import contextlib
import io
import re
import sys
import types
from pathlib import Path

from tinylm2.cli.console import Parser, command, whole
from tinylm2.errors import BadInput

HERE = Path(__file__).resolve().parent
FOLD = re.compile(r"<details><summary>(.*?)</summary>\s*\n(.*?)\n\s*</details>", re.DOTALL)


def lessons():
    """{number: path of the script}."""
    return {int(path.name[:2]): path for path in sorted(HERE.glob("[0-9][0-9]_*.py"))}


def cells(path):
    """[(is it text?, text or code, line of its first line)] of a lesson."""
    found, lines = [], path.read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("# %%")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        is_text, body = "[markdown]" in lines[start], lines[start + 1:end]
        text = "\n".join(re.sub("^# ?", "", line) for line in body) if is_text else "\n".join(body)
        if text.strip():
            found.append((is_text, text.strip("\n"), start + 2))
    return found


class Stepper:
    """Shows and runs the cells of one lesson. wait: asks for Enter; after the end of the input nobody is asked."""

    def __init__(self, path, *, bold=False, wait=True):
        self.path, self.bold, self.wait = path, bold, wait
        self.module = types.ModuleType("__main__")       # classes and functions of a lesson say that they are its own
        self.module.__file__ = str(path)

    def ask(self, text):
        """Wait for Enter.  Raises Ended for q."""
        if self.wait:
            try:
                answer = input(f"[{text}] ")
            except EOFError:
                self.wait = False
                print()
            else:
                if answer.strip().lower() in ("q", "quit", "exit"):
                    raise Ended

    def prose(self, text):
        """Text, its headings marked, and each answer behind an Enter."""
        for i, part in enumerate(FOLD.split(text)):      # text, question, answer, text, ...
            if i % 3 == 1 and part != "Answer":
                print(part)
            elif i % 3 == 2:
                self.ask("Enter for the answer")
                print(f"\n{_plain(part).strip()}\n")
            elif i % 3 == 0 and part.strip():
                print("\n".join(self._line(line) for line in _plain(part).strip("\n").splitlines()) + "\n")

    def _line(self, line):
        heading = re.match(r"#+ (.*)", line)
        if not heading:
            return line
        return f"\033[1m{heading[1]}\033[0m" if self.bold else f"{heading[1]}\n{'=' * len(heading[1])}"

    def code(self, text, line):
        """Show code and what it prints. Errors name the lines of the script."""
        print("\n".join(f"  | {part}".rstrip() for part in text.splitlines()))
        print()
        self.run(text, line)
        print()

    def run(self, text, line):
        exec(compile("\n" * (line - 1) + text, str(self.path), "exec"), vars(self.module))


class Ended(Exception):
    """The reader has had enough."""


def _plain(text):
    """Markdown as it reads well in a shell: the fences of code and the marks of emphasis are left out."""
    text = re.sub(r"^```.*\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"\1 (\2)", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"\1", text)


def step(path, *, first=1, opens=False, wait=True):
    """Go through a lesson.  -> 0 at its end, or where the reader ends it."""
    sys.path.insert(0, str(HERE))                        # a lesson imports its neighbour lesson.py
    import lesson

    lesson.OPENS = opens
    found = cells(path)
    if first > len(found):
        raise BadInput(f"--from {first}: found {len(found)} cells in lesson {path.name[:2]}")
    stepper = Stepper(path, bold=sys.stdout.isatty(), wait=wait)
    saved, sys.modules["__main__"] = sys.modules["__main__"], stepper.module
    try:
        for number, (is_text, text, line) in enumerate(found, 1):
            if number < first:
                with contextlib.redirect_stdout(io.StringIO()):
                    if not is_text:
                        stepper.run(text, line)
                continue
            if is_text:
                stepper.prose(text)
                if number < len(found) and found[number][0]:
                    stepper.ask(f"{number} of {len(found)}")
                continue
            stepper.code(text, line)
            if number < len(found):
                stepper.ask(f"{number} of {len(found)}, Enter goes on, q ends")
    except Ended:
        print(f"Cell {number} of {len(found)}: `python -m tutorials.step {int(path.name[:2])} --from {number}` goes on "
              "here.")
    finally:
        sys.modules["__main__"] = saved
    return 0


@command
def main(argv=None):
    parser = Parser(prog="python -m tutorials.step", description="Step through a lesson in a shell.")
    parser.add_argument("lesson", nargs="?", type=whole(1), help="its number; without one, the list of lessons")
    parser.add_argument("--from", dest="first", type=whole(1), default=1, metavar="CELL",
                        help="begin at this cell (%(default)s); those before it run unseen")
    parser.add_argument("--open", action="store_true", help="open the pictures; otherwise they are named")
    args = parser.parse_args(argv)
    known = lessons()
    if args.lesson is None:
        for path in known.values():
            print(re.search(r"^# # (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)[1])
        return 0
    if args.lesson not in known:
        raise BadInput(f"found no lesson {args.lesson}, expected one of {', '.join(map(str, known))}")
    return step(known[args.lesson], first=args.first, opens=args.open)


if __name__ == "__main__":
    sys.exit(main())
