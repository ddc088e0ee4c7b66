"""The ground floor: whose arrays these are, whether there is a GPU, and the contract that checks shapes."""

import re
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tests.support import fake_cupy
from tinylm2 import backend
from tinylm2.backend import check_shapes, get_xp, to_device, to_host
from tinylm2.gpu import NoGPU, _plan, array_module, gpu


def on_device(x):
    return to_device(x, fake_cupy.xp)


# --------------------------------------------------------------------------------------------------------- whose arrays


def test_arrays_name_their_module():
    assert get_xp(np.zeros(3), np.zeros(2, np.int64)) is np
    assert get_xp(on_device(np.zeros(3))) is fake_cupy.xp


def test_arrays_of_two_modules_are_refused():
    with pytest.raises(TypeError, match=f"^arrays of numpy and of {fake_cupy.xp.__name__} in one operation$"):
        get_xp(np.zeros(3), on_device(np.zeros(3)))
    with pytest.raises(TypeError, match=f"^arrays of {fake_cupy.xp.__name__} and of numpy in one operation$"):
        get_xp(on_device(np.zeros(3)), np.zeros(3))


@pytest.mark.parametrize("other", [3.0, [1, 2], None, np.float32(2), np.ma.zeros(3)], ids=lambda x: type(x).__name__)
def test_something_that_is_no_array_is_refused_by_its_type(other):
    with pytest.raises(TypeError, match=rf"^found a .*{type(other).__name__}, expected an array of .*numpy\.ndarray"):
        get_xp(np.zeros(3), other)


def test_to_the_device_and_back_is_a_copy_of_the_same_bits():
    x = np.random.default_rng(0).standard_normal((2, 3))
    there = on_device(x)
    there[0] = 0.0
    back = to_host(there)
    back[1] = 1.0
    assert x.all()
    assert not to_host(there)[0].any()
    assert np.array_equal(to_host(there)[1], x[1])


def test_numpy_is_its_own_device():
    x = np.zeros(3)
    assert to_device(x, np) is x
    assert to_host(x) is x


