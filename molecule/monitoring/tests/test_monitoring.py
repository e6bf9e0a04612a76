"""Prometheus measures what it was given, its alerts arrive, and nobody else can look at it."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from testinfra.host import Host

testinfra_hosts = ["ansible://monitoring"]

PROMETHEUS = "http://127.0.0.1:9090"
STAND_IN = "/var/lib/fake-bot"
Value = TypeVar("Value")


def secret(name: str) -> str:
    """What converge.yml made up."""
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], name).read_text().strip()


def wait_for(ask: Callable[[], Value], good: Callable[[Value], object], seconds: float = 60) -> Value:
    """Asks until the answer is good; fails with the last answer."""
    deadline = time.monotonic() + seconds
    while not good(answer := ask()):
        assert time.monotonic() < deadline, answer
        time.sleep(1)
    return answer


def api(host: Host, path: str) -> Any:
    return json.loads(host.check_output(f"curl -sSf '{PROMETHEUS}/api/v1/{path}'"))["data"]


def query(host: Host, expression: str) -> dict[str, float]:
    """The value of each instance that ``expression`` (PromQL) returns now."""
    return {
        sample["metric"].get("instance", ""): float(sample["value"][1])
        for sample in api(host, f"query?query={quote(expression)}")["result"]
    }


def targets(host: Host) -> set[tuple[str, str]]:
    """Job and instance of all that Prometheus watches."""
    return {(target["labels"]["job"], target["labels"]["instance"]) for target in api(host, "targets")["activeTargets"]}


def address(host: Host) -> str:
    return str(host.check_output("hostname -I").split()[0])


def test_hosts_are_scraped(host: Host) -> None:
    wait_for(lambda: query(host, 'up{job="node"}'), {"app1": 1, "gone": 0}.__eq__)
    assert query(host, 'node_memory_MemTotal_bytes{instance="app1"}')["app1"] > 1e8


def test_there_are_no_other_targets(host: Host) -> None:
    own = host.check_output("hostname")
    assert targets(host) == {
        ("prometheus", own),
        ("alertmanager", own),
        ("node", "app1"),
        ("node", "gone"),
        ("nginx", "app1"),
        ("clawdbot", "app1"),
        ("clawdbot-backend", "app1"),
    }


def test_probes_run(host: Host) -> None:
    wait_for(lambda: query(host, 'probe_success{job="clawdbot-backend"}'), {"app1": 1}.__eq__)


def test_services_are_watched(host: Host) -> None:
    wait_for(lambda: query(host, 'node_systemd_unit_state{name="nginx.service",state="active"}'), {"app1": 1}.__eq__)


def notifications(host: Host) -> list[dict[str, Any]]:
    """All that Alertmanager sent to the stand-in."""
    return list(map(json.loads, host.check_output(f"cat {STAND_IN}/received").splitlines()))


def received(host: Host, alert: str, status: str = "firing", after: int = 0) -> dict[str, dict[str, Any]]:
    """The first notification of an alert at each path of the stand-in, after so many others."""
    found: dict[str, dict[str, Any]] = {}
    for line in notifications(host)[after:]:
        if (line["body"]["groupLabels"].get("alertname"), line["body"]["status"]) == (alert, status):
            found.setdefault(line["path"], line)
    return found


def test_an_alert_reaches_the_bot_and_so_does_its_end(host: Host) -> None:
    before = len(notifications(host))
    with host.sudo():
        host.check_output(f"echo 'clawdbot_dead_letters 3' > {STAND_IN}/metrics")
        firing = wait_for(lambda: received(host, "DeadLetters", after=before), bool)
        host.check_output(f"echo 'clawdbot_dead_letters 0' > {STAND_IN}/metrics")
        wait_for(lambda: received(host, "DeadLetters", "resolved", after=before), bool)
    # A warning does not take the second path.
    assert firing.keys() == {"/api/alerts"}
    assert firing["/api/alerts"]["authorization"] == f"Bearer {secret('token')}"
    assert firing["/api/alerts"]["body"]["alerts"][0]["annotations"]["value"] == "3 messages"


def test_a_critical_alert_takes_the_second_path_as_well(host: Host) -> None:
    wait_for(lambda: received(host, "HostDown").keys(), {"/api/alerts", "/second"}.__eq__, seconds=200)


def test_the_heartbeat_is_no_message_for_people(host: Host) -> None:
    assert wait_for(lambda: received(host, "Watchdog"), bool, seconds=90).keys() == {"/heartbeat"}


def test_token_is_for_alertmanager_alone(host: Host) -> None:
    config = host.file("/etc/prometheus/alertmanager.yml")
    assert (config.mode, config.user, config.group) == (0o640, "root", "prometheus")


def status(host: Host, path: str, options: str = "") -> str:
    return str(
        host.check_output(f"curl -sS -o /dev/null -w '%{{http_code}}' {options} 'http://{address(host)}:9095{path}'")
    )


def test_dashboard_asks_for_a_password(host: Host) -> None:
    right, wrong = f"-u operator:{secret('password')}", "-u operator:wrong"
    ask = "/api/v1/query?query=vector(1)"
    assert [status(host, path, wrong) for path in ("/", ask)] == ["401", "401"]
    assert [status(host, path) for path in ("/", ask)] == ["401", "401"]
    assert [status(host, path, right) for path in ("/", ask)] == ["200", "200"]


def test_dashboard_has_the_runbooks_it_links_to(host: Host) -> None:
    """The links of the alerts are relative to the page."""
    right = f"-u operator:{secret('password')}"
    groups = api(host, "rules?type=alert")["groups"]
    links = {rule["name"]: rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
    assert links
    for name, link in links.items():
        page = host.check_output(f"curl -sSf {right} 'http://{address(host)}:9095/{link}'")
        runbook = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], f"docs/runbooks/{name}.md").read_text("utf-8")
        assert page.strip() == runbook.strip()
    assert status(host, "/runbooks/HighCpu.md") == "401"
    kind = f"curl -sS -o /dev/null -w '%{{content_type}}' {right} 'http://{address(host)}:9095/runbooks/HighCpu.md'"
    assert host.check_output(kind) == "text/plain; charset=utf-8"


def test_dashboard_opens_nothing_else_of_prometheus(host: Host) -> None:
    right = f"-u operator:{secret('password')}"
    for path in ("/metrics", "/api/v1/status/config", "/api/v1/admin/tsdb/snapshot", "/-/reload", "/classic/targets"):
        assert status(host, path, right) == "404", path
    assert status(host, "/api/v1/query?query=vector(1)", f"{right} -X POST") == "403"


def test_nothing_listens_on_other_addresses(host: Host) -> None:
    listeners = host.check_output("ss -Hltn 'sport >= :9090 and sport <= :9099' | awk '{print $4}'")
    assert set(listeners.split()) == {"127.0.0.1:9090", "127.0.0.1:9093", f"{address(host)}:9095"}


def test_nothing_ever_listened_on_other_addresses(host: Host) -> None:
    """Not even between the installation of the packages and their configuration."""
    with host.sudo():
        journal = host.check_output("journalctl --no-pager -u prometheus -u prometheus-alertmanager")
    announced = [line for line in journal.splitlines() if "istening" in line]
    assert announced
    assert [line for line in announced if "127.0.0.1" not in line] == []


def test_measurements_are_bounded(host: Host) -> None:
    flags = api(host, "status/flags")
    assert flags["storage.tsdb.retention.time"] == "30d"
    assert flags["storage.tsdb.retention.size"] == "2GiB"


def test_one_run_forgets_a_node_that_left_and_watches_one_that_came(host: Host) -> None:
    """The last test of a host: "gone" leaves the inventory, "new" joins it."""
    nodes = json.dumps({"nodes": {"app1": "{{ ansible_host }}", "new": "{{ ansible_host }}"}})
    converge = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], "molecule/monitoring/converge.yml")
    command = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], str(converge)]
    command += ["--limit", host.check_output("hostname"), "--tags", "monitoring_configure", "--extra-vars", nodes]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    watched = wait_for(lambda: targets(host), lambda seen: ("node", "new") in seen, seconds=10)
    assert ("node", "gone") not in watched
    wait_for(lambda: query(host, 'up{job="node"}'), {"app1": 1, "new": 1}.__eq__, seconds=20)
