"""What is shown is what happened: traces equal the equations written out story by story, and change no result."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests import small, standin, watched
from tinylm2.__main__ import main
from tinylm2.cli.ask import heat_map
from tinylm2.data import TASKS, alone, bpe_tokenizer, encode_examples, generated_examples, word_tokenizer
from tinylm2.data.filler import GrammarFiller
from tinylm2.inspect.evaluate import ask_rows
from tinylm2.model import init_params, story_backward, story_forward
from tinylm2.inspect.trace import pieces, trace, watch

PARTS = ("read", "output", "write", "input", "forget", "before", "after")


# The model once more, one story and one head at a time, from docs/MODEL.md alone: whoever moves a cache meets it.


def norm(x, g):
    return g * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def turned(x, position):
    """Rotary positions: pair i of row r turns by position[r] / 10000^(2i/K)."""
    angle = np.asarray(position)[:, None] * 10_000.0 ** (-np.arange(0, x.shape[1], 2) / x.shape[1])
    y = np.empty_like(x)
    y[:, ::2] = x[:, ::2] * np.cos(angle) - x[:, 1::2] * np.sin(angle)
    y[:, 1::2] = x[:, ::2] * np.sin(angle) + x[:, 1::2] * np.cos(angle)
    return y


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def written_out(params, tokens, cfg, pad, frozen):
    """For one story, `[s][i]` -> {part: array} of block i in segment s, {} where there is no memory."""
    banks, story = [np.eye(cfg.N, cfg.D)] * cfg.L, []
    for start in range(0, len(tokens), cfg.T):
        x = params["embed.W"][tokens[start:start + cfg.T]] * np.sqrt(cfg.D)
        hidden = np.arange(len(x)) < (0 if start else pad)
        writes = start + cfg.T < len(tokens) and not frozen
        story.append([])
        for i in range(cfg.L):
            p = {name.split(".", 2)[2]: W for name, W in params.items() if name.startswith(f"blocks.{i}.")}
            x, banks[i], found = block(x, banks[i], p, cfg, cfg.memory_of(i), hidden, writes)
            story[-1].append(found)
    return story


def block(x, M, p, cfg, memory, hidden, writes):
    T, H, G, K = len(x), cfg.H, cfg.G, cfg.K
    n = norm(x, p["attn.g"])
    Wq, Wk, Wv = np.split(p["attn.Wqkv"], [H * K, (H + G) * K], axis=1)
    heads = [h * G // H for h in range(H)]               # the key head that head h asks
    ks = [turned((n @ Wk)[:, g * K:(g + 1) * K], np.arange(T)) for g in heads]
    vs = [(n @ Wv)[:, g * K:(g + 1) * K] for g in heads]
    unseen = (np.arange(T) > np.arange(T)[:, None]) | hidden & ~np.eye(T, dtype=bool)
    own = [softmax(np.where(unseen, -np.inf, turned((n @ Wq)[:, h * K:(h + 1) * K], np.arange(T)) @ ks[h].T / K**0.5))
           for h in range(H)]
    a = np.hstack([w @ v for w, v in zip(own, vs, strict=True)]) @ p["attn.Wo"]
    found = {}
    if memory != "none":
        Mn = norm(M, p["mem.g"])
        q, k, v = (y.reshape(-1, H, K) for y in (n @ p["mem.Wq"], Mn @ p["mem.Wk"], Mn @ p["mem.Wv"]))
        found["read"] = np.array([softmax(q[:, h] @ k[:, h].T / K**0.5) for h in range(H)])
        Emem = np.hstack([found["read"][h] @ v[:, h] for h in range(H)])
        found["output"] = sigmoid(Emem @ p["mem.Wout"] + p["mem.bout"])
        found["before"] = found["after"] = M
        if writes:
            found |= slots(M, ks, vs, p, cfg, hidden) if memory == "slots" else printed(M, n, Emem, p, cfg, hidden)
        a = a + found["output"] * Emem
        M = found["after"]
    x = x + a
    gate, up = np.split(norm(x, p["ff.g"]) @ p["ff.Wgu"], 2, axis=1)
    return x + (gate * sigmoid(gate) * up) @ p["ff.Wdown"], M, found


def slots(M, ks, vs, p, cfg, hidden):
    T, K, N = len(hidden), cfg.K, cfg.N
    asked = np.eye(N, cfg.D) * cfg.D**0.5 @ p["attn.Wqkv"]
    write = []
    for h in range(cfg.H):
        scores = turned(asked[:, h * K:(h + 1) * K], np.full(N, T)) @ ks[h].T / K**0.5
        write.append(softmax(np.where(hidden, -np.inf, scores)))
    R = np.hstack([w @ v for w, v in zip(write, vs, strict=True)]) @ p["attn.Wo"]
    gin = sigmoid(R @ p["mem.Win"] + p["mem.bin"])
    gforget = sigmoid(R @ p["mem.Wforget"] + p["mem.bforget"])
    return {"write": np.array(write), "input": gin, "forget": gforget, "after": gin * np.tanh(R) + gforget * M}


def printed(M, n, Emem, p, cfg, hidden):
    T, N = len(hidden), cfg.N
    pool = np.zeros((N, T))
    for r in range(N):
        real = [t for t in range(r * T // N, -(-(r + 1) * T // N)) if not hidden[t]]
        pool[r, real] = 1 / max(len(real), 1)
    gin, gforget = sigmoid(pool @ n @ p["mem.Win"]), sigmoid(pool @ Emem @ p["mem.Wforget"])
    after = gin * np.tanh(pool @ Emem) + gforget * M
    after = np.where(pool.any(-1, keepdims=True), after, M)
    return {"write": np.array([pool] * cfg.H), "input": gin, "forget": gforget, "after": after}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_a_trace_is_what_the_equations_say(cfg, padded, frozen):
    params, ids = small.params(cfg), small.ids(cfg, 3 * cfg.T - (cfg.T > 1))     # the last segment a token short
    pad = np.array([0, cfg.T // 2, cfg.T - 1]) if padded else None
    found = trace(params, ids=ids, cfg=cfg, pad=pad, frozen=frozen)
    for b, tokens in enumerate(ids):
        story = written_out(params, tokens, cfg, pad[b] if padded else 0, frozen)
        assert len(found.looks) == len(story) == 3
        for looks, blocks in zip(found.looks, story, strict=True):
            for look, expected in zip(looks, blocks, strict=True):
                assert {part for part in PARTS if getattr(look, part) is not None} == set(expected)
                for part, x in expected.items():
                    np.testing.assert_allclose(getattr(look, part)[b], x, rtol=0, atol=1e-12, err_msg=part)


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
    device = init_params(cfg, 0, xp=standin.xp, dtype="float64")
    device.buffer[...] = standin.xp.asarray(host.buffer)
    for frozen in (False, True):
        ones, others = (trace(params, ids=ids, cfg=cfg, pad=pad, frozen=frozen) for params in (host, device))
        assert np.array_equal(ones.logits, others.logits)
        for one, other in zip(ones.looks[0] + ones.looks[1], others.looks[0] + others.looks[1], strict=True):
            for part in PARTS:
                assert np.array_equal(getattr(one, part), getattr(other, part))


@pytest.mark.parametrize("frozen", [False, True])
def test_watching_a_question_gives_the_answer_that_asking_gives_and_its_probability(frozen):
    tokenizer = word_tokenizer()
    cfg = replace(small.CFG, V=tokenizer.size, T=32)
    params = init_params(cfg, 0)
    examples = generated_examples(TASKS["qa8"], 5, seed=0)
    rows, _ = encode_examples(examples, 0, tokenizer=tokenizer, filler=GrammarFiller(), width=32, seed=0, room=3)
    asked = ask_rows(params, rows, cfg=cfg, tokenizer=tokenizer, places=3, frozen=frozen)
    for row, text in zip(rows, asked, strict=True):
        reading = watch(params, row, cfg=cfg, tokenizer=tokenizer, places=3, frozen=frozen)
        assert reading.said == text
        assert reading.chances.shape == (len(reading.tokens), cfg.V)
        np.testing.assert_allclose(reading.chances.sum(-1), 1)
        assert reading.chances.argmax(-1).tolist() == reading.tokens
        assert len(reading.trace.looks) == row.segments


def test_an_answer_is_watched_up_to_its_end_and_no_further(monkeypatch):
    tokenizer = word_tokenizer()
    cfg = replace(small.CFG, V=tokenizer.size, T=32)
    row = alone(generated_examples(TASKS["qa1"], 1, seed=0)[0], tokenizer=tokenizer, width=32, room=4)
    word, end = 5, tokenizer.end
    for said, kept in (([word, end, end], [word, end]), ([end, end, end], [end]), ([word, word], [word, word])):
        monkeypatch.setattr("tinylm2.inspect.trace.answer", lambda *_, said=said, **__: np.array([said]))
        reading = watch(init_params(cfg, 0), row, cfg=cfg, tokenizer=tokenizer, places=3)
        assert (reading.tokens, reading.said) == (kept, tokenizer.decode(kept))
        assert reading.trace.logits.shape[1] == len(row.prompt) + len(kept) - 1
        assert reading.chances.shape == (len(kept), cfg.V)


@cache
def bytewise():
    return bpe_tokenizer(300)


@pytest.mark.parametrize("text", ["Mary <b>\"went\" 'to' the café. 🎉🎉 \ufffd x", "🎉", "a\u0301b"])
def test_pieces_of_bytes_join_to_the_text_and_cut_no_character(text):
    tokenizer = bytewise()
    ids = tokenizer.encode(text)
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == text.replace(" ", "")
    assert len(pieces(tokenizer, ids[:-1])) == len(ids) - 1              # a character may be cut off


def test_the_heat_map_shades_every_slot_by_what_the_token_read_of_it():
    found = watched.loaded()
    seen = watched.seen(found, watched.row_of(found, segments=0))
    lines = heat_map(seen.live.trace, seen.row, seen.words).splitlines()
    shaded = [re.fullmatch(r" +(.*?)  \|(.*)\|  \|(.*)\|", line).groups() for line in lines if "|" in line]
    pad, shades = seen.row.pad, " ░▒▓█"
    assert pad
    assert [word for word, *_ in shaded] == seen.words[pad:]
    for s, looks in enumerate(seen.live.trace.looks):
        start = max(s * 16, pad)
        told = shaded[start - pad:(s + 1) * 16 - pad]
        for i, look in enumerate(looks):
            read = look.read[0, :, start - s * 16:].max(0)
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
