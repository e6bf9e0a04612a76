"""The queue: accepted once, in order, answered once.

State in Redis, changed only by the scripts in ``lua/``, each of which is atomic:

- ``conv:<conversation>``  list of waiting messages; the head is the one in work
- ``ready``                stream with exactly one entry per conversation that has messages and is not delayed;
                           a pending entry is the lease on its conversation
- ``delayed``              sorted set of conversations that wait for another attempt
- ``attempts``             attempts on each conversation's head that ended without any result: their workers died
- ``tries``                which head was begun when, and how often it failed since
- ``waiting``              sorted set of message keys by the time they were accepted: depth and age
- ``dead``                 hash of dead letters by message key; ``dead-order`` has the keys by time
- ``dedup:<message>``      what was accepted, for 24 hours; ``known`` lists them, oldest first
- ``replay:<signature>``   what was used to sign, for two hours; ``replays`` lists them, oldest first
- ``answer:<message>``     what was decided, and ``sent:<message>:<part>`` what went out, until the message is settled;
                           ``sent:<message>:card`` is the card that shows the answer, ``sent:<message>:sign`` the sign
                           that it is being made

None of these has a time to live while it is needed, so a full memory evicts none of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis

from clawdbot.answers import Answer, answer_key
from clawdbot.clock import now_ms
from clawdbot.copies import durably, moves
from clawdbot.errors import LeaseLost
from clawdbot.message import ORDER_DIGITS, Message, Unreadable
from clawdbot.sent import APOLOGY, CARD, PATIENCE, SIGN, mark_key
from clawdbot.sites import Role, Sites
from clawdbot.store import DEDUP_SECONDS, GROUP, READY, Argument, Script, dump_json, key, raw_bytes, session_key

DELAYED, ATTEMPTS, TRIES, WAITING = key("delayed"), key("attempts"), key("tries"), key("waiting")
DEAD, DEAD_ORDER = key("dead"), key("dead-order")
KNOWN, REPLAYS = key("known"), key("replays")

# A signature that does not cover the body (DingTalk's) may serve several messages, but only this long after its
# first use: two messages may carry the same millisecond, while a captured signature comes later.
REPLAY_GRACE_MS = 10_000
REPLAY_GUARD_SECONDS = 2 * 3600 + 600
IDLE_CONSUMER_MS = 24 * 3600 * 1000
# Dead letters hold users' words: as many, and as long, as an operator may want to look after.
MOST_DEAD = 10_000
DEAD_SECONDS = 30 * 86400
# What one script forgets at once, and what one read of the dead letters takes.
PAGE = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one conversation, as long as it is renewed."""

    entry: str
    conversation: str


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A message that a node's disk kept while Redis could not take it; see `clawdbot.engine.spool`.

    Attributes:
        id: its number on that disk.
        written: when its user wrote it, as the beginning of ``dumped`` has it.
        key: key of the message.
        conversation: key of its conversation.
        dumped: the message as it is in the queue.
        guard: what identifies a signature that does not cover the body, or empty.
        arrived_ms: when it came to the node, Unix time in milliseconds.
    """

    id: int
    written: str
    key: str
    conversation: str
    dumped: str
    guard: str
    arrived_ms: int


@dataclasses.dataclass(frozen=True, slots=True)
class Begun:
    """The head of a leased conversation.

    Attributes:
        dumped: the message as it is in the queue.
        attempt: number of the attempt since the last one that had any result.
        failures: how often it failed so far.
        age: seconds since its first attempt.
    """

    dumped: str
    attempt: int
    failures: int
    age: float

    @property
    def first(self) -> bool:
        """Whether nobody has tried before."""
        return self.age == 0

    def message(self) -> Message:
        """Return the message.

        Raises:
            Unreadable: it is none.
        """
        return Message.load(self.dumped)


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up.

    Attributes:
        key: key of the message; one that could not be read gets a name of its own.
        conversation: key of its conversation.
        dumped: the message as it was in the queue, whatever that is.
        reason: why it was given up.
        died_ms: when, Unix time in milliseconds.
        attempts: how often it was tried.
        answer: the kept answer as it was in Redis, if it was that which could not be read.
    """

    key: str
    conversation: str
    dumped: str
    reason: str
    died_ms: int
    attempts: int
    answer: str = ""

    @classmethod
    def of(cls, message: Message, begun: Begun, reason: str, answer: str = "") -> DeadLetter:
        """Return the letter of a message that is given up now; ``answer`` is one that could not be read."""
        attempts = begun.failures + begun.attempt
        return cls(message.key, message.conversation_key, begun.dumped, reason, now_ms(), attempts, answer)

    @classmethod
    def unreadable(cls, lease: Lease, begun: Begun, reason: str) -> DeadLetter:
        """Return the letter of what could not be read: its bytes, under its key if that can be found."""
        platform = lease.conversation.partition(":")[0]
        found = re.search(r'"id": ?"([!-~]{1,256}?)"', begun.dumped)
        digest = hashlib.sha256(raw_bytes(begun.dumped)).hexdigest()[:12]
        name = f"{platform}:{found[1]}" if found else f"{lease.conversation}#{digest}"
        return cls(name, lease.conversation, begun.dumped, f"cannot be read: {reason}", now_ms(), begun.attempt)

    @property
    def message(self) -> Message | None:
        """The message, None if it cannot be read."""
        with contextlib.suppress(Unreadable):
            return Message.load(self.dumped)
        return None

    @property
    def order(self) -> tuple[str, int]:
        """Sorts letters by when their users wrote."""
        return self.dumped[:ORDER_DIGITS], self.died_ms

    def dump(self) -> str:
        """Serialise; readers ignore what they do not know, except those of the first release, hence so little."""
        fields: dict[str, Any] = {"message": self.dumped, "reason": self.reason}
        if self.message is None:
            fields["conversation"] = self.conversation
        if self.answer:
            fields["answer"] = self.answer
        return dump_json(fields | {"died_ms": self.died_ms, "attempts": self.attempts})

    @classmethod
    def load(cls, name: str, dumped: str) -> DeadLetter:
        """Read back what `dump` wrote; what cannot be read is a letter as well."""
        try:
            fields = json.loads(dumped)
            raw = str(fields["message"])
            conversation = str(fields.get("conversation", "")) or Message.load(raw).conversation_key
            reason, died, attempts = str(fields["reason"]), int(fields["died_ms"]), int(fields["attempts"])
            return cls(name, conversation, raw, reason, died, attempts, str(fields.get("answer", "")))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, Unreadable):
            return cls(name, "", dumped, "this letter cannot be read", 0, 0)


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
        self._accept = Script(client, "accept", durable=True)
        # With the lease: nobody else shall get it because a server dies.
        self._begin = Script(client, "begin", durable=True)
        self._keep = Script(client, "keep", durable=True)
        self._settle = Script(client, "settle", durable=True)
        self._prepare = Script(client, "prepare", durable=True)
        self._renew = Script(client, "renew")
        self._promote = Script(client, "promote")
        self._revive = Script(client, "revive", durable=True)
        self._retire = Script(client, "retire")
        self._forget = Script(client, "forget")
        self._tidy = Script(client, "tidy")
        self._reaped = "0-0"

    # Intake

    def accept(self, message: Message, replay_guard: str = "") -> str:
        """Queue ``message`` unless it is known; on return it is on disk.

        Args:
            message: what to queue.
            replay_guard: what identifies a signature that does not cover the body.

        Returns:
            ``accepted``, ``duplicate`` or ``replay``.

        Raises:
            redis.OutOfMemoryError: memory is full of what must not be forgotten.
            redis.RedisError: nothing is promised; the platform must be told 503.
        """
        return str(self._accept(*self._accept_message(message, replay_guard)))

    def accept_command(self, message: Message, replay_guard: str) -> list[Argument]:
        """Return the command behind `accept`, for `Intake`."""
        return self._accept.command(*self._accept_message(message, replay_guard))

    def load_scripts(self) -> None:
        """Give Redis the script behind `accept_command`."""
        self._accept.load()

    def hand_over(self, messages: Sequence[Kept], now: int) -> list[str]:
        """Queue what a disk kept, all of it or nothing: no worker begins the second message before the first is there.

        Args:
            messages: in the order in which their users wrote.
            now: by the clock that knows when they came, Unix time in milliseconds.

        Returns:
            For each what `accept` says.
        """
        self.load_scripts()
        commands = []
        for kept in messages:
            age = max(0, now - kept.arrived_ms)
            accepted = self._accept_arguments(kept.key, kept.conversation, kept.dumped, kept.guard, age)
            commands.append(self._accept.command(*accepted))
        results = durably(self.client, ["MULTI"], *commands, ["EXEC"])[-1]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return [str(result) for result in results]

    def _accept_message(self, message: Message, guard: str) -> tuple[list[str], list[Argument]]:
        return self._accept_arguments(message.key, message.conversation_key, message.dump(), guard, 0)

    def _accept_arguments(
        self, name: str, conversation: str, dumped: str, replay_guard: str, age_ms: int
    ) -> tuple[list[str], list[Argument]]:
        guard = key("replay", replay_guard) if replay_guard else ""
        keys = [key("dedup", name), _conversation(conversation), READY, WAITING, ATTEMPTS, KNOWN, guard, REPLAYS]
        return keys, [name, dumped, conversation, REPLAY_GRACE_MS, replay_guard, age_ms]

    # Work

    def prepare(self) -> None:
        """Create the consumer group if it is not there yet."""
        self._prepare([READY], [GROUP])

    @property
    def moves(self) -> int:
        """How often what is behind the queue was another Redis than before."""
        return moves(self.client)

    def take(self, count: int, wait_ms: int) -> list[Lease]:
        """Lease up to ``count`` conversations, waiting up to ``wait_ms`` for the first."""
        reply: Any = self.client.xreadgroup(GROUP, self.consumer, {READY: ">"}, count=count, block=wait_ms)
        return _leases(reply[0][1]) if reply else []

    def reap(self, count: int, lease_ms: int) -> list[Lease]:
        """Take over up to ``count`` leases that nobody renewed for ``lease_ms``, however many live ones there are."""
        leases: list[Lease] = []
        while len(leases) < count:
            left = count - len(leases)
            # One call looks at ten times as many entries and says where to go on.
            reply = self.client.xautoclaim(READY, GROUP, self.consumer, lease_ms, self._reaped, count=left)
            self._reaped = str(reply[0])
            leases += _leases(reply[1])
            if self._reaped == "0-0":
                break
        return leases

    def renew(self, entries: Iterable[str]) -> set[str]:
        """Renew leases; return the entries that belong to somebody else by now."""
        return set(self._renew([READY], [GROUP, self.consumer, *entries]))

    def owns(self, lease: Lease) -> bool:
        """Whether ``lease`` is still ours. A Redis that came back empty knows of none."""
        try:
            # A Redis that was frozen, and replaced meanwhile, would say so for ever: what it says has no copies.
            entry = lease.entry
            [found] = durably(self.client, ["XPENDING", READY, GROUP, entry, entry, 1, self.consumer])
            return bool(found)
        except redis.ResponseError as error:
            if str(error).startswith("NOGROUP"):
                return False
            raise

    def promote(self) -> int:
        """Announce the delayed conversations whose time has come; return how many."""
        return int(self._promote([READY, DELAYED], []))

    def begin(self, lease: Lease) -> Begun | None:
        """Return the conversation's head, None if there is nothing to do."""
        keys = [READY, _conversation(lease.conversation), ATTEMPTS, TRIES]
        found = self._begin(keys, [GROUP, self.consumer, lease.entry, lease.conversation])
        return None if found is None else Begun(str(found[0]), int(found[1]), int(found[2]), int(found[3]) / 1000)

    def keep(self, lease: Lease, message: Message, answer: Answer) -> bool:
        """Keep what was decided until the message is settled; False if the lease was lost."""
        keys = [answer_key(message.key), READY]
        return bool(self._keep(keys, [answer.dump(), GROUP, self.consumer, lease.entry]))

    def done(self, lease: Lease, message: Message, session: str | None, ttl: int) -> bool:
        """Remove the answered head; False if the lease was lost.

        ``session`` replaces the conversation's state for ``ttl`` seconds: None leaves it, "" forgets it.
        """
        value = "" if session is None else session or "-"
        return self._end(lease, message.key, "done", value, ttl)

    def defer(self, lease: Lease, name: str, seconds: float, *, failed: bool = True) -> bool:
        """Let the conversation wait for ``seconds`` before its head is tried again; False if the lease was lost.

        ``failed`` says whether this was a failure or only an early knock on the door.
        """
        return self._end(lease, name, "defer" if failed else "wait", int(seconds * 1000))

    def bury(self, lease: Lease, letter: DeadLetter) -> bool:
        """Move the head to the dead letters; False if the lease was lost."""
        return self._end(lease, letter.key, "dead", letter.dump())

    def _end(self, lease: Lease, name: str, verb: str, value: str | int, ttl: int = DEDUP_SECONDS) -> bool:
        conversation = lease.conversation
        keys = [READY, _conversation(conversation), ATTEMPTS, WAITING, DELAYED, DEAD, DEAD_ORDER]
        keys += [session_key(conversation), TRIES, answer_key(name)]
        args: list[Argument] = [GROUP, self.consumer, lease.entry, conversation, name, verb, value, ttl]
        return bool(self._settle(keys, [*args, mark_key(name, ""), APOLOGY, PATIENCE, CARD, SIGN]))

    def retire_idle_consumers(self) -> None:
        """Remove the names of workers that ended long ago and hold nothing."""
        for consumer in self.client.xinfo_consumers(READY, GROUP):
            if consumer["idle"] > IDLE_CONSUMER_MS:
                self._retire([READY], [GROUP, consumer["name"]])

    def retire(self) -> None:
        """Remove our own name, if we hold nothing any more."""
        self._retire([READY], [GROUP, self.consumer])

    # Looking after it

    def tidy(self) -> None:
        """Forget what was remembered long enough, and dead letters that are too old or too many."""
        for names, kind, seconds in ((KNOWN, "dedup", DEDUP_SECONDS), (REPLAYS, "replay", REPLAY_GUARD_SECONDS)):
            while self._forget([names], [key(kind, ""), seconds * 1000, PAGE]) == PAGE:
                pass
        self._adopt()
        self._tidy([DEAD, DEAD_ORDER, WAITING, READY, DELAYED], [MOST_DEAD, DEAD_SECONDS * 1000])

    def _adopt(self) -> None:
        """The first release keeps no order of the dead: add its letters, and leave those out that it dropped."""
        if self.client.hlen(DEAD) == self.client.zcard(DEAD_ORDER):
            return
        for name, dumped in self.client.hscan_iter(DEAD, count=PAGE):
            self.client.zadd(DEAD_ORDER, {name: DeadLetter.load(name, dumped).died_ms or now_ms()}, nx=True)
        for name, _ in self.client.zscan_iter(DEAD_ORDER, count=PAGE):
            if not self.client.hexists(DEAD, name):
                self.client.zrem(DEAD_ORDER, name)

    def depth(self) -> Depth:
        """Return how much waits."""
        with self.client.pipeline(transaction=False) as pipe:
            pipe.zcard(WAITING)
            pipe.zrange(WAITING, 0, 0, withscores=True)
            pipe.hlen(DEAD)
            pipe.zcard(DELAYED)
            pipe.time()
            messages, oldest, dead, delayed, (seconds, microseconds) = pipe.execute()
        age = seconds + microseconds / 1e6 - float(oldest[0][1]) / 1000 if oldest else 0.0
        return Depth(messages, max(age, 0.0), dead, delayed)

    def dead(self) -> Iterator[DeadLetter]:
        """Yield the dead letters, oldest first; a page of them is in memory at a time."""
        self._adopt()
        first = 0
        while names := [str(name) for name in self.client.zrange(DEAD_ORDER, first, first + PAGE - 1)]:
            for name, dumped in zip(names, self.client.hmget(DEAD, names), strict=True):
                if dumped is not None:
                    yield DeadLetter.load(name, str(dumped))
            first += PAGE

    def find_dead(self, name: str) -> DeadLetter | None:
        """Return the dead letter of that key, None if there is none."""
        dumped = self.client.hget(DEAD, name)
        return None if dumped is None else DeadLetter.load(name, str(dumped))

    def revive(self, letters: Iterable[DeadLetter]) -> int:
        """Queue dead letters again in the order in which their users wrote.

        Returns:
            How many; those that somebody else revived or dropped are left out, and letters without a conversation.
        """
        count = 0
        for letter in sorted(letters, key=lambda letter: letter.order):
            if not letter.conversation:
                continue
            keys = [DEAD, DEAD_ORDER, _conversation(letter.conversation), READY, WAITING, ATTEMPTS]
            # Should it be given up again, its user shall hear of it again.
            keys += [mark_key(letter.key, part) for part in (APOLOGY, PATIENCE, CARD, SIGN)]
            if letter.answer:
                keys.append(answer_key(letter.key))
            count += int(self._revive(keys, [letter.key, raw_bytes(letter.dumped), letter.conversation]))
        return count

    def drop(self, letters: Iterable[DeadLetter]) -> int:
        """Forget dead letters; return how many, without those that are gone already."""
        count = 0
        for letter in letters:
            count += self.client.hdel(DEAD, letter.key)
            self.client.zrem(DEAD_ORDER, letter.key)
        return count


class Hold:
    """A lease in a worker's hands: what may be done only as long as it is ours."""

    def __init__(self, queue: Queue, lease: Lease, sites: Sites | None = None) -> None:
        """Work under ``lease``, at one of ``sites`` if there are several."""
        self._queue = queue
        self._lease = lease
        self._sites = sites
        self.fence = (GROUP, queue.consumer, lease.entry)

    def check(self) -> None:
        """Return if the lease is ours.

        Raises:
            LeaseLost: another worker took over, or another site.
        """
        if self._sites and self._sites.role not in (Role.ACTIVE, Role.LEAVING):
            raise LeaseLost("another site answers now")
        if not self._queue.owns(self._lease):
            raise LeaseLost("the lease belongs to another worker")

    def keep(self, message: Message, answer: Answer) -> None:
        """Keep what was decided.

        Raises:
            LeaseLost: another worker took over.
        """
        if not self._queue.keep(self._lease, message, answer):
            raise LeaseLost("the lease belongs to another worker")


def _leases(entries: Iterable[tuple[Any, Any]]) -> list[Lease]:
    # One that names no conversation is nobody's; `begin` clears it away.
    return [Lease(entry, fields.get("conversation", "")) for entry, fields in entries if fields]
