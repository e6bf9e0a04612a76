"""Feishu's long connection: how it is asked for, what its frames mean, and Feishu's wishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from clawdbot.clock import now_ms
from clawdbot.config import FeishuConfig, Settings
from clawdbot.errors import Final, Refusal, Retry
from clawdbot.http import Http
from clawdbot.notes import OwnNotes
from clawdbot.platforms.base import Arrival
from clawdbot.platforms.feishu import connection
from clawdbot.platforms.feishu.callback import FeishuReceiver
from clawdbot.platforms.feishu.connection import FeishuConnection, FeishuSession, Manner
from clawdbot.platforms.feishu.frame import CONTROL, DATA, Frame, decode

from .conftest import Reply, ScriptedServer, feishu_event

OPEN = "/callback/ws/endpoint"
URL = "wss://msg-frontend.feishu.cn/ws/v2?device_id=1&service_id=77&ticket=t"
WISHES = {"ReconnectCount": -1, "ReconnectInterval": 120, "ReconnectNonce": 30, "PingInterval": 90}


@pytest.fixture
def config(settings: Settings) -> FeishuConfig:
    assert settings.feishu
    return settings.feishu


@pytest.fixture
def session(config: FeishuConfig) -> FeishuSession:
    return FeishuSession(URL, FeishuReceiver(config), Manner())


def line(config: FeishuConfig) -> FeishuConnection:
    return FeishuConnection(config, Http(), OwnNotes())


def data_frame(payload: bytes, **headers: object) -> Frame:
    given = {"type": "event", "message_id": "f1", "sum": 1, "seq": 0, "trace_id": "t", **headers}
    return Frame(1, 2**63, 77, DATA, tuple((name, str(value)) for name, value in given.items()), payload=payload)


def test_an_endpoint_is_asked_for(config: FeishuConfig, server: ScriptedServer) -> None:
    server.on(OPEN, Reply({"code": 0, "data": {"URL": URL, "ClientConfig": WISHES}}))
    opened = line(config).open()
    assert (opened.url, opened.ping_seconds) == (URL, 90)
    assert server.requests[0].body == {"AppID": config.app_id, "AppSecret": config.app_secret}
    ping = decode(opened.ping())
    assert (ping.method, ping.service, ping.headers) == (CONTROL, 77, (("type", "ping"),))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply({"code": 514, "msg": "secret"}), Final),
        (Reply({"code": 1000040350, "msg": "too many"}), Final),
        (Reply({"code": 1, "msg": "busy"}), Retry),
        (Reply({"code": 1000040343}), Retry),
        (Reply({}, 502), Retry),
        (Reply(b"<html>"), Retry),
        (Reply({"code": 0, "data": {"URL": 5}}), Retry),
        (Reply(drop=True), Retry),
    ],
)
def test_no_connection(config: FeishuConfig, server: ScriptedServer, reply: Reply, error: type[Exception]) -> None:
    server.on(OPEN, reply)
    with pytest.raises(error) as raised:
        line(config).open()
    assert config.app_secret not in str(raised.value)


def test_pauses_are_as_feishu_wishes(config: FeishuConfig, server: ScriptedServer) -> None:
    found = line(config)
    # It has said nothing yet.
    assert 0.8 <= found.pause(0) <= 1.2
    assert 48 <= found.pause(10_000) <= 72
    server.on(OPEN, Reply({"code": 0, "data": {"URL": URL, "ClientConfig": WISHES}}))
    found.open()
    first = [found.pause(0) for _ in range(100)]
    assert 0 <= min(first) < 10 < 20 < max(first) <= 30
    assert found.pause(1) == found.pause(9) == 120


@pytest.mark.parametrize("wish", [None, -1, 10**9, "5", True, 2.5])
def test_wishes_without_sense_change_nothing(wish: Any) -> None:
    manner = Manner(5, 1, 20)
    manner.follow(dict.fromkeys(WISHES, wish))
    assert manner == Manner(5, 1, 20)


def test_an_event(session: FeishuSession, config: FeishuConfig) -> None:
    event = feishu_event(config, message_id="om_7")
    # It is neither signed nor encrypted, and its token is nobody's business.
    event["header"]["token"] = "another"  # of no use
    frame = data_frame(json.dumps(event).encode())
    arrival = session.read(frame.encode(), now_ms())
    assert arrival.receive
    received = arrival.receive()
    assert received.message
    assert received.message.id == "om_7"
    for status, code in ((200, 200), (400, 500), (503, 500)):
        answer = decode(bytes(arrival.acknowledge(status)))  # type: ignore[arg-type]  # it is bytes
        assert json.loads(answer.payload) == {"code": code}
        assert answer.headers[:-1] == frame.headers
        assert answer.header("biz_rt").isdigit()
        assert (answer.seq_id, answer.log_id, answer.service, answer.method) == (1, 2**63, 77, DATA)


def test_an_event_of_another_app_is_refused(session: FeishuSession, config: FeishuConfig) -> None:
    event = feishu_event(config)
    event["header"]["app_id"] = "cli_other"
    arrival = session.read(data_frame(json.dumps(event).encode()).encode(), now_ms())
    assert arrival.receive
    with pytest.raises(Refusal, match="other_app"):
        arrival.receive()


def test_parts_are_joined_in_any_order(session: FeishuSession, config: FeishuConfig) -> None:
    whole = json.dumps(feishu_event(config)).encode()
    parts = [whole[:50], whole[50:60], whole[60:]]
    for name, order in (("a", (0, 1, 2)), ("b", (2, 0, 1)), ("c", (1, 1, 2, 0))):
        *first, last = [
            session.read(data_frame(parts[number], message_id=name, sum=3, seq=number).encode(), now_ms())
            for number in order
        ]
        assert first == [Arrival()] * len(first)
        assert last.receive
        assert last.receive().message


def part(session: FeishuSession, name: str, seq: int) -> Arrival:
    return session.read(data_frame(b"x", message_id=name, sum=2, seq=seq).encode(), now_ms())


def test_parts_of_many_events_are_not_kept(session: FeishuSession) -> None:
    for number in range(connection.MOST_INCOMPLETE):
        assert part(session, str(number), 0) == Arrival()
    with pytest.raises(Refusal, match="bad_parts"):
        part(session, "one too many", 0)
    assert part(session, "0", 1).receive
    assert part(session, "one more", 0) == Arrival()


def test_parts_are_not_waited_for_without_end(session: FeishuSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PARTS_SECONDS", 0.0)
    assert [part(session, "a", seq) for seq in (0, 1)] == [Arrival(), Arrival()]


def test_pongs_bring_wishes(session: FeishuSession) -> None:
    pong = Frame(method=CONTROL, headers=(("type", "pong"),), payload=json.dumps({"PingInterval": 7}).encode())
    assert session.read(pong.encode(), now_ms()) == Arrival()
    assert session.ping_seconds == 7


def test_frames_of_other_kinds_are_acknowledged(session: FeishuSession) -> None:
    arrival = session.read(data_frame(b"{}", type="card").encode(), now_ms())
    assert arrival.receive
    assert arrival.receive().note == "frame of type card"


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"\xff",
        lambda: Frame(method=2).encode(),
        lambda: data_frame(b"", sum=3, seq=3).encode(),
        lambda: data_frame(b"", sum=10**6).encode(),
        lambda: data_frame(b"", sum="x").encode(),
    ],
)
def test_what_is_no_frame(session: FeishuSession, make: Callable[[], bytes]) -> None:
    with pytest.raises(Refusal):
        session.read(make(), now_ms())
