"""Shared fixtures: a Redis of our own, settings with fresh secrets, and an HTTP server that plays a script."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
from clawdbot import cli, config, logs
from clawdbot.clock import now_ms
from clawdbot.config import DingTalkConfig, FeishuConfig, Settings, files, loading
from clawdbot.engine.queue import Queue
from clawdbot.message import Message
from clawdbot.platforms.dingtalk.crypto import EventCipher, event_signature, robot_sign
from clawdbot.platforms.feishu.crypto import signature as feishu_signature
from clawdbot.store import connect
from clawdbot.web import create_app
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from werkzeug.test import TestResponse

VECTORS = Path(__file__).parent / "vectors"
MODULE = "module.exports = "


def vectors(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return data


def _ports() -> Iterator[int]:
    """Ports below those the kernel gives to connections, another part of them for each process of the tests."""
    size = 2000
    first = 20_000 + size * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = secrets.randbelow(size)  # another run on this machine begins elsewhere
    return (first + step % size for step in itertools.count(begin))


_PORTS = _ports()


def free_port() -> int:
    """Return a port that nobody listens on and no other caller gets; the kernel would give one twice."""

    def is_free(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    return next(filter(is_free, _PORTS))


def eventually(condition: Callable[[], Any], seconds: float = 180.0) -> Any:
    """Wait until ``condition`` is true and return its value. Only failures take ``seconds``, so let them be many."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


