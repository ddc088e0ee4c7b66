"""The house: imports only point down, only the files of memories/ know a memory, and a file is short enough to read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tinylm2
from tinylm2.memories import MEMORIES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinylm2"
FILES = {"tinylm2." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
         for path in sorted(PACKAGE.rglob("*.py"))}
PAGE = 60                                                # lines

# Every file and every room (a folder) with the step of the ladder that it stands on. A file may import what stands
# lower, and what stands in its own room.
LADDER = [
    ["backend", "course", "errors"],
    ["files", "flat", "gpu", "ops"],
    ["layers"],
    ["memories"],
    ["model"],
    ["recurrence", "decoding"],
    ["optim", "gradcheck"],
    ["checking", "inspect"],
    ["training"],
    ["interop"],
    ["__init__"],
    ["cli"],
    ["__main__"],
]
STEP = {"tinylm2." + name: step for step, names in enumerate(LADDER) for name in names}
STEP["tinylm2.__init__"] = -1                            # the version; the public names are loaded when they are used
DATA = "tinylm2.data"                                    # beside the ladder: it stands on `errors` and `files` alone
KNOW_STORIES = {"tinylm2." + name for name in ("inspect", "training", "interop", "cli", "__main__")}
OPS = ["tinylm2.ops", "tinylm2.layers", *(name for name in FILES if name.startswith("tinylm2.memories."))]
PAIRS = [*OPS, "tinylm2.model", "tinylm2.recurrence"]    # the files that hold pairs
CORE = ["backend", "flat", "ops", "layers", "memories/lm2", "model", "recurrence", "optim", "training/step"]
CORE_LINES = 1500                                        # docstrings and blank lines, too: an afternoon's reading
NEEDED = {"tinylm2.gpu": "cupy", "tinylm2.data.tokenizer": "tokenizers", "tinylm2.data.published": "tokenizers",
          "tinylm2.interop.gguf_file": "gguf", "tinylm2.course": "pytest", "tinylm2.__main__": "tutorials",
          "tinylm2.interop.modeling_lm2": "torch transformers", "tinylm2.inspect.plots": "matplotlib",
          "tinylm2.data.two_sample": "sklearn",
          "tinylm2.training.communicator": "mpi4py"}     # beside numpy; tqdm: the commands


def source(name):
    return FILES[name].read_text(encoding="utf-8")


def house(name):
    """The file or room whose place on the ladder counts: tinylm2.data.tasks.world -> tinylm2.data."""
    return ".".join([*name.split("."), "__init__"][:2])


def imports(text):
    """Every module that a source imports, wherever it does: (name, line). What a package gives may be a file of it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            files = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((f if f in FILES else node.module, node.lineno) for f in files)


def upward(here, text):
    """(imported, line) of the imports of a source that do not point down; `here` is its file or room."""
    for imported, line in imports(text):
        there = house(imported)
        if not imported.startswith("tinylm2") or there == here and here not in FILES:
            continue
        if here == DATA:
            down = there in ("tinylm2.errors", "tinylm2.files")
        elif there == DATA:
            down = here in KNOW_STORIES
        else:
            down = STEP[there] < STEP[here]
        if not down:
            yield imported, line


def test_every_file_has_its_place():
    homeless = {house(name) for name in FILES} - STEP.keys() - {DATA}
    assert not homeless, f"{homeless}: say in LADDER above where it stands"


@pytest.mark.parametrize("name", [name for name in FILES if name != "tinylm2.__init__"])
def test_imports_point_down(name):
    assert not list(upward(house(name), source(name)))


def test_the_package_is_quick_to_import_and_every_public_name_loads():
    quick = "import sys, tinylm2; sys.exit(sorted({'tokenizers', 'tqdm', 'numpy'} & set(sys.modules)) != [])"
    assert subprocess.run([sys.executable, "-c", quick], cwd=ROOT, timeout=60).returncode == 0
    assert [name for name in tinylm2.__all__ if not hasattr(tinylm2, name)] == []
    assert not hasattr(tinylm2, "no_such_name")


@pytest.mark.parametrize(("here", "text"), [
    ("tinylm2.ops", "from tinylm2 import layers"), ("tinylm2.backend", "import tinylm2.errors"),
    ("tinylm2.memories", "from tinylm2.model import Config"), ("tinylm2.data", "from tinylm2.backend import get_xp"),
    ("tinylm2.model", "def f():\n    import tinylm2.data.babi"), ("tinylm2.checking", "from tinylm2.data import TASKS"),
    ("tinylm2.checking", "from tinylm2.inspect import trace"), ("tinylm2.flat", "from tinylm2.ops import x"),
])
def test_an_import_that_points_up_is_found(here, text):
    assert list(upward(here, text))


@pytest.mark.parametrize(("here", "text"), [
    ("tinylm2.data", "from tinylm2.data.rng import Rng\nfrom tinylm2.errors import BadInput"),
    ("tinylm2.cli", "from tinylm2 import __version__\nfrom tinylm2.cli.ask import question_of"),
    ("tinylm2.memories", "from tinylm2.memories import lm2\nimport numpy"),
])
def test_an_import_of_what_stands_lower_or_in_the_same_room_is_fine(here, text):
    assert not list(upward(here, text))


