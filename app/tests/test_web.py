"""The web application around the callbacks: health, readiness, metrics, access log, intake."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from clawdbot import logs, metrics, metrics_folder
from clawdbot.config import RedisConfig, Settings
from clawdbot.engine.intake import Intake
from clawdbot.engine.queue import Queue
from clawdbot.store import connect
from clawdbot.web import create_app
from prometheus_client.parser import text_string_to_metric_families
from werkzeug.test import TestResponse

from .conftest import Bot, RedisServer, dingtalk_body, feishu_event, free_port
from .test_queue import message


def without_redis(settings: Settings) -> Settings:
    return dataclasses.replace(settings, redis=dataclasses.replace(settings.redis, port=free_port()))


def samples(bot: Bot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    page = bot.web.get("/metrics").get_data(as_text=True)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def metric(bot: Bot, name: str, **labels: str) -> float:
    return samples(bot).get((name, frozenset(labels.items())), 0.0)


def test_health_is_exact_and_asks_nobody(settings: Settings) -> None:
    response = Bot(without_redis(settings)).web.get("/health")
    assert (response.status_code, response.get_data(as_text=True).strip()) == (200, '{"status":"healthy"}')


def test_ready(bot: Bot) -> None:
    response = bot.web.get("/ready")
    assert (response.status_code, response.json) == (200, {"status": "ready", "platforms": ["dingtalk", "feishu"]})


def test_not_ready_without_redis_or_when_it_takes_no_writes(settings: Settings, client: redis.Redis) -> None:
    assert Bot(without_redis(settings)).web.get("/ready").status_code == 503
    client.config_set("min-replicas-to-write", 1)
    try:
        response = Bot(settings).web.get("/ready")
        assert (response.status_code, response.json["status"] if response.json else "") == (503, "unavailable")
    finally:
        client.config_set("min-replicas-to-write", 0)


def test_nothing_is_promised_without_redis(settings: Settings) -> None:
    bot = Bot(without_redis(settings))
    calls: list[Callable[[], TestResponse]] = [
        lambda: bot.robot(dingtalk_body()),
        lambda: bot.lark(feishu_event(bot.feishu)),
    ]
    for call in calls:
        begin = time.monotonic()
        response = call()
        assert (response.status_code, response.json) == (503, {"error": "try again"})
        # DingTalk waits 2.5 s.
        assert time.monotonic() - begin < 2.5
    assert bot.web.get("/metrics").status_code == 200
    assert metric(bot, "clawdbot_redis_up") == 0


def test_full_redis_is_told_and_counted(bot: Bot, client: redis.Redis) -> None:
    full = {"platform": "dingtalk", "result": "full"}
    before = metric(bot, "clawdbot_callbacks_total", **full)
    most = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", 1)
    try:
        assert bot.robot(dingtalk_body()).status_code == 503
    finally:
        client.config_set("maxmemory", str(most))
    assert metric(bot, "clawdbot_callbacks_total", **full) == before + 1
    assert bot.robot(dingtalk_body()).status_code == 200


def test_unknown_pages_and_methods(bot: Bot) -> None:
    assert (bot.web.get("/nothing").status_code, bot.web.get("/nothing").json) == (404, {"error": "Not Found"})
    response = bot.web.get("/api/dingtalk/callback")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert bot.web.get("/api/feishu/callback/").status_code == 404


def test_bug_is_a_500_without_details(bot: Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(Queue, "accept_command", fail)
    monkeypatch.setattr(metrics, "page", fail)
    for response in (bot.robot(dingtalk_body()), bot.web.get("/metrics")):
        assert (response.status_code, response.json) == (500, {"error": "Internal Server Error"})


def test_metrics_of_the_alerts(bot: Bot) -> None:
    for _ in range(2):
        bot.robot(dingtalk_body(msgId="m"))
    bot.robot(dingtalk_body(), secret="wrong")
    names = {name for name, _ in samples(bot)}
    assert {
        "clawdbot_http_requests_total",
        "clawdbot_http_request_duration_seconds_bucket",
        "clawdbot_queue_depth",
        "clawdbot_queue_oldest_age_seconds",
        "clawdbot_dead_letters",
        "clawdbot_api_key_expiry_unknown",
    } <= names
    assert metric(bot, "clawdbot_queue_depth") == 1
    assert metric(bot, "clawdbot_callbacks_total", platform="dingtalk", result="duplicate") >= 1
    assert metric(bot, "clawdbot_callbacks_total", platform="dingtalk", result="bad_signature") >= 1
    assert metric(bot, "clawdbot_http_requests_total", endpoint="dingtalk_callback", status="401") >= 1
    endpoint = {"endpoint": "dingtalk_callback", "le": "2.0"}
    assert metric(bot, "clawdbot_http_request_duration_seconds_bucket", **endpoint) >= 3


def test_key_expiry_is_a_date_or_unknown(settings: Settings) -> None:
    name = "clawdbot_api_key_expiry_timestamp_seconds"
    assert settings.model
    gpt = dataclasses.replace(
        settings.model, name="gpt", preset=dataclasses.replace(settings.model.preset, auth="bearer")
    )
    unknown = Bot(dataclasses.replace(settings, model=gpt))
    assert metric(unknown, "clawdbot_api_key_expiry_unknown", provider="gpt") == 1
    assert name not in {found for found, _ in samples(unknown)}
    known = Bot(dataclasses.replace(settings, model=dataclasses.replace(gpt, expires_at=1.9e9)))
    assert metric(known, name, provider="gpt") == 1.9e9
    assert metric(known, "clawdbot_api_key_expiry_unknown", provider="gpt") == 0
    assert Bot(dataclasses.replace(settings, model=None)).web.get("/metrics").status_code == 200


def test_unknown_paths_make_no_series(bot: Bot) -> None:
    for number in range(5):
        bot.web.get(f"/scan-{number}")
    assert not [labels for _, labels in samples(bot) if "scan" in str(labels)]


@pytest.mark.usefixtures("clean_logging")
def test_access_log(bot: Bot, settings: Settings) -> None:
    logs.setup(settings)
    bot.robot(dingtalk_body(msgId="m-7", text={"content": "private words"}))
    bot.event(b'{"EventType":"check_url"}')
    bot.web.post("/api/feishu/callback", data=b"{}")
    text = (settings.log_dir / "access.log").read_text()
    robot, event, refused = map(json.loads, text.splitlines())
    assert (robot["path"], robot["status"], robot["result"], robot["message"]) == (
        "/api/dingtalk/callback",
        200,
        "accepted",
        "m-7",
    )
    assert robot["ms"] > 0
    assert (event["result"], event["note"]) == ("ignored", "event check_url")
    assert (refused["status"], refused["result"]) == (401, "not_encrypted")
    assert "private words" not in text
    assert "msg_signature" not in text


@pytest.mark.usefixtures("clean_logging")
def test_one_proxy_hop(bot: Bot, settings: Settings) -> None:
    logs.setup(settings)
    bot.web.get("/health", headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.9"})
    assert json.loads((settings.log_dir / "access.log").read_text())["client"] == "203.0.113.9"


def test_application_from_the_environment(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert create_app().test_client().get("/health").status_code == 200


# Group commit


def accept_all(intake: Intake, count: int) -> list[Any]:
    results: list[Any] = [None] * count

    def accept(number: int) -> None:
        try:
            results[number] = intake.accept(message(f"c{number % 5}"))
        except redis.RedisError as error:
            results[number] = error

    threads = [threading.Thread(target=accept, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_callbacks_that_come_together_go_together(client: redis.Redis) -> None:
    queue = Queue(client)
    intake = Intake(queue, patience=5)
    rounds: list[int] = []
    pipeline = intake._pipeline

    def counted(commands: Any) -> Any:
        rounds.append(len(commands))
        time.sleep(0.02)
        return pipeline(commands)

    intake._pipeline = counted  # type: ignore[method-assign]  # to count
    assert accept_all(intake, 60) == ["accepted"] * 60
    assert sum(rounds) >= 60
    assert len(rounds) < 30
    assert queue.depth().messages == 60
    assert intake._led is False


def test_script_that_redis_forgot(client: redis.Redis) -> None:
    intake = Intake(Queue(client), patience=5)
    client.script_flush()
    assert accept_all(intake, 10) == ["accepted"] * 10


def test_everybody_hears_of_a_failure() -> None:
    client = connect(RedisConfig(port=free_port()), timeout=0.2)
    intake = Intake(Queue(client), patience=0.3)
    results = accept_all(intake, 20)
    assert all(isinstance(result, redis.RedisError) for result in results)
    assert intake._led is False


def test_nobody_waits_for_ever_and_the_lead_is_not_lost(client: redis.Redis) -> None:
    intake = Intake(Queue(client), patience=0.1)
    pipeline = intake._pipeline
    slow = [0.5]

    def late(commands: Any) -> Any:
        time.sleep(slow.pop() if slow else 0)
        return pipeline(commands)

    intake._pipeline = late  # type: ignore[method-assign]  # one slow round
    results = accept_all(intake, 8)
    assert any(isinstance(result, redis.TimeoutError) for result in results)
    assert "accepted" in results
    intake._patience = 60
    assert accept_all(intake, 8) == ["accepted"] * 8
    assert intake._waiting == []


def test_a_redis_that_restarts_is_waited_for(client: redis.Redis, redis_server: RedisServer) -> None:
    intake = Intake(Queue(client), patience=20)
    assert accept_all(intake, 5) == ["accepted"] * 5
    redis_server.kill()
    timer = threading.Timer(0.5, redis_server.start)
    timer.start()
    assert accept_all(intake, 40) == ["accepted"] * 40
    timer.join()


def test_nobody_waits_for_a_redis_that_stays_away(client: redis.Redis, redis_server: RedisServer) -> None:
    """Frozen, it takes connections and is silent; threads that waited for it would be missing for the balancer."""
    hasty = connect(RedisConfig(port=redis_server.port), timeout=0.2, retries=0)
    intake = Intake(Queue(hasty), patience=0.6, attempt=0.2)
    assert accept_all(intake, 3) == ["accepted"] * 3
    assert redis_server.process
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert all(isinstance(result, redis.RedisError) for result in accept_all(intake, 8))
        assert time.monotonic() - begun < 1.5
        took = []
        for _ in range(3):
            begun = time.monotonic()
            assert all(isinstance(result, redis.RedisError) for result in accept_all(intake, 30))
            took.append(time.monotonic() - begun)
        # One of them asks, once.
        assert min(took) < 0.5, took
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    assert client.ping()
    assert accept_all(intake, 8)[0] == "accepted"
    assert accept_all(intake, 8) == ["accepted"] * 8


# Metrics of several processes


def test_folder_of_each_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {metrics_folder.VARIABLE: str(tmp_path)}
    web, worker = tmp_path / "web", tmp_path / "worker"
    worker.mkdir()
    web.mkdir()
    (worker / "counter_4194305.db").touch()
    (web / "counter_4194305.db").touch()
    (web / "counter_1.db").touch()
    metrics_folder.use("web", environ)
    assert environ[metrics_folder.VARIABLE] == str(web)
    assert [file.name for file in web.iterdir()] == ["counter_1.db"]
    assert (worker / "counter_4194305.db").exists()
    monkeypatch.setenv(metrics_folder.VARIABLE, str(web))
    assert len(metrics_folder.files()) == 2


def test_without_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    environ: dict[str, str] = {}
    metrics_folder.use("web", environ)
    monkeypatch.delenv(metrics_folder.VARIABLE, raising=False)
    assert (environ, metrics_folder.files()) == ({}, [])


def test_timer() -> None:
    assert 0 <= metrics.Timer().seconds() < 1


def test_quiet_logger_names() -> None:
    """urllib3 would log URLs with their query."""
    assert logging.getLogger("urllib3").isEnabledFor(logging.DEBUG) is False


@pytest.mark.usefixtures("clean_logging")
def test_what_a_stranger_forwards_is_not_believed(bot: Bot, settings: Settings) -> None:
    logs.setup(settings)
    stranger = {"REMOTE_ADDR": "198.51.100.9"}
    for path in ("/health", "/api/dingtalk/callback"):
        bot.web.post(path, headers={"X-Forwarded-For": "203.0.113.7"}, environ_overrides=stranger)
    lines = [json.loads(line) for line in (settings.log_dir / "access.log").read_text().splitlines()]
    assert [line["client"] for line in lines] == ["198.51.100.9"] * 2


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", 200),
        ("10.2.3.4", 200),
        ("::ffff:192.168.1.1", 200),
        ("fe80::1%eth0", 200),
        ("203.0.113.50", 200),
        ("203.0.113.51", 404),
        ("2001:db8::1", 404),
        ("nonsense", 404),
    ],
)
def test_metrics_are_for_those_who_run_the_bot(settings: Settings, peer: str, status: int) -> None:
    bot = Bot(dataclasses.replace(settings, metrics_allow_ips="203.0.113.50"))
    assert bot.web.get("/metrics", environ_overrides={"REMOTE_ADDR": peer}).status_code == status


def test_strangers_who_ask_whether_we_are_ready_cost_one_write(bot: Bot, client: redis.Redis) -> None:
    def writes() -> int:
        calls: int = client.info("commandstats").get("cmdstat_set", {"calls": 0})["calls"]
        return calls

    before = writes()
    for _ in range(50):
        assert bot.web.get("/ready", environ_overrides={"REMOTE_ADDR": "203.0.113.9"}).status_code == 200
    assert writes() - before <= 3
    assert bot.web.get("/ready").status_code == 200
    assert writes() - before >= 2
