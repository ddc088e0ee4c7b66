"""Draw docs/pictures/fact.svg, a fact on its way through the memory: `python -m docs.animation`.

The numbers are those of the lessons' run (tutorials/data/lm2.npz), block 2. The story is one of the generated qa1
stories whose fact lies nine segments before its question: the one where a single slot holds the fact most clearly.
"""

from functools import cache
from html import escape
from pathlib import Path

import numpy as np

from tinylm2.data import TASKS, GrammarFiller, encode_examples, generated_examples
from tinylm2.inspect.trace import pieces, traced_answer
from tutorials.lesson import trained

OUT = Path(__file__).resolve().parent / "pictures" / "fact.svg"
SEGMENTS, BACK, BLOCK = 11, 9, 1                         # eight segments lie between the fact and the question
WIDTH, HEIGHT = 860, 430
INK, DIM, WRITE, READ, GROUND = "#1b1f24", "#5a6472", "#c04e00", "#0068a6", "#ffffff"
SECONDS = {"fact": 4.0, "filler": 1.3, "question": 5.0}  # how long a segment is shown


@cache
def story():
    """(run, row, filler, live, frozen, slot): the story, how it was read with and without writes, and its slot."""
    run, filler = trained("lm2"), GrammarFiller()
    examples = generated_examples(TASKS["qa1"], 400, seed=3)
    rows, _ = encode_examples(examples, SEGMENTS, tokenizer=run.tokenizer, filler=filler, segment_len=run.cfg.T, seed=3)
    found = []
    for row in rows:
        if row.distance == BACK:
            live, frozen = (traced_answer(run.params, row, cfg=run.cfg, tokenizer=run.tokenizer, answer_len=1,
                                          frozen=off) for off in (False, True))
            if live.text == row.example.answer != frozen.text:
                places = live.trace.places
                held = np.minimum(places[-1 - BACK][BLOCK].write[0].max((0, 2)),
                                  places[-1][BLOCK].read[0].max((0, 1)))
                found.append((held.max(), run, row, filler, live, frozen, int(held.argmax())))
    return max(found, key=lambda one: one[0])[1:]


def frames():
    """One dict a segment: its words, how much the slot takes from each or each reads of the slot, its gates, and how
    alike the slot is to what was written."""
    run, row, _, live, frozen, slot = story()
    words, T = pieces(run.tokenizer, row.prompt), run.cfg.T
    parts = [words[start:start + T] for start in range(0, len(words), T)]
    places = [segment[BLOCK] for segment in live.trace.places]
    written = places[-1 - BACK].after["M"][0, slot]
    others = [pieces(run.tokenizer, run.tokenizer.encode(fact)) for k, fact in enumerate(row.example.facts)
              if k not in row.example.support]
    told = {t for low, high in row.support for t in range(low, high)}
    for s, place in enumerate(places):
        last = place.write is None
        held = (place.before if last else place.after)["M"][0, slot]
        alike = held @ written / np.linalg.norm(held) / np.linalg.norm(written)
        yield {
            "kind": "question" if last else "fact" if s == SEGMENTS - 1 - BACK else "filler",
            "slot": slot, "N": run.cfg.N, "words": parts[s], "told": [t - s * T for t in told],
            "other": any(" ".join(fact) in " ".join(parts[s]) for fact in others),
            "weights": (place.read[0, :, :, slot] if last else place.write[0, :, slot]).max(0),
            "input": None if last else float(place.input[0, slot].mean()),
            "forget": None if last else float(place.forget[0, slot].mean()),
            "alike": float(alike) if s >= SEGMENTS - 1 - BACK else 0.0,
            "asked": row.asked - s * T, "says": live.text, "sure": float(live.probs[0].max()), "frozen": frozen.text}


# ------------------------------------------------------------------------------------------------------------- drawing


def text(x, y, said, size=15, fill=INK, weight=400, anchor="start", extra=""):
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" font-weight="{weight}" text-anchor="{anchor}"'
            f'{extra}>{escape(said)}</text>')


