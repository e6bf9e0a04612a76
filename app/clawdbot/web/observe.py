"""Access log and request metrics. The query is never logged: it holds signatures."""

from __future__ import annotations

import time
from typing import Any

from flask import Flask, Response, g, request

from clawdbot import metrics
from clawdbot.logs import access_log

UNKNOWN = "unknown"
LONGEST_PATH = 200


def note(**fields: Any) -> None:
    """Add fields to the access line of the current request."""
    g.setdefault("fields", {}).update(fields)


def install(app: Flask) -> None:
    """Observe every request of ``app``."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    g.started = time.perf_counter()


def _end(response: Response) -> Response:
    seconds = time.perf_counter() - g.get("started", time.perf_counter())
    # An unknown path must not make a new time series.
    endpoint = request.endpoint or UNKNOWN
    metrics.HTTP_SECONDS.labels(endpoint).observe(seconds)
    metrics.HTTP_REQUESTS.labels(endpoint, response.status_code).inc()
    fields = {
        "client": request.remote_addr,
        "method": request.method[:16],
        "path": request.path[:LONGEST_PATH],
        "status": response.status_code,
        "bytes": response.content_length,
        "ms": round(seconds * 1000, 1),
        **g.get("fields", {}),
    }
    access_log.info("", extra={"fields": fields})
    return response
