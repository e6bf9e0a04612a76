"""Stands for a bot node: ready, with the metrics of a file, and a receiver that writes down what Alertmanager sends.

In the file, ``@5`` is a counter that grows by 5 a second.
"""

import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOME = Path("/var/lib/fake-bot")
STARTED = time.monotonic()


def metrics() -> bytes:
    """The file with its counters at this moment."""
    seconds = time.monotonic() - STARTED
    text = (HOME / "metrics").read_text()
    return re.sub(r"@([0-9.]+)", lambda rate: str(float(rate[1]) * seconds), text).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers everybody; the tests judge what was sent."""

    def do_GET(self) -> None:
        """Metrics on /metrics, success elsewhere."""
        self._answer(metrics() if self.path == "/metrics" else b"ok")

    def do_POST(self) -> None:
        """One line of JSON for each request."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        line = {"path": self.path, "authorization": self.headers["Authorization"], "body": body}
        with (HOME / "received").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("", 18789), Handler).serve_forever()
