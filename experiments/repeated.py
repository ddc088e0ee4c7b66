"""repeated: does a memory that is added to a trained Llama lower the loss of a fact that is told a second time?

A small Llama is trained on a text in which each fact comes twice, and goes out and in again as a Hugging Face folder,
with LM2's memory added. Then the memory alone learns, first on a text in which the second telling follows soon, then on
one in which it follows at least a segment later. What is measured is the loss of the words that the second telling
repeats, on a text that was not trained on, where the first telling stands in an earlier segment.
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
TEXT, SEGMENTS, UNSEEN = 71, 4, 1001                     # random stream of texts; segments of a row; seed of the test
NEAR, FAR = (0, 3), (4, 7)                               # filler sentences between the tellings, least and most
PLAN = "near, then far"
VARIANTS = {                                             # what is not as in the plan
    PLAN: {},
    "far from the start": {"near": 0},
    "output gate starts at -4": {"gate": -4.0},
    "values drawn, gate at -10": {"gate": -10.0, "drawn": True},
    "the Llama never learned to copy": {"base text": FAR},
    "the Llama learns, too": {"frozen": False},
    "no memory, the Llama learns on": {"frozen": False, "memory": "none"},
}


def told(seed, records, gap):
    """A text as (sentence, is it the second telling) pairs: a fact, filler, the same fact again."""
    rng, filler = Rng(seed, TEXT), GrammarFiller()
    for _ in range(records):
        fact = f"{rng.choice(NAMES)} put the {rng.choice(THINGS)} in the {rng.choice(PLACES)}."
        yield fact, False
        for _ in range(gap[0] + rng.integers(gap[1] - gap[0] + 1)):
            yield rng.choice(filler.sentences), False
        yield f"Remember that {fact}", True


@cache
def tokenizer():
    """Byte-level pairs, so many that every word of the text is one token."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator([" ".join(s for s, _ in told(0, 2000, FAR))], trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return PublishedTokenizer.from_json(library.to_str(), end="<|end|>", pad="<|end|>")


def ids_of(words, seed, records, gap):
    """Token ids of a text, and for each repeated thing or place where the same word of its fact stood; -1 elsewhere.

    words: a tokenizer. A word of several tokens counts with its first one: the others follow from it.
    """
    repeated = {words.encode(" " + word)[0] for word in THINGS + PLACES}
    ids, first, fact = [], [], {}
    for sentence, again in told(seed, records, gap):
        more = words.encode(" " + sentence)
        if sentence.split()[1] == "put":
            fact = {token: len(ids) + i for i, token in enumerate(more)}
        ids += more
        first += [fact[token] if again and token in repeated else -1 for token in more]
    return np.array(ids), np.array(first)


