"""The tokenizer that comes with published weights: Hugging Face's tokenizer.json, or one built from a GGUF's lists."""

import json
from pathlib import Path
from typing import Any

from tinylm2.data.published import LLAMA3, PublishedTokenizer
from tinylm2.errors import BadInput, parse_json

MOST = 200_000_000                                       # bytes of a JSON file
CONTROL = 3                                              # GGUF's mark of a token that no text holds
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
CUTS = {                                                 # tokenizer.ggml.pre: how a text is cut before pairs are merged
    "gpt-2": BYTES,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
    "llama-bpe": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False},
        BYTES | {"use_regex": False}]},
}


def read_json(path: Path) -> Any:
    """The object in a JSON file.  BadInput where there is none."""
    try:
        if not path.is_file() or path.stat().st_size > MOST:
            raise BadInput(f"{path}: found no such file, expected one of at most {MOST // 10**6} MB")
        found = parse_json(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: found bytes that are no UTF-8, expected JSON") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path}: found {str(found)[:40]}, expected a JSON object")
    return found


def tokenizer_of_folder(folder: Path, config: dict) -> Any:
    """tokenizer.json, its end and its padding as the model's files name them."""
    path = folder / "tokenizer.json"
    text = json.dumps(read_json(path), ensure_ascii=False)
    more = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    try:
        end = _name(text, more.get("eos_token"), config.get("eos_token_id"), path)
        pad = _name(text, more.get("pad_token"), config.get("pad_token_id"), path) or end
        return PublishedTokenizer.from_json(text, end=end, pad=pad)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _name(text, given, number, path):
    """A special token's name: as tokenizer_config.json gives it, or that of the id in config.json."""
    if isinstance(given, dict):
        given = given.get("content")
    if isinstance(given, str):
        return given
    number = number[0] if isinstance(number, list) and number else number
    found = json.loads(text)
    tokens = {one.get("id"): one.get("content") for one in found.get("added_tokens") or [] if isinstance(one, dict)}
    vocabulary = found["model"].get("vocab") if isinstance(found.get("model"), dict) else None
    if isinstance(vocabulary, dict):
        tokens = {i: token for token, i in vocabulary.items() if isinstance(i, int)} | tokens
    return tokens.get(number) or ""


def tokenizer_of_gguf(file: Any) -> Any:
    """A tokenizer.json from a GGUF's lists of tokens and merges."""
    found = {name.removeprefix("tokenizer.ggml."): value for name, value in file.settings.items()}
    kind, cut = found.get("model"), found.get("pre", "gpt-2")
    if kind != "gpt2" or not isinstance(cut, str) or cut not in CUTS:
        raise file.bad(f"found a tokenizer {str(kind)[:20]!r}, {str(cut)[:20]!r}",
                       f"'gpt2' with {', '.join(CUTS)}; or import the Hugging Face folder")
    tokens, merges, kinds = (found.get(name) or [] for name in ("tokens", "merges", "token_type"))
    if not (_texts(tokens) and _texts(merges) and isinstance(kinds, list) and len(kinds) in (0, len(tokens))):
        raise file.bad("found lists of tokens and merges that do not fit", "text, and a type for every token")
    special = [i for i, kind in enumerate(kinds) if kind == CONTROL]
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges, "dropout": None,
             "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
             "byte_fallback": False, "ignore_merges": cut == "llama-bpe"}
    names = {what: tokens[found[f"{what}_token_id"]] if _within(found.get(f"{what}_token_id"), tokens) else None
             for what in ("bos", "eos", "padding")}
    if names["eos"] is None:
        raise file.bad("found no tokenizer.ggml.eos_token_id", "the token that ends a text")
    text = json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": CUTS[cut],
        "added_tokens": [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i in special],
        "post_processor": _beginning(names["bos"], tokens) if found.get("add_bos_token", cut == "llama-bpe") else None,
        "decoder": BYTES, "model": model}, ensure_ascii=False)
    try:
        return PublishedTokenizer.from_json(text, end=names["eos"], pad=names["padding"] or names["eos"])
    except BadInput as error:
        raise BadInput(f"{file.path}: {error}") from None


def _beginning(bos, tokens):
    """A template that puts the first token before every text."""
    if bos is None:
        return None
    return {"type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {bos: {"id": bos, "ids": [tokens.index(bos)], "tokens": [bos]}}}


def _texts(found):
    return isinstance(found, list) and all(isinstance(text, str) for text in found)


def _within(i, items):
    return type(i) is int and 0 <= i < len(items)
