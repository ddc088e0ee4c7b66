"""`train --watch`: the page follows the run, changes nothing of it, and answers nobody but this machine."""

import base64
import hashlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from tests.support import crash
from tests.support.small import FewSentences
from tinylm2.__main__ import main
from tinylm2.cli import train
from tinylm2.errors import BadInput
from tinylm2.inspect import terminal
from tinylm2.training import loop, material, run_dir, trained_model, watch
from tinylm2.training.settings import Settings

SMALL = Settings(hidden_size=8, ff=12, slots=4, segments="2")


def metrics(count, first=0):
    return [{"step": first + i, "stage": "A" if first + i < 30 else "B", "loss": 6 / (1 + first + i),
             "accuracy": min(1.0, (first + i) / 60), "norm": 1.0, "lr": 1e-3} for i in range(count)]


@pytest.fixture
def quick(monkeypatch):
    """Training takes seconds."""
    monkeypatch.setattr(trained_model, "curriculum", crash.curriculum)
    monkeypatch.setattr(material, "GrammarFiller", FewSentences)
    monkeypatch.setattr(train, "QUESTIONS", 20)


@pytest.fixture
def run(quick, tmp_path):
    """A run in its folder, with the model and trainer that it began with."""
    model = run_dir.new(SMALL)
    folder = run_dir.RunDir(tmp_path / "run")
    folder.claim()
    folder.describe(model)
    return SimpleNamespace(folder=folder, model=model, trainer=model.trainer(), path=folder.path)


def add(run, lines):
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def served(run):
    with watch.watched(run.folder, run.model, run.trainer) as address:
        yield SimpleNamespace(**vars(run), address=address, port=int(address.rstrip("/").rpartition(":")[2]))


def get(served, path="/", host=None, method="GET"):
    """(status, headers, body)"""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


# ------------------------------------------------------------------------------------------------------------ following


def test_the_page_is_told_each_point_once(served):
    assert json.loads(get(served, "/metrics")[2])["points"] == []
    add(served, metrics(40))
    first = json.loads(get(served, "/metrics?version=0&count=0")[2])
    assert [point[0] for point in first["points"]] == list(range(40))
    assert first["points"][35] == [35, "B", 6 / 36, 35 / 60]
    add(served, metrics(3, first=40))
    later = json.loads(get(served, "/metrics?version=0&count=40")[2])
    assert [later["from"], [point[0] for point in later["points"]], later["more"]] == [40, [40, 41, 42], False]


def test_a_line_that_is_half_written_waits_and_one_that_is_no_line_is_left_out(served):
    add(served, metrics(1))
    with open(served.path / "metrics.jsonl", "a") as file:
        file.write('not JSON\n{"step": 1}\n{"step": 1, "stage": "A", "lo')
    assert len(json.loads(get(served, "/metrics")[2])["points"]) == 1
    with open(served.path / "metrics.jsonl", "a") as file:
        file.write('ss": 2.5, "accuracy": 0.5}\n')
    assert json.loads(get(served, "/metrics")[2])["points"][1] == [1, "A", 2.5, 0.5]


def test_lines_that_are_cut_off_begin_anew(served):
    add(served, metrics(50))
    assert len(json.loads(get(served, "/metrics")[2])["points"]) == 50
    (served.path / "metrics.jsonl").write_text("")
    add(served, metrics(10))
    found = json.loads(get(served, "/metrics?version=0&count=50")[2])
    assert (found["version"], found["from"], len(found["points"])) == (1, 0, 10)


def test_many_points_come_in_parts(served, monkeypatch):
    monkeypatch.setattr(watch, "AT_ONCE", 30)
    add(served, metrics(100))
    points = []
    while True:
        found = json.loads(get(served, f"/metrics?version=0&count={len(points)}")[2])
        points += found["points"]
        if not found["more"]:
            break
    assert [point[0] for point in points] == list(range(100))


def test_the_gates_are_those_of_the_checkpoint(served):
    from tinylm2.inspect.trace import trace

    served.folder.save(served.model, served.trainer)
    for _ in range(100):
        found = json.loads(get(served, "/metrics")[2])["gates"]
        if found:
            break
        time.sleep(0.1)
    (only,) = found
    assert only["step"] == 0
    row = watch._story(served.model, served.trainer)
    assert len(row[0]) > 3 * served.model.cfg.T
    places = trace(served.model.params, ids=row, cfg=served.model.cfg).places
    shown = dict(map(tuple, only["values"]))
    assert shown.keys() == {f"{name} {i}" for name in ("input", "forget", "output") for i in (1, 2)}
    assert shown["output 2"] == pytest.approx(sum(segment[1].output.mean() for segment in places) / 4, abs=1e-4)
    written = [segment[0].forget.mean() for segment in places if segment[0].forget is not None]
    assert shown["forget 1"] == pytest.approx(sum(written) / len(written), abs=1e-4)


