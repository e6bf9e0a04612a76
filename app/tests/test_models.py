"""Model services against a server that follows a script."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import hmac
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from clawdbot import config, factory, logs, metrics, texts
from clawdbot.config import ModelConfig
from clawdbot.errors import ClawdbotError, Final, Retry, Throttled
from clawdbot.http import Http
from clawdbot.images import Picture
from clawdbot.models import failures, reasoning, wire
from clawdbot.models.breaker import Breaker
from clawdbot.models.client import ChatModel, EchoModel, Question
from clawdbot.models.client import Reply as Answer
from clawdbot.models.credentials import baidu_authorization, credential, zhipu_jwt
from clawdbot.models.failures import Failed
from clawdbot.models.presets import presets
from clawdbot.models.wire import Patience, Service

from .conftest import Reply, ScriptedServer
from .site import APP

CHAT = "/v1/chat/completions"
QUESTION = Question("dingtalk:m1", "be kind", [("q1", "a1")], "hello")


DONE = "data: [DONE]\n\n"


def piece(content: str, finish: str | None = None) -> str:
    return f"data: {json.dumps({'choices': [{'delta': {'content': content}, 'finish_reason': finish}]})}\n\n"


def reasoning_piece(content: str) -> str:
    return f"data: {json.dumps({'choices': [{'delta': {'reasoning_content': content, 'content': None}}]})}\n\n"


def answer(text: Any = "hi", finish: str = "stop") -> Reply:
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    return Reply(
        {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}], "usage": usage}
    )


@pytest.fixture
def model_config(environ: dict[str, str], server: ScriptedServer) -> ModelConfig:
    values = {"MODEL_TYPE": "gpt", "MODEL_API_KEY": "sk-1", "MODEL_BASE_URL": f"{server.url}/v1", "MODEL_NAME": "m"}
    found = config.load(environ | values).model
    assert found
    return found


def chat_model(model_config: ModelConfig, **changes: Any) -> ChatModel:
    changed = dataclasses.replace(model_config, **changes)
    service = Service(f"{changed.base_url}/chat/completions")
    return ChatModel(changed, service, lambda: "sk-1", sleep=lambda _: None)


@pytest.fixture
def model(model_config: ModelConfig) -> ChatModel:
    return chat_model(model_config)


def test_echo() -> None:
    assert EchoModel().ask(QUESTION).text == "echo: hello"
    with_picture = dataclasses.replace(QUESTION, pictures=[Picture("image/png", b"x")])
    assert EchoModel().ask(with_picture).text == "echo: hello [1 picture(s)]"


def test_request(model: ChatModel, server: ScriptedServer) -> None:
    server.on(CHAT, answer())
    assert model.ask(QUESTION) == Answer("hi")
    [request] = server.requests
    assert request.headers["authorization"] == "Bearer sk-1"
    assert request.body["model"] == "m"
    assert [(each["role"], each["content"]) for each in request.body["messages"]] == [
        ("system", "be kind"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "hello"),
    ]


def test_pictures_go_as_data_urls(model: ChatModel, server: ScriptedServer) -> None:
    server.on(CHAT, answer())
    model.ask(dataclasses.replace(QUESTION, pictures=[Picture("image/png", b"abc")], text=""))
    words, picture = server.requests[0].body["messages"][-1]["content"]
    assert words["text"]
    assert picture == {"type": "image_url", "image_url": {"url": "data:image/png;base64,YWJj"}}


@pytest.mark.parametrize(
    "first",
    [
        Reply({}, 500),
        Reply({}, 429, {"Retry-After": "1"}),
        Reply({}, 408),
        Reply({}, drop=True),
        Reply({"choices": []}),
        Reply(b"<html>"),
        Reply({"error": {"code": 502, "message": "Provider returned error"}}),
        Reply(pieces=[piece("half an ans")], breaks_off=True),
        Reply(pieces=[piece("half an ans")]),
        Reply(pieces=[piece("half"), 'data: {"error": {"type": "overloaded_error"}}\n\n']),
        Reply(pieces=[piece("half", finish="insufficient_system_resource"), DONE]),
    ],
)
def test_one_repetition(model: ChatModel, server: ScriptedServer, first: Reply) -> None:
    server.on(CHAT, first, answer())
    assert model.ask(QUESTION).text == "hi"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("reply", "error", "apology", "calls"),
    [
        (Reply({}, 503), Retry, texts.BUSY, 2),
        (Reply({}, 429, {"Retry-After": "30"}), Retry, texts.BUSY, 1),
        (Reply({}, drop=True), Retry, texts.BUSY, 2),
        (Reply(b"<html>", 200), Retry, texts.BUSY, 2),
        (Reply({"error": {"code": "invalid_api_key"}}, 401), Final, texts.MISCONFIGURED, 1),
        (Reply({}, 403), Final, texts.MISCONFIGURED, 1),
        (Reply({"error": {"code": "insufficient_quota"}}, 429), Final, texts.NO_QUOTA, 1),
        (Reply({}, 402), Final, texts.NO_QUOTA, 1),
        (Reply({"error": {"code": "model_not_found"}}, 400), Final, texts.NO_MODEL, 1),
        (Reply({}, 404), Final, texts.NO_MODEL, 1),
        (Reply({"error": "too many tools"}, 400), Final, texts.BAD_REQUEST, 1),
        (Reply({"error": {"code": "content_filter"}}, 400), Final, texts.FILTERED, 1),
        (answer(""), Final, texts.EMPTY, 1),
        (answer(None), Final, texts.EMPTY, 1),
        (answer("<think>hm</think>"), Final, texts.EMPTY, 1),
        (answer("<think>hm", finish="length"), Final, texts.THOUGHT_TOO_LONG, 1),
        (answer("", finish="content_filter"), Final, texts.FILTERED, 1),
    ],
)
def test_failures(
    model: ChatModel, server: ScriptedServer, reply: Reply, error: type[Exception], apology: str, calls: int
) -> None:
    server.on(CHAT, reply)
    with pytest.raises(error) as raised:
        model.ask(QUESTION)
    assert raised.value.apology == apology  # type: ignore[attr-defined]  # both kinds have it
    assert len(server.requests) == calls


# Streams


def test_an_answer_comes_in_pieces(model: ChatModel, server: ScriptedServer) -> None:
    end = 'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}\n\n'
    server.on(CHAT, Reply(pieces=[": hello\n\n", piece("你"), piece("好", finish="stop"), end, DONE]))
    assert model.ask(QUESTION) == Answer("你好")
    assert server.requests[0].body["stream"] is True
    assert server.requests[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_bytes_may_be_split_anywhere(model: ChatModel, server: ScriptedServer, size: int) -> None:
    said = f"{piece('<think>ab</think>你', finish='stop')}{DONE}".replace("\n", "\r\n").encode()
    server.on(CHAT, Reply(pieces=[said[at : at + size] for at in range(0, len(said), size)]))
    assert model.ask(QUESTION).text == "你"


def test_a_character_may_be_split_over_two_pieces(model: ChatModel, server: ScriptedServer) -> None:
    half = 'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n'
    server.on(CHAT, Reply(pieces=[half % r"\ud83d", half % r"\ude00 \ud83d \u0000!", piece("", finish="stop")]))
    assert model.ask(QUESTION).text == "😀 \ufffd !"


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_service_that_cannot_stream(model: ChatModel, server: ScriptedServer, content_type: str) -> None:
    plain = answer().body
    server.on(CHAT, Reply(plain, headers={"Content-Type": content_type}))
    assert model.ask(QUESTION).text == "hi"


def test_a_stream_that_does_not_say_so(model: ChatModel, server: ScriptedServer) -> None:
    said = f"{piece('h')}{piece('i', finish='stop')}{DONE}".encode()
    server.on(CHAT, Reply(said, headers={"Content-Type": "text/plain"}))
    assert model.ask(QUESTION).text == "hi"


def test_streaming_switched_off(model_config: ModelConfig, server: ScriptedServer) -> None:
    """Nothing comes before the end, and the time until the first token is that of the whole answer."""
    server.on(CHAT, dataclasses.replace(answer(), delay=0.6))
    model = chat_model(model_config, stream=False, first_token_seconds=0.2, idle_seconds=0.2, total_seconds=5)
    assert model.ask(QUESTION).text == "hi"
    assert server.requests[0].body["stream"] is False
    assert "stream_options" not in server.requests[0].body


# Time: scaled about 1 to 100


def hurried(model_config: ModelConfig, **changes: float) -> ChatModel:
    return chat_model(
        model_config, **{"first_token_seconds": 2.0, "idle_seconds": 1.0, "total_seconds": 10.0} | changes
    )


def test_a_long_answer_arrives(model_config: ModelConfig, server: ScriptedServer) -> None:
    """Three minutes with a silent reasoner at first, then a token now and then; comments count as life."""
    thinking: list[str | bytes | float] = [0.5, ": still here\n\n", 0.8, reasoning_piece("hm")]
    slowly = [part for word in ["a", "b", "c", "d", "e", "f"] for part in (0.2, piece(word))]
    server.on(CHAT, Reply(pieces=[*thinking, *slowly, 0.2, ": still here\n\n", 0.2, piece("", finish="stop"), DONE]))
    assert hurried(model_config).ask(QUESTION) == Answer("abcdef")
    assert len(server.requests) == 1


def test_silence_between_tokens_is_noticed(model_config: ModelConfig, server: ScriptedServer) -> None:
    server.on(CHAT, Reply(pieces=[piece("half"), 60.0, piece("", finish="stop")]))
    began = time.monotonic()
    with pytest.raises(Retry, match="silent"):
        hurried(model_config).ask(QUESTION)
    assert time.monotonic() - began < 30
    assert len(server.requests) == 1, "it may have to be paid: the queue decides about another attempt"


def test_silence_before_the_first_token_is_noticed(model_config: ModelConfig, server: ScriptedServer) -> None:
    server.on(CHAT, dataclasses.replace(answer(), delay=60))
    began = time.monotonic()
    with pytest.raises(Retry, match="silent"):
        hurried(model_config, first_token_seconds=0.3).ask(QUESTION)
    assert time.monotonic() - began < 30


def test_where_another_model_waits_a_slow_one_is_not_waited_for(
    model_config: ModelConfig, server: ScriptedServer
) -> None:
    server.on(CHAT, Reply(pieces=[1.5, piece("late", finish="stop")]))
    # Who waits has the answer.
    with pytest.raises(Retry, match="silent"):
        chat_model(model_config).ask(dataclasses.replace(QUESTION, next_after=0.3))
    server.on(CHAT, Reply({}, 503))
    with pytest.raises(Retry):
        chat_model(model_config).ask(dataclasses.replace(QUESTION, next_after=0.3))
    assert len(server.requests) == 2, "an overloaded one is not asked twice, either"


@pytest.mark.parametrize("rest", [{"pieces": [piece("all", finish="stop"), 3.0]}, {"breaks_off": True}])
def test_an_answer_that_is_complete_needs_no_goodbye(
    model_config: ModelConfig, server: ScriptedServer, rest: dict[str, Any]
) -> None:
    server.on(CHAT, Reply(**{"pieces": [piece("all", finish="stop")]} | rest))
    assert hurried(model_config).ask(QUESTION) == Answer("all")
    assert len(server.requests) == 1


def test_an_answer_that_never_ends_is_cut(model_config: ModelConfig, server: ScriptedServer) -> None:
    endless: list[str | bytes | float] = [part for _ in range(40) for part in (piece("on "), 0.1)]
    server.on(CHAT, Reply(pieces=endless))
    reply = hurried(model_config, total_seconds=1.0).ask(QUESTION)
    assert reply.text.startswith("on on")
    assert reply.note == texts.CUT_LATE


def test_reasoning_that_never_ends_is_told(model_config: ModelConfig, server: ScriptedServer) -> None:
    endless: list[str | bytes | float] = [part for _ in range(40) for part in (reasoning_piece("hm"), 0.1)]
    server.on(CHAT, Reply(pieces=endless))
    with pytest.raises(Final) as raised:
        hurried(model_config, total_seconds=1.0).ask(QUESTION)
    assert raised.value.apology == texts.TOO_SLOW
    assert len(server.requests) == 1


def test_the_kernel_asks_a_silent_peer_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is gone is found out by TCP, long before a thinking model may be given up."""
    options: list[tuple[Any, ...]] = []
    monkeypatch.setattr(socket.socket, "setsockopt", lambda _, *option: options.append(option))
    with socket.create_server(("127.0.0.1", 0), reuse_port=False) as listener:
        service = Service(f"http://127.0.0.1:{listener.getsockname()[1]}/x")
        with pytest.raises(Failed, match="silent"):
            service.ask({}, {}, Patience(0.3, 0.3, 1))
    assert set(wire.KEEPALIVE) <= set(options)


