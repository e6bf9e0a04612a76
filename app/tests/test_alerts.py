"""Alertmanager's webhook becomes one message in each chat, whoever is told and how often."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import redis
from clawdbot import alerts, config
from clawdbot.store import connect
from flask import Flask
from werkzeug.test import TestResponse

from .conftest import Reply, ScriptedServer, free_port

ROBOT = "/robot/send"
FEISHU = "/open-apis/im/v1/messages"
FEISHU_TOKEN = "/open-apis/auth/v3/tenant_access_token/internal"
TOKEN = "token-of-the-alerts"

Node = Callable[..., TestResponse]


def alert(name: str = "HighCpu", status: str = "firing", **changes: Any) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": name, "instance": "app1", "severity": "warning"},
        "annotations": {
            "summary": "CPU use of app1 is above 85 %",
            "summary_zh": "app1 的 CPU 使用率超过 85%",
            "value": "91.2 %",
            "runbook_url": f"https://example.org/runbooks/{name}.md",
        },
        "startsAt": "2026-11-22T13:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else "2026-11-22T13:30:00Z",
        "generatorURL": "",
        "fingerprint": "f1",
        **changes,
    }


def notification(*given: dict[str, Any]) -> dict[str, Any]:
    return {"version": "4", "groupKey": '{}:{alertname="HighCpu"}', "status": "firing", "alerts": list(given)}


@pytest.fixture(autouse=True)
def platforms(server: ScriptedServer) -> None:
    server.on(ROBOT, Reply({"errcode": 0}))
    server.on(FEISHU_TOKEN, Reply({"code": 0, "tenant_access_token": "t", "expire": 7200}))
    server.on(FEISHU, Reply({"code": 0, "data": {}}))


def make(environ: dict[str, str], **changes: str) -> Node:
    """A node that knows a DingTalk robot and a Feishu group unless ``changes`` say otherwise."""
    path = Path(environ["CLAWDBOT_CONFIG_DIR"], "dingtalk.yaml")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"access_token": changes.pop("robot", "r0b0t")}))
    given = {"CLAWDBOT_ALERTS_TOKEN": TOKEN, "CLAWDBOT_ALERTS_FEISHU_CHAT": "oc_ops"} | changes
    settings = config.load(environ | given)
    client = connect(settings.redis, timeout=1)
    app = Flask("test")
    alerts.install(app, settings, client)

    def post(body: Any, authorization: str | None = f"Bearer {TOKEN}") -> TestResponse:
        headers = {} if authorization is None else {"Authorization": authorization}
        return app.test_client().post(
            "/api/alerts", data=body if isinstance(body, bytes) else json.dumps(body), headers=headers
        )

    return post


@pytest.fixture
def node(environ: dict[str, str]) -> Node:
    return make(environ)


def told(server: ScriptedServer, path: str) -> list[Any]:
    return [request for request in server.requests if request.path == path]


def test_an_alert_reaches_both_chats(node: Node, server: ScriptedServer) -> None:
    assert node(notification(alert())).status_code == 200
    (robot,) = told(server, ROBOT)
    assert parse_qs(robot.query)["access_token"] == ["r0b0t"]
    said = robot.body["markdown"]["text"]
    for expected in (
        "Firing · 告警",
        "CPU use of app1 is above 85 %",
        "app1 的 CPU 使用率超过 85%",
        "91.2 %",
        "since 2026-11-22 13:00:00 UTC",
        "(https://example.org/runbooks/HighCpu.md)",
    ):
        assert expected in said
    (feishu,) = told(server, FEISHU)
    assert feishu.query == "receive_id_type=chat_id"
    assert feishu.body["receive_id"] == "oc_ops"
    assert "CPU use of app1 is above 85 %" in feishu.body["content"]


def test_the_end_of_an_alert_is_told(node: Node, server: ScriptedServer) -> None:
    node(notification(alert()))
    assert node(notification(alert(status="resolved"))).status_code == 200
    said = told(server, ROBOT)[1].body["markdown"]["text"]
    assert "Resolved · 已恢复" in said
    assert "until 2026-11-22 13:30:00 UTC" in said
    assert "Firing" not in said


def test_alerts_are_in_the_languages_of_the_chat(environ: dict[str, str], server: ScriptedServer) -> None:
    node = make(environ, CLAWDBOT_LANGUAGES="zh", CLAWDBOT_CHAT_LANGUAGES='{"oc_ops": ["en"]}')
    node(notification(alert()))
    node(notification(alert(status="resolved")))
    firing, resolved = [request.body["markdown"]["text"] for request in told(server, ROBOT)]
    for expected in (
        "**告警**",
        "**app1 的 CPU 使用率超过 85%**",
        "91.2 %",
        "开始于 2026-11-22 13:00:00 UTC",
        "[处理手册](",
    ):
        assert expected in firing
    for expected in ("**已恢复**", "恢复于 2026-11-22 13:30:00 UTC"):
        assert expected in resolved
    english = ("Firing", "CPU use of app1", "since", "Resolved", "until")
    assert not [word for word in english if word in firing + resolved]
    feishu = "".join(request.body["content"] for request in told(server, FEISHU))
    assert not [word for word in english if word not in feishu]
    assert "app1 的" not in feishu


def test_what_nobody_translated_is_told_once(environ: dict[str, str], server: ScriptedServer) -> None:
    node = make(environ, CLAWDBOT_LANGUAGES="zh,en")
    own = alert(annotations={"summary": "somebody's own rule"})
    node(notification(*(own | {"fingerprint": str(number)} for number in range(11))))
    said = told(server, ROBOT)[0].body["markdown"]["text"]
    assert "**告警 · Firing**" in said
    assert said.count("somebody's own rule") == 10
    assert "另有 1 条 · and 1 more" in said


def test_two_nodes_and_a_repetition_make_one_message(environ: dict[str, str], server: ScriptedServer) -> None:
    one, other = make(environ), make(environ)
    for node in (one, other, one):
        assert node(notification(alert())).status_code == 200
    assert len(told(server, ROBOT)) == len(told(server, FEISHU)) == 1


def test_news_of_the_same_group_is_told(node: Node, server: ScriptedServer) -> None:
    node(notification(alert()))
    node(notification(alert(), alert(fingerprint="f2")))
    node(notification(alert(startsAt="2026-11-22T15:00:00Z")))
    assert len(told(server, ROBOT)) == 3


def test_a_chat_that_failed_is_told_again_and_the_other_is_not(node: Node, server: ScriptedServer) -> None:
    server.on(ROBOT, Reply({"errcode": 130101}), Reply({"errcode": 0}))
    assert node(notification(alert())).status_code == 503
    assert node(notification(alert())).status_code == 200
    assert (len(told(server, ROBOT)), len(told(server, FEISHU))) == (2, 1)


def test_a_robot_that_does_not_confirm_is_told_once_more_and_taken_for_informed(
    node: Node, server: ScriptedServer
) -> None:
    server.on(ROBOT, Reply({}, drop=True))
    codes = [node(notification(alert())).status_code for _ in range(4)]
    assert codes == [503, 200, 200, 200]
    assert (len(told(server, ROBOT)), len(told(server, FEISHU))) == (2, 1)


def test_a_node_that_is_telling_is_waited_for(node: Node, client: redis.Redis, server: ScriptedServer) -> None:
    found = alerts.parse(json.dumps(notification(alert())).encode())
    client.set(f"clawdbot:alerts:dingtalk:{found.digest}", alerts.CLAIMED, ex=60)
    assert node(notification(alert())).status_code == 503
    assert told(server, ROBOT) == []


def test_more_than_twenty_a_minute_wait(node: Node, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is refilled meanwhile.
    monkeypatch.setattr(alerts, "ROBOT_RATE", dataclasses.replace(alerts.ROBOT_RATE, per_second=0.0001))
    codes = [node(notification(alert(fingerprint=str(number)))).status_code for number in range(25)]
    assert codes.count(503) >= 5
    # In the rest of the minute no more than nine are refilled.
    assert len(told(server, ROBOT)) == 10
    assert alerts.ROBOT_RATE.burst + 9 < 20


def test_a_long_group_is_counted(node: Node, server: ScriptedServer) -> None:
    node(notification(*(alert(fingerprint=str(number)) for number in range(40))))
    said = told(server, ROBOT)[0].body["markdown"]["text"]
    assert "and 30 more" in said
    assert said.count("CPU use") == 10


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"bearer {TOKEN}x", "Bearer é"]
)
def test_a_wrong_token_is_refused(node: Node, server: ScriptedServer, authorization: str | None) -> None:
    assert node(notification(alert()), authorization).status_code == 401
    assert server.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"version": "4"}',
        b'{"version": "4", "alerts": []}',
        b'{"version": "4", "alerts": "x"}',
        b'{"version": "4", "alerts": [1]}',
        b'{"version": "4", "alerts": [{"status": "firing"}]}',
        json.dumps(notification(alert(status="maybe"))).encode(),
        json.dumps(notification(alert()) | {"version": "5"}).encode(),
    ],
)
def test_what_is_no_notification_is_refused(node: Node, server: ScriptedServer, body: bytes) -> None:
    assert node(body).status_code == 400
    assert server.requests == []


def test_strange_times_and_links_do_no_harm(node: Node, server: ScriptedServer) -> None:
    strange = alert(startsAt="yesterday", endsAt=None)
    strange["annotations"]["runbook_url"] = "javascript:alert(1)"
    assert node(notification(strange)).status_code == 200
    assert "javascript" not in told(server, ROBOT)[0].body["markdown"]["text"]


def test_only_configured_chats_are_told(environ: dict[str, str], server: ScriptedServer) -> None:
    assert make(environ, CLAWDBOT_ALERTS_FEISHU_CHAT="")(notification(alert())).status_code == 200
    assert told(server, FEISHU) == []
    server.requests.clear()
    assert make(environ, robot="")(notification(alert(fingerprint="f2"))).status_code == 200
    assert told(server, ROBOT) == []


def test_no_chat_is_an_error_and_no_token_is_off(environ: dict[str, str]) -> None:
    assert make(environ, robot="", CLAWDBOT_ALERTS_FEISHU_CHAT="")(notification(alert())).status_code == 503
    assert make(environ, CLAWDBOT_ALERTS_TOKEN="")(notification(alert())).status_code == 404


def test_that_redis_is_down_reaches_people(environ: dict[str, str], server: ScriptedServer) -> None:
    path = Path(environ["CLAWDBOT_CONFIG_DIR"], "cache.yaml")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"port": free_port()}))
    node = make(environ)
    for _ in range(2):
        assert node(notification(alert("RedisDown"))).status_code == 200
    assert (len(told(server, ROBOT)), len(told(server, FEISHU))) == (1, 1)
