"""The platforms accept what they accept and refuse what they refuse."""

import base64
import json
import time

import pytest
import requests
from clawdbot_simulator import identity
from clawdbot_simulator.client import Control, ControlError
from clawdbot_simulator.crypto import dingtalk_robot_sign
from clawdbot_simulator.simulation import Tokens
from clawdbot_simulator.users import DingTalk, Feishu

from .conftest import Api, codes

PNG = b"\x89PNG\r\n\x1a\n"


def webhook(sim: Control) -> str:
    body = json.loads(DingTalk(sim.config).text("Alice", "hi").callback().body)
    return str(body["sessionWebhook"])


# DingTalk


def test_dingtalk_token_is_the_same_until_it_expires(api: Api, sim: Control) -> None:
    before = api.dingtalk
    api.refresh()
    assert api.dingtalk == before
    assert len(sim.records(kind="token", platform="dingtalk")) == 2


def test_dingtalk_refuses_a_wrong_secret(api: Api) -> None:
    body = {"appKey": api.config.dingtalk.app_key, "appSecret": "wrong"}
    assert codes(api.post("/v1.0/oauth2/accessToken", body)) == (400, "invalidClientIdOrSecret")


def test_a_session_webhook_answers_its_message(sim: Control) -> None:
    question = DingTalk(sim.config).text("Alice", "hi")
    url = json.loads(question.callback().body)["sessionWebhook"]
    assert url.startswith(sim.config.public_url)
    markdown = {"msgtype": "markdown", "markdown": {"title": "t", "text": "**hello**"}}
    assert codes(requests.post(url, json=markdown, timeout=5)) == (200, 0)
    (record,) = sim.messages(answers=question.message_id)
    assert (record.text, record.conversation) == ("**hello**", question.conversation)


def test_forged_and_expired_session_webhooks_are_dead(sim: Control) -> None:
    text = {"msgtype": "text", "text": {"content": "hello"}}
    url = webhook(sim)
    expired = identity.Session("cid", "msg", identity.now_ms() - 1).url(sim.config)
    for dead in (url[:-1] + ("0" if url[-1] != "0" else "1"), url[: url.index("=") + 1], expired):
        assert codes(requests.post(dead, json=text, timeout=5)) == (200, 300001)
    assert sim.messages() == []


@pytest.mark.parametrize("body", [{}, {"msgtype": "text"}, {"msgtype": "text", "text": {"content": ""}}, []])
def test_a_session_webhook_refuses_bad_messages(sim: Control, body: object) -> None:
    assert codes(requests.post(webhook(sim), json=body, timeout=5)) == (200, 40035)


def test_batch_send_names_unknown_users_and_answers_200(api: Api, sim: Control) -> None:
    user = identity.dingtalk_user("Alice")
    response = api.batch_send([user, "nobody"])
    assert response.status_code == 200
    assert response.json()["invalidStaffIdList"] == ["nobody"]
    (record,) = sim.messages()
    assert record.conversation == identity.dingtalk_single(user)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"robotCode": "other"}, "invalidParameter.robotCode"),
        ({"userIds": []}, "invalidParameter.userIds"),
        ({"userIds": ["staff_41"] * 21}, "invalidParameter.userIds"),
        ({"msgKey": "text"}, "invalidParameter.msgKey"),
        ({"msgParam": {"content": "not a string"}}, "invalidParameter.msgParam"),
        ({"msgParam": "no json"}, "invalidParameter.msgParam"),
        ({"msgParam": json.dumps({"content": "x" * 15_000})}, "invalidParameter.msgParam"),
        ({"msgParam": json.dumps({"content": ""})}, "invalidParameter.msgParam"),
    ],
)
def test_batch_send_refuses_bad_requests(api: Api, sim: Control, changes: dict[str, object], code: str) -> None:
    assert codes(api.batch_send(["staff_41"], **changes)) == (400, code)
    assert sim.messages() == []
    assert sim.records(kind="refused")[0].detail["body"]["code"] == code


def test_dingtalk_wants_its_own_token_header(api: Api) -> None:
    api.dingtalk = {"Authorization": api.dingtalk["x-acs-dingtalk-access-token"]}
    assert codes(api.batch_send(["staff_41"])) == (401, "InvalidAuthentication")


def test_group_messages(api: Api, sim: Control) -> None:
    body = {
        "robotCode": api.config.dingtalk.app_key,
        "openConversationId": identity.dingtalk_group("team"),
        "msgKey": "sampleMarkdown",
        "msgParam": json.dumps({"title": "t", "text": "hello"}),
    }
    path = "/v1.0/robot/groupMessages/send"
    assert api.post(path, body, api.dingtalk).status_code == 200
    assert sim.messages(conversation=identity.dingtalk_group("team"))[0].text == "hello"
    body["openConversationId"] = identity.dingtalk_single(identity.dingtalk_user("Alice"))
    assert codes(api.post(path, body, api.dingtalk)) == (400, "invalidParameter.openConversationId")


