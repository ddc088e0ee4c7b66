"""What a memory did while a story was read, as plain arrays for pictures, the page and the terminal.

`trace` runs the forward pass of training. Its caches already hold every number, and each memory names what its caches
hold (`looks`). So tracing costs training nothing.
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

    `before` and `after` are its state by name, empty without a memory. Anything that a memory does not have is None. So
    are write, input and forget where nothing was written (last segment, frozen memory).
    """

    before: dict[str, np.ndarray] = field(default_factory=dict)          # state that the segment read
    after: dict[str, np.ndarray] = field(default_factory=dict)           # state after the segment
    read: np.ndarray | None = None                       # (B, H, T, N) weights of slots per token; sum to 1
    output: np.ndarray | None = None                     # (B, T, D) output gate: how much of the read counts
    write: np.ndarray | None = None                      # (B, H, N, T) weights of tokens per slot; sum to 1
    input: np.ndarray | None = None                      # (B, N, D) input gate: how much new content comes in
    forget: np.ndarray | None = None                     # (B, N, D) forget gate: how much old content stays

    def change(self, name: str) -> float | None:
        """The relative change of an array of the state by the segment, |after - before| / |before|.

        None where it was zero, or where its shape changed: some states grow with the story.
        """
        before, after = self.before.get(name), self.after.get(name)
        if before is None or after is None or before.shape != after.shape or not before.any():
            return None
        return float(np.linalg.norm(after - before) / np.linalg.norm(before))


@dataclass(frozen=True)
class Trace:
    """The trace of a story: logits (B, length, V), and `places[s][i]`, the PlaceTrace of block i in segment s. The last
    place of a segment is the memory of the segment as a whole."""

    logits: np.ndarray
    places: list[list[PlaceTrace]]


def trace(params: Flat, *, ids: Array, cfg: Config, pad: Any = None, frozen: bool = False) -> Any:
    """Run a story through the model and keep what the memory did.

    ids (B, any), pad (B,) as in story_forward -> Trace; the logits are those of story_forward bit for bit. frozen:
    nothing is written, so every segment reads the first state.  ValueError as in story_forward.
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
    left = [*states[1:], states[-1]]                     # the state after a segment is what the next one reads
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
    """A model's answer to a story: the trace, the answer's `tokens` with the end token, their `text`, and `probs`
    (len(tokens), V), the distribution from which each token was chosen."""

    trace: Trace
    tokens: list[int]
    text: str
    probs: np.ndarray


def traced_answer(params: Flat, example: Any, *, cfg: Config, tokenizer: Any, answer_len: int,
                  frozen: bool = False) -> Any:
    """The TracedAnswer of a model to an EncodedExample, of at most `answer_len` tokens."""
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
    """The text of each token. If a character has several tokens (byte-level BPE), the last one shows it and the others
    are empty. Padding is empty, too."""
    texts, held = [], []
    for token in ids:
        held.append(token)
        text = tokenizer.decode(held)
        if "\N{REPLACEMENT CHARACTER}" not in text or len(held) == 4:    # UTF-8 cuts a character into 4 at most
            texts += [*[""] * (len(held) - 1), text]
            held = []
    return texts + [tokenizer.decode([token]) for token in held]
