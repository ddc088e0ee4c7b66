"""Build the site: `python -m docs.build [--out build/site]`, without network, in about a minute.

Its pages are the files that are there: README is the front, then come the lessons as they were rendered, the pages of
docs/, the assignments, the results. Only the pages of the API are made here, from the docstrings. A warning is an
error, and so are a link that leads nowhere and a page that would load something from elsewhere.
"""

import argparse
import ast
import inspect
import io
import re
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages
from urllib.parse import unquote, urlsplit

from docs import equations

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs", "tutorials")
BEHIND = ("tinylm2", "tests", "experiments", "benchmarks", "train_tiny.py")      # what pages link to: it is handed out
LEFT_OUT = ("__pycache__", "build", "runs", "handout", "*.pyc", "*.npz")
SECTIONS = {                                             # of the API, in the order in which one reads
    "The core": ("backend", "flat", "ops", "layers", "memories.lm2", "model", "recurrence", "optim", "training.step"),
    "Memories": ("memories", "memories.*"), "Reading and answering": ("decoding",),
    "Data": ("data", "data.*"), "Training": ("training", "training.*"), "Looking inside": ("inspect", "inspect.*"),
    "Other formats": ("interop", "interop.*"), "Checking": ("gradcheck", "checking", "checking.*"),
    "Commands": ("cli", "cli.*"), "The ground floor": ("*",)}
TREES = {                                                # page -> what its table of contents lists
    "index": ("tutorials/README", "Assignments <tutorials/assignments/README>", "docs/MODEL", "docs/RESULTS",
              "api/index", "docs/DATA", "docs/PERFORMANCE", "docs/SCALING", "docs/TRUST", "docs/STYLE", "CONTRIBUTING",
              "CHANGELOG"),
    "tutorials/README": ("[0-9]*",), "tutorials/assignments/README": ("a[0-9]",), "docs/RESULTS": ("results/*",),
    "docs/TRUST": ("MUTANTS",)}
WITH_SIDEBAR = {*TREES} - {"index"} | {"api/index"}
LIVE = "## Two commands"                                 # the live page stands on the front before this heading
STYLE = """
.equations { margin: 0 0 1rem; overflow-x: auto; }
.equations > div { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 2.2rem; padding: .3rem 0; }
.equations .said.number { margin-left: auto; }
.equations .said { white-space: pre-wrap; color: var(--pst-color-text-muted); }
.equations .equation math { display: math; text-align: left; }
math { font-size: 1.08em; }
iframe.live { width: 100%; height: 46rem; border: 1px solid var(--pst-color-border); border-radius: .4rem; }
.bd-main .bd-content .bd-article-container { max-width: 62rem; }
@media (max-width: 40rem) {                              /* a picture with words in it keeps its size, and scrolls */
  p:has(> img[src*="fact"]), p:has(> img[src*="memory"]) { overflow-x: auto; }
  .bd-article img[src*="fact"], .bd-article img[src*="memory"] { max-width: none; width: 42rem; }
}
.bd-article img { background: #fff; }
html[data-theme="dark"] .bd-content img:not(.only-dark, .dark-light) { background: #fff; filter: none; }
"""


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m docs.build", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="folder to write (build/site)")
    args = parser.parse_args(argv)
    if why := missing():
        return _say(why)
    if args.out.exists() and any(args.out.iterdir()) and not (args.out / "index.html").exists():
        return _say(f"--out: found files in {args.out} that are no site, expected an empty folder or an older site")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        wrong = build(Path(folder), args.out) or problems(args.out)
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        return _say(f"found {len(wrong)} problems, expected none")
    pages = sum(1 for _ in args.out.rglob("*.html"))
    print(f"{args.out}: {pages} pages, {time.monotonic() - began:.0f} s")
    return 0


def _say(text):
    print(f"error: {text}", file=sys.stderr)
    return 2


