"""Tokenizers of published models: byte-pair encodings such as Llama's, from a tokenizer.json of other people.

Such a file is not trusted: a normalizer could make a text endlessly long, and a regular expression could run for ever.
So only the parts and options listed in PARTS are accepted, and only the regular expressions in PATTERNS.
"""

import json
from typing import Any

from tokenizers import Tokenizer as Library

from tinylm2.data.tokenizer import Tokenizer
from tinylm2.errors import BadInput, parse_json

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
PATTERNS = GPT2, LLAMA3, LLAMA3.replace("{1,3}", ""), r"\p{N}{1,3}", r"\p{N}", r"\d"
PARTS = {                                                # part: type -> the options that it may have
    "normalizer": {"Sequence": {"normalizers"}, "NFC": set(), "NFD": set(), "NFKC": set(), "NFKD": set(),
                   "Prepend": {"prepend"}, "Replace": {"pattern", "content"}},
    "pre_tokenizer": {"Sequence": {"pretokenizers"}, "ByteLevel": {"add_prefix_space", "trim_offsets", "use_regex"},
                      "Digits": {"individual_digits"}, "Split": {"pattern", "behavior", "invert"},
                      "Metaspace": {"replacement", "prepend_scheme", "split"}},
    "post_processor": {"Sequence": {"processors"}, "ByteLevel": {"add_prefix_space", "trim_offsets", "use_regex"},
                       "TemplateProcessing": {"single", "pair", "special_tokens"}},
    "decoder": {"Sequence": {"decoders"}, "ByteLevel": {"add_prefix_space", "trim_offsets", "use_regex"}, "Fuse": set(),
                "ByteFallback": set(), "Replace": {"pattern", "content"}, "Strip": {"content", "start", "stop"},
                "Metaspace": {"replacement", "prepend_scheme", "split"}},
}
SHORT = 16                                               # characters that a Prepend or a Replace may add
LONGEST = 64                                             # parts of a sequence, tokens of a template


class PublishedTokenizer(Tokenizer):
    """A byte-pair tokenizer of a published model. `end` and `pad` name two of its tokens. Ids may have gaps."""

    def __init__(self, library: Any, *, end: str, pad: str) -> None:
        library.no_truncation()
        library.no_padding()
        library.encode_special_tokens = True             # a special token in a user's text is text
        self._library, self._seen, self._words = library, {}, False
        vocabulary = library.get_vocab()
        self.size = max(vocabulary.values()) + 1
        for name in (end, pad):
            if name not in vocabulary:
                raise BadInput(f"tokenizer: found no token {name!r:.40}, expected it: it ends a text")
        self.end, self.pad, self.special = vocabulary[end], vocabulary[pad], {"end": end, "pad": pad}

    def decode(self, ids: Any) -> str:
        """The text of ids without special tokens. Spaces at its ends stay: they separate it from the text before."""
        return self._library.decode(list(ids))

    @classmethod
    def from_json(cls, text: str, *, end: str = "", pad: str = "") -> Any:
        """A tokenizer from the text of a tokenizer.json.  BadInput where a part is not in PARTS."""
        found = parse_json(text, "tokenizer")
        if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
            raise BadInput("tokenizer: found no model in it, expected a tokenizer.json")
        model = found["model"]
        if model.get("type", "BPE") != "BPE" or model.get("dropout"):
            raise BadInput(f"tokenizer: found the model {str(model.get('type'))[:40]!r} with dropout "
                           f"{str(model.get('dropout'))[:20]}, expected 'BPE' without")
        for place in PARTS:
            _check_part(place, found.get(place))
        for token in found.get("added_tokens") or []:
            if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not token["content"]:
                raise BadInput(f"tokenizer: found the added token {str(token)[:60]}, expected one with a content")
        try:
            library = Library.from_str(text)
        except Exception as error:                       # the library raises no narrower class
            raise BadInput(f"found no tokenizer of the tokenizers library, expected its JSON ({error})") from error
        if not library.get_vocab_size() or max(library.get_vocab().values()) >= 2**24:
            raise BadInput("tokenizer: found no tokens, or ids above 2^24, expected a vocabulary")
        return cls(library, end=end, pad=pad)


def _check_part(place, part, depth=0):
    """BadInput where a part, or one inside it, is not in PARTS or PATTERNS."""
    if part is None:
        return
    kind = part.get("type") if isinstance(part, dict) else None
    known = PARTS[place].get(kind) if isinstance(kind, str) else None
    if known is None or set(part) - known - {"type"} or depth > 2:
        raise BadInput(f"tokenizer: found the {place} {json.dumps(part)[:80]}, expected {' or '.join(PARTS[place])}")
    inner = next((part[name] for name in known if name.endswith("s") and isinstance(part.get(name), list)), [])
    if len(inner) > LONGEST:
        raise BadInput(f"tokenizer: found a {place} of {len(inner)} parts, expected at most {LONGEST}")
    for one in inner:
        _check_part(place, one, depth + 1)
    added = part.get("prepend", part.get("content", ""))
    if not isinstance(added, str) or len(added) > SHORT:
        raise BadInput(f"tokenizer: found a {place} that adds {str(added)[:40]!r}, expected at most {SHORT} characters")
    pattern = part.get("pattern")
    if pattern is not None:
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        fixed = pattern.get("String") if isinstance(pattern, dict) else None
        if not (regex in PATTERNS or isinstance(fixed, str) and max(1, len(added)) <= len(fixed) <= SHORT):
            raise BadInput(f"tokenizer: found the pattern {str(pattern)[:60]}, expected one that Llama's files have, "
                           "and nothing longer in its place")
    for template in (part.get("single"), part.get("pair")):
        if template is not None and len(template) > LONGEST:
            raise BadInput(f"tokenizer: found a template of {len(template)} tokens, expected at most {LONGEST}")
