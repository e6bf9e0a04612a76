"""Rate limits that processes share."""

from __future__ import annotations

import pytest
import redis
from clawdbot import limits
from clawdbot.errors import Throttled
from clawdbot.limits import Limiter, Rate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [1_000_000]
    monkeypatch.setattr(limits, "now_ms", lambda: now[0])
    return now


def test_burst_then_rate_over_all_processes(client: redis.Redis, clock: list[int]) -> None:
    slept: list[float] = []
    first, second = Limiter(client, slept.append), Limiter(client, slept.append)
    rate = Rate(10, 5)
    for _ in range(3):
        first.wait("x", rate)
        second.wait("x", rate)
    assert slept == [0.1]
    second.wait("x", rate)
    assert slept == [0.1, 0.2]
    clock[0] += 200
    first.wait("x", rate)
    assert slept == [0.1, 0.2, 0.1]
    first.wait("other", rate)
    assert len(slept) == 3


@pytest.mark.usefixtures("clock")
def test_long_wait_gives_the_place_to_others(client: redis.Redis) -> None:
    limiter = Limiter(client, lambda _: None)
    rate = Rate(1, 1)
    for _ in range(4):
        limiter.wait("push:secret", rate)
    with pytest.raises(Throttled) as throttled:
        limiter.wait("push:secret", rate)
    assert throttled.value.after == 4
    assert "secret" not in str(throttled.value)


def test_refusal_costs_nothing(client: redis.Redis, clock: list[int]) -> None:
    limiter = Limiter(client)
    rate = Rate(1, 2)
    assert [limiter.allows("u", rate) for _ in range(5)] == [True, True, False, False, False]
    clock[0] += 1000
    assert [limiter.allows("u", rate) for _ in range(2)] == [True, False]


def test_clock_that_goes_back(client: redis.Redis, clock: list[int]) -> None:
    limiter = Limiter(client)
    assert limiter.allows("u", Rate(1, 1))
    clock[0] -= 60_000
    assert not limiter.allows("u", Rate(1, 1))


def test_buckets_do_not_stay(client: redis.Redis) -> None:
    Limiter(client).allows("u", Rate(1, 10))
    assert 0 < client.ttl("clawdbot:rate:u") <= 12
