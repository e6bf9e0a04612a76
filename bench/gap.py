"""How long a worker that dies may have sent a part of an answer without having noted it.

DingTalk has nothing that makes a repetition harmless, so `clawdbot.sent.Mark` notes a part in the instant after its
last byte was written. This prints the time between the two as the kernel saw them arrive: the answer at a platform,
the note at Redis; over many parts, from several threads, while others keep Python's lock busy.

    app/.venv/bin/python bench/gap.py [--busy 4]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import re
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from pathlib import Path

APP = Path(__file__).resolve().parents[1] / "app"
sys.path[:0] = [str(APP), str(APP.parent / "simulator")]

from clawdbot.cli import SWITCH_SECONDS  # noqa: E402  # after the path
from clawdbot.config import RedisConfig  # noqa: E402
from clawdbot.http import Http  # noqa: E402
from clawdbot.message import Message  # noqa: E402
from clawdbot.sent import Sent  # noqa: E402
from clawdbot.store import connect  # noqa: E402

from tests.conftest import RedisServer  # noqa: E402

SO_TIMESTAMPNS = 35
SLOTS = 8
NAME = re.compile(rb"part-\d+-end")
FENCE = ("workers", "bench", "1-1")


def receive(client: socket.socket) -> tuple[bytes, float]:
    """What has arrived, and when, in seconds, by the kernel's clock."""
    data, ancillary, _, _ = client.recvmsg(65536, 64)
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", value[:16])
            return data, seconds + nanoseconds / 1e9
    return data, time.time()


def serve(listener: socket.socket, redis_port: int, seen: Queue[tuple[bytes, float]]) -> None:
    """Be the platform, or with ``redis_port`` what stands before Redis; report each part and its moment."""
    listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def one(client: socket.socket) -> None:
        behind = socket.create_connection(("127.0.0.1", redis_port)) if redis_port else None
        data = b""
        while True:
            more, moment = receive(client)
            if not more:
                return
            data += more
            for name in NAME.findall(data):
                seen.put((name, moment))
                data = b""
                if not behind:
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            if behind:
                behind.sendall(more)
                client.sendall(behind.recv(65536))

    while True:
        threading.Thread(target=one, args=[listener.accept()[0]], daemon=True).start()


def keep_busy(end: threading.Event) -> None:
    """Work that holds Python's lock, as reading a long answer does."""
    content = {"text": "模型的回答通常有几段文字。" * 500}
    while not end.is_set():
        json.loads(json.dumps(content))


def gaps(count: int, busy: int, switch: float) -> list[float]:
    """Send ``count`` parts; return the milliseconds from each to its mark."""
    sys.setswitchinterval(switch)
    seen: Queue[tuple[bytes, float]] = multiprocessing.Queue()
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in range(2)]
    platform, proxy = (listener.getsockname()[1] for listener in listeners)
    end = threading.Event()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        redis = RedisServer(Path(folder))
        redis.start()
        stack.callback(redis.kill)
        for listener, port in zip(listeners, (0, redis.port), strict=True):
            process = multiprocessing.Process(target=serve, args=[listener, port, seen], daemon=True)
            process.start()
            stack.callback(process.kill)
        client = stack.enter_context(connect(RedisConfig(port=proxy), timeout=10))
        http, sent = Http(), Sent(client)

        def send(number: int) -> None:
            name = f"part-{number}-end"
            mark = sent.mark(Message("dingtalk", name, "c", group=False, sender="u", created_ms=1), "0", FENCE)
            url = f"http://127.0.0.1:{platform}/robot"
            http.request("POST", url, payload={"text": "x" * 500, "name": name}, deadline=120, on_written=mark.written)
            mark.sure()

        for _ in range(busy):
            threading.Thread(target=keep_busy, args=[end], daemon=True).start()
        with ThreadPoolExecutor(SLOTS) as pool:
            list(pool.map(send, range(count)))
        end.set()
        moments: dict[bytes, list[float]] = {}
        for _ in range(2 * count):
            name, moment = seen.get(timeout=10)
            moments.setdefault(name, []).append(moment)
    return [(max(both) - min(both)) * 1000 for both in moments.values()]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="parts")
    parser.add_argument("--busy", type=int, default=4, help="threads that keep Python's lock busy")
    options = parser.parse_args()
    print(f"{'busy threads':>12} {'switch ms':>9} {'P50 ms':>8} {'P99 ms':>8} {'most ms':>8}")
    for busy in (0, options.busy):
        for switch in (0.005, SWITCH_SECONDS):
            found = gaps(options.count, busy, switch)
            p = statistics.quantiles(found, n=100, method="inclusive")
            print(f"{busy:>12} {switch * 1000:>9.1f} {p[49]:>8.3f} {p[98]:>8.3f} {max(found):>8.3f}")


if __name__ == "__main__":
    main()
