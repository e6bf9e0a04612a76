"""Outgoing HTTP: deadlines, bounded bodies, no redirects, and errors that hold no secret.

A URL may hold a secret (an access token, a session), so no error and no log line ever shows more of it than the
host and the path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from clawdbot.errors import ClawdbotError, Final

CONNECT_SECONDS = 5.0
CALL_SECONDS = 10.0
CHUNK = 65536
DEFAULT_MAX_BYTES = 4 * 1024 * 1024
TOO_MANY = 429
SERVER_ERROR = 500


_before_writing: ContextVar[Callable[[], None] | None] = ContextVar("before_writing", default=None)


@contextlib.contextmanager
def asking_before_writing(ask: Callable[[], None]) -> Iterator[None]:
    """Call ``ask`` at the last moment before this thread writes a body: connected, with token and turn, ready to go.

    What ``ask`` raises is raised by `Http.request`, and nothing was sent that the other side could act on.
    """
    token = _before_writing.set(ask)
    try:
        yield
    finally:
        _before_writing.reset(token)


@dataclasses.dataclass
class Calls:
    """How many requests were made."""

    count: int = 0


_calls: ContextVar[Calls | None] = ContextVar("calls", default=None)


@contextlib.contextmanager
def counting() -> Iterator[Calls]:
    """Count the requests of this thread, and of those to which it hands its context."""
    calls = Calls()
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


class TransportError(ClawdbotError):
    """No complete answer came.

    Attributes:
        sent: True if the request had been written completely, so the other side may have acted on it.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        """Keep whether the request left."""
        super().__init__(reason)
        self.sent = sent


class TooLarge(Final):
    """The answer is larger than allowed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """A complete answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body if it is a JSON object, else an empty dictionary."""
        try:
            data = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return data if isinstance(data, dict) else {}

    def is_object(self) -> bool:
        """Whether the body is a JSON object; a gateway's page with status 200 is none."""
        return self.body.lstrip()[:1] == b"{" and bool(self.json() or self.body.strip() == b"{}")

    def is_page(self) -> bool:
        """Whether a web page came, where a file was wanted."""
        return "html" in self.headers.get("content-type", "") or self.body.lstrip()[:1] == b"<"

    def is_temporary(self) -> bool:
        """Whether the other side may answer differently later: it was asked too often, or the fault is its own."""
        return self.status == TOO_MANY or self.status >= SERVER_ERROR

    def retry_after(self) -> float | None:
        """Seconds to wait according to the other side, if it said so."""
        for name in ("x-ogw-ratelimit-reset", "retry-after"):
            try:
                return max(0.0, float(self.headers[name]))
            except (KeyError, ValueError):
                continue
        return None


class _Body(io.BytesIO):
    """A request body that reports the moment at which its last byte has been written to the socket."""

    def __init__(self, data: bytes, on_written: Callable[[], None] | None) -> None:
        super().__init__(data)
        self.written = False
        self._on_written = on_written

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() == 0 and (ask := _before_writing.get()):
            ask()
        chunk = super().read(size)
        if not chunk and not self.written:
            self.written = True
            if self._on_written:
                self._on_written()
        return chunk


class _Deadline:
    """A context manager that ends the call within it when its time is over, whatever the other side does.

    The limit of a socket holds for each read anew: a server that sends a byte now and then would never meet it. So the
    connection is shut from outside. What this cannot end is the resolution of a name, which libc limits.
    """

    current: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)

    def __init__(self, seconds: float) -> None:
        """Start nothing yet."""
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._wires: list[tuple[socket.socket, int]] = []
        self._end = time.monotonic() + seconds
        self._over = self._has_cut = False

    def __enter__(self) -> _Deadline:
        """Start to wait."""
        self._token = self.current.set(self)
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop: the connection may be used again."""
        self._timer.cancel()
        self.current.reset(self._token)
        with self._lock:
            self._over = True
            for wire, _ in self._wires:
                wire.close()

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self._has_cut or time.monotonic() >= self._end

    def holds_for(self, connection: socket.socket, how: int) -> None:
        """End what is done over ``connection`` as well, by a shutdown of the kind ``how``.

        By a descriptor of our own: TLS takes the first one's away, and has another idea of a shutdown.
        """
        wire = socket.socket(fileno=os.dup(connection.fileno()))
        with self._lock:
            self._wires.append((wire, how))
        if self.passed:
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            if self._over:
                return
            self._has_cut = True
            for wire, how in self._wires:
                with contextlib.suppress(OSError):
                    wire.shutdown(how)


class _Connection(HTTPConnection):
    """A connection that a `_Deadline` can end, also while a proxy or TLS is being agreed upon."""

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        # Not for writing: `ssl` would leave a socket that is closed before it begins to the garbage collector.
        _end_in_time(connection, socket.SHUT_RD)
        return connection

    def connect(self) -> None:
        super().connect()
        _end_in_time(self.sock, socket.SHUT_RDWR)

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            _end_in_time(self.sock, socket.SHUT_RDWR)
        super().request(*args, **kwargs)


def _end_in_time(connection: socket.socket, how: int) -> None:
    if deadline := _Deadline.current.get():
        deadline.holds_for(connection, how)


class _SecureConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    """Makes connections of these kinds, to proxies as well."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self.poolmanager.pool_classes_by_scheme
        return manager


