"""One view for both platforms: verify, queue, answer at once."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis
from flask import Response, jsonify, request

from clawdbot import metrics
from clawdbot.engine.queue import Queue
from clawdbot.errors import Refusal
from clawdbot.platforms.base import CallbackRequest, Platform, Received
from clawdbot.web import observe

log = logging.getLogger(__name__)

PUBLIC = {400: "malformed", 401: "not authentic"}


def view(platform: Platform, queue: Queue, clock: Callable[[], int]) -> Callable[[], Response]:
    """Return the callback's view function.

    200: accepted, seen before, or authentic and of no interest. 400: malformed. 401: not authentic; why is in the
    log and not in the answer. 413: too large. 503: Redis cannot take the message, nothing was accepted.
    """

    def callback() -> Response:
        try:
            received = platform.receive(_request(clock()))
            result = _accept(received, queue)
        except Refusal as refusal:
            return _answer(platform, refusal.reason, {"error": PUBLIC[refusal.status]}, refusal.status)
        except redis.RedisError as error:
            log.error("a callback could not be queued", extra={"fields": {"error": type(error).__name__}})
            return _answer(platform, "unavailable", {"error": "try again"}, 503)
        if received.note:
            observe.note(note=received.note)
        if received.message:
            observe.note(message=received.message.id)
        return _answer(platform, result, dict(received.reply), 200)

    return callback


def _request(now_ms: int) -> CallbackRequest:
    headers = {name.lower(): value for name, value in request.headers.items()}
    return CallbackRequest(headers, request.args, request.get_data(cache=False), now_ms)


def _accept(received: Received, queue: Queue) -> str:
    if received.message is None:
        return "ignored"
    result = queue.accept(received.message, received.replay_guard)
    if result == "replay":
        raise Refusal(401, "replayed_signature")
    return result


def _answer(platform: Platform, result: str, body: dict[str, object], status: int) -> Response:
    metrics.CALLBACKS.labels(platform.name, result).inc()
    observe.note(result=result)
    response = jsonify(body)
    response.status_code = status
    return response
