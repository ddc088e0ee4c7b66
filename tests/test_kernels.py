"""What a GPU would be given: CuPy writes each kernel, NVRTC compiles it, and g++ compiles it for the CPU, where it must
give NumPy's numbers. That takes no GPU, only their wheels (pip install cupy-cuda12x nvidia-cuda-nvrtc-cu12) and g++."""

import ctypes
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support import fake_cupy, small
from tests.test_devices import a_batch
from tinylm2 import gpu
from tinylm2.memories import MEMORIES
from tinylm2.optim import AdamW
from tinylm2.training.step import train_step

ARCHITECTURES = ("sm_80", "sm_90")                       # A100; H100 and H200


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
        for architecture in ARCHITECTURES:               # down to machine code, which a virtual one would not be
            program = nvrtc.createProgram(source, "kernel.cu", [], [])
            try:
                nvrtc.compileProgram(program, (f"--gpu-architecture={architecture}", "-std=c++17"))
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


def without_memory(cupy, shape, dtype):
    """An array of CuPy that says all about itself and has no memory."""
    memory, dtype = cupy.cuda.memory, np.dtype(dtype)
    owner = memory.UnownedMemory(1 << 20, int(np.prod(shape)) * dtype.itemsize, None, device_id=0)
    return cupy.ndarray(shape, dtype, memptr=memory.MemoryPointer(owner, 0))


@pytest.mark.parametrize(("dtype", "pairs"), [("float32", "complex64"), ("float64", "complex128")])
@pytest.mark.parametrize("cut", [np.s_[:], np.s_[:, 2:], np.s_[:, :, ::2], np.s_[:, :0], np.s_[..., 2:6]], ids=str)
def test_strided_rows_are_seen_as_complex_numbers_where_numpy_sees_them(cupy, dtype, pairs, cut):
    """Rope turns keys that are a part of a longer run: a view, not a copy, with the same strides as NumPy's."""
    found = without_memory(cupy, (2, 5, 4, 6), dtype)[cut].view(pairs)
    expected = np.zeros((2, 5, 4, 6), dtype)[cut].view(pairs)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert expected.size == 0 or found.strides == expected.strides


def test_the_parts_of_an_upload_are_views_in_cupy_too(cupy):
    raw = without_memory(cupy, (4096,), "uint8")
    for start, dtype, shape in ((0, "int64", (4, 32)), (1024, "float32", (4, 32)), (1536, "float32", (0, 3))):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        part = raw[start:start + size].view(dtype).reshape(shape)
        assert (part.shape, part.dtype) == (shape, dtype)
        assert not size or part.data.ptr == raw.data.ptr + start


def traced(cupy, chain, arguments):
    """The kernel that cupy.fuse would launch, made from arrays that have no memory."""
    fusion = pytest.importorskip("cupy._core.fusion")
    arguments = [without_memory(cupy, *x) if isinstance(x, tuple) else x for x in arguments]
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


def test_the_kernel_of_row_by_row_sums_compiles(cupy, compiles):
    """What `einsum` of two arrays becomes: a map, a sum, and an end, as CuPy's template puts them together."""
    kernel = gpu._dot()
    text = """
        extern "C" __global__ void dot(const TYPE* all_x, const TYPE* all_y, TYPE* all_z, long long n) {
        TYPE sum = TYPE(IDENTITY);
        for (long long i = 0; i < n; ++i) { TYPE x = all_x[i], y = all_y[i], a = sum, b = MAP; sum = REDUCE; }
        TYPE a = sum; TYPE& z = *all_z; POST; }"""
    for word, expression in (("MAP", kernel.map_expr), ("REDUCE", kernel.reduce_expr), ("POST", kernel.post_map_expr),
                             ("IDENTITY", kernel.identity)):
        text = text.replace(word, expression)
    for ctype in ("float", "double"):
        compiles(text.replace("TYPE", ctype))


# ------------------------------------------------------------------------------------------ the same kernels on the CPU


def on_the_cpu(kernel, folder):
    """A kernel as a function of flat arrays by name: g++ compiles what one thread does, in a loop over the entries."""
    parameters = {p.name: p for p in kernel.in_params + kernel.out_params}
    arrays = ", ".join(f"{p.ctype}* all_{name}" for name, p in parameters.items())
    text = "\n".join([
        "#include <cmath>", "using namespace std;", "#define __device__",
        *(line for line in kernel.preamble.splitlines() if not line.startswith("#include")),
        f'extern "C" void run(long long size, {arrays}) {{',
        "for (long long i = 0; i < size; ++i) {",
        *(f"{p.ctype}& {name} = all_{name}[i];" for name, p in parameters.items()),
        kernel.operation, "}}"])
    (folder / "kernel.cpp").write_text(text)
    subprocess.run(["g++", "-shared", "-fPIC", "-w", "-ffp-contract=off", "-o", folder / "kernel.so",
                    folder / "kernel.cpp"], check=True)
    run = ctypes.CDLL(str(folder / "kernel.so")).run

    def call(size, arrays):
        run(ctypes.c_longlong(size), *(arrays[name].ctypes.data_as(ctypes.c_void_p) for name in parameters))

    return parameters, call


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CHAINS)
def test_a_kernel_does_what_its_chain_does_in_numpy(cupy, tmp_path, name, dtype):
    """Which argument is written, what is returned in which order, what is broadcast: all that a trace can get wrong."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    chain, described = chains_of_a_step(dtype)[name]
    kernel = traced(cupy, chain, described)
    rng = np.random.default_rng(0)
    given = [(rng.uniform(0.5, 1.5, x[0]) if x[1].kind == "f" else rng.integers(0, 2, x[0])).astype(x[1])
             if isinstance(x, tuple) else x for x in described]
    shape = np.broadcast_shapes(*(np.shape(x) for x in given))
    parameters, call = on_the_cpu(kernel, tmp_path)
    arrays = {n: np.array(np.broadcast_to(given[int(n[1:])], shape), p.dtype, order="C") if int(n[1:]) < len(given)
              else np.empty(shape, p.dtype) for n, p in parameters.items()}
    call(int(np.prod(shape)), arrays)
    returned = chain(np, *given)                         # writes into `given` where the kernel writes into `arrays`
    returned = () if returned is None else returned if isinstance(returned, tuple) else (returned,)
    made = [n for n in parameters if int(n[1:]) >= len(given)]
    assert len(made) == len(returned)
    close = dict.fromkeys(("rtol", "atol"), 1e-6 if dtype == "float32" else 1e-14)
    for n, y in zip(made, returned, strict=True):
        assert arrays[n].dtype == y.dtype
        np.testing.assert_allclose(arrays[n], y, **close)
    for n in parameters.keys() - set(made):
        np.testing.assert_allclose(arrays[n], np.broadcast_to(given[int(n[1:])], shape), **close)