@pytest.mark.parametrize("name", FILES)
def test_only_the_packages_that_a_user_installs_are_needed(name):
    allowed = {"tinylm2", "numpy", *NEEDED.get(name, "").split(), "tqdm" if house(name) == "tinylm2.cli" else None}
    for imported, line in imports(source(name)):
        top = imported.partition(".")[0]
        assert top in sys.stdlib_module_names or top in allowed, f"{name}:{line}: {imported}"


# ----------------------------------------------------------------------------------------------- who knows the memories


def memories_named(text):
    """(line, what) where code names one memory: by a string, or by its module. "none" is no memory's name."""
    names = MEMORIES.keys() - {"none"}
    modules = {memory.__name__ for memory in MEMORIES.values() if memory is not None}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and node.value in names:
            yield node.lineno, node.value
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("memories") and node.attr in names:
            yield node.lineno, ast.unparse(node)
    yield from ((line, imported) for imported, line in imports(text) if imported in modules)


@pytest.mark.parametrize("name", [name for name in FILES if house(name) != "tinylm2.memories"])
def test_no_memory_is_named_outside_of_memories(name):
    """All that is done for a memory is done by the interface, so a new one needs no edit elsewhere."""
    lines = source(name).splitlines()
    found = [lines[line - 1].strip() for line, _ in memories_named(source(name))]
    assert found == (['memory: str = "lm2"'] if name == "tinylm2.model" else [])     # the one default, Config's


@pytest.mark.parametrize("text", [
    'if cfg.memory == "rmt":\n    pass', "from tinylm2.memories import lm2", "import tinylm2.memories.window",
    "from tinylm2 import memories\nmemories.pooled.check", 'f = {"window": 1}', "from tinylm2.memories.rmt import cost",
])
def test_a_memory_s_name_in_code_is_found(text):
    assert list(memories_named(text))


@pytest.mark.parametrize("text", ['"""As lm2 does; rmt is another."""', 'memory = "none"', 'memory == "lm2 or rmt"',
                                  "from tinylm2.memories import MEMORIES"])
def test_prose_and_none_name_no_memory(text):
    assert not list(memories_named(text))


# --------------------------------------------------------------------------------------------------------- how it reads


def functions(text):
    """Every function and method of a source."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_the_core_is_an_afternoon_s_reading():
    lines = {name: len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in CORE}
    assert sum(lines.values()) <= CORE_LINES, f"{sum(lines.values())} lines: {lines}"


@pytest.mark.parametrize("name", FILES)
def test_no_function_is_longer_than_a_page(name):
    for node in functions(source(name)):
        assert node.end_lineno - node.lineno < PAGE, f"{name}.{node.name}: {node.end_lineno - node.lineno + 1} lines"


def misplaced(text):
    """The pairs of a source whose backward does not stand directly below its forward, or that miss one of the two."""
    names = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    pairs = {name.rpartition("_")[0] for name in names if name.endswith(("_forward", "_backward"))}
    for pair in sorted(pairs):
        if (f"{pair}_forward", f"{pair}_backward") not in zip(names, names[1:], strict=False):
            yield pair


@pytest.mark.parametrize("name", PAIRS)
def test_every_backward_stands_directly_below_its_forward(name):
    assert not list(misplaced(source(name)))
    assert name.endswith("__init__") or any(f.name.endswith("_forward") for f in functions(source(name)))


@pytest.mark.parametrize("names", [
    "f_forward g f_backward", "f_backward f_forward", "f_forward", "f_backward", "f_forward g_forward g_backward"])
def test_a_misplaced_backward_is_found(names):
    text = "\n".join(f"def {name}(): pass" for name in names.split())
    assert list(misplaced(text)) == ["f"]


@pytest.mark.parametrize("name", PAIRS)
def test_a_pairs_arrays_are_positional_and_its_constants_are_named(name):
    """Positional arguments have gradients, so none has a default; a backward takes upstream gradients and the cache."""
    for node in functions(source(name)):
        if node.name.endswith(("_forward", "_backward")):
            assert not node.args.defaults, node.name
            assert ast.get_docstring(node), node.name
        if node.name.endswith("_backward"):
            names = [argument.arg for argument in node.args.args]
            assert names[-1] == "cache", node.name
            assert all(argument.startswith("d") for argument in names[:-1]), node.name
            assert not node.args.kwonlyargs, node.name


@pytest.mark.parametrize("name", FILES)
def test_pairs_are_called_through_their_module(name):
    """So that a student's own function can be put in the place of any of them."""
    for node in ast.walk(ast.parse(source(name))):
        if isinstance(node, ast.ImportFrom):
            taken = [alias.name for alias in node.names if alias.name.endswith(("_forward", "_backward"))]
            assert not taken, f"{name}:{node.lineno}: from {node.module} import {taken}"


@pytest.mark.parametrize("name", OPS)
def test_ops_name_no_real_dtype_and_draw_no_random_numbers(name):
    used = {node.attr for node in ast.walk(ast.parse(source(name))) if isinstance(node, ast.Attribute)}
    assert not used & {"float16", "float32", "float64", "float_", "double", "random", "default_rng"}
