"""The site: equations are set symbol by symbol, no link is dead, and a browser opens every page without a complaint."""

import functools
import http.server
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

import tinylm2
from docs import equations

build = pytest.importorskip("docs.build")
MISSING = build.missing()
MINUTES = 3                                              # a build may take from a fresh clone


# ----------------------------------------------------------------------------------------------------------- equations


def docstrings():
    """(where, docstring, names of arguments) of everything public."""
    for module in pkgutil.walk_packages(tinylm2.__path__, "tinylm2."):
        if module.name.endswith("__main__"):
            continue
        try:
            found = importlib.import_module(module.name)
        except ImportError:                              # it needs an extra
            continue
        yield module.name, found.__doc__ or "", set()
        for name, thing in vars(found).items():
            if inspect.isfunction(thing) and thing.__module__ == module.name:
                yield f"{module.name}.{name}", inspect.getdoc(thing) or "", set(inspect.signature(thing).parameters)


def test_every_symbol_of_a_docstrings_equation_is_set_in_its_order():
    count = 0
    for where, text, names in docstrings():
        for line in text.splitlines():
            for start, end, nodes in equations.equations(line, names | equations.names(text)):
                count += 1
                source = re.sub(r"\s", "", line[start:end])
                assert equations.plain(nodes) == source.replace("²", "^2").replace("³", "^3"), where
                letters = re.sub(r"[^0-9A-Za-z]", "", source.replace("sqrt", ""))
                for display in (False, True):
                    shown = "".join(ET.fromstring(equations.mathml(nodes, display)).itertext())
                    for name, letter in equations.GREEK.items():
                        shown = shown.replace(letter, name)
                    assert re.sub(r"[^0-9A-Za-z]", "", shown) == letters, where
    assert count > 120


@pytest.mark.parametrize(("text", "found"), [
    ("y = g * n,   n = x * r,   r = 1 / sqrt(mean(x^2) + eps)          means run over the last axis, D",
     ["y = g * n", "n = x * r", "r = 1 / sqrt(mean(x^2) + eps)"]),
    ("q, k, v = n Wq, n Wk, n Wv in heads of width K", ["q, k, v = n Wq, n Wk, n Wv"]),
    ("with random upstream gradients dy, f(x) = sum(dy * x). Then", ["f(x) = sum(dy * x)"]),
    ("so dx = dy W'. W_de met every row", ["dx = dy W'"]),
    ("R = attend(rope(all Wq at position T), k, v) Wo,   b", ["R = attend(rope(all Wq at position T), k, v) Wo"]),
    ("y = Emem (B, T, D) are used", ["y = Emem"]),
    ("y_2i + j y_2i+1 = (x_2i + j x_2i+1) e^(j p w_i)", ["y_2i + j y_2i+1 = (x_2i + j x_2i+1) e^(j p w_i)"]),
    ("p = softmax(logits) over the last axis", ["p = softmax(logits)"]),
    ("a = b = c, and more", ["a = b = c"]),
    ("own = q.(M W) / 2, cut", []), ("the result = what it should be", []), ("y = sum over all x", []),
    ("`y == x` and x[a[b]:c] = 3", []), ("M' = ", []), (" = x", []), ("", []),
])
def test_equations_are_found_as_far_as_they_reach(text, found):
    assert [text[start:end] for start, end, _ in equations.equations(text)] == found


@pytest.mark.parametrize(("text", "shown"), [
    ("y = x^2", "<msup><mi>x</mi><mn>2</mn></msup>"), ("y = W_de", "<mrow><mi>d</mi><mi>e</mi></mrow></msub>"),
    ("y = Wq", "<msub><mi>W</mi><mi>q</mi></msub>"), ("y = sqrt(D)", "<msqrt><mrow><mi>D</mi></mrow></msqrt>"),
    ("y = a / b", "<mfrac><mi>a</mi><mi>b</mi></mfrac>"), ("y = theta * x", "<mi>θ</mi><mo>·</mo><mi>x</mi>"),
    ("y = S_(t-1)", "<msub><mi>S</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow></msub>"),
    ("y = set_rms(x)", "<mtext>set_rms</mtext>"), ("y = self-attention(n)", "<mi>self-attention</mi>"),
    ("y = a / b / c", "<mi>a</mi><mo>/</mo><mi>b</mi><mo>/</mo><mi>c</mi>"), ("y = x <b> = z", None),
])
def test_mathematics_is_set_as_mathematics(text, shown):
    found = equations.line_html(text)
    assert shown in found if shown else "<b>" not in found


# -------------------------------------------------------------------------------------------------------- what is built


def test_a_package_that_is_missing_is_named_in_one_line(monkeypatch, capsys):
    there = build.import_module
    monkeypatch.setattr(build, "import_module", lambda name: there("no_such_package" if name == "myst_nb" else name))
    assert build.main([]) == 2
    assert re.fullmatch(r"error: found no .*myst-nb.*, expected .*\[site\].*\n", capsys.readouterr().err)


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_a_folder_with_other_files_is_not_touched(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert build.main(["--out", str(tmp_path)]) == 2
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert "expected an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(("planted", "problem"), [
    ('<a href="b.html#here">', None), ('<a href="https://example.org/x">', None), ('<img src="data:image/png,">', None),
    ('<a href="#top">', None), ('<a href="c.html">', "no such file"), ('<a href="b.html#there">', "no such place"),
    ('<img src="c.png">', "no such file"), ('<a href="../../etc/passwd">', "no such file"),
    ('<script src="https://cdn.example.org/x.js"></script>', "would load"),
    ('<link rel="stylesheet" href="//cdn.example.org/x.css">', "would load")])
