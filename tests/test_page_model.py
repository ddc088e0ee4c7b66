"""The model of the page, in JavaScript, equals the model in Python: words, layout, probabilities, maps and gates.

Stories are told, changed and operated on in a real Chromium, with the page's own functions; what the page then shows is
compared with what Python computes of the same tokens. Plain pytest takes some dozens of stories,
`python -m tests.full page` takes 200.
"""

import random
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support import watched
from tinylm2 import layers
from tinylm2.data import EVALUATION, TASKS, GrammarFiller, Rng, examples, insert_in_haystack, without_filler
from tinylm2.flat import Flat
from tinylm2.inspect import explore
from tinylm2.inspect.trace import _place, traced_answer
from tinylm2.memories import lm2
from tinylm2.model import block_forward, first_states, params_of
from tinylm2.ops import Attended, embedding_forward, linear_forward, rmsnorm_forward, sigmoid_forward
from tutorials.lesson import trained

CLOSE = 1e-4                                             # to Python in float32, where a run is trained
EXACT = 1e-6                                             # to Python in float64 with the same weights, in every model
TASK_NAMES = ("qa1", "qa2", "qa3", "qa6", "qa8", "qa11")
SHOW = """
    const [change, done] = [arguments[0], (x) => x];
    story = copy(asTold); operations = [];
    if (change.sentences) Object.assign(story, change);
    for (const [kind, ...with_] of change.edits ?? []) {
        const facts = story.sentences.filter(isFact), fact = facts[with_[0] % facts.length];
        if (kind === "move") moveSentence(story, story.sentences.indexOf(fact), with_[1], setting);
        if (kind === "lengthen") lengthen(story, with_[1], setting);
        if (kind === "remove" && facts.length > 1) story.sentences.splice(story.sentences.indexOf(fact), 1);
        if (kind === "say") fact.text = with_[1];
        if (kind === "ask") story.question = with_[1];
    }
    operations = change.operations ?? [];
    if (!compute()) return { problem: document.querySelector("#problem").textContent };
    const now = reading(operate(operations));
    const frozen = answer(model, laid.ids, firstBanks(model), { ...setting, pad: laid.pad }, FROZEN);
    return done({
        story, ids: laid.ids, pad: laid.pad, tokens: now.tokens, chances: now.chances.map((c) => [...c]),
        frozenChances: frozen.chances.map((c) => [...c]), said: shown.answers.map(([, answer]) => answer.said),
        looks: range(shown.S).map((s) => range(data.L).map((block) => shown.look(s, block))),
        frozen: range(shown.S).map((s) => range(data.L).map((block) => shown.frozen(s, block) ?? null)),
    });"""


try:
    from selenium.common.exceptions import JavascriptException
except ImportError:                                      # then every test here is skipped
    JavascriptException = AssertionError


def models():
    """Name -> (what `trained` and `run_dir.new` give, how many tokens an answer may take)."""
    learned = trained("lm2")
    learned = SimpleNamespace(cfg=learned.cfg, params=learned.params, tokenizer=learned.tokenizer,
                              filler=GrammarFiller())
    return {
        "trained": (learned, 1),
        "trained, long answers": (learned, 3),
        "lm2": (watched.loaded(), 2),
        "grouped heads, tied": (watched.loaded(H=4, G=2, tied=True), 2),
        "one block of three": (watched.loaded(L=3, memory_blocks=(1,)), 1),
        "more slots than tokens": (watched.loaded(T=12, N=14), 1),
        "pooled write": (watched.loaded(memory="pooled"), 2),
        "pooled, more slots than tokens": (watched.loaded(memory="pooled", T=12, N=14), 1),
        "no memory": (watched.loaded(memory="none"), 2),
    }


def open_page(tab, found, answer_len, seed=3, segments=4):
    """The page of one story of the run, open in the browser."""
    story = list(examples(TASKS["qa1"].story(Rng(seed, EVALUATION, 1, 0)), "qa1"))
    row = insert_in_haystack(story[0], Rng(seed, EVALUATION, 0, 0), tokenizer=found.tokenizer, filler=found.filler,
                             segments=segments, segment_len=found.cfg.T, answer_len=answer_len)
    live, frozen = (traced_answer(found.params, row, cfg=found.cfg, tokenizer=found.tokenizer, answer_len=answer_len,
                                  frozen=frozen) for frozen in (False, True))
    tab.size(1280)
    tab.open(explore.page(row, live, frozen, cfg=found.cfg, tokenizer=found.tokenizer, params=found.params,
                          filler=found.filler, answer_len=answer_len))
    assert tab.run("return laid.ids") == row.prompt


