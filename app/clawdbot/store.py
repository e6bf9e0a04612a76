"""Redis: one client for everybody, the names of all keys, and the Lua scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from clawdbot.config import RedisConfig

PREFIX = "clawdbot:"
Argument = str | int | float
# How long an accepted message is known: Feishu repeats an event for 7.1 hours; a day leaves room.
DEDUP_SECONDS = 86400


def key(*parts: object) -> str:
    """Return the Redis key of ``parts``, all of ours beginning with the same prefix."""
    return PREFIX + ":".join(str(part) for part in parts)


def session_key(conversation_key: str) -> str:
    """Redis key of a conversation's history, which `Queue.done` writes together with the finish."""
    return key("session", conversation_key)


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
        self._client = client
        self._execute: Callable[..., Any] = client.execute_command
        self._text = Path(__file__).with_name("lua").joinpath(f"{name}.lua").read_text("utf-8")
        self._digest = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run it; the value is whatever the script returns."""
        command = self.command(keys, args)
        try:
            return self._execute(*command)
        except NoScriptError:
            self.load()
            return self._execute(*command)

    def command(self, keys: Sequence[str], args: Sequence[Argument]) -> list[Argument]:
        """Return the command that runs it, for those who send it themselves."""
        return ["EVALSHA", self._digest, len(keys), *keys, *args]

    def load(self) -> None:
        """Give it to Redis."""
        self._client.script_load(self._text)
