"""Secrets change here and in the platforms' consoles at different times: for a while both are accepted."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from clawdbot import alerts, cli, config, former, logs
from clawdbot.cache import Cache
from clawdbot.clock import now_ms
from clawdbot.config import DingTalkConfig, FeishuConfig, Former, Secret, Settings
from clawdbot.errors import ClawdbotError, Final, Retry
from clawdbot.former import Uses
from clawdbot.http import Http
from clawdbot.limits import Unlimited
from clawdbot.notes import OwnNotes, SharedNotes
from clawdbot.platforms.base import Services
from clawdbot.platforms.dingtalk.client import DingTalkSender
from clawdbot.platforms.dingtalk.crypto import EventCipher, event_signature
from clawdbot.platforms.feishu.client import FeishuSender
from clawdbot.setup import generated
from flask import Flask
from prometheus_client import REGISTRY
from werkzeug.test import TestResponse

from .conftest import Bot, Reply, ScriptedServer, dingtalk_body, feishu_encrypt, feishu_event, vectors

DINGTALK = ("app_secret", "aes_key", "token")
FEISHU = ("app_secret", "encryption_key", "verification_token")
DAY_MS = 86_400_000
DINGTALK_TOKEN = "/v1.0/oauth2/accessToken"
FEISHU_TOKEN = "/open-apis/auth/v3/tenant_access_token/internal"

Call = Callable[[Bot], TestResponse]


def fresh(name: str) -> str:
    return generated()["generated or given"] if name == "aes_key" else secrets.token_hex(16)


def replaced(settings: Settings, platform: str, *names: str, until_ms: int) -> Settings:
    """``settings`` with new secrets instead of those of ``names``, which are accepted for a while."""
    part: DingTalkConfig | FeishuConfig = getattr(settings, platform)
    old = {name: getattr(part, name) for name in names}
    new: dict[str, Any] = {name: fresh(name) for name in names}
    new["former"] = Former(old, until_ms / 1000)
    changed: dict[str, Any] = {platform: dataclasses.replace(part, **new)}
    return dataclasses.replace(settings, **changed)


def behind(settings: Settings, platform: str, *names: str) -> Bot:
    """A bot whose secrets were replaced a day before their end, and a console that still has the former ones."""
    bot = Bot(settings)
    changed = Bot(replaced(settings, platform, *names, until_ms=bot.now_ms + DAY_MS), bot.now_ms)
    changed.settings = settings
    return changed


def robot(bot: Bot) -> TestResponse:
    return bot.robot(dingtalk_body(msgId=secrets.token_hex(8)), timestamp=bot.now_ms)


def enveloped(bot: Bot) -> TestResponse:
    cipher = EventCipher(bot.dingtalk.aes_key, bot.dingtalk.app_key)
    body = json.dumps(dingtalk_body(msgId=secrets.token_hex(8))).encode()
    return bot.robot({"encrypt": cipher.encrypt(body)}, timestamp=bot.now_ms)


def event(bot: Bot) -> TestResponse:
    return bot.event(b'{"EventType":"check_url"}')


def lark(bot: Bot) -> TestResponse:
    return bot.lark(feishu_event(bot.feishu, message_id=secrets.token_hex(8)))


def url_check(bot: Bot) -> TestResponse:
    check = {"type": "url_verification", "token": bot.feishu.verification_token, "challenge": "c"}
    return bot.lark(check, signed=False)


CASES = [
    pytest.param("dingtalk", ("app_secret",), robot, id="robot"),
    pytest.param("dingtalk", ("aes_key",), enveloped, id="robot-envelope"),
    pytest.param("dingtalk", ("app_secret", "aes_key"), enveloped, id="robot-envelope-both"),
    pytest.param("dingtalk", ("token",), event, id="event-token"),
    pytest.param("dingtalk", ("aes_key",), event, id="event-key"),
    pytest.param("dingtalk", ("token", "aes_key"), event, id="event-both"),
    pytest.param("feishu", ("encryption_key",), lark, id="feishu-key"),
    pytest.param("feishu", ("verification_token",), lark, id="feishu-token"),
    pytest.param("feishu", ("encryption_key", "verification_token"), lark, id="feishu-both"),
    pytest.param("feishu", ("encryption_key",), url_check, id="feishu-check-key"),
    pytest.param("feishu", ("encryption_key", "verification_token"), url_check, id="feishu-check-both"),
]


# What comes in


@pytest.mark.parametrize(("platform", "names", "call"), CASES)
def test_both_are_accepted_and_after_the_date_only_the_present_ones(
    settings: Settings, platform: str, names: tuple[str, ...], call: Call
) -> None:
    bot = behind(settings, platform, *names)
    present = replaced(settings, platform, *names, until_ms=bot.now_ms + DAY_MS)
    changed = Bot(present, bot.now_ms)
    changed.settings, console = settings, [settings, present]
    for age_ms in (0, DAY_MS - 1):
        changed.now_ms = bot.now_ms + age_ms
        for changed.settings in console:
            assert call(changed).status_code == 200
    changed.now_ms = bot.now_ms + DAY_MS
    changed.settings = settings
    assert call(changed).status_code in {400, 401}
    changed.settings = present
    assert call(changed).status_code == 200


@pytest.mark.parametrize("names", [("token",), ("aes_key",), ("token", "aes_key")])
def test_dingtalk_can_read_the_answer(settings: Settings, names: tuple[str, ...]) -> None:
    bot = behind(settings, "dingtalk", *names)
    reply = event(bot).json
    assert reply
    console = bot.dingtalk
    signature = event_signature(console.token, reply["timeStamp"], reply["nonce"], reply["encrypt"])
    assert reply["msg_signature"] == signature
    assert EventCipher(console.aes_key, console.app_key).decrypt(reply["encrypt"]) == b"success"


@pytest.mark.parametrize("vector", vectors("dingtalk_event_crypto")["vectors"], ids=lambda vector: vector["name"])
def test_vectors_of_dingtalk_as_former_secrets(settings: Settings, vector: dict[str, Any]) -> None:
    assert settings.dingtalk
    old = {name: vector[name] for name in ("token", "aes_key")}
    part = dataclasses.replace(settings.dingtalk, app_key=vector["owner_key"], former=Former(old, 4e9))
    response = Bot(dataclasses.replace(settings, dingtalk=part)).web.post(
        "/api/dingtalk/callback", query_string=vector["query"], json=vector["body"]
    )
    # What we would answer is a good envelope, but no event.
    assert response.status_code == (400 if vector["plaintext"] == "success" else 200)


def test_vectors_of_feishu_as_former_secrets(settings: Settings) -> None:
    vector = next(each for each in vectors("feishu_event_crypto")["vectors"] if each["name"] == "p2p_image")
    header = json.loads(vector["plaintext"])["header"]
    old = {"encryption_key": vector["encrypt_key"], "verification_token": header["token"]}
    assert settings.feishu
    part = dataclasses.replace(settings.feishu, app_id=header["app_id"], former=Former(old, 4e9))
    bot = Bot(dataclasses.replace(settings, feishu=part), 1760000010000)
    response = bot.web.post("/api/feishu/callback", data=vector["raw_body"], headers=vector["headers"])
    assert response.status_code == 200
    assert [message.id for message in bot.queued()] == ["om_img_1"]


def test_a_message_under_both_secrets_is_one(settings: Settings) -> None:
    bot = behind(settings, "dingtalk", "app_secret")
    present = replaced(settings, "dingtalk", "app_secret", until_ms=bot.now_ms + DAY_MS)
    changed = Bot(present, bot.now_ms)
    for stamp, changed.settings in ((bot.now_ms, settings), (bot.now_ms + 1, present)):
        assert changed.robot(dingtalk_body(msgId="once"), timestamp=stamp).status_code == 200
    assert [message.id for message in changed.queued()] == ["once"]


def test_a_former_signature_cannot_be_replayed(settings: Settings, client: redis.Redis) -> None:
    bot = behind(settings, "dingtalk", "app_secret")
    assert bot.robot(dingtalk_body(msgId="a"), timestamp=bot.now_ms).status_code == 200
    [guard] = client.keys("clawdbot:replay:*")
    client.decrby(guard, 11_000)
    assert bot.robot(dingtalk_body(msgId="b"), timestamp=bot.now_ms).status_code == 401
    stale = bot.now_ms - 3_600_001
    assert bot.robot(dingtalk_body(msgId="c"), timestamp=stale).status_code == 401
    assert [message.id for message in bot.queued()] == ["a"]


def test_a_former_key_lets_nothing_in_that_is_not_encrypted(settings: Settings) -> None:
    bot = behind(settings, "feishu", "encryption_key", "verification_token")
    assert bot.web.post("/api/feishu/callback", json=feishu_event(bot.feishu)).status_code == 401
    assert bot.lark(feishu_event(bot.feishu), signed=False).status_code == 401
    encrypted = feishu_encrypt(secrets.token_hex(16), b"{}")
    assert bot.web.post("/api/feishu/callback", json={"encrypt": encrypted}).status_code == 401
    assert bot.queued() == []


@pytest.mark.parametrize(("platform", "names", "call"), [CASES[0], CASES[3], CASES[6], CASES[7]])
def test_every_comparison_takes_the_same_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, platform: str, names: tuple[str, ...], call: Call
) -> None:
    """Nothing but `hmac.compare_digest` says that a former secret is right."""
    bot = behind(settings, platform, *names)
    monkeypatch.setattr("clawdbot.platforms.base.hmac.compare_digest", lambda *_: False)
    assert call(bot).status_code == 401


def alert(settings: Settings, client: redis.Redis, token: str, at_ms: int) -> int:
    app = Flask("test")
    alerts.install(app, settings, client, lambda: at_ms)
    headers = {"Authorization": f"Bearer {token}"}
    return app.test_client().post("/api/alerts", data=b"{}", headers=headers).status_code


def test_alertmanager_may_show_either_token(settings: Settings, client: redis.Redis) -> None:
    part = config.AlertsConfig("new", "", Former({"token": "old"}, 2e9))
    settings = dataclasses.replace(settings, alerts=part)
    end_ms = 2_000_000_000_000
    # 400: it is let in, and says nothing that Alertmanager would.
    assert [alert(settings, client, token, end_ms - 1) for token in ("new", "old", "other")] == [400, 400, 401]
    assert [alert(settings, client, token, end_ms) for token in ("new", "old", "other")] == [400, 401, 401]


# What goes out


def sender(settings: Settings, client: redis.Redis, platform: str) -> tuple[Callable[[], str], str, str]:
    """A function that gets an access token, where, and the name of the secret's field."""
    services = Services(SharedNotes(client), Http(), Unlimited(), Cache(client, enabled=False, ttl=1))
    if platform == "dingtalk":
        assert settings.dingtalk
        return DingTalkSender(settings.dingtalk, services)._token.get, DINGTALK_TOKEN, "appSecret"
    assert settings.feishu
    return FeishuSender(settings.feishu, services)._token.get, FEISHU_TOKEN, "app_secret"