def test_dingtalk_pictures_are_fetched_without_the_token(api: Api, sim: Control) -> None:
    body = {"robotCode": api.config.dingtalk.app_key, "downloadCode": "code/1"}
    url = api.post("/v1.0/robot/messageFiles/download", body, api.dingtalk).json()["downloadUrl"]
    assert requests.get(url, headers=api.dingtalk, timeout=5).status_code == 403
    assert requests.get(url, timeout=5).content.startswith(PNG)
    sim.upload("code/1", b"other bytes")
    assert requests.get(url, timeout=5).content == b"other bytes"


def test_the_group_robot_checks_token_and_signature(api: Api, sim: Control) -> None:
    app, text = api.config.dingtalk, {"msgtype": "text", "text": {"content": "alert"}}

    def send(token: str, stamp: int, secret: str = app.robot_secret) -> tuple[int, object]:
        query = {"access_token": token, "timestamp": str(stamp), "sign": dingtalk_robot_sign(secret, str(stamp))}
        return codes(requests.post(f"{api.url}/robot/send", params=query, json=text, timeout=5))

    now = identity.now_ms()
    assert send("", now) == (200, 40035)
    assert send("wrong", now) == (200, 300005)
    assert send(app.access_token, now, "SECwrong") == (200, 310000)
    assert send(app.access_token, now - 3_700_000) == (200, 310000)
    assert sim.messages() == []
    assert send(app.access_token, now) == (200, 0)
    assert sim.messages(endpoint="dingtalk.robot")[0].text == "alert"


# Feishu


def test_feishu_refuses_a_wrong_secret_with_http_200(api: Api) -> None:
    body = {"app_id": api.config.feishu.app_id, "app_secret": "wrong"}
    assert codes(api.post("/open-apis/auth/v3/tenant_access_token/internal", body)) == (200, 10015)


def test_a_reply_is_recorded_with_its_message(api: Api, sim: Control) -> None:
    question = Feishu(sim.config).text("Bob", "hi", group="g")
    assert codes(api.reply(question.message_id)) == (200, 0)
    (record,) = sim.messages(platform="feishu", answers=question.message_id)
    assert (record.text, record.conversation) == ("hello", question.conversation)


def test_a_uuid_is_delivered_once(api: Api, sim: Control) -> None:
    question = Feishu(sim.config).text("Bob", "hi")
    ids = {api.reply(question.message_id, uuid="part-1").json()["data"]["message_id"] for _ in range(3)}
    assert len(ids) == len(sim.messages()) == 1
    api.reply(question.message_id, uuid="part-2")
    api.reply(question.message_id)
    api.reply(question.message_id)
    assert len(sim.messages()) == 4


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"content": {"text": "not a string"}}, 99992402),
        ({"msg_type": None}, 99992402),
        ({"uuid": "x" * 51}, 99992402),
        ({"msg_type": "txt"}, 230001),
        ({"content": "no json"}, 230001),
        ({"content": json.dumps({"text": "x" * 150_000})}, 230025),
        ({"msg_type": "post", "content": json.dumps({"zh_cn": {"title": "x" * 30_000}})}, 230025),
    ],
)
def test_a_reply_refuses_bad_requests(api: Api, sim: Control, changes: dict[str, object], code: int) -> None:
    assert codes(api.reply(Feishu(sim.config).text("Bob", "hi").message_id, **changes)) == (400, code)
    assert sim.messages() == []


def test_a_reply_to_no_message_is_refused(api: Api) -> None:
    assert codes(api.reply("msg1")) == (400, 230001)


def test_send_wants_receive_id_type_in_the_query(api: Api, sim: Control) -> None:
    body = {"receive_id": identity.feishu_user("Bob"), "msg_type": "text", "content": json.dumps({"text": "hello"})}

    def send(query: str) -> tuple[int, object]:
        return codes(api.post(f"/open-apis/im/v1/messages{query}", body, api.feishu))

    assert send("") == (400, 99992402)
    assert send("?receive_id_type=chat_id") == (400, 230001)
    assert send("?receive_id_type=name") == (400, 230001)
    assert send("?receive_id_type=open_id") == (200, 0)
    assert sim.messages()[0].conversation == identity.feishu_single(identity.feishu_user("Bob"))


def test_feishu_wants_a_bearer_token(api: Api) -> None:
    assert codes(api.get("/open-apis/bot/v3/info")) == (400, 99991661)
    assert codes(api.get("/open-apis/bot/v3/info", {"Authorization": "Bearer t-x"})) == (400, 99991663)
    info = api.get("/open-apis/bot/v3/info", api.feishu).json()
    assert info["bot"]["open_id"] == identity.feishu_bot(api.config)


def test_feishu_users_have_names(api: Api) -> None:
    path = f"/open-apis/contact/v3/users/{identity.feishu_user('韩梅梅')}?user_id_type=open_id"
    assert api.get(path, api.feishu).json()["data"]["user"]["name"] == "韩梅梅"


def test_feishu_pictures(api: Api) -> None:
    message_id = Feishu(api.config).image("Bob", "img_1").message_id
    path = f"/open-apis/im/v1/messages/{message_id}/resources/img_1"
    assert codes(api.get(path, api.feishu)) == (400, 99992402)
    assert api.get(f"{path}?type=image", api.feishu).content.startswith(PNG)


