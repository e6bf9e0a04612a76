"""The callbacks of both platforms: verify, queue, answer at once.

They are a WSGI application of their own in front of Flask's: its contexts, routing and response objects took longer
than verifying and queueing a message.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from werkzeug.datastructures import EnvironHeaders
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Request

from clawdbot.errors import Refusal
from clawdbot.ingress import Ingress
from clawdbot.platforms.base import CallbackRequest, Receiver
from clawdbot.web import observe
from clawdbot.web.body import read

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

STATUS = {code: f"{code} {name}" for code, name in HTTP_STATUS_CODES.items()}


def path(platform: str) -> str:
    """Return where the callbacks of ``platform`` arrive."""
    return f"/api/{platform}/callback"


class Callbacks:
    """WSGI application that answers the platforms' callbacks and leaves every other request to another one.

    `clawdbot.ingress.Taken` has the answers. Why a callback is not authentic is in the log and not in the answer.
    """

    def __init__(
        self, others: WSGIApplication, receivers: Iterable[Receiver], ingress: Ingress, clock: Callable[[], int]
    ) -> None:
        """Serve ``receivers``; ``clock`` returns Unix time in milliseconds."""
        self._others = others
        self._receivers = {path(receiver.name): receiver for receiver in receivers}
        self._ingress = ingress
        self._clock = clock

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, see PEP 3333."""
        receiver = self._receivers.get(environ["PATH_INFO"])
        if receiver is None:
            return self._others(environ, start_response)
        started = time.perf_counter()
        taken = self._ingress.take(receiver.name, lambda: receiver.receive(_request(environ, self._clock())))
        status, body = taken.status, json.dumps(taken.reply).encode()
        observe.answered(f"{receiver.name}_callback", environ, status, len(body), started, taken.fields)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response(STATUS[status], headers if status != 405 else [*headers, ("Allow", "POST")])
        return [body]


def _request(environ: WSGIEnvironment, now_ms: int) -> CallbackRequest:
    if environ["REQUEST_METHOD"] != "POST":
        raise Refusal(405, "not_a_post")
    body = read(environ)
    query = Request(environ).args if environ.get("QUERY_STRING") else {}
    return CallbackRequest(EnvironHeaders(environ).get, query, body, now_ms)
