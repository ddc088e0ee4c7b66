"""`tinylm2 COMMAND`, or `python -m tinylm2 COMMAND`: one file per command in tinylm2/cli/."""

import sys
from typing import Any

from tinylm2 import __version__
from tinylm2.cli import (
    ask,
    count,
    evaluate,
    explore,
    export,
    generate,
    gradcheck,
    import_,
    perplexity,
    plot,
    stories,
    train,
)
from tinylm2.cli.console import Parser, command

COMMANDS = {"train": train, "ask": ask, "explore": explore, "plot": plot, "evaluate": evaluate, "stories": stories,
            "gradcheck": gradcheck, "count": count, "import": import_, "generate": generate,
            "perplexity": perplexity, "export": export}
COURSE = {"handout": "Write the folder that students get.", "grade": "Grade solutions: one file, or a whole class."}


@command
def main(argv: list[str] | None = None) -> Any:
    parser = Parser(prog="tinylm2", description="LM2, every gradient by hand.")
    words = sys.argv[1:] if argv is None else argv
    if words[:1] and words[0] in COURSE:                 # it is imported where it is asked for, and has its own options
        from tutorials.assignments.__main__ import main as course

        return course(words)
    parser.add_argument("--version", action="version", version=f"tinylm2 {__version__}")
    chosen = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        text = (module.__doc__ or name).strip().splitlines()[0]
        module.add_arguments(chosen.add_parser(name, help=text, description=text))
    for name, text in COURSE.items():
        chosen.add_parser(name, help=text)
    args = parser.parse_args(argv)
    return COMMANDS[args.command].main(args)


if __name__ == "__main__":
    sys.exit(main())
