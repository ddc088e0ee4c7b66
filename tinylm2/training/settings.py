"""Every option of training, declared once, and the lists that some of them hold ("4,8,16", "qa1:2,qa6")."""

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tinylm2.data import TASKS
from tinylm2.errors import BadInput
from tinylm2.memories import MEMORIES
from tinylm2.model import Config, with_params_of
from tinylm2.training.curriculum import LENGTHS

KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def option(default: Any, text: str, *, span: Any = None, choices: Any = None, letter: str | None = None) -> Any:
    """An option: its default, its help text, its allowed values, and the letter of Config that it sets."""
    return field(default=default, metadata={"help": text, "span": span, "choices": choices, "letter": letter})


@dataclass(frozen=True)
class Settings:
    """The settings of a run, named as on the command line. Each option is declared here and nowhere else."""

    task: str = option("qa1", "qa1 to qa20, a list such as qa1:2,qa6 (qa1 twice as often), a range such as qa1-qa10, "
                              "all, or a Python file that declares a task, such as my_task.py")
    train_on: str = option("", "train on the official bAbI files in this folder (empty: on generated stories)")
    segments: str = option("4", "longest stories of stage B, in segments; 4,8,16 runs three stages B; 0: stories "
                                "without filler")
    steps: str = option("1000", "steps of stage B: one number, or one per stage B")
    seed: int = option(0, "seed of parameters and stories", span=(0, 2**63 - 1))
    memory: str = option(Config.memory, "what is kept from segment to segment (docs/MODEL.md)", choices=tuple(MEMORIES),
                         letter="memory")
    memory_blocks: str = option("", "blocks that have a memory, such as 0,2 (empty: all)")
    hidden_size: int = option(Config.D, "hidden size of the model", span=(1, 16384), letter="D")
    blocks: int = option(Config.L, "number of blocks", span=(1, 1024), letter="L")
    heads: int = option(Config.H, "number of attention heads", span=(1, 16384), letter="H")
    kv_heads: int = option(Config.G, "number of key and value heads; divides the heads", span=(1, 16384), letter="G")
    ff: int = option(Config.F, f"hidden size of the feed-forward with memory {Config.memory}; another memory gets the "
                               "size that keeps the number of parameters", span=(1, 131072), letter="F")
    slots: int = option(Config.N, "slots of the memory; each memory's file says what they are", span=(1, 16384),
                        letter="N")
    segment: int = option(Config.T, "tokens per segment", span=(1, 65536), letter="T")
    tied: bool = option(False, "the output head is the embedding, transposed", letter="tied")
    lr: float = option(6e-3, "largest learning rate", span=(0.0, 10.0))
    lm: float = option(0.0, "weight of a language-model loss on all tokens, beside the answer loss", span=(0.0, 1000.0))
    truncate: int = option(0, "stop the gradient after every so many segments; 0: never", span=(0, 65536))
    recompute: bool = option(False, "compute each segment again in backward: less memory, more time, the same bits")
    shards: int = option(1, "parts of a batch, shared by the processes of mpiexec (default there: one per process)",
                         span=(1, 65536))
    tokenizer: str = option("word", "one token per word, or byte-level pairs", choices=("word", "bpe"))
    vocab: int = option(512, "number of tokens with --tokenizer bpe", span=(0, 131072))
    words: str = option("", "a text file whose words join the vocabulary; words of other files named here always do")
    filler: str = option("", "a text file with sentences to put between the facts (empty: a built-in grammar)")

    text: str = option("", "with --from: a text file to train on, with the language-model loss")
    batch: int = option(8, "rows per step with --text", span=(1, 65536))
    freeze: str = option("", "base: with --text, train only the memory's parameters", choices=("", "base"))

    def __post_init__(self):
        """BadInput for a value of the wrong type or out of range: settings may come from a file."""
        for f in fields(self):
            value, kind = getattr(self, f.name), type(f.default)
            span, choices = f.metadata["span"], f.metadata["choices"]
            if kind is float and type(value) is int:
                value = float(value)
                object.__setattr__(self, f.name, value)
            if type(value) is not kind:
                raise BadInput(f"{f.name}: found {value!r:.40}, expected {KINDS[kind]}")
            if span and not span[0] <= value <= span[1]:
                raise BadInput(f"{f.name}: found {value}, expected {span[0]} to {span[1]}")
            if choices and value not in choices:
                raise BadInput(f"{f.name}: found {value!r:.40}, expected {' or '.join(choices)}")

    def config(self, V: int) -> Config:
        """The model's Config: F is chosen so that the number of parameters is the same for every memory."""
        letters = {f.metadata["letter"]: getattr(self, f.name) for f in fields(self) if f.metadata["letter"]}
        blocks = tuple(whole_numbers("memory_blocks", self.memory_blocks)) if self.memory_blocks else None
        cfg = Config(V=V, memory_blocks=blocks, **letters)
        return with_params_of(replace(cfg, memory=Config.memory), cfg)

    def exactly(self, letters: dict, least: int) -> Any:
        """The Config of an imported model, which has letters that are no settings.  ValueError where the two differ."""
        cfg = Config(**letters)
        for f in fields(self):
            letter = f.metadata["letter"]
            if letter and getattr(cfg, letter) != getattr(self, f.name):
                raise ValueError(f"{f.name} is {getattr(self, f.name)} and {letter} {getattr(cfg, letter)}")
        if not least <= cfg.V < 2**24:
            raise ValueError(f"V is {cfg.V}, expected {least} or more, the tokens of the tokenizer")
        return cfg