def test_feishu_renews_a_token_half_an_hour_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, start = Tokens("t-", renew_below=1800), time.time()
    first, lifetime = tokens.issue()
    assert lifetime == 7200
    monkeypatch.setattr(time, "time", lambda: start + 7200 - 1900)
    assert tokens.issue()[0] == first
    monkeypatch.setattr(time, "time", lambda: start + 7200 - 1700)
    assert tokens.issue()[0] != first
    assert tokens.valid(first)
    monkeypatch.setattr(time, "time", lambda: start + 7201)
    assert not tokens.valid(first)


# The model


def ask(api: Api, content: object, model: str = "sim-chat") -> requests.Response:
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    return api.post("/v1/chat/completions", body, api.model)


def said(response: requests.Response) -> str:
    return str(response.json()["choices"][0]["message"]["content"])


def test_the_model_repeats_the_question_or_says_what_it_is_told(api: Api, sim: Control) -> None:
    assert said(ask(api, "hi")) == "echo: hi"
    sim.set_model_answer("long" * 10_000)
    assert said(ask(api, "hi")) == "long" * 10_000
    assert [record.text for record in sim.records(kind="model")] == ["hi", "hi"]


def streamed(api: Api, content: str) -> list[str]:
    message = {"role": "user", "content": content}
    body = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "messages": [message]}
    lines = api.post("/v1/chat/completions", body, api.model).text.split("\n\n")
    return [line.removeprefix("data: ") for line in lines if line]


def test_the_model_streams(api: Api) -> None:
    *events, done = streamed(api, "one two")
    assert done == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "echo: one two"
    assert choices[-1]["finish_reason"] == "stop"
    assert json.loads(events[-1])["usage"]["total_tokens"] > 0


def test_the_model_may_be_slow_break_off_and_not_stream(api: Api, sim: Control) -> None:
    sim.set_model_answer("a b c", pace=0.2, before=0.2, reasoning="hm")
    began = time.monotonic()
    assert len(streamed(api, "hi")) == 8
    assert 0.7 < time.monotonic() - began < 3
    sim.set_model_answer("a b c", words=2)
    assert "[DONE]" not in streamed(api, "hi")
    sim.set_model_answer("a", streams=False)
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    assert said(api.post("/v1/chat/completions", body, api.model)) == "a"
    with pytest.raises(ControlError, match="there are"):
        sim.set_model_answer("a", speed=1)


def test_the_model_sees_pictures_as_data_urls_only(api: Api, sim: Control) -> None:
    def content(url: str) -> list[object]:
        return [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]

    good = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert said(ask(api, content(good))) == "echo: what? [1 image(s)]"
    assert sim.records(kind="model")[0].detail["images"] == [{"type": "image/png", "bytes": len(PNG)}]
    for bad in ("https://example.com/a.png", "data:image/png;base64,%%", "data:image/png;base64,"):
        assert ask(api, content(bad)).json()["error"]["code"] == "invalid_image_url"


def test_the_model_refuses_a_wrong_key_and_a_missing_name(api: Api) -> None:
    assert ask(api, "hi", "").status_code == 404
    api.model = {"Authorization": "Bearer wrong"}
    assert ask(api, "hi").status_code == 401


# The control API


def test_the_control_api_is_closed_without_its_token(sim: Control) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert requests.get(f"{sim.url}/_sim/records", headers=headers, timeout=5).status_code == 401


def test_records_can_be_filtered_and_waited_for(sim: Control, api: Api) -> None:
    seen = sim.last_seq()
    started = time.monotonic()
    assert sim.messages(after=seen, wait=0.3) == []
    assert 0.25 < time.monotonic() - started < 2
    api.batch_send(["staff_41", "staff_42"])
    assert [r.seq for r in sim.messages(after=seen)] == [seen + 1, seen + 2]
    assert len(sim.messages(conversation="cidstaff_42")) == 1
    with pytest.raises(ControlError, match="unknown parameter: colour"):
        sim.records(colour="red")


def test_reset_forgets_everything(sim: Control, api: Api) -> None:
    api.batch_send(["staff_41"])
    sim.add_fault("*", "slow")
    sim.set_model_answer("x")
    sim.reset()
    assert (sim.records(), sim.faults()) == ([], [])
    assert codes(api.batch_send(["staff_41"])) == (401, "InvalidAuthentication")
    assert said(ask(api, "hi")) == "echo: hi"


def test_unknown_paths_are_recorded(sim: Control, api: Api) -> None:
    assert api.get("/v1.0/nothing").status_code == 404
    (record,) = sim.records(kind="refused")
    assert record.detail["body"]["path"] == "/v1.0/nothing"


def test_a_missing_simulator_is_named(sim: Control) -> None:
    with pytest.raises(ControlError, match=r"no simulator answers at http://127\.0\.0\.1:1 "):
        Control(sim.config, "http://127.0.0.1:1").records()
