"""A model small enough to look at every number: its configs, its parameters, its stories."""

from dataclasses import replace

import numpy as np

from tinylm2.data import GrammarFiller
from tinylm2.model import Config, init_params

CFG = Config(V=11, D=8, L=2, H=4, G=2, F=12, N=4, T=6)   # B is 3 in `ids`
VARIANTS = {
    "slots": CFG,
    "printed": replace(CFG, memory="printed"),
    "none": replace(CFG, memory="none"),
    "slots in block 1 only": replace(CFG, memory_blocks=(1,)),
    "a key head for every head": replace(CFG, G=4),
    "tied": replace(CFG, tied=True),
    "T < N": replace(CFG, T=3, N=7),
    "printed, T < N": replace(CFG, memory="printed", T=3, N=7),
    "N = 1": replace(CFG, N=1),
    "T = 1": replace(CFG, T=1),
}
REMEMBERING = [name for name, cfg in VARIANTS.items() if cfg.memory != "none"]


def params(cfg, dtype="float64", seed=0):
    """Fresh parameters moved off their start, where gains and biases are all alike and gates nearly shut."""
    flat = init_params(cfg, seed, dtype=dtype)
    flat.buffer += np.random.default_rng(seed).normal(0, 0.3, flat.buffer.shape).astype(dtype)
    return flat


def ids(cfg, length, seed=0):
    """Three stories of so many random tokens."""
    return np.random.default_rng(seed).integers(0, cfg.V, (3, length))


def other(cfg, ids):
    """Every token another one."""
    return (ids + 1) % cfg.V


class FewSentences:
    """Filler enough: encoding all of the grammar's takes longer than a small run does."""

    sentences = GrammarFiller().sentences[::100]
