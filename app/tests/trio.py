"""Three Redis servers with Sentinels, as the role sets them up, on one machine."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
from clawdbot.config import RedisConfig
from clawdbot.store import connect

from .conftest import eventually, free_port

NAME = "clawdbot"
PASSWORD = "the-password-of-three"  # of servers on loopback that live for a test
DOWN_AFTER_MS = 3000


class Trio:
    """The servers by number; number 0 is the first primary."""

    def __init__(self, folder: Path, *, to_disk: bool = True) -> None:
        self.folder = folder
        self.to_disk = to_disk
        self.ports = [free_port() for _ in range(3)]
        self.sentinel_ports = [free_port() for _ in range(3)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def config(self) -> RedisConfig:
        """What a client needs to know."""
        return RedisConfig(
            password=PASSWORD,
            servers=tuple(("127.0.0.1", port) for port in self.ports),
            sentinels=tuple(("127.0.0.1", port) for port in self.sentinel_ports),
        )

    def write_cache_yaml(self, path: Path) -> None:
        """Write the bot's configuration."""
        addresses = {
            "servers": [f"127.0.0.1:{port}" for port in self.ports],
            "sentinels": [f"127.0.0.1:{port}" for port in self.sentinel_ports],
        }
        path.write_text(json.dumps({"enabled": True, "ttl": 3600, **addresses}), "utf-8")

    def start(self) -> None:
        """Start all and wait until they are whole."""
        for number in range(3):
            self.run(number, replica_of=0 if number else None)
            self._sentinel(number)
        self.whole()

    def run(self, number: int, replica_of: int | None = None) -> None:
        """Start a server, as a replica unless it is the first: one that returns never is a primary at first."""
        folder = self.folder / f"redis{number}"
        folder.mkdir(exist_ok=True)
        options: dict[str, Any] = {
            "port": self.ports[number],
            "bind": "127.0.0.1",
            "dir": folder,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always" if self.to_disk else "no",
            "maxmemory-policy": "volatile-ttl",
            "logfile": folder / "redis.log",
            "requirepass": PASSWORD,
            "masterauth": PASSWORD,
            "min-replicas-to-write": 1,
            "min-replicas-max-lag": 5,
            "repl-diskless-sync-delay": 0,
            "repl-ping-replica-period": 1,
            "repl-timeout": 10,
        }
        if replica_of is not None:
            options["replicaof"] = f"127.0.0.1 {self.ports[replica_of]}"
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._spawn(f"redis{number}", ["redis-server", *arguments])
        eventually(lambda: self._ask(number, "PING"))

    def _sentinel(self, number: int) -> None:
        path = self.folder / f"sentinel{number}.conf"
        path.write_text(
            f"port {self.sentinel_ports[number]}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"logfile {self.folder}/sentinel{number}.log\n"
            f"sentinel monitor {NAME} 127.0.0.1 {self.ports[0]} 2\n"
            f"sentinel auth-pass {NAME} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {NAME} 5000\n",
            "utf-8",
        )
        self._spawn(f"sentinel{number}", ["redis-sentinel", str(path)])

    def _spawn(self, name: str, command: list[str]) -> None:
        # Debian's redis-tools has server and Sentinel under another name: what it is depends on argv[0].
        program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        assert program, "install redis-server or redis-tools"
        self.processes[name] = subprocess.Popen(command, executable=program)

    def client(self, number: int) -> redis.Redis:
        """A client of one server, whatever it is."""
        return connect(RedisConfig(port=self.ports[number], password=PASSWORD), timeout=2)

    def _ask(self, number: int, *command: str) -> Any:
        with contextlib.suppress(redis.RedisError), self.client(number) as client:
            ask: Any = client.execute_command
            return ask(*command)
        return None

    def sentinel(self, number: int, *command: str) -> Any:
        """Ask a Sentinel."""
        with (
            contextlib.suppress(redis.RedisError),
            connect(RedisConfig(port=self.sentinel_ports[number]), timeout=2) as client,
        ):
            # A pipeline's replies are not parsed into what another version of Redis may say.
            connection: Any = client.connection_pool.get_connection()
            try:
                connection.send_command("SENTINEL", *command)
                return connection.read_response()
            finally:
                client.connection_pool.release(connection)
        return None

    @property
    def primary(self) -> int:
        """Number of the server that the Sentinels name; -1 if they do not agree."""
        named = {
            self.ports.index(int(reply[1]))
            for number in range(3)
            if (reply := self.sentinel(number, "GET-MASTER-ADDR-BY-NAME", NAME))
        }
        return named.pop() if len(named) == 1 else -1

    def whole(self) -> None:
        """Wait until a primary has both replicas, and all Sentinels know all of it."""

        def is_whole() -> bool:
            number = self.primary
            role = number >= 0 and self._ask(number, "ROLE")
            if not role or role[0] != "master" or len(role[2]) != 2:
                return False
            for each in range(3):
                state = self.sentinel(each, "MASTER", NAME) or []
                known = dict(zip(state[::2], state[1::2], strict=True))
                if (known.get("num-slaves"), known.get("num-other-sentinels")) != ("2", "2"):
                    return False
                if known.get("flags") != "master":
                    return False
            return True

        eventually(is_whole)

    def signal(self, name: str, what: signal.Signals) -> None:
        """Send a signal to ``redisN`` or ``sentinelN``."""
        self.processes[name].send_signal(what)

    def kill(self, number: int) -> None:
        """Kill a server with -9."""
        process = self.processes.pop(f"redis{number}")
        process.kill()
        process.wait()

    def close(self) -> None:
        """Kill everything."""
        for process in self.processes.values():
            process.kill()
            process.wait()


@contextlib.contextmanager
def trio(folder: Path, *, to_disk: bool = True) -> Iterator[Trio]:
    """Three running servers."""
    folder.mkdir(exist_ok=True)
    found = Trio(folder, to_disk=to_disk)
    try:
        found.start()
        yield found
    finally:
        found.close()
