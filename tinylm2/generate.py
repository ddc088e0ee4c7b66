"""Answering: read a story segment by segment, then write the answer token by token.

What is kept while reading is the banks and one segment, so a story may be a million tokens long.
"""

import numpy as np

from tinylm2 import model
from tinylm2.backend import get_xp, to_device, to_host


def read(params, *, ids, cfg, pad=None, frozen=False):
    """Read all of a story but its last segment: the banks that the last one reads, and where it starts.

    ids (B, any) on the host: only the segment that is being read goes to the device. frozen: nothing is written, so the
    banks stay as they began (what a model can do without its memory).
    """
    xp = get_xp(params["embed.W"])
    banks = model.first_banks(params, cfg, len(ids))
    last = (ids.shape[1] - 1) // cfg.T * cfg.T
    for start in range(0, 0 if frozen else last, cfg.T):
        part = to_device(ids[:, start:start + cfg.T], xp)
        _, banks, _ = model.segment_forward(params, banks, ids=part, cfg=cfg, pad=_pad(pad, start, xp), tail=0)
    return banks, last


def answer(params, *, ids, cfg, places, end, pad=None, frozen=False):
    """Greedy answers: ids (B, any), pad (B,) on the host -> tokens (B, places) there too, all `end` from the first on.

    The prompt leaves `places` columns of its last segment free, so an answer never crosses a border. Keys and values of
    that segment are computed once and kept; each new token asks them.  ValueError when there is no room.
    """
    xp = get_xp(params["embed.W"])
    banks, last = read(params, ids=ids, cfg=cfg, pad=pad, frozen=frozen)
    room = cfg.T - (ids.shape[1] - last)
    if room < places:
        raise ValueError(f"answer: {room} places are free in the last segment, expected at least {places}")
    pad = _pad(pad, last, xp)
    told, past, tokens = to_device(ids[:, last:], xp), None, []
    for place in range(places):
        logits, _, cache = model.segment_forward(params, banks, ids=told, cfg=cfg, pad=pad, tail=1, write=False,
                                                 past=past)
        token = to_host(logits[:, -1].argmax(-1))
        if place:
            token[tokens[-1] == end] = end
        tokens.append(token)
        if (token == end).all():
            break
        told, past = to_device(token[:, None], xp), [block["kv"] for block in cache["blocks"]]
    tokens += [np.full_like(tokens[-1], end)] * (places - len(tokens))
    return np.stack(tokens, 1)


def _pad(pad, start, xp):
    """Padding stands in a story's first segment only."""
    return to_device(pad, xp) if pad is not None and start == 0 and pad.any() else None
