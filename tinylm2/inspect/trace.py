"""What the memory did while a story was read, as plain arrays: what pictures, the page and the terminal show.

Nothing here computes a model. `trace` runs the forward pass that training runs, whose caches hold every number already,
and each memory names what its caches hold (`looks`): training pays nothing to be traced.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinylm2 import decoding, model, recurrence
from tinylm2.backend import Array, get_xp, to_device, to_host
from tinylm2.flat import Flat
from tinylm2.model import Config


@dataclass(frozen=True)
class PlaceTrace:
    """One memory during one segment, on the host: a block's, or the segment's own.

    `before` and `after` are its state by name, empty where there is no memory. What a memory does not have is None, and
    so are write, input and forget where nothing was written (the last segment, a frozen memory).
    """

    before: dict[str, np.ndarray] = field(default_factory=dict)          # the state that the segment read
    after: dict[str, np.ndarray] = field(default_factory=dict)           # the state that it left
    read: np.ndarray | None = None                       # (B, H, T, N) how much a token read of each slot; sums to 1
    output: np.ndarray | None = None                     # (B, T, D) the gate that lets in what it read
    write: np.ndarray | None = None                      # (B, H, N, T) how much a slot gathered of each token
    input: np.ndarray | None = None                      # (B, N, D) the gate that lets in what it gathered
    forget: np.ndarray | None = None                     # (B, N, D) the gate that lets stay what it held

    def change(self, name: str) -> float | None:
        """How much the segment changed this array of the state, |after - before| / |before|.

        None where it was zero or had another shape: some states grow with the story.
        """
        before, after = self.before.get(name), self.after.get(name)
        if before is None or after is None or before.shape != after.shape or not before.any():
            return None
        return float(np.linalg.norm(after - before) / np.linalg.norm(before))


@dataclass(frozen=True)
class Trace:
    """A story read: logits (B, length, V), and `places[s][i]`, the PlaceTrace of block i in segment s; the last place
    of a segment is the memory of the segment as a whole."""

    logits: np.ndarray
    places: list[list[PlaceTrace]]


def trace(params: Flat, *, ids: Array, cfg: Config, pad: Any = None, frozen: bool = False) -> Any:
    """Read a story and keep what the memory did.

    ids (B, any) and pad (B,) as in story_forward -> Trace, its logits bit for bit those of story_forward. frozen:
    nothing is written, so every segment reads the state as it began.  ValueError as in story_forward.
    """
    xp = get_xp(params["embed.W"])
    ids = to_device(ids, xp)
    if not frozen:
        logits, cache = recurrence.story_forward(params, ids=ids, cfg=cfg, pad=pad)
        states, segments = cache["states"], cache["segments"]
    else:
        starts = range(0, ids.shape[1], cfg.T)
        states = [model.first_states(params, cfg, len(ids))[0]] * len(starts)
        pad = None if pad is None or not np.any(pad) else to_device(np.asarray(pad), xp)
        parts = [model.segment_forward(params, states[0], ids=ids[:, start:start + cfg.T], cfg=cfg, write=False,
                                       pad=None if start else pad) for start in starts]
        logits, segments = xp.concatenate([part[0] for part in parts], 1), [part[2] for part in parts]
    left = [*states[1:], states[-1]]                     # what a segment left is what the next one read
    return Trace(to_host(logits), [
        [_place(*each, cfg) for each in zip(cfg.memories, [*segment["blocks"], {}], before, after, strict=True)]
        for segment, before, after in zip(segments, states, left, strict=True)])


def _place(memory, block, before, after, cfg):
    """The PlaceTrace of one memory, from its block's cache."""
    if memory is None:
        return PlaceTrace()
    found = {}
    if "read" in block:
        found = {"output": block["gate"]["gout"], **memory.looks(block["read"], block.get("write"))}
    names = memory.state_shapes(cfg)
    before, after = ({name: to_host(x) for name, x in zip(names, state, strict=True) if x is not None}
                     for state in (before, after))
    return PlaceTrace(before, after, **{name: to_host(x) for name, x in found.items()})


@dataclass(frozen=True)
class TracedAnswer:
    """One story and a model's answer to it: the trace, the answer's `tokens` up to the end token, their `text`, and the
    probabilities (len(tokens), V) with which each of those tokens was chosen."""

    trace: Trace
    tokens: list[int]
    text: str
    probs: np.ndarray


def traced_answer(params: Flat, example: Any, *, cfg: Config, tokenizer: Any, answer_len: int,
                  frozen: bool = False) -> Any:
    """Let a model answer an EncodedExample in at most `answer_len` tokens, and trace it."""
    ids, pad = np.array([example.prompt]), np.array([example.pad])
    tokens = decoding.answer(params, ids=ids, cfg=cfg, answer_len=answer_len, end=tokenizer.end, pad=pad,
                               frozen=frozen)[0].tolist()
    if tokenizer.end in tokens:
        tokens = tokens[:tokens.index(tokenizer.end) + 1]
    ids = np.array([example.prompt + tokens[:-1]])       # the token before a position predicts it
    seen = trace(params, ids=ids, cfg=cfg, pad=pad, frozen=frozen)
    z = seen.logits[0, -len(tokens):].astype(np.float64)
    probs = np.exp(z - z.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    return TracedAnswer(seen, tokens, tokenizer.decode(tokens), probs)


def pieces(tokenizer: Any, ids: Array) -> Any:
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
