"""`python -m tinylm2 COMMAND`: gradcheck, ask, count, and whatever else stands in tinylm2/commands/."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")       # see train_tiny.py

import sys

from tinylm2.commands import ask, count, evaluate, explore, gradcheck, plot, stories
from tinylm2.console import Parser, command

COMMANDS = {"gradcheck": gradcheck, "ask": ask, "explore": explore, "plot": plot, "evaluate": evaluate,
            "stories": stories, "count": count}


@command
def main(argv=None):
    parser = Parser(prog="python -m tinylm2", description="LM2, every gradient by hand.")
    chosen = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        text = module.__doc__.strip().splitlines()[0]
        module.add_arguments(chosen.add_parser(name, help=text, description=text))
    args = parser.parse_args(argv)
    return COMMANDS[args.command].main(args)


if __name__ == "__main__":
    sys.exit(main())
