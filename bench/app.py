"""How fast the bot acknowledges: signed callbacks against the same server's trivial route, in the same run.

A callback is verified, deduplicated, queued and on disk (``appendfsync always``) when it is answered. Prints both
rates with P50 and P99, the P99 at a steady 100 callbacks a second, the memory of web and worker, and what a message
takes of Redis. Exit status 1 if a promise is broken: 0.6 of the trivial route's rate, P99 below 10 ms, less than
300 MB, and 256 MB of Redis for 100 000 messages a day. The first two need a machine that does nothing else: whoever
writes to the same disk is waited for. With --replicas there are three servers of Redis and a write counts when two
have it on disk; on this machine they share processors and disk with the bot: 0.5 and 15 ms.

    app/.venv/bin/python bench/app.py [--replicas]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

APP = Path(__file__).resolve().parents[1] / "app"
sys.path[:0] = [str(APP), str(APP.parent / "simulator")]

from clawdbot.answers import Answer  # noqa: E402  # after the path
from clawdbot.clock import now_ms  # noqa: E402
from clawdbot.config import DingTalkConfig, load  # noqa: E402
from clawdbot.engine.queue import Hold, Queue  # noqa: E402
from clawdbot.message import Message  # noqa: E402
from clawdbot.platforms.dingtalk.crypto import robot_sign  # noqa: E402
from clawdbot.sent import Sent  # noqa: E402
from clawdbot.store import connect  # noqa: E402
from tests.trio import PASSWORD, Trio  # noqa: E402

from tests.conftest import RedisServer, dingtalk_body, eventually, free_port, write_config  # noqa: E402

CLIENTS = 2
MOST_A_SECOND = 3000  # callbacks of one client
STEADY_RATE = 100.0
# Alone, and with replicas.
WANTED_RATIO = {False: 0.6, True: 0.5}
WANTED_P99_MS = {False: 10.0, True: 15.0}
WANTED_MEMORY_MB = 300.0
WANTED_REDIS_MB = 256.0
MESSAGES_A_DAY = 100_000
# At worst nothing is answered for an hour, the busiest of the day.
WAITING_AT_ONCE = MESSAGES_A_DAY / 8
SAMPLE = 2000
QUESTION, ANSWER = "请用几句话解释一下这个问题。" * 5, "模型的回答通常有几段文字。" * 55


def trivial(_: DingTalkConfig, __: int) -> bytes:
    """The request of the trivial route."""
    return b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n"


def callback(config: DingTalkConfig, number: int) -> bytes:
    """A signed robot message that nobody has seen before."""
    stamp = str(now_ms())
    name = f"bench-{os.getpid()}-{number}-{stamp}"
    body = json.dumps(dingtalk_body(msgId=name, conversationId=f"conversation-{os.getpid()}-{number % 40}")).encode()
    head = (
        "POST /api/dingtalk/callback HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"timestamp: {stamp}\r\nsign: {robot_sign(config.app_secret, stamp)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


REQUESTS = {"trivial": trivial, "callback": callback}


@dataclasses.dataclass(frozen=True)
class Bot:
    """What is measured."""

    config: DingTalkConfig
    port: int
    web: subprocess.Popen[bytes]
    environ: dict[str, str]


class Connection:
    """A kept-alive connection; as little work as possible, since client and server share the machine."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        """Write one request."""
        self.socket.sendall(request)

    def receive(self) -> None:
        """Read one answer, which must be a 200."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode().splitlines()[0])
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self._more()

    def _more(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise RuntimeError("the server closed the connection")
        return data


def flood(kind: str, config: DingTalkConfig, port: int, connections: int, seconds: float) -> list[float]:
    """Keep ``connections`` requests under way; return the duration of each in seconds."""
    make, number = REQUESTS[kind], 0
    times: list[float] = []
    # Enough for all, so that the client does not sign while the server is measured.
    prepared = [make(config, each) for each in range(int(seconds * MOST_A_SECOND) if kind == "callback" else 1)]
    selector = selectors.DefaultSelector()
    started: dict[int, float] = {}

    def next_request() -> bytes:
        nonlocal number
        number += 1
        if kind == "callback" and number > len(prepared):
            return make(config, number)
        return prepared[(number - 1) % len(prepared)]

    end = time.perf_counter() + seconds
    for _ in range(connections):
        connection = Connection(port)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send(next_request())
        started[connection.socket.fileno()] = time.perf_counter()
    while time.perf_counter() < end:
        for key, _ in selector.select(1):
            connection = key.data
            connection.receive()
            now = time.perf_counter()
            times.append(now - started[connection.socket.fileno()])
            connection.send(next_request())
            started[connection.socket.fileno()] = time.perf_counter()
    return times


def steady(config: DingTalkConfig, port: int, rate: float, seconds: float) -> list[float]:
    """Send callbacks at a steady rate over few connections; return the durations, waiting for a place included."""
    own = threading.local()

    def one(due: float, number: int) -> float:
        if not hasattr(own, "connection"):
            own.connection = Connection(port)
        own.connection.send(callback(config, number))
        own.connection.receive()
        return time.perf_counter() - due

    with ThreadPoolExecutor(8) as pool:
        begin = time.perf_counter() + 0.1
        futures = []
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            futures.append(pool.submit(one, time.perf_counter(), number))
        return [future.result() for future in futures]


def measure(kind: str, bot: Bot, connections: int, seconds: float) -> tuple[float, list[float]]:
    """Rate a second and all durations, over several client processes."""
    with multiprocessing.Pool(CLIENTS) as pool:
        jobs = [(kind, bot.config, bot.port, connections // CLIENTS, seconds)] * CLIENTS
        times = [each for part in pool.starmap(flood, jobs) for each in part]
    return len(times) / seconds, times


def percentile(times: list[float], percent: int) -> float:
    """Percentile in milliseconds."""
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1] * 1000


def resident_mb(*processes: subprocess.Popen[bytes]) -> float:
    """Resident memory of the processes and their children."""
    total = 0
    for process in processes:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in [str(process.pid), *children]:
            status = Path(f"/proc/{pid}/status").read_text()
            total += int(status.partition("VmRSS:")[2].split()[0])
    return total / 1024


def redis_bytes(environ: dict[str, str]) -> tuple[float, float]:
    """What a message takes of Redis' memory while it waits, and from then on until its id is forgotten.

    Histories and cached answers are not counted: a full memory drops them.
    """
    settings = load(environ)
    with connect(settings.redis, timeout=5) as client:
        client.flushall()
        queue, sent = Queue(client, "bench"), Sent(client)
        queue.prepare()

        def used() -> int:
            return int(client.info("memory")["used_memory"])

        empty = used()
        for number in range(SAMPLE):
            name = f"msg{number:032d}"
            route = {
                "session_webhook": f"https://oapi.dingtalk.com/robot/sendBySession?session={name}",
                "expires_ms": 0,
            }
            conversation = f"cid{number % (SAMPLE // 4):032d}"
            message = Message("dingtalk", name, conversation, group=False, sender="u", created_ms=number, route=route)
            queue.accept(dataclasses.replace(message, text=QUESTION), replay_guard=f"{number:064d}")
        waiting = used()
        while leases := queue.take(SAMPLE, 1):
            for lease in leases:
                if begun := queue.begin(lease):
                    message, hold = begun.message(), Hold(queue, lease)
                    hold.keep(message, Answer(ANSWER, turn=(QUESTION, ANSWER)))
                    mark = sent.mark(message, "0", hold.fence)
                    mark.written()
                    mark.sure()
                    queue.done(lease, message, None, settings.redis.ttl)
        return (waiting - empty) / SAMPLE, (used() - empty) / SAMPLE


@contextlib.contextmanager
def running(folder: Path, *, replicas: bool) -> Iterator[Bot]:
    """Redis and web as they are deployed."""
    for name in ("logs", "redis", "spool"):
        (folder / name).mkdir()
    alone, three = RedisServer(folder / "redis"), Trio(folder / "redis")
    (three if replicas else alone).start()
    # Nobody listens there: answers fail and are tried later, so that only the acknowledgement is measured.
    write_config(folder / "config", "http://127.0.0.1:9", alone.port)
    if replicas:
        three.write_cache_yaml(folder / "config" / "cache.yaml")
    port = free_port()
    environ = {
        **os.environ,
        "CLAWDBOT_CONFIG_DIR": str(folder / "config"),
        "CLAWDBOT_LOG_DIR": str(folder / "logs"),
        "CLAWDBOT_SPOOL_DIR": str(folder / "spool"),
        "CLAWDBOT_PORT": str(port),
        "CLAWDBOT_REDIS_PASSWORD": PASSWORD if replicas else "",
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
    }
    config = load(environ).dingtalk
    if config is None:
        raise RuntimeError("the configuration that was just written is not good")
    web = start(environ, "gunicorn", "-c", "gunicorn.conf.py", "app:app")
    try:
        eventually(lambda: listens(port), 30)
        yield Bot(config, port, web, environ)
    finally:
        web.terminate()
        web.wait()
        alone.kill()
        three.close()


def start(environ: dict[str, str], *module: str) -> subprocess.Popen[bytes]:
    """Start ``python -m module...`` in the application's folder."""
    command = [sys.executable, "-m", *module]
    return subprocess.Popen(command, cwd=APP, env=environ, stderr=subprocess.DEVNULL)  # noqa: S603  # our own program


def listens(port: int) -> bool:
    """Whether somebody answers there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=7, help="the two routes take turns; medians count")
    parser.add_argument("--connections", type=int, default=32, help="Nginx keeps as many open")
    parser.add_argument("--replicas", action="store_true", help="three servers of Redis instead of one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running(Path(name), replicas=options.replicas) as bot:
        return report(options, bot)


def report(options: argparse.Namespace, bot: Bot) -> int:
    """Measure and print."""
    measure("trivial", bot, options.connections, 1)
    rates: dict[str, list[float]] = {kind: [] for kind in REQUESTS}
    times: dict[str, list[float]] = {kind: [] for kind in REQUESTS}
    for _ in range(options.rounds):
        for kind in REQUESTS:
            rate, found = measure(kind, bot, options.connections, options.seconds)
            rates[kind].append(rate)
            times[kind] += found
    print(f"{'route':<10} {'requests/s':>10} {'P50 ms':>8} {'P99 ms':>8}")
    for kind in REQUESTS:
        p50, p99 = percentile(times[kind], 50), percentile(times[kind], 99)
        print(f"{kind:<10} {statistics.median(rates[kind]):>10.0f} {p50:>8.1f} {p99:>8.1f}")
    ratio = statistics.median(rates["callback"]) / statistics.median(rates["trivial"])
    quiet = steady(bot.config, bot.port, STEADY_RATE, options.seconds)
    p50, p99 = percentile(quiet, 50), percentile(quiet, 99)
    print(f"{'steady':<10} {STEADY_RATE:>10.0f} {p50:>8.1f} {p99:>8.1f}")
    wanted_ratio, wanted_p99 = WANTED_RATIO[options.replicas], WANTED_P99_MS[options.replicas]
    worker = start(bot.environ, "clawdbot", "worker")
    time.sleep(3)
    memory = resident_mb(bot.web, worker)
    worker.kill()
    worker.wait()
    print(
        f"ratio {ratio:.2f} (wanted {wanted_ratio}), P99 at the steady rate {p99:.1f} ms (wanted {wanted_p99:.0f}),"
        f" resident memory of web and worker {memory:.0f} MB (wanted {WANTED_MEMORY_MB:.0f})"
    )
    waiting, remembered = redis_bytes(bot.environ)
    redis_mb = (WAITING_AT_ONCE * waiting + MESSAGES_A_DAY * remembered) / 1e6
    print(
        f"Redis: {waiting:.0f} bytes a message that waits, {remembered:.0f} for a day after its answer of {len(ANSWER)}"
        f" characters; {redis_mb:.0f} MB for {MESSAGES_A_DAY} messages a day (wanted {WANTED_REDIS_MB:.0f})"
    )
    good = ratio >= wanted_ratio and p99 < wanted_p99 and memory < WANTED_MEMORY_MB and redis_mb < WANTED_REDIS_MB
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
