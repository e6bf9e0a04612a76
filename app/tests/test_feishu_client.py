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
from clawdbot.notes import SharedNotes
from clawdbot.platforms.base import Attachment, Quote, Services
from clawdbot.platforms.feishu.client import FeishuSender, reply_uuid
from clawdbot.platforms.feishu.content import UPDATE_CLIENT
from clawdbot.sent import Mark

from .conftest import Reply, ScriptedServer

TOKEN = "/open-apis/auth/v3/tenant_access_token/internal"
REPLY = "/open-apis/im/v1/messages/om_1/reply"
SEND = "/open-apis/im/v1/messages"
INFO = "/open-apis/bot/v3/info"
USER = "/open-apis/contact/v3/users/ou_user"
PICTURE = "/open-apis/im/v1/messages/om_1/resources/img_1"
CARDS = "/open-apis/cardkit/v1/cards"
OK = Reply({"code": 0, "msg": "success", "data": {}})


@pytest.fixture
def lark(settings: Settings, client: redis.Redis, server: ScriptedServer) -> FeishuSender:
    server.on(TOKEN, Reply({"code": 0, "tenant_access_token": "t1", "expire": 7200}))
    server.on(REPLY, OK)
    server.on(SEND, OK)
    assert settings.feishu
    cache = Cache(client, enabled=True, ttl=60)
    services = Services(SharedNotes(client), Http(), Limiter(client, sleep=lambda _: None), cache)
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


def test_the_asker_is_mentioned_and_nobody_else(lark: FeishuSender, server: ScriptedServer) -> None:
    mentioning = {"group": True, "sender": "ou_asker", "route": {"mention": True}}
    for words in ("hello <at id=all></at>", "**bold**"):
        lark.send(message(**mentioning), "0", words, Mock(spec=Mark))
    text, card = [request.body["content"] for request in server.requests[-2:]]
    assert json.loads(text)["text"].startswith('<at user_id="ou_asker"></at> hello ')
    assert text.count("<at") == 1
    assert "<at id=ou_asker></at> **bold**" in json.dumps(json.loads(card))
    lark.send(message(**mentioning | {"sender": "ou_x></at><at id=all"}), "0", "hello", Mock(spec=Mark))
    assert "<at" not in server.requests[-1].body["content"]


def test_the_asker_is_mentioned_on_a_card_as_long_as_it_is_there(lark: FeishuSender, server: ScriptedServer) -> None:
    server.on(CARDS, Reply({"code": 0, "data": {"card_id": "7"}}))
    server.on(f"{CARDS}/7", OK)
    cards = lark.cards
    assert cards
    for asking, mentions in (
        (message(group=True, sender="ou_asker", route={"mention": True}), 1),
        (message(group=True, sender="ou_asker"), 0),
    ):
        cards.make(asking, "thinking")
        cards.finish(asking, "7", "answer <at id=all></at>", 2, None)
        made, done = server.requests[-2:]
        for shown in (made.body["data"], done.body["card"]["data"]):
            assert shown.count("<at id=ou_asker></at>") == shown.count("<at") == mentions


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
        (Reply({"code": 99991403}, 429), Final, None),
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


# What is more than words, what is no success, and what is refused

CALL = '<at user_id="all">all</at>'


@pytest.mark.parametrize("content", [CALL, f"**x** {CALL}", f"```\n{CALL}\n```"])
def test_nobody_is_called_in_any_form(lark: FeishuSender, server: ScriptedServer, content: str) -> None:
    server.on(REPLY, *[Reply({"code": 230099}, 400)] * 2, OK)
    server.on(SEND, *[Reply({"code": 230099}, 400)] * 2, OK)
    if content == CALL:
        server.on(REPLY, OK)
        server.on(SEND, OK)
    send(lark, content)
    lark.push("oc_1", content, "u")
    sent = [request.body["content"] for request in server.requests if request.path in {REPLY, SEND}]
    assert len(sent) == (2 if content == CALL else 6)
    assert not [body for body in sent if "<at" in body.lower()]


def test_card_with_more_tables_than_are_shown(lark: FeishuSender, server: ScriptedServer) -> None:
    send(lark, "\n\n".join(["| a | b |\n|---|---|\n| 1 | 2 |"] * 7))
    card = json.loads(server.requests[1].body["content"])["body"]["elements"][0]["content"]
    assert card.count("|---|") == 5
    assert card.count("- **a**: 1; **b**: 2") == 2


@pytest.mark.parametrize("code", [11310, 230099, 230001, 200621, 987654321])
def test_a_part_that_is_refused_for_whatever_form_becomes_plainer(
    lark: FeishuSender, server: ScriptedServer, code: int
) -> None:
    server.on(REPLY, Reply({"code": code}, 400), Reply({"code": code}), OK)
    send(lark, "**bold**")
    assert [request.body["msg_type"] for request in server.requests[1:]] == ["interactive", "post", "text"]


@pytest.mark.parametrize("code", [230002, 230022, 230053, 99991672])
def test_what_no_form_would_change_is_tried_once(lark: FeishuSender, server: ScriptedServer, code: int) -> None:
    server.on(REPLY, Reply({"code": code}, 400))
    with pytest.raises(Final):
        send(lark, "**bold**")
    assert server.paths().count(REPLY) == 1


PAGE = Reply(b"<html>oops</html>", 200, {"Content-Type": "text/html"})


@pytest.mark.parametrize("reply", [PAGE, Reply({}), Reply(b""), Reply(b"[]"), Reply({"data": {}})])
def test_a_200_that_is_no_success(lark: FeishuSender, server: ScriptedServer, reply: Reply) -> None:
    for path in (REPLY, SEND, PICTURE, INFO):
        server.on(path, reply)
    with pytest.raises(Retry):
        send(lark)
    with pytest.raises(Retry):
        lark.push("oc_1", "a", "u")
    with pytest.raises(Retry):
        lark.addressed(message(group=True, mentions=("ou_bot",)))