# ---------------------------------------------------------------------------------------------- operations, in Python


@contextmanager
def replaced(*functions):
    """(module, name, function): functions of modules replaced for a moment."""
    kept = [(module, name, getattr(module, name)) for module, name, _ in functions]
    try:
        for module, name, function in functions:
            setattr(module, name, function)
        yield
    finally:
        for module, name, function in kept:
            setattr(module, name, function)


def interfering(operations, cfg):
    """Replacements of what `block_forward` and its memory call that carry the operations of one block out.

    A slot that is off is taken out of the bank before it is read; a gate that is held is set where the gates are used.
    """
    off = [o["slot"] for o in operations if o["do"] == "off"]
    held = {o["name"]: o["value"] for o in operations if o["do"] == "gate"}
    kept = [n for n in range(cfg.N) if n not in off]
    forward = lm2.cross_attention_forward

    def read(n, Mn, *args, **named):
        if not kept:                                     # nothing to read is nothing read
            P, y = np.zeros((1, cfg.H, cfg.N, n.shape[1]), n.dtype), n.reshape(1, -1, cfg.H, cfg.K)
            return np.zeros_like(n), {"attend": Attended(None, None, None, P, y)}
        Emem, cache = forward(n, Mn[:, kept], *args, **named)
        P = cache["attend"].P                            # (1, H, slots, T)
        whole = np.zeros((*P.shape[:2], cfg.N, P.shape[3]), P.dtype)     # a slot that is off has the weight 0
        whole[:, :, kept] = P
        return Emem, cache | {"attend": cache["attend"]._replace(P=whole)}

    def output_gate(x, a, Emem, Wout, bout):
        gout = sigmoid_forward(Emem @ Wout + bout)[0] if "output" not in held else np.full_like(Emem, held["output"])
        return x + a + gout * Emem, {"gout": gout}

    def gated_sum(zin, zforget, R, M):
        gin = sigmoid_forward(zin)[0] if "input" not in held else np.full_like(R, held["input"])
        gforget = sigmoid_forward(zforget)[0] if "forget" not in held else np.full_like(R, held["forget"])
        return gin * np.tanh(R) + gforget * M, {"gin": gin, "gforget": gforget}

    return ((lm2, "cross_attention_forward", read), (layers, "output_gate_forward", output_gate),
            (lm2, "gated_sum_forward", gated_sum))


def operated(run, ids, pad, operations):
    """Read a story with operations -> places[s][block] and the logits of the last token."""
    params, cfg = run.params, run.cfg
    states, found, starts = list(first_states(params, cfg, 1)[0]), [], range(0, len(ids), cfg.T)
    for s, start in enumerate(starts):
        x, _ = embedding_forward(params["embed.W"], ids=np.array([ids[start:start + cfg.T]]))
        x = x * cfg.D**0.5
        found.append([])
        for i, memory in enumerate(cfg.memories[:cfg.L]):
            before = states[i]
            mine = [o for o in operations if o["block"] in (None, i)]
            for o in mine:
                if before is not None and o["do"] == "swap" and o["from"] == s:
                    order = np.arange(cfg.N)
                    order[[o["slot"], o["other"]]] = o["other"], o["slot"]
                    before = (before[0][:, order],)
            write = start != starts[-1] and not any(o["do"] == "freeze" and s >= o["from"] for o in mine)
            with replaced(*interfering(mine, cfg)):
                x, states[i], cache = block_forward(
                    x, before, params_of(params, cfg, i), cfg=cfg, memory=memory, write=write,
                    pad=np.array([pad]) if s == 0 and pad else None)
            found[-1].append(_place(memory, cache, before, states[i], cfg))
    x, _ = rmsnorm_forward(x, params["norm.g"])
    return found, linear_forward(x, params["embed.W"].T if cfg.tied else params["head.W"])[0][0, -1]


def probabilities(logits):
    odds = np.exp(logits.astype(np.float64) - logits.max())
    return odds / odds.sum()


# ------------------------------------------------------------------------------------------------ stories and changes


