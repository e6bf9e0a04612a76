"""The queue: accepted once, in order, answered once.

State in Redis, changed only by the scripts in ``lua/``, each of which is atomic:

- ``conv:<conversation>``  list of waiting messages; the head is the one in work
- ``ready``                stream with exactly one entry per conversation that has messages and is not delayed;
                           a pending entry is the lease on its conversation
- ``delayed``              sorted set of conversations that wait for another attempt
- ``attempts``             attempts spent on each conversation's head
- ``waiting``              sorted set of message keys by the time they were accepted: depth and age
- ``dead``                 hash of dead letters by message key
- ``dedup:<message>``      24 hours long the memory of what was accepted
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import redis

from clawdbot.clock import now_ms
from clawdbot.message import Message
from clawdbot.store import DEDUP_SECONDS, Argument, Script, key, session_key

READY = key("ready")
GROUP = "workers"
DELAYED, ATTEMPTS, WAITING, DEAD = key("delayed"), key("attempts"), key("waiting"), key("dead")

# A signature that does not cover the body (DingTalk's) may serve several messages, but only this long after its
# first use: two messages may carry the same millisecond, while a captured signature comes later.
REPLAY_GRACE_MS = 10_000
REPLAY_GUARD_SECONDS = 2 * 3600 + 600
IDLE_CONSUMER_MS = 24 * 3600 * 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one conversation, as long as it is renewed."""

    entry: str
    conversation: str


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up.

    Attributes:
        message: the message.
        reason: why the last attempt failed.
        died_ms: when, Unix time in milliseconds.
        attempts: how often it was tried.
    """

    message: Message
    reason: str
    died_ms: int
    attempts: int

    def dump(self) -> str:
        """Serialise."""
        fields = {"message": self.message.dump(), "reason": self.reason}
        return json.dumps(fields | {"died_ms": self.died_ms, "attempts": self.attempts})

    @classmethod
    def load(cls, dumped: str) -> DeadLetter:
        """Read back what `dump` wrote."""
        fields = json.loads(dumped)
        return cls(Message.load(fields.pop("message")), **fields)


@dataclasses.dataclass(frozen=True, slots=True)
class Depth:
    """How much waits: messages, their greatest age in seconds, dead letters, delayed conversations."""

    messages: int
    oldest_seconds: float
    dead: int
    delayed: int


def _conversation(name: str) -> str:
    return key("conv", name)


class Queue:
    """What web, worker and command line do with the queue. Any number of each may share it."""

    def __init__(self, client: redis.Redis, consumer: str = "") -> None:
        """Use ``client``; ``consumer`` names a worker process, others leave it empty."""
        self.client = client
        self.consumer = consumer
        self._accept = Script(client, "accept")
        self._begin = Script(client, "begin")
        self._settle = Script(client, "settle")
        self._renew = Script(client, "renew")
        self._promote = Script(client, "promote")
        self._revive = Script(client, "revive")
        self._retire = Script(client, "retire")

    # Intake

    def accept(self, message: Message, replay_guard: str = "") -> str:
        """Queue ``message`` unless it is known; on return it is on disk.

        Args:
            message: what to queue.
            replay_guard: what identifies a signature that does not cover the body.

        Returns:
            ``accepted``, ``duplicate`` or ``replay``.

        Raises:
            redis.RedisError: nothing is promised; the platform must be told 503.
        """
        return str(self._accept(*self._accept_arguments(message, replay_guard)))

    def accept_command(self, message: Message, replay_guard: str) -> list[Argument]:
        """Return the command behind `accept`, for `Intake`."""
        return self._accept.command(*self._accept_arguments(message, replay_guard))

    def load_scripts(self) -> None:
        """Give Redis the script behind `accept_command`."""
        self._accept.load()

    def _accept_arguments(self, message: Message, replay_guard: str) -> tuple[list[str], list[Argument]]:
        guard = key("replay", replay_guard) if replay_guard else ""
        keys = [key("dedup", message.key), _conversation(message.conversation_key), READY, WAITING, guard]
        args: list[Argument] = [message.key, message.dump(), message.conversation_key, now_ms()]
        return keys, [*args, DEDUP_SECONDS, REPLAY_GRACE_MS, REPLAY_GUARD_SECONDS]

    # Work

    def prepare(self) -> None:
        """Create the consumer group if it is not there yet."""
        try:
            self.client.xgroup_create(READY, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def take(self, count: int, wait_ms: int) -> list[Lease]:
        """Lease up to ``count`` conversations, waiting up to ``wait_ms`` for the first."""
        try:
            reply: Any = self.client.xreadgroup(GROUP, self.consumer, {READY: ">"}, count=count, block=wait_ms)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.prepare()
            return []
        if not reply:
            return []
        return _leases(reply[0][1])

    def reap(self, count: int, lease_ms: int) -> list[Lease]:
        """Take over up to ``count`` leases that nobody renewed for ``lease_ms``."""
        reply = self.client.xautoclaim(READY, GROUP, self.consumer, lease_ms, "0-0", count=count)
        return _leases(reply[1])

    def renew(self, entries: Iterable[str]) -> set[str]:
        """Renew leases; return the entries that belong to somebody else by now."""
        return set(self._renew([READY], [GROUP, self.consumer, *entries]))

    def owns(self, lease: Lease) -> bool:
        """Whether ``lease`` is still ours."""
        found = self.client.xpending_range(READY, GROUP, lease.entry, lease.entry, 1, self.consumer)
        return bool(found)

    def promote(self) -> int:
        """Announce the delayed conversations whose time has come; return how many."""
        return int(self._promote([READY, DELAYED], [now_ms()]))

    def begin(self, lease: Lease) -> tuple[Message, int] | None:
        """Return the conversation's head and the number of this attempt, None if there is nothing to do."""
        keys = [READY, _conversation(lease.conversation), ATTEMPTS]
        found = self._begin(keys, [GROUP, self.consumer, lease.entry, lease.conversation])
        return None if found is None else (Message.load(found[0]), int(found[1]))

    def done(self, lease: Lease, message: Message, session: str | None, ttl: int) -> bool:
        """Remove the answered head; False if the lease was lost.

        ``session`` replaces the conversation's state for ``ttl`` seconds: None leaves it, "" forgets it.
        """
        value = "" if session is None else session or "-"
        return self._end(lease, message, "done", value, ttl)

    def defer(self, lease: Lease, message: Message, seconds: float, *, counts: bool = True) -> bool:
        """Let the conversation wait for ``seconds`` before its head is tried again.

        ``counts`` says whether this was an attempt or only an early knock on the door.
        """
        return self._end(lease, message, "defer" if counts else "wait", str(now_ms() + int(seconds * 1000)))

    def bury(self, lease: Lease, letter: DeadLetter) -> bool:
        """Move the head to the dead letters."""
        return self._end(lease, letter.message, "dead", letter.dump())

    def _end(self, lease: Lease, message: Message, verb: str, value: str, ttl: int = 1) -> bool:
        name = lease.conversation
        keys = [READY, _conversation(name), ATTEMPTS, WAITING, DELAYED, DEAD, session_key(name)]
        args: list[Argument] = [GROUP, self.consumer, lease.entry, name, message.key, verb, value, ttl]
        return bool(self._settle(keys, args))

    def retire_idle_consumers(self) -> None:
        """Remove the names of workers that ended long ago and hold nothing."""
        for consumer in self.client.xinfo_consumers(READY, GROUP):
            if consumer["idle"] > IDLE_CONSUMER_MS:
                self._retire([READY], [GROUP, consumer["name"]])

    def retire(self) -> None:
        """Remove our own name, if we hold nothing any more."""
        self._retire([READY], [GROUP, self.consumer])

    # Looking after it

    def depth(self) -> Depth:
        """Return how much waits."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.zcard(WAITING)
            pipe.zrange(WAITING, 0, 0, withscores=True)
            pipe.hlen(DEAD)
            pipe.zcard(DELAYED)
            messages, oldest, dead, delayed = pipe.execute()
        age = (now_ms() - float(oldest[0][1])) / 1000 if oldest else 0.0
        return Depth(messages, max(age, 0.0), dead, delayed)

    def dead(self) -> list[DeadLetter]:
        """Return all dead letters, oldest first."""
        letters = [DeadLetter.load(str(value)) for value in self.client.hgetall(DEAD).values()]
        return sorted(letters, key=lambda letter: letter.died_ms)

    def revive(self, letter: DeadLetter) -> bool:
        """Queue a dead letter again; False if somebody else did or dropped it."""
        message = letter.message
        keys = [DEAD, _conversation(message.conversation_key), READY, WAITING]
        args: list[Argument] = [message.key, message.dump(), message.conversation_key, now_ms()]
        return bool(self._revive(keys, args))

    def drop(self, letter: DeadLetter) -> bool:
        """Forget a dead letter; False if it was gone already."""
        return bool(self.client.hdel(DEAD, letter.message.key))


def _leases(entries: Iterable[tuple[Any, Any]]) -> list[Lease]:
    return [Lease(entry, fields["conversation"]) for entry, fields in entries if fields]
