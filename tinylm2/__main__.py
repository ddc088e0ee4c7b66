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


@command
def main(argv: list[str] | None = None) -> Any:
    parser = Parser(prog="tinylm2", description="LM2, every gradient by hand.")
    parser.add_argument("--version", action="version", version=f"tinylm2 {__version__}")
    chosen = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        text = (module.__doc__ or name).strip().splitlines()[0]
        module.add_arguments(chosen.add_parser(name, help=text, description=text))
    args = parser.parse_args(argv)
    return COMMANDS[args.command].main(args)


if __name__ == "__main__":
    sys.exit(main())