# ------------------------------------------------------------------------------------------------------ is there a GPU


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine: machine(cupy=a module, or an error that importing it raises)."""
    monkeypatch.setattr(backend, "_HOMES", dict(backend._HOMES))
    gpu.cache_clear()

    def pretend(cupy):
        if isinstance(cupy, Exception):
            monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=raiser(cupy)), *sys.meta_path])
            monkeypatch.delitem(sys.modules, "cupy", raising=False)
        else:
            monkeypatch.setitem(sys.modules, "cupy", cupy)

    yield pretend
    gpu.cache_clear()


def raiser(error):
    def find_spec(name, *_):
        if name == "cupy":
            raise error
    return find_spec


class FakeArray(np.ndarray):
    def get(self):
        return np.asarray(self)


def module_like_cupy(available=True, product=None):
    """As much of CuPy as `gpu()` needs, on the host."""
    cupy = ModuleType("cupy")
    cupy.ndarray, cupy.float32, cupy.asnumpy = FakeArray, np.float32, np.asarray

    def arange(*args, **keywords):
        if isinstance(product, Exception):
            raise product
        return (np.arange(*args, **keywords) + (product or 0)).view(FakeArray)

    cupy.arange = arange
    cupy.cuda = SimpleNamespace(
        is_available=lambda: available,
        Device=lambda number: SimpleNamespace(use=lambda: cupy.used.append(number)),
        runtime=SimpleNamespace(getDeviceProperties=lambda _: {"name": b"Pretended GPU"}, getDeviceCount=lambda: 2))
    cupy.used = []
    return cupy


@pytest.mark.parametrize(("cupy", "why"), [
    (ImportError("No module named 'cupy'"), "cupy cannot be imported (ImportError: No module named 'cupy')"),
    (OSError("libcuda is broken\nand more"), "cupy cannot be imported (OSError: libcuda is broken)"),
    (module_like_cupy(available=False), "cupy finds no CUDA device"),
    (module_like_cupy(product=RuntimeError("no NVRTC\nat all")), "a smoke kernel failed (RuntimeError: no NVRTC)"),
    (module_like_cupy(product=1), "a smoke kernel gave a wrong number"),
], ids=["no package", "broken package", "no device", "no CUDA libraries", "wrong number"])
def test_the_reason_for_no_gpu_is_one_line(machine, capsys, cupy, why):
    machine(cupy)
    assert gpu() == (False, why)
    assert array_module("auto") is np
    assert capsys.readouterr().err == f"running on the CPU: {why}\n"
    with pytest.raises(NoGPU, match="^" + re.escape(f"no GPU can be used: {why}") + "$"):
        array_module("gpu")


def test_a_gpu_that_runs_a_kernel_is_used_and_its_arrays_are_known(machine, capsys):
    cupy = module_like_cupy()
    machine(cupy)
    assert gpu() == (True, "Pretended GPU")
    assert array_module("auto") is array_module("gpu") is cupy
    assert get_xp(np.zeros(3).view(FakeArray)) is cupy
    assert capsys.readouterr().err == ""


def test_each_process_takes_a_gpu_counted_around(machine):
    cupy = module_like_cupy()
    machine(cupy)
    for rank in range(3):
        array_module("gpu", rank)
    assert cupy.used == [0, 1, 0]


def test_cupy_is_not_imported_when_the_cpu_is_named(machine, capsys):
    machine(AssertionError("asked"))
    assert array_module("cpu") is np
    assert capsys.readouterr().err == ""


def test_a_device_of_another_name_is_refused():
    with pytest.raises(ValueError, match="^device: found 'cuda', expected auto, cpu or gpu$"):
        array_module("cuda")


# -------------------------------------------------------------------------------------------------- the shape contract


@pytest.mark.parametrize("shapes", [
    {"x": ((2, 3, 8), "... D"), "g": ((8,), "D")},
    {"x": ((8,), "... D"), "g": ((8,), "D")},
    {"x": ((2, 3), "B T"), "y": ((2, 3, 4), "B T 4")},
    {"x": ((0, 3), "B T"), "y": ((0,), "B")},
    {"x": ((), "")},
], ids=str)
def test_shapes_that_fit_pass(shapes):
    assert check_shapes("op", **{name: (np.zeros(shape), spec) for name, (shape, spec) in shapes.items()}) is None


@pytest.mark.parametrize(("shapes", "said"), [
    ({"x": ((2, 8), "... D"), "g": ((7,), "D")}, "g has shape (7,), expected (D) with D=8 from x"),
    ({"x": ((2, 8), "... D"), "g": ((8, 1), "D")}, "g has shape (8, 1), expected (D) with D=8 from x"),
    ({"x": ((2, 8), "D")}, "x has shape (2, 8), expected (D)"),
    ({"x": ((8,), "... T D")}, "x has shape (8,), expected (..., T, D)"),
    ({"x": ((2, 3), "B T"), "y": ((3, 2), "B T")}, "y has shape (3, 2), expected (B, T) with B=2 from x, T=3 from x"),
    ({"x": ((2, 3), "D D")}, "x has shape (2, 3), expected (D, D)"),
    ({"x": ((2, 3), "B 4")}, "x has shape (2, 3), expected (B, 4)"),
    ({"x": ((1, 3), "B T"), "y": ((2, 3), "B T")}, "y has shape (2, 3), expected (B, T) with B=1 from x, T=3 from x"),
], ids=str)
def test_shapes_that_do_not_fit_are_named_with_what_bound_them(shapes, said):
    with pytest.raises(ValueError, match="^" + re.escape(f"op: {said}") + "$"):
        check_shapes("op", **{name: (np.zeros(shape), spec) for name, (shape, spec) in shapes.items()})


def test_an_absent_array_is_left_out():
    assert check_shapes("op", x=(np.zeros((2, 3)), "B T"), pad=(None, "B")) is None


def test_the_contract_reads_no_value():
    with fake_cupy.watch() as seen:
        check_shapes("op", x=(on_device(np.zeros((2, 3))), "B T"))
    assert not seen.operations
    assert not seen.copies


# ------------------------------------------------------------------------------------------------------ sums on a GPU


@pytest.mark.parametrize(("sums", "ndim", "plan"), [
    ("...d,...d->...", 3, ((2,), None)), ("rd,rd->d", 2, ((0,), None)), ("...ut->...t", 4, ((2,), None)),
    ("bthk,bthk->bht", 4, ((3,), (0, 2, 1))), ("rv->r", 2, ((1,), None)), ("btd->d", 3, ((0, 1), None)),
], ids=str)
def test_a_sum_is_planned_as_einsum_means_it(sums, ndim, plan):
    assert _plan(sums, ndim) == plan
    shape, (axes, order) = tuple(range(2, 2 + ndim)), plan
    arrays = [np.random.default_rng(i).standard_normal(shape) for i in range(sums.count(",") + 1)]
    found = np.prod(arrays, 0).sum(axes)
    np.testing.assert_allclose(found if order is None else found.transpose(order), np.einsum(sums, *arrays))


@pytest.mark.parametrize("sums", ["ij,jk->ik", "ij,ij,ij->i", "ij->ij", "i,j->ij"])
def test_a_sum_that_is_more_than_a_sum_is_refused(sums):
    with pytest.raises(ValueError, match=f"^einsum: found '{re.escape(sums)}', expected one or two arrays"):
        _plan(sums, 2)
