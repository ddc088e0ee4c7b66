"""Check every gradient against central differences, entry by entry, and print the table."""

from argparse import Namespace
from typing import Any

from tinylm2 import gradcheck
from tinylm2.checking import cases
from tinylm2.cli.console import whole


def add_arguments(parser: Any) -> None:
    parser.add_argument("--seed", type=whole(0), default=0)


def main(args: Namespace) -> Any:
    return gradcheck.report(cases.CASES, seed=args.seed)
