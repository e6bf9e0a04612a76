"""Rate limits that processes share."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from clawdbot.errors import Throttled
from clawdbot.limits import Limiter, Rate


def let_pass(client: redis.Redis, name: str, ms: int) -> None:
    """Let time pass for a bucket; the clock is that of Redis."""
    client.hincrby(f"clawdbot:rate:{name}", "at", -ms)


def about(*seconds: float) -> list[Any]:
    return [pytest.approx(each, abs=0.09) for each in seconds]


def test_burst_then_rate_over_all_processes(client: redis.Redis) -> None:
    slept: list[float] = []
    first, second = Limiter(client, slept.append), Limiter(client, slept.append)
    rate = Rate(2, 5)
    for _ in range(3):
        first.wait("x", rate)
        second.wait("x", rate)
    assert slept == about(0.5)
    second.wait("x", rate)
    assert slept == about(0.5, 1)
    let_pass(client, "x", 1000)
    first.wait("x", rate)
    assert slept == about(0.5, 1, 0.5)
    first.wait("other", rate)
    assert len(slept) == 3


def test_long_wait_gives_the_place_to_others(client: redis.Redis) -> None:
    limiter = Limiter(client, lambda _: None)
    rate = Rate(1, 1)
    for _ in range(4):
        limiter.wait("push:secret", rate)
    with pytest.raises(Throttled) as throttled:
        limiter.wait("push:secret", rate)
    assert throttled.value.after == pytest.approx(4, abs=0.2)
    assert "secret" not in str(throttled.value)


def test_refusal_costs_nothing(client: redis.Redis) -> None:
    limiter = Limiter(client)
    rate = Rate(0.5, 2)
    assert [limiter.allows("u", rate) for _ in range(5)] == [True, True, False, False, False]
    let_pass(client, "u", 2000)
    assert [limiter.allows("u", rate) for _ in range(2)] == [True, False]


def test_clock_that_goes_back(client: redis.Redis) -> None:
    limiter = Limiter(client)
    assert limiter.allows("u", Rate(1, 1))
    let_pass(client, "u", -60_000)
    assert not limiter.allows("u", Rate(1, 1))


def test_clocks_of_the_hosts_do_not_matter(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = Limiter(client)
    assert limiter.allows("u", Rate(0.1, 1))
    monkeypatch.setattr(time, "time_ns", lambda: 2**62)
    monkeypatch.setattr(time, "time", lambda: 2.0**32)
    assert not limiter.allows("u", Rate(0.1, 1))


def test_buckets_do_not_stay(client: redis.Redis) -> None:
    Limiter(client).allows("u", Rate(1, 10))
    assert 0 < client.ttl("clawdbot:rate:u") <= 12
