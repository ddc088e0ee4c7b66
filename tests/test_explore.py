"""The page in a real Chromium: it steps, shows the trace's numbers, stays quiet, and takes any text for text."""

import re
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support import watched
from tinylm2.__main__ import main
from tinylm2.data import EVALUATION, TASKS, BadInput, Example, Rng, examples, insert_in_haystack
from tinylm2.inspect import explore
from tinylm2.inspect.trace import traced_answer
from tinylm2.memories import lm2
from tinylm2.training import run_dir

CLOSE = 6e-4                                             # three digits shown of four that are in the page
HOSTILE = Example("", ("Mary <script>window.hacked=1</script> went to the \"garden\".",
                       "It's </script><!-- <img src=x onerror='window.hacked=2'> {{data}} & \u2028 🎉."),
                  "Where is \"Mary\" 🎉?", "<b>garden</b>", (0,))
SHOWN = """
    const text = (node) => node.innerText.trim(), all = (selector) => [...document.querySelectorAll(selector)];
    return {
        where: text(document.querySelector("#where")), tokens: all(".token").map(text),
        status: text(document.querySelector("#status")), gate: text(document.querySelector("#gate")),
        slots: all("#slots tbody tr").map((row) => [...row.cells].slice(1).map(text)),
        strips: all("#reads .strip").map((strip) => [...strip.children].map((cell) => cell.title)),
        life: all(".columns[role]").map((columns) => columns.getAttribute("aria-label")),
        wrote: all(".token").map((token) => token.style.getPropertyValue("--wrote")),
        reads: all(".token").map((token) => token.style.getPropertyValue("--reads")),
        pressed: all("[aria-pressed=true]").map((b) => b.ariaLabel || text(b)),
    };"""
TEXTS = """
    const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const range = document.createRange(), parent = walker.currentNode.parentElement;
        range.selectNodeContents(walker.currentNode);
        const boxes = [...range.getClientRects()].filter((box) => box.width > 0 && box.height > 0);
        if (walker.currentNode.data.trim() && boxes.length) texts.push([walker.currentNode.data.trim(), boxes, parent]);
    }"""
OVERLAPS = TEXTS + """
    const cut = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
    const found = [];
    texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([other, b]) => {
        if (a.some((x) => b.some((y) => cut(x, y)))) found.push([one, other]);
    }));
    return found.concat(texts.filter(([, boxes]) => boxes.some((b) => b.right > innerWidth || b.left < 0))
        .map(([text]) => text));"""
FAINT = TEXTS + """
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    const over = (colors) => {                           // the first one at the back
        pen.clearRect(0, 0, 1, 1);
        for (const color of colors) { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); }
        return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((c) => c / 255);
    };
    const light = (rgb) => rgb.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    return texts.map(([text, , node]) => {
        const behind = [];
        for (let up = node; up; up = up.parentElement) behind.unshift(getComputedStyle(up).backgroundColor);
        const [a, b] = [light(over(behind)), light(over([...behind, getComputedStyle(node).color]))];
        return [text, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    }).filter(([, contrast]) => contrast < 4.5);"""


@pytest.fixture(autouse=True)
def quiet(request):
    """No test leaves a word on the console or a request to the network behind."""
    yield
    if "tab" in request.fixturenames:
        tab = request.getfixturevalue("tab")
        assert tab.complaints() == []
        assert tab.requests() == []


@pytest.fixture(scope="module")
def seen():
    found = watched.loaded()
    return watched.seen(found, watched.row_of(found))


@pytest.fixture(params=["computed", "recorded"])
def params(request):
    """Whether the page computes what it shows, from the run's weights, or shows what Python computed."""
    return (lambda found: found.params) if request.param == "computed" else lambda found: None


def page(found, seen, about="", params=lambda found: found.params, answer_len=1):
    return explore.page(seen.row, seen.live, seen.frozen, cfg=found.cfg, tokenizer=found.tokenizer, about=about,
                        params=params(found), filler=found.filler, answer_len=answer_len)


def show(tab, found, seen, width=1280, dark=False, about="", params=lambda found: found.params, answer_len=1):
    tab.size(width, dark=dark)
    tab.open(page(found, seen, about, params, answer_len))


def numbers(texts):
    """The numbers with a point in texts, one list a text."""
    return [[float(n) for n in re.findall(r"\d\.\d{3}", text)] for text in texts]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


