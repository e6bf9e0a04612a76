#!/usr/bin/python3
"""Stand-in for the bot: answers every request with what arrived. Usage: backend NAME PORT.

A request with the query ``seconds=N`` is answered after so many seconds. ``/health`` answers as the bot does.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open as gunicorn does."""

    protocol_version = "HTTP/1.1"
    timeout = 75
    wbufsize = -1  # headers and body leave together, so that a kill never comes between them

    def do_GET(self) -> None:
        """Answers any method."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        time.sleep(float(parse_qs(url.query).get("seconds", ["0.01"])[0]))
        said = {
            "node": sys.argv[1],
            "method": self.command,
            "path": self.path,
            "headers": dict(self.headers),
            "length": len(body),
            "peer": f"{self.client_address[0]}:{self.client_address[1]}",
        }
        answer = json.dumps({"status": "healthy"} if url.path == "/health" else said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # name given by the library

    def log_message(self, *_: object) -> None:
        """Keeps the journal short."""


class Server(ThreadingHTTPServer):
    """With a listen queue like gunicorn's."""

    request_queue_size = 1024
    daemon_threads = True


Server(("", int(sys.argv[2])), Handler).serve_forever()
