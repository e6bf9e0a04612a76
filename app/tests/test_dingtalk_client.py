"""What goes to DingTalk, against a server that follows a script."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qs

import pytest
import redis
from clawdbot.cache import Cache
from clawdbot.clock import now_ms
from clawdbot.config import Settings
from clawdbot.errors import Final, Retry, Unsure
from clawdbot.http import Http, TooLarge
from clawdbot.limits import Limiter
from clawdbot.message import Message
from clawdbot.notes import SharedNotes
from clawdbot.platforms.base import Attachment, Quote, Services
from clawdbot.platforms.dingtalk import client as module
from clawdbot.platforms.dingtalk.client import DingTalkSender
from clawdbot.platforms.dingtalk.crypto import robot_sign
from clawdbot.sent import Mark
from clawdbot.store import key

from .conftest import Reply, ScriptedServer

SESSION = "/robot/sendBySession"
TOKEN = "/v1.0/oauth2/accessToken"
SINGLE = "/v1.0/robot/oToMessages/batchSend"
GROUP = "/v1.0/robot/groupMessages/send"
DOWNLOAD = "/v1.0/robot/messageFiles/download"
DELIVER = "/v1.0/card/instances/createAndDeliver"
STREAM = "/v1.0/card/streaming"
OK = Reply({"errcode": 0, "errmsg": "ok"})


@pytest.fixture
def ding(settings: Settings, client: redis.Redis, server: ScriptedServer) -> DingTalkSender:
    server.on(TOKEN, Reply({"accessToken": "t1", "expireIn": 7200}))
    server.on(SESSION, OK)
    server.on(SINGLE, Reply({"processQueryKey": "q", "invalidStaffIdList": []}))
    server.on(GROUP, Reply({"processQueryKey": "q"}))
    return make(settings, client)


def make(settings: Settings, client: redis.Redis, **changes: Any) -> DingTalkSender:
    assert settings.dingtalk
    limiter = Limiter(client, sleep=lambda _: None)
    services = Services(SharedNotes(client), Http(), limiter, Cache(client, enabled=True, ttl=60))
    return DingTalkSender(dataclasses.replace(settings.dingtalk, **changes), services)


def message(server: ScriptedServer, *, group: bool = False, lives_ms: int = 600_000, **route: Any) -> Message:
    known = {
        "session_webhook": f"{server.url}{SESSION}?session=hidden",
        "session_expires_ms": now_ms() + lives_ms,
        "robot_code": "code",
        "staff_id": "staff",
    }
    return Message("dingtalk", "m", "cid", group, "staff", 1, sender_name="Li", route=known | route)


def send(ding: DingTalkSender, to: Message, content: str = "hello") -> list[str]:
    mark = Mock(spec=Mark)
    ding.send(to, "0", content, mark)
    return [call[0] for call in mark.method_calls]


def test_answer_through_the_session(ding: DingTalkSender, server: ScriptedServer) -> None:
    assert send(ding, message(server)) == ["written"]
    [request] = server.requests
    assert (request.path, request.query) == (SESSION, "session=hidden")
    assert request.body == {"msgtype": "text", "text": {"content": "hello"}}
    assert "authorization" not in request.headers
    assert "x-acs-dingtalk-access-token" not in request.headers


@pytest.mark.parametrize(("words", "kind", "name"), [("hello", "text", "content"), ("**bold**", "markdown", "text")])
def test_the_asker_is_mentioned(ding: DingTalkSender, server: ScriptedServer, words: str, kind: str, name: str) -> None:
    send(ding, message(server, group=True, mention=True), words)
    body = server.requests[0].body
    assert body["at"] == {"atUserIds": ["staff"], "isAtAll": False}
    assert body[kind][name] == f"@staff {words}"


def test_markdown(ding: DingTalkSender, server: ScriptedServer) -> None:
    send(ding, message(server), "# Title\n- a\n- b")
    assert server.requests[0].body["markdown"] == {"title": "Title", "text": "# Title\n- a\n- b"}
    send(ding, message(server, lives_ms=0), "**bold**")
    assert json.loads(server.requests[-1].body["msgParam"]) == {"title": "bold", "text": "**bold**"}


def test_dead_session_in_a_single_chat(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on(SESSION, Reply({"errcode": 300001, "errmsg": "session not exist"}))
    assert send(ding, message(server)) == ["written", "refused", "written"]
    assert server.paths() == [SESSION, TOKEN, SINGLE]
    body = server.requests[-1].body
    assert (body["robotCode"], body["userIds"], body["msgKey"]) == ("code", ["staff"], "sampleText")
    assert json.loads(body["msgParam"]) == {"content": "hello"}
    assert server.requests[-1].headers["x-acs-dingtalk-access-token"] == "t1"


def test_throttled_session(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on(SESSION, Reply({"errcode": 130101, "errmsg": "send too fast"}))
    send(ding, message(server))
    assert server.paths() == [SESSION, TOKEN, SINGLE]


def test_expired_session_in_a_group(ding: DingTalkSender, server: ScriptedServer) -> None:
    send(ding, message(server, group=True, lives_ms=1000))
    assert server.paths() == [TOKEN, GROUP]
    assert server.requests[-1].body["openConversationId"] == "cid"


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://oapi.dingtalk.com/robot/sendBySession?session=x",
        "https://oapi.dingtalk.com.evil.example/x",
        "https://evil.example/oapi.dingtalk.com",
        "https://user:pw@oapi.dingtalk.com/x",
        "https://oapi.dingtalk.com:8443/x",
        "https://[::1",
        "gopher://oapi.dingtalk.com/",
        "",
    ],
)
def test_session_on_a_foreign_host_is_never_called(ding: DingTalkSender, server: ScriptedServer, url: str) -> None:
    send(ding, message(server, session_webhook=url))
    assert server.paths() == [TOKEN, SINGLE]


def test_nobody_to_write_to(ding: DingTalkSender, server: ScriptedServer) -> None:
    with pytest.raises(Final, match="no staff id"):
        send(ding, message(server, lives_ms=0, staff_id=""))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply({"invalidStaffIdList": ["staff"]}), Final),
        (Reply({"filteredStaffIdList": ["staff"]}), Final),
        (Reply({"flowControlledStaffIdList": ["staff"]}), Retry),
        (Reply({"code": "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"}, 403), Retry),
        (Reply({"code": "Forbidden.AccessDenied.ApiCountLimitForOrg"}, 403), Final),
        (Reply({"code": "param.error"}, 400), Final),
        (Reply({}, 504), Retry),
        (Reply(b"<html>banned</html>", 429), Retry),
        (Reply({}, drop=True), Retry),
    ],
)
def test_failures_of_the_server_api(ding: DingTalkSender, server: ScriptedServer, reply: Reply, error: type) -> None:
    server.on(SINGLE, reply)
    with pytest.raises(error):
        send(ding, message(server, lives_ms=0))


@pytest.mark.parametrize(
    ("reply", "after"),
    [
        (Reply({}, 500), None),
        (Reply({}, 429, {"Retry-After": "7"}), 7.0),
        (Reply({}, drop=True), None),
    ],
)
def test_session_failures_to_try_again(
    ding: DingTalkSender, server: ScriptedServer, reply: Reply, after: float | None
) -> None:
    server.on(SESSION, reply)
    with pytest.raises(Retry) as retry:
        send(ding, message(server))
    assert retry.value.after == after
    assert "hidden" not in str(retry.value)
    assert server.paths() == [SESSION]


@pytest.mark.parametrize("silence", [Reply({}, drop=True), Reply(b"<html>", 504)], ids=["closed", "gateway timeout"])
@pytest.mark.parametrize(("path", "lives_ms"), [(SESSION, 3_600_000), (SINGLE, 0)])
def test_nobody_knows_whether_it_went_out(
    ding: DingTalkSender, server: ScriptedServer, silence: Reply, path: str, lives_ms: int
) -> None:
    server.on(path, silence)
    with pytest.raises(Unsure):
        send(ding, message(server, lives_ms=lives_ms))


def test_silence_about_a_token_shows_nobody_anything(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on(TOKEN, Reply({}, drop=True))
    with pytest.raises(Retry) as raised:
        send(ding, message(server, lives_ms=0))
    assert not isinstance(raised.value, Unsure)


def test_refused_token_is_replaced_once(ding: DingTalkSender, server: ScriptedServer, client: redis.Redis) -> None:
    server.on(TOKEN, Reply({"accessToken": "old", "expireIn": 7200}), Reply({"accessToken": "new", "expireIn": 7200}))
    server.on(SINGLE, Reply({"code": "InvalidAuthentication"}, 401), Reply({"processQueryKey": "q"}))
    assert send(ding, message(server, lives_ms=0)) == ["written", "refused", "written"]
    assert server.paths() == [TOKEN, SINGLE, TOKEN, SINGLE]
    [name] = client.keys(key("token", "*"))
    assert client.get(name) == "new"
    assert 6000 < client.ttl(name) < 7000
    server.on(SINGLE, Reply({}, 401))
    with pytest.raises(Retry, match="refused twice"):
        send(ding, message(server, lives_ms=0))


def test_wrong_secret(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on(TOKEN, Reply({"code": "invalidClientIdOrSecret"}, 400))
    with pytest.raises(Final, match="token answered 400"):
        send(ding, message(server, lives_ms=0))


def test_token_is_fetched_by_one_at_a_time(settings: Settings, client: redis.Redis, server: ScriptedServer) -> None:
    server.on(TOKEN, Reply({"accessToken": "t", "expireIn": 7200}, delay=0.2))
    server.on(SINGLE, Reply({"processQueryKey": "q"}))
    threads = [
        threading.Thread(target=send, args=(make(settings, client), message(server, lives_ms=0))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.paths().count(TOKEN) == 1
    assert server.paths().count(SINGLE) == 8


# Pictures


def test_download(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on(DOWNLOAD, Reply({"downloadUrl": f"{server.url}/file?sig=x"}))
    server.on("/file", Reply(b"\x89PNG"))
    assert ding.download(message(server), Attachment("m", "code-1")) == b"\x89PNG"
    assert server.requests[1].body == {"downloadCode": "code-1", "robotCode": "code"}
    assert "x-acs-dingtalk-access-token" not in server.requests[2].headers


@pytest.mark.parametrize("url", ["http://10.0.0.1/x", "https://evil.example/x", None, 5])
def test_download_from_a_foreign_host(ding: DingTalkSender, server: ScriptedServer, url: Any) -> None:
    server.on(DOWNLOAD, Reply({"downloadUrl": url}))
    with pytest.raises(Final, match="not allowed"):
        ding.download(message(server), Attachment("m", "c"))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply({}, 503), Retry),
        (Reply({}, 403), Final),
        (Reply({}, 302, {"Location": "http://10.0.0.1/"}), Final),
        (Reply({}, drop=True), Retry),
        (Reply(b"x" * 2000), TooLarge),
    ],
)
def test_failing_downloads(
    ding: DingTalkSender, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, reply: Reply, error: type
) -> None:
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", 1000)
    server.on(DOWNLOAD, Reply({"downloadUrl": f"{server.url}/file"}))
    server.on("/file", reply)
    with pytest.raises(error):
        ding.download(message(server), Attachment("m", "c"))


# Pushes


def test_push_signs_and_leaves_the_stored_url_alone(
    settings: Settings, client: redis.Redis, server: ScriptedServer
) -> None:
    server.on("/robot/send", OK)
    ding = make(settings, client, access_token="tok", robot_secret="SECabc")
    ding.push("a")
    ding.push("b")
    for request in server.requests:
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        assert set(query) == {"access_token", "timestamp", "sign"}
        assert query["sign"] == robot_sign("SECabc", query["timestamp"])
    make(settings, client, webhook_url=f"{server.url}/robot/send?access_token=in-the-url").push("c")
    assert server.requests[-1].query == "access_token=in-the-url"


@pytest.mark.parametrize(("code", "error"), [(310000, Final), (130101, Retry), (None, Final)])
def test_refused_push(ding: DingTalkSender, server: ScriptedServer, code: int | None, error: type) -> None:
    server.on("/robot/send", Reply({"errcode": code}))
    with pytest.raises(error):
        ding.push("a")


def test_names_and_mentions_come_with_the_callback(ding: DingTalkSender, server: ScriptedServer) -> None:
    assert ding.user_name(message(server)) == "Li"
    assert ding.addressed(message(server, group=True))


# What is more than words, what is no success, and what is refused


@pytest.mark.parametrize("lives_ms", [600_000, 0])
@pytest.mark.parametrize("content", ["@all come", "**x** [t](dtmd://dingtalkclient/sendMessage?content=hi) @所有人"])
def test_answers_are_words_only(ding: DingTalkSender, server: ScriptedServer, lives_ms: int, content: str) -> None:
    send(ding, message(server, lives_ms=lives_ms), content)
    ding_text = json.dumps(server.requests[-1].body, ensure_ascii=False)
    for call in ("@all", "@所有人", "dtmd:"):
        assert call not in ding_text


def test_pushes_are_words_only(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on("/robot/send", OK)
    ding.push("@all look")
    assert "@all" not in server.requests[-1].body["text"]["content"]


def test_markdown_that_clients_show(ding: DingTalkSender, server: ScriptedServer) -> None:
    content = "**one**\ntwo\n\n| a | b |\n|---|---|\n| 1 | 2 |\n```py\nx\ny\n```"
    send(ding, message(server), content)
    shown = server.requests[0].body["markdown"]["text"]
    assert shown == "**one**  \ntwo\n\n- **a**: 1; **b**: 2\n\n```py\nx\ny\n```"


def test_refused_markdown_becomes_text(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on(SESSION, Reply({"errcode": 40035, "errmsg": "invalid"}))
    server.on(SINGLE, Reply({"code": "invalidParameter.msgParam"}, 400), Reply({"processQueryKey": "q"}))
    marks = send(ding, message(server), "**bold**")
    assert server.paths() == [SESSION, TOKEN, SINGLE, SESSION, SINGLE]
    assert server.requests[-1].body["msgKey"] == "sampleText"
    assert marks == ["written", "refused", "written", "refused", "written", "refused", "written"]


def test_refused_markdown_of_somebody_outside_becomes_text(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on(SESSION, Reply({"errcode": 40035}), OK)
    send(ding, message(server, staff_id=""), "**bold**")
    assert [request.body["msgtype"] for request in server.requests] == ["markdown", "text"]


def test_a_person_who_cannot_be_written_to_is_tried_once(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on(SINGLE, Reply({"processQueryKey": "q", "invalidStaffIdList": ["staff"]}))
    with pytest.raises(Final, match="invalidStaffIdList"):
        send(ding, message(server, lives_ms=0), "**bold**")
    assert server.paths().count(SINGLE) == 1


PAGE = Reply(b"<html>too many requests</html>", 200, {"Content-Type": "text/html"})


@pytest.mark.parametrize("reply", [PAGE, Reply({}), Reply(b"[]"), Reply(b""), Reply({"processQueryKey": ""})])
@pytest.mark.parametrize("group", [False, True])
def test_a_200_that_is_no_success(ding: DingTalkSender, server: ScriptedServer, reply: Reply, group: bool) -> None:
    server.on(SINGLE, reply)
    server.on(GROUP, reply)
    with pytest.raises(Retry):
        send(ding, message(server, lives_ms=0, group=group))


@pytest.mark.parametrize("reply", [PAGE, Reply({}), Reply({"errcode": "x"}), Reply(b"")])
def test_a_session_that_says_nothing_is_none(ding: DingTalkSender, server: ScriptedServer, reply: Reply) -> None:
    server.on(SESSION, reply)
    send(ding, message(server))
    assert server.paths() == [SESSION, TOKEN, SINGLE]


def test_pages_instead_of_tokens_pushes_and_pictures(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on("/robot/send", PAGE)
    with pytest.raises(Retry):
        ding.push("a")
    server.on(DOWNLOAD, Reply({"downloadUrl": f"{server.url}/file"}))
    server.on("/file", PAGE)
    with pytest.raises(Retry):
        ding.download(message(server), Attachment("m", "c"))
    server.on(DOWNLOAD, PAGE)
    with pytest.raises(Retry):
        ding.download(message(server), Attachment("m", "c"))


def test_page_instead_of_a_token(ding: DingTalkSender, server: ScriptedServer) -> None:
    server.on(TOKEN, PAGE)
    with pytest.raises(Retry):
        send(ding, message(server, lives_ms=0))


def test_quote_travels_with_the_message(ding: DingTalkSender, server: ScriptedServer) -> None:
    assert ding.quoted(message(server)) is None
    found = ding.quoted(message(server, quote={"text": "one", "images": ["d", 5]}))
    assert found == Quote("one", (Attachment("m", "d"),))
    assert ding.quoted(message(server, quote={"text": "", "images": "odd"})) == Quote()


def delivered(**found: Any) -> Reply:
    return Reply({"success": True, "result": {"deliverResults": [{"success": True, **found}]}})


def test_what_it_said_on_a_card_is_known_when_it_is_done(
    settings: Settings, client: redis.Redis, ding: DingTalkSender, server: ScriptedServer
) -> None:
    """DingTalk sends along nothing of it but the key under which it was delivered."""
    cards = make(settings, client, card_calls=5).cards
    assert cards
    server.on(DELIVER, delivered(carrierId="carrier"))
    server.on(STREAM, Reply({"success": True, "result": True}))
    cards.post(message(server), "card", "thinking", 1, again=False)
    quoting = message(server, quote={"text": "", "images": [], "key": "carrier"})
    assert ding.quoted(quoting) == Quote()
    cards.finish(message(server), "card", "the **answer**", 2, None)
    assert ding.quoted(quoting) == Quote("the **answer**")
    stale = message(server, quote={"text": "thinking", "images": [], "key": "carrier"})
    assert ding.quoted(stale) == Quote("the **answer**")
    assert ding.quoted(message(server, quote={"text": "words", "images": [], "key": "other"})) == Quote("words")
    assert ding.quoted(message(server, quote={"text": "", "images": [], "key": 5})) == Quote()


def test_what_it_said_by_the_server_api_is_known(ding: DingTalkSender, server: ScriptedServer) -> None:
    send(ding, message(server, lives_ms=0), "hello")
    assert ding.quoted(message(server, quote={"text": "", "images": [], "key": "q"})) == Quote("hello")


def test_the_asker_is_mentioned_on_a_card(settings: Settings, client: redis.Redis, server: ScriptedServer) -> None:
    server.on(TOKEN, Reply({"accessToken": "t1", "expireIn": 7200}))
    server.on(DELIVER, delivered())
    cards = make(settings, client, card_calls=5).cards
    assert cards
    asking = dataclasses.replace(message(server, group=True, mention=True), sender_name="Li Lei")
    for asker, expected in ((asking, {"staff": "Li Lei"}), (message(server, group=True), None)):
        cards.post(asker, "card", "thinking", 1, again=False)
        assert server.requests[-1].body["imGroupOpenDeliverModel"].get("atUserIds") == expected
