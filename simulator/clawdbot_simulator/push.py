"""What the platforms send over the connections that the bot opens.

DingTalk: ``POST /v1.0/gateway/connections/open``, then ``/connect?ticket=`` with JSON frames
(open-dingtalk/developerpedia, docs/learn/stream/protocol.md). Feishu: ``POST /callback/ws/endpoint``, then ``/ws/v2``
with frames of Protocol Buffers (PyPI ``lark-oapi`` 1.7.5).
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Flask, Response, jsonify, request

from clawdbot_simulator import dingtalk, feishu, frames
from clawdbot_simulator.connections import Connection
from clawdbot_simulator.simulation import DROP, Refusal, Simulation, json_body

TICKET_SECONDS = 90
ROBOT_MESSAGES = "/v1.0/im/bot/messages/get"
MOST_CONNECTIONS = 50
# Feishu's own figures are 120, 30 and 120 s.
CLIENT_CONFIG = {"ReconnectCount": -1, "ReconnectInterval": 1, "ReconnectNonce": 1, "PingInterval": 2}


def install(app: Flask, sim: Simulation) -> None:
    """Add the routes to ``app``; they are named as those of their platforms, so that faults reach them."""
    open_ones, ding, fei = sim.connections, sim.config.dingtalk, sim.config.feishu
    base = sim.config.public_url.replace("http", "ws", 1)
    tickets: dict[str, float] = {}

    def serve(platform: str, read: Callable[[Connection, str | bytes], None]) -> Response:
        try:
            open_ones.serve(platform, request.environ["werkzeug.socket"], request.headers, read)
        except ValueError as problem:
            raise Refusal(400, {"error": str(problem)}) from problem
        request.environ[DROP] = True  # nothing of HTTP follows
        return Response()

    def open_dingtalk() -> Response:
        body = json_body()
        if (body.get("clientId"), body.get("clientSecret")) != (ding.app_key, ding.app_secret):
            raise dingtalk.refuse(401, "authFailed", "鉴权失败")
        wanted = body.get("subscriptions")
        if {"type": "CALLBACK", "topic": ROBOT_MESSAGES} not in (wanted if isinstance(wanted, list) else []):
            raise dingtalk.refuse(400, "invalidParameter.subscriptions", "nobody would get the robot's messages")
        ticket = secrets.token_urlsafe(24) + "=="
        tickets[ticket] = time.time() + TICKET_SECONDS
        return jsonify(endpoint=f"{base}/connect", ticket=ticket)

    def connect_dingtalk() -> Response:
        if tickets.pop(request.args.get("ticket", ""), 0.0) < time.time():
            raise Refusal(401, {"error": "no such ticket"})
        return serve("dingtalk", read_dingtalk)

    def read_dingtalk(connection: Connection, data: str | bytes) -> None:
        answer = json.loads(data)
        name, said = answer["headers"]["messageId"], json.loads(answer["data"])
        if said == {"opaque": name}:
            connection.pings += 1
        if answer["code"] == 200 and said.get("status") != "LATER":
            open_ones.acknowledge(connection, name)

    def open_feishu() -> Response:
        body = json_body()
        if (body.get("AppID"), body.get("AppSecret")) != (fei.app_id, fei.app_secret):
            raise feishu.refuse(514, "authentication failed", 200)
        if len(open_ones.all("feishu")) >= MOST_CONNECTIONS:
            raise feishu.refuse(1000040350, "exceed connection limit", 200)
        ticket = secrets.token_urlsafe(24)
        tickets[ticket] = time.time() + TICKET_SECONDS
        url = f"{base}/ws/v2?device_id={secrets.randbelow(10**9)}&service_id=33554678&ticket={ticket}"
        return jsonify(code=0, msg="ok", data={"URL": url, "ClientConfig": CLIENT_CONFIG})

    def connect_feishu() -> Response:
        if tickets.pop(request.args.get("ticket", ""), 0.0) < time.time():
            headers = {"Handshake-Status": "514", "Handshake-Msg": "invalid ticket", "Handshake-Autherrcode": "1"}
            raise Refusal(401, {"error": "no such ticket"}, headers)
        return serve("feishu", read_feishu)

    def read_feishu(connection: Connection, data: str | bytes) -> None:
        method, headers, payload = frames.parse(data.encode() if isinstance(data, str) else data)
        if method == frames.CONTROL and headers["type"] == "ping":
            connection.pings += 1
            wishes = json.dumps(CLIENT_CONFIG).encode()
            connection.send(frames.build(frames.CONTROL, {"type": "pong"}, wishes))
        elif method == frames.DATA and json.loads(payload)["code"] == 200:
            open_ones.acknowledge(connection, headers["message_id"])

    for endpoint, path, view in (
        ("dingtalk.open_connection", "/v1.0/gateway/connections/open", open_dingtalk),
        ("feishu.open_connection", "/callback/ws/endpoint", open_feishu),
    ):
        app.add_url_rule(path, endpoint, view, methods=["POST"])
    app.add_url_rule("/connect", "dingtalk.connection", connect_dingtalk, websocket=True)
    app.add_url_rule("/ws/v2", "feishu.connection", connect_feishu, websocket=True)


def send(
    sim: Simulation, platform: str, event: Mapping[str, Any], *, again: float, wait: float, parts: int = 1
) -> dict[str, Any]:
    """Deliver an event; what `Connections.deliver` returns, for the control API."""
    payload = json.dumps(event, ensure_ascii=False)

    def make_dingtalk(name: str) -> Sequence[str | bytes]:
        headers = {"topic": ROBOT_MESSAGES, "messageId": name, "contentType": "application/json"}
        return [json.dumps({"specVersion": "1.0", "type": "CALLBACK", "headers": headers, "data": payload})]

    def make_feishu(name: str) -> Sequence[str | bytes]:
        data = payload.encode()
        size = -(-len(data) // parts)
        return [
            frames.build(
                frames.DATA,
                {"type": "event", "message_id": name, "sum": str(parts), "seq": str(part), "trace_id": name},
                data[part * size : (part + 1) * size],
            )
            for part in range(parts)
        ]

    make = make_dingtalk if platform == "dingtalk" else make_feishu
    sends, seconds = sim.connections.deliver(platform, make, again, wait)
    return {"sends": sends, "seconds": seconds}


def disturb(connection: Connection, how: str) -> None:
    """Do to a connection what can happen to one."""
    match how:
        case "cut":
            connection.cut()
        case "silent":
            connection.silent = True
        case "disconnect" if connection.platform == "dingtalk":
            system(connection, "disconnect", {"reason": "persistent connection is timeout"})
            closing = threading.Timer(10, connection.cut)
            closing.daemon = True
            closing.start()
        case "ping" if connection.platform == "dingtalk":
            system(connection, "ping", {"opaque": ""})
        case _:
            raise Refusal(400, {"error": f"{connection.platform} knows no {how}"})


def system(connection: Connection, topic: str, data: dict[str, str]) -> None:
    """Send one of DingTalk's frames that are no events."""
    name = secrets.token_hex(16)
    data = {key: value or name for key, value in data.items()}
    headers = {"topic": topic, "messageId": name, "contentType": "application/json"}
    frame = {"specVersion": "1.0", "type": "SYSTEM", "headers": headers, "data": json.dumps(data)}
    connection.send(json.dumps(frame))