def test_a_peer_that_takes_no_more_of_the_question_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does not ask whether a peer is there as long as something is on its way to it."""
    assert (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000) in wire.KEEPALIVE
    monkeypatch.setattr(wire, "KEEPALIVE", [(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service = Service(f"http://127.0.0.1:{listener.getsockname()[1]}/x")
        with pytest.raises(Failed, match="unreachable"):
            service.ask({"picture": "x" * 20_000_000}, {}, Patience(60, 1, 60))


# What the answer is made of

HARMONY = "<|channel|>{}<|message|>"
CODE_ABOUT_IT = "Use\n```python\nre.sub(r'<think>.*?</think>', '', s)\n```\nDone."


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("<think>secret</think>Hello", "Hello"),
        ("<think>\nsecret\n</think>\n\nHello", "Hello"),
        ("secret\n</think>\n\nHello", "Hello"),
        ("<think>a</think>Hel<think>b</think>lo", "Hello"),
        ("<think>a<think>b</think>c</think>Hello", "Hello"),
        ("<THINK >secret</Think>Hello", "Hello"),
        ('<thinking mode="x">secret</thinking>Hello', "Hello"),
        ("◁think▷secret◁/think▷Hello", "Hello"),
        ("[THINK]secret[/THINK]Hello", "Hello"),
        ("<seed:think>secret</seed:think>Hello", "Hello"),
        ("<reasoning>secret</reasoning>Hello", "Hello"),
        ("<|begin_of_thought|>secret<|end_of_thought|>Hello", "Hello"),
        (f"{HARMONY.format('analysis')}secret<|end|><|start|>assistant{HARMONY.format('final')}Hello", "Hello"),
        (f"{HARMONY.format('analysis')}secret", ""),
        ("<think>`secret`</think>`Hello`", "`Hello`"),
        ("<think>`</think>` secret</think>Hello", "Hello"),
        ("`Hel`<think>secret</think>`lo`", "`Hel``lo`"),
        ("<think>\n```\nsecret\n</think>\nHello", "Hello"),
        ("```\nsecret\n```\n</think>Hello", "Hello"),
        ("Hello<think>secret", "Hello"),
        ("<think>secret", ""),
        ("write `<think>` before and `</think>` behind", "write `<think>` before and `</think>` behind"),
        ("I think < you > know", "I think < you > know"),
        ("<think/>Hello", "<think/>Hello"),
        ("[Think] about it", "[Think] about it"),
        (f"<think>secret</think>{CODE_ABOUT_IT}", CODE_ABOUT_IT),
        (f"{CODE_ABOUT_IT}<think>secret</think>", CODE_ABOUT_IT),
        ("```\n<think>\n```\n<think>secret</think>Hello", "```\n<think>\n```\nHello"),
        ("~~~\n<think>\n~~~\nmore", "~~~\n<think>\n~~~\nmore"),
        ("`<think>secret</think>`", "`<think>secret</think>`"),
    ],
)
def test_reasoning_is_taken_out(said: str, kept: str) -> None:
    assert reasoning.without(said) == kept


@pytest.mark.parametrize(
    ("said", "thoughts"),
    [
        ("<think>why</think>Hello", "why"),
        ("why</think>Hello", "why"),
        ("<think>why", "why"),
        ("<think>a</think>Hello<think>b</think>", "ab"),
        ("Hello", ""),
    ],
)
def test_reasoning_is_kept_for_who_may_see_it(said: str, thoughts: str) -> None:
    assert reasoning.parted(said)[1] == thoughts


def test_taking_reasoning_out_is_linear() -> None:
    began = time.monotonic()
    reasoning.without("a <think>b</think>\n" * 50_000)
    reasoning.without("```\n<think>\n" * 50_000)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Hello", "reasoning_content": "secret"},
        {"content": "Hello", "reasoning": "secret"},
        {"content": [{"type": "thinking", "thinking": "secret"}, {"type": "text", "text": "Hello"}]},
        {"content": [{"type": "reasoning", "text": "secret"}, "Hel", {"text": "lo"}]},
        {"content": None, "refusal": "Hello"},
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_only_the_answer_is_taken(
    model: ChatModel, server: ScriptedServer, message: dict[str, Any], streamed: bool
) -> None:
    name = "delta" if streamed else "message"
    said = {"choices": [{name: message, "finish_reason": "stop"}]}
    server.on(CHAT, Reply(pieces=[f"data: {json.dumps(said)}\n\n", DONE]) if streamed else Reply(said))
    assert model.ask(QUESTION) == Answer("Hello")


def test_a_cut_answer_says_so(model: ChatModel, server: ScriptedServer) -> None:
    server.on(CHAT, answer("half", finish="length"), answer("half", finish="content_filter"))
    assert model.ask(QUESTION) == Answer("half", texts.CUT)
    assert model.ask(QUESTION) == Answer("half", texts.FILTERED_REST)


def test_the_bots_own_bound(model_config: ModelConfig, server: ScriptedServer) -> None:
    server.on(CHAT, answer("x" * 500))
    assert chat_model(model_config, answer_characters=100).ask(QUESTION) == Answer("x" * 100, texts.CUT)


def test_an_endless_stream_is_not_kept_in_memory(
    model_config: ModelConfig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MAX_CHARACTERS", 1000)
    server.on(CHAT, Reply(pieces=[piece("x" * 100)] * 50))
    assert chat_model(model_config, answer_characters=200).ask(QUESTION) == Answer("x" * 200, texts.CUT)


def test_a_history_that_is_too_long_is_shortened(model: ChatModel, server: ScriptedServer) -> None:
    too_long = Reply({"error": {"code": "context_length_exceeded"}}, 400)
    server.on(CHAT, too_long, too_long, answer())
    history = [(f"q{number}", "a") for number in range(5)]
    assert model.ask(dataclasses.replace(QUESTION, history=history)).text == "hi"
    asked = [[each["content"] for each in request.body["messages"][1::2]] for request in server.requests]
    assert asked == [["q0", "q1", "q2", "q3", "q4", "hello"], ["q3", "q4", "hello"], ["hello"]]
    server.on(CHAT, too_long)
    with pytest.raises(Final) as raised:
        model.ask(QUESTION)
    assert raised.value.apology == texts.TOO_LONG


def test_what_the_request_says(model_config: ModelConfig, server: ScriptedServer) -> None:
    server.on(CHAT, answer())
    extra = {"enable_thinking": False, "stream_options": None}
    chat_model(model_config, temperature=0.5, max_tokens=700, extra_fields=extra).ask(QUESTION)
    body = server.requests[0].body
    assert (body["temperature"], body["max_completion_tokens"], body["enable_thinking"]) == (0.5, 700, False)
    assert "stream_options" not in body
    chat_model(model_config, preset=presets()["qwen"], max_tokens=700).ask(QUESTION)
    assert server.requests[1].body["max_tokens"] == 700
    assert "temperature" not in server.requests[1].body


def test_the_model_is_asked_through_the_proxy_of_the_environment(
    model_config: ModelConfig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows the host name: only a proxy, which gets the whole URL, can answer."""
    server.on("http://nowhere.test/v1/chat/completions", answer("by proxy"))
    monkeypatch.setenv("HTTP_PROXY", server.url)
    elsewhere = chat_model(model_config, base_url="http://nowhere.test/v1")
    assert elsewhere.ask(QUESTION).text == "by proxy"
    monkeypatch.setenv("NO_PROXY", "nowhere.test")
    with pytest.raises(Retry, match="unreachable"):
        elsewhere.ask(QUESTION)


