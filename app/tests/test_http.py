"""Outgoing HTTP: deadlines, bounds, no redirects, no secrets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from clawdbot.http import Http, TooLarge, TransportError, allowed

from .conftest import Reply, ScriptedServer, free_port


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server that sends its answer byte by byte, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not stop.wait(0.05):
                client.sendall(b"x")

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop.set()
    thread.join()
    listener.close()


def test_deadline_holds_against_a_dripping_server(dripping: str) -> None:
    begin = time.monotonic()
    with pytest.raises(TransportError, match="deadline"):
        Http().request("GET", f"{dripping}/x", deadline=0.5)
    assert time.monotonic() - begin < 2


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
    server.on("/a", Reply({}, delay=0.3))
    written: list[float] = []
    begin = time.monotonic()
    Http().request(
        "POST", f"{server.url}/a", payload={"big": "x" * 100_000}, on_written=lambda: written.append(time.monotonic())
    )
    assert len(written) == 1
    assert written[0] - begin < 0.25
    assert time.monotonic() - written[0] > 0.1


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