def told(found, answer_len, rng, seed):
    """(sentences, question, filled, row) of a fresh story: in filler, or alone with padding before it."""
    name = rng.choice(TASK_NAMES)
    story = list(examples(TASKS[name].story(Rng(seed, EVALUATION, TASKS[name].number, 0)), name))
    example = replace(rng.choice(story[:4]), answer="garden")
    T, question = found.cfg.T, found.tokenizer.encode(example.question)
    if len(question) + answer_len > T:
        return told(found, answer_len, rng, seed + 1000)
    row = None
    if rng.random() < 0.7:
        row = insert_in_haystack(example, Rng(seed, EVALUATION, 0, 1), tokenizer=found.tokenizer, filler=found.filler,
                                 segments=rng.randint(1, 16), segment_len=T, answer_len=answer_len)
    row = row or without_filler(example, tokenizer=found.tokenizer, segment_len=T, answer_len=answer_len)
    sentences, opener = explore._sentences(row, found.tokenizer, found.filler)
    return [{"text": text, "kind": kind} for text, kind in sentences], example.question, bool(opener), row


def some_edits(rng):
    place, person = rng.choice(("garden", "office", "kitchen")), rng.choice(("Mary", "John", "Sandra"))
    edits = [["move", rng.randrange(9), rng.choice((-1, 1))], ["lengthen", 0, rng.choice((-1, 1))],
             ["remove", rng.randrange(9)], ["say", rng.randrange(9), f"{person} moved to the {place}!"],
             ["ask", 0, f"Where is {person}?"]]
    return rng.sample(edits, rng.randint(0, 3))


def some_operations(rng, cfg, segments):
    def block():
        return rng.choice((None, *range(cfg.L)))

    def slot():
        return rng.randrange(cfg.N)

    first, other = rng.sample(range(cfg.N), 2)
    operations = [{"do": "off", "block": block(), "slot": slot()}, {"do": "off", "block": block(), "slot": slot()},
                  {"do": "swap", "block": block(), "slot": first, "other": other, "from": rng.randrange(segments)},
                  {"do": "freeze", "block": block(), "from": rng.randrange(segments)},
                  {"do": "gate", "block": block(), "name": rng.choice(("output", "input", "forget")),
                   "value": rng.randrange(2)}]
    return rng.sample(operations, rng.choice((0, 1, 2, 3)))


def difference(page, expected, frozen=False):
    """The largest difference between what the page shows and the PlaceTraces of Python, segment by segment."""
    worst = 0.0
    for shown, places in zip(page, expected, strict=True):
        for mine, place in zip(shown, places[:len(shown)], strict=True):
            if place.read is None:
                assert mine is None
                continue
            pairs = [(mine, place.read[0])] if frozen else [(mine["read"], place.read[0])]
            if not frozen:
                pairs.append((mine["write"], None if place.write is None else place.write[0]))
                for name in ("output", "input", "forget"):
                    gate = getattr(place, name)
                    pairs.append((mine[name], None if gate is None else gate[0].mean(-1)))
            for found, wanted in pairs:
                assert (found is None) == (wanted is None)
                if wanted is not None:
                    found = np.array(found)
                    assert found.shape == wanted.shape
                    worst = max(worst, np.abs(found - wanted).max())
    return worst


def wide(found):
    """The same run in float64: rounding then hides nothing, and random weights cannot blow it up."""
    return SimpleNamespace(cfg=found.cfg, tokenizer=found.tokenizer, params=Flat(
        found.params.shapes, np, "float64", found.params.buffer.astype("float64")))


def compare(found, answer_len, page, operations):
    """The largest difference between all that the page shows and what Python computes of the same story."""
    story, ids, pad = page["story"], page["ids"], page["pad"]
    words = [token for text in [*(line["text"] for line in story["sentences"]), story["question"]]
             for token in found.tokenizer.encode(text)]
    assert ids[len(ids) - len(words):] == words
    assert (len(ids) + answer_len) % found.cfg.T == 0
    assert ids[:pad] == [found.tokenizer.pad] * pad
    assert pad < found.cfg.T
    worst, tokens = 0.0, []
    for token, odds in zip(page["tokens"], page["chances"], strict=True):
        places, logits = operated(found, ids + tokens, pad, operations)
        worst = max(worst, np.abs(probabilities(logits) - odds).max())
        assert odds[token] == max(odds)
        tokens.append(token)
    assert len(tokens) == answer_len or tokens[-1] == found.tokenizer.end
    worst = max(worst, difference(page["looks"], places))
    row = SimpleNamespace(prompt=ids, pad=pad)
    if not operations:                                          # then it must be what the library itself answers
        live = traced_answer(found.params, row, cfg=found.cfg, tokenizer=found.tokenizer, answer_len=answer_len)
        assert (live.tokens, live.text) == (page["tokens"], page["said"][0])
        worst = max(worst, np.abs(live.probs - page["chances"]).max(), difference(page["looks"], live.trace.places))
    frozen = traced_answer(found.params, row, cfg=found.cfg, tokenizer=found.tokenizer, answer_len=answer_len,
                           frozen=True)
    assert frozen.text == page["said"][-1]
    worst = max(worst, np.abs(frozen.probs - page["frozenChances"]).max())
    return max(worst, difference(page["frozen"], frozen.trace.places, frozen=True))


