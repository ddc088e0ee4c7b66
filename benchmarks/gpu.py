"""All that only a GPU can tell, in one command of at most nine minutes: is it right, does it learn, is it fast?

    python -m benchmarks.gpu --out FOLDER [--minutes 9] [--only a,b] [--dry] [--write]

    a  every test marked gpu: NumPy's numbers, the same bits twice, resume on the other device, memory that stays
    b  the default training run and its accuracy
    c  a training step beside PyTorch, eager and compiled, in float32 and in TF32
    d  launches per step, time per kernel, and matrix products beside the best that the GPU does
    e  joint: one model for twenty tasks, for the time that is left; FOLDER/joint.npz, where there is one, goes on

The parts run in this order, each in a process of its own with a time limit of its own. Each writes FOLDER/PART.json
again and again while it works, so what is done is never lost. The summary stands at the end, and in FOLDER/summary.txt.
Nothing is fetched from a network. PyTorch is optional. The exit status is 0 where all that ran passed, 1 where
something failed, and 2 where no GPU can be used.

--dry runs the whole course on the fake CuPy of the tests with tiny sizes, where no GPU is: the numbers mean nothing.
--write puts FOLDER/summary.txt, written before, into docs/PERFORMANCE.md.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import machine
from tinylm2.cli.console import number

ROOT = Path(__file__).resolve().parents[1]
SHARES = {"a": 150, "b": 75, "c": 180, "d": 60, "e": 540}               # seconds of nine minutes, at most
LEAST = 12                                               # seconds, below which no part is begun
RESERVE = 5                                              # seconds, for the summary
LONGEST = 11_000                                         # characters of the summary; a lender may show no more
LINES = 60                                               # of one part
TAIL = 12                                                # lines of the log that a part leaves that did not pass


def main(argv=None):
    """Run the parts, print the summary."""
    args = arguments(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.write:
        machine.write("gpu", f"```text\n{(args.out / 'summary.txt').read_text(encoding='utf-8')}```")
        return 0
    began = time.monotonic()
    for path in (args.out / f"{part}.json" for part in args.only):
        path.unlink(missing_ok=True)                     # an earlier call's
    status, _ = run("machine", args, 90)
    head = found(args.out, "machine")
    (args.out / "machine.json").unlink(missing_ok=True)
    if status != "passed":
        return 2
    statuses = {}
    for part in args.only:
        left = began + 60 * args.minutes - RESERVE - time.monotonic()
        if left < LEAST:
            statuses[part] = "not run: no time was left"
            continue
        limit = left if part == "e" else min(left, SHARES[part] * args.minutes / 9)
        print(f"\n== {part}, at most {limit:.0f} s", flush=True)
        statuses[part], seconds = run(part, args, limit)
        print(f"{part}: {statuses[part]} after {seconds:.0f} s", flush=True)
        statuses[part] += f", {seconds:.0f} s"
    text = summary(head, statuses, args.out)
    (args.out / "summary.txt").write_text(text + "\n", encoding="utf-8")
    print("\n" + "=" * 60 + "\n" + text)
    return 0 if all(status.startswith(("passed", "not run")) for status in statuses.values()) else 1


def arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, and of what e continues")
    parser.add_argument("--minutes", type=number(1, 600), default=9, help="for all parts together (9)")
    parser.add_argument("--only", default=",".join(SHARES), help="parts to run (a,b,c,d,e)")
    parser.add_argument("--dry", action="store_true", help="on the fake CuPy, with tiny sizes")
    parser.add_argument("--write", action="store_true", help="put an earlier summary into docs/PERFORMANCE.md")
    args = parser.parse_args(argv)
    args.only = args.only.split(",")
    if odd := [part for part in args.only if part not in SHARES]:
        parser.error(f"--only: found {odd[0]!r}, expected some of {', '.join(SHARES)}")
    args.out = args.out.resolve()
    return args


def run(part, args, limit):
    """One part in a process group of its own: (how it ended, seconds). Its output goes to ours and to log.txt."""
    command = [sys.executable, "-m", "benchmarks.gpu_parts", part, "--out", str(args.out), "--seconds", f"{limit:.0f}",
               *(["--dry"] if args.dry else [])]
    began = time.monotonic()
    with open(args.out / "log.txt", "a+b") as log:
        start = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(limit)
            status = "passed" if process.returncode == 0 else f"FAILED with status {process.returncode}"
        except subprocess.TimeoutExpired:
            status = "STOPPED at its time limit"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)   # with the processes that it began itself
                process.wait()
        log.seek(start)
        said = log.read().decode(errors="replace").splitlines()
    kept = found(args.out, part)
    if status != "passed":                               # a crash says why in its last lines, and only there
        kept["lines"] += [f"log.txt: {line}" for line in said[-TAIL:]]
        (args.out / f"{part}.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    for line in kept["lines"]:
        print(line, flush=True)
    return status, time.monotonic() - began


def found(folder, part):
    """What a part wrote, as far as it came."""
    try:
        return json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"lines": []}


def summary(head, statuses, folder):
    """All parts in one text of at most LONGEST characters: long parts lose their middle."""
    for lines in (LINES, 30, 15, 8):
        parts = ["\n".join(head["lines"])]
        for part, status in statuses.items():
            kept = found(folder, part)["lines"]
            if len(kept) > lines:
                kept = [*kept[:lines // 2], f"... {len(kept) - lines} lines: {part}.json", *kept[-(lines // 2):]]
            parts.append("\n".join([f"{part}: {status}", *(f"  {line[:200]}" for line in kept)]))
        text = "\n\n".join(parts)
        if len(text) <= LONGEST:
            break
    return text[:LONGEST]


if __name__ == "__main__":
    sys.exit(main())
