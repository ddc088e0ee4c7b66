"""A page that follows a training run: `train --watch` serves it, only to browsers on this machine.

Training does not depend on it. A thread reads what the run writes anyway: the lines of metrics.jsonl when the page
asks for them, and the gates of each new checkpoint in one story. It draws no random numbers and writes nothing.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tinylm2.data import encode_examples, generated_examples
from tinylm2.errors import BadInput
from tinylm2.inspect.explore import filled
from tinylm2.inspect.trace import trace
from tinylm2.model import count_params
from tinylm2.training import run_dir

ADDRESS = "127.0.0.1"
AT_ONCE = 5000                                           # points in one answer; the page asks for the rest
SEGMENTS = 4                                             # segments of the story whose gates are shown
POLL = 0.2                                               # seconds between two checks for a new checkpoint
PATIENCE = 60                                            # seconds that a silent browser may hold a connection


class Watched:
    """The data of the page: points [step, stage, loss, accuracy], and the gates at each checkpoint.

    What never changes is taken from model and trainer here, before the run begins. The rest is read from the folder.
    """

    def __init__(self, folder: Any, model: Any, trainer: Any) -> None:
        self.path, self.lock = folder.path, threading.Lock()
        self.about = {"run": folder.path.name, "memory": model.cfg.memory, "parameters": count_params(model.cfg),
                      "stages": [[stage.name, stage.steps] for stage in trainer.stages]}
        self.row = _story(model, trainer)
        self.version, self.points, self.read = 0, [], 0              # version: how often the file began again
        self.gates, self.seen = [], None

    def since(self, version: int, count: int) -> dict:
        """New data for a page that has `count` points of this version of the run."""
        with self.lock:
            self._follow()
            start = min(count, len(self.points)) if version == self.version else 0
            points = self.points[start:start + AT_ONCE]
            return {**self.about, "version": self.version, "from": start, "points": points, "gates": self.gates,
                    "more": start + len(points) < len(self.points)}

    def _follow(self):
        """Read the new lines. A shorter file belongs to another run, or to one that was resumed."""
        with suppress(OSError), open(self.path / "metrics.jsonl", "rb") as file:
            if file.seek(0, 2) < self.read:
                self.version, self.points, self.read, self.gates = self.version + 1, [], 0, []
            file.seek(self.read)
            whole, end, _ = file.read().rpartition(b"\n")            # the last line may be half written
            self.read += len(whole) + len(end)
            for line in whole.splitlines():
                with suppress(ValueError, KeyError):
                    found = json.loads(line)
                    self.points.append([found[name] for name in ("step", "stage", "loss", "accuracy")])

    def look(self) -> None:
        """Compute the gates of the checkpoint, if it is new."""
        with self.lock, suppress(OSError, BadInput, ValueError):
            stamp = (self.path / "model.npz").stat().st_mtime_ns
            if self.row is None or stamp == self.seen:
                return
            self.seen = stamp
            model, _, progress = run_dir.load(self.path)
            places = trace(model.params, ids=self.row, cfg=model.cfg).places
            values = [[f"{name} {i + 1}", round(float(sum(gates) / len(gates)), 4)] for i in range(model.cfg.L)
                      for name in ("input", "forget", "output")
                      if (gates := [getattr(segment[i], name).mean() for segment in places
                                    if getattr(segment[i], name) is not None])]
            if values:
                self.gates = [one for one in self.gates if one["step"] < progress["step"]]
                self.gates.append({"step": progress["step"], "values": values})


def _story(model, trainer):
    """The tokens (1, length) of the first story of the run's first task that fits; None if none does."""
    task = trainer.stories.tasks[0]
    with suppress(BadInput):
        rows, _ = encode_examples(generated_examples(task, 8, seed=model.settings.seed), SEGMENTS,
                                  tokenizer=model.tokenizer, filler=model.filler, segment_len=model.cfg.T,
                                  seed=model.settings.seed, answer_len=model.answer_len)
        whole = [row for row in rows if not row.pad]
        return [whole[0].prompt] if whole else None
    return None


@contextmanager
def watched(folder: Any, model: Any, trainer: Any, *, port: int = 0) -> Iterator:
    """Serve the page while the block runs; the address. port 0: any that is free.

    Its threads end with the process, whatever they do.  BadInput where the port is taken.
    """
    try:
        server = _Server((ADDRESS, port), _Handler)
    except OSError as error:
        raise BadInput(f"--watch: found port {port} in use or forbidden ({error.strerror}), expected a free one; "
                       "without a number one is found") from None
    server.run = Watched(folder, model, trainer)
    server.page = filled("watch.html", style="watch.css", script="watch.js").encode()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": POLL}, daemon=True).start()
    try:
        yield f"http://{ADDRESS}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True                                # an open connection does not keep the process alive
    block_on_close = False
    run: Watched
    page: bytes

    def server_bind(self):
        TCPServer.server_bind(self)                      # HTTPServer's would look up the host name

    def service_actions(self):
        self.run.look()                                  # every POLL seconds, whether a page is open or not

    def handle_error(self, request, client_address):
        """Nothing is printed when a browser closes a connection."""


class _Handler(BaseHTTPRequestHandler):
    """Serves the page and its numbers, only for the host names 127.0.0.1 and localhost."""

    server: _Server
    timeout = PATIENCE
    server_version, sys_version = "tinylm2", ""

    def do_GET(self):
        port, asked = self.server.server_address[1], urlsplit(self.path)
        if self.headers.get_all("Host", []) not in [[f"{name}:{port}"] for name in (ADDRESS, "localhost")]:
            return self._answer(403, b"found another host, expected this machine's address\n")   # DNS rebinding
        if asked.path == "/":
            return self._answer(200, self.server.page, "text/html; charset=utf-8")
        if asked.path != "/metrics":
            return self._answer(404, b"found no such page, expected /\n")
        try:
            given = parse_qs(asked.query, max_num_fields=4)
            version, count = (max(0, int(given.get(name, ["0"])[0])) for name in ("version", "count"))
        except ValueError:
            return self._answer(400, b"expected whole numbers\n")
        return self._answer(200, json.dumps(self.server.run.since(version, count)).encode(), "application/json")

    def _answer(self, status, body, kind="text/plain; charset=utf-8"):
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
                            ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
                            ("Cross-Origin-Resource-Policy", "same-origin"),
                            ("Content-Security-Policy", "frame-ancestors 'none'")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Nothing is printed: the terminal shows the training."""
