"""BABILong's files (Kuratov et al. 2024): JSON lists of {"input", "question", "target"}, with filler in the input."""

from typing import Any

from tinylm2.data.babi import task_of
from tinylm2.data.filler import sentences
from tinylm2.data.stories import Example
from tinylm2.errors import BadInput, parse_json, read_lines

FIELDS = ("input", "question", "target")


def read_babilong(path: Any, task: Any = None, tokenizer: Any = None) -> list:
    """One Example per entry. Its facts are all sentences of the input; the supporting ones are not known.

    task: by default the one that the path names (`qa1/4k.json`).  BadInput names the entry that breaks the format.
    """
    task = task or task_of(path)
    entries = parse_json("\n".join(read_lines(path)), path)
    if not isinstance(entries, list) or not entries:
        raise BadInput.at(path, 1, f"a JSON {type(entries).__name__}", "a list with at least one entry")
    return [_read_entry(entry, f"entry {number}", path, task, tokenizer) for number, entry in enumerate(entries, 1)]


def _read_entry(entry, place, path, task, tokenizer):
    if not isinstance(entry, dict) or not all(isinstance(entry.get(field), str) for field in FIELDS):
        raise BadInput.at(path, place, repr(entry)[:40], f"an object with the texts {', '.join(FIELDS)}")
    text, question, target = (entry[field].strip() for field in FIELDS)
    if not question or not target:
        raise BadInput.at(path, place, "no question or no target", "both")
    if tokenizer:
        tokenizer.check(" ".join((text, question, target)), path, place)
    return Example(task, tuple(sentences(text)), question, target)
