"""The callbacks of both platforms: verify, queue, answer at once.

They are a WSGI application of their own in front of Flask's: its contexts, routing and response objects took longer
than verifying and queueing a message.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import redis
from werkzeug.datastructures import EnvironHeaders
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Request

from clawdbot import metrics
from clawdbot.config.live import Live
from clawdbot.engine.failures import judge
from clawdbot.engine.intake import Intake
from clawdbot.engine.spool import Reception
from clawdbot.errors import Refusal
from clawdbot.former import Uses
from clawdbot.message import Message
from clawdbot.platforms.base import CallbackRequest, Receiver
from clawdbot.web import observe
from clawdbot.web.body import read

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

# What a caller hears of a refusal; the reason is in the log.
PUBLIC = {400: "malformed", 401: "not authentic", 405: "Method Not Allowed", 413: "Request Entity Too Large"}
STATUS = {code: f"{code} {name}" for code, name in HTTP_STATUS_CODES.items()}


def path(platform: str) -> str:
    """Return where the callbacks of ``platform`` arrive."""
    return f"/api/{platform}/callback"


class Callbacks:
    """WSGI application that answers the platforms' callbacks and leaves every other request to another one.

    200: accepted, seen before, or authentic and of no interest. 400: malformed. 401: not authentic; why is in the
    log and not in the answer. 405: not a POST. 413: too large. 503: neither Redis nor this node's disk can take the
    message, nothing was accepted.
    """

    def __init__(
        self,
        others: WSGIApplication,
        receivers: Iterable[Receiver],
        intake: Intake | Reception,
        uses: Uses,
        clock: Callable[[], int],
        live: Live,
    ) -> None:
        """Serve ``receivers`` with ``intake``; ``clock`` returns Unix time in milliseconds."""
        self._live = live
        self._others = others
        self._receivers = {path(receiver.name): receiver for receiver in receivers}
        self._intake = intake
        self._uses = uses
        self._clock = clock
        for receiver in self._receivers.values():
            for result in ("platform_error", "full"):
                # A counter that begins with its first event has no increase to be alerted of.
                metrics.CALLBACKS.labels(receiver.name, result)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, see PEP 3333."""
        receiver = self._receivers.get(environ["PATH_INFO"])
        if receiver is None:
            return self._others(environ, start_response)
        started = time.perf_counter()
        fields: dict[str, str] = {}
        status, reply = self._answer(receiver, environ, fields)
        metrics.CALLBACKS.labels(receiver.name, fields["result"]).inc()
        body = json.dumps(reply).encode()
        observe.answered(f"{receiver.name}_callback", environ, status, len(body), started, fields)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(STATUS[status], headers if status != 405 else [*headers, ("Allow", "POST")])
        return [body]

    def _answer(
        self, receiver: Receiver, environ: WSGIEnvironment, fields: dict[str, str]
    ) -> tuple[int, Mapping[str, object]]:
        """Status and body; what belongs into the access line is added to ``fields``."""
        try:
            received = receiver.receive(_request(environ, self._clock()))
            if received.note:
                fields["note"] = received.note
            fields["result"] = "platform_error" if received.trouble else "ignored"
            if received.trouble:
                log.error(
                    "a platform reports trouble instead of messages",
                    extra={"fields": {"platform": receiver.name, "reason": received.trouble}},
                )
            if received.message:
                fields["message"] = received.message.id
                fields["result"] = self._intake.accept(self._in_lane(received.message), received.replay_guard)
                if fields["result"] == "replay":
                    raise Refusal(401, "replayed_signature")
            self._uses.note(receiver.name, *received.secrets)
        except Refusal as refusal:
            fields["result"] = refusal.reason
            return refusal.status, {"error": PUBLIC[refusal.status]}
        except redis.OutOfMemoryError:
            # What is queued and remembered already is kept; the platform comes again.
            fields["result"] = "full"
            log.error("a callback could not be queued: the memory of Redis is full")
            return 503, {"error": "try again"}
        except redis.RedisError as error:
            fields["result"] = "unavailable"
            log.error("a callback could not be queued", extra={"fields": {"reason": judge(error).reason}})
            return 503, {"error": "try again"}
        except Exception:
            fields["result"] = "failed"
            log.exception("a request failed")
            return 500, {"error": "Internal Server Error"}
        return 200, received.reply

    def _in_lane(self, message: Message) -> Message:
        """Where members of a group have histories of their own, they do not wait for each other either."""
        if not message.group:
            return message
        voice = self._live.now().voice(message.platform, message.conversation, message.sender)
        return dataclasses.replace(message, lane=message.sender) if voice.session == "person" else message


def _request(environ: WSGIEnvironment, now_ms: int) -> CallbackRequest:
    if environ["REQUEST_METHOD"] != "POST":
        raise Refusal(405, "not_a_post")
    body = read(environ)
    query = Request(environ).args if environ.get("QUERY_STRING") else {}
    return CallbackRequest(EnvironHeaders(environ).get, query, body, now_ms)
