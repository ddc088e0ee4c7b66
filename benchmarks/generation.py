"""Stories a second beside training steps a second: making the data must never be what a run waits for.

    python -m benchmarks.generation [--rounds 20]

The default main job's stage B: its batches are made and trained on turn by turn, CPU time, one thread.
"""

import argparse
import time

from benchmarks import machine
from benchmarks.tables import median_quartiles
from tinylm2.cli.console import whole
from tinylm2.training import run_dir
from tinylm2.training.settings import Settings
from tinylm2.training.step import train_step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=whole(1, 10**6), default=20)
    rounds = parser.parse_args().rounds
    trainer = run_dir.new(Settings()).trainer()
    stage = trainer.stages[-1]
    shares, tokens, made, trained = [], 0, 0.0, 0.0
    for step in range(rounds + 1):
        began = time.process_time()
        batch = stage.sampler.batch(trainer.stories, step, stage.batch_size)
        between = time.process_time()
        train_step(trainer.params, trainer.optimizer, batch, cfg=trainer.cfg, lr=1e-3)
        ended = time.process_time()
        if step:                                         # the first fills the tables
            tokens, made, trained = tokens + batch.ids.size, made + between - began, trained + ended - between
            shares.append((ended - between) / (between - began))
    print(machine.describe())
    print(f"making stories: {tokens / made:,.0f} tokens/s; training on them: {tokens / trained:,.0f} tokens/s; "
          f"ratio {median_quartiles(shares)}, expected at least 5")


if __name__ == "__main__":
    main()
