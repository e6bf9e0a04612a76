"""Each fault looks like the platform's own, and ends when it should."""

import json
import time

import pytest
import requests
from clawdbot_simulator.client import Control, ControlError
from clawdbot_simulator.users import DingTalk, Feishu

from .conftest import Api


@pytest.fixture
def message_id(sim: Control) -> str:
    return Feishu(sim.config).text("Bob", "hi").message_id


def test_slow(api: Api, sim: Control, message_id: str) -> None:
    sim.add_fault("feishu.reply", "slow", seconds=0.3, count=1)
    started = time.monotonic()
    assert api.reply(message_id).json()["code"] == 0
    assert time.monotonic() - started >= 0.3
    started = time.monotonic()
    api.reply(message_id)
    assert time.monotonic() - started < 0.3


def test_rate_limits_speak_each_platforms_language(api: Api, sim: Control, message_id: str) -> None:
    sim.add_fault("*", "rate_limit", retry_after=7)
    feishu = api.reply(message_id)
    assert (feishu.status_code, feishu.json()["code"]) == (429, 99991400)
    assert feishu.headers["x-ogw-ratelimit-reset"] == "7"
    dingtalk = api.batch_send(["staff_41"])
    assert dingtalk.status_code == 403
    assert dingtalk.json()["code"] == "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"
    robot = api.post("/robot/send?access_token=x", {})
    assert (robot.status_code, robot.json()["errcode"]) == (200, 130101)
    model = api.post("/v1/chat/completions", {}, api.model)
    assert (model.status_code, model.headers["Retry-After"]) == (429, "7")
    assert sim.messages() == []


def test_a_count_limits_the_hits(api: Api, sim: Control, message_id: str) -> None:
    sim.add_fault("feishu.*", "server_error", count=2)
    assert [api.reply(message_id).status_code for _ in range(4)] == [500, 500, 200, 200]
    assert sim.faults()[0].hits == 2


def test_control_requests_and_unknown_paths_are_not_hit(api: Api, sim: Control, message_id: str) -> None:
    sim.add_fault("*", "server_error", count=1)
    assert api.get("/v1.0/nothing").status_code == 404
    assert sim.records(kind="message") == []
    assert [api.reply(message_id).status_code for _ in range(2)] == [500, 200]


def test_faults_end_when_they_are_cleared(api: Api, sim: Control, message_id: str) -> None:
    sim.add_fault("feishu.reply", "server_error")
    assert api.reply(message_id).status_code == 500
    assert api.batch_send(["staff_41"]).status_code == 200
    sim.clear_faults()
    assert api.reply(message_id).status_code == 200


def test_an_expired_token_is_refused_until_a_new_one_is_fetched(api: Api, sim: Control, message_id: str) -> None:
    sim.add_fault("feishu.reply", "expired_token", count=1)
    assert [api.reply(message_id).json()["code"] for _ in range(2)] == [99991663, 99991663]
    api.refresh()
    assert api.reply(message_id).json()["code"] == 0
    sim.add_fault("dingtalk.batch_send", "expired_token", count=1)
    assert api.batch_send(["staff_41"]).status_code == 401
    sim.add_fault("model.chat", "expired_token", count=1)
    assert api.post("/v1/chat/completions", {}, api.model).status_code == 401


def test_a_dropped_request_has_no_effect(api: Api, sim: Control, message_id: str) -> None:
    sim.add_fault("feishu.reply", "drop", count=1)
    with pytest.raises(requests.ConnectionError):
        api.reply(message_id)
    assert sim.messages() == []


def test_a_dropped_answer_has(api: Api, sim: Control, message_id: str) -> None:
    sim.add_fault("feishu.reply", "drop_after", count=1)
    with pytest.raises(requests.ConnectionError):
        api.reply(message_id, uuid="u")
    assert len(sim.messages()) == 1
    api.reply(message_id, uuid="u")
    assert len(sim.messages()) == 1


def test_a_dead_session(sim: Control) -> None:
    sim.add_fault("dingtalk.session", "dead_session", count=1)
    url = json.loads(DingTalk(sim.config).text("Alice", "hi").callback().body)["sessionWebhook"]
    text = {"msgtype": "text", "text": {"content": "hello"}}
    assert [requests.post(url, json=text, timeout=5).json()["errcode"] for _ in range(2)] == [300001, 0]


def test_any_other_error(api: Api, sim: Control, message_id: str) -> None:
    sim.add_fault("feishu.reply", "error", status=400, body={"code": 230011, "msg": "recalled"})
    assert api.reply(message_id).json() == {"code": 230011, "msg": "recalled"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"endpoint": "feishu.reply", "kind": "broken"}, "kind must be one of slow, rate_limit"),
        ({"endpoint": "feishu.nothing", "kind": "slow"}, "endpoint must match one of dingtalk.batch_send"),
        ({"endpoint": "feishu.reply", "kind": "slow", "colour": "red"}, "colour"),
    ],
)
def test_wrong_faults_are_refused(sim: Control, fault: dict[str, str], message: str) -> None:
    with pytest.raises(ControlError, match=message):
        sim.add_fault(**fault)  # type: ignore[arg-type]  # that is the point