def test_dead_links_and_loads_from_elsewhere_are_found(planted, problem, tmp_path):
    build.read_page.cache_clear()
    (tmp_path / "a.html").write_text(f'<p id="top">{planted}')
    (tmp_path / "b.html").write_text('<p id="here">')
    found = build.problems(tmp_path)
    assert [problem in line for line in found] == [True] if problem else not found


def test_the_api_has_a_page_for_every_module():
    names = [name for name, _ in build.api_pages()]
    assert len(names) == len(set(names))
    index = dict(build.api_pages())["index"]
    for module in pkgutil.walk_packages(tinylm2.__path__, "tinylm2."):
        if not module.name.endswith("__main__"):
            assert module.name in names
            assert f"<{module.name}>`" in index


def test_a_module_that_needs_a_missing_package_is_shown_as_source(monkeypatch):
    there = build.find_spec
    monkeypatch.setattr(build, "find_spec", lambda name: None if name == "torch" else there(name))
    pages = dict(build.api_pages())
    assert ".. literalinclude:: /tinylm2/interop/modeling_lm2.py" in pages["tinylm2.interop.modeling_lm2"]
    assert "torch would be needed" in pages["tinylm2.interop.modeling_lm2"].replace(", transformers", "")
    assert ".. automodule:: tinylm2.ops" in pages["tinylm2.ops"]


def test_the_animated_picture_is_that_of_the_run_and_asks_for_nothing():
    from docs import animation

    def without_numbers(text):
        return re.sub(r"\d+(\.\d+)?", "0", text)

    kept, drawn = animation.OUT.read_text(encoding="utf-8"), animation.svg()
    words = re.compile(r">([^<>]*)</text>")
    assert words.findall(without_numbers(kept)) == words.findall(without_numbers(drawn))
    assert len(kept.encode()) < 1_000_000
    assert not re.search(r"(href|src|url)\s*[=(]\s*['\"]?(?!#|http://www.w3.org)[\w/]", kept)
    ET.fromstring(kept)
    shown = list(animation.frames())
    told = [s for s, frame in enumerate(shown) if frame["kind"] == "fact"]
    assert len(shown) - 1 - told[0] == 9
    fact, asked = shown[told[0]], shown[-1]
    assert fact["input"] > 0.5 > max(frame["input"] for frame in shown[told[0] + 1:-1])
    assert fact["weights"].max() > 0.9
    assert asked["weights"].max() > 0.9
    assert asked["says"] != asked["frozen"]
    alike = [frame["alike"] for frame in shown[told[0]:-1]]
    assert all(earlier > later for earlier, later in pairwise(alike))


# ------------------------------------------------------------------------------------------------------- the whole site


def processor():
    """Seconds of the processor that the processes have taken that this one started: other work does not count."""
    return sum(os.times()[2:4])


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """(folder, seconds of the processor that it took, address)"""
    if MISSING:
        pytest.skip(MISSING)
    folder, began = tmp_path_factory.mktemp("site") / "site", processor()
    done = subprocess.run([sys.executable, "-m", "docs.build", "--out", folder], cwd=build.ROOT, capture_output=True,
                          text=True)
    seconds = processor() - began
    assert done.returncode == 0, done.stderr
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, seconds, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.long
def test_the_site_is_built_in_time_and_holds_every_page(site):
    folder, seconds, _ = site
    assert seconds < 60 * MINUTES
    for name in ("index", "docs/MODEL", "docs/RESULTS", "docs/DATA", "docs/PERFORMANCE", "docs/SCALING", "docs/TRUST",
                 "docs/STYLE", "CONTRIBUTING", "tutorials/README", "tutorials/08_attention", "tutorials/assignments/a3",
                 "docs/results/table", "api/tinylm2.ops", "api/index", "search"):
        assert (folder / f"{name}.html").exists(), name
    assert "<math" in (folder / "api/tinylm2.ops.html").read_text(encoding="utf-8")
    assert "<math" in (folder / "docs/MODEL.html").read_text(encoding="utf-8")
    assert "data:image/png" in (folder / "tutorials/08_attention.html").read_text(encoding="utf-8") or any(
        (folder / "_images").iterdir())


@pytest.mark.long
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_opens_without_a_complaint(site, tab, width):
    folder, _, address = site
    tab.size(width, dark=width == 390)
    wrong = []
    for path in sorted(folder.rglob("*.html")):
        name = path.relative_to(folder).as_posix()
        tab.driver.get(address + name)
        wide = tab.run("return document.documentElement.scrollWidth")
        errors = [entry["message"] for entry in tab.driver.get_log("browser") if entry["level"] == "SEVERE"]
        elsewhere = [url for url in tab.requests() if not url.startswith(address)]
        if errors or elsewhere or wide > width:
            wrong.append((name, wide, errors, elsewhere))
    assert not wrong


@pytest.mark.long
def test_the_search_finds_and_the_live_page_answers(site, tab):
    from selenium.webdriver.support.ui import WebDriverWait

    _, _, address = site
    tab.size(1280)
    tab.driver.get(f"{address}search.html?q=rmsnorm_backward")
    WebDriverWait(tab.driver, 20).until(
        lambda _: tab.run("return document.querySelectorAll('#search-results li a').length"))
    assert "tinylm2.ops" in tab.run("return document.querySelector('#search-results').innerText")
    tab.driver.get(address)
    tab.run("document.querySelector('iframe.live').scrollIntoView()")
    WebDriverWait(tab.driver, 20).until(lambda _: tab.run(
        "const page = document.querySelector('iframe.live').contentDocument;"
        "return page && page.querySelector('#answers') && page.querySelector('#answers').innerText.includes('office')"))
