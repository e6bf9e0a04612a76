"""One Flask application with all platforms, their faults and the control API."""

import contextlib
import dataclasses
import hmac
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import requests
from flask import Blueprint, Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from clawdbot_simulator import dingtalk, feishu, model, push
from clawdbot_simulator.client import Control
from clawdbot_simulator.config import Config
from clawdbot_simulator.faults import KINDS, Fault
from clawdbot_simulator.simulation import DROP, Refusal, Simulation, Speech, json_body
from clawdbot_simulator.users import DingTalk, Feishu

# Largest request the bot may send; well above every platform's own limit.
MAX_REQUEST_BYTES = 64 * 1024 * 1024
BACKLOG = 1024
# How long the bot may take to acknowledge what the page asks.
ASK_SECONDS = 10.0
PAGE = Path(__file__).with_name("page.html")
FAULT_ANSWERS: dict[str, Callable[[str, Fault], Refusal | None]] = {
    "dingtalk": dingtalk.fault_answer,
    "feishu": feishu.fault_answer,
    "model": model.fault_answer,
}


def create_app(config: Config) -> Flask:
    """The WSGI application; one process only, as its state is in memory."""
    sim = Simulation(config)
    app = Flask("clawdbot_simulator")
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES
    for routes in (dingtalk.blueprint(sim), feishu.blueprint(sim), model.blueprint(sim)):
        app.register_blueprint(routes)
    push.install(app, sim)
    app.register_blueprint(control(sim, app))

    @app.get("/")
    def page() -> Response:
        """The chats in a browser. It knows no secret: whoever opens it brings the control token along."""
        return Response(PAGE.read_text("utf-8"), mimetype="text/html")

    @app.before_request
    def misbehave() -> Response | None:
        endpoint = request.endpoint or ""
        platform = endpoint.partition(".")[0]
        # Neither the control API nor unknown paths use a fault up.
        fault = sim.faults.take(endpoint) if platform in FAULT_ANSWERS else None
        if fault is None:
            return None
        time.sleep(fault.seconds)
        if fault.kind == "error":
            raise Refusal(fault.status, fault.body)
        if fault.kind in ("drop", "drop_after"):
            request.environ[DROP] = True
            return Response() if fault.kind == "drop" else None
        if fault.kind == "expired_token" and platform in sim.tokens:
            sim.tokens[platform].revoke()
        refusal = FAULT_ANSWERS[platform](endpoint, fault)
        if refusal is not None:
            raise refusal
        return None

    @app.errorhandler(Refusal)
    def refused(refusal: Refusal) -> tuple[Response, int, dict[str, str]]:
        sim.records.add("refused", request.endpoint or "", status=refusal.status, body=refusal.body)
        return jsonify(refusal.body), refusal.status, refusal.headers

    @app.errorhandler(HTTPException)
    def unknown(error: HTTPException) -> tuple[Response, int]:
        status = error.code or 500
        body = {"error": error.description, "method": request.method, "path": request.path}
        sim.records.add("refused", request.endpoint or "unknown", status=status, body=body)
        return jsonify(body), status

    answer = app.wsgi_app

    def droppable(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        chunks: Iterable[bytes] = answer(environ, start_response)
        if environ.get(DROP):
            # Nothing was sent yet; Werkzeug takes the error for a client that went away.
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("dropped by a fault")
        return chunks

    # The documented way to add WSGI middleware to a Flask application.
    app.wsgi_app = droppable  # type: ignore[method-assign]
    return app


def control(sim: Simulation, app: Flask) -> Blueprint:
    """The control API under ``/_sim``, open to ``Authorization: Bearer <control_token>``."""
    routes = Blueprint("control", __name__, url_prefix="/_sim")

    @routes.before_request
    def authorize() -> tuple[Response, int] | None:
        given = request.headers.get("Authorization", "")
        wanted = f"Bearer {sim.config.control_token}"
        if hmac.compare_digest(given.encode(), wanted.encode()):
            return None
        return jsonify(error="send Authorization: Bearer <control_token of the config file>"), 401

    @routes.get("/records")
    def records() -> Response | tuple[Response, int]:
        query = request.args.to_dict()
        try:
            after, wait = int(query.pop("after", "0")), float(query.pop("wait", "0"))
        except ValueError:
            return jsonify(error="after is a number of a record, wait is in seconds"), 400
        unknown = set(query) - {"kind", "platform", "endpoint", "conversation", "answers", "text"}
        if unknown:
            return jsonify(error=f"unknown parameter: {', '.join(sorted(unknown))}"), 400
        found = sim.records.query(after=after, wait=min(wait, 60.0), **query)
        return jsonify([dataclasses.asdict(record) for record in found])

    @routes.post("/ask")
    def ask() -> tuple[Response, int]:
        asked = {"platform": "", "name": "", "text": "", "group": "", "callback_base": ""} | json_body()
        if asked["platform"] not in ("dingtalk", "feishu") or not asked["name"] or not asked["text"]:
            return jsonify(error="who asks what, on dingtalk or feishu?"), 400
        users = DingTalk(sim.config) if asked["platform"] == "dingtalk" else Feishu(sim.config)
        question = users.text(asked["name"], asked["text"], group=asked["group"] or None)
        sim.keep(question.event)
        place = {"conversation": question.conversation, "answers": question.message_id, "text": question.text}
        sim.records.add("question", f"{question.platform}.ask", user=question.user, **place)
        if not asked["callback_base"]:
            sent = push.send(sim, question.platform, question.event, again=ASK_SECONDS, wait=ASK_SECONDS)
            if sent["seconds"] is None:
                return jsonify(
                    error="the bot has not acknowledged it over a connection; give an address if it has none"
                ), 502
            return jsonify(message_id=question.message_id, conversation=question.conversation), 201
        try:
            status = question.callback().post(asked["callback_base"]).status_code
        except requests.RequestException as error:
            return jsonify(error=f"no bot answers at {asked['callback_base']} ({type(error).__name__})"), 502
        if status != 200:
            return jsonify(error=f"the bot answered HTTP {status}"), 502
        return jsonify(message_id=question.message_id, conversation=question.conversation), 201

    @routes.post("/messages")
    def keep() -> tuple[str, int]:
        sim.keep(json_body())
        return "", 204

    @routes.post("/push")
    def push_event() -> Response | tuple[Response, int]:
        asked: dict[str, Any] = {"platform": "", "event": {}, "again": 60.0, "wait": 60.0, "parts": 1} | json_body()
        platform = asked.pop("platform")
        if platform not in ("dingtalk", "feishu"):
            return jsonify(error="platform is dingtalk or feishu"), 400
        sim.keep(asked["event"])
        return jsonify(push.send(sim, platform, asked.pop("event"), **asked))

    @routes.get("/connections")
    def connections() -> Response:
        return jsonify([connection.describe() for connection in sim.connections.all()])

    @routes.post("/connections")
    def disturb() -> tuple[str, int]:
        asked: dict[str, Any] = {"platform": "", "id": 0, "how": ""} | json_body()
        for connection in sim.connections.all(asked["platform"]):
            if asked["id"] in (0, connection.id):
                push.disturb(connection, asked["how"])
        return "", 204

    @routes.get("/status")
    def status() -> Response:
        return jsonify(last_seq=sim.records.last_seq, time=time.time())

    @routes.get("/cards")
    def cards() -> Response:
        names = ("id", "platform", "conversation", "answers", "text", "folded", "growing", "updates")
        return jsonify([{name: getattr(card, name) for name in names} for card in sim.cards.all()])

    @routes.get("/faults")
    def faults() -> Response:
        return jsonify([dataclasses.asdict(fault) for fault in sim.faults.active()])

    @routes.post("/faults")
    def add_fault() -> tuple[Response, int]:
        try:
            fault = Fault(**json_body())
        except TypeError as error:
            return jsonify(error=str(error)), 400
        if fault.kind not in KINDS:
            return jsonify(error=f"kind must be one of {', '.join(KINDS)}"), 400
        endpoints = [e for e in app.view_functions if e.partition(".")[0] in FAULT_ANSWERS]
        if not any(fnmatchcase(endpoint, fault.endpoint) for endpoint in endpoints):
            return jsonify(error=f"endpoint must match one of {', '.join(sorted(endpoints))}"), 400
        return jsonify(dataclasses.asdict(sim.faults.add(fault))), 201

    @routes.delete("/faults", defaults={"fault_id": None})
    @routes.delete("/faults/<int:fault_id>")
    def clear_faults(fault_id: int | None) -> tuple[str, int]:
        sim.faults.clear(fault_id)
        return "", 204

    @routes.put("/model")
    def model_answer() -> tuple[str, int]:
        try:
            sim.speech = Speech(**json_body())
        except TypeError as error:
            raise Refusal(
                400, {"error": f"{error}; there are {[field.name for field in dataclasses.fields(Speech)]}"}
            ) from None
        return "", 204

    @routes.put("/files/<path:key>")
    def upload(key: str) -> tuple[str, int]:
        sim.files[key] = request.get_data()
        return "", 204

    @routes.post("/reset")
    def reset() -> tuple[str, int]:
        sim.forget()
        return "", 204

    return routes


class QuietHandler(WSGIRequestHandler):
    """No log line a request: paths and queries carry tokens."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log errors only; called by http.server."""
        if type == "error":
            super().log(type, message, *args)


def build_server(config: Config, listener: socket.socket) -> BaseWSGIServer:
    """A threaded server on a bound socket, not yet serving."""
    host, port = listener.getsockname()[:2]
    return make_server(
        host,
        port,
        create_app(config),
        threaded=True,
        request_handler=QuietHandler,
        fd=listener.fileno(),
    )


@contextlib.contextmanager
def running(config: Config | None = None, host: str = "127.0.0.1") -> Iterator[Control]:
    """A simulator on a free port in a thread of this process, for tests.

    ``public_url`` of the given configuration is replaced by the real address.
    """
    with socket.create_server((host, 0), backlog=BACKLOG) as listener:
        url = f"http://{host}:{listener.getsockname()[1]}"
        config = dataclasses.replace(config or Config.random(url), public_url=url)
        server = build_server(config, listener)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Control(config)
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
