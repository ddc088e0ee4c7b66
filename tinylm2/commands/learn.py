"""The main job, `python train_tiny.py`: start or resume a run, train it, ask it."""

import time
from dataclasses import fields

from tqdm import tqdm

from tinylm2 import runs
from tinylm2.backend import array_module
from tinylm2.console import percent, sparkline, table, whole
from tinylm2.data import find_file, fresh_examples, read_examples
from tinylm2.evaluate import ask_rows, evaluation_rows, longest_answer
from tinylm2.evaluate import evaluate as evaluate_lengths
from tinylm2.runs import CHOICES, Settings

QUESTIONS = 1000                                         # asked at each length
HELP = {
    "task": "qa1 to qa20, a list such as qa1:2,qa6 (qa1 twice as often), a span such as qa1-qa10, or all",
    "segments": "stage B trains on 2 to this many segments; 4,8,16 is three parts; 0: stories without filler",
    "steps": "steps of stage B, one number or one a part",
    "memory": "the write that learns, the paper's to the letter, or none",
    "ff": "width of the feed-forward with slots; other memories get a wider one, for as many parameters",
    "rate": "peak learning rate",
    "lm": "weight of a language-model loss on all tokens beside the answer's",
    "truncate": "cut the gradient between segments every so many (0: never)",
    "replay": "recompute segments in backward instead of keeping them",
    "vocab": "tokens of --tokenizer bpe",
    "filler": "a text file whose sentences hide the facts (default: a built-in grammar)",
}
NOT_GIVEN = None                                         # a stored run then keeps its own value


def add_arguments(parser):
    for f in fields(Settings):
        name = "--" + f.name.replace("_", "-")
        text = f"{HELP.get(f.name, f.name.replace('_', ' '))} ({f.default or 'no'})"
        if isinstance(f.default, bool):
            parser.add_argument(name, action="store_const", const=True, default=NOT_GIVEN, help=text)
        else:
            parser.add_argument(name, type=type(f.default), choices=CHOICES.get(f.name), default=NOT_GIVEN,
                                help=text)
    parser.add_argument("--eval-segments", default="4,8,16", help="lengths to ask at, beside length 0")
    parser.add_argument("--stories", help="a folder of official bAbI files to ask questions from, too")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where the arrays live")
    parser.add_argument("--out", default="runs/tiny", help="the run's folder")
    parser.add_argument("--save-every", type=whole(0), default=200,
                        help="steps from checkpoint to checkpoint (200; 0: at the end only)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")


def start(folder, args):
    """(Loaded, Run): a new run in its folder, or the one that lies there."""
    xp = array_module(args.device)
    runs.segment_counts("eval-segments", args.eval_segments)
    if args.stories:
        official_examples(args.stories, args.task or Settings.task)     # a bad file is found before anything is trained
    if args.resume:
        loaded, run = runs.resume(folder, xp=xp)
        runs.given_settings(vars(args), loaded.settings)
        folder.describe(loaded)                          # killed between its two files, a run had the first alone
        print(f"continuing {folder.path} at step {run.progress.step}")
        return loaded, run
    loaded = runs.new(runs.given_settings(vars(args)), xp=xp)
    run = loaded.training()                              # what cannot be told is found before another run goes
    folder.claim(overwrite=args.overwrite)
    folder.describe(loaded)
    return loaded, run


def train(folder, loaded, run, args):
    """Train with a progress bar, then draw the loss as a line."""
    cfg = loaded.cfg
    print(f"{runs.count(cfg):,} parameters, {cfg.V} words, memory: {cfg.memory}, into {folder.path}/")
    began, losses = time.perf_counter(), []
    with tqdm(unit="tok", unit_scale=True, dynamic_ncols=True) as bar:

        def show(metrics):
            losses.append(metrics["loss"])
            bar.set_description(f"stage {metrics['stage']} step {metrics['step'] + 1}", refresh=False)
            bar.set_postfix(loss=f"{metrics['loss']:.3f}", accuracy=f"{metrics['accuracy']:.2f}", refresh=False)
            bar.update(metrics["tokens"])

        runs.train(folder, loaded, run, save_every=args.save_every, show=show)
    print(f"loss  {sparkline(losses)}  {run.progress.step} steps, {time.perf_counter() - began:.0f} s")


def evaluate(folder, loaded, args):
    """Ask fresh stories, and official ones where there are, at every length; print the table and one story."""
    counts = list(dict.fromkeys([0, *runs.whole_numbers("eval-segments", args.eval_segments)]))
    sources = {"generated": [e for task in runs.tasks_of(loaded.settings.task)
                             for e in fresh_examples(task, QUESTIONS, seed=loaded.settings.seed)]}
    if args.stories:
        sources["stories"] = official_examples(args.stories, loaded.settings.task, loaded.tokenizer)
    results = {}
    with tqdm(total=sum(map(len, sources.values())) * len(counts), unit="question", leave=False) as bar:
        for name, examples in sources.items():
            results[name] = evaluate_lengths(
                loaded.params, examples, counts, cfg=loaded.cfg, tokenizer=loaded.tokenizer, filler=loaded.filler,
                seed=loaded.settings.seed, progress=bar.update)
    folder.write_json("evaluation.json", results)
    print(accuracy_table(results))
    show_story(loaded, sources["generated"][0])


def official_examples(path, task_names, tokenizer=None):
    """Up to 1,000 questions a task of the official files in a folder."""
    return [e for task in runs.tasks_of(task_names)
            for e in read_examples(find_file(path, task.name), task.name, tokenizer)[:QUESTIONS]]


def accuracy_table(results):
    """A line a length and source, accuracy in all and by distance."""
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
    """Distances 0, 1, 2-3, 4-7, ... up to the farthest."""
    bins, low = [(0, 0)], 1
    while low <= far:
        bins.append((low, 2 * low - 1))
        low *= 2
    return bins


def _within(by_distance, low, high):
    found = [accuracy for d, accuracy in by_distance.items() if low <= int(d) <= high]
    return sum(found) / len(found) if found else None


def show_story(loaded, example):
    """Print one story with the model's answer."""
    places = longest_answer([example], loaded.tokenizer)
    rows, _ = evaluation_rows([example], 0, tokenizer=loaded.tokenizer, filler=loaded.filler, width=loaded.cfg.T,
                              seed=0, room=places)
    (said,) = ask_rows(loaded.params, rows, cfg=loaded.cfg, tokenizer=loaded.tokenizer, places=places)
    print("\n" + " ".join(example.facts))
    print(f"{example.question}  model: {said}  truth: {example.answer}")
