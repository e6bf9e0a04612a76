"""DingTalk's callbacks through the HTTP endpoint, with the platform's own test vectors."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import redis
from clawdbot.config import Settings
from clawdbot.errors import Refusal
from clawdbot.platforms.dingtalk.crypto import EventCipher, event_signature, robot_sign

from .conftest import Bot, dingtalk_body, vectors

URL = "/api/dingtalk/callback"
EVENTS = vectors("dingtalk_event_crypto")
ROBOT = vectors("dingtalk_robot_sign")
OUTGOING = vectors("outgoing_webhook_sign")["dingtalk_custom_robot"]


def configured(settings: Settings, **changes: Any) -> Settings:
    assert settings.dingtalk
    return dataclasses.replace(settings, dingtalk=dataclasses.replace(settings.dingtalk, **changes))


def event_bot(settings: Settings, vector: dict[str, Any]) -> Bot:
    names = {"token": vector["token"], "aes_key": vector["aes_key"], "app_key": vector["owner_key"]}
    return Bot(configured(settings, **names))


# Signatures and encryption


@pytest.mark.parametrize("vector", ROBOT["sign_vectors"], ids=lambda vector: vector["name"])
def test_robot_sign(vector: dict[str, str]) -> None:
    assert robot_sign(vector["app_secret"], vector["timestamp"]) == vector["sign"]


@pytest.mark.parametrize("vector", OUTGOING)
def test_group_robot_sign(vector: dict[str, str]) -> None:
    assert robot_sign(vector["secret"], vector["timestamp"]) == vector["sign_b64"]


@pytest.mark.parametrize("vector", EVENTS["vectors"], ids=lambda vector: vector["name"])
def test_event_vectors_through_the_endpoint(settings: Settings, vector: dict[str, Any]) -> None:
    bot = event_bot(settings, vector)
    response = bot.web.post(URL, query_string=vector["query"], json=vector["body"])
    if vector["plaintext"] == "success":
        # What DingTalk would get from us: a good envelope, but no event.
        assert response.status_code == 400
        cipher = EventCipher(vector["aes_key"], vector["owner_key"])
        assert cipher.decrypt(vector["body"]["encrypt"]) == b"success"
        return
    assert response.status_code == 200
    assert_encrypted_success(bot, response.json)


def assert_encrypted_success(bot: Bot, reply: Any) -> None:
    assert set(reply) == {"msg_signature", "timeStamp", "nonce", "encrypt"}
    config = bot.dingtalk
    signature = event_signature(config.token, reply["timeStamp"], reply["nonce"], reply["encrypt"])
    assert reply["msg_signature"] == signature
    assert len(reply["nonce"]) == 16
    assert EventCipher(config.aes_key, config.app_key).decrypt(reply["encrypt"]) == b"success"


@pytest.mark.parametrize("vector", EVENTS["negative"], ids=lambda vector: vector["name"])
def test_negative_event_vectors(settings: Settings, vector: dict[str, Any]) -> None:
    base = next(known for known in EVENTS["vectors"] if known["name"] == vector["base"])
    bot = event_bot(settings, base | {"owner_key": vector.get("owner_key", base["owner_key"])})
    response = bot.web.post(URL, query_string=vector["query"], json=vector["body"])
    assert response.status_code == 401
    assert response.json == {"error": "not authentic"}


@pytest.mark.parametrize("length", [0, 1, 11, 12, 31, 32, 127, 128, 5000])
def test_envelope_of_any_length(bot: Bot, length: int) -> None:
    """The official Python sample fails from 128 bytes on, and for any character outside ASCII."""
    cipher = EventCipher(bot.dingtalk.aes_key, bot.dingtalk.app_key)
    message = ("答" * length).encode()[:length]
    assert cipher.decrypt(cipher.encrypt(message)) == message


@pytest.mark.parametrize("encrypted", ["", "!", "YQ==", "AAAA" * 8, "A" * 43 + "=", "ü"])
def test_bad_envelopes(bot: Bot, encrypted: str) -> None:
    with pytest.raises(Refusal) as refused:
        EventCipher(bot.dingtalk.aes_key, bot.dingtalk.app_key).decrypt(encrypted)
    assert refused.value.status == 400


def test_event_with_the_older_parameter_names(bot: Bot) -> None:
    config = bot.dingtalk
    encrypted = EventCipher(config.aes_key, config.app_key).encrypt(b'{"EventType":"check_url"}')
    signature = event_signature(config.token, "1", "n", encrypted)
    query = {"signature": signature, "timeStamp": "1", "nonce": "n"}
    response = bot.web.post(URL, query_string=query, json={"encrypt": encrypted})
    assert_encrypted_success(bot, response.json)


def test_uninteresting_event_gets_success_and_no_effect(bot: Bot) -> None:
    response = bot.event(b'{"EventType":"user_add_org","TimeStamp":"1"}')
    assert_encrypted_success(bot, response.json)
    assert bot.queued() == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"encrypt": 1}', b'{"other": ""}', b"\xff"])
def test_event_without_envelope(bot: Bot, body: bytes) -> None:
    """A plain body under an event's parameters is no event: no way around the encryption."""
    query = {"msg_signature": "0" * 40, "timestamp": "1", "nonce": "n"}
    assert bot.web.post(URL, query_string=query, data=body).status_code == 400


