"""Facts hidden in filler: one example becomes a row of tokens of an exact length, and the places are remembered."""

from dataclasses import dataclass
from functools import lru_cache

from tinylm2.data.errors import BadInput
from tinylm2.data.stories import Example


@dataclass(frozen=True, slots=True)
class Row:
    """One question as token ids: `prompt` is `[pad] story question`, `answer` is what must follow, then the end token.

    Cut into `segments` segments of `width` tokens, the prompt leaves room for the answer in the last one. The first
    `pad` ids are padding, the question starts at `asked`, and `support` holds (start, end) of each supporting fact.
    """

    example: Example
    prompt: list[int]
    answer: list[int]
    width: int
    segments: int
    pad: int
    asked: int
    support: tuple[tuple[int, int], ...]

    @property
    def distance(self):
        """How many segments before the last one the farthest supporting fact lies: borders that what it tells must
        cross, counted from its last token. None where the support is not known."""
        return max((self.segments - 1 - (end - 1) // self.width for _, end in self.support), default=None)

    @property
    def depth(self):
        """Where in the text the farthest supporting fact starts: 0 at its head, near 1 just before the question. None
        where the support is not known."""
        if not self.support:
            return None
        return (min(start for start, _ in self.support) - self.pad) / (self.asked - self.pad)


def hide(example, dice, *, tokenizer, filler, segments, width, room=None, gap=0.0):
    """A Row of exactly segments * width - room prompt tokens: facts in order at random places among filler sentences,
    the question last. None where the facts do not fit.

    `room` places stay free for the answer (default: this one's length). One filler sentence, cut at its head to make
    the length exact, opens the text. After it facts stand anywhere with equal chance; with probability `gap` a random
    run of filler is first set aside to stand between the last fact and the question.
    """
    parts = _encode(example, tokenizer, width, room)
    missing = segments * width - parts.length
    if missing < 0:
        return None
    sentences, opener = _filling(filler, dice, missing, tokenizer)
    behind = dice.below(len(sentences) + 1) if dice.chance(gap) else 0
    places = sorted(dice.below(len(sentences) - behind + 1) for _ in parts.facts)
    return _lay(example, parts, width, segments, opener=opener, sentences=sentences, places=places)


def alone(example, *, tokenizer, width, room=None):
    """A Row of the story without filler, in as few segments as it needs, with fewer than `width` padding tokens."""
    parts = _encode(example, tokenizer, width, room)
    segments = -(-parts.length // width)
    pad = segments * width - parts.length
    return _lay(example, parts, width, segments, opener=[tokenizer.pad] * pad, places=[0] * len(parts.facts), pad=pad)


def opening(filler, dice, length, tokenizer):
    """Exactly `length` tokens of filler, the head of the first sentence cut off."""
    sentences, opener = _filling(filler, dice, length, tokenizer)
    return opener + [token for sentence in sentences for token in sentence]


def _filling(filler, dice, missing, tokenizer):
    """Sentences of filler as ids, and what is left of one more that makes `missing` tokens exact."""
    sentences, encoded = [], _encoded(filler, tokenizer)
    while missing > 0:
        sentences.append(dice.pick(encoded))
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
    length: int                                          # of facts, question and room together


def _encode(example, tokenizer, width, room):
    facts = [tokenizer.encode(fact) for fact in example.facts]
    question, answer = tokenizer.encode(example.question), tokenizer.encode(example.answer)
    room = len(answer) if room is None else room
    if len(answer) > room:
        raise ValueError(f"the answer {example.answer!r} is {len(answer)} tokens long, room has {room}")
    if len(question) + room > width:
        raise BadInput(f"the question {example.question!r} and its answer: found {len(question) + room} tokens, "
                       f"expected at most {width}, one segment")
    return _Parts(facts, question, answer, sum(map(len, facts)) + len(question) + room)


def _lay(example, parts, width, segments, *, opener, places, sentences=(), pad=0):
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
    return Row(example, prompt, parts.answer, width, segments, pad, asked, support)
