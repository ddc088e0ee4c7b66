"""Facts in filler: an example becomes a row of tokens of an exact length, with the positions of its facts."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tinylm2.data.batch import Sequence
from tinylm2.data.stories import Example
from tinylm2.errors import BadInput


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """A question as token ids: `prompt` is `[pad] story question`, `answer` is its answer without the end token.

    The prompt is cut into `segments` segments of `segment_len` tokens; the last one has positions left for the answer.
    The first `pad` ids are padding. The question starts at `asked`. `support`: (start, end) of each supporting fact.
    """

    example: Example
    prompt: list[int]
    answer: list[int]
    segment_len: int
    segments: int
    pad: int
    asked: int
    support: tuple[tuple[int, int], ...]

    def sequence(self, end: int) -> Sequence:
        """The row for training: prompt, answer and end token, with weight 1 on the last two."""
        return Sequence(self.example.task, self.prompt + self.answer + [end],
                        [0] * len(self.prompt) + [1] * (len(self.answer) + 1), self.pad)

    @property
    def distance(self) -> Any:
        """How many segments before the last one the farthest supporting fact ends: the number of segment borders that
        it must cross. None where the support is not known."""
        return max((self.segments - 1 - (end - 1) // self.segment_len for _, end in self.support), default=None)

    @property
    def depth(self) -> Any:
        """Where the farthest supporting fact starts, as a part of the text: 0 at its beginning, near 1 just before the
        question. None where the support is not known."""
        if not self.support:
            return None
        return (min(start for start, _ in self.support) - self.pad) / (self.asked - self.pad)


def insert_in_haystack(example: Example, rng: Any, *, tokenizer: Any, filler: Any, segments: int, segment_len: int,
                       answer_len: int | None = None, gap: float = 0.0) -> EncodedExample | None:
    """Insert the facts, in order, at random places among filler sentences; the question comes last.

    -> EncodedExample of exactly segments * segment_len - answer_len prompt tokens; None where the facts do not fit.
    answer_len: positions left free for the answer (default: its length). The text begins with one filler sentence, cut
    at its start so that the length is exact. After it, all places for facts are equally likely. With probability `gap`,
    a random number of filler sentences is first reserved for the end, between the last fact and the question.
    """
    parts = _encode(example, tokenizer, segment_len, answer_len)
    missing = segments * segment_len - parts.length
    if missing < 0:
        return None
    sentences, opener = _filling(filler, rng, missing, tokenizer)
    reserved = rng.integers(len(sentences) + 1) if rng.bernoulli(gap) else 0
    places = sorted(rng.integers(len(sentences) - reserved + 1) for _ in parts.facts)
    return _lay(example, parts, segment_len, segments, opener=opener, sentences=sentences, places=places)


def without_filler(example: Any, *, tokenizer: Any, segment_len: int, answer_len: int | None = None) -> EncodedExample:
    """An EncodedExample of the story without filler: in as few segments as possible, with padding on the left."""
    parts = _encode(example, tokenizer, segment_len, answer_len)
    segments = -(-parts.length // segment_len)
    pad = segments * segment_len - parts.length
    return _lay(example, parts, segment_len, segments, opener=[tokenizer.pad] * pad, places=[0] * len(parts.facts),
                pad=pad)


def filler_tokens(filler: Any, rng: Any, length: int, tokenizer: Any) -> list:
    """Exactly `length` tokens of filler; the first sentence is cut at its start."""
    sentences, opener = _filling(filler, rng, length, tokenizer)
    return opener + [token for sentence in sentences for token in sentence]


def _filling(filler, rng, missing, tokenizer):
    """Sentences of filler as ids, and the end of one more, `missing` tokens in all."""
    sentences, encoded = [], _encoded(filler, tokenizer)
    while missing > 0:
        sentences.append(rng.choice(encoded))
        missing -= len(sentences[-1])
    opener = sentences.pop()[-missing:] if sentences else []
    return sentences, opener


@lru_cache(maxsize=4)
def _encoded(filler, tokenizer):
    """The filler's sentences as ids, encoded once: a row draws dozens of them. Sentences without tokens are left out,
    because they would never fill a row."""
    encoded = [ids for ids in map(tokenizer.encode, filler.sentences) if ids]
    if not encoded:
        raise BadInput("filler: found no sentence with a token, expected text")
    return encoded


@dataclass(frozen=True, slots=True)
class _Parts:
    facts: list[list[int]]
    question: list[int]
    answer: list[int]
    length: int                                          # of facts, question and answer together


def _encode(example, tokenizer, segment_len, answer_len):
    facts = [tokenizer.encode(fact) for fact in example.facts]
    question, answer = tokenizer.encode(example.question), tokenizer.encode(example.answer)
    answer_len = len(answer) if answer_len is None else answer_len
    if len(answer) > answer_len:
        raise ValueError(f"the answer {example.answer!r} is {len(answer)} tokens long, expected at most {answer_len}")
    if len(question) + answer_len > segment_len:
        raise BadInput(f"the question {example.question!r} and its answer: found {len(question) + answer_len} tokens, "
                       f"expected at most {segment_len}, one segment")
    return _Parts(facts, question, answer, sum(map(len, facts)) + len(question) + answer_len)


def _lay(example, parts, segment_len, segments, *, opener, places, sentences=(), pad=0):
    """The row: `opener`, then the sentences, with fact i after the first places[i] of them, then the question."""
    prompt, spans, done = list(opener), [], 0
    for fact, place in zip(parts.facts, places, strict=True):
        for sentence in sentences[done:place]:
            prompt += sentence
        done = place
        spans.append((len(prompt), len(prompt) + len(fact)))
        prompt += fact
    for sentence in sentences[done:]:
        prompt += sentence
    asked = len(prompt)
    prompt += parts.question
    support = tuple(spans[i] for i in example.support)
    return EncodedExample(example, prompt, parts.answer, segment_len, segments, pad, asked, support)
