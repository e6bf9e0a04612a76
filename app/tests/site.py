"""A whole bot in real processes: Redis, simulator, web behind an activated socket, workers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests
from clawdbot.config import RedisConfig
from clawdbot.engine.queue import Queue
from clawdbot.store import connect
from clawdbot_simulator.client import Control
from clawdbot_simulator.config import Config
from clawdbot_simulator.server import build_server

from .conftest import RedisServer, eventually, write_config
from .trio import PASSWORD, Trio

APP = Path(__file__).parents[1]
# What systemd does: the socket is descriptor 3, and LISTEN_PID is the process that it is for.
ACTIVATED = ("sh", "-c", 'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"', "sh")


class Site:
    """One node after the role has deployed it, with two workers."""

    def __init__(
        self,
        folder: Path,
        app: Path = APP,
        dingtalk: dict[str, Any] | None = None,
        three: Trio | None = None,
        feishu: dict[str, Any] | None = None,
        /,
        **environ: str,
    ) -> None:
        """Keep everything in ``folder`` and run the release that lies in ``app``.

        ``dingtalk`` and ``feishu`` are what their files say besides; with ``three`` no Redis is made.
        """
        self.dingtalk = dingtalk or {}
        self.feishu = feishu or {}
        self.cache: dict[str, str] = {}  # what cache.yaml says besides
        self.three = three
        self.folder = folder
        self.app = app
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        for name in ("redis", "spool"):
            (folder / name).mkdir()
        self.redis = RedisServer(folder / "redis")
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._sim_listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.config = Config.random(f"http://127.0.0.1:{self._sim_listener.getsockname()[1]}")
        self.control = Control(self.config)
        self.environ = {
            **os.environ,
            "CLAWDBOT_CONFIG_DIR": str(folder / "config"),
            "CLAWDBOT_LOG_DIR": str(self.logs),
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
            "CLAWDBOT_SPOOL_DIR": str(folder / "spool"),
            "CLAWDBOT_LEASE_SECONDS": "4",
            "CLAWDBOT_USER_MESSAGES_PER_MINUTE": "10000",
            "CLAWDBOT_LANGUAGES": "en,zh",
            "MODEL_TYPE": "gpt",
            "MODEL_BASE_URL": f"{self.config.public_url}/v1",
            "MODEL_API_KEY": self.config.model.api_key,
            "MODEL_NAME": "sim-vision",
            "CLAWDBOT_REDIS_PASSWORD": PASSWORD if three else "",
            **environ,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, names: Sequence[str] = ("web", "worker-a", "worker-b")) -> None:
        """Start everything, of the bot the processes of these names, and wait until it is ready."""
        if not self.three and not self.redis.process:
            self.redis.start()
        self.configure()
        server = build_server(self.config, self._sim_listener)
        self._sim_listener.close()
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, daemon=True)
        self._thread.start()
        for name in names:
            self.run(name)
        eventually(self.ready, 120)

    def configure(self, **dingtalk: Any) -> None:
        """Write the files of the configuration; ``dingtalk`` is what that file says besides."""
        ding, fei = self.config.dingtalk, self.config.feishu
        write_config(
            self.folder / "config",
            self.config.public_url,
            self.redis.port,
            dingtalk={
                "app_key": ding.app_key,
                "app_secret": ding.app_secret,
                "aes_key": ding.aes_key,
                "token": ding.token,
                "access_token": ding.access_token,
                "robot_secret": ding.robot_secret,
                **self.dingtalk,
                **dingtalk,
            },
            app_id=fei.app_id,
            app_secret=fei.app_secret,
            encryption_key=fei.encryption_key,
            verification_token=fei.verification_token,
            **self.feishu,
        )
        if self.three:
            self.three.write_cache_yaml(self.folder / "config" / "cache.yaml")
        if self.cache:
            path = self.folder / "config" / "cache.yaml"
            path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | self.cache), "utf-8")

    def ready(self) -> bool:
        """Whether the web side says it is."""
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/ready", timeout=5).status_code == 200
        return False

    def run(self, name: str, app: Path | None = None) -> None:
        """Start one process of the release in ``app``; each has its own session, as a unit has a control group."""
        if name == "web":
            command = [*ACTIVATED, sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "app:app"]
        else:
            command = [sys.executable, "-m", "clawdbot", name.partition("-")[0]]
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=app or self.app,
                env=self.environ,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=self._hand_over if name == "web" else None,
                close_fds=name != "web",
            )

    def _hand_over(self) -> None:
        os.dup2(self.listener.fileno(), 3)
        # It may have been the third all along.
        os.set_inheritable(3, True)
        os.closerange(4, 1024)

    def kill(self, name: str) -> None:
        """Kill a unit with -9, all its processes at once."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def terminate(self, name: str) -> int:
        """Stop a unit as `systemctl stop` does; return the exit code."""
        process = self.processes.pop(name)
        process.terminate()
        return process.wait(60)

    def check(self) -> str:
        """What `clawdbot check` says."""
        command = [sys.executable, "-m", "clawdbot", "check"]
        done = subprocess.run(command, cwd=self.app, env=self.environ, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def queue(self) -> Queue:
        """The queue, for a look from outside."""
        config = self.three.config if self.three else RedisConfig(port=self.redis.port)
        return Queue(connect(config, timeout=5), f"look-{secrets.token_hex(4)}")

    def log(self, name: str) -> list[dict[str, object]]:
        """All lines of a log, parsed."""
        path = self.logs / f"{name}.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def close(self) -> None:
        """Kill everything."""
        for name in list(self.processes):
            self.kill(name)
        self.redis.kill()
        self.listener.close()
        # Unless it is the server's by now.
        self._sim_listener.close()
        if hasattr(self, "_server"):
            self._server.shutdown()
            self._server.server_close()


@contextlib.contextmanager
def site(
    folder: Path,
    app: Path = APP,
    dingtalk: dict[str, Any] | None = None,
    three: Trio | None = None,
    feishu: dict[str, Any] | None = None,
    /,
    **environ: str,
) -> Iterator[Site]:
    """A running site; see `Site`."""
    found = Site(folder, app, dingtalk, three, feishu, **environ)
    try:
        found.start()
        yield found
    finally:
        found.close()
