"""Public functions carry type hints: every argument and every result."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tinylm2"
FILES = sorted(PACKAGE.rglob("*.py"))


def unhinted(text):
    """Names of public functions and methods of which an argument or the result has no hint."""
    tree = ast.parse(text)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in [*tree.body, *(method for cls in classes for method in cls.body)]:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if node.returns is None or any(a.annotation is None for a in given if a.arg not in ("self", "cls")):
            yield node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_are_hinted(path):
    assert list(unhinted(path.read_text(encoding="utf-8"))) == []


def test_a_missing_hint_is_found():
    assert list(unhinted("def f(x: int, y) -> int: ...\ndef g(x: int): ...\ndef _h(x): ...")) == ["f", "g"]


def test_the_package_says_that_it_has_hints():
    assert (PACKAGE / "py.typed").exists()
