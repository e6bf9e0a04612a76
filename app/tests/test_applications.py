"""Applications that know a company's documents: their conversations follow ours, and their sources are shown.

The answers are those of their documentation (see `clawdbot.models.dialects`), shortened.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import redis
from clawdbot import config, factory, texts
from clawdbot.config import ModelConfig
from clawdbot.errors import Final, Retry
from clawdbot.http import Http
from clawdbot.models.client import ChatModel, Question
from clawdbot.models.dialects import Conversations

from .conftest import Reply, ScriptedServer

ASKED = Question("feishu:m1", "be kind", [("before", "answer before")], "How many days?", session="feishu:oc_1")
DIFY, FASTGPT = "/v1/chat-messages", "/v1/chat/completions"
OPENED, RAGFLOW = "/v1/chats/chat-7/sessions", "/v1/chats/chat-7/completions"


def stream(*events: Any) -> Reply:
    """An event stream of JSON; of a pair the first is the event's name, of a text nothing is changed."""
    pieces: list[str | bytes | float] = []
    for event in events:
        name, data = event if isinstance(event, tuple) else ("", event)
        data = data if isinstance(data, str) else json.dumps(data)
        pieces.append(f"{f'event: {name}{chr(10)}' if name else ''}data: {data}\n\n")
    return Reply(pieces=pieces)


def application(
    environ: dict[str, str], server: ScriptedServer, client: redis.Redis, kind: str, **more: str
) -> ChatModel:
    settings = {"MODEL_TYPE": kind, "MODEL_API_KEY": "app-key", "MODEL_BASE_URL": server.url + "/v1", **more}
    found = config.load(environ | settings).model
    assert isinstance(found, ModelConfig)
    made = factory.model(found, client, Http(), 60)
    assert isinstance(made, ChatModel)
    return made


def bodies(server: ScriptedServer) -> list[dict[str, Any]]:
    return [request.body for request in server.requests]


# Dify


def dify(answer: str, conversation: str = "c-1", **end: Any) -> Reply:
    pieces = [
        {"event": "message", "answer": part, "conversation_id": conversation} for part in (answer[:3], answer[3:])
    ]
    resources = [
        {"position": 1, "document_name": "Leave.pdf", "content": "…"},
        {"document_name": "Leave.pdf"},
        {"document_name": "FAQ.docx"},
    ]
    metadata = {"usage": {"prompt_tokens": 1033, "completion_tokens": 128}, "retriever_resources": resources}
    last = {"event": "message_end", "conversation_id": conversation, "metadata": metadata, **end}
    return stream({"event": "workflow_started", "conversation_id": conversation}, *pieces, last)


def test_dify(environ: dict[str, str], server: ScriptedServer, client: redis.Redis) -> None:
    model = application(environ, server, client, "dify")
    server.on(DIFY, dify("Ten days."), dify("Yes."))
    reply = model.ask(ASKED)
    assert reply.text == "Ten days."
    assert reply.sources == ("Leave.pdf", "FAQ.docx")
    assert (reply.prompt, reply.completion) == (1033, 128)
    model.ask(dataclasses.replace(ASKED, writer="Li Lei", text="Paid?"))
    first, second = bodies(server)
    assert server.requests[0].path == DIFY
    assert server.requests[0].headers["authorization"] == "Bearer app-key"
    assert (first["query"], first["conversation_id"], first["user"]) == ("How many days?", "", "feishu:oc_1")
    assert (second["query"], second["conversation_id"]) == ("Li Lei: Paid?", "c-1")
    assert "be kind" not in json.dumps(first)


def test_another_session_is_another_conversation(
    environ: dict[str, str], server: ScriptedServer, client: redis.Redis
) -> None:
    model = application(environ, server, client, "dify")
    server.on(DIFY, dify("a"), dify("b", "c-2"), dify("c", "c-3"))
    model.ask(ASKED)
    model.ask(dataclasses.replace(ASKED, session="feishu:oc_2"))
    Conversations(client, 60).forget("feishu:oc_1")
    model.ask(ASKED)
    assert [body["conversation_id"] for body in bodies(server)] == ["", "", ""]


def test_a_conversation_that_is_gone_is_begun_anew(
    environ: dict[str, str], server: ScriptedServer, client: redis.Redis
) -> None:
    model = application(environ, server, client, "dify")
    gone = Reply({"code": "not_found", "message": "Conversation Not Exists.", "status": 404}, 404)
    server.on(DIFY, dify("a"), gone, dify("b", "c-2"), dify("c", "c-2"))
    assert [model.ask(ASKED).text for _ in range(3)] == ["a", "b", "c"]
    assert [body["conversation_id"] for body in bodies(server)] == ["", "c-1", "", "c-2"]