def missing():
    """What is not installed, in one line; "" where nothing is missing."""
    lacking = []
    for name in ("sphinx", "myst_nb", "pydata_sphinx_theme"):
        try:
            import_module(name)
        except ImportError:
            lacking.append(name.replace("_", "-"))
    return lacking and f"found no {', '.join(lacking)}, expected the extra for the site: pip install '.[site]'" or ""


def build(work, out):
    """Gather the pages in a folder and hand them to Sphinx; its warnings, as lines."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    source, warnings = work / "source", io.StringIO()
    gather(source)
    with patch_docutils(), docutils_namespace():
        app = Sphinx(source, None, work / "html", work / "trees", "html", settings(work), status=None, warning=warnings,
                     freshenv=True)
        app.build(force_all=True)
    found = [line for line in warnings.getvalue().splitlines() if line.strip()]
    if not found:
        if out.exists():
            shutil.rmtree(out)
        shutil.copytree(work / "html", out, ignore=shutil.ignore_patterns(".*", "_sources", "webpack-macros.html"))
    return found


def settings(work):
    """What Sphinx has to know. Mathematics is set here (docs/equations.py), so no page asks a server for MathJax."""
    from tinylm2 import __version__

    (work / "static").mkdir(parents=True)
    (work / "static" / "tinylm2.css").write_text(STYLE, encoding="utf-8")
    (work / "static" / "explore.html").write_text(live_page(), encoding="utf-8")
    return {
        "project": "tinylm2", "version": __version__, "release": __version__, "root_doc": "index", "language": "en",
        "author": "the authors of tinylm2", "html_title": "tinylm2", "html_show_copyright": False,
        "extensions": ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "docs.build"],
        "exclude_patterns": [*BEHIND, "**.ipynb_checkpoints"], "suppress_warnings": ["mystnb.unknown_mime_type"],
        "nb_execution_mode": "off", "myst_heading_anchors": 4, "myst_links_external_new_tab": False,
        "myst_update_mathjax": False, "html_math_renderer": "plain", "nb_ipywidgets_js": {},
        "rst_prolog": ".. role:: set(raw)\n   :format: html\n",
        "autodoc_member_order": "bysource", "autodoc_typehints": "signature", "viewcode_line_numbers": True,
        "html_theme": "pydata_sphinx_theme", "html_static_path": [str(work / "static")],
        "html_css_files": ["tinylm2.css"], "html_copy_source": False, "html_show_sourcelink": False,
        "html_theme_options": {"navbar_align": "left", "header_links_before_dropdown": 5, "show_toc_level": 2,
                               "navigation_with_keys": False, "footer_start": ["sphinx-version"], "footer_end": [],
                               "secondary_sidebar_items": ["page-toc"]},
        "html_sidebars": {name: [] for name in ("index", *TREES["index"]) if name not in WITH_SIDEBAR},
        "html_context": {"default_mode": "auto"}, "html_favicon": str(ROOT / "docs" / "pictures" / "icon.svg")}


def live_page():
    """The explorer page, with the run and the story of the animated picture."""
    from docs.animation import story
    from tinylm2.inspect.explore import page

    run, row, filler, live, frozen, _ = story()
    return page(row, live, frozen, cfg=run.cfg, tokenizer=run.tokenizer, params=run.params, filler=filler,
                about=f"the run of the lessons: {run.cfg.L} blocks, {run.cfg.H} heads, {run.cfg.N} slots")


# ------------------------------------------------------------------------------------------------------------- sources


def gather(source):
    """Copy the pages side by side, as they lie in the project, and write those of the API."""
    ignore = shutil.ignore_patterns(*LEFT_OUT)
    for name in (*PAGES, *BEHIND):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=ignore)
        else:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / name)
    (source / "README.md").rename(source / "index.md")
    (source / "api").mkdir()
    for name, text in api_pages():
        (source / "api" / f"{name}.rst").write_text(text, encoding="utf-8")


def api_pages():
    """(name, text) of the page of each module, and of their index."""
    import tinylm2

    modules = [m.name.removeprefix("tinylm2.") for m in walk_packages(tinylm2.__path__, "tinylm2.")
               if not m.name.endswith("__main__")]
    index, left = ["API", "===", "", "Every function and class, with its equations, as the docstrings have them. "
                   "``[source]`` shows the code.", ""], set(modules)
    for title, patterns in SECTIONS.items():
        names = [name for pattern in patterns for name in modules if name in left and fnmatch(name, pattern)]
        names = list(dict.fromkeys(names))
        left -= set(names)
        if not names:
            continue
        index += [title, "-" * len(title), "", ".. list-table::", "   :widths: 25 75", ""]
        for name in names:
            first = _docstring(f"tinylm2.{name}").strip().partition("\n")[0]
            index += [f"   * - :doc:`{name} <tinylm2.{name}>`", f"     - {in_rst(first)}"]
        index += ["", ".. toctree::", "   :hidden:", f"   :caption: {title}", "",
                  *(f"   tinylm2.{name}" for name in names), ""]
    yield "index", "\n".join(index)
    for name in modules:
        full = f"tinylm2.{name}"
        text = [f".. automodule:: {full}", "   :members:", "   :ignore-module-all:"]
        if lacking := _lacking(full):
            lines = _docstring(full).splitlines()
            read_docstring(None, "module", full, None, None, lines)
            text = [*lines, f"As source: {', '.join(lacking)} would be needed to list what it defines.", "",
                    f".. literalinclude:: /{full.replace('.', '/')}.py"]
        yield full, "\n".join([full, "=" * len(full), "", *text, ""])


def _parsed(name):
    """A module's syntax tree; it is not imported."""
    spec = find_spec(name)
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _docstring(name):
    return ast.get_docstring(_parsed(name)) or ""


def _lacking(name):
    """The packages that a module imports where it begins and that are not installed here."""
    names = {alias.name for node in _parsed(name).body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in _parsed(name).body if isinstance(node, ast.ImportFrom) and not node.level}
    return sorted(top for top in {full.partition(".")[0] for full in names} if find_spec(top) is None)


def read_source(app, docname, content):
    """Sphinx's source-read: links as the site has them, the tables of contents, the live page on the front."""
    if docname.startswith("api/"):
        return
    text, here = content[0], Path(app.srcdir, docname).parent
    text = re.sub(r"(?<=\]\()([^()\s#:]+)(?=[#)])", lambda match: in_site(match[1], here, Path(app.srcdir)), text)
    if docname == "index":
        assert LIVE in text, f"README.md: found no heading {LIVE!r}, expected one: the live page stands before it"
        text = text.replace(LIVE, '## Try it\n\nThis is a trained run, and the page computes it: change a fact, ask '
                            'something else, switch a slot off. <a href="_static/explore.html">Open it alone</a>.\n\n'
                            '<iframe class="live" src="_static/explore.html" title="A story and what the memory does" '
                            f'loading="lazy"></iframe>\n\n{LIVE}', 1)
    if docname in TREES:
        text += "\n\n```{toctree}\n:hidden:\n:glob:\n\n" + "\n".join(TREES[docname]) + "\n```\n"
    content[0] = text


def in_site(target, here, source):
    """A link's file as the site has it: the page of a folder, a lesson's notebook for its script, the front."""
    path = here / unquote(target)
    if path.is_dir() and (path / "README.md").exists():
        target = target.rstrip("/") + "/README.md"
    elif path.suffix == ".py" and path.with_suffix(".ipynb").exists():
        target = target.removesuffix(".py") + ".ipynb"
    elif path.resolve() == (source / "README.md").resolve():
        target = target.removesuffix("README.md") + "index.md"
    return target


# ----------------------------------------------------------------------------------------------------------- equations


def read_docstring(app, what, name, obj, options, lines):
    """autodoc's autodoc-process-docstring: plain text in, reStructuredText with set equations out."""
    known = equations.names("\n".join(lines))
    with suppress(TypeError, ValueError):
        known |= set(inspect.signature(obj).parameters)
    lines[:] = [line for block in _blocks(lines) for line in (*_block_in_rst(block, known), "")]


