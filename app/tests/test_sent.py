"""The memory that a part went out, also when Redis is away just then."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest
import redis
from clawdbot import sent
from clawdbot.config import RedisConfig
from clawdbot.engine.queue import Queue
from clawdbot.message import Message
from clawdbot.sent import Mark, Sent
from clawdbot.store import connect

from .conftest import RedisServer, free_port

MESSAGE = Message("dingtalk", "m", "c", False, "u", 1)
NAME = "clawdbot:sent:dingtalk:m:0"


def mark(client: redis.Redis, part: str = "0", before: str = "") -> Mark:
    """A mark under the lease of nobody."""
    return Sent(client).mark(MESSAGE, part, ("workers", "nobody", "1-1"), before)


def test_written_is_on_its_way_at_once(client: redis.Redis) -> None:
    """Nobody reads the reply, as nobody does in a process that is killed now."""
    it = mark(client)
    assert not client.exists(NAME)
    it.written()
    it.written()
    assert client.exists(NAME)
    assert 86000 < client.ttl(NAME) <= 86400
    it.sure()
    assert client.get(NAME) == "1"


def test_refused_and_written_again(client: redis.Redis) -> None:
    it = mark(client)
    it.written()
    it.refused()
    assert not client.exists(NAME)
    it.written()
    it.sure()
    assert client.exists(NAME)


def test_retracted(client: redis.Redis) -> None:
    it = mark(client)
    it.retract()
    it = mark(client)
    it.written()
    it.retract()
    assert not client.exists(NAME)


def test_sure_without_the_hook(client: redis.Redis) -> None:
    """A platform with an idempotency key of its own does not call `written`."""
    mark(client).sure()
    assert client.exists(NAME)


def test_redis_that_reads_nothing_holds_nobody_before_the_answer(
    client: redis.Redis, redis_server: RedisServer
) -> None:
    """Who is killed there sends the part again. What cannot be written at once is written later."""
    it = mark(client)
    assert redis_server.process
    redis_server.process.send_signal(signal.SIGSTOP)
    held = 4.0
    timer = threading.Timer(held, redis_server.process.send_signal, [signal.SIGCONT])
    timer.start()
    try:
        with contextlib.suppress(BlockingIOError):
            while os.write(it._connection._sock.fileno(), b"*1\r\n$4\r\nPING\r\n" * 1000):
                pass
        begin = time.monotonic()
        it.written()
        assert time.monotonic() - begin < held / 2
    finally:
        timer.join()
    it.sure()
    assert client.get(NAME) == "1"


def test_connections_come_back(client: redis.Redis) -> None:
    for _ in range(200):
        it = mark(client)
        it.written()
        it.refused()
        it.written()
        it.close()
    # Redis counts this one, and the one that asks.
    assert client.info("clients")["connected_clients"] <= 4


def test_who_finds_all_connections_taken_waits_for_one(redis_server: RedisServer) -> None:
    with connect(RedisConfig(port=redis_server.port), timeout=5, connections=1) as client:
        taken = client.connection_pool.get_connection()
        timer = threading.Timer(0.3, client.connection_pool.release, [taken])
        timer.start()
        begin = time.monotonic()
        assert client.ping()
        assert time.monotonic() - begin > 0.2


@pytest.mark.parametrize("end", ["sure", "retract"])
def test_redis_dies_in_between(client: redis.Redis, redis_server: RedisServer, end: str) -> None:
    before, during = mark(client), mark(client, "1")
    before.written()
    redis_server.kill()
    during.written()
    without = mark(client, "2")
    without.written()
    timer = threading.Timer(0.5, redis_server.start)
    timer.start()
    for each in (before, during, without):
        getattr(each, end)()
    timer.join()
    assert client.exists(*(NAME[:-1] + part for part in "012")) == (3 if end == "sure" else 0)


def test_redis_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent, "INSIST_SECONDS", 0.2)
    it = mark(connect(RedisConfig(port=free_port()), timeout=0.1))
    it.written()
    with pytest.raises(redis.RedisError):
        it.sure()


def test_mark_under_a_lease_lasts_until_the_message_is_settled(client: redis.Redis) -> None:
    """Without a time to live no full memory evicts it."""
    queue = Queue(client, "one")
    queue.prepare()
    queue.accept(MESSAGE)
    [lease] = queue.take(1, 1)
    it = Sent(client).mark(MESSAGE, "0", ("workers", "one", lease.entry))
    it.written()
    it.sure()
    assert client.ttl(NAME) == -1
    queue.done(lease, MESSAGE, None, 1)
    assert not client.exists(NAME)


def test_what_was_unsure_before_stays_so_when_it_is_taken_back(client: redis.Redis) -> None:
    first = mark(client)
    first.written()
    first.unsure()
    assert Sent(client).state(MESSAGE, "0") == "?"
    second = mark(client, before="?")
    second.written()
    second.retract()
    assert Sent(client).state(MESSAGE, "0") == "?"


def test_mark_on_a_full_memory(client: redis.Redis) -> None:
    most = client.config_get("maxmemory")["maxmemory"]
    try:
        client.config_set("maxmemory", 1)
        it = Sent(client).mark(MESSAGE, "0", ("workers", "nobody", "1-1"))
        it.written()
        assert it.close()
    finally:
        client.config_set("maxmemory", str(most))
