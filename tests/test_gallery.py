"""Memformer, Infini-attention, ARMT and Titans: against PyTorch, against their own recursions, and over streams."""

import inspect
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from tests.support import fake_cupy
from tests.support.leaves import map_arrays
from tinylm2 import decoding, model, ops
from tinylm2.backend import to_device, to_host
from tinylm2.checking.cases import Draw
from tinylm2.inspect.trace import trace
from tinylm2.memories import MEMORIES, armt, infini, memformer, primitives, titans

GALLERY = ("memformer", "infini", "armt", "titans")
CFG = model.Config(V=11, D=8, L=2, H=4, G=2, F=6, N=3, T=5)
LENGTHS, PAD = (5, 3, 1, 5), np.array([2, 0])            # of a chain's segments; padding stands in the first
B = len(PAD)


def inputs(name, cfg=CFG, seed=0):
    """(p, segments, upstreams): parameters of a block, (n, k, v) per segment, gradients at what is read and left."""
    d = Draw(np.random.default_rng(seed), "float64")
    p = d.params(model.params_of(model.param_shapes(replace(cfg, memory=name)), replace(cfg, memory=name), 0))
    segments = [(d(B, T, cfg.D), d(B, T, cfg.G, cfg.K), d(B, T, cfg.G, cfg.K)) for T in LENGTHS]
    dys = [d(B, T, cfg.D) for T in LENGTHS]
    dstate = tuple(d(B, *shape) for shape in MEMORIES[name].state_shapes(cfg).values())
    return p, segments, (dys, dstate)


def chain(memory, p, segments, cfg, pad=PAD):
    """What every segment reads, the last state, and the caches."""
    state, first = memory.first_forward(p, cfg=cfg, B=B)
    ys, caches = [], []
    for s, (n, k, v) in enumerate(segments):
        y, read = memory.read_forward(n, state, p, cfg=cfg)
        state, write = memory.write_forward((n, y, k, v), state, p, cfg=cfg, pad=None if s else pad)
        ys.append(y)
        caches.append((read, write))
    return ys, state, (first, caches)


def chain_back(memory, dys, dstate, cache):
    """Gradients of p, and of (n, k, v) per segment."""
    first, caches = cache
    dp, dsegments = {}, []
    for dy, (read, write) in zip(reversed(dys), reversed(caches), strict=True):
        (dn, _, dk, dv), dstate, share = memory.write_backward(dstate, write)
        dn_read, dstate_read, share_read = memory.read_backward(dy, read)
        dstate = model.sum_states(dstate_read, dstate)
        dp = model.sum_dicts(model.sum_dicts(dp, share), share_read)
        dsegments.append((dn_read if dn is None else dn + dn_read, dk, dv))
    return model.sum_dicts(dp, memory.first_backward(dstate, first)), dsegments[::-1]


def worst_against_torch(memory, name, cfg=CFG):
    """The largest difference from PyTorch's outputs and gradients, relative to the largest entry of each."""
    torch = pytest.importorskip("torch", reason="PyTorch, to compare with, is not installed")
    from tests.support import torch_gallery

    p, segments, (dys, dstate) = inputs(name, cfg)
    ys, state, cache = chain(memory, p, segments, cfg)
    dp, dsegments = chain_back(memory, dys, dstate, cache)
    leaf = {key: torch.tensor(W, requires_grad=True) for key, W in p.items()}
    rows = [[torch.tensor(x, requires_grad=True) for x in segment] for segment in segments]
    expected, last = torch_gallery.chain(name, leaf, rows, cfg, PAD.tolist())
    upstream = zip((*expected, *last), (*dys, *dstate), strict=True)
    sum((y * torch.tensor(dy)).sum() for y, dy in upstream).backward()
    pairs = list(zip((*ys, *state), (x.detach() for x in (*expected, *last)), strict=True))
    pairs += [(dp.get(key), W.grad) for key, W in leaf.items()]
    pairs += [(d, x.grad) for ds, xs in zip(dsegments, rows, strict=True) for d, x in zip(ds, xs, strict=True)]
    return max(difference(a, None if b is None else b.numpy()) for a, b in pairs)


