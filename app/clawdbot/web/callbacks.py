"""One view for both platforms: verify, queue, answer at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping

import redis
from flask import Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from clawdbot import metrics
from clawdbot.engine.intake import Intake
from clawdbot.errors import Refusal
from clawdbot.platforms.base import CallbackRequest, Platform, Received
from clawdbot.web import observe

log = logging.getLogger(__name__)

# The greatest callback is a Feishu text of 150 KB, encrypted and in Base64.
MAX_BODY = 1024 * 1024
PUBLIC = {400: "malformed", 401: "not authentic"}


def view(platform: Platform, intake: Intake, clock: Callable[[], int]) -> Callable[[], Response]:
    """Return the callback's view function.

    200: accepted, seen before, or authentic and of no interest. 400: malformed. 401: not authentic; why is in the
    log and not in the answer. 413: too large. 503: Redis cannot take the message, nothing was accepted.
    """

    def callback() -> Response:
        fields: dict[str, str] = {}
        try:
            received = platform.receive(_request(clock()))
            if received.note:
                fields["note"] = received.note
            if received.message:
                fields["message"] = received.message.id
            return _answer(platform, _accept(received, intake), received.reply, 200, fields)
        except Refusal as refusal:
            return _answer(platform, refusal.reason, {"error": PUBLIC[refusal.status]}, refusal.status, fields)
        except redis.RedisError as error:
            log.error("a callback could not be queued", extra={"fields": {"error": type(error).__name__}})
            return _answer(platform, "unavailable", {"error": "try again"}, 503, fields)

    return callback


def _request(now_ms: int) -> CallbackRequest:
    # gunicorn's stream ends where the body ends; werkzeug's guard around it costs more than the check of a signature.
    body = request.environ["wsgi.input"].read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise RequestEntityTooLarge
    query = request.args if request.query_string else {}
    return CallbackRequest(request.headers.get, query, body, now_ms)


def _accept(received: Received, intake: Intake) -> str:
    if received.message is None:
        return "ignored"
    result = intake.accept(received.message, received.replay_guard)
    if result == "replay":
        raise Refusal(401, "replayed_signature")
    return result


def _answer(
    platform: Platform, result: str, body: Mapping[str, object], status: int, fields: dict[str, str]
) -> Response:
    metrics.CALLBACKS.labels(platform.name, result).inc()
    observe.note(result=result, **fields)
    return Response(json.dumps(body), status, mimetype="application/json")
