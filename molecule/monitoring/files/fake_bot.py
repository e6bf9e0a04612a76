"""Stands for a bot node: ready, with the metrics of a file, and a receiver that writes down what Alertmanager sends."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOME = Path("/var/lib/fake-bot")


class Handler(BaseHTTPRequestHandler):
    """Answers everybody; the tests judge what was sent."""

    def do_GET(self) -> None:
        """Metrics on /metrics, success elsewhere."""
        self._answer((HOME / "metrics").read_bytes() if self.path == "/metrics" else b"ok")

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
