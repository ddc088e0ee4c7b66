"""Evaluate a run: a table of tasks by lengths, on generated, official or BABILong questions."""

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from tinylm2.cli.console import percent, place, question_bar, table, whole
from tinylm2.cli.story import add_model_arguments, model_of, named_tasks
from tinylm2.data import find_file, generated_examples, read_babilong, read_examples
from tinylm2.errors import BadInput
from tinylm2.files import replacing
from tinylm2.inspect.evaluate import METRICS, evaluate
from tinylm2.training.run_dir import output_path
from tinylm2.training.settings import tasks_of

FEWEST = 100                                             # questions that a cell needs to show an accuracy
AT_ONCE = 10**8                                          # tokens of all questions of a cell
SOLVED = 0.95                                            # Weston et al. 2015


def add_arguments(parser: Any) -> None:
    add_model_arguments(parser)
    parser.add_argument("--tasks", help="as train's --task (the run's own)")
    parser.add_argument("--lengths", default="0,128,256,512",
                        help="tokens per story, k for 1,024; 0: no filler (%(default)s)")
    parser.add_argument("--questions", type=whole(1), default=200, help="questions per cell (200)")
    parser.add_argument("--stories", type=place,
                        help="ask questions of the official bAbI files in this folder instead of generated ones")
    parser.add_argument("--babilong", type=place, nargs="+", metavar="FILE", help="ask questions of BABILong's files")
    parser.add_argument("--metric", choices=METRICS, default="exact", help="when an answer counts as correct (exact)")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the generated stories and of the filler (0)")
    parser.add_argument("--out", type=place, help="write this .json, and a .md with the same name (RUN/table.json)")


def main(args: Namespace) -> None:
    lengths = token_lengths(args.lengths)
    if args.questions * max(lengths) > AT_ONCE:
        raise BadInput(f"lengths: found {args.questions} questions of {max(lengths)} tokens, expected at most "
                       f"{AT_ONCE:,} tokens in all")
    outputs = output_paths(args)                         # before hours of work, refuse what cannot be written
    model = model_of(args, any(lengths) and not args.babilong)
    sources = babilong_sources(args, model) if args.babilong else task_sources(args, model)
    if args.babilong:
        lengths = [0]
    T = model.cfg.T
    cells = {}
    with question_bar(sum(map(len, sources.values())) * len(lengths)) as bar:
        for name, examples in sources.items():
            cells[name] = {}
            for length in lengths:
                bar.set_description(f"{name} {length}", refresh=False)
                segments = -(-length // T)
                scores = evaluate(
                    model.params, examples, [segments], cfg=model.cfg, tokenizer=model.tokenizer,
                    filler=model.filler, seed=args.seed, metric=METRICS[args.metric], progress=bar.update)
                cells[name][str(length)] = scores[str(segments)]
    text = render(cells, lengths)
    text += f"\n\nmetric: {args.metric}; segments of {T} tokens: " + ", ".join(
        "as many as the story needs at 0" if not n else f"{-(-n // T)} at {n}" for n in lengths)
    print(text)
    found = {"metric": args.metric, "segment": T, "cells": cells}
    for path, written in zip(outputs, (json.dumps(found, indent=2) + "\n", f"```\n{text}\n```\n"), strict=True):
        with replacing(path) as file:
            file.write(written.encode())


def output_paths(args: Namespace) -> list:
    """The paths of the .json and the .md.  BadInput where they cannot be written."""
    out = Path(args.out or Path(args.run) / "table.json")
    if out.suffix == ".md":
        raise BadInput(f"--out: found {out}, expected the name of the .json; the .md gets the same name")
    inputs = [args.filler, args.tasks, *(args.babilong or ())]
    return [output_path(path, inputs=inputs) for path in (out, out.with_suffix(".md"))]


def token_lengths(text: str) -> list[int]:
    """ "0,128,1k" -> [0, 128, 1024]."""
    if not re.fullmatch(r"\d{1,9}k?(,\d{1,9}k?)*", text):
        raise BadInput(f"lengths: found {text!r}, expected numbers of tokens such as 0,128,1k")
    return list(dict.fromkeys(int(n.rstrip("k")) * (1024 if n.endswith("k") else 1) for n in text.split(",")))


def task_sources(args: Namespace, model: Any) -> dict:
    name = args.tasks or model.settings.task
    if args.stories and not name.endswith(".py"):        # the names alone are asked for
        tasks = tasks_of(name)
    else:
        tasks = named_tasks(args.tasks, model.settings, "--tasks" if args.stories else "--tasks, or --stories")
    if not args.stories:
        return {task.name: generated_examples(task, args.questions, seed=args.seed) for task in tasks}
    return {task.name: read_examples(find_file(args.stories, task.name), task.name, model.tokenizer)[:args.questions]
            for task in tasks}


def babilong_sources(args: Namespace, model: Any) -> dict:
    return {Path(path).stem: read_babilong(path, None, model.tokenizer)[:args.questions] for path in args.babilong}


def render(cells: Any, lengths: Any) -> Any:
    """The table as text. A cell shows how many questions fit where not all do, and no accuracy below 100 questions."""
    rows = [[name, *(_cell(row[str(n)]) for n in lengths)] for name, row in cells.items()]
    columns = [[row[str(n)] for row in cells.values()] for n in lengths]
    known = [[s["accuracy"] for s in column if s["questions"] >= FEWEST] for column in columns]
    rows.append(["mean", *(percent(float(np.mean(c)) if c else None) for c in known)])
    rows.append([f"solved ({SOLVED:.0%})", *(f"{sum(a >= SOLVED for a in c)}/{len(c)}" for c in known)])
    return table(["task", *map(str, lengths)], rows)


def _cell(s):
    accuracy = percent(s["accuracy"]) if s["questions"] >= FEWEST else "-"
    return f"{accuracy} ({s['questions']})" if s["left_out"] or s["questions"] < FEWEST else accuracy
