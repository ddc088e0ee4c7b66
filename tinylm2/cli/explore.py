"""Write one HTML file in which you step through a story, change it and see what the memory does."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from tinylm2.cli.console import place
from tinylm2.cli.story import add_story_arguments, length_of, model_of, story_of
from tinylm2.files import replacing
from tinylm2.inspect.explore import page
from tinylm2.training.run_dir import output_path


def add_arguments(parser: Any) -> None:
    add_story_arguments(parser)
    parser.add_argument("--out", type=place, help="the file to write (RUN/explore.html)")


def main(args: Namespace) -> None:
    out = output_path(args.out or Path(args.run) / "explore.html", inputs=[args.story, args.filler, args.task])
    model = model_of(args, length_of(args) > 0)
    row = story_of(args, model)
    live, frozen = (model.traced(row, frozen=frozen) for frozen in (False, True))
    text = page(row, live, frozen, cfg=model.cfg, tokenizer=model.tokenizer, about=about(model, row, args),
                params=model.params, filler=model.filler, answer_len=model.answer_len)
    with replacing(out) as file:
        file.write(text.encode())
    print(f"{out}: {len(text.encode()) / 1e6:.2f} MB, opens in any browser")


def about(model: Any, row: Any, args: Namespace) -> str:
    """The line under the page's title: the run and the story."""
    cfg = model.cfg
    source = args.story or f"{row.example.task}, seed {args.seed}"
    return (f"{Path(args.run).name}: memory “{cfg.memory}”, {cfg.L} blocks, {cfg.H} heads, {cfg.N} slots. "
            f"Story: {source}, {len(row.prompt)} tokens.")
