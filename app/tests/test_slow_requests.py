"""gunicorn's workers as they run: requests that arrive slowly, in pieces, together, or never whole."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from clawdbot.web import worker
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers import gthread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import eventually
from .site import Site

#: More than there are threads, in all processes together.
MANY = 60
HEAD = b"POST /api/dingtalk/callback HTTP/1.1\r\nHost: bot\r\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Redis and the web side."""
    found = Site(tmp_path_factory.mktemp("site"))
    try:
        found.start(("web",))
        yield found
    finally:
        found.close()


@pytest.fixture
def connections(site: Site) -> Iterator[list[socket.socket]]:
    """Many open connections."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connection(site)) for _ in range(MANY)]


def connection(site: Site) -> socket.socket:
    return socket.create_connection(site.listener.getsockname(), timeout=20)


def answer(client: socket.socket) -> bytes:
    """All that is sent until the other side closes, or has nothing more to say for a while."""
    said = b""
    client.settimeout(1 if said else 20)
    with contextlib.suppress(TimeoutError):
        while more := client.recv(65536):
            said += more
            client.settimeout(0.3)
    return said


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /api/ding",
        HEAD,
        HEAD + b"Content-Length: 1000\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        # What only looks like the end: a chunk holds it.
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n",
        HEAD + b"Content-Length: 0000000000000000001000\r\n\r\n{",
        b"\r\n\r\nPOST /api/ding",
        b"GET /health HTTP/1.1\r\nHost: bot\r\n\r\nGET /hea",
    ],
)
def test_slow_senders_stop_nobody(site: Site, connections: list[socket.socket], sent: bytes) -> None:
    for client in connections:
        client.sendall(sent)
    time.sleep(0.5)
    for _ in range(3):
        assert requests.get(f"{site.url}/health", timeout=2).text == '{"status":"healthy"}\n'
        for client in connections:
            client.sendall(b"x" if sent else b"")
        time.sleep(0.2)


def test_who_takes_too_long_is_left(site: Site) -> None:
    with connection(site) as client:
        begun = time.monotonic()
        client.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 2 * worker.ARRIVAL_SECONDS:
                client.settimeout(0.5)
                client.sendall(b" ")
                with contextlib.suppress(TimeoutError):
                    if not client.recv(100):
                        break
        assert time.monotonic() - begun < worker.ARRIVAL_SECONDS + 5


def test_who_has_only_connected_is_answered_by_a_worker_that_stops(site: Site) -> None:
    """On a busy machine some time passes between the two; and nobody else has the connection."""
    with connection(site) as kept, connection(site) as client:
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: bot\r\n\r\n")
        assert answer(kept)
        time.sleep(0.5)  # both are accepted by then
        stopping = threading.Thread(target=site.terminate, args=("web",))
        stopping.start()
        time.sleep(0.6)
        client.sendall(b"GET /health HTTP/1.1\r\nHost: bot\r\n\r\n")
        said = answer(client)
    stopping.join()
    site.run("web")
    eventually(site.ready, 60)
    assert said.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 2\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1;a=b\r\n{\r\n1\r\n}\r\n00;c\r\nTrailer: x\r\n\r\n",
    ],
)
def test_a_request_in_pieces_is_one_request(site: Site, body: bytes) -> None:
    with connection(site) as client:
        for byte in HEAD + body:
            client.sendall(bytes([byte]))
        assert answer(client).startswith(b"HTTP/1.1 4")


def test_who_never_closes_stops_nobody(site: Site, connections: list[socket.socket]) -> None:
    for client in connections:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: bot\r\nConnection: close\r\n\r\n")
    for _ in range(5):
        assert requests.get(f"{site.url}/health", timeout=1).ok


def test_who_never_reads_holds_no_thread() -> None:
    """A thread that answers waits no longer for its reader than one that reads waits for its sender."""

    def application(_: object, start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "50000000")])
        return [b"x" * 50_000_000]

    cfg = Config()
    process = worker.Worker(1, os.getpid(), [], None, 30, cfg, Logger(cfg))
    process.wsgi = application
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: bot\r\n\r\n")
        accepted, address = listener.accept()
        thread = threading.Thread(
            target=process.handle, args=[gthread.TConn(cfg, accepted, address, address)], daemon=True
        )
        with accepted:
            thread.start()
            thread.join(worker.THREAD_SECONDS + 5)
            assert not thread.is_alive()
    process.tmp.close()


def test_a_connection_on_which_somebody_has_just_asked_is_not_closed_as_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy host the time is over before the question is seen: whoever kept the connection would get a reset."""
    cfg = Config()
    process = worker.Worker(1, os.getpid(), [], None, 30, cfg, Logger(cfg))
    process.poller = selectors.DefaultSelector()
    asked: list[gthread.TConn] = []
    monkeypatch.setattr(process, "enqueue_req", asked.append)
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(2)]
        for _ in clients:
            accepted, address = listener.accept()
            accepted.setblocking(False)
            conn = gthread.TConn(cfg, stack.enter_context(accepted), address, address)
            conn.timeout = time.monotonic()
            process.keepalived_conns.append(conn)
            process.poller.register(accepted, selectors.EVENT_READ, None)
        first, second = list(process.keepalived_conns)
        clients[1].sendall(b"GET")
        process.murder_keepalived()
        assert asked == [second]
        assert first.sock.fileno() == -1
        assert second.sock.fileno() >= 0
    process.poller.close()
    process.tmp.close()


