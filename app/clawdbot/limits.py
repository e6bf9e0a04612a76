"""Rate limits that all processes share."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable

import redis

from clawdbot.engine.queue import now_ms
from clawdbot.errors import Retry
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


class Limiter:
    """Token buckets in Redis."""

    def __init__(self, client: redis.Redis, sleep: Callable[[float], None] = time.sleep) -> None:
        """``sleep`` waits for seconds."""
        self._bucket = Script(client, "bucket")
        self._sleep = sleep

    def take(self, name: str, rate: Rate) -> float:
        """Take a token and return 0, or return the seconds until there will be one."""
        wait = self._bucket([key("rate", name)], [rate.per_second, rate.burst, now_ms()])
        return int(wait) / 1000

    def wait(self, name: str, rate: Rate) -> None:
        """Take a token, sleeping for it if need be.

        Raises:
            Retry: the wait would be long.
        """
        waited = 0.0
        while pause := self.take(name, rate):
            waited += pause
            if waited > LONGEST_SLEEP:
                raise Retry(f"rate limit {name.split(':')[0]}", after=pause)
            self._sleep(pause)
