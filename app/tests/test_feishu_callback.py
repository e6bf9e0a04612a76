"""Feishu's callbacks through the HTTP endpoint, with the platform's own test vectors."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from clawdbot.config import FeishuConfig, Settings
from clawdbot.errors import Refusal
from clawdbot.platforms.feishu import crypto

from .conftest import Bot, feishu_event, vectors

URL = "/api/feishu/callback"
VECTORS = {vector["name"]: vector for vector in vectors("feishu_event_crypto")["vectors"]}
NEGATIVE = {vector["name"]: vector for vector in vectors("feishu_event_crypto")["negative"]}
PLAIN = vectors("feishu_event_crypto")["plain"][0]


def bot_for(settings: Settings, now_ms: int | None = None, **changes: Any) -> Bot:
    assert settings.feishu
    bot = Bot(dataclasses.replace(settings, feishu=dataclasses.replace(settings.feishu, **changes)))
    if now_ms:
        bot.now_ms = now_ms
    return bot


def vector_bot(settings: Settings, vector: dict[str, Any]) -> Bot:
    plain = json.loads(VECTORS["p2p_image"]["plaintext"])
    return bot_for(
        settings,
        now_ms=1760000010000,
        encryption_key=vector.get("encrypt_key", VECTORS["p2p_image"]["encrypt_key"]),
        verification_token=plain["header"]["token"],
        app_id=plain["header"]["app_id"],
    )


# Signatures and encryption


@pytest.mark.parametrize("name", [name for name, vector in VECTORS.items() if "encrypt" in vector])
def test_decryption(name: str) -> None:
    vector = VECTORS[name]
    assert crypto.decrypt(vector["encrypt_key"], vector["encrypt"]).decode() == vector["plaintext"]


@pytest.mark.parametrize("name", [name for name, vector in VECTORS.items() if "headers" in vector])
def test_signature(name: str) -> None:
    vector = VECTORS[name]
    headers, body = vector["headers"], vector["raw_body"].encode()
    stamp, nonce = headers["X-Lark-Request-Timestamp"], headers["X-Lark-Request-Nonce"]
    assert crypto.signature(stamp, nonce, vector["encrypt_key"], body) == headers["X-Lark-Signature"]


@pytest.mark.parametrize("encrypted", ["", "!", "YQ==", "A" * 64, "A" * 43 + "="])
def test_bad_ciphertext(encrypted: str) -> None:
    with pytest.raises(Refusal) as refused:
        crypto.decrypt("key", encrypted)
    assert refused.value.status == 400


def test_encrypted_url_check_through_the_endpoint(settings: Settings) -> None:
    vector = VECTORS["url_verification_encrypted"]
    given: list[dict[str, str]] = [vector["headers"], {}]
    for headers in given:
        response = vector_bot(settings, vector).web.post(URL, data=vector["raw_body"], headers=headers)
        assert (response.status_code, response.json) == (200, {"challenge": "ajls384kdjxxxx"})


def test_picture_through_the_endpoint(settings: Settings) -> None:
    vector = VECTORS["p2p_image"]
    bot = vector_bot(settings, vector)
    assert bot.web.post(URL, data=vector["raw_body"], headers=vector["headers"]).status_code == 200
    [message] = bot.queued()
    assert message.images == ("img_v2_4adb3cc3-902b-4187-b0f1-842f67fd017g",)
    assert (message.id, message.created_ms, message.group) == ("om_img_1", 1760000000000, False)
    assert message.sender == "ou_84aad35d084aa403a838cf73ee18467"


@pytest.mark.parametrize("name", NEGATIVE)
def test_negative_vectors(settings: Settings, name: str) -> None:
    vector = NEGATIVE[name]
    bot = vector_bot(settings, vector)
    response = bot.web.post(URL, data=vector["raw_body"], headers=vector["headers"])
    assert (response.status_code, response.json) == (401, {"error": "not authentic"})
    assert bot.queued() == []


def test_plain_url_check(settings: Settings) -> None:
    bot = bot_for(settings, encryption_key="", verification_token=PLAIN["body"]["token"])
    response = bot.web.post(URL, json=PLAIN["body"])
    assert (response.status_code, response.json) == (200, PLAIN["expect_response"])
    assert bot.web.post(URL, json=PLAIN["body"] | {"token": "guess"}).status_code == 401


def test_hostile_challenge_stays_a_text(bot: Bot) -> None:
    event = {"type": "url_verification", "token": bot.feishu.verification_token, "challenge": 'a","x":"y'}
    assert bot.lark(event).json == {"challenge": 'a","x":"y'}
    assert bot.lark(event | {"challenge": 5}).status_code == 400
    assert bot.lark(event | {"challenge": "x" * 5000}).status_code == 400


# What is refused


def test_downgrade_to_plaintext(bot: Bot) -> None:
    """With an Encrypt Key a plaintext body is refused, whatever else is right, the URL check included."""
    check = {"type": "url_verification", "token": bot.feishu.verification_token, "challenge": "c"}
    for event in (check, feishu_event(bot.feishu)):
        body = json.dumps(event).encode()
        assert bot.web.post(URL, data=body).status_code == 401
        signature = crypto.signature("1", "n", bot.feishu.encryption_key, body)
        headers = {"X-Lark-Request-Timestamp": "1", "X-Lark-Request-Nonce": "n", "X-Lark-Signature": signature}
        assert bot.web.post(URL, data=body, headers=headers).status_code == 401
    assert bot.queued() == []


def test_unsigned_event_is_refused_even_if_it_decrypts(bot: Bot) -> None:
    assert bot.lark(feishu_event(bot.feishu), signed=False).status_code == 401
    assert bot.queued() == []


def test_unsigned_garbage_tells_nothing(bot: Bot) -> None:
    for body in ({"encrypt": "A" * 64}, {"encrypt": "!"}, {"encrypt": 5}, {}):
        assert bot.web.post(URL, json=body).status_code == 401


@pytest.mark.parametrize("age", [13 * 3600, -2 * 3600])
def test_stale_or_early_event(bot: Bot, age: int) -> None:
    assert bot.lark(feishu_event(bot.feishu), timestamp=bot.now_ms // 1000 - age).status_code == 401
    assert bot.queued() == []


@pytest.mark.parametrize("timestamp", ["", "abc", "-5", "٣", "1" * 20])
def test_timestamp_that_is_no_time(bot: Bot, timestamp: str) -> None:
    stamp = timestamp.encode().decode("latin-1")
    assert bot.lark(feishu_event(bot.feishu), timestamp=stamp).status_code == 401


def test_retry_after_seven_hours_and_in_milliseconds(bot: Bot) -> None:
    event = feishu_event(bot.feishu)
    assert bot.lark(event, timestamp=bot.now_ms // 1000 - 7 * 3600).status_code == 200
    assert bot.lark(event, timestamp=bot.now_ms).status_code == 200
    assert len(bot.queued()) == 1


def test_wrong_token_and_foreign_app(bot: Bot) -> None:
    event = feishu_event(bot.feishu)
    assert bot.lark(event | {"header": event["header"] | {"token": "guess"}}).status_code == 401
    assert bot.lark(event | {"header": event["header"] | {"app_id": "cli_other"}}).status_code == 401
    assert bot.queued() == []


def test_without_encrypt_key_only_the_token_protects(settings: Settings) -> None:
    bot = bot_for(settings, encryption_key="")
    event = feishu_event(bot.feishu)
    assert bot.web.post(URL, json=event | {"header": event["header"] | {"token": ""}}).status_code == 401
    assert bot.web.post(URL, json={"encrypt": "AAAA"}).status_code == 401
    assert bot.web.post(URL, json=event).status_code == 200
    assert len(bot.queued()) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
def test_malformed_body(bot: Bot, body: bytes) -> None:
    assert bot.web.post(URL, data=body).status_code == 400
    assert bot.lark(body).status_code == 400


@pytest.mark.parametrize(
    "message",
    [
        {"message_id": None},
        {"chat_id": ""},
        {"content": "no json"},
        {"message_type": "image", "content": "{}"},
        {"message_type": "post", "content": json.dumps({"content": [[{"tag": "img"}]]})},
    ],
)
def test_malformed_message(bot: Bot, message: dict[str, Any]) -> None:
    assert bot.lark(feishu_event(bot.feishu, **message)).status_code == 400


# What is ignored


def test_other_events_get_200_and_no_effect(bot: Bot) -> None:
    event = feishu_event(bot.feishu)
    others = [
        event | {"header": event["header"] | {"event_type": "im.message.recalled_v1"}},
        event | {"header": event["header"] | {"event_type": 5}},
        event | {"schema": "1.0"},
        event | {"event": {"sender": {"sender_type": "app"}}},
        {"uuid": "old", "token": bot.feishu.verification_token, "type": "event_callback", "event": {}},
    ]
    for other in others:
        response = bot.lark(other)
        assert (response.status_code, response.json) == (200, {})
    assert bot.queued() == []


# What is understood


def parsed(bot: Bot, **message: Any) -> Any:
    assert bot.lark(feishu_event(bot.feishu, **message)).status_code == 200
    [found] = bot.queued()
    return found


def mention(number: int, name: str) -> dict[str, Any]:
    return {"key": f"@_user_{number}", "id": {"open_id": f"ou_{number}"}, "name": name}


def test_mentions(bot: Bot) -> None:
    names = [mention(1, "Bot"), mention(2, "Tom"), mention(11, "Eve")]
    text = json.dumps({"text": "@_user_1 ask @_user_2 or @_user_11"})
    message = parsed(bot, chat_type="group", mentions=names, content=text)
    assert message.group
    assert message.text == "ask @Tom or @Eve"
    assert message.mentions == ("ou_1", "ou_2", "ou_11")


def test_rich_text(bot: Bot) -> None:
    rows = [
        [{"tag": "at", "user_id": "@_user_1"}, {"tag": "text", "text": "see "}, {"tag": "a", "text": "x", "href": "h"}],
        [{"tag": "img", "image_key": "img_1"}, "junk"],
        [{"tag": "code_block", "language": "PY", "text": "1+1"}, {"tag": "hr"}],
        "junk",
    ]
    content = json.dumps({"title": "Title", "content": rows})
    message = parsed(bot, message_type="post", content=content, mentions=[mention(1, "Bot")])
    assert message.images == ("img_1",)
    assert message.text.startswith("Title\n@Bot see x (h)")
    assert "```PY\n1+1\n```" in message.text


@pytest.mark.parametrize("kind", ["audio", "file", "sticker", ""])
def test_kinds_that_the_bot_cannot_read(bot: Bot, kind: str) -> None:
    assert parsed(bot, message_type=kind, content='{"file_key":"f"}').unsupported == (kind or "unknown")


def test_repetition_by_the_platform(bot: Bot) -> None:
    for _ in range(3):
        assert bot.lark(feishu_event(bot.feishu)).status_code == 200
    assert len(bot.queued()) == 1


def test_switched_off(settings: Settings) -> None:
    bot = Bot(dataclasses.replace(settings, feishu=None))
    response = bot.web.post(URL, json={})
    assert response.status_code == 404
    assert "check" in response.get_data(as_text=True)


def test_config_repr_keeps_secrets(bot: Bot) -> None:
    config: FeishuConfig = bot.feishu
    assert config.app_secret not in repr(config)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("@_user_1你好", "你好"),
        ("@_user_1重置", "重置"),
        ("@_user_12026年的计划", "2026年的计划"),
        ("@_user_1hello", "hello"),
        ("帮我@_user_1看看", "帮我@Bot看看"),
        ("你好@_user_1", "你好"),
        ("你好 @_user_1 ", "你好"),
        ("@_user_1", ""),
        ("@_user_1 \u200b", ""),
        ("/reset @_user_1", "/reset"),
        ("@_user_1/reset", "/reset"),
        ("@_user_1／reset", "／reset"),
        ("@_user_1 @_user_1 你好", "你好"),
    ],
)
def test_mention_of_the_bot_wherever_it_stands(bot: Bot, words: str, expected: str) -> None:
    given = {"chat_type": "group", "mentions": [mention(1, "Bot")]}
    assert parsed(bot, content=json.dumps({"text": words}), **given).text == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("@_user_10你好@_user_1", "你好@Bot"),
        ("@_user_1帮我问@_user_105点有空吗", "帮我问@Tom Li5点有空吗"),
        ("@_user_1@_user_10 /status", "/status"),
        ("/status @_user_10 @_user_1", "/status"),
        ("@_user_1 帮我问@_user_10吧", "帮我问@Tom Li吧"),
    ],
)
def test_mentions_of_several(bot: Bot, words: str, expected: str) -> None:
    names = [mention(1, "Bot"), mention(10, "Tom Li")]
    assert parsed(bot, chat_type="group", mentions=names, content=json.dumps({"text": words})).text == expected


@pytest.mark.parametrize(
    "at", [{"tag": "at", "user_id": "@_user_1"}, {"tag": "at", "user_id": "@_user_1", "user_name": "Bot"}]
)
@pytest.mark.parametrize(
    "around", [lambda at, text: [[at, text]], lambda at, text: [[text, at]], lambda at, text: [[at], [text]]]
)
def test_commands_in_rich_text(bot: Bot, at: dict[str, Any], around: Any) -> None:
    rows = around(at, {"tag": "text", "text": " /reset"})
    contents = [{"title": "", "content": rows}, {"zh_cn": {"title": "", "content": rows}}]
    for number, content in enumerate(contents):
        message = parsed(
            bot, message_id=f"om_{number}", message_type="post", chat_type="group", mentions=[mention(1, "Bot")],
            content=json.dumps(content),
        )  # fmt: skip
        assert message.text == "/reset"


def test_reply_remembers_what_it_replies_to(bot: Bot) -> None:
    assert parsed(bot, parent_id="om_parent", root_id="om_root").route == {"parent": "om_parent"}
    assert parsed(bot, message_id="om_2", parent_id=5).route == {}
