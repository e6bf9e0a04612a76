"""The connections that a bot opens: what a platform's own client would see."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from clawdbot_simulator import frames
from clawdbot_simulator.client import Control, ControlError
from clawdbot_simulator.users import DingTalk, Feishu, Question
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from .conftest import Api, codes


@pytest.fixture
def dingtalk(api: Api) -> Iterator[ClientConnection]:
    with connect(dingtalk_url(api), close_timeout=1) as client:
        yield client


@pytest.fixture
def feishu(api: Api) -> Iterator[ClientConnection]:
    with connect(feishu_url(api), close_timeout=1) as client:
        yield client


def dingtalk_url(api: Api) -> str:
    found = api.post("/v1.0/gateway/connections/open", opening(api)).json()
    return f"{found['endpoint']}?ticket={found['ticket']}"


def opening(api: Api, **changes: object) -> dict[str, object]:
    app = api.config.dingtalk
    topics = [{"type": "CALLBACK", "topic": "/v1.0/im/bot/messages/get"}]
    return {"clientId": app.app_key, "clientSecret": app.app_secret, "subscriptions": topics} | changes


def feishu_url(api: Api) -> str:
    app = api.config.feishu
    body = {"AppID": app.app_id, "AppSecret": app.app_secret}
    return str(api.post("/callback/ws/endpoint", body).json()["data"]["URL"])


def acknowledge(client: ClientConnection, frame: dict[str, Any], code: int = 200) -> None:
    headers = {"messageId": frame["headers"]["messageId"]}
    client.send(json.dumps({"code": code, "headers": headers, "message": "OK", "data": '{"response": null}'}))


def test_dingtalk_sends_until_it_is_acknowledged(sim: Control, dingtalk: ClientConnection) -> None:
    question = DingTalk(sim.config).text("Alice", "hi")
    with pushing(sim, question) as sent:
        first, second = json.loads(dingtalk.recv(5)), json.loads(dingtalk.recv(5))
        assert first["type"] == "CALLBACK"
        assert json.loads(first["data"]) == json.loads(second["data"]) == question.event
        acknowledge(dingtalk, second, code=500)
        acknowledge(dingtalk, json.loads(dingtalk.recv(5)))
    assert sent["sends"] == 3
    assert sim.connections("dingtalk")[0]["acknowledged"] == 1


def test_feishu_sends_in_parts_until_it_is_acknowledged(sim: Control, feishu: ClientConnection) -> None:
    question = Feishu(sim.config).text("Bob", "你好")
    with pushing(sim, question, parts=3) as sent:
        for code in (500, 200):
            parts = [frames.parse(bytes(feishu.recv(5, decode=False))) for _ in range(3)]
            assert json.loads(b"".join(payload for _, _, payload in parts)) == question.event
            assert [headers["seq"] for _, headers, _ in parts] == ["0", "1", "2"]
            feishu.send(frames.build(frames.DATA, parts[-1][1], json.dumps({"code": code}).encode()))
    assert sent["sends"] == 2


def test_events_go_to_one_connection_at_random(sim: Control, api: Api, dingtalk: ClientConnection) -> None:
    with connect(dingtalk_url(api), close_timeout=1) as other:
        for number in range(24):
            with pushing(sim, DingTalk(sim.config).text("Alice", str(number))):
                threads = [threading.Thread(target=answer_one, args=[client]) for client in (dingtalk, other)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        counts = [connection["acknowledged"] for connection in sim.connections()]
    assert sum(counts) == 24
    assert min(counts) > 0


def test_who_connects_later_gets_what_waits(sim: Control, api: Api) -> None:
    with pushing(sim, DingTalk(sim.config).text("Alice", "hi")) as sent:
        time.sleep(0.3)
        with connect(dingtalk_url(api), close_timeout=1) as client:
            answer_one(client)
    assert sent["sends"] == 1


def test_nobody_is_there(sim: Control) -> None:
    assert sim.push(Feishu(sim.config).text("Bob", "hi"), wait=0.2) == {"sends": 0, "seconds": None}


def test_feishu_answers_pings_with_its_wishes(feishu: ClientConnection, sim: Control) -> None:
    feishu.send(frames.build(frames.CONTROL, {"type": "ping"}))
    method, headers, payload = frames.parse(bytes(feishu.recv(5, decode=False)))
    assert (method, headers["type"], json.loads(payload)["PingInterval"]) == (frames.CONTROL, "pong", 2)
    assert sim.connections("feishu")[0]["pings"] == 1


def test_a_ticket_opens_one_connection(api: Api) -> None:
    for url in (dingtalk_url(api), feishu_url(api)):
        with connect(url, close_timeout=1):
            pass
        with pytest.raises(InvalidStatus), connect(url):
            pass


def test_wrong_secrets_get_no_connection(api: Api) -> None:
    refused = api.post("/v1.0/gateway/connections/open", opening(api, clientSecret="wrong"))
    assert codes(refused) == (401, "authFailed")
    refused = api.post("/v1.0/gateway/connections/open", opening(api, subscriptions=[]))
    assert codes(refused) == (400, "invalidParameter.subscriptions")
    body = {"AppID": api.config.feishu.app_id, "AppSecret": "wrong"}
    assert codes(api.post("/callback/ws/endpoint", body)) == (200, 514)
    assert requests.get(f"{api.url}/connect", timeout=5).status_code == 400


def test_connections_are_cut_and_go_silent(sim: Control, dingtalk: ClientConnection, feishu: ClientConnection) -> None:
    sim.disturb("silent", "feishu")
    assert not feishu.ping().wait(0.5)
    sim.disturb("ping", "dingtalk")
    ping = json.loads(dingtalk.recv(5))
    assert (ping["type"], ping["headers"]["topic"]) == ("SYSTEM", "ping")
    sim.disturb("cut")
    for client in (dingtalk, feishu):
        with pytest.raises(ConnectionClosed):
            client.recv(5)
    with pytest.raises(ControlError, match="feishu knows no ping"), connect(feishu_url(Api(sim)), close_timeout=1):
        sim.disturb("ping")


@contextlib.contextmanager
def pushing(sim: Control, question: Question, parts: int = 1) -> Iterator[dict[str, Any]]:
    """What becomes of a question that is sent meanwhile; complete at the end."""
    sent: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: sent.update(sim.push(question, again=0.4, wait=5, parts=parts)))
    thread.start()
    yield sent
    thread.join()


def answer_one(client: ClientConnection) -> None:
    """Acknowledge one event, if one comes."""
    with contextlib.suppress(TimeoutError):
        acknowledge(client, json.loads(client.recv(0.3)))
