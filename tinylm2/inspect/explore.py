"""A page to walk through a story: one HTML file with everything in it, made of inspect/page/ and of two traced answers.

The numbers stand in it as JSON, each once: weights and gates as whole ten-thousandths, gates averaged over the width.
"""

import json
import re
from importlib.resources import files
from typing import Any

import numpy as np

from tinylm2.errors import BadInput
from tinylm2.inspect.trace import pieces

UNIT = 10_000                                            # a weight of 1; as in page.js
LIKELIEST = 5                                            # words shown for a place of the answer
MOST = 3_000_000                                         # bytes of a page


def page(row: Any, live: Any, frozen: bool, *, cfg: Any, tokenizer: Any, about: str = "") -> Any:
    """The page of an EncodedExample, as text, from its two `traced_answer`s, with and without writes.

    `about` is a line under the title.  BadInput where the page would be larger than 3 MB.
    """
    text = json.dumps(_data(row, live, frozen, cfg, tokenizer, about), separators=(",", ":"))
    parts = {"data": text.replace("<", r"\u003c")}       # in a JSON text "<" stands inside strings alone
    html = re.sub(r"\{\{(.*?)\}\}", lambda match: parts.get(match[1]) or _part(match[1]), _part("page.html"))
    if len(html.encode()) > MOST:
        raise BadInput(f"page: found {len(html.encode()) / 1e6:.1f} MB, expected at most {MOST / 1e6:.0f} MB: "
                       "a shorter story (--length) makes a smaller one")
    return html


def _part(name):
    return (files("tinylm2.inspect") / "page" / name).read_text("utf-8")


def _data(row, live, frozen, cfg, tokenizer, about):
    """What page.js reads. Segment by segment and block by block, null where a block has no memory."""
    truth = row.example.answer or None
    return {
        "about": about, "S": row.segments, "T": cfg.T, "L": cfg.L, "H": cfg.H, "N": cfg.N,
        "words": pieces(tokenizer, row.prompt), "pad": row.pad, "asked": row.asked, "support": row.support,
        "looks": [[_shown(place) for place in places[:cfg.L]] for places in live.trace.places],
        "frozen": [[_whole(place.read) for place in places[:cfg.L]] for places in frozen.trace.places],
        "truth": truth, "answer": _answer(live, truth, tokenizer), "frozenAnswer": _answer(frozen, truth, tokenizer),
    }


def _shown(place):
    """Weights and gates of a block's memory; null where it has none."""
    if place.read is None:
        return None
    gates = {name: getattr(place, name) for name in ("output", "input", "forget")}
    return {"read": _whole(place.read), "write": _whole(place.write),
            **{name: _whole(gate if gate is None else gate.mean(-1)) for name, gate in gates.items()}}


def _whole(x):
    """The first story of a batch as nested lists of whole numbers."""
    return None if x is None else np.rint(x[0] * UNIT).astype(int).tolist()


def _answer(answer, truth, tokenizer):
    """What was said, whether that is right, and the likeliest words of each place with their probabilities."""
    places = []
    for token, probs in zip(answer.tokens, answer.probs, strict=True):
        if token != tokenizer.end or len(answer.tokens) == 1:           # that an answer ends is no news
            likeliest = np.argsort(-probs)[:LIKELIEST].tolist()
            places.append([[_name(tokenizer, i), round(float(probs[i]) * UNIT)] for i in likeliest])
    correct = None if truth is None else answer.text == tokenizer.plain(truth)
    return {"said": answer.text, "right": correct, "places": places}


def _name(tokenizer, token):
    special = {tokenizer.pad: "(padding)", tokenizer.end: "(end)"}
    return special.get(token) or tokenizer.decode([token]) or "(blank)"
