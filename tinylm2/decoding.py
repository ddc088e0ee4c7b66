"""Reading a stream of any length and answering: the one decoder, for every memory.

While a stream is read, the memory's states and one segment are kept, so a story may be a million tokens long.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from tinylm2 import model
from tinylm2.backend import Array, get_xp, to_device, to_host
from tinylm2.flat import Flat
from tinylm2.model import Config


def read(params: Flat, *, ids: Array, cfg: Config, pad: Any = None, frozen: bool = False) -> tuple[Any, int]:
    """Read all of a story but its last segment: the states that the last one reads, and where it starts.

    ids (B, any) on the host: only the segment that is being read goes to the device. frozen: nothing is written, so the
    states stay as they began (what a model can do without its memory).
    """
    xp = get_xp(params["embed.W"])
    states, _ = model.first_states(params, cfg, len(ids))
    final = (ids.shape[1] - 1) // cfg.T * cfg.T
    for start in range(0, 0 if frozen else final, cfg.T):
        part = to_device(ids[:, start:start + cfg.T], xp)
        _, states, _ = model.segment_forward(params, states, ids=part, cfg=cfg, pad=_pad(pad, start, xp), last=0)
    return states, final


def decode(params: Flat, choose: Any, *, ids: Array, cfg: Config, pad: Any = None, frozen: bool = False) -> Iterator:
    """Tokens behind a story, one per story and step, without end. choose: logits (B, V) -> (B,) on the host.

    ids (B, any), pad (B,) on the host. Keys and values of the last segment are computed once and kept. A segment that
    is full is read once more, now written into the memory, and the next one begins; frozen: nothing is written.
    """
    xp = get_xp(params["embed.W"])
    states, final = read(params, ids=ids, cfg=cfg, pad=pad, frozen=frozen)
    segment, past, pad = to_device(ids[:, final:], xp), None, _pad(pad, final, xp)
    new = segment
    while True:
        logits, _, cache = model.segment_forward(params, states, ids=new, cfg=cfg, pad=pad, last=1, write=False,
                                                 past=past)
        token = choose(logits[:, -1])
        yield token
        new = to_device(token[:, None], xp)
        if segment.shape[1] < cfg.T:
            segment, past = xp.concatenate((segment, new), 1), [block["kv"] for block in cache["blocks"]]
            continue
        if not frozen:
            _, states, _ = model.segment_forward(params, states, ids=segment, cfg=cfg, pad=pad, last=0)
        segment, past, pad = new, None, None


def answer(params: Flat, *, ids: Array, cfg: Config, answer_len: int, end: int, pad: Any = None,
           frozen: bool = False) -> Array:
    """Greedy answers: ids (B, any), pad (B,) on the host -> tokens (B, answer_len), `end` from the first `end` on.

    The prompt leaves `answer_len` positions of its last segment free, so an answer never crosses a border.  ValueError
    when the answer does not fit.
    """
    free = -ids.shape[1] % cfg.T
    if free < answer_len:
        raise ValueError(f"answer: {free} positions are free in the last segment, expected at least {answer_len}")
    done = np.zeros(len(ids), bool)

    def likeliest(logits):
        token = to_host(logits.argmax(-1))
        token[done] = end
        done[token == end] = True
        return token

    tokens = []
    for token in islice(decode(params, likeliest, ids=ids, cfg=cfg, pad=pad, frozen=frozen), answer_len):
        tokens.append(token)
        if done.all():
            break
    tokens += [np.full_like(tokens[-1], end)] * (answer_len - len(tokens))
    return np.stack(tokens, 1)


def surprise(params: Flat, *, ids: Array, cfg: Config, frozen: bool = False) -> Any:
    """-log p of every token but the first, given those before it: ids (B, any) on the host -> (B, any - 1).

    Segment by segment, so a text may be as long as it likes. The first token of a segment is predicted by the last one
    of the segment before. frozen: nothing is written, so a segment knows nothing of those before it.
    """
    if ids.shape[1] < 2:
        raise ValueError(f"surprise: ids has {ids.shape[1]} tokens, expected at least two")
    xp = get_xp(params["embed.W"])
    states, _ = model.first_states(params, cfg, len(ids))
    found = []
    for start in range(0, ids.shape[1] - 1, cfg.T):
        part, targets = ids[:, start:start + cfg.T], ids[:, start + 1:start + cfg.T + 1]
        logits, after, _ = model.segment_forward(params, states, ids=to_device(part, xp), cfg=cfg, write=not frozen)
        z = to_host(logits)[:, :targets.shape[1]].astype(np.float64)
        z -= z.max(-1, keepdims=True)
        at_target = np.take_along_axis(z, targets[..., None], -1)[..., 0]
        found.append(np.log(np.exp(z, out=z).sum(-1)) - at_target)
        states = states if frozen else after
    return np.concatenate(found, 1)


def _pad(pad, start, xp):
    """Padding stands in a story's first segment only."""
    return to_device(pad, xp) if pad is not None and start == 0 and pad.any() else None
