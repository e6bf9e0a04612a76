"""Rate limits that all processes share."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from typing import Protocol

import redis

from clawdbot.errors import Throttled
from clawdbot.store import Script, key

JITTER = 0.2
# A longer wait gives the worker's place to another conversation.
LONGEST_SLEEP = 3.0


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """``per_second`` on average, ``burst`` at once."""

    per_second: float
    burst: int


def jittered(seconds: float) -> float:
    """Return ``seconds`` give or take a fifth, so that many who wait do not come back at once."""
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # spreads load, protects nothing


def backoff(failures: int, first: float, longest: float) -> float:
    """Return seconds to wait after ``failures`` more in a row: ``first``, doubled by each, at most ``longest``."""
    # As an exponent, a number without a bound would overflow.
    return min(longest, first * 2.0 ** min(failures, 16))


class Limits(Protocol):
    """Who may go on, and when."""

    def allows(self, name: str, rate: Rate) -> bool:
        """See `Limiter.allows`."""

    def wait(self, name: str, rate: Rate) -> None:
        """See `Limiter.wait`."""


class Unlimited:
    """No limits, for what has to be said while nobody can count."""

    def allows(self, name: str, rate: Rate) -> bool:  # noqa: ARG002  # as Limits has it
        """Allow it."""
        return True

    def wait(self, name: str, rate: Rate) -> None:
        """Return at once."""


class Limiter:
    """Token buckets in Redis."""

    def __init__(self, client: redis.Redis, sleep: Callable[[float], None] = time.sleep) -> None:
        """``sleep`` waits for seconds."""
        self._bucket = Script(client, "bucket")
        self._sleep = sleep

    def allows(self, name: str, rate: Rate) -> bool:
        """Take a token if there is one."""
        return bool(self._take(name, rate, 0.0)[0])

    def wait(self, name: str, rate: Rate) -> None:
        """Take a token, sleeping until it is there.

        Raises:
            Throttled: the wait would be long.
        """
        granted, seconds = self._take(name, rate, LONGEST_SLEEP)
        if not granted:
            raise Throttled(f"rate limit {name.split(':')[0]}", after=seconds)
        if seconds:
            self._sleep(seconds)

    def _take(self, name: str, rate: Rate, longest: float) -> tuple[bool, float]:
        args = [rate.per_second, rate.burst, int(longest * 1000)]
        granted, wait_ms = self._bucket([key("rate", name)], args)
        return bool(granted), wait_ms / 1000