class RedisServer:
    """A Redis with the settings of production; may be killed and started again.

    With ``to_disk`` every write waits for the disk, as in production. Without it what was confirmed is in the kernel's
    hands, so that it outlives a kill of Redis all the same, and on a busy disk tests take a fraction of the time.
    """

    def __init__(self, folder: Path, *, to_disk: bool = True) -> None:
        self.folder = folder
        self.to_disk = to_disk
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        # Debian's redis-tools has the server under another name: what it is depends on argv[0].
        program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        assert program, "install redis-server or redis-tools"
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always" if self.to_disk else "no",
            "maxmemory-policy": "volatile-ttl",
            "maxmemory": "256mb",
            "logfile": self.folder / "redis.log",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.process = subprocess.Popen(["redis-server", *arguments], executable=program)
        eventually(self.answers)

    def answers(self) -> bool:
        """Whether it runs and has loaded its data."""
        with connect(config.RedisConfig(port=self.port), timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def kill(self) -> None:
        """Kill it with -9."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), to_disk=False)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with connect(config.RedisConfig(port=redis_server.port), timeout=5) as found:
        found.flushall()
        yield found


@pytest.fixture(autouse=True)
def _no_connection_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what a test's clients of Redis opened: left to the garbage collector, another test gets the warning."""
    pools: list[redis.ConnectionPool] = []
    create = redis.ConnectionPool.__init__

    def remember(self: redis.ConnectionPool, *args: Any, **kwargs: Any) -> None:
        create(self, *args, **kwargs)
        pools.append(self)

    monkeypatch.setattr(redis.ConnectionPool, "__init__", remember)
    yield
    for pool in pools:
        pool.disconnect()


@dataclasses.dataclass
class Reply:
    """What the scripted server answers: JSON unless it is bytes."""

    body: Any = dataclasses.field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    gate: threading.Event | None = None
    drop: bool = False
    # Instead of the body: what is sent piece by piece, numbers being pauses in seconds, and whether it breaks off then.
    pieces: list[str | bytes | float] | None = None
    breaks_off: bool = False


@dataclasses.dataclass
class Request:
    """What the scripted server received."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any


class ScriptedServer:
    """Answers each path with its replies, the last one again and again, and remembers the requests."""

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.requests: list[Request] = []
        self.connections = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                owner.connections += 1
                super().setup()

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def do_PUT(self) -> None:
                self.answer()

            def answer(self) -> None:
                path, _, query = self.path.partition("?")
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.loads(raw) if raw else None
                headers = {name.lower(): value for name, value in self.headers.items()}
                owner.requests.append(Request(self.command, path, query, headers, body))
                known = owner.replies.get(path, [Reply({"code": 404404}, 404)])
                reply = known.pop(0) if len(known) > 1 else known[0]
                time.sleep(reply.delay)
                if reply.gate:
                    reply.gate.wait(60)
                if reply.drop:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if reply.pieces is not None:
                    self.stream(reply, reply.pieces)
                    return
                data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

            def stream(self, reply: Reply, pieces: list[str | bytes | float]) -> None:
                self.send_response(reply.status)
                for name, value in ({"Content-Type": "text/event-stream"} | reply.headers).items():
                    self.send_header(name, value)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                with contextlib.suppress(OSError):
                    for piece in pieces:
                        if isinstance(piece, float):
                            time.sleep(piece)
                            continue
                        data = piece.encode() if isinstance(piece, str) else piece
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    if reply.breaks_off:
                        self.close_connection = True
                        self.connection.shutdown(socket.SHUT_RDWR)
                    else:
                        self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: Any) -> None:
                """Stay quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def on(self, path: str, *replies: Reply) -> None:
        """Set the replies of a path."""
        self.replies[path] = list(replies)

    def paths(self) -> list[str]:
        """Paths of all requests, in order."""
        return [request.path for request in self.requests]

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    found = ScriptedServer()
    yield found
    found.close()


def write_config(
    folder: Path, base_url: str, redis_port: int, *, dingtalk: dict[str, Any] | None = None, **feishu: Any
) -> None:
    """Write the three files with fresh secrets and ``base_url`` as the address of both platforms."""
    folder.mkdir(parents=True, exist_ok=True)
    ding = {
        "app_key": "ding" + secrets.token_hex(8),
        "app_secret": secrets.token_urlsafe(32),
        "aes_key": base64.b64encode(secrets.token_bytes(32)).decode().rstrip("="),
        "token": secrets.token_hex(8),
        "webhook_url": f"{base_url}/robot/send",
        "api_base_url": base_url,
        "oapi_base_url": base_url,
        **(dingtalk or {}),
    }
    fei = {
        "app_id": "cli_" + secrets.token_hex(8),
        "app_secret": secrets.token_hex(16),
        "encryption_key": secrets.token_hex(16),
        "verification_token": secrets.token_hex(16),
        "webhook_url": f"{base_url}/open-apis/im/v1/messages",
        **feishu,
    }
    # JSON is YAML, and a JavaScript expression.
    (folder / "dingtalk.yaml").write_text(json.dumps(ding), "utf-8")
    (folder / "feishu.js").write_text(MODULE + json.dumps(fei), "utf-8")
    cache = {"enabled": True, "host": "127.0.0.1", "port": redis_port, "db": 0, "ttl": 3600}
    (folder / "cache.yaml").write_text(json.dumps(cache), "utf-8")


@pytest.fixture(autouse=True)
def _json_is_read_without_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read what `write_config` wrote at once: Node takes longer to start than most tests to run."""

    def read(path: Path) -> Mapping[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            module, _, value = path.read_text("utf-8").partition(MODULE)
            if not module:
                data: dict[str, Any] = json.loads(value)
                return data
        return files.read_js(path)

    monkeypatch.setattr(loading, "read_js", read)


@pytest.fixture
def environ(tmp_path: Path, client: redis.Redis, server: ScriptedServer) -> dict[str, str]:
    """An environment whose configuration is good and points to an empty Redis and the scripted server."""
    write_config(tmp_path / "config", server.url, client.connection_pool.connection_kwargs["port"])
    (tmp_path / "logs").mkdir()
    return {
        "CLAWDBOT_CONFIG_DIR": str(tmp_path / "config"),
        "CLAWDBOT_LOG_DIR": str(tmp_path / "logs"),
        "CLAWDBOT_PORT": str(free_port()),
        # What most tests expect is easier to read in the language of the code.
        "CLAWDBOT_LANGUAGES": "en,zh",
    }


@pytest.fixture
def settings(environ: dict[str, str]) -> Settings:
    found = config.load(environ)
    assert not found.problems
    return found


@dataclasses.dataclass
class Bot:
    """The web application under test, at a time of our choice."""

    settings: Settings
    now_ms: int = dataclasses.field(default_factory=now_ms)

    def __post_init__(self) -> None:
        self.app = create_app(self.settings, clock=lambda: self.now_ms)
        self.web = self.app.test_client()
        self.queue = Queue(connect(self.settings.redis, timeout=5), "test")

    @property
    def dingtalk(self) -> DingTalkConfig:
        """Configuration of DingTalk."""
        assert self.settings.dingtalk
        return self.settings.dingtalk

    @property
    def feishu(self) -> FeishuConfig:
        """Configuration of Feishu."""
        assert self.settings.feishu
        return self.settings.feishu

    def robot(self, body: Any, *, timestamp: object = None, secret: str | None = None) -> TestResponse:
        """Send a robot message with the signature that DingTalk would give it."""
        stamp = str(self.now_ms if timestamp is None else timestamp)
        sign = robot_sign(secret or self.dingtalk.app_secret, stamp)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.web.post("/api/dingtalk/callback", data=data, headers={"timestamp": stamp, "sign": sign})

    def event(self, plain: bytes, **query: str) -> TestResponse:
        """Send a DingTalk event."""
        ding = self.dingtalk
        encrypted = EventCipher(ding.aes_key, ding.app_key).encrypt(plain)
        given = {"timestamp": str(self.now_ms), "nonce": "abc", **query}
        signature = event_signature(ding.token, given["timestamp"], given["nonce"], encrypted)
        return self.web.post(
            "/api/dingtalk/callback", query_string={"msg_signature": signature, **given}, json={"encrypt": encrypted}
        )

    def lark(self, event: Any, *, signed: bool = True, timestamp: object = None) -> TestResponse:
        """Send an encrypted Feishu event."""
        key = self.feishu.encryption_key
        plain = event if isinstance(event, bytes) else json.dumps(event).encode()
        body = json.dumps({"encrypt": feishu_encrypt(key, plain)}).encode()
        stamp = str(self.now_ms // 1000 if timestamp is None else timestamp)
        headers = {
            "X-Lark-Request-Timestamp": stamp,
            "X-Lark-Request-Nonce": "n",
            "X-Lark-Signature": feishu_signature(stamp, "n", key, body),
        }
        return self.web.post("/api/feishu/callback", data=body, headers=headers if signed else {})

    def queued(self) -> list[Message]:
        """Take everything that is queued, in order of the conversations' announcement."""
        found = []
        self.queue.prepare()
        while leases := self.queue.take(100, 1):
            for lease in leases:
                begun = self.queue.begin(lease)
                assert begun
                found.append(begun.message())
                self.queue.done(lease, found[-1], None, 1)
        return found


def feishu_encrypt(key: str, plain: bytes) -> str:
    """Encrypt as Feishu does."""
    pad = 16 - len(plain) % 16
    iv = secrets.token_bytes(16)
    encryptor = Cipher(algorithms.AES(hashlib.sha256(key.encode()).digest()), modes.CBC(iv)).encryptor()
    return base64.b64encode(iv + encryptor.update(plain + bytes([pad]) * pad) + encryptor.finalize()).decode()


def dingtalk_body(**changes: Any) -> dict[str, Any]:
    """The documentation's text message in a single chat, sent now; ``...`` removes a field."""
    body = vectors("dingtalk_robot_sign")["bodies"]["single_text"]
    body |= {"createAt": now_ms(), "sessionWebhookExpiredTime": now_ms() + 5_400_000, **changes}
    return {name: value for name, value in body.items() if value is not ...}


def feishu_event(config: FeishuConfig, **message: Any) -> dict[str, Any]:
    """A text message in a single chat, sent now; keyword arguments change ``event.message``."""
    return {
        "schema": "2.0",
        "header": {
            "event_id": "ev_1",
            "event_type": "im.message.receive_v1",
            "create_time": str(now_ms()),
            "token": config.verification_token,
            "app_id": config.app_id,
            "tenant_key": "t",
        },
        "event": {
            "sender": {"sender_id": {"open_id": "ou_user", "user_id": "u", "union_id": "on_u"}, "sender_type": "user"},
            "message": {
                "message_id": "om_1",
                "chat_id": "oc_1",
                "chat_type": "p2p",
                "create_time": str(now_ms()),
                "message_type": "text",
                "content": json.dumps({"text": "hello"}),
                **message,
            },
        },
    }


@pytest.fixture
def bot(settings: Settings) -> Bot:
    return Bot(settings)


@pytest.fixture
def clean_logging() -> Iterator[None]:
    """Take away the handlers that a test installs."""
    names = [None, logs.access_log.name, logs.model_log.name]
    yield
    for name in names:
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            if isinstance(handler, logs.LineHandler) or isinstance(handler.formatter, logs.JsonFormatter):
                logger.removeHandler(handler)
                handler.close()
        logger.propagate = True


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; return its exit status and what it said."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> tuple[int, str]:
        code = cli.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call