@pytest.mark.parametrize(
    ("reply", "error", "apology"),
    [
        (
            Reply({"code": "unauthorized", "message": "Access token is invalid", "status": 401}, 401),
            Final,
            texts.MISCONFIGURED,
        ),
        (Reply({"code": "provider_quota_exceeded", "message": "x", "status": 400}, 400), Final, texts.NO_QUOTA),
        (Reply({"code": "app_unavailable", "message": "x", "status": 400}, 400), Final, texts.NO_MODEL),
        (Reply({"code": "x"}, 503), Retry, texts.BUSY),
        (
            stream({"event": "error", "status": 400, "code": "provider_quota_exceeded", "message": "x"}),
            Final,
            texts.NO_QUOTA,
        ),
        (stream({"event": "message", "answer": "half"}), Retry, texts.BUSY),
    ],
)
def test_dify_refuses(
    environ: dict[str, str],
    server: ScriptedServer,
    client: redis.Redis,
    reply: Reply,
    error: type[Retry | Final],
    apology: str,
) -> None:
    model = application(environ, server, client, "dify")
    server.on(DIFY, reply)
    with pytest.raises(error) as caught:
        model.ask(ASKED)
    assert caught.value.apology == apology  # type: ignore[attr-defined]  # both kinds have it


def test_an_answer_that_dify_takes_back(environ: dict[str, str], server: ScriptedServer, client: redis.Redis) -> None:
    model = application(environ, server, client, "dify")
    server.on(
        DIFY,
        stream(
            {"event": "message", "answer": "bad"},
            {"event": "message_replace", "answer": "good"},
            {"event": "message_end"},
        ),
    )
    assert model.ask(ASKED).text == "good"


# FastGPT


def test_fastgpt(environ: dict[str, str], server: ScriptedServer, client: redis.Redis) -> None:
    def piece(content: str | None, finish: str | None = None) -> tuple[str, Any]:
        return "answer", {"choices": [{"delta": {"content": content}, "index": 0, "finish_reason": finish}]}

    modules = [
        {"moduleName": "Search", "quoteList": [{"sourceName": "Leave.pdf", "q": "…"}]},
        {"moduleName": "AI", "inputTokens": 50, "outputTokens": 7},
    ]
    events = [
        ("flowNodeStatus", {"status": "running", "name": "AI"}),
        piece("Ten "),
        piece("days."),
        piece(None, "stop"),
    ]
    model = application(environ, server, client, "fastgpt")
    server.on(FASTGPT, stream(*events, ("answer", "[DONE]"), ("flowResponses", modules)))
    for _ in range(2):
        reply = model.ask(ASKED)
        assert (reply.text, reply.sources) == ("Ten days.", ("Leave.pdf",))
        assert (reply.prompt, reply.completion) == (50, 7)
    first, second = bodies(server)
    assert server.requests[0].path == FASTGPT
    assert first["messages"] == [{"role": "user", "content": "How many days?"}]
    assert first["chatId"] == second["chatId"]
    assert (first["stream"], first["detail"]) == (True, True)


# RAGFlow


@pytest.mark.parametrize(
    "pieces", [["Ten", "Ten days ##0$$."], ["Ten", " days ##0$$."]], ids=["all so far", "what is new"]
)
def test_ragflow(environ: dict[str, str], server: ScriptedServer, client: redis.Redis, pieces: list[str]) -> None:
    reference = {"total": 1, "chunks": [], "doc_aggs": [{"doc_name": "Leave.pdf", "doc_id": "1", "count": 1}]}
    events = [{"code": 0, "data": {"answer": piece, "reference": {}, "session_id": "s-1"}} for piece in pieces]
    last = {
        "code": 0,
        "data": {
            "answer": "Ten days ##0$$." if pieces[1].startswith("Ten") else "",
            "reference": reference,
            "session_id": "s-1",
        },
    }
    answer = stream(*events, last, {"code": 0, "data": True})
    model = application(environ, server, client, "ragflow", MODEL_NAME="chat-7")
    server.on(OPENED, Reply({"code": 0, "data": {"id": "s-1", "chat_id": "chat-7"}}))
    server.on(RAGFLOW, answer)
    for _ in range(2):
        reply = model.ask(ASKED)
        assert (reply.text, reply.sources) == ("Ten days.", ("Leave.pdf",))
    assert server.paths() == [OPENED, RAGFLOW, RAGFLOW]
    assert [body.get("session_id") for body in bodies(server)] == [None, "s-1", "s-1"]


def test_ragflow_refuses_with_http_200(environ: dict[str, str], server: ScriptedServer, client: redis.Redis) -> None:
    model = application(environ, server, client, "ragflow", MODEL_NAME="chat-7")
    server.on(OPENED, Reply({"code": 109, "message": "Authentication error: API key is invalid!"}))
    with pytest.raises(Final) as caught:
        model.ask(ASKED)
    assert caught.value.apology == texts.MISCONFIGURED
