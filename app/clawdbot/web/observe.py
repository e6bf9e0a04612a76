"""Access log and request metrics. The query is never logged: it holds signatures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, request

from clawdbot import metrics
from clawdbot.logs import access_log

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

UNKNOWN = "unknown"
LONGEST_PATH = 200


def note(**fields: Any) -> None:
    """Add fields to the access line of the current request of Flask's."""
    g.setdefault("fields", {}).update(fields)


def install(app: Flask) -> None:
    """Observe every request of ``app``."""
    app.before_request(_begin)
    app.after_request(_end)


def answered(
    endpoint: str, environ: WSGIEnvironment, status: int, size: int, started: float, fields: Mapping[str, Any]
) -> None:
    """Count a request and write its access line.

    Args:
        endpoint: name of the time series.
        environ: the request.
        status: HTTP status of the answer.
        size: bytes of the answer's body.
        started: `time.perf_counter` at the beginning, in seconds.
        fields: what else the access line shall say.
    """
    seconds = time.perf_counter() - started
    metrics.HTTP_SECONDS.labels(endpoint).observe(seconds)
    metrics.HTTP_REQUESTS.labels(endpoint, status).inc()
    line = {
        "client": environ.get("REMOTE_ADDR"),
        "method": environ["REQUEST_METHOD"][:16],
        # PEP 3333 gives the bytes of the path as Latin-1.
        "path": environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")[:LONGEST_PATH],
        "status": status,
        "bytes": size,
        "ms": round(seconds * 1000, 1),
        **fields,
    }
    access_log.info("", extra={"fields": line})


def _begin() -> None:
    g.started = time.perf_counter()


def _end(response: Response) -> Response:
    # An unknown path must not make a new time series.
    endpoint = request.endpoint or UNKNOWN
    size, started = response.content_length or 0, g.get("started", time.perf_counter())
    answered(endpoint, request.environ, response.status_code, size, started, g.get("fields", {}))
    return response
