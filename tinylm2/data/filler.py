"""Filler: text that answers no question, from a small grammar or from a book."""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

from tinylm2.errors import BadInput, read_lines

NOUNS = ("river", "wind", "moon", "mountain", "forest", "cloud", "rain", "fire", "lamp", "clock", "bridge", "ship")
QUALITIES = ("old", "quiet", "bright", "ancient", "cold", "distant", "gentle", "heavy", "strange", "hollow")
DOES_TO = ("follows", "hides", "remembers", "awaits", "watches", "calls", "covers", "meets")
DOES = ("shines", "sings", "sleeps", "waits", "trembles", "glows")
RELATIONS = ("near", "beyond", "beneath", "behind")
MANNERS = ("often", "slowly", "softly", "always", "sometimes", "again")

# Every word of the grammar: a word-level vocabulary needs them all.
FILLER_WORDS = ("the", *NOUNS, *QUALITIES, *DOES_TO, *DOES, *RELATIONS, *MANNERS)


class GrammarFiller:
    """All 21,912 sentences of a grammar of 47 words, three to six words long. It has no content word of any task: no
    person, place, thing, animal, colour, mood, size, direction, time or number."""

    def __init__(self) -> None:
        pairs = [(one, other) for one, other in product(NOUNS, NOUNS) if one != other]
        self.sentences = (
            *(f"The {noun} {does}." for noun, does in product(NOUNS, DOES)),
            *(f"The {quality} {noun} {does}." for quality, noun, does in product(QUALITIES, NOUNS, DOES)),
            *(f"The {one} {does} the {other}." for (one, other), does in product(pairs, DOES_TO)),
            *(f"The {one} {does} {relation} the {other}."
              for (one, other), does, relation in product(pairs, DOES, RELATIONS)),
            *(f"{manner.capitalize()} the {one} {does} the {other}."
              for (one, other), does, manner in product(pairs, DOES_TO, MANNERS)),
            *(f"The {one} {does} the {quality} {other}."
              for (one, other), does, quality in product(pairs, DOES_TO, QUALITIES)),
        )


class BookFiller:
    """The sentences of a plain text file. With a tokenizer, BadInput names the first line that has words which the
    vocabulary lacks."""

    def __init__(self, path: Any, tokenizer: Any = None) -> None:
        lines = read_lines(path)
        if tokenizer:
            for number, line in enumerate(lines, 1):
                tokenizer.check(line, path, number)
        self.sentences = tuple(sentences("\n".join(lines)))
        if not self.sentences:
            raise BadInput.at(path, 1, "no sentence", "text")


def sentences(text: str) -> Iterator:
    """The sentences of a text, one line each. It ends at `.`, `!` or `?` before white space, or at an empty line."""
    for piece in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
        if re.search(r"\w", piece):
            yield " ".join(piece.split())