def tasks_of(names: str) -> list:
    """The tasks that "qa1", "qa1,qa6", "qa1-qa10" or "all" name.  BadInput lists the known ones."""
    return list(weighted_tasks(names))


def weighted_tasks(names: str) -> Any:
    """Task -> weight: "qa1:2,qa6" draws qa1 twice as often as qa6."""
    found = {}
    for part in ("qa1-qa20" if names == "all" else names).split(","):
        span, _, weight = part.partition(":")
        first, _, last = span.partition("-")
        if first not in TASKS or (last or first) not in TASKS:
            raise BadInput(f"task: found {span!r}, expected all, or some of {', '.join(TASKS)}")
        if not re.fullmatch(r"|\d{1,9}(\.\d{1,9})?", weight) or weight and not float(weight):
            raise BadInput(f"task: found the weight {weight!r:.20} of {span}, expected a number above 0 and below 10^9")
        low, high = TASKS[first].number, TASKS[last or first].number
        if low > high:
            raise BadInput(f"task: found {span!r}, expected the lower number first")
        found |= {task: float(weight or 1) for task in TASKS.values() if low <= task.number <= high}
    return found


def plan_of(settings: Settings) -> tuple[list[int], list[int]]:
    """(segments, steps) of each stage B: "4,8" and "600,400" are two stages; one number of steps is for all."""
    segments, steps = segment_counts("segments", settings.segments), whole_numbers("steps", settings.steps)
    if len(steps) == 1:
        steps = steps * len(segments)
    if len(steps) != len(segments):
        raise BadInput(f"steps: found {settings.steps!r}, expected one number or one for each of {settings.segments!r}")
    return segments, steps


def whole_numbers(name: str, text: str) -> list[int]:
    """The numbers of "4,8,16".  BadInput for anything else."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise BadInput(f"{name}: found {text!r}, expected whole numbers such as 4 or 4,8,16")
    return [int(part) for part in text.split(",")]


def segment_counts(name: str, text: str) -> list[int]:
    """`whole_numbers`, none above the longest story that is allowed."""
    counts = whole_numbers(name, text)
    if max(counts) > LENGTHS[-1]:
        raise BadInput(f"{name}: found {max(counts)}, expected at most {LENGTHS[-1]}")
    return counts


def given_settings(given: Any, stored: Any = None) -> Settings:
    """Settings from the command line's values (None: not given).  BadInput where they contradict a stored run."""
    given = {f.name: given[f.name] for f in fields(Settings) if given.get(f.name) is not None}
    if stored is None:
        return Settings(**given)
    for name, value in given.items():
        if getattr(stored, name) != value:
            raise BadInput(f"--{name.replace('_', '-')}: found {value}, expected {getattr(stored, name)}, "
                           "the run's own setting")
    return stored