def test_it_steps_forward_and_back_by_key_and_by_button(tab, seen, params):
    from selenium.webdriver.common.keys import Keys

    show(tab, watched.loaded(), seen, params=params)
    segments = [seen.words[start:start + 16] for start in range(0, len(seen.words), 16)]

    def at(s):
        shown = tab.run(SHOWN)
        assert shown["where"] == f"Segment {s + 1} of 4"
        assert shown["tokens"] == segments[s]

    at(0)
    tab.press(Keys.ARROW_LEFT)
    at(0)
    for s in (1, 2, 3, 3):
        tab.press(Keys.ARROW_RIGHT)
        at(s)
    for s in (2, 1, 0):
        tab.click("#back")
        at(s)
    tab.click("#next")
    at(1)
    tab.click("#segments button:nth-child(4)")
    at(3)
    assert tab.run("return [document.querySelector('#back').disabled, document.querySelector('#next').disabled]") == [
        False, True]
    tab.press(Keys.ARROW_LEFT)
    at(2)


def test_the_weights_and_gates_shown_equal_the_trace_in_every_segment_block_and_head(tab, seen, params):
    show(tab, watched.loaded(), seen, params=params)
    for s, places in enumerate(seen.live.trace.places):
        tab.click(f"#segments button:nth-child({s + 1})")
        tab.press("t")
        for block, look in enumerate(places[:2]):
            tab.click(f"#blocks button:nth-of-type({block + 1})")
            for head in range(2):
                tab.click(f"#heads button:nth-of-type({head + 1})")
                shown = tab.run(SHOWN)
                columns = [look.read[0, head, 0]]
                if s < 3:
                    columns += [look.input[0].mean(-1), look.forget[0].mean(-1)]
                for column, expected in enumerate(columns):
                    close([float(row[column]) for row in shown["slots"]], expected)
                close(numbers([shown["gate"]])[0], [look.output[0, 0].mean()])
        rows = [trace.places[s][block].read[0, head, 0] for block in range(2) for head in range(2)
                for trace in (seen.live.trace, seen.frozen.trace)]
        close([sum(numbers(cells), []) for cells in shown["strips"]], rows)
    assert all(row[1:] == ["–", "–"] for row in shown["slots"])


def test_without_a_token_the_mean_over_the_words_of_the_segment_is_shown(tab, seen, params):
    found = watched.loaded()
    for story in (seen, watched.seen(found, watched.row_of(found, segments=0))):
        show(tab, found, story, params=params)
        look, pad = story.live.trace.places[0][1], story.row.pad         # the last block with a memory comes first
        shown = tab.run(SHOWN)
        assert shown["tokens"] == story.words[pad:16]
        close([float(row[0]) for row in shown["slots"]], look.read[0, 0, pad:].mean(0))
        close(numbers([shown["gate"]])[0], [look.output[0, pad:].mean()])
    assert pad


def test_pointing_at_a_token_shows_what_it_reads_and_at_a_slot_from_which_tokens_it_wrote(tab, seen, params):
    show(tab, watched.loaded(), seen, params=params)
    look = seen.live.trace.places[0][1]
    tab.press("h")
    tab.hover(".token:nth-of-type(5)")
    shown = tab.run(SHOWN)
    close([float(row[0]) for row in shown["slots"]], look.read[0, 1, 4])
    strongest = np.argsort(-look.read[0, 1, 4])[:4]
    assert [int(n) - 1 for n in re.findall(r"slot (\d+)", shown["status"])] == strongest.tolist()
    tab.hover("#slots tbody tr:nth-child(3) td")
    shown = tab.run(SHOWN)
    wrote = look.write[0, 1, 2]
    close([float(w) for w in shown["wrote"]], wrote / wrote.max())
    close([float(w) for w in shown["reads"]], look.read[0, 1, :, 2])
    strongest = np.argsort(-wrote)[:4]
    assert re.findall(r"“(.*?)”", shown["status"]) == [seen.words[t] for t in strongest]
    close(numbers([shown["status"]])[0], wrote[strongest])
    tab.hover("h1")
    shown = tab.run(SHOWN)
    assert set(shown["wrote"] + shown["reads"]) == {"0"}
    close([float(row[0]) for row in shown["slots"]], look.read[0, 1].mean(0))


def test_a_held_slot_is_followed_through_the_story(tab, seen, params):
    from selenium.webdriver.common.keys import Keys

    show(tab, watched.loaded(), seen, params=params)
    tab.click("#slots tbody tr:nth-child(4) button")
    tab.press(Keys.ARROW_RIGHT)
    tab.hover("h1")
    shown = tab.run(SHOWN)
    assert "slot 4" in shown["pressed"]
    block = [places[1] for places in seen.live.trace.places]
    for label, expected in zip(shown["life"], (
            [place.input[0, 3].mean() for place in block[:-1]], [place.forget[0, 3].mean() for place in block[:-1]],
            [place.read[0, 0, :, 3].max() for place in block]), strict=True):
        close(numbers([label])[0], expected)


