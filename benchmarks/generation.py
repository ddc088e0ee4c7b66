"""Stories a second beside training steps a second: making the data must never be what a run waits for.

    python -m benchmarks.generation [--rounds 20]

The default main job's stage B: its batches are made and trained on turn by turn, CPU time, one thread.
"""

import argparse
import time

from benchmarks import machine
from tinylm2 import runs
from tinylm2.training.trainer import train_step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    loaded = runs.new(runs.Settings())
    run = loaded.training()
    stage = run.stages[-1]
    shares, tokens, made, trained = [], 0, 0.0, 0.0
    for step in range(rounds + 1):
        began = time.process_time()
        batch = run.stories.batch(stage.shape, step, stage.size)
        between = time.process_time()
        train_step(run.params, run.optimizer, batch, cfg=run.cfg, rate=1e-3)
        ended = time.process_time()
        if step:                                         # the first fills the tables
            tokens, made, trained = tokens + batch.ids.size, made + between - began, trained + ended - between
            shares.append((ended - between) / (between - began))
    print(machine.describe())
    print(f"making stories: {tokens / made:,.0f} tokens/s; training on them: {tokens / trained:,.0f} tokens/s; "
          f"ratio {machine.spread(shares)}, expected at least 5")


if __name__ == "__main__":
    main()