def difference(a, b):
    """Relative to the largest entry, where it is no rounding: keys of a segment of one token have no true gradient."""
    if a is None or b is None:
        return 0.0 if all(x is None or not x.any() for x in (a, b)) else np.inf
    return abs(a - b).max() / max(abs(b).max(), 1e-3)


@pytest.mark.parametrize("name", GALLERY)
@pytest.mark.parametrize("cfg", [CFG, model.Config(V=11, N=5)], ids=["grouped heads", "heads of 16"])
def test_a_chain_of_segments_agrees_with_torch(name, cfg):
    assert worst_against_torch(MEMORIES[name], name, cfg) < 1e-10


BUGS = [
    ("memformer", "dq += down * old * scale", "dq += down * old"),
    ("memformer", "-down[..., 0]", "down[..., 0]"),
    ("memformer", "    dM += dM_old\n", ""),
    ("memformer", "own -= lse", "own -= 0.99 * lse"),
    ("infini", "    df += new @ dA_next.swapaxes(2, 3)\n", ""),
    ("infini", "step=-1", "step=1"),
    ("infini", "f = f * real", "pass"),
    ("armt", "    dk -= 2 * k * (dshare * den / length)\n", ""),
    ("armt", "(gamma > 0) / -length", "(gamma > 0) / length"),
    ("armt", "xp.maximum(1 - den / length, 0)", "(1 - den / length)"),
    ("titans", "dE = -(P * G + Q * J)", "dE = -(P * G)"),
    ("titans", "b * written)", "b)"),
    ("titans", "    dg[..., H:] += dpast\n", ""),
    ("titans", "(c[:, 1:] * dP + h[:, 1:] * dQ)", "(c[:, 1:] * dP)"),
]


@pytest.mark.parametrize(("name", "right", "wrong"), BUGS)
def test_planted_bugs_are_caught(name, right, wrong):
    source = inspect.getsource(MEMORIES[name])
    assert source.count(right) == 1
    broken = ModuleType(name)
    exec(compile(source.replace(right, wrong), name, "exec"), broken.__dict__)
    assert not worst_against_torch(broken, name) < 1e-6


# ------------------------------------------------------------------------------------------------------ other witnesses


def test_titans_writes_as_its_token_recursion_does():
    """One step of descent with momentum and decay after the other, the gradients at the segment's start."""
    cfg, d = model.Config(V=11, memory="titans"), Draw(np.random.default_rng(3), "float64")
    p = d.params(model.params_of(model.param_shapes(cfg), cfg, 0))
    n, state, pad = d(B, cfg.T, cfg.D), (d(B, 2, 16, 16), d(B, 2, 16, 16)), np.array([7, 0])
    (M, S), _ = titans.write_forward((n, None, None, None), state, p, cfg=cfg, pad=pad)
    biases = np.repeat([p["mem.bstep"], p["mem.bpast"], p["mem.bkeep"]], 1, axis=1)
    for b in range(B):
        for h in range(cfg.H):
            begin, now, last = state[0][b, h], state[0][b, h], state[1][b, h]
            for row in n[b, pad[b]:]:
                key, value = ((row @ p[f"mem.{W}"]).reshape(cfg.H, -1)[h] for W in ("Wk", "Wv"))
                key = key / np.sqrt((key**2).sum() + 1e-5 * cfg.K)
                step, past, keep = 1 / (1 + np.exp(-(row @ p["mem.Wrates"]).reshape(3, -1)[:, h] - biases[:, h]))
                last = past * last - step * np.outer(key, key @ begin - value)
                now = keep * now + last
            assert abs(M[b, h] - now).max() < 1e-12 * max(1, abs(now).max())
            assert abs(S[b, h] - last).max() < 1e-12 * max(1, abs(last).max())


