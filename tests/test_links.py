"""No link is dead: every file and every #anchor that Markdown pages and notebooks of this project link to exists.

Links to other sites are not looked up.
"""

import json
import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"build", "runs", "venv", "handout", "node_modules", "__pycache__"}
TARGET = re.compile(r'\]\(\s*<?((?:[^()\s<>]|\([^()\s]*\))+)>?(?:\s+"[^"]*")?\s*\)'        # [text](target "title")
                    r'|^\s{0,3}\[[^\]]+\]:\s+<?([^\s>]+)>?'                               # [text]: target
                    r'|<(?:a|img)\b[^>]*?\b(?:href|src)="([^"]+)"', re.MULTILINE)          # <img src="target">
FENCED = r"^ {0,3}(```+|~~~+).*?^ {0,3}\1[`~]*\s*$"
CODE = re.compile(FENCED + r"|(?<!`)(`+)(?!`).*?(?<!`)\2(?!`)", re.MULTILINE | re.DOTALL)


def pages(root):
    """Every Markdown file and notebook below a folder, apart from hidden folders and from what commands write."""
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(name for name in inside if name not in LEFT_OUT and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if name.endswith((".md", ".ipynb")))


@cache
def prose(path):
    """The Markdown of a page; of a notebook, that of its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return text


@cache
def anchors(path):
    """The anchors of a page's headings, as GitHub makes them, and those that it sets by hand."""
    text = re.sub(FENCED, "", prose(path), flags=re.MULTILINE | re.DOTALL)
    found = set(re.findall(r'<a\b[^>]*?\b(?:id|name)="([^"]+)"', text))
    for heading in re.findall(r"^ {0,3}#{1,6}\s+(.+?)(?:\s+#+)?\s*$", text, re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)                         # a link shows its text alone
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        copies = (name if not n else f"{name}-{n}" for n in range(len(found) + 1))
        found.add(next(copy for copy in copies if copy not in found))
    return found


def dead_links(path, root):
    """Every link of a page that leads nowhere: "page: target, reason"."""
    for match in TARGET.finditer(CODE.sub("", prose(path))):
        target = next(filter(None, match.groups()))
        if re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.IGNORECASE):                      # another site, or data
            continue
        file, _, anchor = unquote(target).partition("#")
        there = path if not file else root / file[1:] if file.startswith("/") else path.parent / file
        there = there.resolve()
        if not there.is_relative_to(root):
            reason = "leads out of the project"
        elif not there.exists():
            reason = "no such file"
        elif anchor and there.suffix in (".md", ".ipynb") and anchor not in anchors(there):
            reason = f"no such heading, expected one of {', '.join(sorted(anchors(there)))}"
        else:
            continue
        yield f"{path.relative_to(root)}: {target}, {reason}"


def test_every_link_leads_somewhere():
    found = list(pages(ROOT))
    assert {ROOT / "README.md", ROOT / "tutorials/01_a_pair_and_its_check.ipynb"} <= set(found)
    dead = [line for path in found for line in dead_links(path, ROOT)]
    assert not dead, "\n" + "\n".join(dead)


LIVE = ["[a](b.md)", "[a](b.md#two-words)", "[a](b.md#two-words-1)", "[a](#here)", "[a](folder/)", "[a](/b.md 'c')",
        "![a](b.png)", '[a](b.md "title")', "[![a](b.png)](b.md)", "[a]: b.md", '<img src="b.png">', "[a](b%20c.md)",
        "[a](https://example.org/x)", "[a](mailto:a@b.c)", "`[a](dead.md)`", "```\n[a](dead.md)\n```",
        "[a](b.md#set-by-hand)", "[a](b.md#linked-op_name-4-to-6)"]
DEAD = {"[a](c.md)": "no such file", "[a](b.md#three)": "no such heading", "[a](#there)": "no such heading",
        "![a](c.png)": "no such file", "[![a](c.png)](b.md)": "no such file", "[a]: c.md": "no such file",
        '<img alt="x" src="c.png">': "no such file", "[a](../../etc/passwd)": "leads out of the project",
        "[a](b.md#hidden)": "no such heading", "`code` and [a](c.md) and `more`": "no such file"}


@pytest.fixture
def site(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "b.md").write_text("# Two words\n## Two words\n## [Linked](x): `op_name`, 4 to 6!\n"
                                   '<a id="set-by-hand"></a>\n```\n# Hidden\n```\n')
    (tmp_path / "b c.md").write_text("")
    (tmp_path / "b.png").write_bytes(b"")
    return tmp_path.resolve()


@pytest.mark.parametrize("link", [*LIVE, *DEAD])
@pytest.mark.parametrize("kind", ["md", "ipynb"])
def test_dead_links_are_found_and_live_ones_are_not(link, kind, site):
    text = f"# Here\n\n{link}\n"
    page = site / f"a.{kind}"
    page.write_text(text if kind == "md" else json.dumps({"cells": [
        {"cell_type": "markdown", "source": text.splitlines(keepends=True)},
        {"cell_type": "code", "source": ["f[0](dead)"]}]}))
    found = list(dead_links(page, site))
    if link in LIVE:
        assert not found
    else:
        assert len(found) == 1
        assert DEAD[link] in found[0]


def test_hidden_folders_and_build_outputs_are_left_out(site):
    for folder in (".hidden", "build", "folder"):
        (site / folder).mkdir(exist_ok=True)
        (site / folder / "x.md").write_text("[a](dead.md)")
    assert {path.relative_to(site).as_posix() for path in pages(site)} == {"b c.md", "b.md", "folder/x.md"}
