"""How soon the page of a long story opens, and how soon it answers: a real Chromium without a window, no GPU.

    python -m benchmarks.explore [RUN] [--segments 16] [--rounds 5]

Without a run the page is that of an untrained model of the default size: it is as large. Opening counts from the
address to the first answer on the screen; a step counts from the key, a change from the letter typed into a fact, and
an operation from the button, each to the frame that shows what follows. Beside the time by the clock stands the
processor time of the page's thread: on a busy machine that alone says what the page does.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import machine
from benchmarks.tables import median_quartiles
from tests.support import browser
from tinylm2.cli.console import whole
from tinylm2.data import TASKS, encode_examples, generated_examples, max_answer_len
from tinylm2.inspect.explore import page
from tinylm2.inspect.trace import traced_answer
from tinylm2.training import run_dir
from tinylm2.training.settings import Settings

OPENED = """
    const [page] = performance.getEntriesByType("navigation"), paints = performance.getEntriesByType("paint");
    return Math.max(page.loadEventEnd, ...performance.getEntriesByName("answered").map((mark) => mark.startTime),
        ...paints.map((paint) => paint.startTime));"""
TIMED = """
    const [what, done] = arguments, began = performance.now(), id = (name) => document.getElementById(name);
    if (what === "type") {
        const fact = document.querySelector("#facts input");
        fact.value = fact.value.endsWith("garden.") ? "Daniel went back to the office." : "Daniel went to the garden.";
        fact.dispatchEvent(new Event("input"));
    } else if (what === "operate") (document.querySelector("#operations button") ?? id("op-off")).click();
    else document.dispatchEvent(new KeyboardEvent("keydown", { key: what }));
    requestAnimationFrame(() => { const channel = new MessageChannel();          // a message comes after the frame
        channel.port1.onmessage = () => done(performance.now() - began);
        channel.port2.postMessage(null); });"""


def page_of(model, segments):
    """The page of the generated qa1 story whose fact lies farthest back."""
    examples = generated_examples(TASKS["qa1"], 20, seed=3)
    answer_len = max_answer_len(examples, model.tokenizer)
    rows, _ = encode_examples(examples, segments, tokenizer=model.tokenizer, filler=model.filler,
                              segment_len=model.cfg.T, seed=3, answer_len=answer_len)
    row = max(rows, key=lambda row: row.distance)
    live, frozen = (traced_answer(model.params, row, cfg=model.cfg, tokenizer=model.tokenizer, answer_len=answer_len,
                                  frozen=frozen) for frozen in (False, True))
    return page(row, live, frozen, cfg=model.cfg, tokenizer=model.tokenizer, params=model.params, filler=model.filler,
                answer_len=answer_len)


def spent(tab):
    """Milliseconds that the processor has worked for the page since it was opened."""
    found = tab.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return 1000 * next(one["value"] for one in found if one["name"] == "TaskDuration")


def timed(tab, what):
    """(milliseconds by the clock, milliseconds of the processor) from what the reader does to the frame that follows"""
    before = spent(tab)
    wall = tab.driver.execute_async_script(TIMED, what)
    return wall, spent(tab) - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?")
    parser.add_argument("--segments", type=whole(1, 10**6), default=16)
    parser.add_argument("--rounds", type=whole(1, 10**6), default=5)
    args = parser.parse_args()
    if why := browser.missing():
        sys.exit(why)
    html = page_of(run_dir.load(args.run)[0] if args.run else run_dir.new(Settings()), args.segments)
    opened, stepped, typed, operated = [], [], [], []                            # (by the clock, of the processor)
    with tempfile.TemporaryDirectory() as folder, browser.chromium(Path(folder)) as tab:
        tab.size(1280)
        tab.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        for _ in range(args.rounds):
            tab.open(html)
            opened.append((tab.run(OPENED), spent(tab)))
            keys = ["ArrowRight"] * (args.segments - 1) + ["ArrowLeft"] * (args.segments - 1) + [*"bhts"]
            stepped += [timed(tab, key) for key in keys]
            typed += [timed(tab, "type") for _ in range(10)]
            operated += [timed(tab, "operate") for _ in range(10)]
    print(machine.describe())
    print(f"{args.segments} segments, {len(html.encode()) / 1e6:.2f} MB")
    for name, times, most in (("opens and answers", opened, 1000), ("steps", stepped, 100),
                              ("follows a change", typed, 100), ("follows an operation", operated, 100)):
        wall, processor = zip(*times, strict=True)
        print(f"{name} in {median_quartiles(wall)} ms, at most {max(wall):.0f} (expected under {most}); "
              f"of the processor {median_quartiles(processor)}")


if __name__ == "__main__":
    main()