def test_only_the_worker_pays_for_the_client() -> None:
    program = "import sys, clawdbot.web, clawdbot.factory; print('httpx2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=APP, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# Refusals by provider: status and body as the page of failures.yaml that lists them shows them.


@pytest.mark.parametrize(
    ("provider", "status", "body", "kind"),
    [
        ("gpt", 429, {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}}, "quota"),
        ("gpt", 429, {"error": {"code": "rate_limit_exceeded", "type": "requests"}}, "rate_limited"),
        ("gpt", 404, {"error": {"code": "model_not_found", "type": "invalid_request_error"}}, "model"),
        ("gpt", 401, {"error": {"code": "invalid_api_key"}}, "auth"),
        ("gpt", 400, {"error": {"code": "context_length_exceeded"}}, "context"),
        ("claude", 400, {"error": {"message": "Your credit balance is too low to access the API"}}, "quota"),
        ("claude", 529, {"error": {"type": "overloaded_error"}}, "overloaded"),
        ("claude", 403, {"error": {"type": "permission_error"}}, "auth"),
        ("deepseek", 402, {"error": {"message": "Insufficient Balance"}}, "quota"),
        ("deepseek", 400, {"error": {"message": "Model Not Exist"}}, "model"),
        ("deepseek", 503, {}, "overloaded"),
        ("qwen", 400, {"error": {"code": "Arrearage"}}, "quota"),
        ("qwen", 403, {"error": {"code": "AllocationQuota.FreeTierOnly"}}, "quota"),
        ("qwen", 429, {"error": {"code": "Throttling.AllocationQuota"}}, "rate_limited"),
        ("qwen", 401, {"error": {"code": "InvalidApiKey"}}, "auth"),
        ("qwen", 403, {"error": {"code": "Model.AccessDenied"}}, "model"),
        ("qwen", 400, {"error": {"code": "data_inspection_failed"}}, "content_filter"),
        (
            "qwen",
            400,
            {"error": {"code": "invalid_parameter_error", "message": "Range of input length should be [1, 30720]"}},
            "context",
        ),
        ("kimi", 429, {"error": {"type": "exceeded_current_quota_error"}}, "quota"),
        ("kimi", 403, {"error": {"message": "insufficient balance"}}, "quota"),
        ("kimi", 429, {"error": {"type": "engine_overloaded_error"}}, "overloaded"),
        ("kimi", 404, {"error": {"type": "resource_not_found_error"}}, "model"),
        (
            "kimi",
            400,
            {"error": {"type": "invalid_request_error", "message": "Input token length too long"}},
            "context",
        ),
        ("glm", 429, {"error": {"code": "1113", "message": "余额不足"}}, "quota"),
        ("glm", 429, {"error": {"code": "1302"}}, "rate_limited"),
        ("glm", 401, {"error": {"code": "1002"}}, "auth"),
        ("glm", 400, {"error": {"code": "1211"}}, "model"),
        ("glm", 400, {"error": {"code": "1301"}}, "content_filter"),
        ("glm", 400, {"error": {"code": "1261"}}, "context"),
        ("doubao", 403, {"error": {"code": "AccountOverdueError", "type": "Forbidden"}}, "quota"),
        ("doubao", 404, {"error": {"code": "InvalidEndpointOrModel.NotFound", "type": "NotFound"}}, "model"),
        ("doubao", 404, {"error": {"code": "ModelNotOpen"}}, "model"),
        ("doubao", 401, {"error": {"code": "AuthenticationError"}}, "auth"),
        ("doubao", 429, {"error": {"code": "ServerOverloaded"}}, "overloaded"),
        ("doubao", 429, {"error": {"code": "RateLimitExceeded.EndpointTPMExceeded"}}, "rate_limited"),
        ("doubao", 400, {"error": {"code": "InputTextSensitiveContentDetected"}}, "content_filter"),
        ("ernie", 401, {"error": {"code": "invalid_iam_token", "type": "invalid_request_error"}}, "auth"),
        ("ernie", 401, {"error": {"code": "invalid_model", "type": "invalid_request_error"}}, "model"),
        ("ernie", 400, {"error": {"code": "tokens_too_long"}}, "context"),
        ("ernie", 429, {"error": {"code": "rpm_rate_limit_exceeded"}}, "rate_limited"),
        ("ernie", 400, {"error": {"code": "image_url_unsafe", "type": "unsafe_request"}}, "content_filter"),
        ("ollama", 404, {"error": {"message": 'model "x" not found, try pulling it first'}}, "model"),
        ("ollama", 500, {"error": "llama runner process has terminated"}, "server_error"),
        ("vllm", 400, {"object": "error", "message": "This model's maximum context length is 8 tokens"}, "context"),
        ("vllm", 404, {"error": {"type": "NotFoundError", "code": 404}}, "model"),
        # A gateway hands another provider's code on.
        ("gpt", 400, {"error": {"code": "Arrearage"}}, "quota"),
        ("gpt", 418, {}, "bad_request"),
        ("gpt", 507, {}, "server_error"),
        ("gpt", 200, {"error": {"message": "something"}}, "server_error"),
    ],
)
def test_refusals_are_told_apart(
    model_config: ModelConfig, server: ScriptedServer, provider: str, status: int, body: dict[str, Any], kind: str
) -> None:
    server.on(CHAT, Reply(body, status))
    model = chat_model(model_config, name=provider, preset=presets()[provider])
    before = calls(provider, kind)
    with pytest.raises((Retry, Final), match=f"^model: {kind}"):
        model.ask(QUESTION)
    assert calls(provider, kind) > before


