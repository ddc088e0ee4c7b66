"""The house: imports only point down, and a file is short enough to be read at one sitting, an op at one glance."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinylm2"
FILES = {"tinylm2." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
         for path in sorted(PACKAGE.rglob("*.py"))}
PAGE = 60                                                # lines

# Every file with the step of the ladder that it stands on. It may import what stands lower, and `data` from the step
# of those that know what a story is; data itself imports nothing but data.
LADDER = [
    ["backend"],
    ["flat"],
    ["ops", "optim", "gradcheck"],
    ["layers"],
    ["memory"],
    ["model"],
    ["cases", "generate", "checkpoint", "diagnose"],
    ["train", "evaluate", "trace"],
    ["runs", "plots", "explore"],
    ["console", "__init__"],
    ["commands"],
    ["__main__"],
]
STEP = {"tinylm2." + name: step for step, names in enumerate(LADDER) for name in names}
KNOWS_STORIES = STEP["tinylm2.recurrence"]
CORE = ["ops", "layers", "memory", "model"]
NEEDED = {"tinylm2.backend": {"numpy", "cupy"}, "tinylm2.data": {"numpy", "tokenizers"},
          "tinylm2.inspect.plots": {"numpy", "matplotlib"}}      # tqdm: who shows a run


def house(name):
    """The file or folder whose place on the ladder counts: tinylm2.data.tasks.qa -> tinylm2.data."""
    return ".".join(name.split(".")[:2])


def imports(path):
    """Every module that a file imports, wherever it does: (name, line). What a package gives may be a file of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}:{node.lineno}: a relative import"
            files = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((f if f in FILES else node.module, node.lineno) for f in files)


def test_every_file_has_its_place():
    homeless = {house(name) for name in FILES} - STEP.keys() - {"tinylm2.data"}
    assert not homeless, f"{homeless}: say in LADDER above where it stands"


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    here = house(name)
    for imported, line in imports(FILES[name]):
        there = house(imported)
        if not imported.startswith("tinylm2") or there == here and here in ("tinylm2.data", "tinylm2.cli"):
            continue
        if here == "tinylm2.data":
            down = False
        elif there == "tinylm2.data":
            down = STEP[here] >= KNOWS_STORIES and here != "tinylm2.checking.cases"
        else:
            down = STEP[there] < STEP[here]
        assert down, f"{FILES[name]}:{line}: {name} imports {imported}"


@pytest.mark.parametrize("name", FILES)
def test_only_the_five_packages_are_needed(name):
    here = house(name)
    allowed = NEEDED[here] if here in NEEDED else {"numpy"} if STEP[here] < STEP["tinylm2.training.run_dir"] else {"numpy", "tqdm"}
    for imported, line in imports(FILES[name]):
        top = imported.partition(".")[0]
        assert top in sys.stdlib_module_names or top == "tinylm2" or top in allowed, f"{name}:{line}: {imported}"


def test_only_the_ground_floor_names_cupy():
    named = {name for name in FILES for imported, _ in imports(FILES[name]) if imported.startswith("cupy")}
    assert named <= {"tinylm2.backend"}


# --------------------------------------------------------------------------------------------------------- how it reads


def functions(name):
    """Every function and method of a file."""
    for node in ast.walk(ast.parse(FILES["tinylm2." + name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


@pytest.mark.parametrize("name", [name for names in LADDER for name in names if name != "commands"])
def test_no_function_is_longer_than_a_page(name):
    for node in functions(name):
        assert node.end_lineno - node.lineno < PAGE, f"{name}.{node.name}: {node.end_lineno - node.lineno + 1} lines"


@pytest.mark.parametrize("name", CORE)
def test_every_backward_stands_directly_below_its_forward(name):
    public = [node.name for node in ast.parse(FILES["tinylm2." + name].read_text(encoding="utf-8")).body
              if isinstance(node, ast.FunctionDef)]
    pairs = [f.rpartition("_")[0] for f in public if f.endswith("_forward")]
    assert pairs
    for pair in pairs:
        assert public[public.index(pair + "_forward") + 1] == pair + "_backward"
    assert sorted(f for f in public if f.endswith("_backward")) == sorted(pair + "_backward" for pair in pairs)


@pytest.mark.parametrize("name", CORE)
def test_a_pairs_arrays_are_positional_and_its_constants_are_named(name):
    """Positional arguments have gradients, so none has a default; a backward takes upstream gradients and the cache."""
    for node in functions(name):
        if node.name.endswith(("_forward", "_backward")):
            assert not node.args.defaults, node.name
            assert ast.get_docstring(node), node.name
        if node.name.endswith("_backward"):
            names = [argument.arg for argument in node.args.args]
            assert names[-1] == "cache", node.name
            assert all(argument.startswith("d") for argument in names[:-1]), node.name
            assert not node.args.kwonlyargs, node.name


@pytest.mark.parametrize("name", CORE + ["generate", "train"])
def test_pairs_are_called_through_their_module(name):
    """So that a student's own function can be put in the place of any of them."""
    for node in ast.walk(ast.parse(FILES["tinylm2." + name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            taken = [alias.name for alias in node.names if alias.name.endswith(("_forward", "_backward"))]
            assert not taken, f"{name}:{node.lineno}: from {node.module} import {taken}"


@pytest.mark.parametrize("name", ["ops", "layers", "memory"])
def test_ops_name_no_real_dtype_and_draw_no_random_numbers(name):
    used = {node.attr for node in ast.walk(ast.parse(FILES["tinylm2." + name].read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute)}
    assert not used & {"float16", "float32", "float64", "float_", "double", "random", "default_rng"}
