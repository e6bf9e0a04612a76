"""Redis: one client for everybody, the names of all keys, and the Lua scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from clawdbot.config import RedisConfig

PREFIX = "clawdbot:"


def key(*parts: object) -> str:
    """Return the Redis key of ``parts``, all of ours beginning with the same prefix."""
    return PREFIX + ":".join(str(part) for part in parts)


def connect(config: RedisConfig, *, timeout: float, connections: int = 64) -> redis.Redis:
    """Return a client that answers within ``timeout`` seconds or raises `redis.RedisError`.

    Nothing is opened yet: sockets belong to the process that first uses them, so call this before or after a
    fork as you like. One retry at once: every command that we send may be repeated without harm.
    """
    return redis.Redis(
        host=config.host,
        port=config.port,
        db=config.db,
        password=config.password or None,
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, 1.0),
        socket_keepalive=True,
        health_check_interval=30,
        max_connections=connections,
        protocol=2,
        decode_responses=True,
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
    )


class Script:
    """One of the files in ``lua/``: atomic, loaded on first use and again after Redis forgot it."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        """Bind ``lua/<name>.lua`` to ``client``."""
        path = Path(__file__).with_name("lua") / f"{name}.lua"
        self._script = client.register_script(path.read_text("utf-8"))

    def __call__(self, keys: Sequence[str], args: Sequence[object]) -> Any:
        """Run it; the value is whatever the script returns."""
        return self._script(keys=list(keys), args=[str(value) for value in args])
