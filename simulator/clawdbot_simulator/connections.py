"""The websockets that the bot opens, and the events that go to one of them until they are acknowledged."""

import contextlib
import itertools
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError


@dataclass(eq=False)
class Connection:
    """An open websocket."""

    id: int
    platform: str
    peer: socket.socket
    protocol: WSConnection
    opened: float = field(default_factory=time.time)
    acknowledged: int = 0
    pings: int = 0  # of the platform's own kind, answered by the bot
    silent: bool = False  # nothing comes through any more, in either direction, and nobody notices
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, data: str | bytes) -> None:
        """Send a message; raises OSError or LocalProtocolError when the connection is gone."""
        self.write(TextMessage(data) if isinstance(data, str) else BytesMessage(data))

    def write(self, event: Any) -> None:
        """Send an event of wsproto's."""
        with self.lock:
            if not self.silent:
                self.peer.sendall(self.protocol.send(event))

    def cut(self) -> None:
        """End it as a network does that fails: without a word of either protocol."""
        with contextlib.suppress(OSError):
            self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.peer.shutdown(socket.SHUT_RDWR)

    def describe(self) -> dict[str, Any]:
        """For the control API."""
        names = ("id", "platform", "opened", "acknowledged", "pings", "silent")
        return {name: getattr(self, name) for name in names}


class Connections:
    """Those that are open, and the events that wait for an acknowledgement."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._connections: list[Connection] = []
        self._changed = threading.Condition()
        self._waiting: dict[str, threading.Event] = {}

    def all(self, platform: str = "") -> list[Connection]:
        """The open connections, of one platform if it is named."""
        with self._changed:
            return [each for each in self._connections if platform in ("", each.platform)]

    def serve(
        self,
        platform: str,
        peer: socket.socket,
        headers: Iterable[tuple[str, str]],
        read: Callable[[Connection, str | bytes], None],
    ) -> None:
        """Speak the protocol of websockets with whom has sent ``headers``; ``read`` gets each message.

        Returns when the connection is over; ValueError when none was asked for.
        """
        protocol = WSConnection(ConnectionType.SERVER)
        try:
            given = [(name.lower().encode(), value.encode()) for name, value in headers]
            protocol.initiate_upgrade_connection(given, "/")
            asked = any(isinstance(event, Request) for event in protocol.events())
        except RemoteProtocolError as error:
            raise ValueError(str(error)) from error
        if not asked:
            raise ValueError("no websocket was asked for")
        connection = Connection(next(self._ids), platform, peer, protocol)
        connection.write(AcceptConnection())
        with self._changed:
            self._connections.append(connection)
            self._changed.notify_all()
        try:
            self._read(connection, read)
        except (OSError, LocalProtocolError, RemoteProtocolError):
            pass  # it was cut
        finally:
            with self._changed:
                self._connections.remove(connection)

    def _read(self, connection: Connection, read: Callable[[Connection, str | bytes], None]) -> None:
        whole: list[Any] = []
        connection.peer.settimeout(None)
        while data := connection.peer.recv(65536):
            if connection.silent:
                continue
            with connection.lock:
                connection.protocol.receive_data(data)
                events = list(connection.protocol.events())
            for event in events:
                if isinstance(event, Ping):
                    connection.write(event.response())
                elif isinstance(event, CloseConnection):
                    connection.write(event.response())
                    return
                elif isinstance(event, TextMessage | BytesMessage):
                    whole.append(event.data)
                    if event.message_finished:
                        message = whole[0][:0].join(whole)
                        whole.clear()
                        read(connection, message)

    def deliver(
        self, platform: str, make: Callable[[str], Sequence[str | bytes]], again: float, wait: float
    ) -> tuple[int, float | None]:
        """Send what ``make`` makes of a frame's id until it is acknowledged, every ``again`` seconds, for ``wait`` s.

        Returns how often it was sent, and after how many seconds it was acknowledged; None: it was not.
        """
        begin, sends, acknowledged, names = time.monotonic(), 0, threading.Event(), []
        try:
            while (left := begin + wait - time.monotonic()) > 0:
                connection = self._any(platform, left)
                if connection is None:
                    break
                names.append(secrets.token_hex(16))
                self._waiting[names[-1]] = acknowledged
                try:
                    for frame in make(names[-1]):
                        connection.send(frame)
                except (OSError, LocalProtocolError):
                    time.sleep(0.01)  # whoever reads it notices as well
                    continue
                sends += 1
                if acknowledged.wait(min(again, left)):
                    return sends, time.monotonic() - begin
            return sends, None
        finally:
            for name in names:
                self._waiting.pop(name, None)

    def acknowledge(self, connection: Connection, name: str) -> None:
        """The bot has taken the event of the frame ``name``."""
        if found := self._waiting.get(name):
            connection.acknowledged += 1
            found.set()

    def _any(self, platform: str, wait: float) -> Connection | None:
        with self._changed:
            self._changed.wait_for(lambda: self._of(platform), wait)
            there = self._of(platform)
            return secrets.choice(there) if there else None

    def _of(self, platform: str) -> list[Connection]:
        return [each for each in self._connections if each.platform == platform]
