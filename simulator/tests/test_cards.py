"""Cards grow as the platforms let them, and what is on one that is done is an answer."""

import json
from typing import Any

import pytest
import requests
from clawdbot_simulator.client import Control, ControlError
from clawdbot_simulator.users import DingTalk, Feishu

from .conftest import Api, codes

CARDS = "/open-apis/cardkit/v1/cards"


def card(words: str, *, growing: bool = True, **changes: Any) -> dict[str, str]:
    config = {"streaming_mode": growing, "update_multi": True}
    element = {"tag": "markdown", "element_id": "answer", "content": words}
    data = {"schema": "2.0", "config": config, "body": {"elements": [element]}} | changes
    return {"type": "card_json", "data": json.dumps(data)}


def put(api: Api, path: str, body: object, headers: dict[str, str]) -> requests.Response:
    return requests.put(api.url + path, json=body, headers=headers, timeout=5)


def made(api: Api) -> str:
    return str(api.post(CARDS, card("thinking"), api.feishu).json()["data"]["card_id"])


def reply(api: Api, message: str, card_id: str) -> requests.Response:
    content = json.dumps({"type": "card", "data": {"card_id": card_id}})
    return api.reply(message, msg_type="interactive", content=content, uuid=card_id)


def test_a_card_of_feishu_grows_and_becomes_a_message(api: Api, sim: Control) -> None:
    question = Feishu(sim.config).text("Alice", "hi")
    card_id = made(api)
    assert not sim.cards(), "nobody sees it yet"
    for _ in range(2):
        assert codes(reply(api, question.message_id, card_id)) == (200, 0)
    growth = {"content": "Hel", "sequence": 3}
    assert codes(put(api, f"{CARDS}/{card_id}/elements/answer/content", growth, api.feishu)) == (200, 0)
    assert not sim.messages()
    end = {"card": card("Hello", growing=False), "sequence": 4}
    assert codes(put(api, f"{CARDS}/{card_id}", end, api.feishu)) == (200, 0)
    assert [record.text for record in sim.records(kind="card")] == ["thinking", "Hel", "Hello"]
    [message] = sim.messages()
    assert (message.text, message.answers, message.conversation) == (
        "Hello",
        question.message_id,
        question.conversation,
    )
    assert [each["growing"] for each in sim.cards()] == [False]
    # Once more changes nothing for who reads it.
    put(api, f"{CARDS}/{card_id}", end | {"sequence": 5}, api.feishu)
    assert len(sim.messages()) == 1


def test_what_feishu_refuses(api: Api) -> None:
    assert codes(api.post(CARDS, card("x", schema="1.0"), api.feishu)) == (400, 200610)
    assert codes(api.post(CARDS, card("x", config={}), api.feishu)) == (400, 300302)
    assert codes(api.post(CARDS, card("x" * 31_000), api.feishu)) == (400, 200860)
    assert codes(api.post(CARDS, card("x"), {})) == (400, 99991661)
    card_id = made(api)
    path = f"{CARDS}/{card_id}/elements/answer/content"
    assert codes(put(api, path, {"content": "x", "sequence": 0}, api.feishu)) == (400, 99992402)
    assert codes(put(api, path, {"content": "x", "sequence": 2}, api.feishu)) == (200, 0)
    assert codes(put(api, path, {"content": "y", "sequence": 2}, api.feishu)) == (400, 300317)
    assert codes(put(api, path.replace("answer", "other"), {"content": "x", "sequence": 3}, api.feishu)) == (
        400,
        300313,
    )
    put(api, f"{CARDS}/{card_id}", {"card": card("x", growing=False), "sequence": 4}, api.feishu)
    assert codes(put(api, path, {"content": "y", "sequence": 5}, api.feishu)) == (400, 300309)
    assert codes(put(api, f"{CARDS}/1/elements/answer/content", {"content": "y", "sequence": 5}, api.feishu)) == (
        400,
        200740,
    )


@pytest.mark.parametrize("group", [None, "team"])
def test_a_card_of_dingtalk_grows_and_becomes_a_message(api: Api, sim: Control, group: str | None) -> None:
    question = DingTalk(sim.config).text("Alice", "hi", group=group)
    space = {"openSpaceId": "dtv1.card//IM_ROBOT.staff_416c696365", "imRobotOpenDeliverModel": {"spaceType": "x"}}
    if group:
        model = {"robotCode": sim.config.dingtalk.app_key}
        space = {"openSpaceId": f"dtv1.card//IM_GROUP.{question.conversation}", "imGroupOpenDeliverModel": model}
    body = {"outTrackId": "t1", "cardTemplateId": "x.schema", "cardData": {"cardParamMap": {"content": "thinking"}}}
    path = "/v1.0/card/instances/createAndDeliver"
    [delivered] = api.post(path, body | space, api.dingtalk).json()["result"]["deliverResults"]
    assert delivered["success"]
    carrier = delivered["carrierId"]
    assert codes(api.post(path, body | space, api.dingtalk)) == (400, "invalidParameter.outTrackId")
    update = {"outTrackId": "t1", "guid": "g", "key": "content", "content": "Hel", "isFull": True}
    assert put(api, "/v1.0/card/streaming", update, api.dingtalk).json()["success"]
    assert not sim.messages()
    put(api, "/v1.0/card/streaming", update | {"content": "Hello", "isFinalize": True}, api.dingtalk)
    [message] = sim.messages()
    assert (message.text, message.conversation) == ("Hello", question.conversation)
    quoting = DingTalk(sim.config).text("Bob", "why?", group=group, quotes=message).event
    assert quoting["text"]["repliedMsg"] == {"msgType": "interactiveCard"}
    assert quoting["originalProcessQueryKey"] == message.detail["name"] == carrier


