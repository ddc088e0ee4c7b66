"""A model with its tokenizer and settings, for training, answering and generating."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from tinylm2 import decoding
from tinylm2.backend import to_host
from tinylm2.data import (
    Example,
    GrammarFiller,
    HaystackSampler,
    Stories,
    TextSampler,
    Tokenizer,
    encode_examples,
)
from tinylm2.data.filler import sentences
from tinylm2.errors import BadInput, read_lines
from tinylm2.flat import Flat
from tinylm2.inspect.trace import trace, traced_answer
from tinylm2.model import Config, count_params, init_params
from tinylm2.training.communicator import own_shards
from tinylm2.training.curriculum import Stage, curriculum
from tinylm2.training.material import gather_material, short_rows
from tinylm2.training.settings import Settings, plan_of
from tinylm2.training.step import SINGLE
from tinylm2.training.trainer import Trainer


@dataclass
class TrainedModel:
    """A run from its folder, or a new one, with all that questions and training need.

    answer_len: tokens of the longest answer of its tasks. filler: the sentences to put between facts.
    """

    settings: Settings
    cfg: Config
    params: Flat
    tokenizer: Tokenizer
    answer_len: int
    filler: object = field(default_factory=GrammarFiller)

    def __repr__(self) -> str:
        """What it is, in one line: a shell would print every parameter."""
        return f"TrainedModel({count_params(self.cfg):,} parameters, {self.cfg})"

    def encoded(self, story: Any, question: str, *, length: int = 0, seed: int = 0) -> Any:
        """The EncodedExample of a story and a question, with filler up to `length` tokens in all (0: none).

        BadInput names every unknown word, and says where the story is too long for the length.
        """
        if unknown := self.tokenizer.unknown(f"{story} {question}"):
            raise BadInput(f"found {', '.join(unknown)}, expected words that the model knows (see tokenizer.json)")
        if not self.tokenizer.encode(question):
            raise BadInput(f"question: found {question!r}, expected words")
        example, segments = Example("", tuple(sentences(story)), question, ""), -(-length // self.cfg.T)
        rows, _ = encode_examples([example], segments, tokenizer=self.tokenizer, filler=self.filler,
                                  segment_len=self.cfg.T, seed=seed, answer_len=self.answer_len)
        if not rows:
            raise BadInput(f"length: found {length} tokens, expected enough for the whole story")
        return rows[0]

    def traced(self, example: Any, *, frozen: bool = False) -> Any:
        """The TracedAnswer of an EncodedExample: its text, its probabilities, and what the memory did."""
        return traced_answer(self.params, example, cfg=self.cfg, tokenizer=self.tokenizer, answer_len=self.answer_len,
                             frozen=frozen)

    def ask(self, story: Any, question: str, *, length: int = 0, frozen: bool = False, seed: int = 0) -> Any:
        """The answer to a question about a story, as text. frozen: the memory is never written."""
        return self.traced(self.encoded(story, question, length=length, seed=seed), frozen=frozen).text

    def banks(self, story: Any) -> list:
        """The memory's state before each segment of a text: per segment and block a dict of arrays, as "M" (N, D)."""
        ids = np.array([self.tokenizer.encode(story)])
        if not ids.size:
            raise BadInput(f"story: found {story!r}, expected words")
        return [[{name: x[0] for name, x in place.before.items()} for place in places]
                for places in trace(self.params, ids=ids, cfg=self.cfg).places]

    def generate(self, text: str, *, tokens: int = 20, temperature: float = 0.0, top_p: float = 1.0,
                 seed: int = 0) -> str:
        """A continuation of the text, up to the end token or `tokens` tokens.

        temperature 0: the likeliest tokens; else sampled from the likeliest ones that have probability top_p together.
        """
        return self.tokenizer.decode(self.generate_tokens(text, tokens, temperature, top_p, seed))

    def generate_tokens(self, text: str, tokens: int, temperature: float = 0.0, top_p: float = 1.0,
                        seed: int = 0) -> Iterator:
        """The ids of `generate`, one by one. Keys and values of the current segment are computed once."""
        ids, rng = np.array([self.tokenizer.encode(text)]), np.random.default_rng(seed)
        if not ids.size:
            raise BadInput(f"text: found {text!r}, expected words")
        for token in islice(decoding.decode(self.params, _chooser(temperature, top_p, rng), ids=ids, cfg=self.cfg),
                            tokens):
            if token[0] == self.tokenizer.end:
                return
            yield int(token[0])

    def stream(self, *args: Any, **options: Any) -> Iterator:
        """The text of `generate` in pieces, as they are computed. A character of several tokens comes in one piece."""
        ids, known = [], ""
        for token in self.generate_tokens(*args, **options):
            ids.append(token)
            text = self.tokenizer.decode(ids)
            if not text.endswith("\ufffd"):
                yield text[len(known):]
                known = text

    def surprise(self, text: Any, *, frozen: bool = False) -> Any:
        """-log p of every token of a text (or of a list of ids) but the first, given all before it.

        The mean is the language model's loss, and exp(mean) the perplexity. frozen: the memory is never written.
        """
        ids = self.tokenizer.encode(text) if isinstance(text, str) else text
        if len(ids) < 2:
            raise BadInput(f"text: found {len(ids)} tokens, expected at least two")
        return decoding.surprise(self.params, ids=np.array([ids]), cfg=self.cfg, frozen=frozen)[0]

    def trainer(self, comm: Any = SINGLE, material: Any = None) -> Trainer:
        """A Trainer for this model, in this process or in all processes of `comm`."""
        s = self.settings
        if s.text:
            return self._text_trainer(comm)
        stories = (material or gather_material(s)).stories(s.seed)
        stories.tokenizer = self.tokenizer
        segments, steps = plan_of(s)
        names, short = [task.name for task in stories.tasks], short_rows(stories, s.segment)
        own = s.task.endswith(".py")
        alone = names == ["qa1"] or own and len(names) == 1 and short[0] == 1       # two facts fit into one segment
        stages = curriculum(segment_len=s.segment, segments=segments, steps=steps, mixed=0 if alone else len(names),
                            short=short, required=not own and not s.train_on)
        own_shards(comm, s.shards)
        _try_stages(stories, stages, s.shards)
        return Trainer(self.params, cfg=self.cfg, stories=stories, stages=stages, max_lr=s.lr, lm=s.lm,
                       truncate=s.truncate or None, recompute=s.recompute, shards=s.shards, comm=comm)

    def _text_trainer(self, comm):
        """A Trainer on rows of the user's text."""
        s = self.settings
        stories = Stories((), tokenizer=self.tokenizer, filler=self.filler, seed=s.seed)
        stages = _text_stages(self)
        own_shards(comm, s.shards)
        _try_stages(stories, stages, s.shards)
        return Trainer(self.params, cfg=self.cfg, stories=stories, stages=stages, max_lr=s.lr,
                       truncate=s.truncate or None, recompute=s.recompute, shards=s.shards, comm=comm,
                       frozen=s.freeze == "base")


