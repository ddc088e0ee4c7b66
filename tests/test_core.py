"""The model once more, from its equations alone, a story, a token and a head at a time; and what training does with it.

A gradient check cannot see an error that forward and backward share: this can. Nothing here is called but the library's
public functions; no code is shared.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.support import fake_cupy, small
from tinylm2 import layers, model, ops
from tinylm2.backend import to_device
from tinylm2.data import rng
from tinylm2.memories import MEMORIES
from tinylm2.model import Config, init_params, param_shapes, params_of
from tinylm2.optim import AdamW, clip
from tinylm2.recurrence import story_forward
from tinylm2.training.curriculum import learning_rate

pytestmark = pytest.mark.core


# -------------------------------------------------------------------------------------------------------- the equations


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(scores):
    e = np.exp(np.array(scores) - max(scores))
    return e / e.sum()


def norm(x, g, cfg):
    return g * x / np.sqrt(np.mean(x * x) + cfg.eps)


def turned(x, position, cfg=Config):
    """RoPE on one head of one token: pair i by the angle position * w, w = base^(-2i/K), slower if scaled."""
    y = np.empty_like(x)
    for i in range(len(x) // 2):
        w = cfg.base ** (-2 * i / len(x))
        if cfg.scaling:
            factor, low, high, length = cfg.scaling
            kept = min(max((length * w / (2 * math.pi) - low) / (high - low), 0), 1)
            w *= kept + (1 - kept) / factor
        a, b = x[2 * i], x[2 * i + 1]
        y[2 * i] = a * math.cos(position * w) - b * math.sin(position * w)
        y[2 * i + 1] = a * math.sin(position * w) + b * math.cos(position * w)
    return y


def heads(x, count):
    return np.split(x, count)


def gathered(qs, keys, values, seen):
    """What each head of one query gathers: qs one per head, keys and values [position][key head], `seen` positions."""
    share = len(qs) // len(keys[0])
    found = []
    for h, q in enumerate(qs):
        weights = softmax([q @ keys[u][h // share] / math.sqrt(len(q)) for u in seen])
        found.append(sum(w * values[u][h // share] for w, u in zip(weights, seen, strict=True)))
    return np.concatenate(found)


def read_lm2(n, M, p, cfg):
    """What a token reads of the bank."""
    Mn = [norm(m, p["mem.g"], cfg) for m in M]
    return gathered(heads(n @ p["mem.Wq"], cfg.H), [heads(m @ p["mem.Wk"], cfg.H) for m in Mn],
                    [heads(m @ p["mem.Wv"], cfg.H) for m in Mn], range(len(M)))


def write_lm2(seg, M, p, cfg):
    Wq, addresses = p["attn.Wqkv"][:, :cfg.H * cfg.K], np.eye(cfg.D)[:cfg.N] * math.sqrt(cfg.D)
    R = [gathered([turned(q, len(seg.ns), cfg) for q in heads(address @ Wq, cfg.H)], seg.keys, seg.values,
                  range(seg.pad, len(seg.ns))) @ p["attn.Wo"] for address in addresses]
    return [sigmoid(r @ p["mem.Win"] + p["mem.bin"]) * np.tanh(r)
            + sigmoid(r @ p["mem.Wforget"] + p["mem.bforget"]) * m for r, m in zip(R, M, strict=True)]


def write_pooled(seg, M, p, cfg):
    new, T = [], len(seg.ns)
    for r, m in enumerate(M):
        pool = [t for t in range(math.floor(r * T / cfg.N), math.ceil((r + 1) * T / cfg.N)) if t >= seg.pad]
        if pool:
            n, E = np.mean([seg.ns[t] for t in pool], 0), np.mean([seg.reads[t] for t in pool], 0)
            m = sigmoid(n @ p["mem.Win"]) * np.tanh(E) + sigmoid(E @ p["mem.Wforget"]) * m
        new.append(m)
    return new


def of_a_bank(write):
    """A memory of slots, read by cross-attention: the story segment by segment."""
    def block(xs, p, cfg, pad):
        ys, M = [], list(np.eye(cfg.D)[:cfg.N])
        for start in range(0, len(xs), cfg.T):
            seg = Segment(xs[start:start + cfg.T], p, cfg, max(0, pad - start))
            seg.reads = [read_lm2(n, M, p, cfg) for n in seg.ns]
            ys += [seg.row(t, sigmoid(E @ p["mem.Wout"] + p["mem.bout"]) * E) for t, E in enumerate(seg.reads)]
            M = write(seg, M, p, cfg)
        return ys
    return block


def of_a_window(reach):
    """A block whose tokens see their segment and `reach` positions before it, at their positions in the story."""
    def block(xs, p, cfg, pad):
        whole = Segment(xs, p, cfg, pad)
        return [whole.row(t, first=max(0, t // cfg.T * cfg.T - reach(cfg))) for t in range(len(xs))]
    return block


BLOCKS = {
    "none": of_a_window(lambda cfg: 0), "lm2": of_a_bank(write_lm2), "pooled": of_a_bank(write_pooled),
    "window": of_a_window(lambda cfg: cfg.N), "full": of_a_window(lambda cfg: math.inf),
}


class Segment:
    """Rows of one story in one block: what each token's attention needs, and the rows that the block makes of them."""

    def __init__(self, xs, p, cfg, pad):
        K, H, G = cfg.K, cfg.H, cfg.G
        self.xs, self.p, self.pad, self.cfg = xs, p, pad, cfg
        self.Wq, Wk, Wv = np.split(p["attn.Wqkv"], [H * K, (H + G) * K], axis=1)
        self.ns = [norm(x, p["attn.g"], cfg) for x in xs]
        self.keys = [[turned(k, t, cfg) for k in heads(n @ Wk, G)] for t, n in enumerate(self.ns)]
        self.values = [heads(n @ Wv, G) for n in self.ns]

    def row(self, t, read=0, first=0):
        """The block's row for token t, which sees tokens `first` to t; `read` is what comes from a memory."""
        p = self.p
        seen = [t] if t < self.pad else range(max(first, self.pad), t + 1)
        qs = [turned(q, t, self.cfg) for q in heads(self.ns[t] @ self.Wq, self.cfg.H)]
        y = self.xs[t] + gathered(qs, self.keys, self.values, seen) @ p["attn.Wo"] + read
        gate, up = np.split(norm(y, p["ff.g"], self.cfg) @ p["ff.Wgu"], 2)
        return y + (gate * sigmoid(gate) * up) @ p["ff.Wdown"]