# Robot messages


@pytest.mark.parametrize("name", ROBOT["bodies"])
def test_bodies_of_the_documentation(bot: Bot, name: str) -> None:
    body = ROBOT["bodies"][name]
    response = bot.robot(body)
    assert (response.status_code, response.json) == (200, {"msgtype": "empty"})
    [message] = bot.queued()
    assert (message.platform, message.id, message.conversation) == ("dingtalk", body["msgId"], body["conversationId"])
    assert message.sender == body["senderStaffId"]
    assert message.created_ms == body["createAt"]
    assert message.group is (name == "group_text")
    assert message.text == {"single_text": "hello", "single_picture": "", "group_text": "测试数据"}[name]
    assert message.images == (("mIof-download-code",) if name == "single_picture" else ())
    assert message.route["session_webhook"] == body["sessionWebhook"]


def test_rich_text(bot: Bot) -> None:
    pieces = [{"text": "look "}, {"type": "picture", "downloadCode": "d1", "pictureDownloadCode": "p1"}, "junk"]
    more = [{"text": "nice?"}, {"type": "picture", "pictureDownloadCode": "p2"}]
    bot.robot(dingtalk_body(msgtype="richText", text=..., content={"richText": pieces + more}))
    [message] = bot.queued()
    assert (message.text, message.images) == ("look\nnice?", ("d1", "p2"))


@pytest.mark.parametrize("kind", ["audio", "video", "file", "unknownMsgType", ""])
def test_kinds_that_the_bot_cannot_read(bot: Bot, kind: str) -> None:
    bot.robot(dingtalk_body(msgtype=kind, text=..., content={"downloadCode": "x"}))
    [message] = bot.queued()
    assert message.unsupported == (kind or "unknown")


def test_sender_outside_of_the_organisation(bot: Bot) -> None:
    bot.robot(dingtalk_body(senderStaffId=...))
    [message] = bot.queued()
    assert message.sender == "$:LWCP_v1:$gzXDEXQDiM8piyLH4HRRcg=="
    assert message.route["staff_id"] == ""


def test_group_message_for_somebody_else(bot: Bot) -> None:
    assert bot.robot(dingtalk_body(conversationType="2", isInAtList=False)).status_code == 200
    assert bot.queued() == []


def test_callback_over_quota(bot: Bot) -> None:
    response = bot.robot({"errCode": "20001", "errMsg": "quota"})
    assert (response.status_code, bot.queued()) == (200, [])


@pytest.mark.parametrize("case", ROBOT["clock_cases"], ids=lambda case: case["name"])
def test_clock(bot: Bot, case: dict[str, Any]) -> None:
    body = json.dumps(dingtalk_body()).encode()
    if case["name"] == "no_headers":
        response = bot.web.post(URL, data=body)
    else:
        response = bot.robot(body, timestamp=case.get("timestamp", bot.now_ms + case.get("delta_ms", 0)))
    assert response.status_code == (200 if case["expect"] == "accept" else 401)
    assert len(bot.queued()) == (1 if case["expect"] == "accept" else 0)


def test_wrong_secret(bot: Bot) -> None:
    assert bot.robot(dingtalk_body(), secret="somebody else's").status_code == 401
    assert bot.queued() == []


@pytest.mark.parametrize(
    "headers", [{"sign": "ü", "timestamp": "1"}, {"sign": "", "timestamp": ""}, {"timestamp": "1"}]
)
def test_odd_headers(bot: Bot, headers: dict[str, str]) -> None:
    assert bot.web.post(URL, data=b"{}", headers=headers).status_code == 401


