"""How soon the page of a long story opens, and how soon it answers a key: a real Chromium without a window, no GPU.

    python -m benchmarks.explore [RUN] [--segments 16] [--rounds 5]

Without a run a model of the default size is asked that has learned nothing: its page is as large. Opening counts from
the address to the end of the first drawing, stepping from the key to the frame that shows it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import machine
from tests import browser, watched
from tinylm2 import explore, runs

OPENED = """
    const [page] = performance.getEntriesByType("navigation"), paints = performance.getEntriesByType("paint");
    return Math.max(page.loadEventEnd, ...paints.map((paint) => paint.startTime));"""
STEPPED = """
    const [key, done] = arguments, began = performance.now();
    document.dispatchEvent(new KeyboardEvent("keydown", { key }));
    requestAnimationFrame(() => { const channel = new MessageChannel();          // a message comes after the frame
        channel.port1.onmessage = () => done(performance.now() - began);
        channel.port2.postMessage(null); });"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?")
    parser.add_argument("--segments", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if why := browser.missing():
        sys.exit(why)
    loaded = runs.load(args.run)[0] if args.run else runs.new(runs.Settings())
    story = watched.seen(loaded, watched.row_of(loaded, args.segments))
    html = explore.page(story.row, story.live, story.frozen, cfg=loaded.cfg, tokenizer=loaded.tokenizer)
    opened, stepped = [], []
    with tempfile.TemporaryDirectory() as folder, browser.chromium(Path(folder)) as tab:
        tab.size(1280)
        for _ in range(args.rounds):
            tab.open(html)
            opened.append(tab.run(OPENED))
            keys = ["ArrowRight"] * (args.segments - 1) + ["ArrowLeft"] * (args.segments - 1) + [*"bhts"]
            stepped += [tab.driver.execute_async_script(STEPPED, key) for key in keys]
    print(machine.describe())
    print(f"{args.segments} segments, {len(html.encode()) / 1e6:.2f} MB: opens in {machine.spread(opened)} ms, "
          f"at most {max(opened):.0f} (expected under 1000); steps in {machine.spread(stepped)} ms, "
          f"at most {max(stepped):.0f} (expected under 100)")


if __name__ == "__main__":
    main()
