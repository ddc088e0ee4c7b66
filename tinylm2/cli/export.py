"""Write a run as a Hugging Face folder, which transformers loads, trains and compiles."""

from argparse import Namespace
from typing import Any

from tinylm2.interop.export_model import CODE, export_model
from tinylm2.training import run_dir


def add_arguments(parser: Any) -> None:
    parser.add_argument("run", help="a run's folder, such as runs/tiny")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a model in --to")


def main(args: Namespace) -> None:
    model, _, _ = run_dir.load(args.run)
    folder = export_model(model, args.to, overwrite=args.overwrite)
    print(f"{folder}/: AutoModelForCausalLM.from_pretrained({str(folder)!r}"
          f"{', trust_remote_code=True' if (folder / CODE).exists() else ''})")