GOOD = {"accessToken": "t", "expireIn": 7200, "code": 0, "tenant_access_token": "t", "expire": 7200}
REFUSED = {
    "dingtalk": Reply({"code": "invalidClientIdOrSecret"}, 400),
    "feishu": Reply({"code": 10015, "msg": "app secret invalid"}),
}


@pytest.mark.parametrize("platform", ["dingtalk", "feishu"])
def test_the_former_secret_is_sent_only_when_the_platform_refuses_the_present_one(
    settings: Settings, client: redis.Redis, server: ScriptedServer, platform: str
) -> None:
    changed = replaced(settings, platform, "app_secret", until_ms=now_ms() + DAY_MS)
    get, path, field = sender(changed, client, platform)
    new, old = (getattr(each, platform).app_secret for each in (changed, settings))
    server.on(path, Reply(GOOD))
    assert get() == "t"
    client.flushall()
    server.on(path, REFUSED[platform], Reply(GOOD))
    assert get() == "t"
    assert [request.body[field] for request in server.requests] == [new, new, old]
    assert former.last_used(SharedNotes(client), platform, "app_secret", getattr(changed, platform).former.until)


@pytest.mark.parametrize("platform", ["dingtalk", "feishu"])
@pytest.mark.parametrize(
    ("answers", "until_ms", "raised", "requests"),
    [
        pytest.param((503,), DAY_MS, Retry, 1, id="away"),
        pytest.param((401, 503), DAY_MS, Retry, 2, id="away-then"),
        pytest.param((401,), DAY_MS, Final, 2, id="both-refused"),
        pytest.param((401,), 0, Final, 1, id="date-passed"),
    ],
)
def test_a_platform_that_gives_no_token(
    settings: Settings,
    client: redis.Redis,
    server: ScriptedServer,
    platform: str,
    answers: tuple[int, ...],
    until_ms: int,
    raised: type[ClawdbotError],
    requests: int,
) -> None:
    changed = replaced(settings, platform, "app_secret", until_ms=now_ms() + until_ms)
    get, path, _ = sender(changed, client, platform)
    server.on(path, *(REFUSED[platform] if each == 401 else Reply({}, each) for each in answers))
    with pytest.raises(raised):
        get()
    assert server.paths() == [path] * requests


