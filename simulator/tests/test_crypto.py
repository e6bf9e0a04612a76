"""The platforms' published and cross-checked vectors."""

from collections.abc import Callable
from typing import Any

import pytest
from clawdbot_simulator import crypto

Vectors = Callable[[str], Any]


def test_dingtalk_robot_signatures(vectors: Vectors) -> None:
    cases = vectors("dingtalk_robot_sign")["sign_vectors"]
    assert [crypto.dingtalk_robot_sign(c["app_secret"], c["timestamp"]) for c in cases] == [c["sign"] for c in cases]


def test_group_robot_signatures(vectors: Vectors) -> None:
    cases = vectors("outgoing_webhook_sign")["dingtalk_custom_robot"]
    assert [crypto.dingtalk_robot_sign(c["secret"], c["timestamp"]) for c in cases] == [c["sign_b64"] for c in cases]


def test_dingtalk_events(vectors: Vectors) -> None:
    for case in vectors("dingtalk_event_crypto")["vectors"]:
        query, encrypt = case["query"], case["body"]["encrypt"]
        signature = crypto.dingtalk_event_signature(case["token"], query["timestamp"], query["nonce"], encrypt)
        assert signature == query["msg_signature"], case["name"]
        assert crypto.dingtalk_decrypt(case["aes_key"], case["owner_key"], encrypt) == case["plaintext"]
        random16 = bytes.fromhex(case["random16_hex"])
        again = crypto.dingtalk_encrypt(case["aes_key"], case["owner_key"], case["plaintext"], random16)
        assert again == encrypt, case["name"]


def test_dingtalk_text_for_another_owner_is_refused(vectors: Vectors) -> None:
    data = vectors("dingtalk_event_crypto")
    base = {case["name"]: case for case in data["vectors"]}
    foreign = next(case for case in data["negative"] if case["name"] == "wrong_owner_key")
    with pytest.raises(ValueError, match="owner key"):
        crypto.dingtalk_decrypt(base[foreign["base"]]["aes_key"], foreign["owner_key"], foreign["body"]["encrypt"])


def test_feishu_events(vectors: Vectors) -> None:
    for case in vectors("feishu_event_crypto")["vectors"]:
        if "plaintext" in case:
            assert crypto.feishu_decrypt(case["encrypt_key"], case["encrypt"]) == case["plaintext"]
            iv = bytes.fromhex(case["iv_hex"])
            assert crypto.feishu_encrypt(case["encrypt_key"], case["plaintext"], iv) == case["encrypt"]
        if "headers" in case:
            headers = case["headers"]
            signature = crypto.feishu_signature(
                headers["X-Lark-Request-Timestamp"],
                headers["X-Lark-Request-Nonce"],
                case["encrypt_key"],
                case["raw_body"].encode(),
            )
            assert signature == headers["X-Lark-Signature"], case["name"]


def test_long_and_chinese_text_comes_back() -> None:
    aes_key, text = "a" * 42 + "A", "你好" * 5000
    assert crypto.dingtalk_decrypt(aes_key, "owner", crypto.dingtalk_encrypt(aes_key, "owner", text)) == text
    assert crypto.feishu_decrypt("key", crypto.feishu_encrypt("key", text)) == text


def test_a_wrong_key_is_noticed() -> None:
    with pytest.raises(ValueError, match="padding"):
        # A fixed iv: about one random text in 256 would seem to be padded well.
        crypto.feishu_decrypt("other", crypto.feishu_encrypt("key", "hello", bytes(16)))
