"""What the memory did while a story was read, as plain arrays: what pictures, the page and the terminal show.

Nothing here computes a model. `trace` runs the forward pass that training runs, whose caches hold every number already,
and `_look` is the one place that knows where: training pays nothing to be watched.
"""

from dataclasses import dataclass

import numpy as np

from tinylm2.backend import get_xp, to_device, to_host
from tinylm2.generate import answer
from tinylm2.model import first_banks, segment_forward, story_forward


@dataclass(frozen=True)
class Look:
    """One block's memory during one segment, on the host. What does not exist is None: all of it where the block has no
    memory; write, input and forget where nothing was written (the last segment, frozen banks)."""

    read: np.ndarray | None = None                       # (B, H, T, N) how much a token read of each slot; sums to 1
    output: np.ndarray | None = None                     # (B, T, D) the gate that lets in what it read
    write: np.ndarray | None = None                      # (B, H, N, T) how much a slot gathered of each token
    input: np.ndarray | None = None                      # (B, N, D) the gate that lets in what it gathered
    forget: np.ndarray | None = None                     # (B, N, D) the gate that lets stay what it held
    before: np.ndarray | None = None                     # (B, N, D) the bank that the segment read
    after: np.ndarray | None = None                      # (B, N, D) the bank that it left; the same one if not written


@dataclass(frozen=True)
class Trace:
    """A story read: logits (B, length, V), and `looks[s][i]`, the Look at block i in segment s."""

    logits: np.ndarray
    looks: list[list[Look]]


def trace(params, *, ids, cfg, pad=None, frozen=False):
    """Read a story and keep what the memory did.

    ids (B, any) and pad (B,) as in story_forward -> Trace, its logits bit for bit those of story_forward. frozen:
    nothing is written, so every segment reads the bank as it began.  ValueError as in story_forward.
    """
    xp = get_xp(params["embed.W"])
    ids = to_device(ids, xp)
    if not frozen:
        logits, cache = story_forward(params, ids=ids, cfg=cfg, pad=pad)
        banks, segments = cache["banks"], cache["segments"]
    else:
        starts = range(0, ids.shape[1], cfg.T)
        banks = [first_banks(params, cfg, len(ids))] * len(starts)
        pad = None if pad is None or not np.any(pad) else to_device(np.asarray(pad), xp)
        parts = [segment_forward(params, banks[0], ids=ids[:, start:start + cfg.T], cfg=cfg, write=False,
                                 pad=None if start else pad) for start in starts]
        logits, segments = xp.concatenate([part[0] for part in parts], 1), [part[2] for part in parts]
    left = [*banks[1:], banks[-1]]                       # what a segment left is what the next one read
    return Trace(to_host(logits), [
        [_look(*place, cfg.H) for place in zip(segment["blocks"], before, after, strict=True)]
        for segment, before, after in zip(segments, banks, left, strict=True)])


def _look(block, before, after, H):
    """The Look at one block's cache: the only code that knows where the pairs keep what."""
    if before is None:
        return Look()
    found = {"before": before, "after": after, "output": block["merge"]["gout"],
             "read": _weights(block["read"]["attend"], H)}
    if "write" in block:
        write = block["write"]
        if "gather" in write:
            update, found["write"] = write["gates"]["update"], _weights(write["gather"]["attend"], H)
        else:                                            # the printed write averages: the same weights for every head
            B, N, _ = before.shape
            pool = write["pool"]
            update = write["update"]
            found["write"] = get_xp(pool).broadcast_to(pool[:, None], (B, H, N, pool.shape[-1]))
        found |= {"input": update["gin"], "forget": update["gforget"]}
    return Look(**{name: to_host(x) for name, x in found.items()})


def _weights(attend, H):
    """The softmax in the cache of ops.attend_forward, (B, G, U, RT) with a column a query -> (B, H, T, U)."""
    P = attend[3].swapaxes(2, 3)
    return P.reshape(P.shape[0], H, -1, P.shape[-1])


@dataclass(frozen=True)
class Reading:
    """One story and what a model made of it: its trace, the answer's `tokens` up to the end token, the answer as text,
    and the probabilities (len(tokens), V) with which each of those tokens was chosen."""

    trace: Trace
    tokens: list[int]
    said: str
    chances: np.ndarray


def watch(params, row, *, cfg, tokenizer, places, frozen=False):
    """Let a model answer a `data.Row` in at most `places` tokens, and watch it: a Reading."""
    ids, pad = np.array([row.prompt]), np.array([row.pad])
    tokens = answer(params, ids=ids, cfg=cfg, places=places, end=tokenizer.end, pad=pad, frozen=frozen)[0].tolist()
    if tokenizer.end in tokens:
        tokens = tokens[:tokens.index(tokenizer.end) + 1]
    ids = np.array([row.prompt + tokens[:-1]])           # each place is asked by the token before it
    seen = trace(params, ids=ids, cfg=cfg, pad=pad, frozen=frozen)
    z = seen.logits[0, -len(tokens):].astype(np.float64)
    chances = np.exp(z - z.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    return Reading(seen, tokens, tokenizer.decode(tokens), chances)


def pieces(tokenizer, ids):
    """The text of each token. Where a character is cut into several tokens (byte-level ones do that) the last of them
    shows it and the others are empty, as is padding."""
    texts, held = [], []
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held)
        if "\N{REPLACEMENT CHARACTER}" not in text or len(held) == 4:    # UTF-8 cuts a character into 4 at most
            texts += [*[""] * (len(held) - 1), text]
            held = []
    return texts + [tokenizer.decode([token]) for token in held]
