"""Redis: one client for everybody, the names of all keys, and the Lua scripts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from clawdbot.config import RedisConfig
from clawdbot.copies import Group, Pool, ToPrimary, durably, group_of

PREFIX = "clawdbot:"
# Older ones know neither the flags of our scripts nor `SET` with both NX and GET.
OLDEST_REDIS = 7
Argument = str | bytes | int | float
INCLUDE = re.compile(r"^-- include (\w+)$", re.MULTILINE)
# How long an accepted message is known: Feishu repeats an event for 7.1 hours; a day leaves room.
DEDUP_SECONDS = 86400


READY = PREFIX + "ready"
GROUP = "workers"


def key(*parts: object) -> str:
    """Return the Redis key of ``parts``, all of ours beginning with the same prefix."""
    return PREFIX + ":".join(str(part) for part in parts)


def session_key(conversation_key: str) -> str:
    """Redis key of a conversation's history, which `Queue.done` writes together with the finish."""
    return key("session", conversation_key)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_escape = json.JSONEncoder(separators=(",", ":")).encode


def dump_json(value: Any) -> str:
    """Return compact JSON; characters stay as they are: escaped, a Chinese one takes six bytes instead of three."""
    dumped = _encode(value)
    if dumped.isascii():
        return dumped
    try:
        dumped.encode()
    except UnicodeEncodeError:
        # A lone surrogate, which is no UTF-8.
        return _escape(value)
    return dumped


def connect(config: RedisConfig, *, timeout: float, connections: int = 64, retries: int = 1) -> redis.Redis:
    """Return a client that answers within ``timeout`` seconds or raises `redis.RedisError`.

    Nothing is opened yet: sockets belong to the process that first uses them, so call this before or after a
    fork as you like. One retry at once, unless ``retries`` says otherwise: every command that we send may be repeated
    without harm. Who finds all ``connections`` taken waits as long for one. Bytes that
    are no UTF-8 are read as surrogates; see `raw_bytes`.
    """
    group = Group(config, timeout=timeout) if config.servers else None
    way: dict[str, Any] = {"host": config.host, "port": config.port}
    if group:
        way = {"connection_class": ToPrimary, "group": group}
    elif config.tls:
        way |= {
            "connection_class": redis.SSLConnection,
            "ssl_ca_certs": config.tls_ca or config.tls_certificate or None,
        }
        if config.tls_certificate:
            way |= {"ssl_certfile": config.tls_certificate, "ssl_keyfile": config.tls_key, "ssl_check_hostname": False}
    pool = Pool(  # type: ignore[no-untyped-call]  # the package has no types here
        **way,
        db=config.db,
        username=config.username or None,
        password=config.password or None,
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, 1.0),
        socket_keepalive=True,
        health_check_interval=30,
        max_connections=connections,
        timeout=timeout,
        protocol=2,
        decode_responses=True,
        encoding_errors="surrogateescape",
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), retries),
    )
    pool.group = group
    return redis.Redis.from_pool(pool)


def raw_bytes(text: str) -> bytes:
    """Return the bytes that were read as ``text``; hiredis does not write surrogates as it reads them."""
    return text.encode("utf-8", "surrogateescape")


def forget_connections(client: redis.Redis) -> None:
    """Close the idle connections: they may lead to a server that is not the right one any more."""
    client.connection_pool.disconnect(inuse_connections=False)


class Script:
    """One of the files in ``lua/``: atomic, loaded on first use and again after Redis forgot it.

    A line ``-- include NAME`` stands for the file of that name. Scripts that do work which frees memory, or that
    workers need for it, carry the flag ``allow-oom``: only intake is refused when memory is full.
    """

    def __init__(self, client: redis.Redis, name: str, *, durable: bool = False) -> None:
        """Bind ``lua/<name>.lua`` to ``client``; what a ``durable`` one writes outlives the loss of a server."""
        self._client = client
        execute: Callable[..., Any] = client.execute_command
        self._execute = execute
        if durable and group_of(client):
            self._execute = lambda *command: durably(client, command)[0]
        self._text = INCLUDE.sub(lambda found: _read(found[1]), _read(name))
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

    def whole(self, keys: Sequence[str], args: Sequence[Argument]) -> list[Argument]:
        """Return a command that also works on a Redis which was never given the script."""
        return ["EVAL", self._text, len(keys), *keys, *args]

    def load(self) -> None:
        """Give it to Redis."""
        self._client.script_load(self._text)


def _read(name: str) -> str:
    return Path(__file__).with_name("lua").joinpath(f"{name}.lua").read_text("utf-8")
