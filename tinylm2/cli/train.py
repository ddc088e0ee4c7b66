"""Train a tiny LM2 on bAbI stories with filler between the facts, then evaluate it."""

import os
import time
import zlib
from argparse import Namespace
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from tinylm2 import __version__
from tinylm2.cli.console import Progress, percent, place, question_bar, sparkline, table, whole
from tinylm2.data import encode_examples, find_file, generated_examples, read_examples
from tinylm2.errors import BadInput
from tinylm2.gpu import array_module
from tinylm2.inspect.evaluate import evaluate as evaluate_lengths
from tinylm2.model import count_params
from tinylm2.training import loop, run_dir
from tinylm2.training.communicator import agree, checksum, world
from tinylm2.training.material import gather_material
from tinylm2.training.settings import Settings, given_settings, segment_counts, whole_numbers
from tinylm2.training.step import SINGLE
from tinylm2.training.watch import watched

QUESTIONS = 1000                                         # per length
SHOWN = 8                                                # segments of the story shown at the end
GROUPS = {"task": "what is learned", "memory": "the model", "lr": "how it is learned", "tokenizer": "words and filler",
          "text": "with --from: a text instead of stories"}      # the first setting of each group in --help
NOT_GIVEN = None                                         # a resumed run then keeps its value


def add_arguments(parser: Any) -> None:
    group = parser
    for f in fields(Settings):
        group = parser.add_argument_group(GROUPS[f.name]) if f.name in GROUPS else group
        name, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
        if isinstance(f.default, bool):
            group.add_argument(name, action="store_const", const=True, default=NOT_GIVEN, help=text)
        else:
            text += f" ({f.default})" if f.default != "" else ""
            group.add_argument(name, type=type(f.default), choices=f.metadata["choices"], default=NOT_GIVEN, help=text)
    parser = parser.add_argument_group("the run")
    parser.add_argument("--eval-segments", default="4,8,16",
                        help="numbers of segments to evaluate at, besides no filler (4,8,16)")
    parser.add_argument("--stories", type=place, help="also ask questions of the official bAbI files in this folder")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where the arrays live (auto)")
    parser.add_argument("--out", type=place, default="runs/tiny", help="the run's folder (runs/tiny)")
    parser.add_argument("--save-every", type=whole(0), default=200,
                        help="steps between checkpoints (200; 0: only at the end)")
    parser.add_argument("--from", dest="source", metavar="RUN", help="start from the parameters of another run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--watch", type=whole(0, 65535), nargs="?", const=0, metavar="PORT",
                        help="serve a page that follows the run, only to this machine (any free port)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")


def main(args: Namespace) -> None:
    comm = world()
    with _quiet() if comm.rank else nullcontext():       # only the first process prints
        folder = run_dir.RunDir(args.out)
        model, trainer = start(folder, args, comm)
        port = None if comm.rank else args.watch
        with nullcontext() if port is None else watched(folder, model, trainer, port=port) as address:
            if address:
                print(f"watch it at {address}", flush=True)
            train(folder, model, trainer, args)
            if not model.settings.text:
                evaluate(folder, model, trainer.stories.tasks, args, comm)