def test_every_key_does_what_its_help_text_says(tab, seen, params):
    from selenium.webdriver.common.keys import Keys

    show(tab, watched.loaded(), seen, params=params)

    def pressed():
        return tab.run(SHOWN)["pressed"][:2] + tab.run(
            "return [document.querySelector('.token[aria-pressed=true]'), document.querySelector('#slots "
            "[aria-pressed=true]')].map((b) => b && b.innerText.trim())")

    assert pressed() == ["block 2", "head 1", None, None]
    tab.press("b", "h", "t", "t", "s")
    assert pressed() == ["block 1", "head 2", seen.words[1], "1"]
    tab.press(Keys.SHIFT + "BHTS" + Keys.NULL)
    assert pressed() == ["block 2", "head 1", seen.words[0], "6"]
    tab.press(Keys.ESCAPE)
    assert pressed() == ["block 2", "head 1", None, None]
    tab.press("?")
    assert tab.run("return document.querySelector('dialog').open")
    tab.press("b")                                       # under an open help nothing moves
    assert pressed()[0] == "block 2"
    named = tab.run("return [...document.querySelectorAll('dialog dt')].map((dt) => dt.innerText.split(/\\s+/)).flat()")
    assert named == ["←", "→", "b", "h", "t", "s", "Shift", "Esc", "?"]
    tab.press(Keys.ESCAPE)
    assert not tab.run("return document.querySelector('dialog').open")


def test_the_answers_stand_side_by_side_with_their_probabilities(tab, seen, params):
    found = watched.loaded()
    show(tab, found, seen, params=params)
    columns = tab.run("return [...document.querySelectorAll('#answers > div')].map((column) => ["
                      "column.querySelector('.said').innerText, [...column.querySelectorAll('li')].map("
                      "(li) => [...li.children].map((child) => child.innerText.trim()))])")
    for (said, words), answer in zip(columns, (seen.live, seen.frozen), strict=True):
        correct = answer.text == seen.row.example.answer
        assert said == f"{answer.text or '(nothing)'} {'✓ right' if correct else '✗ wrong'}"
        close([float(prob) for _, prob in words], np.sort(answer.probs[0])[:-6:-1])
        assert words[0][0] == found.tokenizer.decode(answer.tokens[:1])


