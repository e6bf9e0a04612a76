"""Prometheus measures the hosts it was given, and nobody but its own host can ask it."""

import json
import time
from typing import Any
from urllib.parse import quote

from testinfra.host import Host

PROMETHEUS = "http://127.0.0.1:9090"


def query(host: Host, expression: str) -> dict[str, float]:
    """The value of each instance that ``expression`` (PromQL) returns now."""
    answer: dict[str, Any] = json.loads(
        host.check_output(f"curl -sSf '{PROMETHEUS}/api/v1/query?query={quote(expression)}'")
    )
    return {sample["metric"].get("instance", ""): float(sample["value"][1]) for sample in answer["data"]["result"]}


def test_hosts_are_scraped(host: Host) -> None:
    deadline = time.monotonic() + 45
    while (seen := query(host, 'up{job="node"}')) != {"app1": 1, "gone": 0}:
        assert time.monotonic() < deadline, seen
        time.sleep(1)
    assert query(host, 'node_memory_MemTotal_bytes{instance="app1"}')["app1"] > 1e8


def test_probes_run(host: Host) -> None:
    deadline = time.monotonic() + 45
    while (seen := query(host, 'probe_success{job="clawdbot-backend"}')) != {"app1": 1}:
        assert time.monotonic() < deadline, seen
        time.sleep(1)


def test_nothing_listens_on_other_addresses(host: Host) -> None:
    listeners = host.check_output("ss -Hltn 'sport >= :9090 and sport <= :9099' | awk '{print $4}'")
    assert set(listeners.split()) == {"127.0.0.1:9090", "127.0.0.1:9093"}


def test_nothing_ever_listened_on_other_addresses(host: Host) -> None:
    """Not even between the installation of the packages and their configuration."""
    with host.sudo():
        journal = host.check_output("journalctl --no-pager -u prometheus -u prometheus-alertmanager")
    announced = [line for line in journal.splitlines() if "istening" in line]
    assert announced
    assert [line for line in announced if "127.0.0.1" not in line] == []


def test_measurements_are_bounded(host: Host) -> None:
    flags = json.loads(host.check_output(f"curl -sSf {PROMETHEUS}/api/v1/status/flags"))["data"]
    assert flags["storage.tsdb.retention.time"] == "30d"
    assert flags["storage.tsdb.retention.size"] == "2GiB"