def laid_out(words):
    """(word, x, y, width) in lines. A letter of a fixed-width font takes 0.6 of its size; `textLength` sees to it."""
    letter, placed, at, y = 0.6 * 15, [], 40, 128
    for word in words:
        wide = letter * len(word)
        if at + wide > 510:
            at, y = 40, y + 25
        placed.append((word, at, y, wide))
        at += wide + letter
    return placed


def passage(frame):
    """The words of a segment; behind each the weight that joins it to the slot."""
    colour = READ if frame["kind"] == "question" else WRITE
    done = []
    for t, (word, x, y, wide) in enumerate(laid_out(frame["words"])):
        weight = float(frame["weights"][t]) * (1 if frame["input"] is None else frame["input"])
        shaded = weight > 0.3
        bold = t in frame["told"] or frame["kind"] == "question" and t >= frame["asked"]
        if weight > 0.05:
            done.append(f'<rect x="{x - 3:g}" y="{y - 15:g}" width="{wide + 6:g}" height="21" rx="4" fill="{colour}" '
                        f'fill-opacity="{min(1, weight) * 0.45:.2f}"/>')
        done.append(f'<text x="{x:g}" y="{y:g}" font-size="15" font-family="ui-monospace,Menlo,Consolas,monospace" '
                    f'textLength="{wide:g}" lengthAdjust="spacingAndGlyphs" fill="{INK if bold or shaded else DIM}" '
                    f'font-weight="{700 if bold else 400}">{escape(word)}</text>')
    return "".join(done)


def joined(frame):
    """The arrow between the slot and the word that it has most to do with, where there is one to speak of."""
    if frame["kind"] == "filler":
        return ""
    best = int(np.argmax(frame["weights"]))
    _, x, y, wide = laid_out(frame["words"])[best]
    slot_y = 84 + 18 * frame["slot"] + 9
    colour, name = (READ, "read") if frame["kind"] == "question" else (WRITE, "write")
    ends = (f"M {x + wide + 4:g} {y - 4:g} C {x + wide + 90:g} {y - 4:g} 560 {slot_y:g} 618 {slot_y:g}")
    if frame["kind"] == "question":
        ends = f"M 618 {slot_y:g} C 560 {slot_y:g} {x + wide + 60:g} {y - 10:g} {x + wide + 6:g} {y - 6:g}"
    return f'<path d="{ends}" fill="none" stroke="{colour}" stroke-width="2.5" marker-end="url(#{name})"/>'


def gauge(y, name, value, colour, note):
    """A bar from 0 to 1 with its name, its number, and what it means."""
    shown = "" if value is None else f"{value:.2f}"
    bar = "" if value is None else f'<rect x="148" y="{y - 11}" width="{120 * value:.1f}" height="13" fill="{colour}"/>'
    return (text(40, y, name, 14) + f'<rect x="148" y="{y - 11}" width="120" height="13" fill="#e9edf2"/>' + bar
            + text(276, y, shown, 14, INK, 700) + text(318, y, note, 13, DIM))


