"""Outgoing HTTP: deadlines, bounds, no redirects, no secrets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
from clawdbot.http import Http, TooLarge, TransportError, _Deadline, allowed

from .conftest import Reply, ScriptedServer, eventually, free_port


class Dripping:
    """A server that sends something at once, and then a byte now and then, for twenty times as long as is waited."""

    deadline = 0.5

    def __init__(self, at_once: bytes, drop: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.stopped, self.ran_dry = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.serve, args=[at_once, drop])
        self.thread.start()

    def serve(self, at_once: bytes, drop: bytes) -> None:
        """Answer the one that connects."""
        client, _ = self.listener.accept()
        end = time.monotonic() + 20 * self.deadline
        with client, contextlib.suppress(OSError):
            client.recv(65536)
            client.sendall(at_once)
            while not self.stopped.wait(self.deadline / 10) and time.monotonic() < end:
                client.sendall(drop)
            if not self.stopped.is_set():
                self.ran_dry.set()

    def close(self) -> None:
        """Stop."""
        self.stopped.set()
        self.thread.join()
        self.listener.close()


OK = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "status line": (b"HTTP/1.1 ", b"2"),
    "header": (OK + b"X-Name: ", b"x"),
    "headers": (OK, b"X: y\r\n"),
    "body": (OK + b"Content-Length: 100000\r\n\r\n", b"x"),
    "body that ends with the connection": (OK + b"Connection: close\r\n\r\n", b"x"),
    "size of a chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "compressed body": (
        OK + b"Content-Encoding: gzip\r\nContent-Length: 100000\r\n\r\n",
        b"\x1f\x8b\x08\x08" + b"x" * 9,
    ),
    "agreement on TLS": (b"\x16\x03\x03\x40\x00", b""),
    "proxy": (b"HTTP/1.1 200 ", b"x"),
}


@pytest.mark.parametrize("what", DRIPS)
def test_deadline_holds_against_a_dripping_server(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Dripping(*DRIPS[what])
    try:
        url = server.url
        if what == "proxy":
            monkeypatch.setenv("HTTPS_PROXY", url)
            url = "https://nowhere.test"
        elif what == "agreement on TLS":
            url = url.replace("http:", "https:")
        with pytest.raises(TransportError, match="deadline passed"):
            Http().request("GET", f"{url}/x", deadline=server.deadline)
        assert not server.ran_dry.is_set()
    finally:
        server.close()


def test_connection_of_a_call_that_ended_in_time_lives_on(server: ScriptedServer) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with _Deadline(0.5) as deadline:
            deadline.holds_for(ours, socket.SHUT_RDWR)
        time.sleep(0.6)
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
    server.on("/a", Reply({}))
    server.on("/slow", Reply({}, delay=1))
    http = Http()
    for _ in range(3):
        assert http.request("GET", f"{server.url}/a").status == 200
    assert server.connections == 1
    with pytest.raises(TransportError, match="deadline passed") as passed:
        http.request("POST", f"{server.url}/slow", payload={}, deadline=0.3)
    assert passed.value.sent
    assert http.request("GET", f"{server.url}/a").status == 200
    assert server.connections == 2


def test_answers(server: ScriptedServer) -> None:
    server.on("/a", Reply({"x": 1}, headers={"X-Name": "v"}), Reply(b"not json"), Reply([1]))
    http = Http()
    first = http.request("POST", f"{server.url}/a", payload={"q": "答"}, params={"p": "1"})
    assert (first.status, first.json(), first.headers["x-name"]) == (200, {"x": 1}, "v")
    assert server.requests[0].body == {"q": "答"}
    assert server.requests[0].query == "p=1"
    assert [http.request("GET", f"{server.url}/a").json() for _ in range(2)] == [{}, {}]


def test_moment_of_writing(server: ScriptedServer) -> None:
    """The hook runs after the request left and before its answer is there."""
    gate = threading.Event()
    server.on("/a", Reply({}, gate=gate))
    written: list[int] = []

    def note() -> None:
        # The request has arrived, and without this it is not answered.
        eventually(lambda: server.requests)
        written.append(len(server.requests))
        gate.set()

    Http().request("POST", f"{server.url}/a", payload={"big": "x" * 100_000}, on_written=note)
    assert written == [1]


def test_whether_the_request_left(server: ScriptedServer) -> None:
    server.on("/a", Reply({}, drop=True))
    with pytest.raises(TransportError) as dropped:
        Http().request("POST", f"{server.url}/a?secret=1", payload={})
    assert dropped.value.sent
    assert "secret" not in str(dropped.value)
    with pytest.raises(TransportError) as refused:
        Http().request("POST", f"http://127.0.0.1:{free_port()}/a", payload={})
    assert not refused.value.sent


@pytest.mark.parametrize("url", ["http://", "nonsense", "http://[::1", "ftp://x/y"])
def test_url_that_is_none(url: str) -> None:
    with pytest.raises((TransportError, ValueError)):
        Http().request("GET", url, deadline=1)


def test_redirects_are_not_followed(server: ScriptedServer) -> None:
    server.on("/a", Reply({}, 302, {"Location": f"{server.url}/b"}))
    assert Http().request("GET", f"{server.url}/a").status == 302
    assert server.paths() == ["/a"]


def test_size_limit(server: ScriptedServer) -> None:
    server.on("/a", Reply(b"x" * 1001))
    with pytest.raises(TooLarge):
        Http().request("GET", f"{server.url}/a", max_bytes=1000)
    assert len(Http().request("GET", f"{server.url}/a", max_bytes=1001).body) == 1001


def test_netrc_is_not_read(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    netrc = f"{tmp_path}/netrc"
    with open(netrc, "w") as file:  # noqa: PTH123  # a plain name
        file.write("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", netrc)
    server.on("/a", Reply({}))
    Http().request("GET", f"{server.url}/a", headers={"Authorization": "Bearer mine"})
    assert server.requests[0].headers["authorization"] == "Bearer mine"


OFFICIAL = ("oapi.example.com", ".files.example.com")
CONFIGURED = ("http://10.0.0.5:9000", "https://proxy.example.org")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://oapi.example.com/x", True),
        ("https://OAPI.example.com:443/x", True),
        ("https://a.files.example.com/x", True),
        ("https://files.example.com/x", False),
        ("https://evilfiles.example.com/x", False),
        ("http://oapi.example.com/x", False),
        ("https://oapi.example.com:444/x", False),
        ("https://oapi.example.com@evil.org/x", False),
        ("https://oapi.example.com:99999/", False),
        ("http://10.0.0.5:9000/session", True),
        ("http://10.0.0.5:9001/session", False),
        ("https://10.0.0.5:9000/session", False),
        ("http://u@10.0.0.5:9000/session", False),
        ("https://proxy.example.org/x", True),
        ("//oapi.example.com/x", False),
        ("", False),
    ],
)
def test_allow_list(url: str, expected: bool) -> None:
    assert allowed(url, OFFICIAL, CONFIGURED) is expected


def test_calls_go_through_the_proxy_of_the_environment(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows the host name: only a proxy, which gets the whole URL, can answer."""
    server.on("http://nowhere.test/x", Reply({"by": "proxy"}))
    monkeypatch.setenv("HTTP_PROXY", server.url)
    assert Http().request("POST", "http://nowhere.test/x", payload={}).json() == {"by": "proxy"}
    monkeypatch.setenv("NO_PROXY", "nowhere.test")
    with pytest.raises(TransportError):
        Http().request("GET", "http://nowhere.test/x")