def test_enveloped_robot_message(bot: Bot) -> None:
    plain = json.dumps(dingtalk_body()).encode()
    for owner in (bot.dingtalk.app_key, ""):
        bot.robot({"encrypt": EventCipher(bot.dingtalk.aes_key, owner).encrypt(plain)})
    assert len(bot.queued()) == 1
    assert bot.robot({"encrypt": EventCipher(bot.dingtalk.aes_key, "other").encrypt(plain)}).status_code == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"msgId": ...},
        {"msgId": ""},
        {"msgId": 5},
        {"msgId": "x" * 300},
        {"conversationId": None},
        {"senderStaffId": ..., "senderId": ...},
        {"msgtype": "picture", "content": {}},
    ],
)
def test_malformed_message(bot: Bot, changes: dict[str, Any]) -> None:
    assert bot.robot(dingtalk_body(**changes)).status_code == 400
    assert bot.queued() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"text": None},
        {"text": "hello"},
        {"text": {"content": 1}},
        {"createAt": "x", "sessionWebhookExpiredTime": [], "sessionWebhook": 7, "senderNick": {}},
        {"text": {"content": "\ud800 lone \0"}},
    ],
)
def test_odd_fields_are_no_reason_to_fail(bot: Bot, changes: dict[str, Any]) -> None:
    assert bot.robot(dingtalk_body(**changes)).status_code == 200
    [message] = bot.queued()
    assert message.text in {"", "? lone", "hello"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b'"x"', b"\xff\xfe", b"1" * 5000])
def test_body_that_is_no_object(bot: Bot, body: bytes) -> None:
    assert bot.robot(body).status_code == 400


def test_too_large(bot: Bot) -> None:
    assert bot.robot(b" " * (1024 * 1024 + 1)).status_code == 413


# Replays


def test_repetition_by_the_platform_is_accepted_once(bot: Bot) -> None:
    body = dingtalk_body()
    stamp = bot.now_ms
    assert bot.robot(body, timestamp=stamp).status_code == 200
    bot.now_ms += 120_000
    assert bot.robot(body, timestamp=stamp).status_code == 200
    assert len(bot.queued()) == 1


def test_captured_signature_is_of_no_use(bot: Bot, client: redis.Redis) -> None:
    """DingTalk's signature does not cover the body: whoever saw one could sign other messages with it."""
    stamp = bot.now_ms
    assert bot.robot(dingtalk_body(msgId="m1"), timestamp=stamp).status_code == 200
    # Two messages within a millisecond have the same signature.
    assert bot.robot(dingtalk_body(msgId="m2"), timestamp=stamp).status_code == 200
    [guard] = client.keys("clawdbot:replay:*")
    client.decrby(guard, 11_000)
    assert bot.robot(dingtalk_body(msgId="m3"), timestamp=stamp).status_code == 401
    assert [message.id for message in bot.queued()] == ["m1", "m2"]


# Quotes, voice and what clients do with mentions


QUOTES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"msgType": "text", "content": {"text": "one"}}, {"text": "one", "images": []}),
    ({"msgType": "text", "content": {"content": "one"}}, {"text": "one", "images": []}),
    ({"msgType": "text", "content": "one"}, {"text": "one", "images": []}),
    ({"msgType": "text", "content": '{"text": "one"}'}, {"text": "one", "images": []}),
    ({"msgType": "markdown", "content": {"title": "t", "text": "**one**"}}, {"text": "**one**", "images": []}),
    ({"msgType": "picture", "content": {"downloadCode": "d"}}, {"text": "", "images": ["d"]}),
    (
        {
            "msgType": "richText",
            "content": {
                "richText": [
                    {"msgType": "picture", "downloadCode": "d"},
                    {"msgType": "text", "content": "one"},
                    {"type": "picture", "pictureDownloadCode": "e"},
                    {"text": "two"},
                ]
            },
        },
        {"text": "one\ntwo", "images": ["d", "e"]},
    ),
    ({"msgType": "audio", "content": {"recognition": "spoken", "downloadCode": "x"}}, {"text": "spoken", "images": []}),
    (
        {
            "msgType": "interactiveCard",
            "content": {
                "cardContent": {
                    "elementType": "ROOT",
                    "children": [
                        {"elementType": "TEXT", "value": "one"},
                        {"elementType": "DIV", "children": [{"elementType": "TEXT", "value": "two"}]},
                    ],
                }
            },
        },
        {"text": "one\ntwo", "images": []},
    ),
    (
        {"msgType": "interactiveCard", "content": {"cardData": '{"cardParamMap": {"content": "card"}}'}},
        {"text": "card", "images": []},
    ),
    ({"msgType": "interactiveCard", "msgId": "m"}, {"text": "", "images": []}),
    ({"msgType": "file", "content": {"fileName": "a"}}, {"text": "", "images": []}),
    ({}, {"text": "", "images": []}),
]


