"""What real weights ask of a Config: another base of the rotary positions, scaled ones, other norms, wider heads."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from tests.support import small
from tinylm2 import ops
from tinylm2.memories import MEMORIES, primitives
from tinylm2.model import Config, first_states, segment_forward
from tinylm2.recurrence import story_backward, story_forward

CFG = replace(small.CFG, H=2, G=1)                       # heads of two pairs: the first turns by 1, whatever the base
OTHERS = {"positions and norms": {"base": 50.0, "scaling": (8.0, 0.5, 1.5, 16), "eps": 1e-2}, "heads": {"head_dim": 6}}


@pytest.mark.parametrize("change", OTHERS)
@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_has_right_gradients_with_other_positions_norms_and_heads(name, change):
    """Along one random direction, for the pairs are checked in full elsewhere; and the change reaches a logit."""
    if change == "heads" and getattr(MEMORIES[name], "check", None) is primitives.check_heads:
        pytest.skip(f"{name} has heads of D / H, and a Config with others is refused (tests/test_segments.py)")
    cfg = replace(CFG, memory=name, **OTHERS[change])
    params, ids, rng = small.params(cfg), small.ids(cfg, 15), np.random.default_rng(1)
    logits, cache = story_forward(params, ids=ids, cfg=cfg)
    upstream, direction = rng.standard_normal(logits.shape), rng.standard_normal(params.buffer.size)
    exact = story_backward(upstream, cache).buffer @ direction
    up, down = (story_forward(params.like(params.buffer + e * direction), ids=ids, cfg=cfg)[0] for e in (1e-6, -1e-6))
    assert math.isclose(exact, ((up - down) * upstream).sum() / 2e-6, rel_tol=1e-6)
    if change != "heads":
        for field in OTHERS[change]:
            plain = replace(cfg, **{field: getattr(Config, field)})
            assert np.abs(story_forward(params, ids=ids, cfg=plain)[0] - logits).max() > 1e-6, field


@pytest.mark.parametrize("name", [name for name, memory in MEMORIES.items() if memory is not None])
def test_the_positions_of_a_memory_are_those_of_its_block(name):
    """A write that turned its slots by the library's own base would give other states."""
    cfg = replace(CFG, memory=name, base=50.0)
    params, ids = small.params(cfg), small.ids(cfg, cfg.T)

    def states(cfg):
        _, states, _ = segment_forward(params, first_states(params, cfg, len(ids))[0], ids=ids, cfg=cfg)
        return np.concatenate([x.ravel() for state in states if state for x in state if x is not None])

    assert np.abs(states(cfg) - states(replace(cfg, base=51.0))).max() > 1e-9


def test_scaled_positions_turn_as_llama_3_says():
    """Fast pairs as before, slow ones slower by the factor, a straight line between them (rope_type "llama3")."""
    K, base, (factor, low, high, length) = 16, 500_000.0, (8.0, 1.0, 4.0, 8192)
    x = np.zeros((1, 2, 1, K))
    x[..., ::2] = 1.0
    y = ops.rope_forward(x, base=base, scaling=(factor, low, high, length))[0][0, 1, 0]
    angles = np.arctan2(y[1::2], y[::2])
    for i, angle in enumerate(angles):
        w = base ** (-2 * i / K)
        wavelength = 2 * math.pi / w
        if wavelength > length / low:
            expected = w / factor
        elif wavelength < length / high:
            expected = w
        else:
            share = (length / wavelength - low) / (high - low)
            expected = (1 - share) * w / factor + share * w
        assert math.isclose(angle, expected, rel_tol=1e-9)
    assert len(set(np.round(angles * base ** (2 * np.arange(K // 2) / K), 6))) == 3      # both ends and one between


def test_a_config_comes_back_from_json_values():
    cfg = Config(V=9, scaling=(8.0, 1.0, 4.0, 8192), memory_blocks=(1,))
    values = asdict(cfg) | {"scaling": [8.0, 1.0, 4.0, 8192], "memory_blocks": [1]}
    assert Config(**values) == cfg
    assert hash(Config(**values)) == hash(cfg)


def test_a_config_of_before_means_what_it_meant():
    old = {"V": 9, "D": 32, "L": 2, "H": 2, "G": 2, "F": 78, "N": 16, "T": 32, "memory": "lm2", "memory_blocks": None,
           "tied": False}
    cfg = Config(**old)
    assert (cfg.base, cfg.scaling, cfg.eps, cfg.K) == (10000.0, None, 1e-5, 16)
