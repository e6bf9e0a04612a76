"""DingTalk's Stream mode: how a connection is asked for, and what its frames mean."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from clawdbot.clock import now_ms
from clawdbot.config import DingTalkConfig, Former, Settings
from clawdbot.errors import Final, Refusal, Retry
from clawdbot.http import Http
from clawdbot.notes import OwnNotes
from clawdbot.platforms.base import Arrival
from clawdbot.platforms.dingtalk.callback import DingTalkReceiver
from clawdbot.platforms.dingtalk.stream import DingTalkSession, DingTalkStream

from .conftest import Reply, ScriptedServer, dingtalk_body

OPEN = "/v1.0/gateway/connections/open"


@pytest.fixture
def config(settings: Settings) -> DingTalkConfig:
    assert settings.dingtalk
    return settings.dingtalk


@pytest.fixture
def session(config: DingTalkConfig) -> DingTalkSession:
    return DingTalkSession("wss://x", DingTalkReceiver(config))


def line(config: DingTalkConfig) -> DingTalkStream:
    return DingTalkStream(config, Http(), OwnNotes())


def frame(kind: str, topic: str, data: Any, **headers: str) -> str:
    named = {"topic": topic, "messageId": "m1", "contentType": "application/json", **headers}
    return json.dumps({"specVersion": "1.0", "type": kind, "headers": named, "data": json.dumps(data)})


def robot(session: DingTalkSession, **changes: Any) -> Arrival:
    return session.read(frame("CALLBACK", "/v1.0/im/bot/messages/get", dingtalk_body(**changes)), now_ms())


def test_a_ticket_is_asked_for(config: DingTalkConfig, server: ScriptedServer) -> None:
    server.on(OPEN, Reply({"endpoint": "wss://gateway.dingtalk.com/connect", "ticket": "a b&c=="}))
    opened = line(config).open()
    assert opened.url == "wss://gateway.dingtalk.com/connect?ticket=a%20b%26c%3D%3D"
    body = server.requests[0].body
    assert (body["clientId"], body["clientSecret"]) == (config.app_key, config.app_secret)
    assert body["subscriptions"] == [{"type": "CALLBACK", "topic": "/v1.0/im/bot/messages/get"}]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply({"code": "authFailed", "message": "secret"}, 401), Final),
        (Reply({"code": "Forbidden"}, 403), Final),
        (Reply({}, 503, {"Retry-After": "7"}), Retry),
        (Reply({}, 429), Retry),
        (Reply(b"<html>", 200), Retry),
        (Reply({"endpoint": "https://evil", "ticket": "t"}), Retry),
        (Reply(drop=True), Retry),
    ],
)
def test_no_connection(config: DingTalkConfig, server: ScriptedServer, reply: Reply, error: type[Exception]) -> None:
    server.on(OPEN, reply)
    with pytest.raises(error) as raised:
        line(config).open()
    assert getattr(raised.value, "after", None) == (7.0 if reply.status == 503 else None)
    assert config.app_secret not in str(raised.value)
    assert "evil" not in str(raised.value)


def test_the_former_secret_is_tried_as_well(config: DingTalkConfig, server: ScriptedServer) -> None:
    former = Former({"app_secret": "the former one"}, now_ms() / 1000 + 60)
    server.on(OPEN, Reply({"code": "authFailed"}, 401), Reply({"endpoint": "ws://x", "ticket": "t"}))
    assert line(dataclasses.replace(config, former=former)).open().url == "ws://x?ticket=t"
    assert [request.body["clientSecret"] for request in server.requests] == [config.app_secret, "the former one"]


def test_an_encrypted_api_gives_encrypted_connections(config: DingTalkConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Reply({"endpoint": "ws://gateway.dingtalk.com", "ticket": "t"})
    monkeypatch.setattr(Http, "request", lambda *_, **__: _Answer(answer.body))
    with pytest.raises(Retry, match="wss://"):
        line(dataclasses.replace(config, api_base_url="https://api.dingtalk.com")).open()


class _Answer:
    status = 200

    def __init__(self, body: Any) -> None:
        self.body = body

    def json(self) -> Any:
        return self.body


def test_a_robot_message(session: DingTalkSession) -> None:
    arrival = robot(session, msgId="om1")
    assert arrival.receive
    received = arrival.receive()
    assert received.message
    assert (received.message.id, received.replay_guard) == ("om1", "")
    ack = json.loads(arrival.acknowledge(200))
    assert (ack["code"], ack["headers"]["messageId"], json.loads(ack["data"])) == (200, "m1", {"response": None})
    # What is no message will never be one; what could not be taken shall come again.
    assert json.loads(arrival.acknowledge(400))["code"] == 400
    assert [arrival.acknowledge(status) for status in (500, 503)] == ["", ""]


def test_a_robot_message_that_is_none(session: DingTalkSession) -> None:
    arrival = robot(session, msgId=...)
    assert arrival.receive
    with pytest.raises(Refusal, match="bad_msgId"):
        arrival.receive()


def test_an_event_is_taken_or_comes_later(session: DingTalkSession) -> None:
    arrival = session.read(frame("EVENT", "*", {}, eventType="user_add_org"), now_ms())
    assert arrival.receive
    assert (arrival.receive().message, arrival.receive().note) == (None, "event user_add_org")
    for status, said in ((200, "SUCCESS"), (503, "LATER")):
        assert json.loads(json.loads(arrival.acknowledge(status))["data"]) == {"status": said}


def test_a_callback_of_another_kind(session: DingTalkSession) -> None:
    arrival = session.read(frame("CALLBACK", "/v1.0/card/instances/callback", {}), now_ms())
    assert arrival.receive
    assert arrival.receive().note == "topic /v1.0/card/instances/callback"
    assert json.loads(arrival.acknowledge(200))["code"] == 200


def test_system_frames(session: DingTalkSession) -> None:
    ping = session.read(frame("SYSTEM", "ping", {"opaque": "o"}), now_ms())
    answer = json.loads(ping.answer)
    assert (answer["code"], answer["headers"]["messageId"]) == (200, "m1")
    assert json.loads(answer["data"]) == {"opaque": "o"}
    assert not ping.leave
    assert session.read(frame("SYSTEM", "disconnect", {"reason": "timeout"}), now_ms()) == Arrival(leave=True)


@pytest.mark.parametrize("data", ["", "[]", "{}", '{"type": "CALLBACK"}', frame("OTHER", "x", {}), b"\xff"])
def test_what_is_no_frame(session: DingTalkSession, data: str | bytes) -> None:
    with pytest.raises(Refusal):
        session.read(data, now_ms())


def test_pauses_grow_and_end(config: DingTalkConfig) -> None:
    stream = line(config)
    assert 0.8 <= stream.pause(0) <= 1.2
    assert 6 <= stream.pause(3) <= 10
    assert 48 <= stream.pause(10_000) <= 72
