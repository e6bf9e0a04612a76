"""What goes to Feishu, against a server that follows a script."""

from __future__ import annotations

import dataclasses
import json
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from clawdbot.cache import Cache
from clawdbot.config import Settings
from clawdbot.errors import Final, Retry
from clawdbot.http import Http
from clawdbot.limits import Limiter
from clawdbot.message import Message
from clawdbot.platforms.base import Attachment, Services
from clawdbot.platforms.feishu.client import FeishuSender, reply_uuid
from clawdbot.sent import Mark

from .conftest import Reply, ScriptedServer

TOKEN = "/open-apis/auth/v3/tenant_access_token/internal"
REPLY = "/open-apis/im/v1/messages/om_1/reply"
SEND = "/open-apis/im/v1/messages"
INFO = "/open-apis/bot/v3/info"
USER = "/open-apis/contact/v3/users/ou_user"
PICTURE = "/open-apis/im/v1/messages/om_1/resources/img_1"
OK = Reply({"code": 0, "msg": "success", "data": {}})


@pytest.fixture
def lark(settings: Settings, client: redis.Redis, server: ScriptedServer) -> FeishuSender:
    server.on(TOKEN, Reply({"code": 0, "tenant_access_token": "t1", "expire": 7200}))
    server.on(REPLY, OK)
    server.on(SEND, OK)
    assert settings.feishu
    cache = Cache(client, enabled=True, ttl=60)
    services = Services(client, Http(), Limiter(client, sleep=lambda _: None), cache)
    return FeishuSender(settings.feishu, services)


def message(**fields: Any) -> Message:
    return dataclasses.replace(Message("feishu", "om_1", "oc_1", False, "ou_user", 1), **fields)


def send(lark: FeishuSender, content: str = "hello", part: str = "0") -> None:
    lark.send(message(), part, content, Mock(spec=Mark))


def test_reply(lark: FeishuSender, server: ScriptedServer) -> None:
    send(lark)
    assert server.paths() == [TOKEN, REPLY]
    request = server.requests[1]
    assert request.headers["authorization"] == "Bearer t1"
    assert request.body["msg_type"] == "text"
    assert json.loads(request.body["content"]) == {"text": "hello"}


def test_uuid_is_the_same_at_every_attempt_and_fits(lark: FeishuSender, server: ScriptedServer) -> None:
    for part in ("0", "0", "1"):
        send(lark, part=part)
    first, again, second = (request.body["uuid"] for request in server.requests[1:])
    assert first == again != second
    assert len(first) <= 50
    assert reply_uuid(message(id="om_2"), "0") != reply_uuid(message(), "0")


def test_markdown_degrades_from_card_to_post_to_text(lark: FeishuSender, server: ScriptedServer) -> None:
    server.on(REPLY, Reply({"code": 230099}, 400), Reply({"code": 230025}), OK)
    send(lark, "**bold**")
    assert [request.body["msg_type"] for request in server.requests[1:]] == ["interactive", "post", "text"]
    assert len({request.body["uuid"] for request in server.requests[1:]}) == 3
    card = json.loads(server.requests[1].body["content"])
    assert card["body"]["elements"] == [{"tag": "markdown", "content": "**bold**"}]
    server.on(REPLY, Reply({"code": 230099}, 400))
    with pytest.raises(Final, match="every form"):
        send(lark, "**bold**")


@pytest.mark.parametrize("code", [230011, 230110])
def test_recalled_message_is_answered_in_the_chat(lark: FeishuSender, server: ScriptedServer, code: int) -> None:
    server.on(REPLY, Reply({"code": code}, 400))
    send(lark)
    request = server.requests[-1]
    assert (request.path, request.query) == (SEND, "receive_id_type=chat_id")
    assert request.body["receive_id"] == "oc_1"


