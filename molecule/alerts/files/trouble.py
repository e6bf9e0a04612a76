"""Makes real trouble on this host, one kind after the other, and measures when people read of it and of its end.

Writes one JSON object a kind to standard output: indicator, alert, and the seconds until both the DingTalk robot's
and the Feishu group had the message that it fires, and that it is over; null if that did not come in time, which ends
the program.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import requests
from clawdbot_simulator.client import Control
from clawdbot_simulator.config import load_config
from clawdbot_simulator.users import DingTalk

BOT = "http://127.0.0.1:18789"
ALERTMANAGER = "http://127.0.0.1:9093/api/v2/alerts"
ENVIRONMENT = Path("/opt/clawdbot/config/clawdbot.env")
# Seconds to wait for a message; it takes 5 to 20, longer for the CPU of a machine that is busy with other things.
PATIENCE = 150
SPOOL = Path("/var/lib/clawdbot-spool")
CHATS = {"dingtalk.robot", "feishu.send"}

config = load_config(Path("/opt/simulator/simulator.json"))
control = Control(config)
user = DingTalk(config)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def write() -> None:
    """A user of DingTalk says something; what the bot answers is not of interest here."""
    with contextlib.suppress(requests.RequestException):
        user.text("Alice", f"hello {time.time()}").callback().post(BOT)


def redis(*command: str) -> None:
    password = re.search(r"CLAWDBOT_REDIS_PASSWORD='(.*)'", ENVIRONMENT.read_text())
    assert password
    subprocess.run(
        ["redis-cli", *command], check=True, capture_output=True, env={"REDISCLI_AUTH": password[1], "PATH": "/usr/bin"}
    )


@contextlib.contextmanager
def failing_model() -> Iterator[Callable[[], None]]:
    control.add_fault("model.chat", "server_error")
    try:
        yield write
    finally:
        control.clear_faults()


@contextlib.contextmanager
def errors() -> Iterator[Callable[[], None]]:
    """Redis refuses writes, and so does the disk that would keep them meanwhile: callbacks get 503."""
    redis("config", "set", "maxmemory", "1")
    SPOOL.chmod(0)
    try:
        yield write
    finally:
        SPOOL.chmod(0o700)
        redis("config", "set", "maxmemory", "256mb")


@contextlib.contextmanager
def slow_answers() -> Iterator[Callable[[], None]]:
    """Redis makes every write wait, each time for less than a second."""

    def work() -> None:
        redis("client", "pause", "900", "write")
        write()

    yield work


@contextlib.contextmanager
def stopped(unit: str) -> Iterator[Callable[[], None]]:
    run("systemctl", "stop", unit)
    try:
        yield lambda: None
    finally:
        run("systemctl", "start", unit)


@contextlib.contextmanager
def burning_cpu() -> Iterator[Callable[[], None]]:
    """A process for each processor; all others go before them."""
    burn = ["nice", "-n", "19", sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(burn) for _ in range(os.cpu_count() or 1)]
    try:
        yield lambda: None
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def expiring_key() -> Iterator[Callable[[], None]]:
    before = ENVIRONMENT.read_text()
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=6)).date().isoformat()
    ENVIRONMENT.write_text(re.sub(r"(MODEL_API_KEY_EXPIRES_AT)=.*", rf"\1='{soon}'", before))
    try:
        run("systemctl", "restart", "clawdbot")
        yield lambda: None
    finally:
        ENVIRONMENT.write_text(before)
        run("systemctl", "restart", "clawdbot")


def quiet(alert: str) -> None:
    """Waits until Alertmanager knows no such alert: a busy machine may have raised that of the CPU by itself."""
    for _ in range(4 * PATIENCE):
        if not requests.get(ALERTMANAGER, params={"filter": f"alertname={alert}"}, timeout=10).json():
            break
        time.sleep(1)


def wait(alert: str, word: str, after: int, work: Callable[[], None]) -> float | None:
    """Seconds until every chat has a message with the alert's name and ``word``; meanwhile ``work`` is done."""
    start = time.monotonic()
    while time.monotonic() - start < PATIENCE:
        work()
        read = [record for record in control.messages(after=after) if alert in record.text and word in record.text]
        if {record.endpoint for record in read} >= CHATS:
            return round(time.monotonic() - start, 1)
        time.sleep(0.5)
    return None


KINDS: list[tuple[str, str, Callable[[], AbstractContextManager[Callable[[], None]]]]] = [
    ("CPU use", "HighCpu", burning_cpu),
    ("host down", "HostDown", lambda: stopped("prometheus-node-exporter")),
    ("model API failures", "ModelFailures", failing_model),
    ("response latency P99", "HighLatency", slow_answers),
    ("error rate (5xx)", "HighErrorRatio", errors),
    ("key validity", "ModelKeyExpires", expiring_key),
    ("Redis down", "RedisDown", lambda: stopped("redis-server")),
]

for indicator, alert, trouble in KINDS:
    quiet(alert)
    seen = control.last_seq()
    with trouble() as work:
        fires = wait(alert, "Firing", seen, work)
    # A ratio needs traffic to become good again.
    healthy = write if "rate" in indicator or "latency" in indicator or "failures" in indicator else lambda: None
    over = wait(alert, "Resolved", seen, healthy)
    print(json.dumps({"indicator": indicator, "alert": alert, "fires": fires, "over": over}), flush=True)
    if fires is None or over is None:
        break
