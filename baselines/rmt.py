"""The recurrent memory transformer (Bulatov, Kuratov & Burtsev 2022, arXiv 2207.06881, section 3), causal.

A memory is N vectors, as wide as a token. Each segment is read as

    [memory] token 1 ... token T [memory]

by a plain Llama. The front copy is there to be read: every token may ask it. The back copy, after the last token, sees
the whole segment, and what the model makes of it is the memory of the next segment. So the memory passes once a segment
through the whole stack, and gradients pass the same way back, through all segments.

The first memory is learned. Config.N is the number of memory vectors; Config.memory must be "none".
"""

import zlib

import numpy as np

from tinylm2 import model, ops
from tinylm2.backend import get_xp, to_device, to_host
from tinylm2.flat import Flat

_INIT = 0                                                # the stream of random numbers, as in tinylm2/model.py


def param_shapes(cfg):
    """A plain Llama's, and the first memory."""
    if cfg.memory != "none":
        raise ValueError(f"rmt: config has memory {cfg.memory!r}, expected 'none': the recurrent one is all it has")
    return model.param_shapes(cfg) | {"memory.W": (cfg.N, cfg.D)}


def init_params(cfg, seed, *, xp=np, dtype="float32"):
    """A plain Llama's; the first memory starts as embeddings do, normal with std 1/sqrt(D)."""
    params = Flat(param_shapes(cfg), xp, dtype)
    for name, W in model.init_params(cfg, seed, xp=xp, dtype=dtype).items():
        params[name][...] = W
    normal = np.random.default_rng([seed, _INIT, zlib.crc32(b"memory.W")]).standard_normal((cfg.N, cfg.D))
    params["memory.W"][...] = to_device((normal * cfg.D**-0.5).astype(dtype), xp)
    return params


def first_memory(params, cfg, B):
    """(B, N, D): the learned rows at a token's scale, the same for every story."""
    W = params["memory.W"]
    return get_xp(W).broadcast_to(W * cfg.D**0.5, (B, *W.shape))


def segment_forward(params, memory, *, ids, cfg, pad=None, tail=None, write=True):
    """One segment: tokens to logits, memory to memory.

    x = [memory, embed.W[ids] sqrt(D), memory],   the blocks in turn,   h = rmsnorm(x)
    logits = h head.W at the tokens,   next memory = h at the back copy

    ids (B, T), memory (B, N, D), pad (B,) padding places on the left -> logits (B, tail, V) of the last `tail` tokens
    (None: all; at padding they mean nothing), and the next memory (B, N, D), None without `write`.
    """
    T, N = ids.shape[1], cfg.N
    tail = T if tail is None else tail
    xp = get_xp(memory, ids)
    tokens, embed_cache = ops.embedding_forward(params["embed.W"], ids=ids)
    x = xp.concatenate((memory, tokens * cfg.D**0.5, memory) if write else (memory, tokens * cfg.D**0.5), 1)
    order = None if pad is None else _padding_first(xp, pad, N, x.shape[1])
    if order is not None:
        x = xp.take_along_axis(x, order[..., None], 1)
    cache = {"params": params, "cfg": cfg, "embed": embed_cache, "order": order, "T": T, "tail": tail, "blocks": []}
    for i in range(cfg.L):
        rows = tail + N * write if i == cfg.L - 1 else None              # the last block: only what is asked for
        x, _, block_cache = model.block_forward(x, None, model.block_params(params, i), cfg=cfg, pad=pad, rows=rows)
        cache["blocks"].append(block_cache)
    h, cache["norm"] = ops.rmsnorm_forward(x, params["norm.g"])
    head = params["embed.W"].T if cfg.tied else params["head.W"]
    logits, cache["head"] = ops.linear_forward(h[:, :tail], head)
    return logits, h[:, tail:] if write else None, cache


def segment_backward(dlogits, dmemory, cache):
    """Gradients of all parameters but the first memory (a dict), and of the memory that came in.

    dmemory is the gradient at the memory that went out, None for zero. Both copies of the memory that came in, front
    and back, are that one array: their gradients add up.
    """
    cfg, grads = cache["cfg"], {}
    xp = get_xp(dlogits)
    dh_tokens, dhead = ops.linear_backward(dlogits, cache["head"])
    written = cache["norm"][0].shape[1] - cache["tail"]                  # N, or 0 without a write
    dh = xp.zeros((*dh_tokens.shape[:1], cache["tail"] + written, cfg.D), dlogits.dtype)
    dh[:, :cache["tail"]] = dh_tokens
    if written and dmemory is not None:
        dh[:, cache["tail"]:] = dmemory
    dx, grads["norm.g"] = ops.rmsnorm_backward(dh, cache["norm"])
    for i in reversed(range(cfg.L)):
        dx, _, dp = model.block_backward(dx, None, cache["blocks"][i])
        grads |= {f"blocks.{i}.{name}": g for name, g in dp.items()}
    if cache["order"] is not None:
        dx = xp.take_along_axis(dx, cache["order"].argsort(1)[..., None], 1)
    dmemory_in = dx[:, :cfg.N].copy()
    if written:
        dmemory_in += dx[:, cfg.N + cache["T"]:]
    dtokens = dx[:, cfg.N:cfg.N + cache["T"]] * cfg.D**0.5
    (grads["embed.W"],) = ops.embedding_backward(dtokens, cache["embed"])
    if cfg.tied:
        grads["embed.W"] += dhead.T
    else:
        grads["head.W"] = dhead
    return grads, dmemory_in


