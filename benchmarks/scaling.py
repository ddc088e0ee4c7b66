"""What it takes to answer one question at the end of a long story, with a memory and with full attention.

    python -m benchmarks.scaling [--lengths 1024,4096] [--limit 60] [--write]

The main job's model reads segment after segment and keeps its states. Beside it the same model without a memory attends
to everything before, its keys and values kept, for as long as the next length would stay below the limit. Each figure
comes from a process of its own, on one thread; the memory is the peak, imports included.
"""

import argparse
import json
import sys
import time
from statistics import median

import numpy as np

from benchmarks import machine
from benchmarks.tables import markdown
from tinylm2.backend import to_host
from tinylm2.cli.console import keep_memory, number
from tinylm2.data import word_tokenizer
from tinylm2.decoding import answer
from tinylm2.model import first_states, init_params, segment_forward
from tinylm2.training.settings import Settings

LENGTHS = tuple(4**k * 1024 for k in range(6))           # 1k to 1M tokens
PIECE = 512                                              # tokens that full attention reads at once
ANSWER_LEN = 1                                           # tokens


def with_memory(params, ids, cfg, end):
    return answer(params, ids=ids, cfg=cfg, answer_len=ANSWER_LEN, end=end)


def with_full_attention(params, ids, cfg, end):
    """The likeliest next token, every token having attended to all before it."""
    states, past = first_states(params, cfg, len(ids)), None
    for start in range(0, ids.shape[1], PIECE):
        logits, _, cache = segment_forward(params, states, ids=ids[:, start:start + PIECE], cfg=cfg, last=1,
                                           write=False, past=past)
        past = [block["kv"] for block in cache["blocks"]]
    return to_host(logits.argmax(-1))


READERS = {"memory": ("lm2", with_memory), "full attention": ("none", with_full_attention)}


def alone(reader, length):
    """In a fresh process: {"seconds": CPU time of one answer, the median of a few if it is short, "peak": bytes}."""
    memory, read = READERS[reader]
    tokenizer = word_tokenizer()
    cfg = Settings(memory=memory).config(tokenizer.size)
    params = init_params(cfg, 0)
    ids = np.random.default_rng(0).integers(0, cfg.V, (1, length - ANSWER_LEN), dtype=np.uint16)
    read(params, ids[:, :2 * cfg.T - ANSWER_LEN], cfg, tokenizer.end)    # the first call makes tables
    seconds = [machine.seconds(lambda: read(params, ids, cfg, tokenizer.end), time.process_time)
               for _ in range(max(1, min(9, 2**18 // length)))]
    return {"seconds": median(seconds), "peak": machine.resident(peak=True)}


def measure(lengths, limit):
    """Rows of the table, and the figures: {reader: {length: {...}}}."""
    found = {reader: {} for reader in READERS}
    for length in lengths:
        for reader, figures in found.items():
            expected = 16 * max((f["seconds"] for f in figures.values()), default=0)         # full attention's growth
            if reader == "memory" or len(figures) == lengths.index(length) and expected < limit:
                figures[length] = machine.fresh("benchmarks.scaling", "--alone", reader, length)
    rows = []
    for length in lengths:
        row = [f"{length:,}"]
        for figures in found.values():
            f = figures.get(length)
            row += [f"{f['seconds']:.2f}", f"{f['peak'] / 2**20:.0f}"] if f else ["-", "-"]
        rows.append(row)
    return rows, found


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="tokens of the stories (1k to 1M)")
    parser.add_argument("--limit", type=number(0, 1e6), default=60, help="seconds that full attention may take (60)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/PERFORMANCE.md")
    parser.add_argument("--alone", nargs=2, metavar=("READER", "LENGTH"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    keep_memory()
    if args.alone:
        print(json.dumps(alone(args.alone[0], int(args.alone[1]))))
        return 0
    lengths = [int(n) for n in args.lengths.split(",")]
    rows, found = measure(lengths, args.limit)
    header = ["tokens", "memory: s", "MB", "full attention: s", "MB"]
    text = f"{machine.describe()}\n\n{markdown(header, rows)}"
    short, long = found["memory"].get(2**16), found["memory"].get(2**20)
    if short and long:
        text += (f"\n\n1M tokens take {long['seconds'] / short['seconds']:.1f} times as long as 64k and "
                 f"{long['peak'] / short['peak']:.2f} times the memory.")
    print(text)
    if args.write:
        machine.write("scaling", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