def _keep(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An auth hook that adds nothing: it keeps `requests` from taking credentials out of a netrc file."""
    return request


class Http:
    """A client that threads share; each thread has its own connections."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._local = threading.local()

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.auth = _keep
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter())
            self._local.session = session
        return session

    def request(
        self,
        method: str,
        url: str,
        *,
        payload: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        deadline: float = CALL_SECONDS,
        max_bytes: int = DEFAULT_MAX_BYTES,
        on_written: Callable[[], None] | None = None,
    ) -> Response:
        """Send a request and return the complete answer, whatever its status.

        Args:
            method: HTTP method.
            url: absolute URL.
            payload: JSON body.
            headers: additional headers.
            params: query to add.
            deadline: seconds for everything together.
            max_bytes: greatest accepted size of the answer.
            on_written: called once between writing the request and reading the answer.

        Raises:
            TransportError: no complete answer within the deadline.
            TooLarge: the answer exceeds ``max_bytes``.
        """
        place = _place(url)
        if calls := _calls.get():
            calls.count += 1
        body = None if payload is None else _Body(json.dumps(payload).encode(), on_written)
        all_headers = {"User-Agent": "clawdbot", **(headers or {})}
        if body is not None:
            all_headers["Content-Type"] = "application/json; charset=utf-8"
        with _Deadline(deadline) as running:
            try:
                with self._session().request(
                    method,
                    url,
                    data=body,
                    headers=all_headers,
                    params=params,
                    timeout=(min(CONNECT_SECONDS, deadline), deadline),
                    allow_redirects=False,
                    stream=True,
                ) as answer:
                    content = _read(answer, max_bytes, place)
                    found = {name.lower(): value for name, value in answer.headers.items()}
                if not running.passed:
                    return Response(answer.status_code, found, content)
                reason = ""
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                reason = type(error).__name__
            reason = "deadline passed" if running.passed else reason
            raise TransportError(f"{place}: {reason}", sent=body is not None and body.written)


def _read(answer: requests.Response, max_bytes: int, place: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    while chunk := answer.raw.read1(CHUNK, decode_content=True):
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"{place}: more than {max_bytes} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _place(url: str) -> str:
    """Host and path, which is all of a URL that may be shown."""
    parts = urlsplit(url)
    return f"{parts.hostname}{parts.path}"


def trust() -> ssl.SSLContext:
    """Return the certificates that `requests` would trust, for those who connect by other means."""
    path = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or certifi.where()
    folder = Path(path).is_dir()
    return ssl.create_default_context(cafile=None if folder else path, capath=path if folder else None)


def allowed(url: str, official: Iterable[str], configured: Iterable[str]) -> bool:
    """Whether ``url``, which a platform handed us, may be called.

    Args:
        url: the URL.
        official: host names, or ``.suffix`` for all hosts below one; HTTPS on port 443 only.
        configured: base URLs of the operator's configuration; scheme, host and port must be the same.
    """
    try:
        parts = urlsplit(url)
        origin = (parts.scheme, parts.hostname, parts.port)
    except ValueError:
        return False
    host = parts.hostname or ""
    if not host or parts.username is not None or parts.password is not None:
        return False
    for base in map(urlsplit, configured):
        if origin == (base.scheme, base.hostname, base.port):
            return True
    if parts.scheme != "https" or parts.port not in {None, 443}:
        return False
    return any(host.endswith(name) if name.startswith(".") else host == name for name in official)
