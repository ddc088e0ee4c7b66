"""What is shown is what happened: traces equal the equations, written out story by story, and change no result."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests.support import fake_cupy, small, watched
from tinylm2.__main__ import main
from tinylm2.cli.ask import heat_map
from tinylm2.data import TASKS, bpe_tokenizer, encode_examples, generated_examples, without_filler, word_tokenizer
from tinylm2.data.filler import GrammarFiller
from tinylm2.inspect.evaluate import ask
from tinylm2.inspect.trace import pieces, trace, traced_answer
from tinylm2.model import init_params
from tinylm2.recurrence import story_backward, story_forward

PARTS = ("read", "output", "write", "input", "forget")


# The model once more, one story and one head at a time, from docs/MODEL.md alone: whoever moves a cache meets it.


def norm(x, g, cfg):
    return g * x / np.sqrt((x**2).mean(-1, keepdims=True) + cfg.eps)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def turned(x, position, cfg):
    """Rotary positions: pair i of row r turns by position[r] w_i, w_i = base^(-2i/K), slow pairs slower if scaled."""
    w = cfg.base ** (-np.arange(0, x.shape[1], 2) / x.shape[1])
    if cfg.scaling:
        factor, low, high, length = cfg.scaling
        kept = np.clip((length * w / (2 * np.pi) - low) / (high - low), 0, 1)
        w = w * (kept + (1 - kept) / factor)
    angle = np.asarray(position)[:, None] * w
    y = np.empty_like(x)
    y[:, ::2] = x[:, ::2] * np.cos(angle) - x[:, 1::2] * np.sin(angle)
    y[:, 1::2] = x[:, ::2] * np.sin(angle) + x[:, 1::2] * np.cos(angle)
    return y


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def written_out(params, tokens, cfg, pad, frozen):
    """One story: its logits (length, V), and `[s][i]` -> {part: array} of place i in segment s, {} without a memory."""
    whole = cfg.memory == "rmt"
    states = [EQUATIONS[cfg.memory][0](params, cfg) if memory else None for memory in cfg.memories]
    logits, story = [], []
    for start in range(0, len(tokens), cfg.T):
        x = params["embed.W"][tokens[start:start + cfg.T]] * np.sqrt(cfg.D)
        T, hidden = len(x), np.arange(len(x)) < (0 if start else pad)
        writes = start + cfg.T < len(tokens) and not frozen
        story.append([])
        if whole:                                        # a padded row reaches no other, so it can be left out
            M = states[-1]
            x = np.vstack([M, x[hidden.sum():], M] if writes else [M, x[hidden.sum():]])
        for i in range(cfg.L):
            p = {name.split(".", 2)[2]: W for name, W in params.items() if name.startswith(f"blocks.{i}.")}
            memory = cfg.memory if cfg.memories[i] else "none"
            x, states[i], found = block(x, states[i], p, cfg, memory, hidden[:0] if whole else hidden, writes)
            story[-1].append(found)
        x = norm(x, params["norm.g"], cfg)
        story[-1].append({})
        if whole:
            states[-1] = x[len(x) - cfg.N:] if writes else M
            x = np.vstack([np.full((hidden.sum(), cfg.D), np.nan), x[cfg.N:len(x) - cfg.N * writes]])
            story[-1][-1] = {"before": {"M": M}, "after": {"M": states[-1]}}
        assert len(x) == T
        logits.append(x @ (params["embed.W"].T if cfg.tied else params["head.W"]))
    return np.vstack(logits), story


def block(x, state, p, cfg, memory, hidden, writes):
    T, H, G, K = len(x), cfg.H, cfg.G, cfg.K
    hidden = np.concatenate([hidden, np.zeros(T - len(hidden), bool)])
    n = norm(x, p["attn.g"], cfg)
    Wq, Wk, Wv = np.split(p["attn.Wqkv"], [H * K, (H + G) * K], axis=1)
    group = [h * G // H for h in range(H)]               # the key head that head h asks
    k, v = ((n @ W).reshape(T, G, K) for W in (Wk, Wv))
    keys, values, covered, at = k, v, hidden, np.arange(T)
    if memory in ("window", "full"):                     # what is kept stands right before the segment
        keys, values, covered = (np.concatenate(pair) for pair in zip(state, (k, v, hidden), strict=True))
        at = np.arange(len(keys)) - (len(keys) - T)
    unseen = (at > np.arange(T)[:, None]) | covered & (at != np.arange(T)[:, None])
    own = [softmax(np.where(unseen, -np.inf, turned((n @ Wq)[:, h * K:(h + 1) * K], np.arange(T), cfg)
                            @ turned(keys[:, group[h]], at, cfg).T / K**0.5)) for h in range(H)]
    a = np.hstack([own[h] @ values[:, group[h]] for h in range(H)]) @ p["attn.Wo"]
    found, after = {}, state
    if memory in ("lm2", "pooled"):
        Mn = norm(state, p["mem.g"], cfg)
        q, mk, mv = (y.reshape(-1, H, cfg.D // H) for y in (n @ p["mem.Wq"], Mn @ p["mem.Wk"], Mn @ p["mem.Wv"]))
        found["read"] = np.array([softmax(q[:, h] @ mk[:, h].T / (cfg.D // H)**0.5) for h in range(H)])
        Emem = np.hstack([found["read"][h] @ mv[:, h] for h in range(H)])
        found["output"] = sigmoid(Emem @ p["mem.Wout"] + p["mem.bout"])
        if writes:
            ks, vs = [turned(k[:, g], np.arange(T), cfg) for g in group], [v[:, g] for g in group]
            after, parts = (lm2(state, ks, vs, p, cfg, hidden) if memory == "lm2" else
                            pooled(state, n, Emem, p, cfg, hidden))
            found |= parts
        a = a + found["output"] * Emem
    elif writes and memory != "none":
        after = tuple(part[-cfg.N:] if memory == "window" else part for part in (keys, values, covered))
    if memory != "none":
        found |= {when: EQUATIONS[memory][1](part, cfg) for when, part in (("before", state), ("after", after))}
    x = x + a
    gate, up = np.split(norm(x, p["ff.g"], cfg) @ p["ff.Wgu"], 2, axis=1)
    return x + (gate * sigmoid(gate) * up) @ p["ff.Wdown"], after, found


def lm2(M, ks, vs, p, cfg, hidden):
    T, K, N = len(hidden), cfg.K, cfg.N
    asked = np.eye(N, cfg.D) * cfg.D**0.5 @ p["attn.Wqkv"]
    write = []
    for h in range(cfg.H):
        scores = turned(asked[:, h * K:(h + 1) * K], np.full(N, T), cfg) @ ks[h].T / K**0.5
        write.append(softmax(np.where(hidden, -np.inf, scores)))
    R = np.hstack([w @ v for w, v in zip(write, vs, strict=True)]) @ p["attn.Wo"]
    gin = sigmoid(R @ p["mem.Win"] + p["mem.bin"])
    gforget = sigmoid(R @ p["mem.Wforget"] + p["mem.bforget"])
    return gin * np.tanh(R) + gforget * M, {"write": np.array(write), "input": gin, "forget": gforget}


def pooled(M, n, Emem, p, cfg, hidden):
    T, N = len(hidden), cfg.N
    pool = np.zeros((N, T))
    for r in range(N):
        real = [t for t in range(r * T // N, -(-(r + 1) * T // N)) if not hidden[t]]
        pool[r, real] = 1 / max(len(real), 1)
    gin, gforget = sigmoid(pool @ n @ p["mem.Win"]), sigmoid(pool @ Emem @ p["mem.Wforget"])
    after = gin * np.tanh(pool @ Emem) + gforget * M
    after = np.where(pool.any(-1, keepdims=True), after, M)
    return after, {"write": np.array([pool] * cfg.H), "input": gin, "forget": gforget}


def kept(state, cfg):
    """Kept keys, turned to their distance from the next segment, kept values, and how many of them are padding."""
    keys, values, covered = state
    at = np.arange(-len(keys), 0)
    turned_keys = np.stack([turned(keys[:, g], at, cfg) for g in range(keys.shape[1])], 1)
    return {"k": turned_keys, "v": values, "hidden": covered.sum()}


def nothing_kept(params, cfg):
    empty = np.zeros((0, cfg.G, cfg.K))
    return empty, empty, np.zeros(0, bool)


# Of each memory: its state before the first segment, and that state by the names of `state_shapes`.
EQUATIONS = {
    "none": (None, None),
    **dict.fromkeys(("lm2", "pooled"), (lambda params, cfg: np.eye(cfg.N, cfg.D), lambda M, _: {"M": M})),
    **dict.fromkeys(("window", "full"), (nothing_kept, kept)),
    "rmt": (lambda params, cfg: params["memory.W"] * cfg.D**0.5, None),
}


def check_parts(place, b, expected):
    """The parts of story b's PlaceTrace are those expected, and no others."""
    found = {part: getattr(place, part) for part in PARTS if getattr(place, part) is not None}
    assert set(found) == set(expected) - {"before", "after"}
    for part, x in found.items():
        np.testing.assert_allclose(x[b], expected[part], rtol=0, atol=1e-12, err_msg=part)
    for when in ("before", "after"):
        state, names = getattr(place, when), expected.get(when, {})
        if "hidden" in names and "hidden" not in state:  # left out where no story of the batch has padding
            names = {name: x for name, x in names.items() if name != "hidden" or x}
        assert set(state) == set(names)
        for name, x in names.items():
            np.testing.assert_allclose(state[name][b], x, rtol=0, atol=1e-12, err_msg=f"{when}, {name}")


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_a_trace_is_what_the_equations_say(cfg, padded, frozen):
    if cfg.memory not in EQUATIONS:
        pytest.skip(f"the equations of memory {cfg.memory} are not written out in this file")
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T - (cfg.T > 1))     # the last segment a token short
    pad = np.array([0, cfg.T // 2, cfg.T - 1]) if padded else None
    found = trace(params, ids=ids, cfg=cfg, pad=pad, frozen=frozen)
    for b, tokens in enumerate(ids):
        hidden = pad[b] if padded else 0
        logits, story = written_out(params, tokens, cfg, hidden, frozen)
        np.testing.assert_allclose(found.logits[b, hidden:], logits[hidden:], rtol=0, atol=1e-11)
        assert len(found.places) == len(story) == 3
        for places, expected in zip(found.places, story, strict=True):
            for place, parts in zip(places, expected, strict=True):
                check_parts(place, b, parts)


def test_the_memories_that_the_project_compares_are_written_out():
    assert {"lm2", "pooled", "rmt", "window", "full", "none"} <= EQUATIONS.keys()


def test_tracing_changes_no_result(cfg):
    params, ids, pad = small.params(cfg), small.ids(cfg, 3 * cfg.T), np.array([0, cfg.T - 1, 0])
    before, kept = params.buffer.copy(), ids.copy()

    def run():
        logits, cache = story_forward(params, ids=ids, cfg=cfg, pad=pad)
        return logits, story_backward(np.ones_like(logits), cache).buffer

    logits, grads = run()
    traced = trace(params, ids=ids, cfg=cfg, pad=pad)
    again, grads_again = run()
    assert np.array_equal(traced.logits, logits)
    assert np.array_equal(again, logits)
    assert np.array_equal(grads_again, grads)
    assert np.array_equal(params.buffer, before)
    assert np.array_equal(ids, kept)


def test_a_frozen_story_reads_each_segment_as_if_it_were_the_first(remembering):
    cfg = remembering
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T)
    found = trace(params, ids=ids, cfg=cfg, frozen=True)
    for s in range(3):
        part = slice(s * cfg.T, (s + 1) * cfg.T)
        alone, _ = story_forward(params, ids=ids[:, part], cfg=cfg)
        assert np.array_equal(found.logits[:, part], alone)
    assert not np.allclose(found.logits, trace(params, ids=ids, cfg=cfg).logits)


def test_a_device_s_story_is_traced_on_the_host(remembering):
    cfg = remembering
    host, ids, pad = small.params(cfg), small.ids(cfg, 2 * cfg.T), np.array([0, cfg.T - 1, 0])
    device = init_params(cfg, 0, xp=fake_cupy.xp, dtype="float64")
    device.buffer[...] = fake_cupy.xp.asarray(host.buffer)
    for frozen in (False, True):
        ones, others = (trace(params, ids=ids, cfg=cfg, pad=pad, frozen=frozen) for params in (host, device))
        assert np.array_equal(ones.logits, others.logits)
        for one, other in zip(ones.places[0] + ones.places[1], others.places[0] + others.places[1], strict=True):
            for part in PARTS:
                assert np.array_equal(getattr(one, part), getattr(other, part))
            for states in ((one.before, other.before), (one.after, other.after)):
                assert states[0].keys() == states[1].keys()
                assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_traced_answer_is_the_answer_that_asking_gives_with_its_probability(frozen):
    tokenizer = word_tokenizer()
    cfg = replace(small.CFG, V=tokenizer.size, T=32)
    params = init_params(cfg, 0)
    examples = generated_examples(TASKS["qa8"], 5, seed=0)
    rows, _ = encode_examples(examples, 0, tokenizer=tokenizer, filler=GrammarFiller(), segment_len=32, seed=0,
                              answer_len=3)
    asked = ask(params, rows, cfg=cfg, tokenizer=tokenizer, answer_len=3, frozen=frozen)
    for row, text in zip(rows, asked, strict=True):
        answer = traced_answer(params, row, cfg=cfg, tokenizer=tokenizer, answer_len=3, frozen=frozen)
        assert answer.text == text
        assert answer.probs.shape == (len(answer.tokens), cfg.V)
        np.testing.assert_allclose(answer.probs.sum(-1), 1)
        assert answer.probs.argmax(-1).tolist() == answer.tokens
        assert len(answer.trace.places) == row.segments


def test_an_answer_is_traced_up_to_its_end_and_no_further(monkeypatch):
    tokenizer = word_tokenizer()
    cfg = replace(small.CFG, V=tokenizer.size, T=32)
    row = without_filler(generated_examples(TASKS["qa1"], 1, seed=0)[0], tokenizer=tokenizer, segment_len=32,
                         answer_len=4)
    word, end = 5, tokenizer.end
    for said, kept in (([word, end, end], [word, end]), ([end, end, end], [end]), ([word, word], [word, word])):
        monkeypatch.setattr("tinylm2.decoding.answer", lambda *_, said=said, **__: np.array([said]))
        answer = traced_answer(init_params(cfg, 0), row, cfg=cfg, tokenizer=tokenizer, answer_len=3)
        assert (answer.tokens, answer.text) == (kept, tokenizer.decode(kept))
        assert answer.trace.logits.shape[1] == len(row.prompt) + len(kept) - 1
        assert answer.probs.shape == (len(kept), cfg.V)


@cache
def bytewise():
    return bpe_tokenizer(300)


@pytest.mark.parametrize("text", ["Mary <b>\"went\" 'to' the café. 🎉🎉 \ufffd x", "🎉", "a\u0301b"])
def test_pieces_of_bytes_join_to_the_text_and_cut_no_character(text):
    tokenizer = bytewise()
    ids = tokenizer.encode(text)
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == text.replace(" ", "").replace("é.", "é")
    assert len(pieces(tokenizer, ids[:-1])) == len(ids) - 1              # a character may be cut off


def test_the_heat_map_shades_every_slot_by_what_the_token_read_of_it():
    found = watched.loaded()
    seen = watched.seen(found, watched.row_of(found, segments=0))
    lines = heat_map(seen.live.trace, seen.row, seen.words).splitlines()
    shaded = [re.fullmatch(r" +(.*?)  \|(.*)\|  \|(.*)\|", line).groups() for line in lines if "|" in line]
    pad, shades = seen.row.pad, " ░▒▓█"
    assert pad
    assert [word for word, *_ in shaded] == seen.words[pad:]
    for s, places in enumerate(seen.live.trace.places):
        start = max(s * 16, pad)
        told = shaded[start - pad:(s + 1) * 16 - pad]
        for i, place in enumerate(places[:2]):
            read = place.read[0, :, start - s * 16:].max(0)
            expected = np.minimum(read / read.max() * 5, 4).astype(int)
            assert [[shades.index(c) for c in row[i + 1]] for row in told] == expected.tolist()
            named = f"block {i + 1} reads most: slot {read.mean(0).argmax() + 1} ({read.mean(0).max():.2f}), slot "
            assert sum(named in line for line in lines) >= 1
    assert sum(line.startswith("Segment ") for line in lines) == seen.row.segments


def test_a_heat_map_shows_what_there_is_and_nothing_that_steers_a_terminal():
    found = watched.loaded(memory_blocks=(1,))
    seen = watched.seen(found, watched.row_of(found))
    text = heat_map(seen.live.trace, seen.row, ["\x1b[31m", *seen.words[1:]])
    assert "\x1b" not in text
    assert "block 2" in text
    assert "block 1" not in text
    none = watched.loaded(memory="none")
    seen = watched.seen(none, watched.row_of(none))
    assert heat_map(seen.live.trace, seen.row, seen.words) == "This model has no memory to show.\n"


def test_a_memory_without_slots_shows_the_size_of_its_state_before_each_segment():
    found = watched.loaded(memory="rmt")
    seen = watched.seen(found, watched.row_of(found))
    *_, line, end = heat_map(seen.live.trace, seen.row, seen.words).split("\n")
    assert (line.startswith("segment M: "), end) == (True, "")
    sizes = [np.sqrt((places[-1].before["M"] ** 2).mean()) for places in seen.live.trace.places]
    assert line.removeprefix("segment M: ") == ", ".join(f"{size:.3f}" for size in sizes)
    window = watched.loaded(memory="window", memory_blocks=(1,))
    seen = watched.seen(window, watched.row_of(window))
    lines = heat_map(seen.live.trace, seen.row, seen.words).splitlines()[2:]
    assert [line.partition(":")[0] for line in lines] == ["block 2 k", "block 2 v"]
    assert lines[0].startswith("block 2 k: -, ")         # nothing is kept before the first segment


def test_ask_says_the_same_with_and_without_show(tmp_path, capsys):
    watched.save(tmp_path)
    question = ["ask", str(tmp_path), "Mary moved to the garden. John went to the office.", "Where is Mary?"]
    assert main(question) == 0
    said = capsys.readouterr().out
    assert main([*question, "--show"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("\n" + said)
    assert "Segment 1 of 1: mary moved to the garden john went to the office where is mary" in shown
    assert main([*question[:3], "Where is Gandalf?"]) == 2
    assert "found gandalf, expected words" in capsys.readouterr().err
