"""Shared by all experiments: trials that are computed once and kept, budgets, seeds, and the three files of a result.

An experiment is a list of trials. A trial is one variant with one seed, an independent job that results in numbers.
Each finished trial is written to docs/results/NAME.json at once, so an interrupted experiment continues where it
stopped. NAME.md and NAME.png are made from this file alone. Trials may run in several processes; the first one writes:

    mpiexec -n 8 python -m mpi4py.futures -m experiments.table --budget medium
"""

import fnmatch
import json
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from hashlib import sha256
from pathlib import Path

from tqdm import tqdm

from benchmarks.machine import processor
from benchmarks.tables import markdown, mean_range
from tinylm2.cli.console import Parser, command, number, place
from tinylm2.data import (
    TASKS,
    GrammarFiller,
    Stories,
    encode_examples,
    generated_examples,
    max_answer_len,
    word_tokenizer,
)
from tinylm2.errors import BadInput, parse_json, read_lines
from tinylm2.files import replacing
from tinylm2.inspect import plots
from tinylm2.inspect.evaluate import ask, exact, score
from tinylm2.model import Config, init_params
from tinylm2.training import checkpoint
from tinylm2.training.communicator import ranks_started
from tinylm2.training.curriculum import curriculum
from tinylm2.training.settings import whole_numbers
from tinylm2.training.trainer import NotLearned, Trainer

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results"
DEVELOPMENT, HELD_OUT = 1001, 2002                       # seeds of questions: for choices, and for reported results
SAVE_AFTER = 300                                         # seconds between two checkpoints of a long trial
EVERY = 25                                               # steps per point of a curve, which is their mean
FIELDS = {"variant": str, "seed": int, "budget": dict, "machine": str, "date": str, "wall_s": float, "cpu_s": float}


