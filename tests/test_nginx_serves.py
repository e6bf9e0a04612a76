"""Nginx with what the roles nginx and loadbalancer write, in front of nodes that say what reached them."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from readers import ENVIRONMENT, FOLDER, reader
from rendering import render

CALLBACK = "/api/dingtalk/callback"


class Node(BaseHTTPRequestHandler):
    """A bot that answers with what it got; with ``dead`` it takes a request and says nothing."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Give back the request."""
        server = self.server
        assert isinstance(server, Nodes)
        server.seen.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(server.seconds)
        body = json.dumps({"path": self.path, "headers": dict(self.headers.items())}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Nodes(ThreadingHTTPServer):
    """One node, and what it has seen."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Node)
        self.seen: list[str] = []
        self.seconds = 0.0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """Nginx has gone on without the answer."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def at_once(port: int, path: str, count: int, **headers: str) -> list[int]:
    """Statuses of requests that are sent in one go, so that a slow machine is no slow client."""
    head = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": "x"} | headers).items())
    one = f"GET {path} HTTP/1.1\r\n{head}"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall((f"{one}\r\n" * (count - 1) + f"{one}Connection: close\r\n\r\n").encode())
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", said)]


class Balancer:
    """An Nginx in a folder that stands in for the folders of a host."""

    def __init__(self, folder: Path, nodes: list[Nodes], **variables: Any) -> None:
        self.http, self.https, self.status = free_port(), free_port(), free_port()
        members = [
            {"name": f"app{number}", "address": "127.0.0.1", "port": node.server_port}
            for number, node in enumerate(nodes)
        ]
        given: dict[str, Any] = {
            "inventory_hostname": "lb1",
            "loadbalancer_members": members,
            "loadbalancer_http_ports": [self.http],
            "loadbalancer_https_ports": [self.https],
            "__loadbalancer_inet6": {"stat": {"exists": False}},
        }
        given |= variables
        pem = folder / "etc/nginx/tls/clawdbot.pem"
        shipped = FOLDER if (FOLDER / "etc/nginx").exists() else Path("/")
        for path, text in {
            "etc/nginx/nginx.conf": render("nginx", "nginx.conf", nginx_status_port=self.status),
            "etc/nginx/conf.d/clawdbot.conf": render("loadbalancer", "conf.d/clawdbot.conf", **given),
            "etc/nginx/clawdbot_members.conf": render("loadbalancer", "clawdbot_members.conf", **given),
            "etc/nginx/mime.types": (shipped / "etc/nginx/mime.types").read_text("utf-8"),
            "certify": render("loadbalancer", "clawdbot-certificate", __loadbalancer_pem=str(pem), **given),
        }.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            for place in ("/etc/nginx", "/var/log/nginx", "/run/nginx.pid"):
                text = text.replace(place, f"{folder}{place}")
            file.write_text(
                text.replace("user www-data;", "user root;" if os.geteuid() == 0 else "").replace(
                    f"{folder}{folder}", str(folder)
                ),
                "utf-8",
            )
        (folder / "run").mkdir()
        self.logs = folder / "var/log/nginx"
        self.logs.mkdir(parents=True)
        pem.parent.mkdir(exist_ok=True)
        subprocess.run(["sh", str(folder / "certify")], check=True, capture_output=True)
        for temporary in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
            given[temporary] = f"{temporary}_temp_path {folder}/{temporary};"
        places = " ".join(given[each] for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        main = folder / "etc/nginx/nginx.conf"
        main.write_text(main.read_text("utf-8").replace("http {\n", f"http {{ {places}\n", 1), "utf-8")
        self.configuration = main
        command = [reader("nginx"), "-c", str(main), "-e", str(self.logs / "error.log"), "-g", "daemon off;"]
        self.process = subprocess.Popen(command, env=ENVIRONMENT)
        end = time.monotonic() + 30
        while time.monotonic() < end and self.process.poll() is None:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", self.http)):
                    return
            time.sleep(0.02)
        raise AssertionError((self.logs / "error.log").read_text("utf-8"))

    def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        secure: bool = False,
        port: int = 0,
        body: bytes | None = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request; return status, headers and body."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = (
            http.client.HTTPSConnection("127.0.0.1", self.https, timeout=20, context=context)
            if secure
            else http.client.HTTPConnection("127.0.0.1", port or self.http, timeout=20)
        )
        connection.request(
            method, path, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


@pytest.fixture
def nodes() -> Iterator[list[Nodes]]:
    """Two nodes."""
    made = [Nodes(), Nodes()]
    yield made
    for node in made:
        node.shutdown()
        node.server_close()


@pytest.fixture
def balance(tmp_path: Path, nodes: list[Nodes]) -> Iterator[Any]:
    """Starts a balancer in front of them."""
    made: list[Balancer] = []

    def start(**variables: Any) -> Balancer:
        made.append(Balancer(tmp_path, nodes, **variables))
        return made[-1]

    yield start
    for balancer in made:
        balancer.process.terminate()
        balancer.process.wait()


def test_the_bot_learns_who_asks(balance: Any) -> None:
    balancer = balance()
    status, headers, body = balancer.ask("/any?x=1", Host="bot.test", X_Forwarded_For="6.6.6.6", X_Real_IP="6.6.6.6")
    reached = json.loads(body)
    got = {name: reached["headers"].get(name) for name in ("Host", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto")}
    here = {"Host": "bot.test", "X-Real-IP": "127.0.0.1", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http"}
    assert (status, reached["path"], got) == (200, "/any?x=1", here)
    assert "Connection" not in reached["headers"]
    assert headers["Server"] == "nginx"
    secure = json.loads(balancer.ask("/any", secure=True)[2])
    assert secure["headers"]["X-Forwarded-Proto"] == "https"


def test_a_proxy_in_front_is_believed_if_it_is_known(balance: Any) -> None:
    balancer = balance(loadbalancer_trusted_proxies=["127.0.0.1", "198.51.100.0/24"])
    reached = json.loads(balancer.ask("/any", X_Forwarded_For="6.6.6.6, 192.0.2.7, 198.51.100.2")[2])
    assert reached["headers"]["X-Forwarded-For"] == "192.0.2.7"


def test_what_is_for_the_monitoring_is_not_for_the_world(balance: Any, nodes: list[Nodes]) -> None:
    balancer = balance()
    asked = ("/metrics", "/metrics/x", "/api/alerts", "/api/alerts/x")
    assert [balancer.ask(path)[0] for path in asked] == [404] * 4
    assert [node.seen for node in nodes] == [[], []]
    status, _, body = balancer.ask("/stub_status", port=balancer.status)
    assert (status, body[:19]) == (200, b"Active connections:")
    assert balancer.ask("/other", port=balancer.status)[0] == 404
    assert "/stub_status" not in (balancer.logs / "access.log").read_text("utf-8")


def test_a_callback_that_a_node_does_not_answer_goes_to_the_next(balance: Any, nodes: list[Nodes]) -> None:
    balancer = balance(loadbalancer_callback_timeout=1, loadbalancer_timeout=2)
    for node in nodes:
        node.seconds = 10
    begin = time.monotonic()
    assert balancer.ask(CALLBACK, "POST", body=b"{}")[0] == 504
    assert 1.5 < time.monotonic() - begin < 10
    assert [node.seen for node in nodes] == [[CALLBACK], [CALLBACK]]
    time.sleep(0.1)
    begin = time.monotonic()
    # Anything else that is not a callback is asked for once only.
    assert balancer.ask("/other", "POST", body=b"{}")[0] in (502, 504)
    assert sum(node.seen.count("/other") for node in nodes) <= 1


def test_too_many_and_too_large_requests_are_refused(balance: Any) -> None:
    balancer = balance(loadbalancer_rate=1, loadbalancer_burst=2, loadbalancer_max_body="1k")
    assert balancer.ask("/any", "POST", body=b"x" * 2000)[0] == 413
    assert set(at_once(balancer.http, "/any", 20)) == {200, 429}
    assert "limiting requests" in (balancer.logs / "error.log").read_text("utf-8")


def test_other_names_get_no_answer(balance: Any) -> None:
    balancer = balance(loadbalancer_domain="bot.test", loadbalancer_former_domains=["old.test"])
    for secure in (False, True):
        assert balancer.ask("/any", secure=secure, Host="bot.test")[0] == 200
        assert balancer.ask("/any", secure=secure, Host="old.test")[0] == 200
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError, ssl.SSLError)):
            balancer.ask("/any", secure=secure, Host="other.test")


def test_people_are_sent_to_https_and_platforms_are_not(balance: Any) -> None:
    balancer = balance(loadbalancer_redirect=True, loadbalancer_domain="bot.test")
    status, headers, _ = balancer.ask("/any?x=1", Host="bot.test")
    assert (status, headers["Location"]) == (308, f"https://bot.test:{balancer.https}/any?x=1")
    assert balancer.ask("/health", Host="bot.test")[0] == 200
    assert balancer.ask(CALLBACK, "POST", body=b"{}", Host="bot.test")[0] == 200
    status, headers, _ = balancer.ask("/any", secure=True, Host="bot.test")
    assert (status, headers["Strict-Transport-Security"]) == (200, "max-age=31536000")
    assert "Strict-Transport-Security" not in balancer.ask("/metrics", Host="bot.test")[1]


def test_the_certificate_is_served_with_modern_tls_only(balance: Any) -> None:
    balancer = balance()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", balancer.https)) as raw, context.wrap_socket(raw) as tls:
        assert tls.version() == "TLSv1.3"
    options = (
        "ssl_protocols ssl_ciphers ssl_prefer_server_ciphers ssl_session_cache ssl_session_timeout ssl_session_tickets"
    )
    text = balancer.configuration.read_text("utf-8")
    found = dict(
        line.strip().rstrip(";").split(" ", 1) for line in text.splitlines() if line.strip().startswith("ssl_")
    )
    assert set(found) == set(options.split())
    assert found["ssl_protocols"] == "TLSv1.2 TLSv1.3"
    assert all(cipher.startswith("ECDHE-") for cipher in found["ssl_ciphers"].split(":"))
    assert [found[option] for option in options.split()[2:]] == ["off", "shared:tls:10m", "1d", "off"]


def test_limits_of_connections_fit_each_other() -> None:
    text = render("nginx", "nginx.conf", nginx_worker_connections=1000)
    for line in (
        "worker_connections 1000;",
        "worker_rlimit_nofile 3024;",
        "worker_processes auto;",
        "worker_shutdown_timeout 60s;",
        "client_header_timeout 10s;",
        "client_body_timeout 10s;",
        "send_timeout 10s;",
        "keepalive_timeout 65s;",
        "reset_timedout_connection on;",
        "server_tokens off;",
        "user www-data;",
    ):
        assert f"{line}\n" in text


def test_names_are_proven_over_http() -> None:
    given = {
        "inventory_hostname": "lb1",
        "loadbalancer_members": [],
        "__loadbalancer_inet6": {"stat": {"exists": True}},
    }
    text = render(
        "loadbalancer", "conf.d/clawdbot.conf", loadbalancer_tls="acme", loadbalancer_domain="bot.test", **given
    )
    challenge = "location ^~ /.well-known/acme-challenge/ {\n        root /var/www/acme;\n"
    # For the name itself, and for others, which may be former ones whose renewal is under way.
    assert text.count(challenge) == 2