def losses(params, cfg, words, rows=96, segments=SEGMENTS, gap=FAR, frozen=False):
    """(loss of repeated words whose first telling stands in an earlier segment of their row, loss of all tokens)."""
    length = segments * cfg.T
    ids, first = ids_of(words, UNSEEN, 2 + rows * length // 15, gap)
    places = np.arange(rows)[:, None] * length + np.arange(length + 1)
    found = decoding.surprise(params, ids=ids[places], cfg=cfg, frozen=frozen)
    place, origin = places[:, 1:], first[places[:, 1:]]
    start = places[:, :1]
    asked = (origin >= start) & ((origin - start) // cfg.T < (place - 1 - start) // cfg.T)
    return float(found[asked].mean()), float(found.mean())


def learn(params, cfg, seed, plan, budget, frozen=False, show=lambda text: None):
    """Train on texts, one after another; the loss of repeated words after every `every` steps. plan: (gap, steps)."""
    words = tokenizer()
    stages = [Stage(f"{gap[0]} to {gap[1]}", TextSampler(SEGMENTS, cfg.T, ids_of(words, seed + 2, budget["records"],
                                                                               gap)[0]), budget["rows"], steps)
              for gap, steps in plan if steps]
    trainer = Trainer(params, cfg=cfg, stories=Stories((), tokenizer=words, filler=None, seed=seed), stages=stages,
                      max_lr=budget["lr" if frozen else "lr of a Llama"], frozen=frozen)
    found = [losses(params, cfg, words)[0]]
    for metrics in trainer.steps():
        show(f"step {metrics['step']}, loss {metrics['loss']:.3f}")
        if (metrics["step"] + 1) % budget["every"] == 0:
            found.append(losses(params, cfg, words)[0])
    return found


KEPT = {}


def base(seed, gap, budget):
    """A small Llama that has learned a text with this gap, as far as one segment lets it."""
    key = seed, gap, str(budget)
    if key not in KEPT:
        cfg = Config(V=tokenizer().size, memory="none", N=1, T=32, **budget["model"])
        params = init_params(cfg, seed)
        learn(params, cfg, seed, [(gap, budget["base"])], {**budget, "every": budget["base"]})
        KEPT[key] = TrainedModel(settings_of(cfg, seed), cfg, params, tokenizer(), 1)
    return KEPT[key]


def measure(name, seed, budget, show):
    """Add the memory, train it alone, and measure with and without it."""
    changed, words = VARIANTS[name], tokenizer()
    llama = base(seed, changed.get("base text", NEAR), budget)
    with tempfile.TemporaryDirectory() as home:
        model = import_model(export_model(llama, home), memory=changed.get("memory", Config.memory),
                             slots=budget["slots"], segment=llama.cfg.T, seed=seed)
    fresh = init_params(model.cfg, seed)
    for short in ["bout"] * ("gate" in changed) + ["Wv"] * ("drawn" in changed):
        for i in range(model.cfg.L):
            full = f"blocks.{i}.mem.{short}"
            model.params[full][...] = changed["gate"] if short == "bout" else fresh[full]
    alone = losses(llama.params, llama.cfg, words)
    moved = abs(losses(model.params, model.cfg, words)[0] - alone[0])
    near = changed.get("near", budget["near"])
    plan = [(NEAR, near), (FAR, budget["near"] + budget["far"] - near)]
    found = learn(model.params, model.cfg, seed, plan, budget, changed.get("frozen", True), show)
    both = losses(model.params, model.cfg, words)
    unwritten = losses(model.params, model.cfg, words, frozen=True)
    return {"moved": moved, "losses": found, "parameters": int(model.params.buffer.size),
            "loss": {"alone": alone[0], "with": both[0], "unwritten": unwritten[0], "all, alone": alone[1],
                     "all, with": both[1]}}


def report(results):
    rows = []
    for name in results.variants:
        if results.of(name):
            rows.append([name, results.seeds(name), *(results.mean(name, "loss", key) for key in (
                "alone", "with", "unwritten", "all, alone", "all, with")), results.mean(name, "cpu_s", digits=0)])
    table = markdown(["how", "seeds", "repeated words: the Llama as it was", "after training", "memory not written",
                      "all tokens: the Llama as it was", "after training", "seconds"], rows)
    return (f"{table}\n\nLosses are in nats per token. A repeated word is one of eight, so a model that knows nothing "
            f"of the fact has a loss of {GUESS:.2f}. The first row is the plan; each other row changes one thing of "
            "it. \"memory not written\" is the same trained model whose banks stay as they began.")


def draw(results, plt):
    """The loss of repeated words as the memory learns."""
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    last, ends = 0, {}
    for name in results.variants:
        trials = results.of(name)
        if trials:
            points = [results.budget["every"] * i for i in range(len(trials[0]["losses"]))]
            curve(axes, points, [trial["losses"] for trial in trials], name)
            last, ends[name] = max(last, points[-1]), sum(trial["losses"][-1] for trial in trials) / len(trials)
    axes.plot([0, last], [GUESS, GUESS], color="grey", linestyle=":", label="guessing one of eight")
    axes.axvline(results.budget["near"], color="grey", linewidth=0.8, alpha=0.5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("training steps; the line: from the near text to the far one")
    axes.set_ylabel("loss of the words that are told again")
    if PLAN in ends:
        axes.set_title(f"At the end: {ends[PLAN]:.2f} nats with the plan, {GUESS:.2f} by guessing", loc="left")
    label_ends(axes)
    return figure


EXPERIMENT = Experiment(
    name="repeated", question=QUESTION, measure=measure, report=report, draw=draw,
    variants=lambda budget: list(VARIANTS),
    budgets={
        "small": {"model": {"D": 64, "L": 2, "H": 4, "G": 2, "F": 128}, "slots": 16, "lr": 1e-2, "lr of a Llama": 3e-3,
                  "rows": 16, "records": 4000, "base": 700, "near": 400, "far": 800, "every": 100},
        "quick": {"model": {"D": 16, "L": 1, "H": 2, "G": 1, "F": 16}, "slots": 4, "lr": 1e-2, "lr of a Llama": 3e-3,
                  "rows": 2, "records": 60, "base": 2, "near": 2, "far": 2, "every": 1},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