def _text_stages(model: Any) -> tuple:
    """One stage per number of segments in the settings, on rows of the text that they name."""
    s = model.settings
    ids = np.array(model.tokenizer.encode("\n".join(read_lines(s.text))))
    return tuple(Stage(f"text {segments}", TextSampler(segments, s.segment, ids), s.batch, steps)
                 for segments, steps in zip(*plan_of(s), strict=True))


def _chooser(temperature, top_p, rng):
    """logits (1, V) -> token (1,): the likeliest, or sampled from the top_p part of softmax(logits / temperature)."""
    def choose(logits):
        z = to_host(logits)[0].astype(np.float64)
        if temperature <= 0:
            return np.array([z.argmax()])
        p = np.exp((z - z.max()) / temperature)
        order = np.argsort(-p)
        below = np.cumsum(p[order]) / p.sum()
        kept = order[:int(np.searchsorted(below, top_p)) + 1]
        return rng.choice(kept, 1, p=p[kept] / p[kept].sum())
    return choose


def _try_stages(stories, stages, shards):
    """Make one row of every stage: BadInput, before the first step, where a stage finds no story."""
    for stage in stages:
        stage.sampler.batch(stories, 0, 1)
        if isinstance(stage.sampler, HaystackSampler | TextSampler) and stage.batch_size % shards:
            raise BadInput(f"--shards: found {shards}, expected a number that divides a batch of {stage.batch_size} "
                           "rows")


def new(settings: Settings, *, xp: Any = np, material: Any = None) -> TrainedModel:
    """A new, untrained model.  BadInput where the settings contradict each other, or where memory is too small."""
    plan_of(settings)
    material = material or gather_material(settings)
    try:
        cfg = settings.config(material.tokenizer.size)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if xp is np and least_memory(cfg) > machine_memory():
        raise BadInput(f"found a model that needs {least_memory(cfg) / 2**30:,.0f} GiB or more to train, expected at "
                       f"most this machine's {machine_memory() / 2**30:,.0f}: make the model smaller")
    return TrainedModel(settings, cfg, init_params(cfg, settings.seed, xp=xp), material.tokenizer,
                        material.answer_len, material.filler)


def least_memory(cfg: Config, rows: int = 64) -> int:
    """A lower bound for the bytes of a training step: four numbers per parameter, and the cache of one segment."""
    per_token = 8 * cfg.D + 3 * cfg.F + cfg.H * (cfg.T + cfg.N)
    return 16 * count_params(cfg) + 4 * rows * cfg.T * cfg.L * per_token


def machine_memory() -> float:
    """Bytes of memory of this machine; infinity where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf
