"""The one loop over segments: a whole story, forward and backward. It treats all memories alike: states in and out."""

from typing import Any

import numpy as np

from tinylm2 import model
from tinylm2.backend import Array, get_xp, to_device
from tinylm2.flat import Flat, join
from tinylm2.model import Config, param_shapes


def story_forward(params: Flat, *, ids: Array, cfg: Config, pad: Array | None = None, last: int | None = None,
                  truncate: int | None = None, recompute: bool = False) -> tuple[Array, Any]:
    """A whole story, segment after segment of cfg.T tokens; the last one may be shorter.

    ids (B, any), pad (B,) on the host with 0 <= pad < the first segment's length -> logits (B, ids, V), or (B, last, V)
    of the last `last` positions, which must lie in the last segment. truncate=k: the state that enters segment s > 0
    is a constant when s is a multiple of k. recompute: keep only the states, and compute each segment again in
    backward. The gradients are the same bit for bit, and only one segment's cache is in memory.
    """
    B, length = ids.shape
    starts = range(0, length, cfg.T)
    if length < 1:
        raise ValueError("story_forward: ids has no tokens, expected at least one")
    if last is not None and not 0 <= last <= length - starts[-1]:
        raise ValueError(f"story_forward: last is {last}, expected 0 to {length - starts[-1]}, the last segment")
    pad = _checked_pad(pad, B, min(cfg.T, length), get_xp(ids))
    states, first = model.first_states(params, cfg, B)
    cache = {"params": params, "cfg": cfg, "truncate": truncate, "first": first, "states": [], "calls": [],
             "segments": []}
    logits = []
    for start in starts:
        final = start == starts[-1]
        call = {"ids": ids[:, start:start + cfg.T], "pad": pad if start == 0 else None,
                "last": last if final or last is None else 0, "write": not final}
        cache["states"].append(states)
        cache["calls"].append(call)
        part, states, segment_cache = model.segment_forward(params, states, cfg=cfg, **call)
        logits.append(part)
        cache["segments"].append(None if recompute else segment_cache)
    xp = get_xp(ids)
    return logits[-1] if last is not None or len(logits) == 1 else xp.concatenate(logits, 1), cache


def story_backward(dlogits: Array, cache: Any) -> Flat:
    """Gradients of all parameters, a `Flat` dict: backpropagation through time, from the last segment to the first.

    Only here are the gradients of segments added: each segment's are joined into one buffer, so one addition is enough.
    """
    params, cfg, xp = cache["params"], cache["cfg"], get_xp(dlogits)
    total, shapes = None, param_shapes(cfg)
    dstates, end = None, dlogits.shape[1]
    for s in reversed(range(len(cache["calls"]))):
        call, segment_cache = cache["calls"][s], cache["segments"][s]
        if segment_cache is None:
            _, _, segment_cache = model.segment_forward(params, cache["states"][s], cfg=cfg, **call)
        rows = call["ids"].shape[1] if call["last"] is None else call["last"]
        shares, dstates = model.segment_backward(dlogits[:, end - rows:end], dstates, segment_cache)
        end -= rows
        if s == 0:
            shares = model.sum_dicts(shares, model.first_states_back(dstates, cache["first"], cfg))
        share = join(shapes, shares, xp, dlogits.dtype)
        if total is not None:
            share += total
        total = share
        if cache["truncate"] and s % cache["truncate"] == 0:
            dstates = None
    return Flat(shapes, xp, dlogits.dtype, total)


def _checked_pad(pad, B, T, xp):
    """pad on the device, None where nothing is padded.  ValueError outside 0 <= pad < T."""
    if pad is None:
        return None
    pad = np.asarray(pad)
    if pad.shape != (B,) or pad.min() < 0 or pad.max() >= T:
        raise ValueError(f"story_forward: pad has shape {pad.shape} and values {pad.min()}..{pad.max()}, "
                         f"expected ({B},) and 0..{T - 1}, less than the first segment")
    return to_device(pad, xp) if pad.any() else None
