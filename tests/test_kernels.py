"""What a GPU would be given: CuPy writes each kernel and NVRTC compiles it. That takes no GPU, only their wheels
(pip install cupy-cuda12x nvidia-cuda-nvrtc-cu12)."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.support import fake_cupy, small
from tests.test_devices import a_batch
from tinylm2 import gpu
from tinylm2.memories import MEMORIES
from tinylm2.optim import AdamW
from tinylm2.training.step import train_step


@pytest.fixture(scope="module")
def cupy():
    try:
        import cupy
    except ImportError as error:
        pytest.skip(f"cupy is not installed ({error})")
    return cupy


@pytest.fixture(scope="module")
def compiles(cupy):
    """Compile a CUDA source; pytest.fail says what NVRTC has against it."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except Exception as error:                           # a missing library raises whatever CuPy's loader raises
        pytest.skip(f"NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12): {error}".splitlines()[0])

    def compile(source):
        program = nvrtc.createProgram(source, "kernel.cu", [], [])
        try:
            nvrtc.compileProgram(program, ("--gpu-architecture=compute_80", "-std=c++17"))
        except nvrtc.NVRTCError:
            pytest.fail(nvrtc.getProgramLog(program))

    return compile


def chains_of_a_step(dtype):
    """Every chain that a training step runs, whatever the memory: name -> (chain, what it was called with)."""
    with fake_cupy.watch() as seen:
        for cfg in map(small.VARIANTS.get, MEMORIES):
            params = small.on_device(small.params(cfg, dtype), fake_cupy.xp)
            train_step(params, AdamW(params), a_batch(cfg), cfg=cfg, lr=1e-2)
    return seen.chains


CHAINS = chains_of_a_step("float32")


def traced(cupy, chain, arguments):
    """The kernel that cupy.fuse would launch, made from arrays that have no memory."""
    fusion = pytest.importorskip("cupy._core.fusion")
    memory = cupy.cuda.memory

    def pretend(shape, dtype):
        owner = memory.UnownedMemory(1 << 20, int(np.prod(shape)) * dtype.itemsize, None, device_id=0)
        return cupy.ndarray(shape, dtype, memptr=memory.MemoryPointer(owner, 0))

    arguments = [pretend(*x) if isinstance(x, tuple) else x for x in arguments]
    history, state = fusion._FusionHistory(), fusion._thread_local
    state.history, state.is_old_fusing = history, True
    try:
        return history.get_fusion(lambda *args: chain(cupy, *args), arguments, chain.__name__)[0]
    finally:
        state.history, state.is_old_fusing = None, False


def source(name, inputs, outputs, body, preamble=""):
    """A kernel of one thread an entry around a body, as CuPy would write it were every array contiguous."""
    parameters = inputs + outputs
    return "\n".join([
        *(line for line in preamble.splitlines() if not line.startswith("#include")),
        f'extern "C" __global__ void {name}('
        + ", ".join(f"{p.ctype}* all_{p.name}" for p in parameters) + ", long long size) {",
        "long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;",
        "if (i >= size) return;",
        *(f"{p.ctype}& {p.name} = all_{p.name}[i];" for p in parameters),
        body, "}"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_becomes_one_kernel_of_its_own_precision(cupy, compiles, name, dtype):
    """A constant between two numbers would be a float16 on the way, and a float64 where float32 came in costs twice."""
    kernel = traced(cupy, *chains_of_a_step(dtype)[name])
    arrays = [p for p in kernel.in_params + kernel.out_params if p.dtype in (np.float32, np.float64)]
    assert arrays[0].dtype == dtype
    text = source(kernel.name, kernel.in_params, kernel.out_params, kernel.operation, kernel.preamble)
    assert "float16" not in text
    made = [line.split()[0] for line in kernel.operation.splitlines() if line.startswith(("float v", "double v"))]
    assert set(made) <= {{"float32": "float", "float64": "double"}[dtype]}
    compiles(text)


@pytest.mark.parametrize("ctype", ["float", "double"])
def test_the_kernel_that_adds_runs_compiles(compiles, ctype):
    types = f"typedef {ctype} T; typedef long long S;"
    compiles(f"{types}\n" + source("segment_sum", [], [SimpleNamespace(ctype="T", name="y")], gpu.KERNEL)
             .replace("(T* all_y,", "(const T* x, const S* starts, long long width, T* all_y,"))
