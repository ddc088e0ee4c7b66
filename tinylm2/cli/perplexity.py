"""Measure the perplexity of a text, with the run's memory and with the memory frozen."""

from argparse import Namespace
from typing import Any

import numpy as np

from tinylm2.cli.console import place, table, whole
from tinylm2.errors import read_lines
from tinylm2.gpu import array_module
from tinylm2.training import run_dir


def add_arguments(parser: Any) -> None:
    parser.add_argument("run", type=place, help="a run's folder, such as one that `tinylm2 import` made")
    parser.add_argument("--text", type=place, required=True, metavar="FILE", help="a text file")
    parser.add_argument("--tokens", type=whole(2), default=10**9, help="use only the first so many tokens (all)")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="cpu", help="where the arrays live (cpu)")


def main(args: Namespace) -> None:
    model, _, _ = run_dir.load(args.run, xp=array_module(args.device))
    ids = model.tokenizer.encode("\n".join(read_lines(args.text)))[:args.tokens]
    rows = []
    for name in ("with its memory", "memory frozen") if any(model.cfg.memories) else ("no memory",):
        losses = model.surprise(ids, frozen=name == "memory frozen")
        rows.append([name, f"{losses.mean():.4f}", f"{np.exp(losses.mean()):.2f}"])
    print(table([f"{len(ids)} tokens, {-(-(len(ids) - 1) // model.cfg.T)} segments", "loss", "perplexity"], rows))
