"""gunicorn's threaded worker, for requests that have arrived: nobody who sends slowly holds a thread.

A thread that reads a request waits for its sender, and two dozen slow senders stop a process, ``/health`` included. So
the main loop looks at what the kernel holds of a request (``MSG_PEEK``), asks to be woken when the rest may be there
(``SO_RCVLOWAT``, see socket(7); poll and epoll heed it since Linux 2.6.28), and gives the connection to a thread only
then.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections import deque
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers import gthread

from clawdbot.web.body import MAX_BODY

#: Seconds that a request may take to arrive. Both platforms send theirs in one go.
ARRIVAL_SECONDS = 10.0
#: Bytes in which the headers have to end, and so the trailers; gunicorn's own limits are stricter.
LONGEST_HEAD = 64 * 1024
#: Bytes in which the line before a chunk has to end.
LONGEST_LINE = 8 * 1024
#: Bytes that are waited for at most.
GREATEST = MAX_BODY + LONGEST_HEAD
#: Seconds that a worker that stops keeps connections of which nothing is asked just now, as gunicorn.conf.py has it.
LINGER = 0.2
# How long it waits for a request that has begun, if only by connecting: on a busy host the rest may come later, and
# nobody else has the connection.
BEGUN_SECONDS = 1.0
# How long the other side may take to close a connection that we are done with.
ENDING_SECONDS = 2.0
# How long a thread waits at most, for a reader of its answer or for what should have arrived already.
THREAD_SECONDS = 2.0
END_OF_HEAD = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:[ \t]*0*(\d*)[ \t]*\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)
# As gunicorn reads it: whatever else is in this place is refused at once.
CHUNK_LINE = re.compile(rb"([0-9a-f]+)(?:[ \t]*;.*)?", re.IGNORECASE | re.DOTALL)
CONTINUE = re.compile(rb"\r\nexpect[ \t]*:[ \t]*100-continue", re.IGNORECASE)
TOO_LARGE = (
    b"HTTP/1.1 413 Request Entity Too Large\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: 37\r\n\r\n"
    b'{"error": "Request Entity Too Large"}'
)


def missing(data: bytes, chunk: int = 0) -> tuple[int, int]:
    """Return how many bytes of the first request in ``data`` are still to come, at least, and where to go on looking.

    0: it is whole, or can be refused as it is. -1: it is greater than `GREATEST`.

    Args:
        data: the request from its beginning, and perhaps what follows it.
        chunk: the second value of the look before, when ``data`` was shorter.
    """
    head = data.find(END_OF_HEAD)
    if head < 0:
        return (0 if len(data) >= LONGEST_HEAD else 1), 0
    fields, body = data[: head + 2], head + len(END_OF_HEAD)
    if CHUNKED.search(fields):
        return _missing_of_chunks(data, max(chunk, body))
    found = LENGTH.search(fields)
    # Ten digits without leading zeros are too large whatever they are.
    length = int(found[1][:10] or b"0") if found else 0
    if body + length > GREATEST:
        return -1, 0
    return max(0, body + length - len(data)), 0


def _missing_of_chunks(data: bytes, chunk: int) -> tuple[int, int]:
    """See `missing`; the line of a chunk begins at ``chunk``. Chunks are not looked at twice, their bytes not once."""
    while True:
        end = data.find(b"\r\n", chunk)
        if end < 0:
            return (1 if len(data) - chunk < LONGEST_LINE else -1), chunk
        line = CHUNK_LINE.fullmatch(data, chunk, end)
        if not line:
            return 0, chunk
        size = int(line[1], 16)
        if not size:
            break
        following = end + 2 + size + 2
        if following > GREATEST:
            return -1, chunk
        if following > len(data):
            return following - len(data), chunk
        if data[following - 2 : following] != b"\r\n":
            return 0, chunk
        chunk = following
    if data.find(END_OF_HEAD, end) >= 0:
        return 0, chunk
    return (1 if len(data) - end < LONGEST_HEAD else -1), chunk


def _asked(sock: socket.socket) -> bool:
    """Whether something has arrived. The socket does not block."""
    with contextlib.suppress(OSError):
        return bool(sock.recv(1, socket.MSG_PEEK))
    return False


class Worker(gthread.ThreadWorker):
    """Gives a connection to a thread when a whole request of it has arrived; closes it when that takes too long.

    A connection that ends is left to the poller as well until the other side has closed: gunicorn waits for that in
    the main loop, two seconds for each.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As gunicorn calls it."""
        super().__init__(*args, **kwargs)
        self._ending: deque[Any] = deque()

    def enqueue_req(self, conn: Any) -> None:
        """Decide about a connection that has sent something, or has only been opened. Runs in the main loop."""
        conn.close = partial(self._close, conn)
        try:
            wanted = self._look(conn)
        except OSError:
            self._drop(conn)
            return
        if wanted == 0:
            self._wake_after(conn, 1)
            conn.arrival, conn.chunk = None, 0
            conn.data_ready = True
            super().enqueue_req(conn)
            return
        if wanted < 0:
            self._refuse(conn)
            return
        now = time.monotonic()
        conn.arrival = getattr(conn, "arrival", None) or now + ARRIVAL_SECONDS
        if now >= conn.arrival:
            self._drop(conn)
            return
        self._wake_after(conn, wanted)
        conn.timeout = conn.arrival if self.alive else min(conn.arrival, now + BEGUN_SECONDS)
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def handle(self, conn: Any) -> Any:
        """Answer what has arrived. Runs in a thread, which must not be held: not by who does not read, either."""
        conn.init = partial(self._init, conn)
        return super().handle(conn)

    def _init(self, conn: Any) -> None:
        gthread.TConn.init(conn)
        conn.sock.settimeout(THREAD_SECONDS)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close what is idle for too long, but nothing on which somebody has asked a moment ago."""
        now = time.monotonic()
        kept: list[Any] = list(self.keepalived_conns)
        for conn in [conn for conn in kept if conn.timeout <= now and _asked(conn.sock)]:
            self.on_client_socket_readable(conn, conn.sock)
        super().murder_keepalived(force)  # type: ignore[call-arg]  # the type stubs are older

    def murder_pending(self) -> None:
        """Close what has waited too long. Runs once a second at least."""
        super().murder_pending()
        now = time.monotonic()
        while self._ending and self._ending[0].timeout <= now:
            self._end(self._ending[0])

    def _look(self, conn: Any) -> int:
        """How many bytes the kernel shall hold before it is looked at again; 0: enough, -1: it is too large."""
        conn.sock.setblocking(False)
        # A request that followed at once was read together with the one before it.
        before: bytes = conn.parser.unreader.buf.getvalue() if conn.initialized else b""
        try:
            held = conn.sock.recv(GREATEST, socket.MSG_PEEK)
        except BlockingIOError:
            return min(missing(before)[0], 1) if before else 1
        if len(held) < getattr(conn, "low_water", 1):
            return 0  # woken for less than was asked for: the other side has closed, and the thread finds out
        more, conn.chunk = missing(before + held, getattr(conn, "chunk", 0))
        if more > 0 and not getattr(conn, "encouraged", False) and CONTINUE.search(before + held):
            conn.encouraged = True
            conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return len(held) + more if more > 0 else more

    def _wake_after(self, conn: Any, held: int) -> None:
        if held != getattr(conn, "low_water", 1):
            conn.low_water = held
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, held)

    def _refuse(self, conn: Any) -> None:
        with contextlib.suppress(OSError):
            conn.sock.send(TOO_LARGE)
        self._wake_after(conn, 1)
        self._drop(conn, graceful=True)

    def _drop(self, conn: Any, graceful: bool = False) -> None:
        self.nr_conns -= 1
        conn.close(graceful)

    def _close(self, conn: Any, graceful: bool = False) -> None:
        """Close a connection; gracefully: not before the other side has, or its system would discard our answer."""
        if not graceful:
            conn.sock.close()
            return
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, EVENT_READ, partial(self._drain, conn))
        except (OSError, ValueError):
            conn.sock.close()
            return
        conn.timeout = time.monotonic() + ENDING_SECONDS
        self._ending.append(conn)

    def _drain(self, conn: Any, client: socket.socket) -> None:
        try:
            if client.recv(GREATEST):
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # reset
        self._end(conn)

    def _end(self, conn: Any) -> None:
        self._ending.remove(conn)
        self.poller.unregister(conn.sock)
        conn.sock.close()

    def _cap_keepalive(self, deadline: float) -> None:
        """A worker that stops waits no longer for requests that have only begun, either, but longer than for others."""
        super()._cap_keepalive(deadline)  # type: ignore[misc]  # the type stubs are older
        latest = time.monotonic() + BEGUN_SECONDS
        conn: Any
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, latest)
