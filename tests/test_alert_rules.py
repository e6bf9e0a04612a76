"""The alerts, and who hears of them, judged by Prometheus' and Alertmanager's own tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import load
from readers import read
from rendering import render

ROOT = Path(__file__).resolve().parents[1]
CASES = load(ROOT / "molecule/monitoring/tests/test_alerts.py")
MAIL = {"monitoring_email_to": "people@example.com"}
CHATS = {"monitoring_bots": {"app1": "10.0.0.1", "app2": "fd00::2"}, "monitoring_bot_token": "t"}
#: What else is silent while a cause lasts, and whether only for the same host.
CONSEQUENCES = {
    ("HostDown", "BackendDown", True),
    ("HostDown", "PublicEndpointDown", True),
    ("HostDown", "RedisDown", True),
    ("HostDown", "ExporterDown", True),
    ("NoHealthyBackend", "BackendDown", False),
    ("NoHealthyBackend", "PublicEndpointDown", False),
    ("RedisDown", "NoHealthyBackend", False),
    ("RedisDown", "BackendDown", False),
    ("RedisDown", "HighErrorRatio", False),
    ("BackendDown", "AlertsNotDelivered", False),
    ("BackendDown", "ExporterDown", False),
}


def test_alerts_fire_just_above_their_thresholds_and_not_below(tmp_path: Path) -> None:
    """The cases of the scenario ``monitoring``; each rule by itself, which takes a tenth of the time."""
    groups = yaml.safe_load(render("monitoring", "rules.yml"))["groups"]
    rules = {rule["alert"]: (group["name"], rule) for group in groups for rule in group["rules"]}
    assert set(rules) == {case.alert for case in CASES.CASES}
    files = []
    for name, (group, rule) in rules.items():
        assert rule["annotations"].keys() == {"summary", "summary_zh", "value", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"runbooks/{name}.md"
        alone = tmp_path / f"{name}.yml"
        alone.write_text(yaml.safe_dump({"groups": [{"name": group, "rules": [rule]}]}), "utf-8")
        cases = [case for case in CASES.CASES if case.alert == name]
        for number, document in enumerate(CASES.documents(str(alone), {name: rule}, cases)):
            files.append(tmp_path / f"{name}-{number}.test.yml")
            files[-1].write_text(yaml.safe_dump(document), "utf-8")
    read("promtool", "test", "rules", *files)


def alertmanager(folder: Path, **variables: Any) -> tuple[Path, dict[str, Any]]:
    """The file, which Alertmanager takes, and what is in it."""
    file = folder / "alertmanager.yml"
    file.write_text(render("monitoring", "alertmanager.yml", **variables), "utf-8")
    read("amtool", "check-config", file)
    return file, yaml.safe_load(file.read_text("utf-8"))


@pytest.mark.parametrize(
    ("variables", "labels", "heard"),
    [
        (CHATS | MAIL, "severity=critical", "second,people"),
        (CHATS | MAIL, "severity=warning", "people"),
        (MAIL, "severity=warning", "second,people"),
        (CHATS, "severity=critical", "people"),
        (CHATS | MAIL, "alertname=Watchdog", "heartbeat"),
    ],
)
def test_who_hears_of_an_alert(tmp_path: Path, variables: dict[str, Any], labels: str, heard: str) -> None:
    file, _ = alertmanager(tmp_path, **variables)
    assert read("amtool", "config", "routes", "test", f"--config.file={file}", labels).strip() == heard


def test_how_often(tmp_path: Path) -> None:
    _, said = alertmanager(tmp_path)
    root, beat = said["route"], said["route"]["routes"][0]
    times = ("group_wait", "group_interval", "repeat_interval")
    assert [root[time] for time in times] == ["30s", "5m", "4h"]
    assert [beat[time] for time in times] == ["0s", "1m", "1m"]
    assert root["group_by"] == ["alertname"]


def test_a_cause_silences_its_consequences(tmp_path: Path) -> None:
    _, said = alertmanager(tmp_path)
    found = set()
    for rule in said["inhibit_rules"]:
        (source,), (target,) = rule["source_matchers"], rule["target_matchers"]
        names = target.partition("=~")[2].strip('"').split("|")
        assert rule.get("equal", ["instance"]) == ["instance"]
        found |= {(source.partition("=")[2].strip('"'), name, "equal" in rule) for name in names}
    assert found == CONSEQUENCES


def test_ways_to_people(tmp_path: Path) -> None:
    more = {
        "monitoring_webhook_urls": ["https://hook.example.com/a"],
        "monitoring_heartbeat_url": "https://beat.example.com/b",
        "monitoring_email_username": "u",
        "monitoring_email_password": "p",
    }
    _, said = alertmanager(tmp_path, **CHATS, **MAIL, **more)
    found = {receiver["name"]: receiver for receiver in said["receivers"]}
    chats = found["people"]["webhook_configs"]
    assert [hook["url"] for hook in chats] == [f"http://{host}:18789/api/alerts" for host in ("10.0.0.1", "[fd00::2]")]
    assert [hook["http_config"]["authorization"]["credentials"] for hook in chats] == ["t", "t"]
    assert found["second"]["webhook_configs"] == [{"url": "https://hook.example.com/a", "send_resolved": True}]
    assert found["second"]["email_configs"] == [
        {
            "to": "people@example.com",
            "from": "clawdbot@localhost",
            "smarthost": "127.0.0.1:25",
            "require_tls": False,
            "auth_username": "u",
            "auth_password": "p",
            "send_resolved": True,
        }
    ]
    assert found["heartbeat"]["webhook_configs"] == [{"url": "https://beat.example.com/b", "send_resolved": False}]
    assert all(hook["send_resolved"] for hook in chats)


@pytest.mark.parametrize(
    ("smarthost", "tls"),
    [("mail.example.com:587", True), ("mail.example.com:465", False), ("127.0.0.1:25", False), ("[::1]:25", False)],
)
def test_mail_is_encrypted_where_it_leaves_the_host(tmp_path: Path, smarthost: str, tls: bool) -> None:
    _, said = alertmanager(tmp_path, **MAIL, monitoring_email_smarthost=smarthost)
    (mail,) = next(each["email_configs"] for each in said["receivers"] if each["name"] == "second")
    assert mail["require_tls"] == tls


def test_what_is_measured(tmp_path: Path) -> None:
    hosts = {"app1": "10.0.0.1", "app2": "fd00::2"}
    probe = {"job": "ready", "module": "ready", "scheme": "http", "port": 18789, "path": "/ready", "hosts": hosts}
    scrapes = [{"job": "node", "port": 9100, "hosts": hosts}, {"job": "nobody", "port": 1, "hosts": {}}]
    file = tmp_path / "prometheus.yml"
    given = {"monitoring_scrapes": scrapes, "monitoring_probes": [probe], "inventory_hostname": "mon1"}
    text = render("monitoring", "prometheus.yml", **given)
    file.write_text(text.replace("/etc/prometheus/clawdbot.rules.yml", "none*.yml"), "utf-8")
    read("promtool", "check", "config", file)
    said = yaml.safe_load(text)
    assert said["rule_files"] == ["/etc/prometheus/clawdbot.rules.yml"]
    assert said["global"] == {"scrape_interval": "15s", "evaluation_interval": "15s"}
    (managers,) = said["alerting"]["alertmanagers"]
    assert managers == {"static_configs": [{"targets": ["127.0.0.1:9093"]}]}
    found = {
        job["job_name"]: {config["labels"]["instance"]: config["targets"] for config in job["static_configs"]}
        for job in said["scrape_configs"]
    }
    assert found == {
        "prometheus": {"mon1": ["127.0.0.1:9090"]},
        "alertmanager": {"mon1": ["127.0.0.1:9093"]},
        "node": {"app1": ["10.0.0.1:9100"], "app2": ["[fd00::2]:9100"]},
        "ready": {"app1": ["http://10.0.0.1:18789/ready"], "app2": ["http://[fd00::2]:18789/ready"]},
    }
    asked = said["scrape_configs"][-1]
    assert (asked["metrics_path"], asked["params"]) == ("/probe", {"module": ["ready"]})
    assert asked["relabel_configs"] == [
        {"source_labels": ["__address__"], "target_label": "__param_target"},
        {"target_label": "__address__", "replacement": "127.0.0.1:9115"},
    ]


@pytest.mark.parametrize(
    ("peers", "cluster"),
    [
        ({}, "--cluster.listen-address="),
        (
            {"mon1": "10.0.0.1", "mon2": "fd00::2"},
            "--cluster.listen-address=10.0.0.1:9094 --cluster.peer=[fd00::2]:9094",
        ),
    ],
)
def test_they_listen_to_nobody_but_each_other(peers: dict[str, str], cluster: str) -> None:
    given = {"inventory_hostname": "mon1", "monitoring_peers": peers}
    said = render("monitoring", "default-prometheus-alertmanager", **given)
    assert f'\nARGS="--web.listen-address=127.0.0.1:9093 {cluster}"' in said
    said = " ".join(render("monitoring", "default-prometheus", **given).replace("\\\n", "").split())
    kept = "--storage.tsdb.retention.time=30d --storage.tsdb.retention.size=2048MB"
    assert said.endswith(f'ARGS="--web.listen-address=127.0.0.1:9090 {kept}"')


@pytest.mark.parametrize("name", ["", "bot.example.com"])
def test_what_a_probe_calls_well(name: str) -> None:
    said = yaml.safe_load(render("exporters", "blackbox.yml", exporters_blackbox_server_name=name))["modules"]
    http = {"valid_status_codes": [200], "follow_redirects": False}
    tls = {"insecure_skip_verify": True}
    assert said["ready"] == {"prober": "http", "timeout": "5s", "http": http}
    named = {"headers": {"Host": name}, "tls_config": tls | {"server_name": name}} if name else {"tls_config": tls}
    assert said["public"] == {"prober": "http", "timeout": "10s", "http": http | named}