def logits_of(rows, params, cfg):
    head = params["embed.W"].T if cfg.tied else params["head.W"]
    return [norm(x, params["norm.g"], cfg) @ head for x in rows]


def tokens_of(ids, params, cfg):
    return [params["embed.W"][i] * math.sqrt(cfg.D) for i in ids]


def of_block(params, i):
    return {name.removeprefix(f"blocks.{i}."): W for name, W in params.items()}


def story_of_blocks(params, ids, cfg, pad):
    """The logits of one story, block after block: no memory here lets a block see the blocks above it."""
    xs = tokens_of(ids, params, cfg)
    for i in range(cfg.L):
        carries = cfg.memory_blocks is None or i in cfg.memory_blocks
        xs = BLOCKS[cfg.memory if carries else "none"](xs, of_block(params, i), cfg, pad)
    return np.array(logits_of(xs, params, cfg))


def story_of_rmt(params, ids, cfg, pad):
    """[memory, tokens, memory] per segment, without the padding, where the logits mean nothing (nan)."""
    memory, logits = [w * math.sqrt(cfg.D) for w in params["memory.W"]], [np.full(cfg.V, np.nan)] * pad
    for start in range(0, len(ids), cfg.T):
        tokens = tokens_of(ids[start + (pad if start == 0 else 0):start + cfg.T], params, cfg)
        xs = [*memory, *tokens, *memory]
        for i in range(cfg.L):
            rows = Segment(xs, of_block(params, i), cfg, 0)
            xs = [rows.row(t) for t in range(len(xs))]
        logits += logits_of(xs[cfg.N:cfg.N + len(tokens)], params, cfg)
        memory = [norm(x, params["norm.g"], cfg) for x in xs[cfg.N + len(tokens):]]
    return np.array(logits)


STORIES = {**dict.fromkeys(BLOCKS, story_of_blocks), "rmt": story_of_rmt}


def test_the_memories_have_their_equations_here():
    """A new memory may go without them: gradients, causality and the rest are tested all the same."""
    assert {"lm2", "pooled", "rmt", "window", "none", "full"} <= STORIES.keys() & MEMORIES.keys()