@pytest.mark.parametrize(("replied", "expected"), QUOTES)
def test_quotes_in_all_their_forms(bot: Bot, replied: dict[str, Any], expected: dict[str, Any]) -> None:
    text = {"content": "why?", "isReplyMsg": True, "repliedMsg": replied}
    bot.robot(dingtalk_body(text=text))
    [message] = bot.queued()
    assert message.text == "why?"
    assert message.route["quote"] == expected


@pytest.mark.parametrize(
    "text", [{}, {"isReplyMsg": True}, {"isReplyMsg": True, "repliedMsg": {"msgType": "interactiveCard"}}]
)
def test_a_quoted_card_of_the_robot_has_the_key_of_its_delivery(bot: Bot, text: dict[str, Any]) -> None:
    bot.robot(dingtalk_body(text={"content": "why?", **text}, originalProcessQueryKey="carrier"))
    [message] = bot.queued()
    assert message.route["quote"] == {"text": "", "images": [], "key": "carrier"}


def test_quotes_are_bounded_and_only_there_if_there_is_one(bot: Bot) -> None:
    deep: Any = {"elementType": "TEXT", "value": "deep"}
    for _ in range(60):
        deep = {"elementType": "DIV", "children": [deep]}
    replied = [
        {"msgType": "text", "content": {"text": "x" * 100_000}},
        {
            "msgType": "richText",
            "content": {"richText": [{"type": "picture", "downloadCode": f"{n}"} for n in range(50)]},
        },
        {"msgType": "interactiveCard", "content": {"cardContent": deep}},
    ]
    for number, quoted in enumerate(replied):
        bot.robot(dingtalk_body(msgId=f"m{number}", text={"content": "a", "repliedMsg": quoted}))
    bot.robot(dingtalk_body(msgId="plain", conversationId="other"))
    *quotes, plain = sorted(bot.queued(), key=lambda message: message.id)
    assert [len(message.route["quote"]["text"]) for message in quotes] == [8000, 0, 0]
    assert len(quotes[1].route["quote"]["images"]) == 4
    assert "quote" not in plain.route


def test_voice_with_its_transcript_is_text(bot: Bot) -> None:
    content = {"duration": 4000, "downloadCode": "x", "recognition": "钉钉,让进步发生"}
    bot.robot(dingtalk_body(msgtype="audio", text=..., content=content))
    [message] = bot.queued()
    assert (message.text, message.unsupported) == ("钉钉,让进步发生", "")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (" 你好", "你好"),
        ("@小 助手\u2005你好", "你好"),
        ("@Bot\u2005 @Tom\u2005/reset", "/reset"),
        ("\u200b", ""),
        ("ask @Tom about it", "ask @Tom about it"),
    ],
)
def test_mentions_that_a_client_left_in(bot: Bot, content: str, expected: str) -> None:
    bot.robot(dingtalk_body(conversationType="2", isInAtList=True, text={"content": content}))
    [message] = bot.queued()
    assert message.text == expected


@pytest.mark.parametrize("body", [{"errCode": 20001}, dingtalk_body(text=..., errCode="20001", errMsg="over quota")])
def test_trouble_of_the_platform_reaches_the_operator(
    bot: Bot, caplog: pytest.LogCaptureFixture, body: dict[str, Any]
) -> None:
    def count() -> float:
        page = bot.web.get("/metrics").get_data(as_text=True)
        return float(
            page.partition('clawdbot_callbacks_total{platform="dingtalk",result="platform_error"}')[2].split()[0]
        )

    before = count()
    assert bot.robot(body).status_code == 200
    assert bot.queued() == []
    assert "trouble" in caplog.text
    assert count() == before + 1


def test_an_error_code_besides_content_is_no_trouble(bot: Bot) -> None:
    bot.robot(dingtalk_body(errCode=0))
    bot.robot(dingtalk_body(msgId="m2", errCode="20001"))
    assert [message.text for message in bot.queued()] == ["hello", "hello"]