def test_the_facts_that_the_answer_needs_and_the_question_are_marked(tab, seen, params):
    show(tab, watched.loaded(), seen, params=params)
    start, end = seen.row.support[0]
    supports, questions = [], []
    for s in range(4):
        tab.click(f"#segments button:nth-child({s + 1})")
        for kind, marked in (("support", supports), ("question", questions)):
            marked += [s * 16 + i for i in tab.run(
                "return [...document.querySelectorAll('.token')].flatMap((token, i) => "
                "token.classList.contains(arguments[0]) ? [i] : [])", kind)]
    assert supports == list(range(start, end))
    assert questions == list(range(seen.row.asked, len(seen.words)))
    labels = tab.run("return [...document.querySelectorAll('#segments button')].map((b) => b.ariaLabel)")
    told = {t // 16 for t in range(start, end)}
    assert [s for s, label in enumerate(labels) if "fact" in label] == sorted(told)
    assert [s for s, label in enumerate(labels) if "question" in label] == [3]


def test_hostile_text_shows_as_text(tab):
    found = run_dir.new(replace(watched.SETTINGS, tokenizer="bpe", vocab=300, segment=128))
    hostile = watched.own(found, HOSTILE, 16)
    show(tab, found, hostile, about=HOSTILE.facts[0] + HOSTILE.facts[1])
    shown, told = "", ""
    tab.click("#segments button")                        # it opens where the fact is told
    for _ in range(hostile.row.segments):
        shown += "".join(token.replace("·", "") for token in tab.run(SHOWN)["tokens"])
        tab.click("#next") if tab.run("return !document.querySelector('#next').disabled") else None
    told = " ".join([*HOSTILE.facts, HOSTILE.question])
    assert shown == re.sub(r"[.?!]+(?=\s|$)|\s", "", told)      # byte-level pairs drop the ends of sentences
    assert tab.run("return document.querySelector('#about').textContent") == HOSTILE.facts[0] + HOSTILE.facts[1]
    assert "<b>garden</b>" in tab.run("return document.querySelector('#truth').textContent")
    assert tab.run("return [window.hacked === undefined, document.scripts.length, document.images.length, "
                   "document.querySelectorAll('main b.support').length]") == [True, 2, 0, 1]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_at_every_width_nothing_overlaps_or_reaches_over_the_edge_and_every_word_stands_out(
        tab, seen, params, width, dark):
    show(tab, watched.loaded(), seen, width=width, dark=dark, about="a_long_name_without_any_blank" * 9, params=params)
    assert tab.run("return document.documentElement.dataset.theme") == ("dark" if dark else "light")
    told = (seen.row.support[0][1] - 1) // 16
    for s, keys in ((0, ""), (told, "tts"), (3, "ts")):
        tab.run("document.querySelectorAll('#segments button')[arguments[0]].click()", s)
        tab.press(*keys)
        assert tab.run("return document.documentElement.scrollWidth") <= width
        assert tab.run(OVERLAPS) == []
        assert tab.run(FAINT) == []
    tab.press("?")
    assert tab.run(FAINT) == []


def test_a_word_on_the_console_and_a_request_would_be_seen(tab, seen):
    tab.open("<img src=http://127.0.0.1:9/x.png>")
    assert tab.complaints()
    assert "http://127.0.0.1:9/x.png" in tab.requests()
    show(tab, watched.loaded(), seen)
    tab.run("document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.1:9/y.png' }))")
    assert "Content Security Policy" in tab.complaints()[0]              # the page itself forbids it
    assert tab.requests() == ["http://127.0.0.1:9/y.png"]


def test_the_measures_of_overlap_and_of_contrast_can_fail(tab, seen, params):
    show(tab, watched.loaded(), seen, about="a run", params=params)
    tab.run("document.querySelector('h1').style.marginBottom = '-1.5em';"
            "document.querySelector('h2').style.color = '#aaaaaa'")
    assert tab.run(OVERLAPS)
    assert [text for text, _ in tab.run(FAINT)] == ["The story"]


def test_light_and_dark_can_be_switched(tab, seen, params):
    show(tab, watched.loaded(), seen, params=params)
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = tab.run(ground)
    tab.click("#theme")
    assert tab.run(ground) != light
    tab.click("#theme")
    assert tab.run(ground) == light


@pytest.mark.parametrize(("memory", "blocks", "said"), [
    ("lm2", (1,), "Block 1 has no memory."), ("pooled", None, ""), ("none", None, "This model has no memory."),
    ("window", None, "no slots to point at"), ("full", (1,), "Block 1 has no memory."),
    ("rmt", None, "no slots to point at")])
def test_the_page_says_what_a_model_does_not_have(tab, params, memory, blocks, said):
    from selenium.webdriver.common.keys import Keys

    found = watched.loaded(memory=memory, memory_blocks=blocks)
    show(tab, found, watched.seen(found, watched.row_of(found, segments=0)), params=params)
    tab.press("b", "h", "t", "s", Keys.ARROW_RIGHT, "s", "t")
    assert said in tab.run("return document.querySelector('main').innerText")
    assert tab.run(OVERLAPS) == []
    with_slots = [memory for memory in found.cfg.memories if hasattr(memory, "PAGE_WRITE")]
    assert len(tab.run(SHOWN)["strips"]) == 4 * len(with_slots)


@pytest.mark.parametrize(("memory", "names"), [("window", "kv"), ("full", "kv"), ("rmt", "M")])
@pytest.mark.parametrize("width", [1280, 320])
def test_a_memory_without_slots_is_shown_by_its_state(tab, memory, names, width):
    found = watched.loaded(memory=memory)
    seen = watched.seen(found, watched.row_of(found, segments=20))
    show(tab, found, seen, width=width)
    assert text(tab, "#change-note").startswith(f"This page cannot compute the memory “{memory}”: it shows a recorded")
    place = 2 if memory == "rmt" else 1                  # the segment's memory, or that of the block chosen first
    maps = tab.run("""
        return [...document.querySelectorAll(".map")].map((map) => [map.querySelector("h3").innerText,
            [...map.querySelectorAll(".strip")].map((strip) => [...strip.children].map((cell) =>
                Number(cell.style.getPropertyValue("--v")))),
            [...map.querySelectorAll(".strip + span")].map((change) => change.innerText)])""")
    for (title, strips, changes), name in zip(maps, names, strict=True):
        places = [segment[place] for segment in seen.live.trace.places]
        rms = [np.sqrt((one.before[name][0].reshape(-1, one.before[name].shape[-1]) ** 2).mean(-1)) for one in places]
        size = int(re.search(r"(\d+) rows a cell|$", title)[1] or 1)
        assert size == -(-len(rms[-1]) // 64)
        rms = [[np.sqrt(np.mean(row[i:i + size] ** 2)) for i in range(0, len(row), size)] for row in rms]
        most = max(max(row) for row in rms if row)
        assert title.startswith(name)
        close(numbers([title])[0], [most])
        for strip, row in zip(strips, rms, strict=True):
            close(strip, np.array(row) / most)
        expected = [one.change(name) for one in places[:-1]] + [None]
        assert [change in ("", "–") for change in changes] == [change is None for change in expected]
        close([float(change) for change in changes if change.strip("–")], [c for c in expected if c is not None])
    assert size == (10 if memory == "full" else 1)       # 19 segments of 16 positions with 2 key heads
    assert tab.run("return document.documentElement.scrollWidth") <= width
    assert tab.run(OVERLAPS) == []
    assert tab.run(FAINT) == []
    hidden = ".slots, .life, .card.reads, .operate, .legend .key"
    assert not tab.run("return [...document.querySelectorAll(arguments[0])].some((part) => part.checkVisibility())",
                       hidden)
    tab.click(".map .strip:nth-of-type(1)")
    assert text(tab, "#where") == "Segment 1 of 20"
    tab.press("b")
    said = "The memory of the segments" if memory == "rmt" else "The memory of block 1"
    assert text(tab, "#state-title") == said


def test_controls_are_named(tab, seen, params):
    show(tab, watched.loaded(), seen, params=params)
    assert tab.run("return [...document.querySelectorAll('button')].filter("
                   "(button) => !(button.ariaLabel || button.textContent).trim())") == []
    assert tab.run("return [...document.querySelectorAll('[role=group], [role=img], section, dialog')].filter("
                   "(part) => !part.ariaLabel && !document.getElementById(part.getAttribute('aria-labelledby')))") == []


# -------------------------------------------------------------------------------- changing the story, operating on it


def later(found):
    """A story whose fact is told after the first segment and before the last one."""
    for seed in range(99):
        example = list(examples(TASKS["qa1"].story(Rng(seed, EVALUATION, 1, 0)), "qa1"))[0]
        row = insert_in_haystack(example, Rng(seed, EVALUATION), tokenizer=found.tokenizer, filler=found.filler,
                                 segments=4, segment_len=found.cfg.T, answer_len=1)
        if 0 < (row.support[0][1] - 1) // found.cfg.T < 3:
            return watched.seen(found, row)
    raise AssertionError("no such story")


def text(tab, selector):
    return tab.run("return document.querySelector(arguments[0]).innerText.trim()", selector)


def retype(tab, selector, text):
    """Type over what stands in a field."""
    from selenium.webdriver.common.keys import Keys

    field = tab.driver.find_element("css selector", selector)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text)


def answer_of(found, tab):
    """What Python answers to the tokens that the page read, and what stands in the page."""
    ids, pad = tab.run("return [laid.ids, laid.pad]")
    row = SimpleNamespace(prompt=ids, pad=pad)
    answer = traced_answer(found.params, row, cfg=found.cfg, tokenizer=found.tokenizer, answer_len=1)
    return answer.text or "(nothing)", tab.run("return document.querySelector('#answers .said').firstChild.data")


def test_it_opens_at_the_supporting_fact_and_shows_three_steps(tab, params):
    found = watched.loaded()
    seen = later(found)
    show(tab, found, seen, params=params)
    steps = 3 if params(found) is not None else 2
    told = (seen.row.support[0][1] - 1) // 16
    assert text(tab, "#where") == f"Segment {told + 1} of 4"
    assert f"1 of {steps}" in text(tab, "#guide-title")
    fact = seen.words[slice(*seen.row.support[0])]
    assert f"Segment {told + 1} tells the fact that the answer needs: “{' '.join(fact)}”" in text(tab, "#guide-text")
    slot = int(re.search(r"Hold slot (\d+)", text(tab, "#guide-show"))[1])
    tab.click("#guide-show")
    assert f"slot {slot}" in tab.run(SHOWN)["pressed"]
    tab.click("#guide-next")
    tab.click("#guide-show")
    shown = tab.run(SHOWN)
    assert shown["where"] == "Segment 4 of 4"
    look, token = seen.live.trace.places[3][1], tab.run("return at.token")
    head = tab.run("return at.head")
    assert token >= seen.row.asked
    close([float(row[0]) for row in shown["slots"]], look.read[0, head, token - 48])
    if steps == 3:
        tab.click("#guide-next")
        tab.click("#guide-show")
        before, now = seen.live.text, tab.run("return document.querySelector('#answers .said').firstChild.data")
        off = tab.run("return operations.length")
        assert re.search(rf"Without (one|{off}) slots? of block 2, the answer is “{now}” instead of “{before}”",
                         text(tab, "#guide-text")) or off == 6
        assert text(tab, "#operations").count("of block 2 is off") == off
    tab.click("#guide-close")
    assert not tab.run("return document.querySelector('#guide').checkVisibility()")
    tab.press("?")
    tab.click("#guide-again")
    assert tab.run("return document.querySelector('#guide').checkVisibility()") == (
        tab.run("return steps().length > 0"))


def test_what_is_typed_is_answered_at_once(tab, seen):
    found = watched.loaded()
    show(tab, found, seen)
    for selector, typed in (("#facts input", "Daniel moved to the kitchen."), ("#question", "Where is Mary?"),
                            ("#facts .row:nth-child(2) input", "Mary went back to the garden"), ("#question", "mary")):
        before = tab.run("return laid.ids.join()")
        retype(tab, selector, typed)
        assert tab.run("return laid.ids.join()") != before
        assert len(set(answer_of(found, tab))) == 1
    words = tab.run("return shown.words.filter((word) => word).join(' ')")
    assert "daniel moved to the kitchen" in words
    assert words.endswith("mary")
    assert "right answer is not known" in text(tab, "#truth")
    tab.click("#reset")
    assert tab.run("return laid.ids") == seen.row.prompt
    assert "own answer: office" in text(tab, "#truth")


def test_letters_typed_into_a_field_are_no_shortcuts(tab, seen):
    from selenium.webdriver.common.keys import Keys

    show(tab, watched.loaded(), seen)
    where = "return [at.block, at.head, at.slot, document.querySelector('dialog').open]"
    before = tab.run(where)
    retype(tab, "#question", "Where is b h t s ?" + Keys.ARROW_LEFT)
    assert tab.run(where) == before
    assert tab.run("return document.querySelector('#question').value") == "Where is b h t s ?"


def test_words_that_the_model_does_not_know_are_marked_and_named(tab, seen):
    found = watched.loaded()
    show(tab, found, seen)
    retype(tab, "#facts input", "Daniel ate <b>pizza</b> at the office.")
    assert "does not know “ate”, “b”, “pizza”" in text(tab, "#problem")
    marked = "return [...document.querySelectorAll('#tokens .unknown')].map((word) => word.innerText)"
    assert tab.run(marked) == ["ate", "b", "pizza", "b", "at"]
    read = tab.run("return [...document.querySelector('#tokens').children].map((word) => word.innerText).join(' ')")
    assert "daniel ate b pizza b at the office" in read
    assert len(set(answer_of(found, tab))) == 1
    retype(tab, "#question", "Where is Zoe")
    assert tab.run(marked) == ["zoe"]
    tab.click("#reset")
    assert text(tab, "#problem") == ""
    assert tab.run(marked) == []


@pytest.mark.parametrize(("typed", "said"), [
    ("", "Ask a question"), ("pizza?", "Ask a question"), ("where is mary " * 6, "too long: at most 15 words")])
def test_an_impossible_question_gives_a_message_and_keeps_the_last_answer(tab, seen, typed, said):
    from selenium.webdriver.common.keys import Keys

    show(tab, watched.loaded(), seen)
    before = tab.run("return laid.ids")
    tab.run("document.querySelector('#question').value = ''")
    tab.driver.find_element("css selector", "#question").send_keys(" " + Keys.BACKSPACE)
    tab.run("document.querySelector('#question').value = arguments[0];"
            "document.querySelector('#question').dispatchEvent(new Event('input'))", typed)
    assert said in text(tab, "#problem")
    assert tab.run("return laid.ids") == before
    tab.press(Keys.TAB)
    for selector in ("#longer", "#shorter", "#facts .row button:nth-of-type(2)", "#add-fact"):
        tab.click(selector)                              # nothing breaks while the story cannot be read
    tab.click("#reset")
    assert text(tab, "#problem") == ""
    assert tab.run("return laid.ids") == before


def test_facts_are_moved_added_and_removed_and_the_story_gets_longer_and_shorter(tab):
    found = watched.loaded()
    seen = later(found)
    show(tab, found, seen)
    told = (seen.row.support[0][1] - 1) // 16
    facts = "return [...document.querySelectorAll('#facts .row')].map((row) => [row.querySelector('input').value," \
            "row.querySelector('output').value])"
    which = next(i for i, (fact, _) in enumerate(tab.run(facts)) if fact == seen.row.example.facts[
        seen.row.example.support[0]]) + 1
    assert tab.run(facts)[which - 1][1] == f"segment {told + 1}"
    tab.click(f"#facts .row:nth-child({which}) button:nth-of-type(1)")
    assert f"segment {told}" in [place for _, place in tab.run(facts)]
    assert text(tab, "#where") == f"Segment {told} of 4"                 # the view goes along
    moved = [fact for fact, _ in tab.run(facts)].index(seen.row.example.facts[seen.row.example.support[0]]) + 1
    for place in range(told + 1, 5):                     # and back, a segment at a time
        tab.click(f"#facts .row:nth-child({moved}) button:nth-of-type(2)")
        moved = [fact for fact, _ in tab.run(facts)].index(seen.row.example.facts[seen.row.example.support[0]]) + 1
        assert tab.run(facts)[moved - 1][1] == f"segment {place}"
    assert len(set(answer_of(found, tab))) == 1
    tab.click("#longer")
    assert text(tab, "#length") == "5 segments"
    tab.click("#shorter")
    tab.click("#shorter")
    assert text(tab, "#length") == "3 segments"
    tab.click("#add-fact")
    tab.press("Sandra went to the hallway.")
    assert tab.run(facts)[-1] == ["Sandra went to the hallway.", tab.run("return `segment ${shown.S}`")]
    assert len(set(answer_of(found, tab))) == 1
    tab.click("#facts .row button:nth-of-type(3)")
    assert len(tab.run(facts)) == len(seen.row.example.facts)
    tab.click("#show-text")
    retype(tab, "#text", "Mary went to the garden. John went to the office.\nThe moon shines.")
    assert [fact for fact, _ in tab.run(facts)] == ["Mary went to the garden.", "John went to the office."]
    assert len(set(answer_of(found, tab))) == 1


def test_operations_are_done_listed_and_undone(tab, seen):
    show(tab, watched.loaded(), seen)
    before = text(tab, "#answers")
    choose = "const select = document.querySelector(arguments[0]); select.selectedIndex = arguments[1];"
    for button, choices, said in (
            ("#op-off", {"#op-off-slot": 3}, "Slot 4 of block 2 is off: nobody reads it."),
            ("#op-swap", {"#op-block": 0, "#op-swap-slot": 0, "#op-swap-other": 2, "#op-swap-from": 1},
             "Slots 1 and 3 of every block change places before segment 2."),
            ("#op-freeze", {"#op-block": 1, "#op-freeze-from": 2}, "Nothing is written in block 1 from segment 3 on."),
            ("#op-gate", {"#op-gate-name": 2, "#op-gate-value": 1}, "The forget gate of block 1 is held shut."),
            ("#op-gate", {"#op-gate-value": 0}, "The forget gate of block 1 is held open.")):
        for selector, choice in choices.items():
            tab.run(choose, selector, choice)
        tab.click(button)
        assert said in text(tab, "#operations")
        tab.run(choose, "#op-block", 1 if "block 1" in said else 2)
    assert "held shut" not in text(tab, "#operations")                   # a gate is held in one way
    shown = tab.run("go(0); choose('block', 1); return null") or tab.run(SHOWN)
    assert shown["slots"][3][0] == "0.000"
    tab.run("choose('block', 0)")
    assert all(row[2] == "1.000" for row in tab.run(SHOWN)["slots"])
    columns = "return [...document.querySelectorAll('#answers h3')].map((title) => title.innerText)"
    assert tab.run(columns) == ["Operated on", "As it was", "Frozen banks"]
    for _ in range(4):
        tab.click("#operations button")
    assert tab.run("return document.querySelector('#operations').children.length") == 0
    assert text(tab, "#answers") == before
    tab.click("#op-off")
    tab.click("#reset")
    assert text(tab, "#answers") == before


def test_a_copied_link_opens_the_same_case(tab, seen):
    show(tab, watched.loaded(), seen)
    retype(tab, "#facts input", "Daniel went to the <i>garden & 100 %.")
    tab.click("#op-off")
    tab.run("go(2); hold('slot', 4)")
    tab.click("#link")
    link, shown = tab.run("return document.querySelector('#link-text').value"), tab.run(SHOWN)
    answers = text(tab, "#answers")
    tab.open("")
    tab.open(page(watched.loaded(), seen))
    assert text(tab, "#answers") != answers
    tab.run("location.hash = arguments[0]", link.partition("#")[2])
    for reloaded in (False, True):
        if reloaded:
            tab.driver.refresh()
        again = tab.run(SHOWN)
        assert text(tab, "#answers") == answers
        assert again == shown
        assert not tab.run("return document.querySelector('#guide').checkVisibility()") or not reloaded
        assert tab.run("return document.querySelector('#facts input').value") == "Daniel went to the <i>garden & 100 %."


def test_the_address_keeps_a_change_and_forgets_it_when_it_is_undone(tab, seen):
    show(tab, watched.loaded(), seen)
    retype(tab, "#question", "Where is Mary?")
    time.sleep(0.6)
    tab.driver.refresh()
    assert tab.run("return [document.querySelector('#question').value, location.hash.length > 9]") == [
        "Where is Mary?", True]
    tab.click("#reset")
    time.sleep(0.6)
    assert tab.run("return location.hash") == ""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_with_everything_open_nothing_overlaps_and_every_word_stands_out(tab, width, dark):
    found = watched.loaded()
    show(tab, found, later(found), width=width, dark=dark)
    tab.run("""
        const click = (name) => document.getElementById(name).click();
        ["show-text", "show-words", "op-off", "op-swap", "op-freeze", "op-gate", "add-fact", "link"].forEach(click);
        for (const input of document.querySelectorAll("#facts input")) {
            input.value = "Daniel ate pizza_without_any_blank_" + "x".repeat(60) + " went there.";
            input.dispatchEvent(new Event("input"));
        }
        scrollTo(0, 0);""")                              # below, the bar of controls covers what scrolls away
    assert tab.run("return document.querySelectorAll('#tokens .unknown').length") > 0
    assert tab.run("return document.documentElement.scrollWidth") <= width
    assert tab.run(OVERLAPS) == []
    assert tab.run(FAINT) == []
    fields = tab.run("""
        return [...document.querySelectorAll("input, select, textarea")].filter((field) => field.checkVisibility())
            .filter((field) => !(field.labels.length || field.ariaLabel)
                || field.getBoundingClientRect().right > innerWidth)
            .map((field) => field.id);""")
    assert fields == []


def test_the_page_runs_nothing_but_its_own_script(tab, seen):
    show(tab, watched.loaded(), seen)
    tab.run("""
        const add = (tag, textContent) => document.body.append(
            Object.assign(document.createElement(tag), { textContent }));
        add("script", "window.hacked = 1");
        add("style", "h1 { display: none }");
        document.body.insertAdjacentHTML("beforeend", "<b onclick='window.hacked = 2' style='color: red'>x</b>");
        document.body.lastChild.click();""")
    assert len([line for line in tab.complaints() if "Content Security Policy" in line]) == 4
    assert tab.run("return window.hacked === undefined && document.querySelector('h1').checkVisibility()")


@pytest.mark.parametrize(("why", "said"), [
    ("tokenizer", "byte-level tokenizer"), ("memory", "cannot compute the memory “lm2”"),
    ("segments", "computes stories of up to 3 segments"),
    ("weights", "weights of this run do not fit into a page of 0 MB")])
def test_a_page_that_cannot_compute_says_why_and_shows_a_recording(tab, monkeypatch, why, said):
    found = watched.loaded()
    if why == "tokenizer":
        found = run_dir.new(replace(watched.SETTINGS, tokenizer="bpe", vocab=300, segment=64))
    elif why == "memory":
        monkeypatch.delattr(lm2, "PAGE_WRITE")
    elif why == "segments":
        monkeypatch.setattr(explore, "LONGEST", 3)
    else:
        found = run_dir.new(replace(watched.SETTINGS, hidden_size=64, ff=200))
        monkeypatch.setattr(explore, "MOST", 400_000)
    seen = watched.seen(found, watched.row_of(found, segments=0 if why == "weights" else 4, answer_len=8),
                        answer_len=8)
    show(tab, found, seen)
    assert said in text(tab, "#change-note")
    assert "cannot be changed here" in text(tab, "#change-note")
    assert tab.run("return ['#editor', '.operate'].every((part) => !document.querySelector(part).checkVisibility())")
    assert numbers([text(tab, "#answers")])[0]


# -------------------------------------------------------------------------------------------------- without a browser


def test_the_page_is_one_file_that_names_no_other(seen):
    html = page(watched.loaded(), seen)
    assert not re.search(r"""(src|href)\s*=\s*(?!["']data:)|@import|url\(|https?:|fetch\(|import\(""", html)
    assert "default-src 'none'" in html
    assert "unsafe-inline" not in html


def test_a_page_that_would_be_too_large_is_refused(seen, monkeypatch):
    monkeypatch.setattr(explore, "MOST", 30_000)
    with pytest.raises(BadInput, match=r"^page: found 0\.\d MB, expected at most 0 MB: a shorter story"):
        page(watched.loaded(), seen)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    watched.save(folder)
    return folder


def test_the_command_writes_a_page_for_a_generated_story_and_for_one_of_your_own(run, tmp_path, capsys):
    assert main(["explore", str(run), "--task", "qa2", "--length", "100", "--seed", "5"]) == 0
    assert "explore.html" in capsys.readouterr().out
    assert '"S":7,"T":16' in (run / "explore.html").read_text()         # 100 tokens are 7 segments of 16
    out = tmp_path / "page.html"
    own = tmp_path / "own.txt"
    for text, support in (("Mary moved to the garden. John went to the office.\nWhere is Mary?\n", "[]"),
                          ("1 Mary moved to the garden.\n2 John went to the office.\n"
                           "3 Where is Mary? \tgarden\t1\n4 Where is John?\toffice\t2\n", "[[2,7]]")):
        own.write_text(text)
        assert main(["explore", str(run), "--story", str(own), "--out", str(out)]) == 0
        html = out.read_text()
        assert f'"support":{support}' in html
        words = '"mary","moved","to","the","garden","john","went","to","the","office","where","is","mary"'
        assert words in html


@pytest.mark.parametrize(("text", "options", "said"), [
    ("Mary moved to the garden.", [], r"own.txt:1: found 'Mary moved to the garden.', expected a question"),
    ("Mary ate. Where is Mary?", [], r"own.txt:1: found ate, expected words"),
    ("1 Mary moved.\n1 Where is Mary?\tgarden\t9\n", [], r"own.txt:2: found supporting line '9'"),
    ("Where is Mary?", ["--task", "qa1"], "found --story and --task"),
    ("Where is Mary?", ["--length", "-1"], "--length: found -1"),
    ("Mary moved. " * 9 + "Where is Mary?", ["--length", "16"], "--length: found 16 tokens, too few"),
])
def test_what_cannot_be_shown_gives_one_line(run, tmp_path, capsys, text, options, said):
    own = tmp_path / "own.txt"
    own.write_text(text)
    assert main(["explore", str(run), "--story", str(own), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error), error
