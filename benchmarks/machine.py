"""Describe the machine of a measurement, measure time and memory, and write results into a page."""

import json
import os
import platform
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tinylm2.gpu import gpu

PAGE = Path(__file__).parents[1] / "docs" / "PERFORMANCE.md"
LIBRARIES = ("numpy", "torch", "cupy-cuda12x", "cupy-cuda13x")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def describe(xp=np):
    """The machine, the date and the versions, in two lines."""
    device = "" if xp is np else f"{gpu()[1]}, "
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES if has(name))
    return (f"{device}{processor()}, {CORES} cores, {platform.system()} {platform.machine()}, {date.today()}.\n"
            f"Python {platform.python_version()}, {libraries}; {os.environ['OPENBLAS_NUM_THREADS']} thread, "
            f"sgemm peak {sgemm_peak() / 1e9:.0f} GFLOP/s.")


def in_short():
    """The date, the machine and Python, as part of a line."""
    return f"{date.today()}, {CORES} x {processor()}, Python {platform.python_version()}"


def has(name):
    try:
        return bool(version(name))
    except ImportError:                                  # PackageNotFoundError is one
        return False


def processor():
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def sgemm_peak(n=1024, tries=8):
    """Floating-point operations per second of the best of a few square products: an upper limit for everything else."""
    x = np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)
    return 2 * n**3 / min(seconds(lambda: x @ x, time.process_time) for _ in range(tries))


def seconds(function, clock):
    """The seconds of one call by a clock. time.process_time counts only this process, however busy the machine is."""
    began = clock()
    function()
    return clock() - began


@contextmanager
def one_core():
    """In this context, keep the process on one core, where the system allows it: a move would cost its cache."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def resident(peak=False):
    """Bytes of memory that this process holds, or held at most; NaN where the system does not say (not Linux).

    Read from /proc, because the peak of getrusage includes memory of the parent process before the exec.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM" if peak else "VmRSS"))
    except OSError:
        return float("nan")


def fresh(module, *args, threads=1):
    """The JSON that `python -m module ARGS` prints, in a new process with this number of threads."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    command = [sys.executable, "-m", module, *map(str, args)]
    done = subprocess.run(command, env=os.environ | dict.fromkeys(names, str(threads)), cwd=PAGE.parents[1],
                          stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def write(section, text, place=None):
    """Write a text between the marks of its section on a page (docs/PERFORMANCE.md)."""
    place = place or PAGE                                # looked up here: a test writes to another page
    page = place.read_text(encoding="utf-8")
    begin, end = f"<!-- {section} -->\n", f"<!-- end of {section} -->"
    head, found, rest = page.partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{place}: found no place between {begin.strip()} and {end}")
    place.write_text(head + begin + "\n" + text + "\n\n" + end + rest.partition(end)[2], encoding="utf-8")
    print(f"written into {place}")