# ------------------------------------------------------------------------------------------------ who is answered, what


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "evil.example:{port}", "127.0.0.1:{port}.evil.example",
                                  "127.0.0.1:1", "[::1]:{port}", ""])
@pytest.mark.parametrize("path", ["/", "/metrics"])
def test_another_host_is_answered_nothing(served, host, path):
    add(served, metrics(3))
    status, _, body = get(served, path, host=host.format(port=served.port))
    assert status == 403
    assert b"stage" not in body


def test_this_machine_is_answered_by_both_its_names(served):
    for name in ("127.0.0.1", "localhost"):
        assert get(served, "/metrics", host=f"{name}:{served.port}")[0] == 200


def test_only_the_loopback_address_listens(served):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with suppress(OSError):
            probe.connect(("192.0.2.1", 9))              # nothing is sent: it names the address that would send
        ours = probe.getsockname()[0]
    if ours.startswith(("127.", "0.")):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError, match="refused|unreachable|timed out"):
        socket.create_connection((ours, served.port), 2)


@pytest.mark.parametrize("path", [
    "/metrics.jsonl", "/config.json", "/model.npz", "/../config.json", "//etc/passwd", "/%2e%2e/config.json",
    "/watch.js", "/index.html", "/metrics/", "/?x=1/../config.json", "*", "http://127.0.0.1/config.json"])
def test_no_file_is_served(served, path):
    status, _, body = get(served, path)
    if path.startswith("/?"):
        assert body == get(served)[2]
    else:
        assert status in (403, 404)
        assert b"settings" not in body


@pytest.mark.parametrize("query", ["version=x", "count=1.5", "count=", "version=-3&count=-9", "a=1&b=2&c=3&d=4&e=5",
                                   "count=99999999999999999999", "count=" + "9" * 5000])
def test_a_query_that_makes_no_sense_is_answered_in_order(served, query):
    add(served, metrics(2))
    status, _, body = get(served, f"/metrics?{query}")
    assert status in (200, 400)
    assert get(served, "/metrics")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_only_get_is_answered(served, method):
    assert get(served, method=method)[0] == 501


def test_the_page_may_run_only_what_stands_in_it(served):
    _, headers, body = get(served)
    page = body.decode()
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', page)[1]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'" in policy
    assert not re.search(r"(src|href)=\"(?!data:,)", page)


def test_a_port_that_is_taken_is_named(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"found port {port} in use"), \
                watch.watched(run.folder, run.model, run.trainer, port=port):
            pass


# -------------------------------------------------------------------------------------------- training is not disturbed


def test_a_watched_run_has_the_bits_of_one_that_nobody_watched(quick, tmp_path, monkeypatch, capsys):
    assert main(["train", "--out", str(tmp_path / "alone"), *crash.ARGUMENTS]) == 0
    asked, inner = [], train.watched

    @contextmanager
    def asking(*args, **options):
        """Ask all the time, as a dozen pages would."""
        with inner(*args, **options) as address:
            over = threading.Event()

            def ask():
                while not over.is_set():
                    with urllib.request.urlopen(f"{address}metrics") as answer:
                        asked.append(len(json.load(answer)["points"]))

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            yield address
            over.set()
            for thread in threads:
                thread.join()

    monkeypatch.setattr(train, "watched", asking)
    assert main(["train", "--out", str(tmp_path / "watched"), *crash.ARGUMENTS, "--watch"]) == 0
    assert re.search(r"watch it at http://127\.0\.0\.1:\d+/\n", capsys.readouterr().out)
    assert max(asked) == crash.STEPS
    assert not crash.different(tmp_path / "alone", tmp_path / "watched")
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {
        path.name for path in (tmp_path / "watched").iterdir()}


def test_without_the_option_nothing_is_served(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "watched", None)
    assert main(["train", "--out", str(tmp_path / "run"), *crash.ARGUMENTS]) == 0