def calls(provider: str, outcome: str) -> float:
    return float(metrics.MODEL_CALLS.labels(provider, outcome)._value.get())


def test_every_preset_has_its_refusals() -> None:
    assert set(failures.table()) == {*presets(), "all"} - {"echo"}


def test_breaker_opens_and_closes(model: ChatModel, server: ScriptedServer) -> None:
    now = [0.0]
    model._breaker = Breaker(2, 30, lambda: now[0])
    server.on(CHAT, Reply({}, 500))
    for _ in range(2):
        with pytest.raises(Retry, match="server_error"):
            model.ask(QUESTION)
    asked = len(server.requests)
    with pytest.raises(Throttled, match=r"server_error.* \(circuit breaker is open\)") as raised:
        model.ask(QUESTION)
    assert raised.value.after == 30
    assert len(server.requests) == asked
    now[0] = 31
    with pytest.raises(Retry, match="server_error"):
        model.ask(QUESTION)
    with pytest.raises(Throttled, match="breaker"):
        model.ask(QUESTION)
    now[0] = 62
    server.on(CHAT, answer())
    assert model.ask(QUESTION).text == "hi"
    assert model.ask(QUESTION).text == "hi"


def test_wrong_key_does_not_open_the_breaker(model: ChatModel, server: ScriptedServer) -> None:
    server.on(CHAT, Reply({}, 401))
    for _ in range(10):
        with pytest.raises(Final):
            model.ask(QUESTION)


