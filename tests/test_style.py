"""The rules of docs/STYLE.md that are cheap to test: words, spelling and shape of the pages, comments, random numbers.

tests/test_imports.py tests the rules for pairs, imports and the length of functions; ruff and pyright test the rest.
"""

import ast
import re
import tokenize
from pathlib import Path

import pytest

from tests.test_links import FENCED, pages

ROOT = Path(__file__).resolve().parents[1]
STYLE = ROOT / "docs" / "STYLE.md"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "tutorials" / "README.md"]
CODE = [path for folder in ("tinylm2", "experiments", "benchmarks", "tutorials", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))]
AMERICAN = r"colors?|colored|behaviors?|neighbors?|favor\w*|gray|licenses?|centers?|centered|labeled|modeled|traveled"
NAMED = re.compile(r"`((?:tinylm2|tests|experiments|benchmarks|tutorials|docs)/[\w./]*\w/?)`")


def relative(path):
    return path.relative_to(ROOT).as_posix()


def prose(text):
    """(number, line, words) of a page without tables and code; words: without quotes and the targets of links."""
    text = _blank(FENCED, text)
    bare = _blank(r"([`\"])(?:(?!\1|\n\n).)*\1|\]\([^)]*\)", text)
    for number, (line, words) in enumerate(zip(text.split("\n"), bare.split("\n"), strict=True), 1):
        if not re.match(r"\||    |<!--", line):
            yield number, line, words


def _blank(pattern, text):
    """The text without what matches, in the same lines."""
    return re.sub(pattern, lambda match: "\n" * match[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)


def private_words():
    """The words that STYLE.md replaces: the first column of its last table."""
    table = STYLE.read_text(encoding="utf-8").partition("| not | but |\n")[2].partition("\n\n")[0]
    return [row.split("|")[1].strip() for row in table.splitlines()[1:]]


def faults(text):
    """What is wrong with a page, line by line."""
    words, levels = private_words(), []
    for number, line, bare in prose(text):
        yield from (f"{number}: {word!r}" for word in words if re.search(rf"\b{word}\b", bare, re.IGNORECASE))
        yield from (f"{number}: {word!r}, expected British spelling"
                    for word in re.findall(rf"\b(?:{AMERICAN})\b", bare, re.IGNORECASE))
        if len(line) > 120:
            yield f"{number}: {len(line)} characters, expected at most 120"
        levels += [len(marks) for marks in re.findall(r"^(#+) ", line)]
    if levels[:1] != [1] or levels.count(1) != 1:
        yield f"1: headings of levels {levels}, expected one title, and first"
    yield from (f"1: a heading of level {b} follows one of level {a}"
                for a, b in zip(levels, levels[1:], strict=False) if b > a + 1)


def test_the_list_of_private_words_is_read():
    assert {"dice", "told short", "contender"} <= set(private_words())


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_a_page_is_in_plain_words_and_well_formed(path):
    found = list(faults(path.read_text(encoding="utf-8")))
    assert not found, "\n".join(f"{relative(path)}:{fault}" for fault in found)


@pytest.mark.parametrize(("text", "fault"), [
    ("# A\n\nThe dice of a row.", "3: 'dice'"), ("# A\n\nA Contender.", "3: 'contender'"),
    ("# A\n\nThe color.", "British"), ("# A\n\n" + "`a` " * 31, "expected at most 120"), ("# A\n\n# B", "one title"),
    ("A\n\n## B", "one title"), ("# A\n\n### B", "level 3 follows one of level 1"),
    ("# A\n\n```\ndice\n```\n\ncolor", "7: 'color'"),
])
def test_planted_faults_are_found(text, fault):
    found = list(faults(text))
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize("text", ["# A\n\n`dice` and [b](dice.md)", "# A\n\n| dice |", "# A\n\n    color",
                                  '# A\n\n"A color\nor dice"'])
def test_code_tables_and_targets_are_no_prose(text):
    assert not list(faults(text))


def test_files_that_the_pages_name_exist():
    wrong = [f"{relative(path)}: {name}" for path in PAGES for name in NAMED.findall(path.read_text(encoding="utf-8"))
             if not (ROOT / name).exists() and not re.search(r"/((NN_)?name|toy)\.py$", name)]
    assert not wrong, "\n".join(wrong)


def test_every_page_is_looked_at():
    """A new page in docs/ is found by itself; README and the sheets of the course have voices of their own."""
    others = {"README.md", "CHANGELOG.md"}
    left = {relative(path) for path in pages(ROOT) if path.suffix == ".md"} - set(map(relative, PAGES)) - others
    assert all(name.startswith(("docs/results/", "tutorials/assignments/")) for name in left), left


# ----------------------------------------------------------------------------------------------------------------- code


def code_faults(source):
    """(line, what) of a file's source: no docstring, a note to do something, NumPy's global random numbers."""
    tree = ast.parse(source)
    if tree.body and not ast.get_docstring(tree) and not source.startswith("# %% [markdown]"):
        yield 1, "no docstring"
    for node in ast.walk(tree):
        called = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if re.fullmatch(r"(np|numpy)\.random\.(RandomState|(?!default_rng$)[a-z_]+)", called):
            yield node.lineno, f"{called}, expected a generator made by default_rng"
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        if token.type == tokenize.COMMENT and re.search(r"\b(TODO|FIXME|XXX|HACK)\b", token.string):
            yield token.start[0], f"{token.string}, expected an issue instead"


@pytest.mark.parametrize("folder", ["tinylm2", "experiments", "benchmarks", "tutorials", "tests"])
def test_files_have_docstrings_no_todo_and_no_global_random_numbers(folder):
    found = [f"{relative(path)}:{line}: {what}" for path in CODE if path.is_relative_to(ROOT / folder)
             for line, what in code_faults(path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("source", "fault"), [
    ("x = 1\n", "no docstring"), ('"""A."""\n# TODO: more\n', "an issue"),
    ('"""A."""\nimport numpy as np\nnp.random.seed(0)\n', "default_rng"),
])
def test_planted_faults_in_code_are_found(source, fault):
    (found,) = code_faults(source)
    assert fault in found[1]
