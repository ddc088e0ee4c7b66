"""The benchmarks compare the same model, and what they say of a process is true."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import step
from tinylm2.gpu import array_module
from tinylm2.model import Config


@pytest.mark.parametrize(("memory", "segments", "last"), [("none", 1, 6), ("none", 2, 3), ("lm2", 3, 2)])
@pytest.mark.parametrize("compiled", [False, True])
def test_pytorch_trains_the_same_model(memory, segments, last, compiled, monkeypatch):
    """Loss after loss: the forward pass, every gradient, clipping and AdamW are the same on both sides."""
    torch = pytest.importorskip("torch", reason="PyTorch, to compare with, is not installed (pip install torch)")
    monkeypatch.setattr(torch, "compile", lambda function: function)     # what it would compile, without the minute
    work = step.Workload(Config(V=11, D=8, L=2, H=2, G=2, F=12, N=4, T=6, memory=memory), 3, last, segments)
    xp = array_module("cpu")
    ours, theirs = step.tinylm2_step(work, xp), step.torch_step(work, xp, compiled=compiled)
    losses = [(ours(), theirs()) for _ in range(8)]
    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-4)
    assert losses[-1][0] < losses[0][0]


def test_arrays_that_are_freed_leave_their_memory_to_the_next():
    """Each page that the system hands out is a fault; without `keep_memory` every array of the loop faults anew."""
    resource = pytest.importorskip("resource", reason="page faults are not counted here")
    if sys.platform != "linux":
        pytest.skip("glibc alone has the knob")
    assert resource
    code = """
import resource
import numpy as np
from tinylm2.cli.console import keep_memory
if KEEP: keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        held = [np.ones(2**18) for _ in range(16)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    kept, handed_back = (int(subprocess.run([sys.executable, "-c", code.replace("KEEP", keep)], check=True, text=True,
                                            stdout=subprocess.PIPE).stdout) for keep in ("True", "False"))
    assert 10 * kept < handed_back
