"""Count parameters, multiply-adds and bytes of a model, without making one."""

from math import prod

from tinylm2.console import table
from tinylm2.model import Config, param_shapes
from tinylm2.runs import Settings, count

PRESETS = {
    "tiny": Settings().config(204),
    "lm2-1.7b": Config(V=128_256, D=2048, L=16, H=32, G=8, F=8192, N=2048, T=2048, tied=True),
}


def add_arguments(parser):
    parser.add_argument("--preset", choices=PRESETS, default="tiny")


def main(args):
    cfg = PRESETS[args.preset]
    parts = {"embedding and head": (), "attention": (".attn.",), "memory": (".mem.",), "feed-forward": (".ff.",)}
    shapes = param_shapes(cfg)
    rows, left = [], count(cfg)
    for name, marks in list(parts.items())[1:]:
        numbers = sum(prod(shape) for key, shape in shapes.items() if any(mark in key for mark in marks))
        rows.append([name, f"{numbers:,}"])
        left -= numbers
    rows.insert(0, ["embedding, head, last norm", f"{left:,}"])
    rows.append(["all", f"{count(cfg):,}"])
    print(table([f"{args.preset}: {cfg.memory}, L={cfg.L} D={cfg.D} N={cfg.N}", "parameters"], rows))
    print(f"float32 training keeps four numbers a parameter: {16 * count(cfg) / 2**30:.2f} GiB; "
          f"the banks of one story take {4 * cfg.L * cfg.N * cfg.D / 2**20:.2f} MiB")