@dataclass(frozen=True)
class Experiment:
    """One question, and how to answer it.

    budgets: name -> keywords of `variants` and `measure`; "quick" and "small" are always there.
    variants(budget) -> names, in the order of the report.
    measure(variant, seed, budget, show) -> the trial's numbers, for the JSON file; `show` sets the progress bar's text.
    report(Results) -> the Markdown below the title;   draw(Results, pyplot) -> a figure.
    before(variant, budget) -> variants to measure first, only with seed 0: a choice that later trials use. `measure`
    gets their numbers as budget["before"].
    options: name -> help text of further arguments. `measure` gets their values in the budget; the JSON file says
    whether they were given.
    """

    name: str
    question: str
    budgets: dict[str, dict]
    variants: Callable
    measure: Callable
    report: Callable
    draw: Callable
    before: Callable = lambda variant, budget: ()
    options: dict[str, str] = field(default_factory=dict)
    logged: bool = False                                 # also a line per trial in trials.jsonl, whatever the budget

    def main(self, argv=None):
        return command(self._main)(argv)

    def _main(self, argv):
        args, executor = self._arguments(argv), pool()
        given = {name: getattr(args, name) for name in self.options}
        budget = self.budgets[args.budget] | {name: bool(value) for name, value in given.items()}
        results = Results(self, args.out / f"{self.name}.json", budget, args.budget)
        jobs = self._jobs(args.seeds, _chosen(args.only, results.variants), results)
        began = time.monotonic()

        def enough():
            return args.minutes is not None and time.monotonic() - began >= 60 * args.minutes

        with tqdm(total=len(jobs), unit="trial", desc=self.name, dynamic_ncols=True) as bar:
            trials = (self._one_by_one(jobs, results, given, enough, bar) if executor is None else
                      self._over_processes(executor, jobs, results, given, enough, bar))
            for seed, variant, found in trials:
                results.add(variant, seed, found)
                if self.logged:
                    _log(args.out / "trials.jsonl", {"experiment": self.name, "variant": variant, "seed": seed,
                                                     "settings": results.budget, **found})
                bar.update()
            if bar.n < len(jobs):
                tqdm.write(f"{self.name}: {args.minutes:g} minutes are over; the same command continues")
        results.write(args.out)

    def _jobs(self, seeds, variants, results):
        """The trials that are not measured yet, (seed, variant), each after those that it needs."""
        needed = {variant: self.before(variant, results.budget) for variant in results.variants}
        firsts, jobs = {first for some in needed.values() for first in some}, []
        for seed in seeds:
            for variant in variants:
                jobs += [(0, first) for first in needed[variant]]
                jobs += [(0 if variant in firsts else seed, variant)]
        return [(seed, variant) for seed, variant in dict.fromkeys(jobs) if not results.has(variant, seed)]

    def _keywords(self, variant, results, given):
        """The budget for `measure`; None while a trial that it needs is missing."""
        before = {first: results.of(first) for first in self.before(variant, results.budget)}
        if not all(before.values()):
            return None
        return results.budget | given | ({"before": {first: of[0] for first, of in before.items()}} if before else {})

    def _one_by_one(self, jobs, results, given, enough, bar):
        """Run the trials here: (seed, variant, numbers) of each."""
        for seed, variant in jobs:
            if enough():
                return
            text, keywords = f"{variant}, seed {seed}", self._keywords(variant, results, given)
            bar.set_postfix_str(text)
            yield seed, variant, trial(self.measure, variant, seed, keywords, lambda more, text=text:
                                       bar.set_postfix_str(f"{text}: {more}"))

    def _over_processes(self, executor, jobs, results, given, enough, bar):
        """Run the trials in the other processes of mpiexec: (seed, variant, numbers) of each as it ends."""
        waiting, running = list(jobs), {}
        with executor() as workers:
            while (waiting and not enough()) or running:
                while len(running) < workers.num_workers and not enough():
                    ready = next((job for job in waiting if self._keywords(job[1], results, given) is not None), None)
                    if ready is None:
                        break
                    waiting.remove(ready)
                    seed, variant = ready
                    running[workers.submit(trial, self.measure, variant, seed,
                                           self._keywords(variant, results, given))] = ready
                bar.set_postfix_str("; ".join(f"{variant}, seed {seed}" for seed, variant in running.values()))
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield *running.pop(future), future.result()

    def _arguments(self, argv):
        parser = Parser(prog=f"python -m experiments.{self.name}", description=self.question)
        parser.add_argument("--budget", choices=self.budgets, default="small", help="how long to train (small)")
        parser.add_argument("--quick", action="store_const", const="quick", dest="budget",
                            help="seconds instead of minutes, one seed: does it run? The numbers mean nothing")
        parser.add_argument("--seeds", help="such as 0,1,2 (the default)")
        parser.add_argument("--only", action="append", metavar="VARIANT",
                            help="this variant alone, such as 'rmt*' (may be repeated)")
        parser.add_argument("--minutes", type=number(0, 1e6),
                            help="begin no trial after so many minutes (0: only the report)")
        parser.add_argument("--out", type=place, help="folder of the results (docs/results)")
        for name, text in self.options.items():
            parser.add_argument(f"--{name}", help=text)
        args = parser.parse_args(argv)
        quick = args.budget == "quick"
        args.seeds = whole_numbers("--seeds", args.seeds or ("0" if quick else "0,1,2"))
        args.out = Path(args.out or (Path("runs") / "quick" if quick else FOLDER))
        args.out.mkdir(parents=True, exist_ok=True)
        return args


