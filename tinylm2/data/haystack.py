"""Facts in filler: one example becomes a row of tokens of an exact length, and where its facts stand is kept."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tinylm2.data.batch import Sequence
from tinylm2.data.stories import Example
from tinylm2.errors import BadInput


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """One question as token ids: `prompt` is `[pad] story question`, `answer` is what must follow, then the end token.

    Cut into `segments` segments of `segment_len` tokens, the prompt leaves room for the answer in the last one. The
    first `pad` ids are padding, the question starts at `asked`, `support` holds (start, end) of each supporting fact.
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
        """The row as training sees it: prompt, answer and end token, weight 1 on the last two."""
        return Sequence(self.example.task, self.prompt + self.answer + [end],
                        [0] * len(self.prompt) + [1] * (len(self.answer) + 1), self.pad)

    @property
    def distance(self) -> Any:
        """How many segments before the last one the farthest supporting fact lies: borders that what it tells must
        cross, counted from its last token. None where the support is not known."""
        return max((self.segments - 1 - (end - 1) // self.segment_len for _, end in self.support), default=None)

    @property
    def depth(self) -> Any:
        """Where in the text the farthest supporting fact starts: 0 at its head, near 1 just before the question. None
        where the support is not known."""
        if not self.support:
            return None
        return (min(start for start, _ in self.support) - self.pad) / (self.asked - self.pad)


def insert_in_haystack(example: Example, rng: Any, *, tokenizer: Any, filler: Any, segments: int, segment_len: int,
                       answer_len: int | None = None, gap: float = 0.0) -> EncodedExample | None:
    """Facts in order at random places among filler sentences, the question last: an EncodedExample of exactly
    segments * segment_len - answer_len prompt tokens. None where the facts do not fit.

    answer_len: the positions that stay free for the answer (default: this one's length). One filler sentence, cut at
    its head to make the length exact, opens the text. After it facts stand anywhere with equal probability; with
    probability `gap` a random run of filler is first set aside to stand between the last fact and the question.
    """
    parts = _encode(example, tokenizer, segment_len, answer_len)
    missing = segments * segment_len - parts.length
    if missing < 0:
        return None
    sentences, opener = _filling(filler, rng, missing, tokenizer)
    behind = rng.integers(len(sentences) + 1) if rng.bernoulli(gap) else 0
    places = sorted(rng.integers(len(sentences) - behind + 1) for _ in parts.facts)
    return _lay(example, parts, segment_len, segments, opener=opener, sentences=sentences, places=places)


def without_filler(example: Any, *, tokenizer: Any, segment_len: int, answer_len: int | None = None) -> EncodedExample:
    """An EncodedExample of the story without filler: as few segments as it needs, less than one of padding."""
    parts = _encode(example, tokenizer, segment_len, answer_len)
    segments = -(-parts.length // segment_len)
    pad = segments * segment_len - parts.length
    return _lay(example, parts, segment_len, segments, opener=[tokenizer.pad] * pad, places=[0] * len(parts.facts),
                pad=pad)


def filler_tokens(filler: Any, rng: Any, length: int, tokenizer: Any) -> list:
    """Exactly `length` tokens of filler, the head of the first sentence cut off."""
    sentences, opener = _filling(filler, rng, length, tokenizer)
    return opener + [token for sentence in sentences for token in sentence]


def _filling(filler, rng, missing, tokenizer):
    """Sentences of filler as ids, and what is left of one more that makes `missing` tokens exact."""
    sentences, encoded = [], _encoded(filler, tokenizer)
    while missing > 0:
        sentences.append(rng.choice(encoded))
        missing -= len(sentences[-1])
    opener = sentences.pop()[-missing:] if sentences else []
    return sentences, opener


@lru_cache(maxsize=4)
def _encoded(filler, tokenizer):
    """The filler's sentences as ids: encoded once, for a row draws dozens of them. One without a token would fill no
    place, however often it is drawn."""
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
    """The row that opens with `opener`; fact i stands behind the first places[i] sentences, the question at the end."""
    prompt, spans, told = list(opener), [], 0
    for fact, place in zip(parts.facts, places, strict=True):
        for sentence in sentences[told:place]:
            prompt += sentence
        told = place
        spans.append((len(prompt), len(prompt) + len(fact)))
        prompt += fact
    for sentence in sentences[told:]:
        prompt += sentence
    asked = len(prompt)
    prompt += parts.question
    support = tuple(spans[i] for i in example.support)
    return EncodedExample(example, prompt, parts.answer, segment_len, segments, pad, asked, support)