@pytest.mark.usefixtures("clean_logging")
def test_log_has_numbers_and_no_words(model: ChatModel, server: ScriptedServer, environ: dict[str, str]) -> None:
    logs.setup(config.load(environ))
    server.on(CHAT, Reply({}, 500), answer("the answer"))
    model.ask(QUESTION)
    lines = (Path(environ["CLAWDBOT_LOG_DIR"]) / "model_api.log").read_text().splitlines()
    failed, worked = (json.loads(line) for line in lines)
    assert (failed["outcome"], failed["status"], failed["level"]) == ("server_error", 500, "warning")
    assert (worked["outcome"], worked["prompt_tokens"], worked["completion_tokens"]) == ("success", 5, 2)
    assert worked["message"] == "dingtalk:m1"
    for secret in ("sk-1", "hello", "the answer", "be kind"):
        assert secret not in "".join(lines)


# Credentials


def bearer(client: redis.Redis, model_config: ModelConfig, preset: str, **changes: Any) -> Callable[[], str]:
    table = presets()[preset]
    if "iam_url" in changes:
        table = dataclasses.replace(table, iam_url=changes.pop("iam_url"))
    return credential(dataclasses.replace(model_config, name=preset, preset=table, **changes), client, Http())


def decode(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_plain_key(client: redis.Redis, model_config: ModelConfig) -> None:
    assert bearer(client, model_config, "gpt")() == "sk-1"
    assert bearer(client, model_config, "glm", api_key="whole-key")() == "whole-key"
    assert bearer(client, model_config, "ernie", api_key="bce-v3/ALTAK-x/y")() == "bce-v3/ALTAK-x/y"


@pytest.mark.parametrize("given", [{"api_key": "id.secret"}, {"api_key": "id", "api_secret": "secret"}])
def test_zhipu(client: redis.Redis, model_config: ModelConfig, given: dict[str, str]) -> None:
    head, payload, signature = bearer(client, model_config, "glm", **given)().split(".")
    assert decode(head) == {"alg": "HS256", "sign_type": "SIGN"}
    assert decode(payload)["api_key"] == "id"
    assert decode(payload)["exp"] - decode(payload)["timestamp"] == 180_000
    expected = hmac.new(b"secret", f"{head}.{payload}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == expected
    assert zhipu_jwt("a", "b", now_ms=1) == zhipu_jwt("a", "b", now_ms=1)


def test_baidu(client: redis.Redis, model_config: ModelConfig, server: ScriptedServer) -> None:
    server.on("/v1/BCE-BEARER/token", Reply({"token": "bce-v3/short"}))
    get = bearer(client, model_config, "ernie", api_key="AK", api_secret="SK", iam_url=server.url)
    assert [get(), get()] == ["bce-v3/short"] * 2
    [request] = server.requests
    assert request.query == "expireInSeconds=86400"
    assert request.headers["authorization"].startswith("bce-auth-v1/AK/20")


@pytest.mark.parametrize(
    ("reply", "error", "kind", "apology"),
    [
        (Reply({}, 403), Final, "auth", texts.MISCONFIGURED),
        (Reply({}, 500), Retry, "unreachable", texts.BUSY),
        (Reply({}, 429), Retry, "unreachable", texts.BUSY),
        (Reply(b"<html>blocked</html>"), Retry, "unreachable", texts.BUSY),
        (Reply(drop=True), Retry, "unreachable", texts.BUSY),
    ],
)
def test_baidu_refuses(
    client: redis.Redis,
    model_config: ModelConfig,
    server: ScriptedServer,
    reply: Reply,
    error: type[ClawdbotError],
    kind: str,
    apology: str,
) -> None:
    """Users and operators hear of it as if the model itself had refused."""
    server.on("/v1/BCE-BEARER/token", reply)
    get = bearer(client, model_config, "ernie", api_key="AK", api_secret="SK", iam_url=server.url)
    before = calls(model_config.name, kind)
    with pytest.raises((Retry, Final)) as raised:
        ChatModel(model_config, Service(model_config.base_url), get).ask(QUESTION)
    assert isinstance(raised.value, error)
    assert getattr(raised.value, "apology", "") == apology
    assert calls(model_config.name, kind) == before + 1


def test_baidu_signature_covers_what_matters() -> None:
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    base = baidu_authorization("AK", "SK", "iam.bj.baidubce.com", "a=1", now=now)
    assert base.startswith("bce-auth-v1/AK/2026-01-02T03:04:05Z/1800/host/")
    others = [
        baidu_authorization("AK", "other", "iam.bj.baidubce.com", "a=1", now=now),
        baidu_authorization("AK", "SK", "elsewhere", "a=1", now=now),
        baidu_authorization("AK", "SK", "iam.bj.baidubce.com", "a=2", now=now),
    ]
    assert len({base, *others}) == 4


def test_factory(model_config: ModelConfig, client: redis.Redis, environ: dict[str, str]) -> None:
    assert isinstance(factory.model(model_config, client, Http(), 60), ChatModel)
    echo = config.load(environ).model
    assert echo
    assert isinstance(factory.model(echo, client, Http(), 60), EchoModel)
    broken = config.load(environ | {"MODEL_TYPE": "gpt"})
    with pytest.raises(ClawdbotError, match="check"):
        factory.worker(broken)
