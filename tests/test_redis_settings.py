"""A Redis that is started with what the role writes holds to what the bot relies on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from readers import ENVIRONMENT, read, reader
from rendering import render

#: Nothing confirmed is lost, and a full memory costs no message.
ALONE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "maxmemory": str(256 << 20),
    "maxmemory-policy": "volatile-ttl",
    "protected-mode": "yes",
    "unixsocketperm": "700",
    "bind": "127.0.0.1",
    "repl-diskless-sync-delay": "0",
    "logfile": "",
    "min-replicas-to-write": "0",
}
#: Of several one that nobody copies takes no writes, and a short silence costs no whole copy.
SEVERAL = ALONE | {
    "replica-announce-ip": "10.0.0.1",
    "min-replicas-to-write": "1",
    "min-replicas-max-lag": "5",
    "repl-ping-replica-period": "1",
    "repl-timeout": "10",
    "repl-backlog-size": str(32 << 20),
}
SERVERS = {"r1": "10.0.0.1", "r2": "10.0.0.2", "r3": "10.0.0.3"}
LINK = {
    "site": "a",
    "host": "a.test",
    "port": 7380,
    "listen": 7381,
    "other_site": "b",
    "other_host": "b.test",
    "other_port": 7382,
}


class Server:
    """A Redis that reads the role's settings in a folder instead of /etc/redis, without the network."""

    def __init__(self, folder: Path, **variables: Any) -> None:
        self.socket = folder / "clawdbot.sock"
        text = render("redis", "clawdbot.conf", **variables)
        for place in ("/etc/redis", "/run/redis"):
            text = text.replace(place, str(folder))
        (folder / "clawdbot.conf").write_text(text, "utf-8")
        (folder / "clawdbot-port.conf").write_text("port 0\n", "utf-8")
        (folder / "clawdbot.acl").write_text("user default on nopass ~* &* +@all\n", "utf-8")
        (folder / "clawdbot-replication.conf").write_text(
            render("redis", "replication.conf", redis_password="secret"), "utf-8"
        )
        command = ["redis-server", str(folder / "clawdbot.conf"), "--dir", str(folder)]
        # What Debian's redis-tools has under another name is the server: it goes by argv[0].
        self.process = subprocess.Popen(command, executable=reader("redis-check-rdb"), env=ENVIRONMENT)

    def settings(self) -> dict[str, str]:
        """All that it has been told."""
        end = time.monotonic() + 30
        while not self.socket.exists():
            assert self.process.poll() is None, "it has ended"
            assert time.monotonic() < end, "it does not start"
            time.sleep(0.02)
        lines = read("redis-cli", "-s", self.socket, "config", "get", "*").split("\n")
        return dict(zip(lines[::2], lines[1::2], strict=False))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    servers = []

    def begin(**variables: Any) -> dict[str, str]:
        servers.append(Server(tmp_path, **variables))
        return servers[-1].settings()

    yield begin
    for server in servers:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize(
    ("variables", "meant"),
    [
        ({}, ALONE),
        (
            {"redis_appendfsync": "everysec", "redis_maxmemory": "1gb"},
            {"appendfsync": "everysec", "maxmemory": "1073741824"},
        ),
        ({"redis_servers": SERVERS, "redis_own_address": "10.0.0.1"}, SEVERAL | {"masterauth": "secret"}),
    ],
)
def test_what_is_in_force_is_what_was_meant(start: Any, variables: dict[str, Any], meant: dict[str, str]) -> None:
    found = start(**variables)
    assert {name: found[name] for name in meant} == meant


def test_the_other_site_comes_by_tls_with_a_certificate() -> None:
    text = render("redis", "clawdbot.conf", redis_link=LINK)
    for line in (
        "tls-cert-file /etc/redis/clawdbot-link.crt",
        "tls-key-file /etc/redis/clawdbot-link.key",
        "tls-ca-cert-file /etc/redis/clawdbot-link.crt",
        "tls-auth-clients yes",
        "include /etc/redis/clawdbot-link*.conf",
        "include /etc/redis/clawdbot-replication.conf",
        "include /etc/redis/clawdbot-port.conf",
    ):
        assert f"\n{line}\n" in text
    assert "min-replicas" not in text


@pytest.mark.parametrize(
    ("name", "variables", "meant"),
    [
        (
            "group",
            {"redis_servers": SERVERS, "redis_own_address": "10.0.0.1", "hostvars": {}},
            {
                "own": "10.0.0.1",
                "port": "6379",
                "servers": "10.0.0.1 10.0.0.2 10.0.0.3",
                "first": "10.0.0.1",
                "sentinel_port": "26379",
                "quorum": "2",
                "silence_ms": "3000",
            },
        ),
        (
            "site",
            {"redis_link": LINK},
            {
                "own": "a",
                "own_host": "a.test",
                "own_port": "7380",
                "link_port": "7381",
                "other": "b",
                "other_host": "b.test",
                "other_port": "7382",
            },
        ),
    ],
)
def test_what_the_programs_are_told(
    tmp_path: Path, name: str, variables: dict[str, Any], meant: dict[str, str]
) -> None:
    file = tmp_path / name
    file.write_text(render("redis", name, **variables), "utf-8")
    said = subprocess.run(
        ["sh", "-c", f"set -a; . {file}; env"], env={}, capture_output=True, text=True, check=True
    ).stdout
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    assert {name: found.get(name) for name in meant} == meant