@pytest.mark.parametrize("reply", [PAGE, Reply({"code": 1500}), Reply({})])
def test_a_picture_that_is_none(lark: FeishuSender, server: ScriptedServer, reply: Reply) -> None:
    server.on(PICTURE, reply)
    with pytest.raises((Retry, Final)):
        lark.download(message(), Attachment("om_1", "img_1"))


# Quotes

PARENT = "/open-apis/im/v1/messages/om_parent"
REPLYING = {"route": {"parent": "om_parent"}}


def item(kind: str, content: object, **more: object) -> dict[str, object]:
    return {"msg_type": kind, "body": {"content": json.dumps(content)}, **more}


def card(words: str) -> dict[str, object]:
    return {"schema": "2.0", "body": {"elements": [{"tag": "markdown", "content": words}]}}


# What is there for clients that do not know cards of this kind.
UPGRADE = {"title": None, "elements": [[{"tag": "img", "image_key": "i"}, {"tag": "text", "text": UPDATE_CLIENT}]]}


@pytest.mark.parametrize(
    ("items", "text", "images"),
    [
        ([item("text", {"text": "one"})], "one", ()),
        (
            [item("text", {"text": "@_user_1 one"}, mentions=[{"key": "@_user_1", "name": "Tom", "id": "ou_1"}])],
            "@Tom one",
            (),
        ),
        ([item("image", {"image_key": "img_9"})], "", ("img_9",)),
        (
            [
                item(
                    "post",
                    {"title": "t", "content": [[{"tag": "text", "text": "one"}, {"tag": "img", "image_key": "i"}]]},
                )
            ],
            "t\none",
            ("i",),
        ),
        ([item("interactive", card("**card**"))], "**card**", ()),
        ([item("interactive", {"title": "t", "elements": [[{"tag": "text", "text": "one"}]]})], "t\none", ()),
        (
            [
                item("merge_forward", "Merged and Forwarded Message"),
                item("text", {"text": "one"}, upper_message_id="om_parent"),
                item("text", {"text": "two"}, upper_message_id="om_parent"),
            ],
            "one\ntwo",
            (),
        ),
        ([item("interactive", {**UPGRADE, "user_dsl": json.dumps(card("**new**"))})], "**new**", ()),
        ([item("interactive", UPGRADE)], "", ()),
        ([item("interactive", {"user_dsl": "["})], "", ()),
        ([item("audio", {"file_key": "f"})], "", ()),
        ([{"msg_type": "text", "deleted": True}], "", ()),
        ([item("image", {})], "", ()),
        ([], "", ()),
    ],
)
def test_quoted_message_is_looked_up(
    lark: FeishuSender, server: ScriptedServer, items: list[object], text: str, images: tuple[str, ...]
) -> None:
    server.on(PARENT, Reply({"code": 0, "data": {"items": items}}))
    found = lark.quoted(message(**REPLYING))
    assert found == Quote(text, tuple(Attachment("om_parent", image) for image in images))
    assert lark.quoted(message()) is None
    [asked] = [request for request in server.requests if request.path == PARENT]
    assert asked.query == "card_msg_content_type=user_card_content", "cards as they were written"


@pytest.mark.parametrize("words", ["hello", "**hello**"])
def test_what_it_said_itself_needs_no_permission(lark: FeishuSender, server: ScriptedServer, words: str) -> None:
    server.on(REPLY, Reply({"code": 0, "data": {"message_id": "om_parent"}}))
    server.on(PARENT, Reply({"code": 230027}, 400))
    send(lark, words)
    assert lark.quoted(message(**REPLYING)) == Quote(words)
    assert PARENT not in server.paths()


def test_what_it_said_on_a_card_is_known_when_it_is_done(lark: FeishuSender, server: ScriptedServer) -> None:
    server.on(REPLY, Reply({"code": 0, "data": {"message_id": "om_parent"}}))
    server.on(CARDS, Reply({"code": 0, "data": {"card_id": "7"}}))
    server.on(f"{CARDS}/7", OK)
    server.on(PARENT, Reply({"code": 0, "data": {"items": [item("interactive", card("growing"))]}}))
    cards = lark.cards
    assert cards
    assert cards.make(message(), "thinking") == "7"
    cards.post(message(), "7", "thinking", 1, again=False)
    assert lark.quoted(message(**REPLYING)) == Quote("growing")
    cards.finish(message(), "7", "the **answer**", 2, None)
    assert lark.quoted(message(**REPLYING)) == Quote("the **answer**")


def test_quote_without_permission_or_with_trouble(lark: FeishuSender, server: ScriptedServer) -> None:
    server.on(PARENT, Reply({"code": 230027}, 400))
    assert lark.quoted(message(**REPLYING)) == Quote()
    server.on(PARENT, Reply({}, 503))
    with pytest.raises(Retry):
        lark.quoted(message(**REPLYING))
    endless = [item("text", {"text": "x" * 9000})] * 50
    server.on(PARENT, Reply({"code": 0, "data": {"items": endless}}))
    found = lark.quoted(message(**REPLYING))
    assert found
    assert len(found.text) == 8000


def test_picture_of_another_message(lark: FeishuSender, server: ScriptedServer) -> None:
    server.on(f"{PARENT}/resources/img_9", Reply(b"\xff\xd8"))
    assert lark.download(message(), Attachment("om_parent", "img_9")) == b"\xff\xd8"
