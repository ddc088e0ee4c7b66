"""The explorer: one HTML file in which a reader steps through a story and changes it. Its parts are in inspect/page/.

The file contains the run's weights, and page/model.js computes the model. Where it cannot, the page shows a recording:
the numbers that Python computed for this one story. Of a memory without slots, the page shows the state.
"""

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Any

import numpy as np

from tinylm2.backend import to_host
from tinylm2.data import word_tokenizer
from tinylm2.errors import BadInput
from tinylm2.inspect.trace import pieces
from tinylm2.model import Config

UNIT = 10_000                                            # a weight of 1 in a recording; as in page.js
LIKELIEST = 5                                            # words per token of a recorded answer; as in page.js
SCRIPTS = ("model.js", "story.js", "page.js", "change.js")
MOST = 3_000_000                                         # bytes of a page
LONGEST = 64                                             # segments that a page computes; as in page.js
CELLS = 64                                               # cells per segment and state, at most
SPARE = 60                                               # sentences of filler for the reader's own stories


def page(row: Any, live: Any, frozen: Any, *, cfg: Any, tokenizer: Any, about: str = "", params: Any = None,
         filler: Any = None, answer_len: int = 1) -> str:
    """The page of an EncodedExample, as text.

    params: the weights, with which the page computes answers of at most `answer_len` tokens. filler: sentences for a
    reader who makes the story longer. live, frozen: the traced answers of the row with and without writes, shown where
    there are no params or the page cannot compute this run. about: a line under the title.  BadInput where the page
    would be larger than 3 MB.
    """
    data = {
        "about": about, "S": row.segments, "T": cfg.T, "L": cfg.L, "H": cfg.H, "N": cfg.N,
        "words": pieces(tokenizer, row.prompt), "pad": row.pad, "asked": row.asked, "support": row.support,
        "truth": row.example.answer or None,
    }
    why = None if params is None else _obstacle(row, cfg, tokenizer)
    if params is not None and not why:
        html = _html(data | _computing(row, params, cfg, tokenizer, filler, answer_len))
        if len(html.encode()) <= MOST:
            return html
        why = f"The weights of this run do not fit into a page of {MOST / 1e6:.0f} MB"
    html = _html(data | {"recorded": why or "This page was made without the weights of the run"}
                 | _recording(live, frozen, data["truth"], cfg, tokenizer))
    if len(html.encode()) > MOST:
        raise BadInput(f"page: found {len(html.encode()) / 1e6:.1f} MB, expected at most {MOST / 1e6:.0f} MB: "
                       "a shorter story (--length) makes a smaller one")
    return html


# ------------------------------------------------------------------------------------------------------------ the file


def _html(data):
    """The page with its data."""
    text = json.dumps(data, separators=(",", ":")).replace("<", r"\u003c")       # "<" occurs only inside JSON strings
    return filled("page.html", style="page.css", script=SCRIPTS, data=text)


def filled(template: str, *, style: str, script: Any, **parts: str) -> str:
    """A template of page/ whose {{names}} are replaced by its style, its script (one file or several) and other parts.

    Its Content-Security-Policy names style and script by hash, so the browser uses nothing else.
    """
    scripts = [script] if isinstance(script, str) else script
    parts |= {"style": _part(style), "script": "\n".join(map(_part, scripts))}
    for name in ("style", "script"):
        parts[f"hash of {name}"] = base64.b64encode(hashlib.sha256(parts[name].encode()).digest()).decode()
    return re.sub(r"\{\{(.*?)\}\}", lambda match: parts[match[1]], _part(template))


def _part(name):
    return (files("tinylm2.inspect") / "page" / name).read_text("utf-8")


# ------------------------------------------------------------------------------------------------- a page that computes


def _writes(cfg):
    """Per block, the PAGE_WRITE of its memory: the write of model.js to use. None where a block has no memory."""
    return [None if memory is None else memory.PAGE_WRITE for memory in cfg.memories[:cfg.L]]


def _obstacle(row, cfg, tokenizer):
    """The reason why the page cannot compute this story, as text; None where it can."""
    if any(memory is not None and not hasattr(memory, "PAGE_WRITE") for memory in cfg.memories):
        return f"This page cannot compute the memory “{cfg.memory}”"
    if (cfg.base, cfg.scaling, cfg.eps, cfg.K * cfg.H) != (Config.base, Config.scaling, Config.eps, cfg.D):
        return "This page computes with the library's own rotary positions, norms and head size: this run has others"
    if not _by_words(tokenizer):
        return "This run reads pieces of words (a byte-level tokenizer), and this page can only read whole words"
    if row.segments > LONGEST:
        return f"This page computes stories of up to {LONGEST} segments"
    return None


def _by_words(tokenizer):
    """Whether page.js cuts text into words as this tokenizer does."""
    rules, known = (json.loads(t.to_json()) for t in (tokenizer, word_tokenizer()))
    return rules["model"]["type"] == "WordLevel" and all(
        rules[name] == known[name] for name in ("normalizer", "pre_tokenizer", "decoder"))


