"""The Flask application: health, readiness, metrics and the receiver of alerts, behind the callbacks."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable

import redis
from flask import Flask, Response, abort, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.exceptions import HTTPException

from clawdbot import alerts, config, logs, metrics
from clawdbot.clock import now_ms
from clawdbot.config import Settings
from clawdbot.copies import durably
from clawdbot.engine.queue import Queue
from clawdbot.ingress import Ingress
from clawdbot.platforms import PLATFORMS, receivers
from clawdbot.sites import Role, sites_of
from clawdbot.store import connect, key
from clawdbot.web import callbacks, observe
from clawdbot.web.peers import PRIVATE, Peers, TrustedProxies

log = logging.getLogger(__name__)

# Redis gets so long for what is no callback, twice.
REDIS_SECONDS = 1.0
# Name of what a process has to call that serves the application.
START = "clawdbot-start"
# Strangers who ask whether we are ready cost one write in so many seconds, however often they ask.
STRANGERS_READY_SECONDS = 1.0


def create_app(settings: Settings | None = None, clock: Callable[[], int] = now_ms) -> Flask:
    """Return the application.

    Args:
        settings: the configuration; by default what the environment says.
        clock: Unix time in milliseconds.
    """
    settings = settings or config.load(os.environ)
    logs.report(settings)
    client = connect(settings.redis, timeout=REDIS_SECONDS, connections=settings.web_threads + 8)
    queue = Queue(client)
    platforms = receivers(settings)
    ingress = Ingress(settings, client, platforms, clock, sites_of(settings))
    app = Flask("clawdbot", static_folder=None)
    inner = callbacks.Callbacks(app.wsgi_app, platforms.values(), ingress, clock)
    # Flask's documentation adds middleware by replacing this attribute, which its types call a method.
    app.wsgi_app = TrustedProxies(inner, Peers(settings.forwarded_allow_ips))  # type: ignore[method-assign]  # see above
    app.extensions[START] = ingress.start
    observe.install(app)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    _add_pages(app, settings, queue, ingress)
    for name in PLATFORMS:
        if name not in platforms:
            app.add_url_rule(callbacks.path(name), endpoint=f"{name}_callback", view_func=_off(name), methods=["POST"])
    alerts.install(app, settings, client, clock)
    return app


def _off(name: str) -> Callable[[], Response]:
    def off() -> Response:
        observe.note(result="switched_off")
        return _json({"error": f"{name} is not configured; run: python -m clawdbot check"}, 404)

    return off


def _add_pages(app: Flask, settings: Settings, queue: Queue, ingress: Ingress) -> None:
    insiders = Peers(f"{PRIVATE},{settings.metrics_allow_ips}")
    writable = _Writable(queue)
    sites = ingress.sites

    def inside() -> bool:
        return insiders.have(request.remote_addr or "")

    @app.get("/health")
    def health() -> Response:
        """Liveness: no dependency is asked."""
        return jsonify(status="healthy")

    @app.get("/ready")
    def ready() -> Response:
        """Readiness: Redis takes writes, or another site's does."""
        if sites and sites.role is Role.UNKNOWN:
            return _json({"status": "unavailable", "site": "it is not known which one answers"}, 503)
        if sites and sites.role is Role.STANDBY:
            return jsonify(status="standby", answers=sites.answers, platforms=_configured(settings))
        problem = writable.problem(0.0 if inside() else STRANGERS_READY_SECONDS)
        if problem:
            return _json({"status": "unavailable", "redis": problem}, 503)
        return jsonify(status="ready", platforms=_configured(settings))

    @app.get("/metrics")
    def metrics_page() -> Response:
        """All metrics of all processes, for those who run the bot; a stranger does not learn that there are any."""
        if not inside():
            abort(404)
        return Response(metrics.page(queue, settings, ingress.spool, sites), content_type=CONTENT_TYPE_LATEST)


class _Writable:
    """Whether Redis takes writes. To ask costs it one to the disk."""

    def __init__(self, queue: Queue) -> None:
        self._client = queue.client
        self._asked = (-math.inf, "")

    def problem(self, age: float) -> str:
        """Name of what is wrong, empty if nothing is, as it was at most ``age`` seconds ago."""
        asked, problem = self._asked
        if time.monotonic() - asked < age:
            return problem
        problem = ""
        try:
            durably(self._client, ["SET", key("ready-probe"), now_ms(), "EX", 60])
        except redis.RedisError as error:
            problem = type(error).__name__
            log.warning("not ready", extra={"fields": {"error": problem}})
        self._asked = (time.monotonic(), problem)
        return problem


def _configured(settings: Settings) -> list[str]:
    return [name for name in PLATFORMS if getattr(settings, name)]


def _json(body: dict[str, str], status: int) -> Response:
    response = jsonify(body)
    response.status_code = status
    return response


def _http_error(error: HTTPException) -> Response:
    return _json({"error": error.name}, error.code or 500)


def _unexpected(error: Exception) -> Response:
    log.exception("a request failed", exc_info=error)
    return _json({"error": "Internal Server Error"}, 500)