# Who still uses them


def uses(part: str, name: str) -> float:
    return REGISTRY.get_sample_value("clawdbot_former_secrets_used_total", {"part": part, "secret": name}) or 0.0


def test_a_use_is_counted_and_noted(settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    bot = behind(settings, "dingtalk", "app_secret", "token", "aes_key")
    until = (bot.now_ms + DAY_MS) / 1000
    before = [uses("dingtalk", name) for name in DINGTALK]
    caplog.set_level("INFO")
    for _ in range(3):
        bot.now_ms += 1
        assert robot(bot).status_code == 200
    assert [uses("dingtalk", name) for name in DINGTALK] == [before[0] + 3, before[1], before[2]]
    notes = SharedNotes(client)
    last = former.last_used(notes, "dingtalk", "app_secret", until)
    assert last
    assert abs(last - now_ms() / 1000) < 60
    assert former.last_used(notes, "dingtalk", "token", until) is None
    assert [record.message for record in caplog.records].count("a former secret was used") == 1


def test_the_metrics_tell_the_end_and_begin_with_zero(settings: Settings) -> None:
    part = config.AlertsConfig("new", "", Former({"token": "old"}, 1.9e9))
    page = Bot(dataclasses.replace(settings, alerts=part)).web.get("/metrics").text
    assert 'clawdbot_former_secret_end_timestamp_seconds{part="alerts",secret="token"} 1.9e+09' in page
    assert 'clawdbot_former_secrets_used_total{part="alerts",secret="token"}' in page
    assert "former_secret_end_timestamp_seconds{" not in Bot(settings).web.get("/metrics").text


def test_a_refused_callback_uses_nothing(settings: Settings) -> None:
    bot = behind(settings, "dingtalk", "app_secret")
    before = uses("dingtalk", "app_secret")
    assert bot.robot(dingtalk_body(), timestamp=bot.now_ms - 3_600_001).status_code == 401
    bot.robot(dingtalk_body(), secret="guessed")
    assert uses("dingtalk", "app_secret") == before


def test_a_redis_that_is_away_is_told_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(OwnNotes):
        def put(self, name: str, text: str, life: float) -> None:  # noqa: ARG002  # as OwnNotes has it
            raise redis.ConnectionError

    monkeypatch.setattr(former, "NOTED_SECONDS", 0)
    notes: OwnNotes = Away()
    noting = Uses(notes, {"alerts": Former({"token": "old"}, 4e9)})
    noting.note("alerts", Secret("new"), Secret("old", "token"))
    monkeypatch.setattr(Away, "put", OwnNotes.put)
    noting.note("alerts", Secret("old", "token"))
    assert former.last_used(notes, "alerts", "token", 4e9)


def rewrite(environ: dict[str, str], **block: Any) -> None:
    path = Path(environ["CLAWDBOT_CONFIG_DIR"], "dingtalk.yaml")
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"former": block}), "utf-8")


