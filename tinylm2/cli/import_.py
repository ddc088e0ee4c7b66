"""Turn a published Llama (a Hugging Face folder or a GGUF file) into a run, with a memory if you like."""

import time
from argparse import Namespace
from typing import Any

from tinylm2.cli.console import place, whole
from tinylm2.interop.import_model import import_model
from tinylm2.memories import MEMORIES
from tinylm2.model import count_params
from tinylm2.training.run_dir import RunDir
from tinylm2.training.settings import whole_numbers


def add_arguments(parser: Any) -> None:
    parser.add_argument("source", type=place, metavar="SOURCE",
                        help="a folder with config.json, safetensors and tokenizer.json, or a .gguf file")
    parser.add_argument("--out", type=place, required=True, help="the run's folder")
    parser.add_argument("--memory", choices=tuple(MEMORIES), default="none", help="a memory to add (none)")
    parser.add_argument("--slots", type=whole(1, 16384), default=16, help="slots of the memory (16)")
    parser.add_argument("--segment", type=whole(1, 65536), help="tokens per segment (256 with a memory, else all "
                                                                "positions of the model)")
    parser.add_argument("--memory-blocks", help="blocks that get the memory, such as 0,2 (all)")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the memory's first parameters (0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")


def main(args: Namespace) -> None:
    began = time.perf_counter()
    blocks = tuple(whole_numbers("--memory-blocks", args.memory_blocks)) if args.memory_blocks else None
    model = import_model(args.source, memory=args.memory, slots=args.slots, segment=args.segment, memory_blocks=blocks,
                         seed=args.seed)
    folder = RunDir(args.out)
    folder.claim(overwrite=args.overwrite)               # after the import: a bad source must not remove a run
    folder.save_imported(model)
    print(f"{count_params(model.cfg):,} parameters, {model.cfg.V:,} tokens, {model.cfg.L} blocks, memory: "
          f"{model.cfg.memory}, segments of {model.cfg.T}, into {args.out}/ in {time.perf_counter() - began:.1f} s")