def test_a_slot_is_one_softmax_over_itself_and_the_tokens_of_the_segment():
    """Memformer's equations 7 to 13 as loops: no gate, no log-sum-exp; padding is no place."""
    cfg, d = replace(CFG, memory="memformer"), Draw(np.random.default_rng(4), "float64")
    p = d.params(model.params_of(model.param_shapes(cfg), cfg, 0))
    M, k, v, pad = d(B, cfg.N, cfg.D), d(B, 5, cfg.G, cfg.K), d(B, 5, cfg.G, cfg.K), np.array([2, 0])
    (found,), _ = memformer.write_forward((None, None, k, v), (M,), p, cfg=cfg, pad=pad)
    by_head = (B, cfg.N, cfg.H, cfg.K)
    q, own_key = (M @ p["mem.Wslot"]).reshape(by_head), (M @ p["mem.Wkey"]).reshape(by_head)
    turned, _ = ops.rope_forward(q, start=5, step=0)
    for b in range(B):
        for slot in range(cfg.N):
            row = []
            for h in range(cfg.H):
                g = h // (cfg.H // cfg.G)
                places = [(q[b, slot, h] @ own_key[b, slot, h] / cfg.K**0.5 + p["mem.bown"][h],
                           M[b, slot].reshape(cfg.H, cfg.K)[h])]
                places += [(turned[b, slot, h] @ k[b, t, g] / cfg.K**0.5, v[b, t, g]) for t in range(pad[b], 5)]
                weights = np.exp([score for score, _ in places])
                row.append(sum(w * content for w, (_, content) in zip(weights, places, strict=True)) / weights.sum())
            row = np.concatenate(row) + memformer.SHORT * p["mem.bias"][slot]
            np.testing.assert_allclose(found[b, slot], row / np.sqrt((row**2).mean() + 1e-5), rtol=1e-10)


def test_infini_reads_and_writes_as_its_equations_say():
    """Equations 3 to 5 as loops, each key head alone; all keys see the old memory."""
    d = Draw(np.random.default_rng(5), "float64")
    k, v, A, z = d(B, 5, 2, 4), d(B, 5, 2, 4), d(B, 2, 4, 4), d.positive(B, 2, 4)
    rotated, _ = ops.rope_forward(k)
    A_next, z_next, _ = infini.store_forward(rotated, v, A, z, pad=np.array([2, 0]))
    for b in range(B):
        for g in range(2):
            now, count = A[b, g].copy(), z[b, g].copy()
            for t in range(2 if b == 0 else 0, 5):
                f = np.array([x + 1 if x > 0 else np.exp(x) for x in k[b, t, g]])
                now += np.outer(f, v[b, t, g] - f @ A[b, g] / (f @ z[b, g] + infini.EPS))
                count += f
            np.testing.assert_allclose(A_next[b, g], now, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(z_next[b, g], count, rtol=1e-12)


def test_what_infini_finds_under_a_repeated_key_rests_at_half_of_the_value():
    """A difference is stored and read as an average (lesson 20); armt, which counts a key once, finds all of it."""
    k, v = np.ones((1, 8, 1, 4)), np.ones((1, 8, 1, 4))
    k, _ = ops.rope_forward(k)
    A, z = np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 4))
    for _ in range(50):
        A, z, _ = infini.store_forward(k, v, A, z)
    f = np.full((1, 1, 1, 4), 2.0)
    found, _, _ = primitives.recall_forward(f, A, z, eps=infini.EPS)
    np.testing.assert_allclose(found, 0.5, rtol=0.01)


def test_a_trace_of_memformer_shows_what_a_slot_kept_and_what_it_took():
    cfg = replace(CFG, memory="memformer")
    seen = trace(model.init_params(cfg, 0), ids=np.arange(10).reshape(1, 10) % cfg.V, cfg=cfg).places[0][0]
    np.testing.assert_allclose(seen.input + seen.forget, 1, rtol=1e-6)
    np.testing.assert_allclose(seen.write.sum(-1), 1, rtol=1e-5)
    fresh = np.exp(3) / (np.exp(3) + cfg.T)              # scores are small in a fresh model: bown alone speaks
    assert abs(seen.forget.mean() - fresh) < 0.15