def test_check_says_what_can_be_closed(
    environ: dict[str, str], client: redis.Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    until = datetime.datetime(2199, 1, 31, tzinfo=datetime.UTC).timestamp()
    rewrite(environ, token="old token", app_secret="old secret", until="2199-01-30")
    monkeypatch.setattr("os.environ", environ)
    Uses(SharedNotes(client), {"dingtalk": Former({}, until)}).note("dingtalk", Secret("old token", "token"))
    today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    assert cli.main(["check"]) == 0
    said = capsys.readouterr().out
    assert "note: dingtalk: the former app_secret is accepted until 2199-01-31 00:00Z; not used so far" in said
    assert f"note: dingtalk: the former token is accepted until 2199-01-31 00:00Z; last used {today}" in said
    assert "old" not in said
    rewrite(environ, token="old token", until="2020-01-31")
    assert cli.main(["check"]) == 0
    said = capsys.readouterr().out
    assert "warning: " in said
    assert "former.until: is over" in said
    assert "note: dingtalk: the former token is refused; not used so far" in said


# The settings


def problems(environ: dict[str, str]) -> list[tuple[str, str, bool]]:
    return [(problem.key, problem.cure, problem.fatal) for problem in config.load(environ).problems]


def test_without_a_time_the_day_counts_to_its_end(environ: dict[str, str]) -> None:
    path = Path(environ["CLAWDBOT_CONFIG_DIR"], "dingtalk.yaml")
    # Without quotes YAML makes a date of it.
    before = path.read_text("utf-8").rstrip("} \n")
    for written, hours in (("2199-01-30", 24), ("2199-01-30T08:00:00+08:00", 0), ('"2199-01-30"', 24)):
        path.write_text(f"{before}, former: {{token: old, until: {written}}}}}", "utf-8")
        settings = config.load(environ)
        assert not settings.problems
        assert settings.dingtalk
        start = datetime.datetime(2199, 1, 30, tzinfo=datetime.UTC)
        assert settings.dingtalk.former == Former({"token": "old"}, start.timestamp() + hours * 3600)
    assert "old" not in repr(settings)
    assert "old" in settings.secrets()


def test_every_secret_may_be_replaced(environ: dict[str, str]) -> None:
    old = {name: fresh(name) for name in DINGTALK}
    rewrite(environ, **old, until="2199-01-30")
    path = Path(environ["CLAWDBOT_CONFIG_DIR"], "feishu.js")
    older = {name: fresh(name) for name in FEISHU}
    module = json.loads(path.read_text("utf-8").removeprefix("module.exports = "))
    path.write_text(f"module.exports = {json.dumps(module | {'former': older | {'until': '2199-01-30'}})}", "utf-8")
    environ |= {"CLAWDBOT_ALERTS_TOKEN": "new", "CLAWDBOT_ALERTS_FORMER_TOKEN": "old"}
    environ |= {"CLAWDBOT_ALERTS_FORMER_UNTIL": "2199-01-30"}
    settings = config.load(environ)
    assert not settings.problems
    found = {part: each.values for part, each in settings.former().items()}
    assert found == {"dingtalk": old, "feishu": older, "alerts": {"token": "old"}}
    record = logging.makeLogRecord({"msg": f"{older['app_secret']} {old['aes_key']}"})
    assert "*** ***" in logs.JsonFormatter(settings.secrets()).format(record)


@pytest.mark.parametrize(
    ("block", "key", "cure", "fatal"),
    [
        ({"token": "old", "until": "soon"}, "former.until", "is no ISO 8601 date", True),
        ({"token": "old", "until": "9999-12-31"}, "former.until", "is no ISO 8601 date", True),
        ({"token": "old"}, "former.until", "is missing; write the date", True),
        ({"token": "old", "until": "2020-01-31"}, "former.until", "is over", False),
        ({"until": "2199-01-31"}, "former.until", "is of no use", False),
        ({"aes_key": "short", "until": "2199-01-31"}, "former.aes_key", "must be exactly 43", True),
        ({"tokn": "old", "token": "o", "until": "2199-01-31"}, "former.tokn", "did you mean token?", False),
        ({"token": ["old"], "until": "2199-01-31"}, "former.token", "must be a text", True),
    ],
)
def test_mistakes_are_named(environ: dict[str, str], block: dict[str, Any], key: str, cure: str, fatal: bool) -> None:
    rewrite(environ, **block)
    found = [problem for problem in problems(environ) if problem[0] == key]
    assert len(found) == 1, problems(environ)
    assert cure in found[0][1]
    assert found[0][2] is fatal
    assert (config.load(environ).dingtalk is None) is fatal


def test_a_former_secret_is_another_one_and_replaces_something(environ: dict[str, str]) -> None:
    settings = config.load(environ)
    assert settings.dingtalk
    rewrite(environ, token=settings.dingtalk.token, app_secret="old", until="2199-01-31")
    assert problems(environ) == [("former.token", "is the present token; write the one before it", False)]
    rewrite(environ)
    environ |= {"CLAWDBOT_ALERTS_FORMER_TOKEN": "old", "CLAWDBOT_ALERTS_FORMER_UNTIL": "2199-01-31"}
    [(key, cure, fatal)] = [found for found in problems(environ) if found[2]]
    assert (key, fatal) == ("CLAWDBOT_ALERTS_FORMER_TOKEN", True)
    assert "replaces nothing" in cure
