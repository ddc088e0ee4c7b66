"""How long a training step takes and how much memory, beside the same step in PyTorch eager.

    python -m benchmarks.step [--configs tiny,small] [--rounds 20] [--device gpu] [--write]

Both sides run in one process, turn by turn, who goes first changing each round, one thread each, CPU time; the ratio is
the median over the rounds. Peak memory (above that of the imports) and wall time with all cores come from fresh
processes. Without PyTorch only this library's side is measured.
"""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks import machine
from benchmarks.tables import markdown, median_quartiles
from tinylm2.cli.console import keep_memory, whole
from tinylm2.cli.count import multiply_adds
from tinylm2.data import Batch, word_tokenizer
from tinylm2.gpu import NoGPU, array_module
from tinylm2.model import Config, init_params
from tinylm2.optim import AdamW
from tinylm2.training.settings import Settings
from tinylm2.training.step import train_step

LR, SEED = 1e-3, 0


@dataclass(frozen=True)
class Workload:
    """A model and what it is trained on: `batch` stories of so many segments, the loss at the last `last` tokens."""

    cfg: Config
    batch: int
    last: int
    segments: int = 1

    def draw(self):
        """A batch of random tokens."""
        tokens = np.random.default_rng(SEED).integers(0, self.cfg.V, (self.batch, self.segments * self.cfg.T + 1))
        weights = np.zeros(tokens[:, 1:].shape, np.float32)
        weights[:, -self.last:] = 1
        pad = np.zeros(self.batch, np.int64)
        return Batch(tokens[:, :-1], tokens[:, 1:], weights, pad, self.last, ("",) * self.batch)

    def products(self):
        """Floating-point operations of a step's matrix products, where every token has a loss; else None."""
        if self.last < self.cfg.T * self.segments:
            return None
        return 3 * 2 * self.batch * self.segments * sum(multiply_adds(self.cfg).values())       # backward: twice more


def _llama(batch, T, D, L, H, F, V):
    return Workload(Config(V=V, D=D, L=L, H=H, G=H, F=F, N=1, T=T, memory="none"), batch, last=T)


WORKLOADS = {
    "tiny": _llama(32, 64, 64, 2, 4, 176, 200),
    "small": _llama(16, 128, 128, 4, 4, 344, 512),
    "medium": _llama(8, 256, 384, 6, 6, 1024, 4096),
    "lm2-tiny": Workload(Settings().config(word_tokenizer().size), batch=64, last=2, segments=4),
}
LARGE = {                                                # where a GPU earns its keep: hours for a CPU
    "joint": Workload(Config(V=256, D=64, L=3, H=4, G=4, F=160, N=16, T=128), batch=512, last=2, segments=2),
    "large": _llama(16, 512, 1024, 8, 16, 2816, 4096),
}


def tinylm2_step(work, xp):
    """A function that trains one step with this library."""
    params, batch = init_params(work.cfg, SEED, xp=xp), work.draw()
    optimizer = AdamW(params)
    return lambda: train_step(params, optimizer, batch, cfg=work.cfg, lr=LR)[0]


def torch_step(work, xp, compiled=False):
    """A function that trains one step with PyTorch, where there is one."""
    from benchmarks.torch_reference import training_step

    return training_step(init_params(work.cfg, SEED), work.draw(), cfg=work.cfg, lr=LR,
                         device="cpu" if xp is np else "cuda", compiled=compiled)


def torch_lacks(xp):
    """Why PyTorch cannot take part; None where it can."""
    if not machine.has("torch"):
        return "PyTorch is not installed (pip install torch)"
    import torch

    return None if xp is np or torch.cuda.is_available() else "PyTorch finds no GPU"


SIDES = {"tinylm2": tinylm2_step, "torch": torch_step}


def race(steps, rounds, clock, least=0.1, most=40):
    """Seconds a step of each side, round by round: {side: [...]}.

    Each turn takes at least `least` seconds; after five rounds there are no more once they took `most` in all.
    """
    taken = {side: [] for side in steps}
    repeats = {}
    for side, step in steps.items():
        step()                                           # the first one makes tables, and wakes the library
        repeats[side] = max(1, round(least / machine.seconds(step, clock)))
    start = clock()
    for turn in range(rounds):
        if turn >= 5 and clock() - start > most:
            break
        for side in sorted(steps, reverse=turn % 2):
            began = clock()
            for _ in range(repeats[side]):
                steps[side]()
            taken[side].append((clock() - began) / repeats[side])
    return taken


def alone(name, side, steps=3):
    """In a fresh process: {"peak": bytes above the imports, "wall": seconds a step}."""
    if side == "torch":
        import benchmarks.torch_reference  # noqa: F401  (imports are not counted)
    before = machine.resident()
    step = SIDES[side](WORKLOADS[name], np)
    step()
    wall = min(machine.seconds(step, time.perf_counter) for _ in range(steps))
    return {"peak": machine.resident(peak=True) - before, "wall": wall}


def measure(name, sides, rounds, xp, peak):
    """One row of the table."""
    work = (WORKLOADS | LARGE)[name]
    clock = time.process_time if xp is np else time.perf_counter         # a GPU computes on its own time
    with machine.one_core() if xp is np else nullcontext():              # beside a GPU PyTorch works in two threads
        taken = race({side: SIDES[side](work, xp) for side in sides}, rounds, clock)
    ours, both = median(taken["tinylm2"]), len(sides) > 1
    row = [name, *(f"{1e3 * median(taken[side]):.1f}" if side in sides else "-" for side in SIDES)]
    row.append(median_quartiles([a / b for a, b in zip(*taken.values(), strict=True)]) if both else "-")
    if xp is not np:
        return row
    for threads, key, unit in ((1, "peak", 2**20), (machine.CORES, "wall", 1e-3)):
        found = {side: machine.fresh("benchmarks.step", "--alone", name, side, threads=threads)[key] for side in sides}
        row += [f"{found[side] / unit:.1f}" if side in sides else "-" for side in SIDES]
        row.append(f"{found['tinylm2'] / found['torch']:.2f}" if both else "-")
    row.append(f"{100 * work.products() / ours / peak:.0f} %" if work.products() else "-")
    return row


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default=",".join(WORKLOADS), help="which models (all)")
    parser.add_argument("--rounds", type=whole(1, 10**6), default=15, help="turns of each side (15)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where both sides compute (cpu)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/PERFORMANCE.md")
    parser.add_argument("--alone", nargs=2, metavar=("CONFIG", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    keep_memory()
    if args.alone:
        print(json.dumps(alone(*args.alone)))
        return 0
    try:
        xp = array_module(args.device)
    except NoGPU as error:
        print(error, file=sys.stderr)
        return 2
    lacking = torch_lacks(xp)
    sides = [side for side in SIDES if side != "torch" or not lacking]
    if lacking:
        print(f"{lacking}: this library's side alone")
    header = ["model", "tinylm2 ms", "torch ms", "ratio (quartiles)"]
    if xp is np:
        header += ["tinylm2 MB", "torch MB", "ratio", f"tinylm2 ms, {machine.CORES} cores", "torch ms", "ratio",
                   "of the sgemm peak"]
    peak = machine.sgemm_peak()
    rows = [measure(name, sides, args.rounds, xp, peak) for name in args.configs.split(",")]
    text = f"{machine.describe(xp)}\n\n{markdown(header, rows)}"
    print(text)
    if args.write:
        machine.write("step" if xp is np else "step on a GPU", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