def test_a_browser_that_holds_its_connection_does_not_keep_the_process(tmp_path):
    argv = [sys.executable, "-m", "tests.support.crash", "--out", str(tmp_path / "run"), *crash.ARGUMENTS, "--watch"]
    with subprocess.Popen(argv, cwd=crash.ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True) as process:
        port = next(int(found[1]) for line in process.stdout if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
        silent, half = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
        half.sendall(b"GET / HTT")
        assert process.wait(timeout=0.8 * watch.PATIENCE) == 0
        silent.close(), half.close()


def test_a_run_that_stops_closes_its_page(run):
    with pytest.raises(loop.Stopped), watch.watched(run.folder, run.model, run.trainer) as address:
        raise loop.Stopped(15)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address)


# --------------------------------------------------------------------------------------------------------- in a browser


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_draws_what_comes_and_says_when_it_ends(run, tab, width, dark):
    from selenium.webdriver.support.ui import WebDriverWait

    def state():
        return tab.run("return document.querySelector('#state').textContent")

    tab.size(width, dark=dark)
    tab.driver.get("about:blank")
    tab.requests()                                       # those of the page before
    add(run, metrics(20))
    run.folder.save(run.model, run.trainer)
    with watch.watched(run.folder, run.model, run.trainer) as address:
        tab.driver.get(address)
        WebDriverWait(tab.driver, 20).until(lambda _: "step 19" in state())
        add(run, metrics(40, first=20))
        WebDriverWait(tab.driver, 20).until(lambda _: "Stage B, step 59" in state())
        WebDriverWait(tab.driver, 20).until(
            lambda _: tab.run("return document.querySelectorAll('#gates path').length") == 6)
        shown = tab.run("return ['loss', 'accuracy'].map((id) => document.getElementById(id).textContent)")
        assert all("stage B" in text or "B" in text for text in shown)
        assert tab.run("return document.documentElement.scrollWidth") <= width
        tab.run("gates[0].values.forEach((value) => { value[1] = 0.9; }); show();")    # one height
        labels = tab.run("return [...document.querySelectorAll('#gates .last')].map((e) => e.getBBox().y).sort("
                         "(a, b) => a - b)")
        assert min(b - a for a, b in zip(labels, labels[1:], strict=False)) > 11
        assert {url.rpartition("/")[0] + "/" for url in tab.requests()} == {address}
        assert tab.complaints() == []
    WebDriverWait(tab.driver, 20).until(lambda _: "has ended" in state())
    tab.complaints()


# -------------------------------------------------------------------------------------------------------- in a terminal


def test_curves_of_characters_rise_and_fall_with_their_numbers():
    text = terminal.curves(metrics(200), width=80, bars=terminal.BARS)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("loss (logarithmic), 0.03")
    loss, accuracy = lines[1:1 + terminal.HEIGHT], lines[11:11 + terminal.HEIGHT]
    tall = [[sum(terminal.BARS.index(line[i]) for line in part if i < len(line)) for i in range(terminal.MARGIN, 79)]
            for part in (loss, accuracy)]
    assert tall[0] == sorted(tall[0], reverse=True)
    assert tall[1] == sorted(tall[1])
    assert (tall[0][0], tall[1][-1]) == (8 * terminal.HEIGHT, 8 * terminal.HEIGHT)
    assert (min(tall[0]), min(tall[1])) == (1, 1)
    assert re.search(r"\|A +\|B", text)
    assert lines[-1].strip() == "step 0 to 199, stage B"


@pytest.mark.parametrize("count", [1, 2, 9])
@pytest.mark.parametrize("width", [1, 20, 500])
def test_any_number_of_steps_fits_any_width(count, width):
    lines = terminal.curves(metrics(count), width=width, bars=terminal.PLAIN).splitlines()
    assert all(line.isascii() for line in lines)
    assert len(lines) == 2 * terminal.HEIGHT + 5


def test_a_constant_loss_is_drawn(capsys):
    flat = [line | {"loss": 0.5} for line in metrics(10)]
    assert "0.5" in terminal.curves(flat, bars=terminal.BARS)


def test_the_command_draws_in_the_terminal_and_writes_nothing(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    add(run, metrics(50))
    before = sorted(path.name for path in run.path.iterdir())
    assert main(["plot", str(run.path), "--terminal"]) == 0
    assert "stage B" in capsys.readouterr().out
    assert sorted(path.name for path in run.path.iterdir()) == before
    assert main(["plot", str(run.path / "none"), "--terminal"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
