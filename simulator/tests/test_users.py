"""Callbacks are what the platforms would send."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from clawdbot_simulator import crypto, identity
from clawdbot_simulator.config import Config
from clawdbot_simulator.users import Callback, DingTalk, Feishu

CONFIG = Config.random("http://127.0.0.1:9000")
dingtalk, feishu = DingTalk(CONFIG), Feishu(CONFIG)


def opened(callback: Callback) -> Any:
    """The event in a Feishu callback, its signature checked."""
    headers, key = callback.headers, CONFIG.feishu.encryption_key
    stamp, nonce = headers["X-Lark-Request-Timestamp"], headers["X-Lark-Request-Nonce"]
    assert headers["X-Lark-Signature"] == crypto.feishu_signature(stamp, nonce, key, callback.body)
    return json.loads(crypto.feishu_decrypt(key, json.loads(callback.body)["encrypt"]))


@pytest.mark.parametrize(
    ("question", "sample", "absent"),
    [
        (dingtalk.text("李雷", "hello"), "single_text", {"openThreadId"}),
        (dingtalk.picture("李雷", "code"), "single_picture", {"openThreadId"}),
        (dingtalk.text("李雷", "测试数据", group="测试群"), "group_text", set()),
    ],
)
def test_dingtalk_bodies_have_the_fields_of_the_samples(
    question: Any, sample: str, absent: set[str], vectors: Callable[[str], Any]
) -> None:
    body = json.loads(question.callback().body)
    wanted = vectors("dingtalk_robot_sign")["bodies"][sample]
    assert set(wanted) - set(body) == absent
    same = ("msgtype", "conversationType", "text", "isInAtList")
    assert {k: body[k] for k in same if k in wanted} == {k: wanted[k] for k in same if k in wanted}
    assert body["sessionWebhookExpiredTime"] - body["createAt"] == 5_400_000


def test_a_dingtalk_callback_is_signed_in_its_headers() -> None:
    headers = dingtalk.text("Alice", "hi").callback().headers
    assert headers["sign"] == crypto.dingtalk_robot_sign(CONFIG.dingtalk.app_secret, headers["timestamp"])
    assert abs(int(headers["timestamp"]) - identity.now_ms()) < 5000


def test_a_repetition_is_the_same_message_with_a_fresh_signature() -> None:
    question = feishu.text("Bob", "hi")
    first, again = question.callback(), question.callback()
    assert first.headers["X-Lark-Signature"] != again.headers["X-Lark-Signature"]
    assert opened(first) == opened(again)


def test_an_enveloped_dingtalk_callback() -> None:
    plain = {"msgtype": "text", "text": {"content": "你好"}}
    body = json.loads(dingtalk.robot(plain, enveloped=True).body)
    app = CONFIG.dingtalk
    assert json.loads(crypto.dingtalk_decrypt(app.aes_key, app.app_key, body["encrypt"])) == plain


def test_a_dingtalk_event_and_the_bots_answer_to_it() -> None:
    callback, app = dingtalk.event("check_url"), CONFIG.dingtalk
    encrypt, query = json.loads(callback.body)["encrypt"], callback.query
    assert json.loads(crypto.dingtalk_decrypt(app.aes_key, app.app_key, encrypt)) == {"EventType": "check_url"}
    wanted = crypto.dingtalk_event_signature(app.token, query["timestamp"], query["nonce"], encrypt)
    assert query["msg_signature"] == wanted

    success = crypto.dingtalk_encrypt(app.aes_key, app.app_key, "success")
    reply = {"timeStamp": "1", "nonce": "n", "encrypt": success}
    reply["msg_signature"] = crypto.dingtalk_event_signature(app.token, "1", "n", success)
    assert dingtalk.read_event_reply(reply) == "success"
    with pytest.raises(ValueError, match="msg_signature"):
        dingtalk.read_event_reply(reply | {"nonce": "other"})


def test_feishu_text_mentions_the_bot_in_a_group() -> None:
    message = opened(feishu.text("韩梅梅", "hi", group="g").callback())["event"]["message"]
    assert json.loads(message["content"]) == {"text": "@_user_1 hi"}
    assert message["mentions"][0]["id"]["open_id"] == identity.feishu_bot(CONFIG)
    assert message["chat_type"] == "group"

    message = opened(feishu.text("韩梅梅", "hi", group="g", mention=False).callback())["event"]["message"]
    assert "mentions" not in message


def test_feishu_pictures_come_as_image_or_post() -> None:
    image = opened(feishu.image("Bob", "img_1").callback())["event"]["message"]
    assert (image["message_type"], json.loads(image["content"])) == ("image", {"image_key": "img_1"})
    post = opened(feishu.post("Bob", "look", ["img_1"]).callback())["event"]["message"]
    assert json.loads(post["content"])["content"][1] == [{"tag": "img", "image_key": "img_1"}]


def test_url_verification_carries_no_signature_unless_wanted() -> None:
    assert "X-Lark-Signature" not in feishu.url_verification("abc").headers
    assert opened(feishu.url_verification("abc", signed=True))["challenge"] == "abc"


def test_identifiers_lead_back_to_people_and_chats() -> None:
    question = feishu.text("韩梅梅", "hi")
    assert identity.name_of(identity.feishu_user("韩梅梅")) == "韩梅梅"
    assert identity.feishu_chat_of(question.message_id) == question.conversation
    for wrong in ("om_", "om_1", "x_1_2", ""):
        assert identity.feishu_chat_of(wrong) is None
