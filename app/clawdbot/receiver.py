"""The receiver: connects to the platforms that send events to those who do, and acknowledges what is on disk.

Any number of receivers may run: the platforms give each event to one of their connections. For each platform one thread
sees to it that there is a connection; each connection has a thread that reads. What it reads is taken in by lanes, one
thread each: events of a conversation share a lane and so keep their order, the others go to the disk together.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from zlib import crc32

import redis
from gunicorn.systemd import sd_notify
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from clawdbot import http, metrics
from clawdbot.clock import now_ms
from clawdbot.connected import SAY_SECONDS, Connected
from clawdbot.errors import ClawdbotError, Final, Refusal
from clawdbot.ingress import Ingress
from clawdbot.logs import access_log
from clawdbot.platforms.base import Arrival, Line, Received, Session
from clawdbot.sites import Role

log = logging.getLogger(__name__)

LANES = 8
# Events of a connection that are being taken in; as long as there are more, nothing more is read.
MOST_IN_WORK = 64
OPEN_SECONDS = 10.0
# A ping follows so long after the pong before it, and its own may take as long; then there is the time to close. All
# three together are how long a link can be dead without anybody knowing.
HEARTBEAT_SECONDS = 8.0
CLOSE_SECONDS = 2.0
# What closes a connection whose pong did not come (RFC 6455, 7.4.1).
INTERNAL_ERROR = 1011
TICK_SECONDS = 0.5
# A connection that lasted so long was a good one.
STEADY_SECONDS = 30.0
# A platform that asks us to leave closes the connection 10 s later (DingTalk).
LEAVING_SECONDS = 10.0
# systemd, and with it a roll-out, waits so long until there is a connection to each platform: one of them may be away.
READY_SECONDS = 15.0
# Redis and the disk get less for what is in work when we stop.
FINISH_SECONDS = 10.0
OUTCOMES = ("opened", "refused", "unreachable", "moved", "lost", "silent", "closed")


class Connections:
    """Keeps a connection to each platform until told to stop."""

    def __init__(self, lines: Iterable[Line], ingress: Ingress, connected: Connected, name: str) -> None:
        """Connect by ``lines`` and take in by ``ingress``; ``name`` is what `connected` knows us by."""
        self._lines = list(lines)
        self._ingress = ingress
        self._connected = connected
        self._name = name
        self._lanes = [ThreadPoolExecutor(1, thread_name_prefix=f"lane-{number}") for number in range(LANES)]
        self.stopping = threading.Event()
        for line, outcome in itertools.product(self._lines, OUTCOMES):
            # A counter that begins with its first event has no increase to be alerted of.
            metrics.CONNECTIONS.labels(line.name, outcome)

    def stop(self) -> None:
        """Read nothing new; `run` returns when what was received is taken in and acknowledged."""
        self.stopping.set()

    def run(self) -> None:
        """Work until `stop`, then drain."""
        self._ingress.start()
        keepers = [_Keeper(line, self) for line in self._lines]
        for keeper in keepers:
            keeper.start()
        end = time.monotonic() + READY_SECONDS
        while self.answers and not all(keeper.connected for keeper in keepers) and time.monotonic() < end:
            if self.stopping.wait(TICK_SECONDS):
                break
        # From now on the receiver before this one may go.
        sd_notify("READY=1", log)  # type: ignore[arg-type]  # any logger will do
        while not self.stopping.wait(SAY_SECONDS):
            for keeper in keepers:
                if keeper.connected:
                    self.say(keeper.line.name, connected=True)
        log.info("draining")
        for keeper in keepers:
            keeper.join()
        for lane in self._lanes:
            lane.shutdown()

    @property
    def answers(self) -> bool:
        """Whether the platforms shall give events to this site."""
        return self._ingress.sites is None or self._ingress.sites.role is Role.ACTIVE

    def say(self, platform: str, *, connected: bool) -> None:
        """Tell the others whether we are connected; a Redis that is away hears it the next time."""
        with contextlib.suppress(redis.RedisError):
            (self._connected.add if connected else self._connected.remove)(platform, self._name)

    def submit(self, platform: str, arrival: Arrival, done: Callable[[int], None]) -> None:
        """Have an event taken in; ``done`` is told the status."""
        started = time.perf_counter()
        receive, lane = arrival.receive, 0
        assert receive is not None  # noqa: S101  # who calls has looked
        with contextlib.suppress(Exception):
            # It fails where failures are told of.
            received = receive()
            receive = _again(received)
            if received.message:
                lane = crc32(received.message.conversation.encode("utf-8", "replace")) % LANES
        self._lanes[lane].submit(self._take, platform, receive, done, started)

    def _take(
        self, platform: str, receive: Callable[[], Received], done: Callable[[int], None], started: float
    ) -> None:
        taken = self._ingress.take(platform, receive)
        milliseconds = round((time.perf_counter() - started) * 1000, 1)
        line = {"client": platform, "method": "EVENT", "status": taken.status, "ms": milliseconds, **taken.fields}
        access_log.info("", extra={"fields": line})
        done(taken.status)


def _again(received: Received) -> Callable[[], Received]:
    return lambda: received


class _Keeper(threading.Thread):
    """Sees to it that there is a connection to one platform."""

    def __init__(self, line: Line, owner: Connections) -> None:
        super().__init__(name=line.name, daemon=True)
        self.line = line
        self._owner = owner
        self._links: list[_Link] = []

    @property
    def connected(self) -> bool:
        """Whether there is one now."""
        return any(link.open.is_set() for link in self._links)

    def run(self) -> None:
        failures = 0
        while not self._owner.stopping.is_set():
            if not self._owner.answers:
                self._owner.stopping.wait(TICK_SECONDS)
                continue
            link = _Link(self.line, self._owner)
            self._links = [each for each in self._links if each.is_alive()] + [link]
            link.start()
            link.over.wait()
            if link.seconds >= STEADY_SECONDS:
                failures = 0
                if link.leaving:
                    # The one before goes on until the new one is there.
                    continue
            pause = max(self.line.pause(failures), link.after)
            failures += 1
            self._owner.stopping.wait(pause)
        for link in self._links:
            link.join(FINISH_SECONDS + CLOSE_SECONDS + OPEN_SECONDS)


class _Link(threading.Thread):
    """One connection, from the request for it to its end.

    Attributes:
        open: set as long as it is open.
        over: set when another one is needed.
        leaving: whether the platform has asked for that.
        seconds: how long it was open until then.
        after: seconds that the platform asked us to wait.
    """

    def __init__(self, line: Line, owner: Connections) -> None:
        super().__init__(name=f"{line.name}-link", daemon=True)
        self.open = threading.Event()
        self.over = threading.Event()
        self.leaving = False
        self.seconds = 0.0
        self.after = 0.0
        self._line = line
        self._owner = owner
        self._in_work = threading.Semaphore(MOST_IN_WORK)
        self._opened = 0.0

    def run(self) -> None:
        outcome, reason, level = "closed", "", logging.INFO
        try:
            self._run()
            outcome = "moved" if self.leaving else "closed"
        except ConnectionClosed as error:
            silent = error.sent is not None and error.sent.code == INTERNAL_ERROR and error.rcvd is None
            outcome = "moved" if self.leaving else "silent" if silent else "lost"
            level = logging.INFO if self.leaving else logging.WARNING
        except Final as error:
            outcome, reason, level = "refused", str(error), logging.ERROR
        except (ClawdbotError, OSError, WebSocketException) as error:
            # Of the others the text may hold the URL.
            told = isinstance(error, (ClawdbotError, InvalidStatus))
            outcome, reason = "unreachable", str(error) if told else type(error).__name__
            level, self.after = logging.ERROR, getattr(error, "after", None) or 0.0
        except Exception:
            outcome = "lost"
            log.exception("a connection failed")
        finally:
            self._end()
        metrics.CONNECTIONS.labels(self._line.name, outcome).inc()
        fields = {"platform": self._line.name, "outcome": outcome, "seconds": round(self.seconds), "reason": reason}
        log.log(level, "a connection is over", extra={"fields": fields})

    def _end(self) -> None:
        was_open = self.open.is_set()
        self.open.clear()
        if not self.over.is_set():
            self.seconds = time.monotonic() - self._opened if was_open else 0.0
            self.over.set()
            if was_open:
                self._owner.say(self._line.name, connected=False)

    def _run(self) -> None:
        session = self._line.open()
        with _connect(session.url) as wire:
            self._opened = time.monotonic()
            self.open.set()
            metrics.CONNECTIONS.labels(self._line.name, "opened").inc()
            log.info("connected", extra={"fields": {"platform": self._line.name}})
            self._owner.say(self._line.name, connected=True)
            self._read(wire, session)
            # What has arrived is finished.
            with contextlib.suppress(TimeoutError):
                while True:
                    self._take(wire, session, wire.recv(timeout=0))
            end = time.monotonic() + FINISH_SECONDS
            for _ in range(MOST_IN_WORK):
                self._in_work.acquire(timeout=max(0.0, end - time.monotonic()))

    def _read(self, wire: ClientConnection, session: Session) -> None:
        """Read until told to stop, or until the platform had the time to close what it asked us to leave."""
        end = ping = time.monotonic()
        while (
            self._owner.answers and not self._owner.stopping.is_set() and not (self.leaving and time.monotonic() > end)
        ):
            if session.ping_seconds and time.monotonic() >= ping:
                ping = time.monotonic() + session.ping_seconds
                wire.send(session.ping())
            with contextlib.suppress(TimeoutError):
                self._take(wire, session, wire.recv(timeout=TICK_SECONDS))
            if self.leaving and not self.over.is_set():
                end = time.monotonic() + LEAVING_SECONDS
                self.seconds = time.monotonic() - self._opened
                self.over.set()

    def _take(self, wire: ClientConnection, session: Session, data: str | bytes) -> None:
        try:
            arrival = session.read(data, now_ms())
        except Refusal as refusal:
            fields = {"platform": self._line.name, "reason": refusal.reason}
            log.warning("what came over a connection cannot be read", extra={"fields": fields})
            return
        self.leaving = self.leaving or arrival.leave
        if arrival.answer:
            wire.send(arrival.answer)
        if arrival.receive:
            self._in_work.acquire()
            self._owner.submit(self._line.name, arrival, lambda status: self._acknowledge(wire, arrival, status))

    def _acknowledge(self, wire: ClientConnection, arrival: Arrival, status: int) -> None:
        try:
            if acknowledgement := arrival.acknowledge(status):
                wire.send(acknowledgement)
        except ConnectionClosed:
            # It comes again, over another one, and is known by then.
            metrics.UNACKNOWLEDGED.labels(self._line.name).inc()
        finally:
            self._in_work.release()


def _connect(url: str) -> ClientConnection:
    """Open a websocket, through a proxy if the environment says so; the other side is asked whether it is there."""
    return connect(
        url,
        ssl=http.trust() if url.startswith("wss:") else None,
        compression=None,
        user_agent_header="clawdbot",
        open_timeout=OPEN_SECONDS,
        ping_interval=HEARTBEAT_SECONDS,
        ping_timeout=HEARTBEAT_SECONDS,
        close_timeout=CLOSE_SECONDS,
    )