def trial(measure, variant, seed, budget, show=lambda text: None):
    """The numbers of one trial, with its time and machine."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = measure(variant, seed, budget, show)
    earlier_wall, earlier_cpu = found.pop("earlier_s", (0, 0))
    return {"machine": f"one thread of {processor()}", **found,
            "wall_s": round(time.perf_counter() - wall + earlier_wall, 1),
            "cpu_s": round(time.process_time() - cpu + earlier_cpu, 1)}


def _log(path, line):
    """Add a line to the log of trials. It stays when the variant or the budget no longer exists."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def checkpoint_of(experiment, variant, seed, budget):
    """The file in runs/ for the model of a long trial: one per experiment, variant, seed and budget."""
    digest = sha256(json.dumps([experiment, variant, seed, budget], sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub("[^a-z0-9]+", "-", f"{experiment} {variant} {seed}".lower())
    return Path("runs") / "trials" / f"{name}-{digest}.npz"


def pool():
    """mpi4py's pool of processes; None in a single process.  BadInput where mpiexec started several without a pool."""
    if ranks_started() == 1:
        return None
    if "mpi4py.futures" not in sys.modules:              # as many programs would write one file
        raise BadInput(f"found {ranks_started()} processes, expected mpiexec -n {ranks_started()} python -m "
                       "mpi4py.futures -m experiments.NAME")
    from mpi4py.futures import MPIPoolExecutor

    return MPIPoolExecutor


def _chosen(patterns, variants):
    """The variants that match one of the patterns; without patterns, all.  BadInput where a pattern matches none."""
    for pattern in patterns or ():
        if not fnmatch.filter(variants, pattern):
            raise BadInput(f"--only: found {pattern!r}, expected one of {', '.join(map(repr, variants))}")
    return [name for name in variants if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


class Results:
    """The finished trials of one experiment and budget, and their file."""

    def __init__(self, experiment, path, budget, budget_name):
        self.experiment, self.path, self.name = experiment, path, budget_name
        self.budget = json.loads(json.dumps(budget))     # as in the file: tuples become lists
        self.variants = list(experiment.variants(budget))
        self.kept = self._read()

    def _read(self):
        """Name -> trial, from the file.  BadInput where it has something else."""
        if not self.path.exists():
            return {}
        found = parse_json("\n".join(read_lines(self.path)), self.path)
        trials = found.get("trials") if isinstance(found, dict) else None
        if not isinstance(trials, dict):
            raise BadInput(f"{self.path}: found no trials in it, expected what this program writes")
        for name, trial in trials.items():
            wrong = [key for key, kind in FIELDS.items() if not isinstance(trial, dict)
                     or not isinstance(trial.get(key), (int, float) if kind is float else kind)]
            if wrong:
                raise BadInput(f"{self.path}: found no {wrong[0]} in the trial {name!r:.60}, expected one "
                               f"({FIELDS[wrong[0]].__name__})")
        return trials

    def has(self, variant, seed):
        """Whether this trial was measured, with exactly this budget."""
        return any(trial["seed"] == seed for trial in self.of(variant))

    def of(self, variant):
        """The trials of a variant, one per seed."""
        return [trial for trial in self.kept.values() if trial["variant"] == variant and trial["budget"] == self.budget]

    def add(self, variant, seed, found):
        machine = {"machine": found["machine"], "date": date.today().isoformat()}
        trial = {"variant": variant, "seed": seed, "budget": self.budget, **machine, **found}
        self.kept = self._read()                         # again: another process may have measured other trials
        self.kept[f"{self.name} / {variant} / seed {seed}"] = json.loads(json.dumps(trial))
        self.kept = dict(sorted(self.kept.items(), key=self._place))     # trials of other processes end in any order
        trials = ",\n".join(f"{json.dumps(key)}: {json.dumps(trial)}" for key, trial in self.kept.items())
        with replacing(self.path) as file:
            file.write(f'{{"trials": {{\n{trials}\n}}}}\n'.encode())

    def _place(self, item):
        """The sort key of a trial in the file: other budgets first, then by seed."""
        key, trial = item
        ours = key.startswith(f"{self.name} / ") and trial["variant"] in self.variants
        return (1, trial["seed"], self.variants.index(trial["variant"])) if ours else (0,)

    def seeds(self, variant):
        """The number of seeds of a variant, and how many of them did not pass a required stage."""
        trials = self.of(variant)
        failed = sum(trial.get("learned", "yes") != "yes" for trial in trials)
        return f"{len(trials)}, {failed} failed stage A" if failed else f"{len(trials)}"

    def values(self, variant, *path):
        """One number per seed, at `path` in each trial. Trials without it are left out."""
        found = []
        for trial in self.of(variant):
            for key in path:
                trial = trial.get(key) if isinstance(trial, dict) else None
            if trial is not None:
                found.append(trial)
        return found

    def mean(self, variant, *path, digits=3):
        """`values` as text: mean (lowest-highest)."""
        return mean_range(self.values(variant, *path), digits)

    def write(self, folder):
        """Write NAME.md and NAME.png from the finished trials.  BadInput where their numbers are damaged."""
        try:
            self._write(folder)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{self.path}: found trials that cannot be reported ({type(error).__name__}: "
                           f"{error!s:.100}), expected what this program writes") from error

    def _write(self, folder):
        done = [trial for variant in self.variants for trial in self.of(variant)]
        if not done:
            return
        seeds = ",".join(map(str, sorted({trial["seed"] for trial in done})))
        days, machines = sorted({trial["date"] for trial in done}), sorted({trial["machine"] for trial in done})
        options = "".join(f" --{name} {name.upper()}" for name in self.experiment.options if self.budget[name])
        spent = sum(trial["cpu_s"] for trial in done) / 60, sum(trial["wall_s"] for trial in done) / 60
        text = [f"# {self.experiment.name}", "", self.experiment.question, "", self.experiment.report(self), "",
                "Mean (lowest-highest) over the seeds; made by", "",
                f"    python -m experiments.{self.experiment.name} --budget {self.name} --seeds {seeds}{options}", "",
                f"in {spent[0]:.0f} minutes of processor time ({spent[1]:.0f} by the clock) on {', '.join(machines)}, "
                f"{' to '.join(days[:1] + days[1:][-1:])}. Budget `{self.name}`: `{json.dumps(self.budget)}`.", ""]
        with replacing(folder / f"{self.experiment.name}.md") as file:
            file.write("\n".join(text).encode())
        plt = pyplot()
        if plt:
            colours = plt.cycler(color=[colour for colour, *_ in plots.LINES])
            with plt.rc_context({**plots.STYLE, "figure.constrained_layout.use": False, "axes.prop_cycle": colours}):
                figure = self.experiment.draw(self, plt)
                with replacing(folder / f"{self.experiment.name}.png") as file:
                    figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
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


def curve(axes, x, per_seed, label, **style):
    """Draw the mean over seeds as a line, and lowest to highest as a shade. per_seed: lists, one per seed."""
    length = min(map(len, per_seed), default=0)
    columns = list(zip(*(values[:length] for values in per_seed), strict=True))
    if not columns:
        return
    (line,) = axes.plot(x[:length], [sum(c) / len(c) for c in columns], label=label, **style)
    axes.fill_between(x[:length], list(map(min, columns)), list(map(max, columns)), color=line.get_color(), alpha=0.15)


def label_ends(axes, gap=11):
    """Write the name of each line after its last point, at least `gap` points apart, instead of a legend.

    Call it last: the positions depend on scales and limits.
    """
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_") and len(line.get_xdata())]
    points = axes.figure.dpi / 72
    right = axes.transAxes.transform((1, 0))[0]
    ends = sorted(((axes.transData.transform((line.get_xdata()[-1], line.get_ydata()[-1])), line) for line in lines),
                  key=lambda end: end[0][1])
    at = []
    for (_, y), _ in ends:
        at.append(max(y, at[-1] + gap * points) if at else y)
    above = axes.transAxes.transform((0, 1))[1]
    for k in reversed(range(len(at))):                   # what rose above the picture comes down
        at[k] = min(at[k], above)
        above = at[k] - gap * points
    for ((x, y), line), height in zip(ends, at, strict=True):
        away = (right - x) / points + 14, (height - y) / points
        axes.annotate(line.get_label(), (line.get_xdata()[-1], line.get_ydata()[-1]), away, textcoords="offset points",
                      va="center", fontsize=8, arrowprops={"arrowstyle": "-", "color": line.get_color(), "alpha": 0.7,
                                                           "linewidth": 0.8, "shrinkB": 3})


# ---------------------------------------------------------------------------------------------- training and evaluation


@cache
def language():
    """(tokenizer, filler) of all experiments: one token per word, and the built-in grammar."""
    return word_tokenizer(), GrammarFiller()


def stages(*, segments, steps, early=None, **options):
    """The curriculum of `tinylm2.training`; `early` limits the steps of the stages before B, for a quick look."""
    plan = curriculum(segment_len=Config.T, segments=segments, steps=steps, **options)
    return plan if early is None else tuple(
        replace(stage, required=False, steps=min(stage.steps, early)) for stage in plan)


def by_number(tasks):
    """Names of tasks in the order of the official files."""
    return sorted(tasks, key=lambda name: TASKS[name].number)


def train(params, *, cfg, tasks, stages, seed, show, weights=None, kept=None, **options):
    """Train `params` in place through the stages.

    weights: task -> weight, by default 1. options: see `Trainer`. kept: the file (`checkpoint_of`) of a long training,
    written on the way and at the end. If it exists, training continues from it, with the same numbers as a training
    that was never stopped. Remove it after a change of the code.

    -> {"steps", "learned", "stages", "losses", "accuracies"}: the first step of each stage, and means of 25 steps each.
    A required stage that does not reach its threshold ends the training, and `learned` names it; the model is evaluated
    all the same. "earlier_s": wall and processor seconds of the training before it was stopped.
    """
    tokenizer, filler = language()
    stories = Stories([TASKS[name] for name in tasks], weights=[(weights or {}).get(name, 1) for name in tasks],
                      tokenizer=tokenizer, filler=filler, seed=seed)
    trainer = Trainer(params, cfg=cfg, stories=stories, stages=stages, **options)
    log = {"begun": {}, "losses": [], "accuracies": [], "learned": "", "s": (0, 0)}
    if kept and kept.exists():
        read, moments, log = checkpoint.load(kept)
        params.buffer[...] = read.buffer
        trainer.restore(moments, log.pop("progress"))
    earlier, began, saved = log["s"], (time.monotonic(), time.process_time()), time.monotonic()

    def save():
        kept.parent.mkdir(parents=True, exist_ok=True)
        log["s"] = (earlier[0] + time.monotonic() - began[0], earlier[1] + time.process_time() - began[1])
        checkpoint.save(kept, params, trainer.moments, {"progress": trainer.progress.state(), **log})

    try:
        for metrics in () if log["learned"] else trainer.steps():
            log["begun"].setdefault(metrics["stage"], metrics["step"])
            log["losses"].append(metrics["loss"])
            log["accuracies"].append(metrics["accuracy"])
            if metrics["step"] % EVERY == 0:
                show(f"{metrics['stage']} {metrics['step']} loss {metrics['loss']:.2f}")
            if kept and time.monotonic() - saved > SAVE_AFTER:
                save()
                saved = time.monotonic()
        log["learned"] = log["learned"] or "yes"
    except NotLearned:
        log["learned"] = f"no: stage {trainer.stage.name} failed"
    if kept and kept.exists():
        save()
    return {"steps": trainer.progress.step, "learned": log["learned"], "stages": log["begun"],
            "losses": _means(log["losses"]), "accuracies": _means(log["accuracies"]), "earlier_s": earlier}


def _means(values):
    return [round(sum(part) / len(part), 4) for part in
            (values[start:start + EVERY] for start in range(0, len(values), EVERY))]


def evaluate(params, examples, segments, *, cfg, seed, metric=exact):
    """Number of segments -> task -> `score` by this metric. Examples that do not fit a length are left out there.

    examples: task -> list. Those of all tasks are answered together, in full batches.
    """
    tokenizer, filler = language()
    everything = [example for found in examples.values() for example in found]
    answer_len, scores = max_answer_len(everything, tokenizer), {}
    for count in segments:
        rows, _ = encode_examples(everything, count, tokenizer=tokenizer, filler=filler, segment_len=cfg.T, seed=seed,
                                  answer_len=answer_len)
        texts = ask(params, rows, cfg=cfg, tokenizer=tokenizer, answer_len=answer_len)
        scores[str(count)] = {}
        for name in examples:
            answered = [(row, text) for row, text in zip(rows, texts, strict=True) if row.example.task == name]
            if answered:
                scores[str(count)][name] = score(*zip(*answered, strict=True), tokenizer, metric)
    return scores


def learn_qa1(cfg, seed, budget, show, **options):
    """Train a model on qa1 with up to 4 segments and evaluate it on development questions at the budget's lengths."""
    params = init_params(cfg, seed)
    learned = train(params, cfg=cfg, tasks=["qa1"], seed=seed, show=show,
                    stages=stages(segments=(4,), steps=(budget["steps"],), early=budget.get("early")), **options)
    found = evaluate(params, generated(["qa1"], budget["questions"], DEVELOPMENT), budget["segments"], cfg=cfg,
                     seed=DEVELOPMENT)
    return {**learned, "parameters": int(params.buffer.size),
            "accuracy": {n: scores["qa1"]["accuracy"] for n, scores in found.items()}}


def qa1_table(results, head):
    """The trials of `learn_qa1` as Markdown: one row per variant, with `head` above their names."""
    lengths = [str(n) for n in results.budget["segments"]]
    rows = [[name, results.seeds(name), *(results.mean(name, "accuracy", n) for n in lengths),
             results.mean(name, "steps", digits=0), results.mean(name, "parameters", digits=0),
             results.mean(name, "cpu_s", digits=0)] for name in results.variants if results.of(name)]
    return markdown([head, "seeds", *(f"{n} segments" for n in lengths), "steps", "parameters", "seconds"], rows)


def generated(tasks, count, seed):
    """task -> questions of generated stories, for `evaluate`."""
    return {name: generated_examples(TASKS[name], count, seed=seed) for name in tasks}
