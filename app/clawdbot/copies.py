"""Several Redis servers as one: who is the primary, and whether what it took outlives it.

Sentinel names the primary. What was written counts when all servers that copy it have it, one at least, and when the
primary still was one afterwards. All, since whichever of them is promoted in that instant must not lack it. And a
server that was frozen or cut off takes writes that nobody will ever see, and for a moment even has replicas that are
about to leave it. Whoever is missing among its replicas is therefore asked whether it was promoted.
"""

from __future__ import annotations

import contextlib
import ipaddress
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from clawdbot.config import RedisConfig

Address = tuple[str, int]

# A server that does not answer within this many seconds is asked no longer.
ASK_SECONDS = 0.2
# So long it counts that a server was no primary: less than a primary has to be silent before another one is promoted.
ASKED_SECONDS = 2.0
# How long another server gets to have a copy.
MOST_WAIT = 1.0
FENCE = "clawdbot:fence"


class NotCopied(redis.ConnectionError):
    """What was written may be lost with its server, or is at one that is no primary any more. Write it again."""


class Group:
    """The servers of ``config``, for the connections of one pool."""

    def __init__(self, config: RedisConfig, *, timeout: float) -> None:
        """Nothing is opened yet; a connection gets ``timeout`` seconds for an answer."""
        self._name = config.primary
        self._servers = frozenset(_plain(each) for each in config.servers)
        ask: dict[str, Any] = {
            "socket_timeout": min(ASK_SECONDS, timeout / 2),
            "socket_connect_timeout": min(ASK_SECONDS, timeout / 2),
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "decode_responses": True,
        }
        login: dict[str, Any] = {"username": config.username or None, "password": config.password or None}
        self._sentinel = Sentinel([*config.sentinels], sentinel_kwargs=ask)  # type: ignore[no-untyped-call]  # no types
        self._clients = {(host, port): redis.Redis(host, port, **ask, **login) for host, port in self._servers}
        self._turn = threading.Lock()
        self._found: Address | None = None
        self._asked: dict[Address, float] = {}
        self.moves = 0
        """How often the primary was another one than before."""
        self._wait_ms = int(min(MOST_WAIT, timeout * 0.8) * 1000)
        self._copying = len(self._servers) - 1  # servers, when last seen

    @property
    def proof(self) -> list[list[Any]]:
        """The commands to send behind a write; `check` judges their replies."""
        return [
            # Is sent to the replicas and kept by nobody: they have to answer anew, whatever they have said before.
            ["PUBLISH", FENCE, ""],
            ["WAIT", max(1, self._copying), self._wait_ms],
            ["ROLE"],
        ]

    def find(self) -> Address:
        """Return the address of the primary.

        Raises:
            redis.ConnectionError: no Sentinel knows a healthy one.
        """
        # Sentinel's own client sorts its list, which threads must not do at the same time.
        with self._turn:
            found = _plain(self._sentinel.discover_master(self._name))  # type: ignore[no-untyped-call]  # no types
            if found not in self._servers:
                raise redis.ConnectionError(f"Sentinel names {found[0]}:{found[1]}, which is none of `servers`")
            if self._found != found:
                self.moves += self._found is not None
                self._found = found
                self._asked.clear()
            return found

    def check(self, connection: Any, replies: Sequence[Any]) -> None:
        """Return if all that was written over ``connection`` before `proof` outlives its server.

        Raises:
            NotCopied: perhaps not.
        """
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        _, copies, role = replies
        if role[0] != "master":
            raise NotCopied("this Redis is no primary any more")
        # Whoever copies and is silent is left by the primary after some seconds.
        self._copying = len(role[2])
        if int(copies) < 1:
            raise NotCopied("no other Redis has it")
        if int(copies) < self._copying:
            raise NotCopied("not every Redis that copies has it")
        attached = {_plain((each[0], int(each[1]))) for each in role[2]}
        here = _plain((connection.host, connection.port))
        missing = self._servers - attached - {here}
        if not missing:
            self._asked.clear()
        for each in missing:
            if self._promoted(each, here):
                raise NotCopied("another Redis was promoted")

    def _promoted(self, other: Address, here: Address) -> bool:
        """Whether ``other`` is a primary that follows the one at ``here``."""
        if time.monotonic() - self._asked.get(other, -ASKED_SECONDS) < ASKED_SECONDS:
            return False
        # One that is away, or loads its data, is none.
        with contextlib.suppress(redis.RedisError):
            theirs = self._replication(other)
            if theirs.get("role") == "master":
                # One that we have replaced woke up, and does not know it yet.
                return bool(theirs.get("master_replid") != self._replication(here).get("master_replid2"))
        self._asked[other] = time.monotonic()
        return False

    def _replication(self, server: Address) -> dict[str, Any]:
        client: Any = self._clients[server]  # redis-py types it as perhaps asynchronous
        found: dict[str, Any] = client.info("replication")
        return found


class ToPrimary(redis.Connection):
    """A connection that leads to the primary, whoever that is when it is opened."""

    def __init__(self, *, group: Group, **arguments: Any) -> None:
        """Let ``group`` find it."""
        self._group = group
        super().__init__(**arguments)  # type: ignore[no-untyped-call]  # the package has no types here

    def _connect(self) -> Any:
        self.host, self.port = self._group.find()
        return super()._connect()  # type: ignore[no-untyped-call]  # the same

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read a response; who turned out to be a replica is not asked again."""
        try:
            return super().read_response(*arguments, **options)
        except redis.exceptions.ReadOnlyError:
            self.disconnect()  # type: ignore[no-untyped-call]  # the same
            raise redis.ConnectionError("this Redis is no primary any more") from None


class Pool(redis.BlockingConnectionPool):
    """A pool that knows its group; None if there is one server only."""

    group: Group | None = None


def group_of(client: redis.Redis) -> Group | None:
    """Return the servers behind ``client``, None if there is only one."""
    pool = client.connection_pool
    return pool.group if isinstance(pool, Pool) else None


def moves(client: redis.Redis) -> int:
    """Return how often the primary behind ``client`` was another one than before."""
    group = group_of(client)
    return group.moves if group else 0


def durably(client: redis.Redis, *commands: Sequence[Any]) -> list[Any]:
    """Send commands over one connection; return their replies when what they wrote outlives its server.

    They may be sent twice. A single server is on its own.

    Raises:
        NotCopied: perhaps it does not; they may have had their effect.
        redis.RedisError: the first error among the replies, or nobody knows.
    """
    group = group_of(client)
    proof = group.proof if group else []
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    try:
        try:
            replies = exchange(connection, [*commands, *proof])
        except redis.ConnectionError:
            # Idle for long, or its server has been restarted.
            connection.disconnect()
            replies = exchange(connection, [*commands, *proof])
        if group:
            group.check(connection, replies[len(commands) :])
    except redis.RedisError:
        connection.disconnect()
        if group:
            # The others may lead to the same server.
            pool.disconnect(inuse_connections=False)
        raise
    finally:
        pool.release(connection)
    for reply in replies[: len(commands)]:
        if isinstance(reply, Exception):
            raise reply
    return replies[: len(commands)]


def exchange(connection: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    """Send all, then read all; a reply that is an error belongs to its command only."""
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    return [_reply(connection) for _ in commands]


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.exceptions.ReadOnlyError:
        # All of them failed, and behind the same name there may be another server by now.
        raise
    except redis.ResponseError as error:
        return error


def _plain(address: Iterable[Any]) -> Address:
    host, port = address
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return str(host), int(port)