def test_requests_that_come_together_are_answered_one_by_one(site: Site) -> None:
    get = b"GET /health HTTP/1.1\r\nHost: bot\r\n\r\n"
    with connection(site) as client:
        client.sendall(get * 5 + get[:20])
        time.sleep(0.3)
        client.sendall(get[20:])
        assert answer(client).count(b"HTTP/1.1 200 OK\r\n") == 6


def test_who_asks_first_whether_to_send_is_told(site: Site) -> None:
    with connection(site) as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        client.settimeout(5)
        assert client.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.sendall(b"{}")
        assert b"HTTP/1.1 401 Unauthorized\r\n" in answer(client)


@pytest.mark.parametrize("length", [b"Content-Length: 99999999", b"Transfer-Encoding: chunked"])
def test_what_is_too_large_is_refused_at_once(site: Site, length: bytes) -> None:
    with connection(site) as client:
        client.sendall(HEAD + length + b"\r\n\r\n")
        if b"chunked" in length:
            with contextlib.suppress(OSError):
                client.sendall((b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 20)
        said = b""
        with contextlib.suppress(ConnectionError):
            said = answer(client)
        assert said.startswith(b"HTTP/1.1 413 ") or b"chunked" in length


def test_the_greatest_callback_that_is_allowed_arrives(site: Site) -> None:
    said = requests.post(f"{site.url}/api/feishu/callback", data=b" " * (1024 * 1024), timeout=20)
    assert said.status_code in (400, 401)


def test_a_sender_that_goes_away_costs_nothing(site: Site) -> None:
    for _ in range(MANY):
        with connection(site) as client:
            client.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
            client.shutdown(socket.SHUT_WR)
            assert b" 40" in answer(client)[:20]
    assert requests.get(f"{site.url}/health", timeout=2).ok


def test_an_answer_to_what_is_too_large_is_whole() -> None:
    head, _, body = worker.TOO_LARGE.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head


def test_looking_at_chunks_takes_a_moment() -> None:
    """The main loop does it. Where every line is looked at once for each line before it, this takes ten seconds."""
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for line in (b"0\r\n", b"0;a\r\n", b"1\r\nx\r\n"):
        started = time.process_time()
        worker.missing(chunked + line * 16_000)
        assert time.process_time() - started < 1


@given(st.binary(max_size=300), st.integers(0, 300))
def test_what_is_missing_never_grows_by_more_than_arrives(body: bytes, cut: int) -> None:
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    cut = min(cut, len(request))
    assert worker.missing(request) == (0, 0)
    assert 0 <= worker.missing(request[:cut])[0] <= len(request) - cut
    assert (worker.missing(request[:cut])[0] == 0) == (cut == len(request))


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(1, 60), max_size=40))
def test_chunks_are_whole_when_the_last_byte_is_there_however_they_come(chunks: list[bytes], steps: list[int]) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    request = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"
    at, known = 0, 0
    for step in steps:
        at = min(at + step, len(request))
        more, known = worker.missing(request[:at], known)
        assert (more == 0) == (at == len(request))
        assert more <= len(request) - at
    assert worker.missing(request, known)[0] == worker.missing(request)[0] == 0


def test_the_insides_of_gunicorn_that_this_relies_on() -> None:
    """Read anew when one of these fails: `worker` overrides what the threaded worker does between its own methods."""
    base = gthread.ThreadWorker
    overridden = ("enqueue_req", "murder_keepalived", "murder_pending", "_cap_keepalive", "handle")
    for method in (*overridden, "on_client_socket_readable", "on_pending_socket_readable"):
        assert callable(getattr(base, method))
    assert gthread.STOP_KEEPALIVE_LINGER > 0  # type: ignore[attr-defined]  # the type stubs are older
    assert "data_ready" in gthread.TConn.__init__.__code__.co_names


LINES = st.one_of(
    st.sampled_from(
        [
            b"Content-Length: 5",
            b"Content-Length: -1",
            b"Content-Length: 5, 5",
            b"Content-Length: 0x10",
            b"Content-Length: 99999999999999999999",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding:\tchunked",
            b"Expect: 100-continue",
            b"Connection: close",
            b"Content-Encoding: gzip",
            b" folded",
            b"Host: a\x00b",
        ]
    ),
    st.binary(max_size=40).filter(lambda line: b"\n" not in line),
)
BODIES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", b"-1\r\n", b"5;\r\nhel", b"5\r\nhelloXX0\r\n\r\n", b"FFFFFFFFF\r\n"]
    ),
)
PATHS = st.sampled_from(
    [b"/api/dingtalk/callback", b"/api/feishu/callback", b"/api/alerts", b"/health", b"/ready", b"/%00", b"/\xff", b"*"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([b"GET", b"POST", b"PUT", b"\x00"]), PATHS, st.lists(LINES, max_size=4), BODIES)
def test_no_request_of_a_stranger_is_our_fault(
    site: Site, method: bytes, path: bytes, lines: list[bytes], body: bytes
) -> None:
    request = b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: bot", *lines, b"", body])
    with connection(site) as client:
        with contextlib.suppress(OSError):
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        said = b""
        with contextlib.suppress(ConnectionError):
            said = answer(client)
    for part in said.split(b"HTTP/1.1 ")[1:]:
        assert part[:1] in b"1234", said[:200]
