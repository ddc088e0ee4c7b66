"""repeated: does a memory that is added to a trained Llama lower the loss of a fact that is told a second time?

A small Llama is trained on a text in which each fact comes twice, the second time at least a segment later, and goes
out and in again as a Hugging Face folder, with LM2's memory added. Then the memory alone learns, on the same text. What
is measured is the loss of the words that the second telling repeats, on a text that was not trained on.
"""

import sys
import tempfile
from functools import cache

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.tables import markdown
from experiments.runner import Experiment, curve, label_ends
from tinylm2 import decoding
from tinylm2.data import GrammarFiller, PublishedTokenizer, Rng, Stories, TextSampler
from tinylm2.interop.export_model import export_model
from tinylm2.interop.import_model import import_model, settings_of
from tinylm2.model import Config, init_params
from tinylm2.training.curriculum import Stage
from tinylm2.training.trained_model import TrainedModel
from tinylm2.training.trainer import Trainer

QUESTION = ("Does a memory that is added to a trained Llama, which stays as it is, lower the loss of a fact that is "
            "told a second time?")
NAMES = ["Mary", "John", "Sandra", "Daniel", "Fred", "Bill"]
THINGS = ["milk", "football", "apple", "box", "hammer", "ring", "book", "lamp"]
PLACES = ["garden", "office", "kitchen", "hallway", "bathroom", "cellar", "attic", "stable"]
GUESS = float(np.log(len(PLACES)))
TEXT, SEGMENTS = 71, 4                                   # random stream of the texts; segments of a row
MOVES = "as the first, and the Llama learns, too"
VARIANTS = {"gate shut, values zero": None, "gate open, values zero": -1.0, "gate shut to -10, values drawn": -10.0,
            MOVES: None}


def told(seed, records):
    """A text as (sentence, is it the second telling) pairs: a fact, filler, the same fact again."""
    rng, filler = Rng(seed, TEXT), GrammarFiller()
    for _ in range(records):
        fact = f"{rng.choice(NAMES)} put the {rng.choice(THINGS)} in the {rng.choice(PLACES)}."
        yield fact, False
        for _ in range(4 + rng.integers(4)):
            yield rng.choice(filler.sentences), False
        yield f"Remember that {fact}", True


