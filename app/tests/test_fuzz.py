"""Fuzzing of both callbacks: no 5xx, no effect without authentication, no secret in any log.

2 500 requests a run over all tests here; CLAWDBOT_FUZZ multiplies that for long runs.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from clawdbot import logs
from clawdbot.clock import now_ms
from clawdbot.config import Settings
from clawdbot.engine.queue import WAITING
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from .conftest import Bot, dingtalk_body, feishu_event

pytestmark = pytest.mark.usefixtures("clean_logging")

FACTOR = int(os.environ.get("CLAWDBOT_FUZZ", "1"))
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
URLS = ("/api/dingtalk/callback", "/api/feishu/callback")
NAMES = (
    "timestamp", "sign", "msg_signature", "signature", "nonce", "X-Lark-Signature", "X-Lark-Request-Timestamp",
    "X-Lark-Request-Nonce", "Content-Type", "Content-Encoding", "X-Forwarded-For",
)  # fmt: skip

header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=80)
headers = st.dictionaries(st.sampled_from(NAMES), header_text, max_size=6)
query = st.dictionaries(st.sampled_from(NAMES[:5]), st.text(max_size=60), max_size=5)
leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
anything = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=12,
)
json_body = anything.map(lambda value: json.dumps(value).encode())
envelope = st.fixed_dictionaries({"encrypt": leaf | st.binary(max_size=80).map(lambda raw: raw.hex())})
body = st.binary(max_size=300) | json_body | envelope.map(lambda value: json.dumps(value).encode())


def runs(count: int) -> hypothesis.settings:
    """Hypothesis settings for ``count`` examples."""
    return hypothesis.settings(max_examples=count * FACTOR, deadline=None, suppress_health_check=SLOW, database=None)


@pytest.fixture
def logged(bot: Bot, settings: Settings) -> Iterator[Bot]:
    """A bot that writes its logs, which are searched for secrets at the end."""
    logs.setup(settings)
    logging.getLogger().setLevel(logging.DEBUG)
    yield bot
    logging.getLogger().setLevel(logging.WARNING)
    for file in settings.log_dir.iterdir():
        text = file.read_text("utf-8")
        assert not [secret for secret in settings.secrets() if secret in text], file
        assert "Traceback" not in text
        assert "a request failed" not in text


def waiting(bot: Bot) -> int:
    return int(bot.queue.client.zcard(WAITING))


@runs(1500)
@given(st.sampled_from(URLS), headers, query, body)
def test_strangers(logged: Bot, url: str, headers: dict[str, str], query: dict[str, str], body: bytes) -> None:
    response = logged.web.post(url, headers=headers, query_string=query, data=body)
    assert response.status_code in {400, 401, 413}
    assert waiting(logged) == 0


@runs(250)
@given(json_body | st.binary(max_size=100))
def test_authentic_nonsense(logged: Bot, body: bytes) -> None:
    """Signed and encrypted as it should be, but what is inside is anything: still never a 5xx."""
    assert logged.robot(body, timestamp=now_ms()).status_code in {200, 400}
    assert logged.lark(body).status_code in {200, 400, 401}
    assert logged.event(body).status_code in {200, 400}


fields = st.dictionaries(
    st.sampled_from(sorted({*dingtalk_body(), "content", "errCode", "isInAtList", "encrypt"})), anything, max_size=4
)


@runs(250)
@given(fields)
def test_authentic_message_with_odd_fields(logged: Bot, changes: dict[str, Any]) -> None:
    # A signature of its own for each message: an old one with a new message is a replay after ten seconds.
    assert logged.robot(dingtalk_body(**changes), timestamp=now_ms()).status_code in {200, 400}


message_fields = st.dictionaries(
    st.sampled_from(["message_id", "chat_id", "chat_type", "create_time", "message_type", "content", "mentions"]),
    anything | json_body.map(bytes.decode) | st.sampled_from(["text", "post", "image"]),
    max_size=4,
)


@runs(250)
@given(message_fields, st.dictionaries(st.sampled_from(["sender", "message"]), anything, max_size=1))
def test_authentic_event_with_odd_fields(logged: Bot, message: dict[str, Any], parts: dict[str, Any]) -> None:
    event = feishu_event(logged.feishu, **message)
    event["event"] |= parts
    assert logged.lark(event).status_code in {200, 400}


def test_what_fuzzing_queued_can_be_worked_on(logged: Bot) -> None:
    """Whatever is accepted must not stop the worker: it can be read back."""
    odd = {"text": {"content": "\ud83d"}, "createAt": 10**14, "senderNick": "\u202e" * 100, "robotCode": "x" * 5000}
    assert logged.robot(dingtalk_body(**odd)).status_code == 200
    assert logged.lark(feishu_event(logged.feishu, create_time="9" * 15)).status_code == 200
    assert len(logged.queued()) == 2