@pytest.mark.parametrize(
    ("reply", "error", "after"),
    [
        (Reply({"code": 99991400}, 429, {"x-ogw-ratelimit-reset": "3"}), Retry, 3.0),
        (Reply({"code": 99991400}, 400, {"x-ogw-ratelimit-reset": "x"}), Retry, None),
        (Reply({"code": 230020}, 400), Retry, None),
        (Reply({"code": 230049}), Retry, None),
        (Reply({}, 502), Retry, None),
        (Reply({}, drop=True), Retry, None),
        (Reply({"code": 230002}, 400), Final, None),
        (Reply({"code": 230053}), Final, None),
        (Reply({"code": "odd"}), Final, None),
    ],
)
def test_failures(lark: FeishuSender, server: ScriptedServer, reply: Reply, error: type, after: float | None) -> None:
    server.on(REPLY, reply)
    with pytest.raises(error) as raised:
        send(lark)
    assert getattr(raised.value, "after", None) == after


@pytest.mark.parametrize("code", [99991663, 99991668])
def test_refused_token_is_replaced_once(lark: FeishuSender, server: ScriptedServer, code: int) -> None:
    server.on(REPLY, Reply({"code": code}, 400), OK)
    send(lark)
    assert server.paths() == [TOKEN, REPLY, TOKEN, REPLY]
    server.on(REPLY, Reply({"code": code}, 400))
    with pytest.raises(Retry):
        send(lark)


@pytest.mark.parametrize(
    ("reply", "error"), [(Reply({"code": 10015}), Final), (Reply({"code": 0}), Final), (Reply(b"<html>"), Retry)]
)
def test_no_token(lark: FeishuSender, server: ScriptedServer, reply: Reply, error: type) -> None:
    server.on(TOKEN, reply)
    with pytest.raises(error, match="token answered"):
        send(lark)


def test_mention_gating_goes_by_id(lark: FeishuSender, server: ScriptedServer) -> None:
    server.on(INFO, Reply({"code": 0, "bot": {"open_id": "ou_bot", "app_name": "Bot"}}))
    assert lark.addressed(message())
    assert server.requests == []
    assert not lark.addressed(message(group=True))
    assert not lark.addressed(message(group=True, mentions=("ou_other",)))
    assert lark.addressed(message(group=True, mentions=("ou_other", "ou_bot")))
    assert server.paths().count(INFO) == 1


@pytest.mark.parametrize("reply", [Reply({"code": 0}), Reply({"code": 0, "bot": {}}), Reply({"code": 1})])
def test_bot_without_id(lark: FeishuSender, server: ScriptedServer, reply: Reply) -> None:
    server.on(INFO, reply)
    with pytest.raises(Final):
        lark.addressed(message(group=True, mentions=("ou_bot",)))


def test_user_name_is_looked_up_once(lark: FeishuSender, server: ScriptedServer) -> None:
    server.on(USER, Reply({"code": 0, "data": {"user": {"name": "Han"}}}))
    assert [lark.user_name(message()), lark.user_name(message())] == ["Han", "Han"]
    assert server.paths().count(USER) == 1
    assert server.requests[-1].query == "user_id_type=open_id"


@pytest.mark.parametrize("reply", [Reply({"code": 99991672}, 400), Reply({"code": 0}), Reply({}, drop=True)])
def test_without_permission_for_names(lark: FeishuSender, server: ScriptedServer, reply: Reply) -> None:
    server.on(USER, reply)
    assert [lark.user_name(message()), lark.user_name(message())] == ["", ""]
    assert server.paths().count(USER) == 1


def test_download(lark: FeishuSender, server: ScriptedServer) -> None:
    server.on(PICTURE, Reply(b"\xff\xd8"))
    assert lark.download(message(), Attachment("om_1", "img_1")) == b"\xff\xd8"
    assert server.requests[-1].query == "type=image"
    server.on(PICTURE, Reply({"code": 234004}, 400))
    with pytest.raises(Final):
        lark.download(message(), Attachment("om_1", "img_1"))


def test_ids_cannot_change_the_path(lark: FeishuSender, server: ScriptedServer) -> None:
    with pytest.raises(Final):
        lark.send(message(id="../../x?y=z#"), "0", "hi", Mock(spec=Mark))
    assert server.paths()[-1] == "/open-apis/im/v1/messages/..%2F..%2Fx%3Fy%3Dz%23/reply"
