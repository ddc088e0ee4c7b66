"""The gradient cases of the baselines: of the kind of LM2's own (tinylm2/cases.py), walked by the same check."""

from dataclasses import replace

import numpy as np

from baselines import full, rmt
from tinylm2.cases import Case, call
from tinylm2.model import Config

CFG = Config(V=7, D=8, L=2, H=4, G=2, F=6, N=3, T=5, memory="none")     # B is 2; heads are two wide
B, PAD = 2, np.array([2, 0])


def _segment(constants=None, **variant):
    cfg = replace(CFG, **variant)
    shapes = {name: shape for name, shape in rmt.param_shapes(cfg).items() if name != "memory.W"}
    return lambda d: call(d.params(shapes), d(B, cfg.N, cfg.D), cfg=cfg, ids=d.ids(cfg.V, B, cfg.T), **constants or {})


def _story(contender, cfg, constants=None):
    return lambda d: call(d.params(contender.param_shapes(cfg)), cfg=cfg, ids=d.ids(cfg.V, B, 3 * CFG.T),
                          **constants or {})


CASES = (
    Case(rmt, "segment", "", _segment()),
    Case(rmt, "segment", "padded", _segment({"pad": PAD})),
    Case(rmt, "segment", "tied, tail", _segment({"tail": 2}, tied=True)),
    Case(rmt, "story", "", _story(rmt, CFG)),
    Case(rmt, "story", "padded, tail", _story(rmt, CFG, {"pad": PAD, "tail": 2})),
    Case(rmt, "story", "replayed", _story(rmt, CFG, {"replay": True})),
    Case(full, "story", "padded", _story(full, full.config(CFG), {"pad": PAD})),
)
