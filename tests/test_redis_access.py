"""Who may log in to Redis changes while it runs: new passwords beside former ones, and these gone at the end."""

import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A Redis with an access list, and the two programs of its host."""

    folder: Path
    port: int

    def access(self, *arguments: str, passwords: tuple[str, ...] = ()) -> str:
        """What clawdbot-redis-access says."""
        said = "".join(f"{digest(password)}\n" for password in passwords)
        done = subprocess.run(
            [self.folder / "access", *arguments], input=said, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def lets_in(self, password: str) -> bool:
        """Whether a login with it succeeds."""
        asked = subprocess.run(
            ["redis-cli", "-p", str(self.port), "ping"],
            env={"REDISCLI_AUTH": password, "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        return asked.stdout == "PONG\n"

    def login(self, password: str) -> socket.socket:
        """A connection that stays."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        connection.sendall(f'AUTH "{password}"\r\n'.encode())
        assert connection.recv(100) == b"+OK\r\n"
        return connection

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it answers."""
        # Debian's redis-tools has the server under another name: what it is depends on argv[0].
        program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        assert program, "install redis-server or redis-tools"
        settings = f"{self.folder}/redis.conf"
        server = subprocess.Popen(["redis-server", settings], executable=program, stdout=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return server
            time.sleep(0.05)
        raise AssertionError("it does not answer")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, free_port())
    cli = (ROOT / "roles/redis/files/clawdbot-redis").read_text()
    (tmp_path / "cli").write_text(cli.replace("/etc/redis", str(tmp_path)).replace("/run/redis", str(tmp_path)))
    access = (ROOT / "roles/redis/files/clawdbot-redis-access").read_text()
    for there, here in (
        ("/etc/redis", str(tmp_path)),
        ("/usr/local/sbin/clawdbot-redis", str(tmp_path / "cli")),
        ("chown root:redis", "test -e"),
        ("systemctl", "false"),
    ):
        access = access.replace(there, here)
    (tmp_path / "access").write_text(access)
    for program in ("cli", "access"):
        (tmp_path / program).chmod(0o755)
    (tmp_path / "clawdbot-port.conf").write_text(f"port {server.port}\n")
    (tmp_path / "redis.conf").write_text(
        f"include {tmp_path}/clawdbot-port.conf\nbind 127.0.0.1\naclfile {tmp_path}/clawdbot.acl\n"
        f"unixsocket {tmp_path}/clawdbot.sock\nsave ''\n"
    )
    assert server.access("write", passwords=("the former one",)) == "changed\n"
    process = server.start()
    yield server
    process.kill()
    process.wait()


def test_a_password_changes_in_three_steps(server: Server) -> None:
    old = server.login("the former one")
    assert server.access("write", "--check", passwords=("the new one", "the former one")) == "changed\n"
    assert server.access("write", passwords=("the new one", "the former one")) == "changed\n"
    assert not server.lets_in("the new one")
    server.access("load")
    assert server.lets_in("the new one")
    assert server.lets_in("the former one")
    old.sendall(b"PING\r\n")
    assert old.recv(100) == b"+PONG\r\n"
    assert server.access("write", passwords=("the new one", "the former one")) == ""
    assert server.access("write", passwords=("the new one",)) == "changed\n"
    server.access("load")
    assert server.lets_in("the new one")
    assert not server.lets_in("the former one")
    assert old.recv(100) == b""  # nobody goes on with a password that is gone


def test_a_port_changes_and_connections_live_on(server: Server) -> None:
    there = server.login("the former one")
    former, server.port = server.port, free_port()
    (server.folder / "clawdbot-port.conf").write_text(f"port {server.port}\n")
    server.access("load")
    assert server.lets_in("the former one")
    there.sendall(b"PING\r\n")
    assert there.recv(100) == b"+PONG\r\n"
    with socket.create_server(("127.0.0.1", former)):  # is free again
        pass


def test_a_port_that_is_taken_is_said_and_the_present_one_stays(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (server.folder / "clawdbot-port.conf").write_text(f"port {taken.getsockname()[1]}\n")
        done = subprocess.run([server.folder / "access", "load"], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "Unable to listen on this port" in done.stdout + done.stderr
        assert server.lets_in("the former one")


def test_both_are_there_after_a_restart(server: Server) -> None:
    server.access("write", passwords=("the new one", "the former one"))
    server.access("load")
    subprocess.run([server.folder / "cli", "shutdown", "nosave"], check=False)
    process = server.start()
    assert server.lets_in("the new one")
    assert server.lets_in("the former one")
    process.kill()
    process.wait()


def test_no_password_is_written_down_but_roots_own(server: Server) -> None:
    for file in filter(Path.is_file, server.folder.iterdir()):
        assert "the former one" not in file.read_text(), file
    assert (server.folder / "clawdbot-root").stat().st_mode & 0o777 == 0o600
    whoami = subprocess.run([server.folder / "cli", "acl", "whoami"], capture_output=True, text=True, check=True)
    assert whoami.stdout == "root\n"
