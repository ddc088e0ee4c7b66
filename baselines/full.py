"""Plain Llama with full attention over the whole story: every token is kept, nothing has to be remembered.

It is `tinylm2.model` without memory and with one segment as long as any story. What it pays is time and room that grow
with the square of the length, and positions beyond those it was trained on.
"""

from dataclasses import replace

import numpy as np

from tinylm2.backend import get_xp, to_device, to_host
from tinylm2.model import init_params, param_shapes, segment_forward, story_backward, story_forward

__all__ = ["answer", "config", "init_params", "param_shapes", "story_backward", "story_forward"]

ENDLESS = 1 << 40                                        # the T of a Config whose one segment is the whole story
PIECE = 64                                               # tokens read at once when answering


def config(cfg):
    """The same model, its attention not cut."""
    return replace(cfg, memory="none", memory_blocks=None, T=ENDLESS)


def answer(params, *, ids, cfg, places, end, pad=None):
    """Greedy answers, as `tinylm2.generate.answer` gives them. The story is read in pieces that ask all before them,
    so that the scores of a long one need room for a piece of rows only."""
    xp = get_xp(params["embed.W"])
    pad = to_device(pad, xp) if pad is not None and pad.any() else None
    past, banks, tokens = None, (None,) * cfg.L, []

    def read(part, past):
        logits, _, cache = segment_forward(params, banks, ids=to_device(part, xp), cfg=cfg, pad=pad, tail=1,
                                           write=False, past=past)
        return to_host(logits[:, -1].argmax(-1)), [block["kv"] for block in cache["blocks"]]

    for start in range(0, ids.shape[1], PIECE):
        token, past = read(ids[:, start:start + PIECE], past)
    for _ in range(places):
        if tokens:
            token, past = read(tokens[-1][:, None], past)
            token[tokens[-1] == end] = end
        tokens.append(token)
    return np.stack(tokens, 1)