def test_what_dingtalk_refuses(api: Api, sim: Control) -> None:
    update = {"outTrackId": "unknown", "guid": "g", "key": "content", "content": "x", "isFull": True}
    assert put(api, "/v1.0/card/streaming", update, api.dingtalk).status_code == 400
    body = {
        "outTrackId": "t2",
        "cardTemplateId": "x.schema",
        "cardData": {"cardParamMap": {}},
        "openSpaceId": "dtv1.card//IM_ROBOT.stranger",
        "imRobotOpenDeliverModel": {"spaceType": "IM_ROBOT"},
    }
    answer = api.post("/v1.0/card/instances/createAndDeliver", body, api.dingtalk).json()
    assert [each["success"] for each in answer["result"]["deliverResults"]] == [False]
    assert not sim.cards()


def test_signs_on_the_messages_of_users(api: Api, sim: Control) -> None:
    question = Feishu(sim.config).text("Alice", "hi")
    path = f"/open-apis/im/v1/messages/{question.message_id}/reactions"
    assert codes(api.post(path, {"reaction_type": {"emoji_type": "no such"}}, api.feishu)) == (400, 231001)
    made = api.post(path, {"reaction_type": {"emoji_type": "Typing"}}, api.feishu).json()["data"]["reaction_id"]
    for _ in range(2):
        assert codes(requests.delete(f"{api.url}{path}/{made}", headers=api.feishu, timeout=5)) == (200, 0)
    assert [record.text for record in sim.records(kind="sign", answers=question.message_id)] == ["Typing", "", ""]
    ding = DingTalk(sim.config).text("Alice", "hi", group="team")
    body = {
        "robotCode": sim.config.dingtalk.app_key,
        "openMsgId": ding.message_id,
        "openConversationId": ding.conversation,
        "emotionType": 2,
        "emotionName": "hm",
    }
    assert api.post("/v1.0/robot/emotion/reply", body, api.dingtalk).status_code == 400
    body["textEmotion"] = {"emotionId": "1", "emotionName": "hm", "text": "hm", "backgroundId": "im_bg_1"}
    for way in ("reply", "recall"):
        assert api.post(f"/v1.0/robot/emotion/{way}", body, api.dingtalk).json()["success"]
    found = sim.records(kind="sign", answers=ding.message_id)
    assert [(record.text, record.conversation) for record in found] == [
        ("hm", ding.conversation),
        ("", ding.conversation),
    ]


def test_the_page_knows_no_secret_and_a_question_is_asked_from_it(api: Api, sim: Control) -> None:
    page = requests.get(api.url + "/", timeout=5)
    assert page.headers["Content-Type"].startswith("text/html")
    assert sim.config.control_token not in page.text
    assert requests.post(api.url + "/_sim/ask", json={}, timeout=5).status_code == 401
    with pytest.raises(ControlError, match="no bot answers"):
        sim.ask("http://127.0.0.1:1", "feishu", "Alice", "hi")
    with pytest.raises(ControlError, match="on dingtalk or feishu"):
        sim.ask("http://127.0.0.1:1", "icq", "Alice", "hi")
    with pytest.raises(ControlError, match="HTTP 404"):
        sim.ask(api.url, "dingtalk", "Alice", "hello there", group="team")
    assert [record.text for record in sim.records(kind="question")] == ["hi", "hello there"]


def test_a_card_says_what_is_on_it_to_who_asks_for_it_as_it_was_written(api: Api, sim: Control) -> None:
    question = Feishu(sim.config).text("Alice", "hi")
    card_id = made(api)
    name = reply(api, question.message_id, card_id).json()["data"]["message_id"]
    put(api, f"{CARDS}/{card_id}", {"card": card("Hello", growing=False), "sequence": 4}, api.feishu)
    [message] = sim.messages()
    assert message.detail["name"] == name
    path = f"/open-apis/im/v1/messages/{name}"
    contents = [
        api.get(f"{path}{query}", api.feishu).json()["data"]["items"][0]["body"]["content"]
        for query in ("", "?card_msg_content_type=user_card_content")
    ]
    assert ["Hello" in content for content in contents] == [False, True]
    assert codes(api.get(path)) == (400, 99991661)
    assert codes(api.get(f"{path}x", api.feishu)) == (400, 230001)


def test_what_users_asked_can_be_looked_up_and_quoted(api: Api, sim: Control) -> None:
    users = Feishu(sim.config)
    question = users.image("Alice", "img_1")
    path = f"/open-apis/im/v1/messages/{question.message_id}"
    assert codes(api.get(path, api.feishu)) == (400, 230001)
    sim.keep(question)
    [found] = api.get(path, api.feishu).json()["data"]["items"]
    assert (found["msg_type"], json.loads(found["body"]["content"])) == ("image", {"image_key": "img_1"})
    quoting = users.text("Bob", "why?", quotes=question).event["event"]["message"]
    assert quoting["parent_id"] == question.message_id


def test_what_dingtalk_sends_along_of_what_is_quoted(sim: Control) -> None:
    users = DingTalk(sim.config)
    asked = users.text("Alice", "hi", group="team")
    quoting = users.text("Bob", "why?", group="team", quotes=asked).event["text"]
    assert quoting["repliedMsg"] == {"msgType": "text", "msgId": asked.message_id, "content": {"text": "hi"}}
    assert (quoting["content"], quoting["isReplyMsg"]) == (" why?", True)
    picture = users.text("Bob", "why?", quotes=users.picture("Bob", "code")).event["text"]["repliedMsg"]
    assert picture["content"]["downloadCode"] == "code"
