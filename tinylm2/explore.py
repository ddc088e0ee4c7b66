"""A page to walk through a story: one HTML file with everything in it, made of tinylm2/page/ and of two Readings.

The numbers stand in it as JSON, each once: weights and gates as whole ten-thousandths, gates averaged over the width.
"""

import json
import re
from importlib.resources import files

import numpy as np

from tinylm2.data import BadInput
from tinylm2.trace import pieces

UNIT = 10_000                                            # a weight of 1; as in page.js
LIKELIEST = 5                                            # words shown for a place of the answer
MOST = 3_000_000                                         # bytes of a page


def page(row, live, frozen, *, cfg, tokenizer, about=""):
    """The page of a `data.Row`, as text, from the two Readings that `watch` gives of it, with and without the writes.

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
    return (files("tinylm2") / "page" / name).read_text("utf-8")


def _data(row, live, frozen, cfg, tokenizer, about):
    """What page.js reads. Segment by segment and block by block, null where a block has no memory."""
    truth = row.example.answer or None
    return {
        "about": about, "S": row.segments, "T": cfg.T, "L": cfg.L, "H": cfg.H, "N": cfg.N,
        "words": pieces(tokenizer, row.prompt), "pad": row.pad, "asked": row.asked, "support": row.support,
        "looks": [[_look(look) for look in looks] for looks in live.trace.looks],
        "frozen": [[_whole(look.read) for look in looks] for looks in frozen.trace.looks],
        "truth": truth, "answer": _answer(live, truth, tokenizer), "frozenAnswer": _answer(frozen, truth, tokenizer),
    }


def _look(look):
    if look.read is None:
        return None
    gates = {name: getattr(look, name) for name in ("output", "input", "forget")}
    return {"read": _whole(look.read), "write": _whole(look.write),
            **{name: _whole(gate if gate is None else gate.mean(-1)) for name, gate in gates.items()}}


def _whole(x):
    """The first story of a batch as nested lists of whole numbers."""
    return None if x is None else np.rint(x[0] * UNIT).astype(int).tolist()


def _answer(reading, truth, tokenizer):
    """What was said, whether that is right, and the likeliest words of each place with their chances."""
    places = []
    for token, chances in zip(reading.tokens, reading.chances, strict=True):
        if token != tokenizer.end or len(reading.tokens) == 1:           # that an answer ends is no news
            likeliest = np.argsort(-chances)[:LIKELIEST].tolist()
            places.append([[_name(tokenizer, i), round(float(chances[i]) * UNIT)] for i in likeliest])
    right = None if truth is None else reading.said == tokenizer.plain(truth)
    return {"said": reading.said, "right": right, "places": places}


def _name(tokenizer, token):
    special = {tokenizer.pad: "(padding)", tokenizer.end: "(end)"}
    return special.get(token) or tokenizer.decode([token]) or "(blank)"
