"""The memory that a part of an answer went out, where the platform has no idempotency key of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import redis

from clawdbot.message import Message
from clawdbot.store import DEDUP_SECONDS, key

log = logging.getLogger(__name__)

# How long a worker insists on writing down what happened, should Redis be away just then.
INSIST_SECONDS = 60.0
INSIST_PAUSE = 0.1


class Sent:
    """Which parts of answers went out."""

    def __init__(self, client: redis.Redis) -> None:
        """Keep it in Redis."""
        self._client = client

    def was(self, message: Message, part: str) -> bool:
        """Whether a part went out at an earlier attempt."""
        return bool(self._client.exists(key("sent", message.key, part)))

    def mark(self, message: Message, part: str) -> Mark:
        """Return the mark that says so."""
        return Mark(self._client, key("sent", message.key, part))


class Mark:
    """Set in the instant between writing a request and reading its response.

    The command is packed and a connection is at hand beforehand, so that `written` is one more write to a socket:
    what is in the kernel's buffers goes out even if the process is killed. Its reply is read later, while the
    platform works. A worker that dies between the two writes leaves the only gap, some microseconds wide.
    """

    def __init__(self, client: redis.Redis, name: str) -> None:
        """``name`` is the Redis key."""
        self._client = client
        self._name = name
        self._connection: Any = None  # a redis.Connection, which has no types
        self._pending = self._touched = False
        self._prepare()

    def written(self) -> None:
        """The request is on its way."""
        if self._connection is None or self._pending:
            return
        self._touched = True
        try:
            self._connection.send_packed_command(self._packed, check_health=False)
            self._pending = True
        except redis.RedisError:
            # `sure` will do it.
            self.close()

    def refused(self) -> None:
        """The platform refused the request: it had no effect, and another one may follow."""
        self.retract()
        self._prepare()

    def retract(self) -> None:
        """It did not go out."""
        self.close()
        if self._touched:
            self._insist(lambda: self._client.delete(self._name))
            self._touched = False

    def sure(self) -> None:
        """It went out for certain."""
        if not self.close():
            self._insist(lambda: self._client.set(self._name, 1, ex=DEDUP_SECONDS))

    def close(self) -> bool:
        """Give the connection back; return True if Redis confirmed the mark."""
        connection, self._connection = self._connection, None
        if connection is None:
            return False
        try:
            if self._pending:
                connection.read_response()
            return self._pending
        except redis.RedisError:
            connection.disconnect()
            return False
        finally:
            self._pending = False
            self._client.connection_pool.release(connection)

    def _prepare(self) -> None:
        try:
            connection: Any = self._client.connection_pool.get_connection()
        except redis.RedisError:
            return
        self._packed = connection.pack_command("SET", self._name, 1, "EX", DEDUP_SECONDS)
        self._connection = connection

    def _insist(self, write: Callable[[], object]) -> None:
        end = time.monotonic() + INSIST_SECONDS
        while True:
            try:
                write()
                return
            except redis.RedisError as error:
                if time.monotonic() > end:
                    raise
                log.warning("Redis must hear of a sent part", extra={"fields": {"error": type(error).__name__}})
                time.sleep(INSIST_PAUSE)
