"""What every memory costs: a training step beside LM2's, its peak of memory, its state and its parameters.

    python -m benchmarks.memories [--rounds 15] [--write]

All models have as many parameters as LM2 by default. They train the same 64 stories of 4 segments in one process, turn
by turn, one thread, processor time; the ratio to LM2 is the median over the rounds. The peak is that of the arrays
which one step makes.
"""

import argparse
import sys
import time
import tracemalloc
from math import prod
from statistics import median

import numpy as np

from benchmarks import machine
from benchmarks.step import Workload, race, tinylm2_step
from benchmarks.tables import markdown, median_quartiles
from experiments.baselines import baseline
from tinylm2.cli.console import keep_memory, whole
from tinylm2.data import word_tokenizer
from tinylm2.memories import MEMORIES
from tinylm2.model import Config, count_params

BATCH, SEGMENTS, LIMIT = 64, 4, 2.0                      # LIMIT: of LM2's time, for all but `full`


def state_size(cfg):
    """How many numbers the memory of one story holds, over all blocks."""
    return sum(prod(shape) for memory in cfg.memories if memory is not None
               for shape in memory.state_shapes(cfg).values())


def peak(step):
    """Bytes of the arrays that a step holds at once."""
    tracemalloc.start()
    step()
    bytes_at_once = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return bytes_at_once


def measure(names, rounds):
    """One row per memory: (name, ms, ratios to LM2 by round, peak in MB, state, parameters)."""
    like = Config(V=word_tokenizer().size)
    cfgs = {name: baseline(name, like) for name in names}
    steps = {name: tinylm2_step(Workload(cfg, BATCH, last=2, segments=SEGMENTS), np) for name, cfg in cfgs.items()}
    taken = race(steps, rounds, time.process_time, most=1e9)
    return [(name, 1e3 * median(taken[name]), [a / b for a, b in zip(taken[name], taken["lm2"], strict=True)],
             peak(steps[name]) / 2**20, state_size(cfg), count_params(cfg)) for name, cfg in cfgs.items()]


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memories", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=whole(1, 10_000), default=15, help="turns of each memory (15)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/PERFORMANCE.md")
    args = parser.parse_args(argv)
    keep_memory()
    with machine.one_core():
        rows = measure(list(MEMORIES), args.rounds)
    table = markdown(
        ["memory", "ms per step", "of LM2's (quartiles)", "MB", "numbers of state", "parameters"],
        [[name, f"{ms:.1f}", median_quartiles(ratios), f"{mb:.0f}", f"{state:,}", f"{params:,}"]
         for name, ms, ratios, mb, state, params in rows])
    text = f"{machine.describe()}\n\n{table}"
    print(text)
    if args.write:
        machine.write("memories", text)
    slow = [name for name, _, ratios, *_ in rows if median(ratios) > LIMIT and name != "full"]
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
