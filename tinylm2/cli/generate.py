"""Continue a text with a run: the likeliest tokens, or sampled ones."""

import sys
import time
from argparse import Namespace
from typing import Any

from tinylm2.cli.console import number, place, whole
from tinylm2.gpu import array_module
from tinylm2.training import run_dir


def add_arguments(parser: Any) -> None:
    parser.add_argument("run", type=place, help="a run's folder, such as one that `tinylm2 import` made")
    parser.add_argument("text", metavar="TEXT", help="the text to continue")
    parser.add_argument("--tokens", type=whole(1, 10**6), default=40, help="number of tokens at most (40)")
    parser.add_argument("--temperature", type=number(0, 100), default=0.0,
                        help="0: always the likeliest token; above 0: sample, more evenly the higher it is (0)")
    parser.add_argument("--top-p", type=number(0, 1), default=1.0,
                        help="sample from the likeliest tokens that have this probability together (1)")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the sampling (0)")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="cpu", help="where the arrays live (cpu)")


def main(args: Namespace) -> None:
    model, _, _ = run_dir.load(args.run, xp=array_module(args.device))
    pieces = model.stream(args.text, tokens=args.tokens, temperature=args.temperature, top_p=args.top_p, seed=args.seed)
    print(args.text, end="", flush=True)
    count, began = 0, time.perf_counter()
    for piece in pieces:
        print(piece, end="", flush=True)
        if not count:
            began = time.perf_counter()                  # the time to read the text does not count
        count += 1
    seconds = time.perf_counter() - began
    rate = f", {(count - 1) / seconds:.1f} tokens per second" if count > 1 else ""
    print()
    print(f"{count} tokens{rate}", file=sys.stderr)
