"""Group commit: the callbacks that arrive together go to Redis, and to its disk, together.

With ``appendfsync always`` each round trip costs a wait for the disk. The first thread to come leads: it sends
what is there in one pipeline. Whoever comes meanwhile waits; when the leader is back, one of them leads the next
round. A lone callback is sent at once.

A Redis that restarts is waited for. One that has not come back in time is asked by one thread only, and nobody else
waits for that: threads that do are missing for everything else, and the balancer takes a node that is silent for dead.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

import redis
from redis.exceptions import NoScriptError

from clawdbot.copies import exchange, group_of
from clawdbot.engine.queue import Queue
from clawdbot.message import Message
from clawdbot.store import Argument

MOST_AT_ONCE = 64
# Seconds between two tries.
PAUSE = 0.05


class Accepting(Protocol):
    """What takes messages into a queue."""

    def accept(self, message: Message, replay_guard: str = "") -> str:
        """See `Queue.accept`."""


class _Ticket:
    """One message on its way. The lock is held until there is a result, or the lead for the next round."""

    __slots__ = ("came", "command", "done", "leads", "result")

    def __init__(self, command: list[Argument]) -> None:
        self.came = time.monotonic()
        self.command = command
        self.done = threading.Lock()
        self.done.acquire()
        self.leads = False
        self.result: object = None


class Intake:
    """Accepts messages for the threads of one process."""

    def __init__(self, queue: Queue, *, patience: float, attempt: float = 0.0) -> None:
        """Nobody waits longer than ``patience`` seconds, of which ``attempt`` is the last one that is begun."""
        self._queue = queue
        self._group = group_of(queue.client)
        self._patience = patience
        self._attempt = attempt
        self._last_attempt = 0.0  # when it may begin at the latest
        self._failed = False  # the last round
        self._away = False
        self._lock = threading.Lock()
        self._waiting: list[_Ticket] = []
        self._led = False
        self._connection: Any = None  # a redis.Connection, which has no types; opened after the fork

    def accept(self, message: Message, replay_guard: str = "") -> str:
        """See `Queue.accept`."""
        ticket = _Ticket(self._queue.accept_command(message, replay_guard))
        with self._lock:
            if self._led and self._away:
                raise redis.ConnectionError("Redis is away")
            self._waiting.append(ticket)
            ticket.leads = not self._led
            self._led = True
        if not ticket.leads:
            self._wait(ticket)
        if ticket.leads:
            self._lead(ticket)
        if isinstance(ticket.result, Exception):
            raise ticket.result
        return str(ticket.result)

    def _wait(self, ticket: _Ticket) -> None:
        """Wait for a result or the lead."""
        if ticket.done.acquire(timeout=self._patience):
            return
        with self._lock:
            # Who got the lead at the last moment must take it: others wait for that.
            if ticket.leads:
                return
            if ticket in self._waiting:
                self._waiting.remove(ticket)
        raise redis.TimeoutError("the round before this one takes too long")

    def _lead(self, own: _Ticket) -> None:
        """Send what waits, our own message included, and hand the lead over."""
        with self._lock:
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            self._last_attempt = 0.0 if self._away else own.came + self._patience - self._attempt
        failure = None
        try:
            results = self._send([ticket.command for ticket in batch])
        except Exception as error:  # whatever it is, those who wait must hear of it
            failure = error
        with self._lock:
            failed = isinstance(failure, redis.RedisError)
            # One that is silent may be slow; one that refuses, or is silent twice, is away.
            self._away = failed and (self._failed or not isinstance(failure, redis.TimeoutError))
            self._failed = failed
            if self._away:
                batch, self._waiting = [*batch, *self._waiting], []
            if failure:
                results = [failure] * len(batch)
            successor = self._waiting[0] if self._waiting else None
            self._led = successor is not None
            if successor:
                successor.leads = True
                successor.done.release()
        for ticket, result in zip(batch, results, strict=True):
            ticket.result = result
            if not ticket.leads:
                ticket.done.release()

    def _send(self, commands: list[list[Argument]]) -> list[object]:
        results = self._pipeline(commands)
        if any(isinstance(result, NoScriptError) for result in results):
            self._queue.load_scripts()
            # Those that went through are duplicates now, which gets the same answer.
            results = self._pipeline(commands)
        return results

    def _pipeline(self, commands: list[list[Argument]]) -> list[object]:
        while True:
            try:
                return self._exchange(commands)
            except redis.RedisError:
                # Redis may restart, or have been restarted since the last round. Sending twice accepts once.
                if time.monotonic() > self._last_attempt:
                    raise
            time.sleep(PAUSE)

    def _exchange(self, commands: list[list[Argument]]) -> list[object]:
        """Send all, then read all, over a connection that only the leader uses; a third of a pipeline's cost."""
        if self._connection is None:
            self._connection = self._queue.client.connection_pool.get_connection()
        connection = self._connection
        proof = self._group.proof if self._group else []
        try:
            replies = exchange(connection, [*commands, *proof])
            if self._group:
                self._group.check(connection, replies[len(commands) :])
            return replies[: len(commands)]
        except redis.RedisError:
            connection.disconnect()
            raise
