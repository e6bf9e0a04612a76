"""Model services against a server that follows a script."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from clawdbot import config, factory, logs, texts
from clawdbot.config import ModelConfig
from clawdbot.errors import ClawdbotError, Final, Retry
from clawdbot.http import Http
from clawdbot.images import Picture
from clawdbot.models import client as module
from clawdbot.models.breaker import Breaker
from clawdbot.models.client import ChatModel, EchoModel, Question
from clawdbot.models.credentials import baidu_authorization, credential, zhipu_jwt
from clawdbot.models.presets import presets

from .conftest import Reply, ScriptedServer

CHAT = "/v1/chat/completions"
QUESTION = Question("dingtalk:m1", "be kind", [("q1", "a1")], "hello")


def answer(text: Any = "hi") -> Reply:
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    return Reply({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})


@pytest.fixture
def model_config(environ: dict[str, str], server: ScriptedServer) -> ModelConfig:
    values = {"MODEL_TYPE": "gpt", "MODEL_API_KEY": "sk-1", "MODEL_BASE_URL": f"{server.url}/v1", "MODEL_NAME": "m"}
    found = config.load(environ | values).model
    assert found
    return found


@pytest.fixture
def model(model_config: ModelConfig) -> ChatModel:
    return ChatModel(model_config, Http(), lambda: "sk-1", sleep=lambda _: None)


def test_echo() -> None:
    assert EchoModel().ask(QUESTION) == "echo: hello"
    with_picture = dataclasses.replace(QUESTION, pictures=[Picture("image/png", b"x")])
    assert EchoModel().ask(with_picture) == "echo: hello [1 picture(s)]"


def test_request(model: ChatModel, server: ScriptedServer) -> None:
    server.on(CHAT, answer())
    assert model.ask(QUESTION) == "hi"
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
    ],
)
def test_one_repetition(model: ChatModel, server: ScriptedServer, first: Reply) -> None:
    server.on(CHAT, first, answer())
    assert model.ask(QUESTION) == "hi"
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
        (Reply({"error": "too long"}, 400), Final, texts.BAD_REQUEST, 1),
        (answer(""), Final, texts.EMPTY, 1),
        (answer(None), Final, texts.EMPTY, 1),
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


def test_deadline(model: ChatModel, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALL_SECONDS", 0.2)
    server.on(CHAT, dataclasses.replace(answer(), delay=1))
    with pytest.raises(Retry, match="unreachable"):
        model.ask(QUESTION)


def test_breaker_opens_and_closes(model: ChatModel, server: ScriptedServer) -> None:
    now = [0.0]
    model._breaker = Breaker(2, 30, lambda: now[0])
    server.on(CHAT, Reply({}, 500))
    for _ in range(2):
        with pytest.raises(Retry, match="server_error"):
            model.ask(QUESTION)
    asked = len(server.requests)
    with pytest.raises(Retry, match="breaker") as raised:
        model.ask(QUESTION)
    assert raised.value.after == 30
    assert len(server.requests) == asked
    now[0] = 31
    with pytest.raises(Retry, match="server_error"):
        model.ask(QUESTION)
    with pytest.raises(Retry, match="breaker"):
        model.ask(QUESTION)
    now[0] = 62
    server.on(CHAT, answer())
    assert model.ask(QUESTION) == "hi"
    assert model.ask(QUESTION) == "hi"


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
    ("reply", "error"), [(Reply({}, 403), Final), (Reply({}, 500), Retry), (Reply(drop=True), Retry)]
)
def test_baidu_refuses(
    client: redis.Redis, model_config: ModelConfig, server: ScriptedServer, reply: Reply, error: type[ClawdbotError]
) -> None:
    server.on("/v1/BCE-BEARER/token", reply)
    with pytest.raises(error):
        bearer(client, model_config, "ernie", api_key="AK", api_secret="SK", iam_url=server.url)()


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
    assert isinstance(factory.model(model_config, client, Http()), ChatModel)
    echo = config.load(environ).model
    assert echo
    assert isinstance(factory.model(echo, client, Http()), EchoModel)
    broken = config.load(environ | {"MODEL_TYPE": "gpt"})
    with pytest.raises(ClawdbotError, match="check"):
        factory.worker(broken)
