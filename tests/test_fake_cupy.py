"""fake_cupy itself: as strict as CuPy and stricter, the same numbers as NumPy, every kernel counted."""

import inspect

import numpy as np
import pytest

from tests.support import fake_cupy
from tinylm2.backend import to_device, to_host


def there(x):
    return to_device(np.asarray(x), fake_cupy.xp)


X = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize("use", [
    lambda x: np.exp(x), lambda x: np.add(x, 1.0), lambda x: np.concatenate([x, x]), lambda x: np.sum(x),
    lambda x: np.asarray(x), lambda x: np.array([x, x]), lambda x: np.multiply(X, 2.0, out=x),
], ids=["exp", "add", "concatenate", "sum", "asarray", "array", "out"])
def test_fake_cupy_refuses_numpys_functions(use):
    with pytest.raises(TypeError):
        use(there(X))


@pytest.mark.parametrize("use", [
    bool, float, int, complex, list, iter, lambda x: x.item(), lambda x: x.tolist(), lambda x: x.get(), range,
    lambda x: 1.0 in x, lambda x: [1, 2, 3][x], lambda x: np.zeros(3)[x.astype("int64")], lambda x: f"{x:.3f}",
], ids=["bool", "float", "int", "complex", "list", "iter", "item", "tolist", "get", "range", "in", "list index",
        "host index", "format"])
def test_fake_cupy_refuses_to_become_a_number_by_itself(use):
    with fake_cupy.watch() as seen, pytest.raises(TypeError):
        use(there(1.0))
    assert not seen.copies


@pytest.mark.parametrize("use", [
    lambda x: x + X, lambda x: X + x, lambda x: X @ x.T, lambda x: x @ X.T, lambda x: x < X, lambda x: x.__iadd__(X),
    lambda x: x.__setitem__(0, X[0]), lambda x: x[np.array([0, 1])], lambda x: x[[0, 1]], lambda x: x[x > 1],
    lambda x: fake_cupy.xp.where(x > 1, x, X), lambda x: fake_cupy.xp.concatenate((x, X)), lambda x: x + np.array(1.0),
    lambda x: fake_cupy.xp.exp(x, out=np.zeros((2, 3))),
], ids=["+", "swapped +", "swapped @", "@", "<", "+=", "set", "index", "list", "mask", "where", "concatenate", "0-d",
        "out"])
def test_fake_cupy_refuses_host_arrays_and_masks(use):
    with pytest.raises(TypeError):
        use(there(X))


def test_fake_cupy_refuses_what_cupy_has_not():
    for use in (lambda x: fake_cupy.xp.tril(x), lambda x: fake_cupy.xp.einsum("ij->i", x, optimize=True),
                lambda x: fake_cupy.xp.argsort(x, kind="quicksort"), lambda x: x.sum(where=x > 1),
                lambda x: x.cumsum()):
        with pytest.raises((TypeError, AttributeError)):
            use(there(X))


def test_fake_cupy_takes_scalars_and_stays_on_the_device():
    x = there(X)
    for y in (x + 1, 2.0 * x, np.float64(2) * x, x / np.float32(3), x.sum(), x.sum() * 2, x[1, 2], x[0] @ x[1], -x):
        assert type(y) is fake_cupy.Array
    assert np.array_equal(to_host(3 - x), 3 - X)
    assert np.array_equal(to_host(2.0 ** x), 2.0 ** X)


def test_an_index_out_of_range_is_refused_where_a_gpu_would_wrap_it():
    with pytest.raises(IndexError):
        there(X)[there([0, 2])]


def test_operations_are_counted_and_views_are_not():
    x = there(X)
    with fake_cupy.watch() as seen:
        x.T, x.reshape(3, 2), x[:, 1:], x[..., None], x[0], x.transpose(1, 0), x.reshape(3, 2).view("complex128")
        fake_cupy.xp.ascontiguousarray(x), fake_cupy.xp.broadcast_to(x, (4, 2, 3)), fake_cupy.xp.empty((2, 2)), x.shape
        x[:0] + 1, x.astype(x.dtype, copy=False)
    assert not +seen.operations
    with fake_cupy.watch() as seen:
        x + 1, x @ x.T, x.sum(), x.T.reshape(6), fake_cupy.xp.ascontiguousarray(x.T), fake_cupy.xp.zeros(3)
        x[there([0, 1])], fake_cupy.xp.exp(x, out=x), x.astype("float32"), x.copy()
        x += 1
        x[0] = 2.0
    assert seen.operations.total() == 12
    assert seen.multiply_adds == 2 * 3 * 2               # of x @ x.T
    assert seen.operations["__matmul__"] == seen.operations["__iadd__"] == seen.operations["take"] == 1


def test_copies_to_and_from_the_device_are_noted():
    with fake_cupy.watch() as seen:
        x = there(X)
        to_host(x[0])
    assert seen.uploads == [(2, 3)]
    assert seen.copies == [(3,)]


@pytest.mark.parametrize("table", ["FUNCTIONS", "METHODS"])
def test_cupy_has_every_function_and_keyword_of_fake_cupy(table):
    """Needs CuPy, but no GPU: it imports without one."""
    try:
        import cupy
    except ImportError as error:
        pytest.skip(f"cupy is not installed ({error})")
    home = cupy if table == "FUNCTIONS" else cupy.ndarray
    for name, keywords in getattr(fake_cupy, table).items():
        function = getattr(home, name)
        described = f"{_signature(function)} {(function.__doc__ or '').partition(chr(10))[0]}"
        assert all(keyword in described for keyword in keywords.split()), f"{name}: {keywords}, but {described}"
    for name in (*fake_cupy.METADATA, *(f"__{name}__" for name in (*fake_cupy.BINARY, *fake_cupy.OTHERS))):
        assert hasattr(cupy.ndarray, name), name
    assert all(hasattr(cupy, name) for name in (*fake_cupy.CONSTANTS, "asarray", "empty", "empty_like"))
    assert cupy.fuse


def _signature(function):
    try:
        return inspect.signature(function)
    except ValueError:                                   # CuPy's compiled methods say it in their docstring
        return ""