@cache
def tokenizer():
    """Byte-level pairs, so many that every word of the text is one token."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator([" ".join(s for s, _ in told(0, 2000))], trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return PublishedTokenizer.from_json(library.to_str(), end="<|end|>", pad="<|end|>")


def ids_of(seed, records):
    """Token ids of a text, and for each whether it is a repeated thing or place: where its fact stood, else -1."""
    words = tokenizer()
    repeated = {words.encode(" " + word)[0] for word in THINGS + PLACES}
    ids, first, fact = [], [], 0
    for sentence, again in told(seed, records):
        more = words.encode(" " + sentence)
        if sentence.split()[1] == "put":
            fact = len(ids)
        ids += more
        first += [fact if again and token in repeated else -1 for token in more]
    return np.array(ids), np.array(first)


def losses(params, cfg, rows=96, frozen=False):
    """(loss of repeated words whose fact stands in an earlier segment of their row, loss of all tokens)."""
    ids, first = ids_of(1001, 40 * rows // 10)
    length = SEGMENTS * cfg.T
    rows = min(rows, (len(ids) - 1) // length)
    places = np.arange(rows)[:, None] * length + np.arange(length + 1)
    found = decoding.surprise(params, ids=ids[places], cfg=cfg, frozen=frozen)
    place, origin = places[:, 1:], first[places[:, 1:]]
    start = place - place % length                       # of the row, whose first token stands at a multiple of it
    asked = (origin >= start) & ((origin - start) // cfg.T < (place - 1 - start) // cfg.T)
    return float(found[asked].mean()), float(found.mean())


def learn(params, cfg, seed, budget, steps, frozen, show):
    """Train on the text; the loss of repeated words after every `every` steps."""
    stories = Stories((), tokenizer=tokenizer(), filler=None, seed=seed)
    sampler = TextSampler(SEGMENTS, cfg.T, ids_of(seed + 2, budget["records"])[0])
    trainer = Trainer(params, cfg=cfg, stories=stories, stages=(Stage("text", sampler, budget["rows"], steps),),
                      max_lr=budget["lr"], frozen=frozen)
    found = [losses(params, cfg)[0]]
    for metrics in trainer.steps():
        show(f"step {metrics['step']}, loss {metrics['loss']:.3f}")
        if (metrics["step"] + 1) % budget["every"] == 0:
            found.append(losses(params, cfg)[0])
    return found


@cache
def base(seed, sizes, steps, budget):
    """A small Llama that has learned the text, as far as one segment lets it."""
    cfg = Config(V=tokenizer().size, memory="none", N=1, T=32, **dict(sizes))
    params = init_params(cfg, seed)
    learn(params, cfg, seed, dict(budget), steps, False, lambda text: None)
    return TrainedModel(settings_of(cfg, seed), cfg, params, tokenizer(), 1)


def measure(name, seed, budget, show):
    """Add the memory, train it alone, and measure with and without it."""
    plain = {key: value for key, value in budget.items() if key != "model" and not isinstance(value, list)}
    llama = base(seed, tuple(budget["model"].items()), budget["base"], tuple(plain.items()))
    with tempfile.TemporaryDirectory() as home:
        model = import_model(export_model(llama, home), memory=Config.memory, slots=budget["slots"],
                             segment=llama.cfg.T, seed=seed)
    gate = VARIANTS[name]
    for i in range(model.cfg.L if gate is not None else 0):
        model.params[f"blocks.{i}.mem.bout"][...] = gate
        if "drawn" in name:
            fresh = init_params(model.cfg, seed)
            model.params[f"blocks.{i}.mem.Wv"][...] = fresh[f"blocks.{i}.mem.Wv"]
    moved = float(np.abs(losses(model.params, model.cfg)[0] - losses(llama.params, llama.cfg)[0]))
    found = learn(model.params, model.cfg, seed, budget, budget["steps"], name != MOVES, show)
    alone, both = losses(llama.params, llama.cfg), losses(model.params, model.cfg)
    return {"moved": moved, "losses": found, "parameters": int(model.params.buffer.size),
            "loss": {"alone": alone[0], "with": both[0], "frozen": losses(model.params, model.cfg, frozen=True)[0],
                     "all, alone": alone[1], "all, with": both[1]}}


def report(results):
    rows = []
    for name in results.variants:
        if results.of(name):
            rows.append([name, results.seeds(name), *(results.mean(name, "loss", key) for key in (
                "alone", "with", "frozen", "all, alone", "all, with")), results.mean(name, "cpu_s", digits=0)])
    table = markdown(["start of the memory", "seeds", "repeated words: the Llama alone", "with its memory",
                      "memory not written", "all tokens: the Llama alone", "with its memory", "seconds"], rows)
    return (f"{table}\n\nLosses are in nats per token. A repeated word is one of eight, so a model that knows nothing "
            f"of the fact has a loss of {np.log(8):.2f}.")


def draw(results, plt):
    """The loss of repeated words as the memory learns."""
    figure, axes = plt.subplots(figsize=(7, 4))
    last, ends = 0, {}
    for name in results.variants:
        trials = results.of(name)
        if trials:
            points = [results.budget["every"] * i for i in range(len(trials[0]["losses"]))]
            curve(axes, points, [trial["losses"] for trial in trials], name)
            last, ends[name] = max(last, points[-1]), sum(trial["losses"][-1] for trial in trials) / len(trials)
    axes.plot([0, last], [GUESS, GUESS], color="grey", linestyle=":", label="guessing one of eight")
    axes.set_xlabel("steps of the memory, the Llama is frozen")
    axes.set_ylabel("loss of the words that are told again")
    best = min(ends, key=ends.get)
    axes.set_title(f"At the end: {ends[best]:.3f} nats ({best}), {GUESS:.3f} by guessing", loc="left")
    label_ends(axes)
    return figure


EXPERIMENT = Experiment(
    name="repeated", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=lambda budget: list(VARIANTS),
    budgets={
        "small": {"model": {"D": 64, "L": 2, "H": 4, "G": 2, "F": 128}, "slots": 16, "lr": 3e-3, "rows": 16,
                  "records": 4000, "base": 600, "steps": 1500, "every": 100},
        "quick": {"model": {"D": 16, "L": 1, "H": 2, "G": 1, "F": 16}, "slots": 4, "lr": 3e-3, "rows": 2, "records": 60,
                  "base": 2, "steps": 2, "every": 1},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