def drawn(s, frame):
    """What one segment shows."""
    kind, slot = frame["kind"], frame["slot"] + 1
    heading = {"fact": f"Segment {s + 1} states a fact: slot {slot} writes it down",
               "filler": f"Segment {s + 1} {'states another fact' if frame['other'] else 'answers nothing'}: " + (
                   f"slot {slot} keeps what it holds" if frame["alike"] else "no fact is known yet"),
               "question": f"Segment {s + 1} asks: the question reads slot {slot}"}[kind]
    done = [text(40, 92, heading, 17, {"fact": WRITE, "question": READ}.get(kind, INK), 700)]
    for k in range(SEGMENTS):                            # the way through the story
        done.append(f'<rect x="{40 + 46 * k}" y="44" width="40" height="16" rx="3" fill="'
                    f'{INK if k == s else "#dfe4ea"}"/>')
        done.append(text(60 + 46 * k, 56.5, str(k + 1), 12, GROUND if k == s else DIM, 400, "middle"))
    for n in range(frame["N"]):
        fill = 'fill="#fff7df"'
        if n == frame["slot"] and frame["alike"]:
            fill = f'fill="{WRITE}" fill-opacity="{0.1 + 0.5 * frame["alike"]:.2f}"'
        done.append(f'<rect x="626" y="{84 + 18 * n}" width="150" height="18" {fill} stroke="#9a7b1c"/>')
        done.append(text(786, 97 + 18 * n, f"slot {n + 1}", 12, INK if n == frame["slot"] else DIM,
                         700 if n == frame["slot"] else 400))
    if frame["alike"]:
        done.append(text(701, 97.5 + 18 * frame["slot"], f"the fact, {frame['alike']:.2f} alike", 12, INK, 700,
                         "middle"))
    done += [passage(frame), joined(frame)]
    if kind == "question":
        done += [text(40, 330, f"{frame['says']}", 26, READ, 700),
                 text(40, 352, f"is the answer ({frame['sure']:.3f})", 14),
                 text(240, 330, frame["frozen"], 26, DIM, 700),
                 text(240, 352, "without writes: it can only guess", 14)]
    else:
        opened = frame["input"] > 0.4
        done += [gauge(330, "input gate", frame["input"], WRITE, "opens: new content comes in" if opened else
                       "almost shut: little comes in"),
                 gauge(354, "forget gate", frame["forget"], INK, "gives way: the old content goes" if opened else
                       "open: what the slot holds stays")]
    return "".join(done)


def svg():
    """The picture: one group a segment, shown in turn by CSS; who prefers no motion sees the last one."""
    shown, total = list(frames()), 0.0
    lengths = [SECONDS[frame["kind"]] for frame in shown]
    rules, groups, whole = [], [], sum(lengths)
    for s, (frame, length) in enumerate(zip(shown, lengths, strict=True)):
        begin, end = 100 * total / whole, 100 * (total + length) / whole
        total += length
        before = f"0%,{begin - 0.01:.2f}%{{opacity:0}}" if s else ""
        after = f"{end:.2f}%,100%{{opacity:0}}" if s < len(shown) - 1 else ""
        rules.append(f"@keyframes k{s}{{{before}{begin:.2f}%,{end - 0.01:.2f}%{{opacity:1}}{after}}}"
                     f"#s{s}{{animation-name:k{s}}}")
        groups.append(f'<g id="s{s}" class="s">{drawn(s, frame)}</g>')
    heads = "".join(f'<marker id="{name}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="5.5" markerHeight="5.5" '
                    f'orient="auto"><path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
                    for name, colour in (("write", WRITE), ("read", READ)))
    words = f"A fact enters slot {shown[0]['slot'] + 1}, survives eight segments, and is read by the question."
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}" '
            f'font-family="system-ui,Segoe UI,Helvetica,Arial,sans-serif"><style>.s{{opacity:0;animation:{whole:g}s '
            f'linear infinite}}{"".join(rules)}@media(prefers-reduced-motion:reduce){{.s{{animation:none}}'
            f'#s{len(shown) - 1}{{opacity:1}}}}</style><defs>{heads}</defs>'
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{GROUND}"/>'
            + text(40, 30, "A story of 11 segments", 14, DIM) + text(626, 72, "the bank of block 2", 14, DIM)
            + "".join(groups)
            + text(40, 394, "Shades of words: how much the slot takes from a word, through its input gate; how much a "
                   "word reads of the slot.", 12, DIM)
            + text(40, 412, "“alike”: the cosine between what the slot holds now and what was written.", 12, DIM)
            + "</svg>\n")


if __name__ == "__main__":
    OUT.write_text(svg(), encoding="utf-8")
    print(f"{OUT}: {OUT.stat().st_size / 1e3:.0f} kB")
