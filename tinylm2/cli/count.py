"""Count parameters, multiply-adds and bytes of a model without creating it."""

from argparse import Namespace
from dataclasses import replace
from math import prod
from typing import Any

from tinylm2.cli.console import table
from tinylm2.memories import MEMORIES
from tinylm2.model import Config, count_params, param_shapes, with_params_of
from tinylm2.training.settings import Settings

PRESETS = {
    "tiny": Settings().config(204),
    "lm2-1.7b": Config(V=128_256, D=2048, L=16, H=32, G=8, F=8192, N=2048, T=2048, tied=True),
}
PARTS = {"embedding, head, norm": ("embed.", "head.", "norm."), "attention": (".attn.",),
         "memory": (".mem.", "memory."), "feed-forward": (".ff.",)}
FLOAT = 4                                                # bytes of a float32


def add_arguments(parser: Any) -> None:
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="which model (tiny)")
    parser.add_argument("--memory", choices=tuple(MEMORIES), help="another memory, with the same number of parameters")


def main(args: Namespace) -> None:
    cfg = PRESETS[args.preset]
    if args.memory:
        cfg = with_params_of(cfg, replace(cfg, memory=args.memory))
    numbers, work = parameters(cfg), multiply_adds(cfg)
    total = sum(work.values())
    rows = [[part, f"{numbers[part]:,}", amount(work[part]), f"{work[part] / total:.0%}"] for part in PARTS]
    rows.append(["all", f"{count_params(cfg):,}", amount(total), ""])
    print(table([f"{args.preset}: {cfg.memory}, L={cfg.L} D={cfg.D} N={cfg.N} T={cfg.T}", "parameters",
                 "multiply-adds per segment", "share"], rows))
    print(f"a token costs {amount(total / cfg.T)} multiply-adds forward, three times as many in training")
    for what, size in stored(cfg).items():
        print(f"{what}: {byte_size(size)}")


def parameters(cfg: Config) -> dict:
    """Part -> number of its parameters."""
    shapes = param_shapes(cfg)
    return {part: sum(prod(shape) for name, shape in shapes.items()
                      if any(name.startswith(mark) or mark[0] == "." and mark in name for mark in marks))
            for part, marks in PARTS.items()}


def multiply_adds(cfg: Config) -> dict:
    """Part -> multiply-adds of the matrix products in the forward pass of a segment of T tokens of one story, with all
    logits and the write. Masked scores count, too, because `attend` computes them. Backward has twice as many.
    """
    D, H, T = cfg.D, cfg.H, cfg.T
    width = H * cfg.K
    attention = T * D * (width + 2 * cfg.G * cfg.K) + T * width * D + 2 * T * T * width
    memory = sum(memory.cost(cfg)[0] + T * D * D * hasattr(memory, "read_forward")       # the output gate
                 for memory in cfg.memories if memory is not None)
    return {"embedding, head, norm": T * D * cfg.V, "attention": cfg.L * attention, "memory": memory,
            "feed-forward": cfg.L * 3 * T * D * cfg.F}


def stored(cfg: Config) -> dict:
    """Name of what is stored -> bytes in float32, for one story."""
    memories = [memory for memory in cfg.memories if memory is not None]
    states = sum(prod(shape) for memory in memories for shape in memory.state_shapes(cfg).values())
    weights = cfg.L * cfg.H * cfg.T**2 + sum(memory.cost(cfg)[1] for memory in memories)
    return {
        "parameters": FLOAT * count_params(cfg),
        "parameters, gradients and two moments": 4 * FLOAT * count_params(cfg),
        "state of the memory of a story": FLOAT * states,
        "keys and values of a segment": FLOAT * 2 * cfg.L * cfg.T * cfg.G * cfg.K,
        "attention weights of a segment, kept for backward": FLOAT * weights,
        "logits of a segment": FLOAT * cfg.T * cfg.V,
    }


def amount(n: float) -> str:
    """A count with a unit: 4.59 T."""
    return _in_units(n, (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1)))


def byte_size(n: float) -> str:
    """Bytes with a unit: 26.4 GiB."""
    return _in_units(n, (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)))


def _in_units(n, units):
    unit, size = next(pair for pair in units if n >= pair[1] or pair[1] == 1)
    digits = max(0, 3 - len(str(int(n / size))))         # three figures
    return f"{n / size:.{digits}f} {unit}".strip()
