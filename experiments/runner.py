"""What all experiments share: cells that are computed once and kept, budgets, seeds, and the three files of an answer.

An experiment is a list of cells: one variant with one seed, an independent job that ends in numbers. Each finished
cell goes into docs/results/NAME.json at once, so an interrupted experiment continues where it stood; NAME.md and
NAME.png are drawn from that file alone.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from pathlib import Path

from tqdm import tqdm

from tinylm2.cli.console import Parser, command
from tinylm2.data import (
    TASKS,
    BadInput,
    GrammarFiller,
    Stories,
    encode_examples,
    generated_examples,
    max_answer_len,
    word_tokenizer,
)
from tinylm2.inspect.evaluate import ask_rows, score
from tinylm2.training.trainer import NotLearned, Trainer, curriculum

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results"
DEVELOPMENT, HELD_OUT = 1001, 2002                       # seeds of questions: to choose by, and to report the choice
EVERY = 25                                               # steps of which a curve keeps the mean


@dataclass(frozen=True)
class Experiment:
    """One question and how it is answered.

    budgets: name -> keywords of `cells` and `measure`; "quick" and "small" are always there.
    cells(budget) -> the variants' names, in the order of the report.
    measure(variant, seed, budget, show) -> what is kept in the JSON; `show` takes what the progress bar should say.
    report(Results) -> the Markdown below the title;   draw(Results, pyplot) -> a figure.
    options: name -> help of further arguments; `measure` finds their values in the budget, the JSON whether they were
    given.
    """

    name: str
    asks: str
    budgets: dict[str, dict]
    cells: Callable
    measure: Callable
    report: Callable
    draw: Callable
    options: dict[str, str] = field(default_factory=dict)

    def main(self, argv=None):
        return command(self._main)(argv)

    def _main(self, argv):
        args = self._arguments(argv)
        given = {name: getattr(args, name) for name in self.options}
        budget = self.budgets[args.budget] | {name: bool(value) for name, value in given.items()}
        results = Results(self, args.out / f"{self.name}.json", budget, args.budget)
        jobs = [(seed, variant) for seed in args.seeds for variant in _chosen(args.only, results.variants)]
        began = time.monotonic()
        with tqdm(jobs, unit="cell", desc=self.name, dynamic_ncols=True) as bar:
            for seed, variant in bar:
                if results.has(variant, seed):
                    continue
                if args.minutes is not None and time.monotonic() - began >= 60 * args.minutes:
                    tqdm.write(f"{self.name}: {args.minutes:g} minutes are over; the same command continues")
                    break
                results.add(variant, seed, self._run(variant, seed, results.budget | given, bar))
        results.write(args.out)

    def _run(self, variant, seed, budget, bar):
        bar.set_postfix_str(f"{variant}, seed {seed}")
        wall, cpu = time.perf_counter(), time.process_time()
        found = self.measure(variant, seed, budget, lambda text: bar.set_postfix_str(f"{variant}, seed {seed}: {text}"))
        return {**found, "wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(time.process_time() - cpu, 1)}

    def _arguments(self, argv):
        parser = Parser(prog=f"python -m experiments.{self.name}", description=self.asks)
        parser.add_argument("--budget", choices=self.budgets, default="small", help="how long to train (small)")
        parser.add_argument("--quick", action="store_const", const="quick", dest="budget",
                            help="seconds instead of minutes, one seed: does it run? The numbers mean nothing")
        parser.add_argument("--seeds", help="such as 0,1,2 (the default)")
        parser.add_argument("--only", action="append", metavar="VARIANT", help="this variant alone; may be repeated")
        parser.add_argument("--minutes", type=float, help="begin no cell after so many minutes (0: only draw)")
        parser.add_argument("--out", type=Path, help="folder of the results (docs/results)")
        for name, text in self.options.items():
            parser.add_argument(f"--{name}", help=text)
        args = parser.parse_args(argv)
        quick = args.budget == "quick"
        args.seeds = _seeds(args.seeds or ("0" if quick else "0,1,2"))
        args.out = args.out or (Path("runs") / "quick" if quick else FOLDER)
        args.out.mkdir(parents=True, exist_ok=True)
        return args


def _chosen(names, variants):
    for name in names or ():
        if name not in variants:
            raise BadInput(f"--only: found {name!r}, expected one of {', '.join(map(repr, variants))}")
    return names or variants


def _seeds(text):
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--seeds: found {text!r}, expected whole numbers such as 0,1,2") from None


class Results:
    """The cells of one experiment and budget that are there, and the file that keeps them."""

    def __init__(self, experiment, path, budget, budget_name):
        self.experiment, self.path, self.name = experiment, path, budget_name
        self.budget = json.loads(json.dumps(budget))     # as it will be read back: tuples are lists
        self.variants = list(experiment.cells(budget))
        self.kept = self._read()

    def _read(self):
        return json.loads(self.path.read_text(encoding="utf-8"))["cells"] if self.path.exists() else {}

    def has(self, variant, seed):
        """Whether this cell was measured under the very budget of today."""
        return any(cell["seed"] == seed for cell in self.of(variant))

    def of(self, variant):
        """The cells of a variant, one a seed."""
        return [cell for cell in self.kept.values() if cell["variant"] == variant and cell["budget"] == self.budget]

    def add(self, variant, seed, found):
        cell = {"variant": variant, "seed": seed, "budget": self.budget, "machine": machine(),
                "date": date.today().isoformat(), **found}
        self.kept = self._read()                         # again: another process may have measured other cells
        self.kept[f"{self.name} / {variant} / seed {seed}"] = json.loads(json.dumps(cell))
        cells = ",\n".join(f"{json.dumps(key)}: {json.dumps(cell)}" for key, cell in self.kept.items())
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(f'{{"cells": {{\n{cells}\n}}}}\n', encoding="utf-8")
        os.replace(temporary, self.path)

    def seeds(self, variant):
        """How many seeds a variant was trained with, and how many of them did not get past a stage that they must."""
        cells = self.of(variant)
        failed = sum(cell.get("learned", "yes") != "yes" for cell in cells)
        return f"{len(cells)}, {failed} failed stage A" if failed else f"{len(cells)}"

    def values(self, variant, *path):
        """One number a seed, found along `path` in each cell; cells without it are left out."""
        found = []
        for cell in self.of(variant):
            for key in path:
                cell = cell.get(key) if isinstance(cell, dict) else None
            if cell is not None:
                found.append(cell)
        return found

    def write(self, folder):
        """NAME.md and NAME.png from what is there."""
        done = [cell for variant in self.variants for cell in self.of(variant)]
        if not done:
            return
        seeds = ",".join(map(str, sorted({cell["seed"] for cell in done})))
        days, machines = sorted({cell["date"] for cell in done}), sorted({cell["machine"] for cell in done})
        options = "".join(f" --{name} {name.upper()}" for name in self.experiment.options if self.budget[name])
        spent = sum(cell["cpu_s"] for cell in done) / 60, sum(cell["wall_s"] for cell in done) / 60
        text = [f"# {self.experiment.name}", "", self.experiment.asks, "", self.experiment.report(self), "",
                "Mean (lowest-highest) over the seeds; made by", "",
                f"    python -m experiments.{self.experiment.name} --budget {self.name} --seeds {seeds}{options}", "",
                f"in {spent[0]:.0f} minutes of processor time ({spent[1]:.0f} by the clock) on {', '.join(machines)}, "
                f"{' to '.join(days[:1] + days[1:][-1:])}. Budget `{self.name}`: `{json.dumps(self.budget)}`.", ""]
        (folder / f"{self.experiment.name}.md").write_text("\n".join(text), encoding="utf-8")
        plt = pyplot()
        if plt:
            figure = self.experiment.draw(self, plt)
            figure.savefig(folder / f"{self.experiment.name}.png", dpi=110, bbox_inches="tight")
            plt.close(figure)


def pyplot():
    """matplotlib's pyplot, drawing into files; None, with a line on stderr, where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no picture is drawn: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def machine():
    """The processor, in words."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"one thread of {name}"


# --------------------------------------------------------------------------------------------------------------- tables


def spread(values, digits=3):
    """ "0.97 (0.95-0.99)": mean, lowest and highest; the mean alone where they are the same."""
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if min(values) == max(values) else f"{mean} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def markdown(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def curve(axes, x, per_seed, label, **style):
    """Mean over seeds as a line, lowest to highest as a shade. per_seed: lists of one length or shorter."""
    length = min(map(len, per_seed), default=0)
    columns = list(zip(*(values[:length] for values in per_seed), strict=True))
    if not columns:
        return
    (line,) = axes.plot(x[:length], [sum(c) / len(c) for c in columns], label=label, **style)
    axes.fill_between(x[:length], list(map(min, columns)), list(map(max, columns)), color=line.get_color(), alpha=0.15)


# ------------------------------------------------------------------------------------------------- training and asking


@cache
def language():
    """(tokenizer, filler) of all experiments: words, and the built-in grammar."""
    return word_tokenizer(), GrammarFiller()


def stages(*, segments, steps, width=32, early=None, **options):
    """The curriculum of `tinylm2.training.trainer`; `early` cuts its stages before B to so many steps, for a quick look."""
    plan = curriculum(width=width, segments=segments, steps=steps, **options)
    return plan if early is None else tuple(
        replace(stage, must=False, steps=min(stage.steps, early)) for stage in plan)


def by_number(tasks):
    """Names of tasks as the official files count them."""
    return sorted(tasks, key=lambda name: TASKS[name].number)


def learn(params, *, cfg, tasks, stages, seed, show, weights=None, **options):
    """Train `params` in place through the stages; weights: task -> how often it is told, 1 where none is given;
    `options` are `Run`'s.

    -> {"steps", "learned", "losses", "accuracies"}: means of 25 steps each. A stage that must reach its bar and does
    not ends the training, and `learned` says where; what was learned till then is asked all the same.
    """
    tokenizer, filler = language()
    stories = Stories([TASKS[name] for name in tasks], weights=[(weights or {}).get(name, 1) for name in tasks],
                      tokenizer=tokenizer, filler=filler, seed=seed)
    run = Trainer(params, cfg=cfg, stories=stories, stages=stages, **options)
    losses, accuracies, learned = [], [], "yes"
    try:
        for metrics in run.steps():
            losses.append(metrics["loss"])
            accuracies.append(metrics["accuracy"])
            if metrics["step"] % EVERY == 0:
                show(f"{metrics['stage']} {metrics['step']} loss {metrics['loss']:.2f}")
    except NotLearned:
        learned = f"no: stage {run.stage.name} failed"
    return {"steps": run.progress.step, "learned": learned, "losses": _means(losses), "accuracies": _means(accuracies)}


def _means(values):
    return [round(sum(part) / len(part), 4) for part in
            (values[start:start + EVERY] for start in range(0, len(values), EVERY))]


def ask(params, examples, segments, *, cfg, seed, width=32, answer=None):
    """Accuracy by task: number of segments -> task -> `score`. Examples that do not fit a length are left out of it.

    examples: task -> list; those of all tasks are answered together.
    """
    tokenizer, filler = language()
    everything = [example for found in examples.values() for example in found]
    places, scores = max_answer_len(everything, tokenizer), {}
    for count in segments:
        rows, _ = encode_examples(everything, count, tokenizer=tokenizer, filler=filler, width=width, seed=seed,
                                  room=places)
        texts = ask_rows(params, rows, cfg=cfg, tokenizer=tokenizer, places=places, answer=answer)
        scores[str(count)] = {}
        for name in examples:
            told = [(row, text) for row, text in zip(rows, texts, strict=True) if row.example.task == name]
            if told:
                scores[str(count)][name] = score(*zip(*told, strict=True), tokenizer)
    return scores


def fresh(tasks, questions, seed):
    """task -> so many questions of fresh stories, for `ask`."""
    return {name: generated_examples(TASKS[name], questions, seed=seed) for name in tasks}
