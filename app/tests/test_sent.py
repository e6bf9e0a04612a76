"""The memory that a part went out, also when Redis is away just then."""

from __future__ import annotations

import threading

import pytest
import redis
from clawdbot import sent
from clawdbot.config import RedisConfig
from clawdbot.sent import Mark
from clawdbot.store import connect

from .conftest import RedisServer, free_port

NAME = "clawdbot:sent:m:0"


def test_written_is_on_its_way_at_once(client: redis.Redis) -> None:
    """Nobody reads the reply, as nobody does in a process that is killed now."""
    mark = Mark(client, NAME)
    assert not client.exists(NAME)
    mark.written()
    mark.written()
    assert client.exists(NAME)
    assert 86000 < client.ttl(NAME) <= 86400
    mark.sure()
    assert client.get(NAME) == "1"


def test_refused_and_written_again(client: redis.Redis) -> None:
    mark = Mark(client, NAME)
    mark.written()
    mark.refused()
    assert not client.exists(NAME)
    mark.written()
    mark.sure()
    assert client.exists(NAME)


def test_retracted(client: redis.Redis) -> None:
    mark = Mark(client, NAME)
    mark.retract()
    mark = Mark(client, NAME)
    mark.written()
    mark.retract()
    assert not client.exists(NAME)


def test_sure_without_the_hook(client: redis.Redis) -> None:
    """A platform with an idempotency key of its own does not call `written`."""
    Mark(client, NAME).sure()
    assert client.exists(NAME)


def test_connections_come_back(client: redis.Redis) -> None:
    for _ in range(200):
        mark = Mark(client, NAME)
        mark.written()
        mark.refused()
        mark.written()
        mark.close()
    assert len(client.connection_pool._available_connections) <= 3


@pytest.mark.parametrize("end", ["sure", "retract"])
def test_redis_dies_in_between(client: redis.Redis, redis_server: RedisServer, end: str) -> None:
    before, during = Mark(client, NAME), Mark(client, NAME + "1")
    before.written()
    redis_server.kill()
    during.written()
    without = Mark(client, NAME + "2")
    without.written()
    timer = threading.Timer(0.5, redis_server.start)
    timer.start()
    for mark in (before, during, without):
        getattr(mark, end)()
    timer.join()
    assert client.exists(NAME, NAME + "1", NAME + "2") == (3 if end == "sure" else 0)


def test_redis_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent, "INSIST_SECONDS", 0.2)
    mark = Mark(connect(RedisConfig(port=free_port()), timeout=0.1), NAME)
    mark.written()
    with pytest.raises(redis.RedisError):
        mark.sure()