def parity(tab, count, seed=0, names=None, show=lambda line: None):
    """Compare `count` random stories, each with edits and operations, over all models. -> the largest differences from
    Python in float32 (trained runs alone) and in float64"""
    rng, worst, done = random.Random(seed), [0.0, 0.0], 0
    chosen = {name: given for name, given in models().items() if names is None or name in names}
    for m, (name, (found, answer_len)) in enumerate(chosen.items()):
        open_page(tab, found, answer_len)
        for _ in range(count // len(chosen) + (m < count % len(chosen))):
            done += 1
            sentences, question, filled, row = told(found, answer_len, rng, seed=1000 * seed + done)
            change = {"sentences": sentences, "question": question, "filled": filled, "edits": some_edits(rng),
                      "operations": some_operations(rng, found.cfg, row.segments)}
            if not change["edits"] and not filled:
                assert tab.run("return layOut(arguments[0], setting).ids", change) == row.prompt
            page = tab.run(SHOW, change)
            assert "problem" not in page, (page, change)
            for i, (run, most) in enumerate(((found, CLOSE), (wide(found), EXACT))):
                if run is found and not name.startswith("trained"):
                    continue
                off = compare(run, answer_len, page, change["operations"])
                assert off < most, f"{name}: {off:.1e} off after {change['edits']} and {change['operations']}"
                worst[i] = max(worst[i], off)
        show(f"{name}: {done} stories, so far at most {worst[0]:.1e} from float32, {worst[1]:.1e} from float64")
    return worst


# ----------------------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("name", models())
def test_the_page_computes_what_python_computes(tab, name):
    assert parity(tab, 6, seed=len(name), names=[name])[1] > 0


PLANTED = [
    ("model.js", "x.cols + 1e-5", "x.cols + 1e-3", "trained"),
    ("model.js", "10000 ** (-i / K)", "1000 ** (-i / K)", "trained"),
    ("model.js", "- x.v[j + 1] * sin", "+ x.v[j + 1] * sin", "trained"),
    ("model.js", "Math.floor((h * G) / H)", "(h % G)", "grouped heads, tied"),
    ("model.js", "score / Math.sqrt(K)", "score / K", "trained"),
    ("model.js", "u < pad && u !== t", "false", "trained"),
    ("model.js", "(slot, t) => t < pad", "() => false", "trained"),
    ("model.js", "() => k.rows);", "() => k.rows - 1);", "trained"),
    ("model.js", "a * Math.sqrt(D)), K", "a), K", "trained"),
    ("model.js", "input.v[i] * Math.tanh(R.v[i])", "input.v[i] * R.v[i]", "trained"),
    ("model.js", "if (!rowOf(pool, r).some((a) => a)) rowOf(after, r)", "if (false) rowOf(after, r)", "pooled write"),
    ("model.js", "Math.ceil(((r + 1) * T) / N)", "Math.floor(((r + 1) * T) / N)", "pooled write"),
    ("model.js", "idle ? null : each(Emem, (e, i) => output.v[i] * e)", "Emem", "trained"),
    ("model.js", "[...ids.slice(start), ...tokens]", "ids.slice(start)", "trained, long answers"),
    ("model.js", "map((o) => o.slot)", "map((o) => o.slot + 1)", "trained"),
    ("model.js", "at.segment >= o.from", "at.segment > o.from", "trained"),
    ("model.js", "o.from === at.segment", "o.from === at.segment + 1", "trained"),
    ("model.js", "=> o.value), values)", "=> 1 - o.value), values)", "trained"),
    ("model.js", "Uint8Array.from(atob(weights)", "Uint8Array.from(atob(weights.slice(4))", "trained"),
    ("story.js", "slice(-missing)", "slice(0, missing)", "trained"),
    ("story.js", "letter.toLowerCase()", "letter", "trained"),
    ("change.js", "means(found.input)", "means(found.forget)", "trained"),
    ("change.js", "pad: s ? 0 : laid.pad, last: false", "pad: 0, last: false", "trained"),
]


@pytest.mark.parametrize(("file", "right", "wrong", "name"), PLANTED, ids=[plant[1] for plant in PLANTED])
def test_an_error_in_the_page_is_found(tab, monkeypatch, file, right, wrong, name):
    part = explore._part
    assert part(file).count(right) == 1
    monkeypatch.setattr(explore, "_part", lambda one: part(one).replace(right, wrong) if one == file else part(one))
    with pytest.raises((AssertionError, ValueError, JavascriptException)):
        parity(tab, 12, names=[name])
    tab.complaints()


def test_with_every_slot_off_nothing_is_read(tab):
    found, answer_len = models()["trained"]
    open_page(tab, found, answer_len)
    off = [{"do": "off", "block": None, "slot": n} for n in range(found.cfg.N)]
    page = tab.run(SHOW, {"operations": off})
    assert compare(found, answer_len, page, off) < CLOSE
    assert np.max(page["looks"][0][0]["read"]) == 0


def test_words_are_cut_as_the_tokenizer_cuts_them(tab):
    found, answer_len = models()["trained"]
    open_page(tab, found, answer_len)
    rng, ranges = random.Random(0), ((32, 127), (160, 0x24F), (0x370, 0x52F), (0x5D0, 0x6FF), (0x900, 0x97F),
                                     (0x2000, 0x206F), (0x2150, 0x218F), (0x3040, 0x30FF), (0x4E00, 0x4E20),
                                     (0xFF00, 0xFF5F), (0x1F130, 0x1F340), (0x2460, 0x24FF))
    texts = ["Mary's [end] [pad] e-mail_1 GARDEN,milk  Mary\u2019s", "\u0130stanbul \u212a \u03a3\u0391\u03a3 \ufb01n"]
    texts += [" ".join("".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 9)))
                       for _ in range(20)) for _ in range(300)]
    library = found.tokenizer._library
    for text, words in zip(texts, tab.run("return arguments[0].map(wordsOf)", texts), strict=True):
        normal = library.normalizer.normalize_str(text)
        assert words == [word for word, _ in library.pre_tokenizer.pre_tokenize_str(normal)], ascii(text)


