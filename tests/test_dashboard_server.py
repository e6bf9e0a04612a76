"""The dashboard's part of Nginx: who sees it, and what of Prometheus can be asked through it."""

from __future__ import annotations

import base64
import http.client
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rendering import render
from test_nginx_serves import Balancer, Nodes, at_once, free_port

PASSWORD = "of-the-dashboard"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)


class Ask:
    """Asks the dashboard of a monitoring host."""

    def __init__(self, port: int) -> None:
        self.port = port

    @staticmethod
    def token(password: str = PASSWORD) -> str:
        """What a browser sends once it has asked for the password."""
        return "Basic " + base64.b64encode(f"operator:{password}".encode()).decode()

    def __call__(self, path: str, method: str = "GET", password: str = PASSWORD) -> tuple[int, dict[str, str], bytes]:
        """Send a request; return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, headers={"Authorization": self.token(password)} if password else {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


@pytest.fixture
def prometheus() -> Iterator[Nodes]:
    """Says what it is asked."""
    node = Nodes()
    yield node
    node.shutdown()
    node.server_close()


@pytest.fixture
def ask(tmp_path: Path, prometheus: Nodes) -> Iterator[Ask]:
    """A dashboard, and who asks it."""
    port, page = free_port(), tmp_path / "var/www/clawdbot-monitoring"
    (page / "runbooks").mkdir(parents=True)
    (page / "index.html").write_text("the page", "utf-8")
    (page / "runbooks/HostDown.zh.md").write_text("手册", "utf-8")
    (page / "runbooks/passwords").write_text("x", "utf-8")
    given: dict[str, Any] = {"monitoring_dashboard_port": port, "monitoring_prometheus_port": prometheus.server_port}
    text = render("monitoring", "nginx.conf", **given)
    for place in ("/etc/nginx", "/var/www"):
        text = text.replace(place, f"{tmp_path}{place}")
    conf = tmp_path / "etc/nginx/conf.d/monitoring.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(text, "utf-8")
    hashed = subprocess.run(["openssl", "passwd", "-6", PASSWORD], capture_output=True, text=True, check=True).stdout
    (tmp_path / "etc/nginx/monitoring.htpasswd").write_text(f"operator:{hashed}", "utf-8")
    balancer = Balancer(tmp_path, [prometheus])
    yield Ask(port)
    balancer.process.terminate()
    balancer.process.wait()


@pytest.mark.parametrize("password", ["", "wrong"])
def test_strangers_see_nothing(ask: Ask, prometheus: Nodes, password: str) -> None:
    for path in ("/", "/runbooks/HostDown.zh.md", "/api/v1/query?query=up"):
        status, headers, body = ask(path, password=password)
        assert (status, headers["WWW-Authenticate"], b"the page" in body) == (401, 'Basic realm="clawdbot"', False)
    assert prometheus.seen == []


def test_the_page_and_its_runbooks(ask: Ask) -> None:
    status, headers, body = ask("/")
    assert (status, body) == (200, b"the page")
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")
    status, headers, body = ask("/runbooks/HostDown.zh.md")
    assert (status, body.decode(), headers["Content-Type"]) == (200, "手册", "text/plain; charset=utf-8")
    for path in ("/index.html", "/runbooks/passwords", "/runbooks/../index.html", "/other"):
        assert ask(path)[0] == 404, path


def test_of_prometheus_only_what_the_page_asks(ask: Ask, prometheus: Nodes) -> None:
    for path in ("/api/v1/query?query=up", "/api/v1/query_range?query=up", "/api/v1/alerts"):
        status, _, body = ask(path)
        assert status == 200
        assert b"Authorization" not in body
        assert ask(path, "POST")[0] == 403
    seen = list(prometheus.seen)
    for path in (
        "/api/v1/status/config",
        "/api/v1/query_exemplars",
        "/graph",
        "/-/quit",
        "/metrics",
        "/api/v1/alerts/x",
    ):
        assert ask(path)[0] == 404, path
    assert prometheus.seen == seen


def test_it_is_slow_for_those_who_ask_too_much(ask: Ask) -> None:
    statuses = at_once(ask.port, "/", 300, Authorization=ask.token())
    assert statuses.count(429) > 10
    assert statuses.count(200) > 100


@pytest.mark.parametrize("certificate", ["", "/etc/ssl/mine.pem"])
def test_a_certificate_makes_it_https(certificate: str) -> None:
    given = {
        "monitoring_dashboard_certificate": certificate,
        "monitoring_dashboard_certificate_key": "/etc/ssl/mine.key",
    }
    text = render("monitoring", "nginx.conf", **given if certificate else {})
    assert ("listen 127.0.0.1:9095 ssl;\n" in text) == bool(certificate)
    assert ("    ssl_certificate /etc/ssl/mine.pem;\n" in text) == bool(certificate)
    assert ("    ssl_certificate_key /etc/ssl/mine.key;\n" in text) == bool(certificate)
