"""The memory that a part of an answer went out."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from clawdbot.copies import durably, group_of
from clawdbot.message import Message
from clawdbot.store import DEDUP_SECONDS, READY, Argument, Script, key

log = logging.getLogger(__name__)

# Names of the parts that are none of an answer's; those are numbered.
FIRST, APOLOGY, PATIENCE = "0", "apology", "patience"
# What is kept beside them: the card that shows an answer, the sign that it is being made.
CARD, SIGN = "card", "sign"
# Values of a mark: it went out; or nobody knows, and it may be sent once more.
SENT, UNSURE = "1", "?"
# How long a worker insists on writing down what happened, should Redis be away just then.
INSIST_SECONDS = 60.0
INSIST_PAUSE = 0.1


def mark_key(message_key: str, part: str) -> str:
    """Redis key of the mark of a part; it is there until the message is settled."""
    return key("sent", message_key, part)


class Sent:
    """Which parts of answers went out."""

    def __init__(self, client: redis.Redis) -> None:
        """Keep it in Redis."""
        self._client = client
        self._script = Script(client, "mark", durable=True)

    def state(self, message: Message, part: str) -> str:
        """Return ``SENT`` or ``UNSURE`` after an earlier attempt, empty if nothing went out."""
        return str(self._client.get(mark_key(message.key, part)) or "")

    def mark(self, message: Message, part: str, fence: Sequence[str], before: str = "") -> Mark:
        """Return a mark.

        Args:
            message: the user's message.
            part: name of the part.
            fence: group, consumer and entry of the lease under which the part is sent.
            before: what `state` said.
        """
        return Mark(self._client, self._script, mark_key(message.key, part), fence, before)


class Mark:
    """Set in the instant between writing a request and reading its response.

    The command is packed and a connection is at hand beforehand, so that `written` is one more write to a socket:
    what is in the kernel's buffers goes out even if the process is killed. Its reply is read later, while the
    platform works. A worker that dies between the two writes leaves the only gap, some microseconds wide.
    """

    def __init__(self, client: redis.Redis, script: Script, name: str, fence: Sequence[str], before: str) -> None:
        """See `Sent.mark`; ``name`` is the Redis key."""
        self._client = client
        self._group = group_of(client)
        self._script = script
        self._name = name
        self._fence = fence
        self._before = before
        self._connection: Any = None  # a redis.Connection, which has no types
        self._pending = self._touched = False
        self._prepare()

    def written(self) -> None:
        """The request is on its way."""
        if self._connection is None or self._pending:
            return
        self._touched = True
        # One system call that does not wait: to ask first whether the socket takes it, as `sendall` does where there is
        # a time limit, costs another turn of Python's lock.
        with contextlib.suppress(OSError):
            self._pending = os.write(self._connection._sock.fileno(), self._packed) == len(self._packed)
        if not self._pending:
            # `sure` will do it.
            self._connection.disconnect()
            self.close()

    def refused(self) -> None:
        """The platform refused the request: it had no effect, and another one may follow."""
        self.retract()
        self._prepare()

    def retract(self) -> None:
        """It did not go out."""
        self.close()
        if not self._touched:
            return
        if self._before:
            self._insist(lambda: self._set(self._before))
        else:
            self._insist(lambda: durably(self._client, ["DEL", self._name]))
        self._touched = False

    def unsure(self) -> None:
        """It was written, and nobody can know whether the platform acted on it."""
        self.close()
        self._insist(lambda: self._set(UNSURE))

    def sure(self) -> None:
        """It went out for certain."""
        if not self.close():
            self._insist(lambda: self._set(SENT))

    def close(self) -> bool:
        """Give the connection back; return True if Redis confirmed the mark."""
        connection, self._connection = self._connection, None
        if connection is None:
            return False
        try:
            if self._pending:
                connection.read_response()
                if self._group:
                    self._group.check(connection, [connection.read_response() for _ in self._group.proof])
            return self._pending
        except redis.RedisError:
            connection.disconnect()
            return False
        finally:
            self._pending = False
            self._client.connection_pool.release(connection)

    def _arguments(self, value: str) -> tuple[list[str], list[Argument]]:
        return [self._name, READY], [value, *self._fence, DEDUP_SECONDS]

    def _set(self, value: str) -> None:
        self._script(*self._arguments(value))

    def _prepare(self) -> None:
        try:
            connection: Any = self._client.connection_pool.get_connection()
        except redis.RedisError:
            return
        proof = self._group.proof if self._group else []
        self._packed = b"".join(connection.pack_commands([self._script.whole(*self._arguments(SENT)), *proof]))
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