def test_a_link_holds_the_story_the_operations_and_the_place(tab):
    found, answer_len = models()["trained"]
    open_page(tab, found, answer_len)
    rng = random.Random(1)
    there_and_back = """
        const [story, operations, at] = arguments, size = { L: data.L, H: data.H, N: data.N };
        return fromLink(toLink(story, operations, at), size);"""
    for seed in range(20):
        sentences, question, filled, row = told(found, answer_len, rng, seed)
        sentences[0]["text"] = "a &#%+=~_.\u2028\N{PARTY POPPER} 100 % <b>"
        story = {"sentences": [line | {"kind": line["kind"].replace("support", "fact")} for line in sentences],
                 "question": question, "filled": filled}
        operations = some_operations(rng, found.cfg, row.segments)
        place = {"segment": 2, "block": 1, "head": 0, "slot": rng.choice((None, 5))}
        assert tab.run(there_and_back, story, operations, place) == {
            "story": story, "operations": operations, "at": place}


@pytest.mark.parametrize("link", [
    "", "#", "at=0.0.0", "at=99999.9.9.9", "do=off.all.0", "do=off.9.1_off.all.17", "do=gate.1.x.open", "story=x",
    "do=freeze.all.-1_swap.1.1.2", "story=%FF%00&ask=", "ask=Where", "%", "do=" + "_".join(["off.all.1x"] * 99),
    "at=1e9.1.1.1", "do=__proto__"])
def test_a_link_that_makes_no_sense_changes_nothing(tab, link):
    found, answer_len = models()["trained"]
    open_page(tab, found, answer_len)
    said = tab.run("return document.querySelector('#answers').innerText")
    tab.run("location.hash = arguments[0]; location.reload()", link)
    assert tab.run("return [document.querySelector('#answers').innerText, operations.length]") == [said, 0]
    assert tab.complaints() == []