def _padding_first(xp, pad, N, length):
    """(B, length): which place of [memory, padding, tokens, ...] comes where, so that padding leads, as `attend` wants
    it. The distances between memory and tokens are then those of an unpadded segment."""
    place, pad = xp.arange(length), pad[:, None]
    return xp.where(place < pad, place + N, xp.where(place < pad + N, place - pad, place))


def story_forward(params, *, ids, cfg, pad=None, tail=None, truncate=None, replay=False):
    """A whole story, segment after segment of cfg.T tokens, as `tinylm2.model.story_forward` has it: ids (B, any) ->
    logits (B, ids, V), or (B, tail, V). truncate=k: the memory that enters segment s > 0 is a constant when s is a
    multiple of k. replay: segments are computed again in backward instead of being kept."""
    B, length = ids.shape
    starts = range(0, length, cfg.T)
    xp = get_xp(ids)
    pad = to_device(pad, xp) if pad is not None and np.asarray(pad).any() else None
    memory = first_memory(params, cfg, B)
    cache = {"params": params, "cfg": cfg, "truncate": truncate, "calls": [], "segments": []}
    logits = []
    for start in starts:
        last = start == starts[-1]
        call = {"memory": memory, "ids": ids[:, start:start + cfg.T], "pad": pad if start == 0 else None,
                "tail": tail if last or tail is None else 0, "write": not last}
        part, memory, segment_cache = segment_forward(params, cfg=cfg, **call)
        logits.append(part)
        cache["calls"].append(call)
        cache["segments"].append(None if replay else segment_cache)
    return logits[-1] if tail is not None or len(logits) == 1 else xp.concatenate(logits, 1), cache


def story_backward(dlogits, cache):
    """Gradients of all parameters, a `Flat` dict: back through the segments, from memory to memory; what is left at the
    front is the first memory's, summed over the stories that all began with it."""
    params, cfg = cache["params"], cache["cfg"]
    grads = Flat(param_shapes(cfg), get_xp(dlogits), dlogits.dtype)
    dmemory, end = None, dlogits.shape[1]
    for s in reversed(range(len(cache["calls"]))):
        call, segment_cache = cache["calls"][s], cache["segments"][s]
        if segment_cache is None:
            _, _, segment_cache = segment_forward(params, cfg=cfg, **call)
        rows = segment_cache["tail"]
        shares, dmemory = segment_backward(dlogits[:, end - rows:end], dmemory, segment_cache)
        end -= rows
        for name, share in shares.items():
            grads[name] += share
        if cache["truncate"] and s and s % cache["truncate"] == 0:
            dmemory = None
    grads["memory.W"] += dmemory.sum(0) * cfg.D**0.5
    return grads


def answer(params, *, ids, cfg, places, end, pad=None, frozen=False):
    """Greedy answers, as `tinylm2.generate.answer` gives them; the last segment is read anew for each token.

    frozen: every segment reads the first memory.
    """
    xp = get_xp(params["embed.W"])
    memory = first_memory(params, cfg, len(ids))
    pads = to_device(pad, xp) if pad is not None and pad.any() else None
    last = (ids.shape[1] - 1) // cfg.T * cfg.T
    for start in range(0, 0 if frozen else last, cfg.T):
        _, memory, _ = segment_forward(params, memory, ids=to_device(ids[:, start:start + cfg.T], xp), cfg=cfg,
                                       pad=None if start else pads, tail=0)
    told, tokens = ids[:, last:], []
    for _ in range(places):
        logits, _, _ = segment_forward(params, memory, ids=to_device(told, xp), cfg=cfg, pad=None if last else pads,
                                       tail=1, write=False)
        token = to_host(logits[:, -1].argmax(-1))
        if tokens:
            token[tokens[-1] == end] = end
        tokens.append(token)
        told = np.concatenate((told, token[:, None]), 1)
    return np.stack(tokens, 1)