def associations(rows, seed=0, D=8):
    """R (2, rows, D), a memory that holds something, and the four parameters of `armt.associate`."""
    d = Draw(np.random.default_rng(seed), "float64")
    return d(2, rows, D), (d(2, D, D), d.positive(2, D)), (d.W(D, D // 2), d.W(D, D), d.W(D, 4), d(4))


def delta_rule(A, z, key, value, beta):
    """The rule for one pair: what A says of the key moves towards the value by beta, z counts the key once."""
    known = key @ z + armt.EPS
    A = A + np.outer(key, beta * (value - key @ A / known))
    return A, z + max(0, 1 - known / (key @ key + armt.EPS)) * key


def test_armt_stores_row_after_row_as_the_delta_rule_does():
    R, state, (Wk, Wv, Wbeta, bbeta) = associations(6)
    one_by_one = state
    for i in range(R.shape[1]):
        *one_by_one, _ = armt.associate_forward(R[:, i:i + 1], *one_by_one, Wk, Wv, Wbeta, bbeta)
    for b in range(len(R)):
        A, z = (x[b] for x in state)
        for row in R[b]:
            beta = np.repeat(1 / (1 + np.exp(-row @ Wbeta - bbeta)), 2)
            A, z = delta_rule(A, z, primitives.dpfp_forward(row @ Wk)[0], row @ Wv, beta)
        assert abs(one_by_one[0][b] - A).max() < 1e-12
        assert abs(one_by_one[1][b] - z).max() < 1e-12


def test_armt_stores_rows_at_once_as_one_by_one_where_their_keys_share_no_feature():
    _, state, (_, Wv, Wbeta, bbeta) = associations(2)
    R = np.zeros((2, 2, 8))
    R[:, 0, :2], R[:, 1, :2] = (1.0, 2.0), (-1.0, -0.5)  # keys (1, 2, 0, 0) and (-1, -.5, 0, 0): disjoint products
    R[:, :, 2:] = np.random.default_rng(1).normal(size=(2, 2, 6))
    Wk = np.eye(8, 4) * [1, 1, 0, 0]
    *together, _ = armt.associate_forward(R, *state, Wk, Wv, Wbeta, bbeta)
    *later, _ = armt.associate_forward(R[:, :1], *state, Wk, Wv, Wbeta, bbeta)
    *later, _ = armt.associate_forward(R[:, 1:], *later, Wk, Wv, Wbeta, bbeta)
    for a, b in zip(together, later, strict=True):
        assert abs(a - b).max() < 1e-12


def test_a_key_stored_twice_is_replaced_and_counted_once():
    R, (A, z), (Wk, Wv, Wbeta, bbeta) = associations(1)
    A, z, bbeta = A * 0, z * 0, bbeta + 50               # beta is 1
    R[:, 0] = abs(R[:, 0]) * 30                          # so long that eps is nothing beside it
    Wk = abs(Wk)
    A, z, _ = armt.associate_forward(R, A, z, Wk, Wv, Wbeta * 0, bbeta)
    again, z_again, _ = armt.associate_forward(R, A, z, Wk, Wv, Wbeta * 0, bbeta)
    np.testing.assert_allclose(again, A, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(z_again, z, rtol=1e-6)
    key, _ = primitives.dpfp_forward(R @ Wk)
    np.testing.assert_allclose(primitives.recall_forward(key, A, z, eps=armt.EPS)[0], R @ Wv, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------ over long texts


@pytest.mark.parametrize("name", GALLERY)
@pytest.mark.parametrize("T", [5, 1])
def test_the_state_stays_as_large_over_fifty_segments(name, T):
    cfg = replace(CFG, memory=name, T=T)
    params = model.init_params(cfg, 0)
    ids = np.random.default_rng(0).integers(0, cfg.V, (2, 50 * T + 1))
    states, _ = decoding.read(params, ids=ids, cfg=cfg)
    shapes = [(2, *shape) for shape in MEMORIES[name].state_shapes(cfg).values()]
    for state in states[:cfg.L]:
        assert [x.shape for x in state] == shapes
        assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in state)


@pytest.mark.parametrize("name", ["infini", "armt", "titans"])
def test_equal_keys_do_not_explode(name):
    """32 equal tokens in every segment, from a fresh model: a memory that adds them all to what it holds would."""
    cfg, memory = model.Config(V=11, memory=name), MEMORIES[name]
    p = model.params_of(model.init_params(cfg, 0, dtype="float64"), cfg, 0)
    d = Draw(np.random.default_rng(0), "float64")
    n, (k, v) = np.repeat(d(2, 1, 32), 32, 1), (np.repeat(d(2, 1, 2, 16), 32, 1) for _ in range(2))
    k, _ = ops.rope_forward(k)
    state, _ = memory.first_forward(p, cfg=cfg, B=2)
    largest = []
    for _ in range(200):
        state, _ = memory.write_forward((n, None, k, v), state, p, cfg=cfg)
        y, _ = memory.read_forward(n, state, p, cfg=cfg)
        largest.append(abs(y).max())
    assert max(largest) < 3 * abs(v).max()
    assert largest[-1] < 1.01 * largest[-20]


# --------------------------------------------------------------------------------------------------- as arrays they are


def run(name, cfg, arrays=lambda x: x, dtype="float64"):
    """Outputs and gradients of a chain of two segments, the arrays laid out or placed by `arrays`."""
    p, segments, (dys, dstate) = map_arrays(lambda x: x.astype(dtype), inputs(name, cfg))
    p, segments, dys, dstate, pad = map_arrays(arrays, (p, segments, dys, dstate, PAD))
    ys, state, cache = chain(MEMORIES[name], p, segments, cfg, pad)
    return ys, state, *chain_back(MEMORIES[name], dys, dstate, cache)


def flat(tree):
    return list(map_leaves(tree))


def map_leaves(tree):
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, list | tuple):
        for part in tree:
            yield from map_leaves(part)
    elif tree is not None:
        yield tree


@pytest.mark.parametrize("name", GALLERY)
def test_the_layout_of_the_arrays_does_not_matter(name):
    def spread(x):
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]

    for a, b in zip(flat(run(name, CFG)), flat(run(name, CFG, spread)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", GALLERY)
def test_single_precision_stays_single(name):
    single, double = flat(run(name, CFG, dtype="float32")), flat(run(name, CFG))
    assert {x.dtype for x in single} == {np.dtype("float32")}
    for a, b in zip(single, double, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3 * max(1, abs(b).max()))


@pytest.mark.parametrize("name", GALLERY)
def test_a_device_gives_the_same_bits_without_a_copy(name):
    with fake_cupy.watch() as seen:
        there = run(name, CFG, lambda x: to_device(x, fake_cupy.xp), "float32")
    assert not seen.copies
    for a, b in zip(flat(run(name, CFG, dtype="float32")), flat(there), strict=True):
        assert np.array_equal(a, to_host(b))


@pytest.mark.parametrize("name", GALLERY)
def test_padding_is_inert(name):
    """What stands in the padding changes nothing; where positions do not count, a shorter segment leaves the same."""
    memory, (p, segments, _) = MEMORIES[name], inputs(name)
    n, k, v = segments[0]
    pad = np.array([2, 2])
    state, _ = memory.first_forward(p, cfg=CFG, B=B)
    padded, _ = memory.write_forward((n, None, k, v), state, p, cfg=CFG, pad=pad)
    changed = [x.copy() for x in (n, k, v)]
    for x in changed:
        x[:, :2] = 7.0
    other, _ = memory.write_forward((changed[0], None, *changed[1:]), state, p, cfg=CFG, pad=pad)
    assert all(np.array_equal(a, b) for a, b in zip(padded, other, strict=True))
    if name == "titans":
        short, _ = memory.write_forward((n[:, 2:], None, None, None), state, p, cfg=CFG)
        for a, b in zip(padded, short, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)