def _blocks(lines):
    """Paragraphs: lines without an empty one between them."""
    block = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def _block_in_rst(block, known):
    whole = [equations.equations(line, known) for line in block]
    begins = [found and not line[:found[0][0]].strip() for line, found in zip(block, whole, strict=True)]
    if all(begins) or block[0].startswith("    ") and any(whole):
        return [".. raw:: html", "", f"   {rows(block, known)}"]
    if block[0].startswith("    "):
        return ["::", "", *block]
    if re.match(r"- |\d+\. ", block[0]):
        return [in_rst(line, known) for line in block]
    return [in_rst("\n".join(block), known)]


def in_rst(text, known=()):
    """A text with its code in `backquotes` and its equations, as reStructuredText."""
    done = []
    for k, part in enumerate(re.split(r"(`+)(.+?)\1", text, flags=re.DOTALL)):
        if k % 3 == 2:
            done.append(f"``{' '.join(part.split())}``" if part == part.strip() else part)
        elif k % 3 == 0:
            at = 0
            for start, end, nodes in equations.equations(part, known):
                done += [_escaped(part[at:start]), f"\\ :set:`{equations.mathml(nodes)}`\\ "]
                at = end
            done.append(_escaped(part[at:]))
    return "".join(done)


def _escaped(text):
    return re.sub(r"([\\*|_`])", r"\\\1", text)


def rows(lines, known=()):
    """Lines of equations as rows of HTML."""
    return '<div class="equations">' + "".join(
        f"<div>{equations.line_html(line.strip(), known)}</div>" for line in lines) + "</div>"


def set_blocks(app, doctree, docname):
    """Sphinx's doctree-resolved: indented blocks are set, too, where every line of them is an equation; in docs/ a word
    may stand before it."""
    from docutils import nodes

    if not docname.startswith(("docs/", "tutorials/")):
        return
    for node in list(doctree.findall(nodes.literal_block)):
        lines = [line for line in node.astext().splitlines() if line.strip()]
        known = equations.names(node.astext())
        found = [equations.equations(line, known) for line in lines]
        first = [one and (docname.startswith("docs/") or not line[:one[0][0]].strip())
                 for line, one in zip(lines, found, strict=True)]
        if node.get("language") in (None, "none", "default") and all(first):
            node.replace_self(nodes.raw("", rows(lines, known), format="html"))


def short_signature(app, what, name, obj, options, signature, returns):
    """autodoc's autodoc-process-signature: "Any" says nothing to a reader."""
    short = re.sub(r": (~?typing\.)?Any\b", "", signature or "") or signature
    return short, None if re.fullmatch(r"(~?typing\.)?Any|None", returns or "None") else returns


def _plain_math(translator, node):
    raise NotImplementedError("found a formula in LaTeX, expected equations in plain text (docs/equations.py)")


def setup(app):
    """Called by Sphinx."""
    app.add_html_math_renderer("plain", (_plain_math, None), (_plain_math, None))
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("doctree-resolved", set_blocks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# --------------------------------------------------------------------------------------------------------------- links


class _Page(HTMLParser):
    """The links of a page, its anchors, and what it loads."""

    def __init__(self):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon", "shortcut icon", "modulepreload"):
            self.loads.append(found.get("href"))
        elif found.get("src"):
            self.loads.append(found["src"])


@cache
def read_page(path):
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def problems(folder):
    """Links of a built site that lead nowhere, and what its pages would load from elsewhere, as lines."""
    folder, found = folder.resolve(), []
    for path in sorted(folder.rglob("*.html")):
        page, name = read_page(path), path.relative_to(folder)
        for target in (*page.links, *page.loads):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loads and parts.scheme != "data":
                    found.append(f"{name}: would load {target}, expected a file of the site")
                continue
            there = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            if not there.is_relative_to(folder) or not there.is_file():
                found.append(f"{name}: {target}, no such file")
            elif parts.fragment and there.suffix == ".html" and unquote(parts.fragment) not in read_page(there).anchors:
                found.append(f"{name}: {target}, no such place in the page")
    return found


if __name__ == "__main__":
    sys.exit(main())