@pytest.mark.parametrize("padded", [False, True])
def test_the_logits_follow_the_equations(cfg, padded):
    """Two segments and a short one."""
    if cfg.memory not in STORIES:
        pytest.skip(f"memory {cfg.memory} has no equations here")
    params, ids = small.params(cfg), small.ids(cfg, 2 * cfg.T + max(cfg.T // 2, 1))
    pad = np.array([0, cfg.T - 1, cfg.T // 2]) if padded else np.zeros(3, int)
    logits, _ = story_forward(params, ids=ids, cfg=cfg, pad=pad)
    for row, tokens, padding in zip(logits, ids, pad, strict=True):
        expected = STORIES[cfg.memory](params, tokens, cfg, padding)
        known = ~np.isnan(expected).any(-1)
        assert known[padding:].all()
        np.testing.assert_allclose(row[known], expected[known], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("start", "step"), [(0, 1), (7, 1), (7, 0), (3, 2)])
def test_each_pair_of_a_head_turns_at_its_own_speed(start, step):
    x = np.random.default_rng(0).standard_normal((2, 5, 3, 8))
    y, _ = ops.rope_forward(x, start=start, step=step)
    for b, t, h in np.ndindex(2, 5, 3):
        np.testing.assert_allclose(y[b, t, h], turned(x[b, t, h], start + step * t), rtol=1e-12, atol=1e-14)


def test_slow_pairs_turn_slower_by_llama_3s_rule():
    """Of four pairs one keeps its speed, one is a factor slower, and two lie between."""
    cfg = replace(small.CFG, base=30.0, scaling=(8.0, 0.5, 4.0, 32))
    x = np.random.default_rng(0).standard_normal((1, 5, 2, 8))
    y, _ = ops.rope_forward(x, base=cfg.base, scaling=cfg.scaling)
    for t, h in np.ndindex(5, 2):
        np.testing.assert_allclose(y[0, t, h], turned(x[0, t, h], t, cfg), rtol=1e-12, atol=1e-14)


def test_positions_start_at_zero_by_default():
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 4))
    np.testing.assert_array_equal(ops.rope_forward(x)[0][:, 0], x[:, 0])


def test_query_heads_ask_the_key_head_of_their_group():
    """Three query heads a group, two groups: numbers that cannot be mistaken for each other."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 5, count, 4)) for count in (6, 2, 2))
    y, _ = ops.attend_forward(q, k, v)
    for t in range(5):
        np.testing.assert_allclose(y[0, t].ravel(), gathered(q[0, t], k[0], v[0], range(5)), rtol=1e-12)


def test_the_weights_of_attention_are_the_softmax_of_its_scores():
    """Fewer queries than keys, two query heads per group: every axis has a length of its own."""
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 5, 4, 6)), *rng.standard_normal((2, 3, 7, 2, 6))
    _, cache = ops.attend_forward(q, k, v)
    weights = ops.attention_weights(cache)
    assert weights.shape == (3, 4, 5, 7)
    for b, h, t in np.ndindex(3, 4, 5):
        np.testing.assert_allclose(weights[b, h, t], softmax(k[b, :, h // 2] @ q[b, t, h] / 6**0.5), rtol=1e-12)


def test_heads_together_may_be_smaller_than_the_hidden_size():
    """H K = 6 in a model 9 wide: Wo leads back from one to the other."""
    rng = np.random.default_rng(0)
    n, Wqkv, Wo = (rng.standard_normal(shape) for shape in ((1, 4, 9), (9, 18), (6, 9)))
    a, k, _, _ = layers.self_attention_forward(n, None, Wqkv, Wo, heads=(3, 3))
    assert a.shape == (1, 4, 9)
    for t, row in enumerate(n[0]):
        np.testing.assert_allclose(k[0, t], [turned(x, t) for x in heads(row @ Wqkv[:, 6:12], 3)], rtol=1e-12,
                                   atol=1e-14)


@pytest.mark.parametrize("read", [1, 3])
def test_attention_after_a_past_gives_what_one_piece_gives(read):
    """The key/value cache of answering: new tokens stand behind the old ones, and turn with their own positions."""
    cfg, p = small.CFG, params_of(small.params(small.CFG), small.CFG, 0)
    n = np.random.default_rng(0).standard_normal((3, 5, cfg.D))
    attention = {"heads": (cfg.H, cfg.G), "pad": np.array([0, 2, 1])}
    whole, k, v, _ = layers.self_attention_forward(n, None, p["attn.Wqkv"], p["attn.Wo"], **attention)
    for last in (None, 1):
        a, *kv, _ = layers.self_attention_forward(n[:, read:], (k[:, :read], v[:, :read]), p["attn.Wqkv"], p["attn.Wo"],
                                                  start=read, last=last, **attention)
        np.testing.assert_allclose(a, whole[:, -a.shape[1]:], rtol=1e-10, atol=1e-12)
        assert a.shape[1] == (last or 5 - read)
        for found, expected in zip(kv, (k[:, read:], v[:, read:]), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_ids_of_another_device_are_refused():
    with pytest.raises(TypeError, match="arrays of numpy and of fake_cupy in one operation"):
        ops.embedding_forward(np.zeros((5, 4)), ids=to_device(np.zeros((2, 3), int), fake_cupy.xp))


def test_logits_without_an_axis_are_refused_by_name():
    with pytest.raises(ValueError, match="^cross_entropy: logits has shape"):
        ops.cross_entropy_forward(np.array(1.0), targets=np.array(0), weights=np.array(1.0))


# ------------------------------------------------------------------------------------------------------- the parameters


def test_the_model_of_the_main_job_has_the_letters_that_it_is_known_by():
    assert Config(V=9) == Config(V=9, D=32, L=2, H=2, G=2, F=78, N=16, T=32, memory="lm2", memory_blocks=None,
                                 tied=False)


def test_parameters_and_stories_draw_from_streams_of_their_own():
    assert model._INIT == rng.INIT
    assert len({rng.INIT, rng.DATA, rng.EVALUATION}) == 3


def test_a_config_takes_as_many_slots_as_the_model_is_wide_and_any_sequence_of_blocks():
    assert Config(V=9, D=8, N=8).N == 8
    assert hash(Config(V=9, memory_blocks=[0])) == hash(Config(V=9, memory_blocks=(0,)))


def test_initial_parameters_have_the_documented_distributions():
    cfg = Config(V=50, D=64, L=3, H=4, G=2, F=96, N=8, T=6)
    params = init_params(cfg, 0)
    assert params.buffer.dtype == np.float32
    for name, W in params.items():
        kind = name.rpartition(".")[2]
        if W.ndim == 1:
            start = {"g": 1, "bin": 0, "bout": -1, "bforget": 3}[kind]
            assert set(W.tolist()) == {start}, name
        else:
            rows = 64 if kind == "W" else W.shape[0]
            std = 1 / math.sqrt(rows) / (math.sqrt(6) if kind in ("Wo", "Wdown") else 1)
            assert W.std() == pytest.approx(std, rel=0.08), name
            assert abs(W.mean()) < 4 * std / math.sqrt(W.size), name
    matrices = [W for W in params.values() if W.ndim == 2]
    assert all(abs(np.corrcoef(a.ravel()[:2000], b.ravel()[:2000])[0, 1]) < 0.2 for a, b in zip(
        matrices, matrices[1:], strict=False) if a.shape == b.shape)


@pytest.mark.parametrize("name", MEMORIES)
def test_a_seed_gives_the_same_parameters_and_memories_share_what_they_have_in_common(name):
    cfg = replace(small.CFG, memory=name)
    one = init_params(cfg, 1)
    assert np.array_equal(one.buffer, init_params(cfg, 1).buffer)
    other, plain = init_params(cfg, 2), init_params(replace(cfg, memory="none"), 1)
    for name, W in plain.items():
        assert np.array_equal(W, one[name])
        assert W.ndim == 1 or not np.array_equal(W, other[name])


@pytest.mark.parametrize("name", MEMORIES)
def test_the_vectors_of_a_memory_start_from_what_it_declares(name):
    cfg = replace(small.CFG, memory=name)
    params = init_params(cfg, 0)
    for i, memory in enumerate(cfg.memories):
        if memory is not None:
            vectors = {name: shape for name, shape in memory.param_shapes(cfg).items() if len(shape) == 1}
            assert memory.VECTORS.keys() == vectors.keys()
            for name, start in memory.VECTORS.items():
                assert set(params_of(params, cfg, i)[name].tolist()) == {start}


_D2, _BANK = ("Wq", "Wk", "Wv", "Wout", "Win", "Wforget"), {"mem.g": (8,), "mem.bout": (8,)}
_BANK |= {f"mem.{name}": (8, 8) for name in _D2}


@pytest.mark.parametrize(("changed", "in_a_block", "beside"), [
    ({}, {**_BANK, "mem.bin": (8,), "mem.bforget": (8,)}, {}), ({"memory": "pooled"}, _BANK, {}),
    ({"memory": "none"}, {}, {}), ({"memory": "window"}, {}, {}), ({"memory": "full"}, {}, {}),
    ({"memory": "rmt"}, {}, {"memory.W": (4, 8)}),
    ({"tied": True}, {**_BANK, "mem.bin": (8,), "mem.bforget": (8,)}, {"head.W": None}),
], ids=str)
def test_the_parameters_are_those_of_the_variant_and_no_others(changed, in_a_block, beside):
    cfg = replace(Config(V=11, D=8, L=2, H=4, G=2, F=12, N=4, T=6), **changed)
    a_block = {"attn.g": (8,), "attn.Wqkv": (8, 16), "attn.Wo": (8, 8), "ff.g": (8,), "ff.Wgu": (8, 24),
               "ff.Wdown": (12, 8), **in_a_block}
    expected = {f"blocks.{i}.{name}": shape for i in (0, 1) for name, shape in a_block.items()}
    expected |= {"embed.W": (11, 8), "norm.g": (8,), "head.W": (8, 11), **beside}
    assert param_shapes(cfg) == {name: shape for name, shape in expected.items() if shape}


# ------------------------------------------------------------------------------------------------------------- training


def test_adamw_follows_its_equations():
    params = init_params(small.CFG, 0, dtype="float64")
    w = params.buffer.copy()
    decays = np.zeros(w.size)
    for name, view in params.like(decays).items():
        view[...] = params[name].ndim >= 2
    assert decays.any()
    assert not decays.all()
    m, v, optimizer = 0, 0, AdamW(params)
    assert optimizer.t == 0
    for t in (1, 2, 3):
        g = np.random.default_rng(t).standard_normal(w.shape)
        optimizer.step(params, params.like(g.copy()), 0.01)
        m, v = 0.9 * m + 0.1 * g, 0.98 * v + 0.02 * g * g
        w = w - 0.01 * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.98**t)) + 1e-8) + 0.01 * decays * w)
        np.testing.assert_allclose(params.buffer, w, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(optimizer.m, m, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(optimizer.v, v, rtol=1e-12, atol=1e-15)
        assert optimizer.t == t


def test_adamw_takes_other_betas_epsilon_and_decay():
    params = init_params(small.CFG, 0, dtype="float64")
    w, g = params.buffer.copy(), np.full(params.buffer.size, 1e-3)
    optimizer = AdamW(params, betas=(0.5, 0.6), eps=0.1, decay=0.2)
    optimizer.step(params, params.like(g), 0.3)
    decays = np.zeros(w.size)
    for name, view in params.like(decays).items():
        view[...] = 0.2 if params[name].ndim >= 2 else 0
    np.testing.assert_allclose(params.buffer, w - 0.3 * (1e-3 / (1e-3 + 0.1) + decays * w), rtol=1e-12)


def test_clipping_scales_to_the_limit_and_keeps_small_gradients():
    flat = init_params(small.CFG, 0, dtype="float64")
    g = np.random.default_rng(0).standard_normal(flat.buffer.shape)
    for limit in (0.5, 2.0):
        grads = flat.like(g.copy())
        assert clip(grads, limit) == pytest.approx(np.linalg.norm(g))
        np.testing.assert_allclose(grads.buffer, g * limit / np.linalg.norm(g), rtol=1e-9)
    grads = flat.like(g.copy())
    clip(grads, 1.001 * np.linalg.norm(g))
    assert np.array_equal(grads.buffer, g)
    nothing = flat.like(np.zeros_like(g))
    assert clip(nothing, 1.0) == 0
    assert not nothing.buffer.any()


def test_the_rate_climbs_in_a_line_stays_and_falls_by_half_a_cosine():
    assert [learning_rate(2.0, s, warmup=4) for s in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]

    def falling(step, **more):
        return learning_rate(2.0, step, warmup=1, decay_from=10, decay_steps=8, **more)

    assert [falling(s) for s in (0, 9, 10)] == [2.0, 2.0, 2.0]
    for done, cosine in ((2, math.sqrt(0.5)), (4, 0), (6, -math.sqrt(0.5)), (8, -1), (50, -1)):
        assert falling(10 + done) == pytest.approx(2 * (0.05 + 0.95 * (1 + cosine) / 2))
        assert falling(10 + done, floor=0.3) == pytest.approx(2 * (0.3 + 0.7 * (1 + cosine) / 2))
    assert learning_rate(2.0, 5, warmup=10, decay_from=5) == pytest.approx(1.2)
    assert learning_rate(2.0, 6, warmup=10, decay_from=5) == pytest.approx(1.4 * 0.05)