@contextmanager
def _quiet():
    """Nothing is printed."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def start(folder: Any, args: Namespace, comm: Any = SINGLE) -> tuple:
    """(TrainedModel, Trainer) of a new run, or of the run in the folder with --resume."""
    agree(comm, version=__version__, numpy=np.__version__,
          **{f"--{name.replace('_', '-')}": value for name, value in vars(args).items()})
    xp = array_module(args.device, comm.rank)
    segment_counts("eval-segments", args.eval_segments)
    given = vars(args)
    if args.resume:
        model, trainer = run_dir.resume(folder, given, xp=xp, comm=comm)
        given_settings(given, model.settings)
    else:
        if comm.size > 1 and args.shards is None:
            given = given | {"shards": comm.size}
        model, material = _new(args, given, xp)
        trainer = model.trainer(comm, material)          # finds bad settings before another run is removed
    if args.stories:                                     # checks every file before training
        official_examples(args.stories, trainer.stories.tasks, model.tokenizer)
    if comm.size > 1:                                    # the ranks may have read different files
        agree(comm, **asdict(model.settings), config=model.cfg, step=trainer.progress.step,
              **{"a vocabulary with the checksum": zlib.crc32(model.tokenizer.to_json().encode()),
                 "parameters with the checksum": checksum(trainer.params.buffer)})
    refused = comm.gather(_begin(folder, model, args) if comm.rank == 0 else None)[0]
    if refused:                                          # on every rank, so all end together
        raise BadInput(refused)
    if args.resume:
        print(f"continuing {folder.path} at step {trainer.progress.step}")
    elif comm.size > 1 and args.shards is None:
        print(f"--shards {comm.size}: one part of each batch per process")
    return model, trainer


def _new(args, given, xp):
    """(new TrainedModel, its Material), or (a TrainedModel that continues another run, None)."""
    if args.source:
        return run_dir.continue_from(args.source, given, xp=xp), None
    settings = given_settings(given)
    if settings.text or settings.freeze:
        raise BadInput("--text and --freeze: found no --from, expected a run to start from")
    material = gather_material(settings)
    return run_dir.new(settings, xp=xp, material=material), material


def _begin(folder, model, args):
    """Prepare the folder. Returns an error message, or None."""
    try:
        if not args.resume:
            folder.claim(overwrite=args.overwrite)
        if args.source:
            folder.save_imported(model)                  # if killed, the run resumes from these parameters
        folder.describe(model)                           # both files: an earlier kill may have left only the first
    except BadInput as error:
        return str(error)
    return None


def train(folder: Any, model: Any, trainer: Any, args: Namespace) -> None:
    """Train with a progress bar, then print the loss as a sparkline."""
    cfg = model.cfg
    unit = "words" if model.settings.tokenizer == "word" else "tokens"
    print(f"{count_params(cfg):,} parameters, {cfg.V} {unit}, memory: {cfg.memory}, into {folder.path}/")
    began, losses = time.perf_counter(), []
    with Progress() as progress:

        def show(metrics):
            losses.append(metrics["loss"])
            later = sum(stage.steps for stage in trainer.stages[trainer.progress.stage + 1:])
            here = trainer.progress.first + trainer.stage.steps - trainer.progress.step
            progress.show(metrics["step"] + 1, here + later, f"stage {metrics['stage']}",
                          f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.2f}")

        loop.train(folder, model, trainer, save_every=args.save_every, show=show)
    print(f"loss  {sparkline(losses)}  {trainer.progress.step} steps, {time.perf_counter() - began:.0f} s")


def evaluate(folder: Any, model: Any, tasks: Any, args: Namespace, comm: Any = SINGLE) -> None:
    """Evaluate on generated (and official) questions at every length; print the table and one story."""
    counts = list(dict.fromkeys([0, *whole_numbers("eval-segments", args.eval_segments)]))
    name = "trained on" if model.settings.train_on else "generated"
    sources = {name: [e for task in tasks for e in generated_examples(task, QUESTIONS, seed=model.settings.seed)]}
    if args.stories:
        sources["stories"] = official_examples(args.stories, tasks, model.tokenizer)
    results = {}
    with question_bar(sum(map(len, sources.values())) * len(counts)) as bar:
        for name, examples in sources.items():
            results[name] = evaluate_lengths(
                model.params, examples, counts, cfg=model.cfg, tokenizer=model.tokenizer, filler=model.filler,
                seed=model.settings.seed, progress=bar.update, comm=comm)
    if comm.rank == 0:
        folder.write_json("evaluation.json", results)
    print(accuracy_table(results))
    show_story(model, sources[name])


def official_examples(path: str, tasks: Any, tokenizer: Any = None) -> list:
    """Up to 1,000 questions per task of the official files in a folder."""
    return [e for task in tasks for e in read_examples(find_file(path, task.name), task.name, tokenizer)[:QUESTIONS]]


def accuracy_table(results: Any) -> Any:
    """A line per length and source: accuracy over all questions and by distance."""
    far = max((int(d) for scores in results.values() for s in scores.values() for d in s["by_distance"]), default=0)
    bins = _bins(far)
    rows = []
    for name, scores in results.items():
        for segments, s in scores.items():
            rows.append([f"{name}, {segments} segments" if segments != "0" else f"{name}, no filler", s["questions"],
                         percent(s["accuracy"]), *(percent(_within(s["by_distance"], *b)) for b in bins)])
    names = [str(a) if a == b else f"{a}-{b}" for a, b in bins]
    return table(["accuracy", "asked", "all", *(f"{n} back" for n in names)], rows)


def _bins(far):
    """Bins of distances: 0, 1, 2-3, 4-7, ... up to the largest."""
    bins, low = [(0, 0)], 1
    while low <= far:
        bins.append((low, 2 * low - 1))
        low *= 2
    return bins


def _within(by_distance, low, high):
    found = [accuracy for d, accuracy in by_distance.items() if low <= int(d) <= high]
    return sum(found) / len(found) if found else None


def show_story(model: Any, examples: Any) -> None:
    """Print a story whose fact lies several segments back, with the model's answers with and without its memory."""
    rows, _ = encode_examples(examples[:100], SHOWN, tokenizer=model.tokenizer, filler=model.filler,
                              segment_len=model.cfg.T, seed=0, answer_len=model.answer_len)
    if not rows:
        rows, _ = encode_examples(examples[:1], 0, tokenizer=model.tokenizer, filler=model.filler,
                                  segment_len=model.cfg.T, seed=0, answer_len=model.answer_len)
    row = next((row for row in rows if (row.distance or 0) >= SHOWN // 2), rows[0])
    with_memory, without = (model.traced(row, frozen=frozen).text for frozen in (False, True))
    print("\n" + " ".join(row.example.facts))
    back = f", {row.distance} of {row.segments} segments back" if row.distance else ""
    print(f"{row.example.question}  truth: {row.example.answer}{back}")
    print(f"model: {with_memory}; with its memory frozen: {without}")