def _computing(row, params, cfg, tokenizer, filler, answer_len):
    """The model, its vocabulary, and the story as sentences that a reader can change."""
    shapes = {name: list(W.shape) for name, W in params.items()}
    weights = np.concatenate([to_host(params[name]).astype("<f4").ravel() for name in shapes])
    sentences, opener = _sentences(row, tokenizer, filler)
    spare = [] if filler is None else list(filler.sentences[::max(1, len(filler.sentences) // SPARE)][:SPARE])
    return {
        "model": {"cfg": {**{letter: getattr(cfg, letter) for letter in "DLHGNT"}, "tied": cfg.tied,
                          "memory": _writes(cfg)},
                  "shapes": list(shapes.items()), "weights": base64.b64encode(weights.tobytes()).decode()},
        "vocabulary": [_name(tokenizer, i) for i in range(tokenizer.size)], "padding": tokenizer.pad,
        "end": tokenizer.end, "answerLen": answer_len,
        "sentences": sentences, "opener": opener, "question": row.example.question, "filler": spare,
    }


def _sentences(row, tokenizer, filler):
    """The sentences of a row, [text, kind] in order, and its opening words ("" where it has none).

    kind: "filler", "fact", or "support", a fact that the answer needs. A row has only tokens. They are split from the
    question backwards, one sentence at a time. Where two sentences end alike and one fails later, the other is tried.
    """
    facts = [tuple(tokenizer.encode(fact)) for fact in row.example.facts]
    known = {tuple(tokenizer.encode(text)): text for text in (filler.sentences if filler else ())}
    lengths = sorted({len(ids) for ids in known} - {0})
    tried: set = set()
    todo: list[Any] = [(row.asked, len(facts), ())]      # (end of the rest, facts left, sentences after it)
    while todo:
        end, left, behind = todo.pop()
        if (end, left) in tried:
            continue
        tried.add((end, left))
        opening = tuple(row.prompt[row.pad:end])
        if not left and (not opening or any(ids[-len(opening):] == opening for ids in known)):
            return list(_listed(behind)), tokenizer.decode(opening)
        for ids in [opening[-n:] for n in lengths if n <= len(opening)]:             # the longest is tried first
            if ids in known:
                todo.append((end - len(ids), left, ([known[ids], "filler"], behind)))
        if left and opening[len(opening) - len(facts[left - 1]):] == facts[left - 1]:
            kind = "support" if left - 1 in row.example.support else "fact"
            todo.append((end - len(facts[left - 1]), left - 1, ([row.example.facts[left - 1], kind], behind)))
    return [[tokenizer.decode(row.prompt[row.pad:row.asked]), "fact"]], ""           # the row has another filler


def _listed(linked):
    while linked:
        yield linked[0]
        linked = linked[1]


# ------------------------------------------------------------------------------------------------------ a recorded page


def _recording(live, frozen, truth, cfg, tokenizer):
    """The two TracedAnswers, by segment and block; null where a block has no slots. Weights and gates are multiples
    of 1 / UNIT. Gates are means over D."""
    return {
        "looks": [[_look(place) for place in places[:cfg.L]] for places in live.trace.places],
        "frozen": [[_whole(place.read) for place in places[:cfg.L]] for places in frozen.trace.places],
        "states": [_state([places[i] for places in live.trace.places], i, name)
                   for i, place in enumerate(live.trace.places[-1]) for name in _plotted(place)],
        "answer": _answer(live, truth, tokenizer), "frozenAnswer": _answer(frozen, truth, tokenizer),
    }


def _look(place):
    """Weights and gates of a block's memory; None where it has no slots that tokens read."""
    if place.read is None:
        return None
    gates = {name: getattr(place, name) for name in ("output", "input", "forget")}
    return {"read": _whole(place.read), "write": _whole(place.write),
            **{name: _whole(gate if gate is None else gate.mean(-1)) for name, gate in gates.items()}}


def _plotted(place):
    """The names of the state's arrays that the page draws if there are no slots."""
    return [name for name, x in place.before.items() if place.read is None and x.ndim > 1]


def _state(places, i, name):
    """One array of the state of place i, by segment: the root mean square of each `size` rows before the segment, and
    the relative change by the segment (None where it is not defined)."""
    squares = [(x.reshape(-1, x.shape[-1]) ** 2).mean(-1) for x in (place.before[name][0] for place in places)]
    size = max(1, -(-max(map(len, squares)) // CELLS))
    rows = [[np.sqrt(row[start:start + size].mean()) for start in range(0, len(row), size)] for row in squares]
    changes = [*(place.change(name) for place in places[:-1]), None]     # the last segment writes nothing
    return {"place": i, "name": name, "size": size, "rows": [_whole(np.array([row])) for row in rows],
            "change": [None if change is None else round(change * UNIT) for change in changes]}


def _whole(x):
    """The first story of a batch as nested lists of whole numbers."""
    return None if x is None else np.rint(x[0] * UNIT).astype(int).tolist()


def _answer(answer, truth, tokenizer):
    """The answer, whether it is correct, and the likeliest words at each position with their probabilities."""
    places = []
    for token, probs in zip(answer.tokens, answer.probs, strict=True):
        if token != tokenizer.end or len(answer.tokens) == 1:           # the end token of an answer is not shown
            likeliest = np.argsort(-probs)[:LIKELIEST].tolist()
            places.append([[_name(tokenizer, i), round(float(probs[i]) * UNIT)] for i in likeliest])
    correct = None if truth is None else answer.text == tokenizer.plain(truth)
    return {"said": answer.text, "right": correct, "places": places}


def _name(tokenizer, token):
    special = {tokenizer.pad: "(padding)", tokenizer.end: "(end)"}
    return special.get(token) or tokenizer.decode([token]) or "(blank)"
