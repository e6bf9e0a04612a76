"""For every alert: series just above its default threshold and just below, and how long it takes to fire.

`documents` turns the table into test files for ``promtool test rules``. The notation of values is promtool's: ``a+bxn``
starts at a and adds b in each of n steps.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from testinfra.host import Host

testinfra_hosts = ["ansible://monitoring"]

Series = dict[str, str]

RULES = "/etc/prometheus/clawdbot.rules.yml"

DAY = 86400
HOUR = 3600
#: A quiet series is watched this many steps longer than it takes to fire.
WATCHED = 15


@dataclasses.dataclass(frozen=True)
class Case:
    """One way for an alert to fire, and the ways it must not.

    Attributes:
        alert: name of the rule.
        fires: series that make it fire.
        quiet: lists of series that must not, just below the threshold first.
        labels: labels of the alert besides its name and severity.
        value: its annotation "value" at the moment it fires.
        steps: the rule's duration.
        start: step of the first evaluation that can be true; 1 for rates, which need two samples.
        step: length of a step, the time between two samples and two evaluations.
    """

    alert: str
    fires: Series
    quiet: Sequence[Series]
    labels: Mapping[str, str]
    value: str
    steps: int
    start: int = 0
    step: str = "1m"


def _cpu(idle_seconds_a_minute: float) -> Series:
    return {'node_cpu_seconds_total{instance="app1",cpu="0",mode="idle"}': f"0+{idle_seconds_a_minute}x30"}


def _memory(available: float) -> Series:
    return {
        'node_memory_MemAvailable_bytes{instance="app1",job="node"}': f"{available}x30",
        'node_memory_MemTotal_bytes{instance="app1",job="node"}': "1000x30",
    }


def _disk(free: float, fstype: str = "ext4", readonly: int = 0) -> Series:
    labels = f'{{instance="app1",mountpoint="/",device="/dev/vda1",fstype="{fstype}"}}'
    return {
        f"node_filesystem_avail_bytes{labels}": f"{free}x30",
        f"node_filesystem_size_bytes{labels}": "1000x30",
        f"node_filesystem_readonly{labels}": f"{readonly}x30",
    }


def _latency(within_2s: int, endpoint: str = "dingtalk_callback") -> Series:
    name = "clawdbot_http_request_duration_seconds_bucket"
    return {
        f'{name}{{instance="{bot}",endpoint="{endpoint}",le="{bound}"}}': f"0+{count}x30"
        for bot in ("app1", "app2")
        for bound, count in (("1", 900), ("2", within_2s), ("5", 1000), ("+Inf", 1000))
    }


def _requests(good: int, bad: int, endpoint: str = "feishu_callback") -> Series:
    name = f'clawdbot_http_requests_total{{instance="app1",endpoint="{endpoint}",status'
    return {f'{name}="200"}}': f"0+{good}x30", f'{name}="503"}}': f"0+{bad}x30"}


def _callbacks(result: str) -> str:
    return f'clawdbot_callbacks_total{{instance="app1",platform="dingtalk",result="{result}"}}'


def _connected(bot: str, platform: str) -> str:
    return f'clawdbot_receivers_connected{{instance="{bot}",platform="{platform}"}}'


def _spool(reason: str) -> str:
    return f'clawdbot_spool_hand_over_failures_total{{instance="app1",reason="{reason}"}}'


def _refused(outcome: str) -> str:
    return f'clawdbot_model_calls_total{{instance="app1",provider="gpt",outcome="{outcome}"}}'


def _model(good: int, bad: int) -> Series:
    name = 'clawdbot_model_calls_total{instance="app1",provider="gpt",outcome'
    return {f'{name}="success"}}': f"0+{good}x30", f'{name}="timeout"}}': f"0+{bad}x30"}


def _former(end: int, uses: int, used: str = "token") -> Series:
    return {
        'clawdbot_former_secret_end_timestamp_seconds{instance="app1",part="dingtalk",secret="token"}': f"{end}x30",
        f'clawdbot_former_secrets_used_total{{instance="app1",part="dingtalk",secret="{used}"}}': f"0+{uses}x30",
    }


def _redis_memory(used: int, limit: int = 1000) -> Series:
    return {
        'redis_memory_used_bytes{instance="redis1"}': f"{used}x30",
        'redis_memory_max_bytes{instance="redis1"}': f"{limit}x30",
    }


def _redis_stores(enabled: int = 1, write: int = 1, rewrite: int = 1) -> Series:
    return {
        'redis_aof_enabled{instance="redis1"}': f"{enabled}x30",
        'redis_aof_last_write_status{instance="redis1"}': f"{write}x30",
        'redis_aof_last_bgrewrite_status{instance="redis1"}': f"{rewrite}x30",
    }


def _group(roles: Sequence[str], copies: int, *, down: int = 0) -> Series:
    """Servers of Redis that stand in for each other; ``down`` of them are gone with their hosts."""
    found: Series = {f'up{{job="redis",instance="redis{number}"}}': "1x30" for number, _ in enumerate(roles)}
    found |= {f'up{{job="redis",instance="gone{number}"}}': "0x30" for number in range(down)}
    for number, role in enumerate(roles):
        found[f'redis_up{{instance="redis{number}"}}'] = "1x30"
        found[f'redis_instance_info{{instance="redis{number}",role="{role}"}}'] = "1x30"
        count = copies if role == "master" else 0
        found[f'redis_connected_slaves{{instance="redis{number}"}}'] = f"{count}x30"
    return found


def _up(job: str, value: int) -> Series:
    return {f'up{{job="{job}",instance="app1"}}': f"{value}x30"}


def _probe(job: str, **nodes: int) -> Series:
    return {f'probe_success{{job="{job}",instance="{node}"}}': f"{value}x30" for node, value in nodes.items()}


def _pending(origin: str, count: int) -> Series:
    return {f'apt_upgrades_pending{{instance="app1",origin="{origin}",arch="amd64"}}': f"{count}x90"}


def _gauge(
    alert: str, series: str, fires: int, quiet: int, labels: Mapping[str, str], value: str, *, steps: int
) -> Case:
    """A case of one series that does not change."""
    return Case(alert, {series: f"{fires}x30"}, [{series: f"{quiet}x30"}], labels, value, steps)


def _redis_persistence(**broken: int) -> Case:
    return Case(
        "RedisPersistenceFailing",
        fires=_redis_stores(**broken),
        quiet=[_redis_stores()],
        labels={"instance": "redis1"},
        value="failing",
        steps=1,
    )


APP1 = {"instance": "app1"}
REDIS1 = '{instance="redis1",job="redis"}'

CASES = [
    Case("HighCpu", _cpu(8.94), [_cpu(9.06)], APP1, "85.1 %", steps=10, start=1),
    Case("HighMemory", _memory(99), [_memory(101)], {**APP1, "job": "node"}, "90.1 %", steps=10),
    Case(
        "DiskFilling",
        _disk(99),
        [_disk(101), _disk(1, fstype="tmpfs"), _disk(1, readonly=1)],
        {**APP1, "mountpoint": "/"},
        "9.9 %",
        steps=10,
    ),
    Case(
        "ClockSkew",
        {'node_time_seconds{instance="app1",job="node"}': "5.1+60x30"},
        [{'node_time_seconds{instance="app1",job="node"}': f"{offset}+60x30"} for offset in (4.9, -4.9)],
        {**APP1, "job": "node"},
        "5.1 s",
        steps=5,
    ),
    Case(
        "ClockSkew",
        {'node_time_seconds{instance="app1",job="node"}': "-5.1+60x30"},
        [],
        {**APP1, "job": "node"},
        "5.1 s",
        steps=5,
    ),
    Case("HostDown", _up("node", 0), [_up("node", 1)], {**APP1, "job": "node"}, "down", steps=2),
    Case(
        "ServiceFailed",
        {'node_systemd_unit_state{instance="app1",name="nginx.service",state="failed"}': "1x30"},
        [
            {
                'node_systemd_unit_state{instance="app1",name="nginx.service",state="failed"}': "0x30",
                'node_systemd_unit_state{instance="app1",name="nginx.service",state="active"}': "1x30",
            }
        ],
        {**APP1, "name": "nginx.service"},
        "failed",
        steps=1,
    ),
    Case(
        "SecurityUpdatesMissing",
        _pending("Debian-Security:12/stable-security", 1),
        [_pending("Debian-Security:12/stable-security", 0), _pending("Debian:12/stable", 40)],
        APP1,
        "1",
        steps=48,
        step="1h",
    ),
    Case(
        "SecurityUpdatesMissing",
        {'apt_package_cache_timestamp_seconds{instance="app1"}': f"{-7 * DAY - 60}x90"},
        # Not yet a week old when the test ends.
        [{'apt_package_cache_timestamp_seconds{instance="app1"}': f"{(48 + WATCHED + 1) * HOUR - 7 * DAY}x90"}],
        APP1,
        "9",
        steps=48,
        step="1h",
    ),
    Case(
        "RebootRequired",
        {'node_reboot_required{instance="app1"}': "1x90"},
        [{'node_reboot_required{instance="app1"}': "0x90"}],
        APP1,
        "pending",
        steps=48,
        step="1h",
    ),
    Case(
        "BackupMissing",
        {'clawdbot_backup_last_success_timestamp_seconds{instance="app1"}': f"{-26 * 3600 - 1}x60"},
        [{'clawdbot_backup_last_success_timestamp_seconds{instance="app1"}': f"{(10 + WATCHED) * 60 - 26 * 3600}x60"}],
        APP1,
        "26.2 h",
        steps=10,
    ),
    Case(
        "BackupBehind",
        {
            'clawdbot_backup_last_copy_timestamp_seconds{instance="app1"}': "-1801x60",
            'clawdbot_backup_interval_seconds{instance="app1"}': "900x60",
        },
        [
            {
                'clawdbot_backup_last_copy_timestamp_seconds{instance="app1"}': f"{(5 + WATCHED) * 60 - 1800}x60",
                'clawdbot_backup_interval_seconds{instance="app1"}': "900x60",
            }
        ],
        APP1,
        "2.3 times the interval",
        steps=5,
    ),
    Case(
        "BackupShrunk",
        {'clawdbot_backup_bytes{instance="app1"}': "1000 199x30"},
        [{'clawdbot_backup_bytes{instance="app1"}': "1000 200x30"}],
        APP1,
        "20 % of what there was",
        steps=1,
        start=1,
    ),
    Case(
        "BackupDrillFailed",
        {'clawdbot_backup_drill_success{instance="app1"}': "0x30"},
        [{'clawdbot_backup_drill_success{instance="app1"}': "1x30"}],
        APP1,
        "failed",
        steps=0,
    ),
    Case(
        "BackupDrillOverdue",
        {'clawdbot_backup_drill_last_success_timestamp_seconds{instance="app1"}': f"{-9 * DAY - 1}x90"},
        [
            {
                'clawdbot_backup_drill_last_success_timestamp_seconds{instance="app1"}': (
                    f"{(60 + WATCHED) * 60 - 9 * DAY}x90"
                )
            }
        ],
        APP1,
        "9.0 d",
        steps=60,
    ),
    Case(
        "HighLatency",
        # Health checks, quick and many, must not hide it.
        _latency(989) | _latency(1000, endpoint="health"),
        [_latency(991), _latency(0, endpoint="metrics_page")],
        {},
        "2273 ms",
        steps=5,
        start=1,
    ),
    Case(
        "HighErrorRatio",
        _requests(949, 51) | _requests(9000, 0, endpoint="health"),
        [_requests(951, 49), _requests(0, 3), _requests(0, 1000, endpoint="ready")],
        {},
        "5.1 %",
        steps=5,
        start=1,
    ),
    Case(
        "BackendDown",
        _probe("clawdbot-backend", app1=0),
        [_probe("clawdbot-backend", app1=1)],
        {**APP1, "job": "clawdbot-backend"},
        "down",
        steps=1,
    ),
    Case(
        "NoHealthyBackend",
        _probe("clawdbot-backend", app1=0, app2=0),
        [_probe("clawdbot-backend", app1=0, app2=1)],
        {},
        "0",
        steps=1,
    ),
    Case("NoHealthyBackend", {"unrelated": "1x30"}, [], {}, "0", steps=1),
    Case(
        "PublicEndpointDown",
        _probe("public", lb1=0),
        [_probe("public", lb1=1), _probe("clawdbot-backend", app1=0)],
        {"instance": "lb1", "job": "public"},
        "down",
        steps=1,
    ),
    Case(
        "CertificateExpires",
        {'probe_ssl_earliest_cert_expiry{instance="lb1",job="public"}': f"{14 * DAY - 1}x90"},
        [{'probe_ssl_earliest_cert_expiry{instance="lb1",job="public"}': f"{14 * DAY + (60 + WATCHED) * 60 + 1}x90"}],
        {"instance": "lb1"},
        "14.0 days",
        steps=60,
    ),
    _gauge("QueueStuck", 'clawdbot_queue_oldest_age_seconds{instance="app1"}', 361, 359, {}, "361 s", steps=1),
    _gauge("DeadLetters", 'clawdbot_dead_letters{instance="app1"}', 1, 0, {}, "1 messages", steps=0),
    Case(
        "PlatformTrouble",
        {_callbacks("platform_error"): "0+1x90"},
        [{_callbacks("platform_error"): "3x90", _callbacks("accepted"): "0+1x90"}],
        {"platform": "dingtalk"},
        "1 reports",
        steps=0,
        start=1,
    ),
    _gauge("RedisDown", "redis_up" + REDIS1, 0, 1, {"instance": "redis1", "job": "redis"}, "down", steps=1),
    Case(
        "RedisMemory",
        _redis_memory(801),
        [_redis_memory(799), _redis_memory(801, limit=0)],
        {"instance": "redis1"},
        "80.1 %",
        steps=5,
    ),
    Case(
        "RedisFull",
        {_callbacks("full"): "0+1x30"},
        [{_callbacks("full"): "3x30", _callbacks("unavailable"): "0+1x30"}],
        {},
        "full",
        steps=0,
        start=1,
    ),
    Case(
        "RedisFull",
        {_callbacks("full"): "0x30", _spool("full"): "0+1x30"},
        [{_callbacks("full"): "3x30", _spool("full"): "3x30", _spool("unavailable"): "0+1x30"}],
        {},
        "full",
        steps=0,
        start=1,
    ),
    Case(
        "RedisDown",
        {f'redis_up{{instance="redis{number}"}}': f"{number}x30" for number in range(2)},
        [{f'redis_up{{instance="redis{number}"}}': f"{int(number > 0)}x30" for number in range(3)}],
        {"instance": "redis0"},
        "down",
        steps=1,
    ),
    Case(
        "RedisRedundancyLost",
        _group(["master", "slave"], 1, down=1),
        [_group(["master", "slave", "slave"], 2), _group(["master"], 0), _group(["master"], 0, down=2)],
        {},
        "1 missing",
        steps=1,
    ),
    Case(
        "RedisRedundancyLost",
        _group(["master", "slave", "slave"], 1),
        [_group(["master", "slave", "slave"], 2)],
        {},
        "1 missing",
        steps=1,
    ),
    Case(
        "RedisSplit",
        _group(["master", "master", "slave"], 2),
        [_group(["master", "slave", "slave"], 2)],
        {},
        "2 lead",
        steps=1,
    ),
    _gauge(
        "RedisReplicationLag",
        'redis_connected_slave_lag_seconds{instance="redis0",slave_ip="10.0.0.2"}',
        11,
        9,
        {"slave_ip": "10.0.0.2"},
        "11 s",
        steps=1,
    ),
    Case(
        "NobodyConnected",
        {
            _connected("app1", "dingtalk"): "0x30",
            _connected("app2", "dingtalk"): "0x30",
            _connected("app1", "feishu"): "1x30",
        },
        [{_connected("app1", "dingtalk"): "0x30", _connected("app2", "dingtalk"): "1x30"}, {}],
        {"platform": "dingtalk"},
        "0",
        steps=2,
    ),
    *(
        Case(
            "StandbyNotFollowing",
            {series: "0x30", f'clawdbot_site_role{{role="{role}"}}': "1x30"},
            [
                {series: "1x30", f'clawdbot_site_role{{role="{role}"}}': "1x30"},
                {series: "0x30", f'clawdbot_site_role{{role="{other}"}}': "1x30"},
                {series: "0x30"},
            ],
            {},
            "not following",
            steps=1,
        )
        for series, role, other in (
            ("redis_connected_slaves", "active", "standby"),
            ("redis_master_link_up", "standby", "active"),
        )
    ),
    _gauge("SiteUnknown", 'clawdbot_site_role{role="unknown",site="a"}', 1, 0, {"site": "a"}, "unknown", steps=1),
    _gauge(
        "SpoolStuck",
        'clawdbot_spool_oldest_age_seconds{instance="app1"}',
        61,
        59,
        {"instance": "app1"},
        "61 s",
        steps=1,
    ),
    Case(
        "SpoolRefuses",
        {'clawdbot_spool_refusals_total{instance="app1",reason="disk"}': "0+1x30"},
        [{'clawdbot_spool_refusals_total{instance="app1",reason="disk"}': "3x30"}],
        {"instance": "app1", "reason": "disk"},
        "1 messages",
        steps=0,
        start=1,
    ),
    _redis_persistence(enabled=0),
    _redis_persistence(write=0),
    _redis_persistence(rewrite=0),
    Case(
        "ModelFailures",
        _model(899, 101),
        [_model(901, 99), _model(0, 1)],
        {"provider": "gpt"},
        "10.1 %",
        steps=5,
        start=1,
    ),
    Case(
        "ModelRefused",
        {_refused("quota"): "0+1x30"},
        [{_refused(outcome): "0+1x30"} for outcome in ("server_error", "content_filter")],
        {"provider": "gpt", "outcome": "quota"},
        "quota",
        steps=5,
        start=1,
    ),
    _gauge(
        "ModelKeyExpires",
        'clawdbot_api_key_expiry_timestamp_seconds{instance="app1",provider="gpt"}',
        7 * DAY - 1,
        7 * DAY + (10 + WATCHED) * 60 + 1,
        {"provider": "gpt"},
        "7.0 days",
        steps=10,
    ),
    Case(
        "FormerSecretInUse",
        _former(DAY - 1, 1),
        # Nobody uses it; there is time enough; another one is used.
        [_former(DAY - 1, 0), _former(DAY + (10 + WATCHED) * 60 + 61, 1), _former(DAY - 1, 1, used="aes_key")],
        {"part": "dingtalk", "secret": "token"},
        "1.0 days",
        steps=10,
        start=1,
    ),
    Case("ExporterDown", _up("redis", 0), [_up("redis", 1), _up("node", 0)], {**APP1, "job": "redis"}, "down", steps=5),
    Case(
        "AlertsNotDelivered",
        {'alertmanager_notifications_failed_total{instance="monitor1",integration="webhook"}': "0 1x30"},
        [{'alertmanager_notifications_failed_total{instance="monitor1",integration="webhook"}': "5x30"}],
        {"instance": "monitor1", "integration": "webhook"},
        "1 in 15 minutes",
        steps=1,
        start=1,
    ),
    Case("Watchdog", {}, [], {}, "alive", steps=0),
]


def _expected(case: Case, rule: Mapping[str, Any]) -> dict[str, Any]:
    """The alert as ``rule`` has to report it, its labels filled in."""
    fill = {
        name: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda label: case.labels[label[1]], text)
        for name, text in rule["annotations"].items()
    }
    return {
        "exp_labels": {**case.labels, **rule["labels"]},
        "exp_annotations": {**fill, "value": case.value},
    }


def _check(case: Case, step: int, expected: list[dict[str, Any]]) -> dict[str, Any]:
    unit = case.step[-1]
    return {"eval_time": f"{step}{unit}", "alertname": case.alert, "exp_alerts": expected}


def _test(case: Case, series: Series, checks: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": case.step,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": checks,
    }


def _tests(case: Case, rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    fires_at = case.start + case.steps
    checks = [_check(case, fires_at, [_expected(case, rule)])]
    if case.steps:
        checks.insert(0, _check(case, fires_at - 1, []))
    tests = [_test(case, case.fires, checks)]
    for series in case.quiet:
        tests.append(_test(case, series, [_check(case, fires_at + extra, []) for extra in range(WATCHED + 1)]))
    return tests


def documents(rules_file: str, rules: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Test files for promtool, one for each length of a step.

    Args:
        rules_file: path of the rules on the host.
        rules: its alerting rules by name.
    """
    return [
        {
            "rule_files": [rules_file],
            "evaluation_interval": step,
            "tests": [test for case in CASES if case.step == step for test in _tests(case, rules[case.alert])],
        }
        for step in sorted({case.step for case in CASES})
    ]


def rules(host: Host) -> dict[str, Any]:
    groups = yaml.safe_load(host.check_output(f"cat {RULES}"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_every_alert_has_cases(host: Host) -> None:
    assert set(rules(host)) == {case.alert for case in CASES}


def test_alerts_fire_just_above_their_thresholds_and_not_below(host: Host) -> None:
    """`promtool test rules` on the deployed rules."""
    for document in documents(RULES, rules(host)):
        packed = base64.b64encode(gzip.compress(yaml.safe_dump(document).encode())).decode()
        host.check_output(f"echo {packed} | base64 -d | gunzip > /tmp/alerts.test.yml")
        tested = host.run("promtool test rules /tmp/alerts.test.yml")
        assert tested.rc == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_runbook(host: Host) -> None:
    pages = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], "docs/runbooks")
    for name, rule in rules(host).items():
        assert rule["annotations"].keys() == {"summary", "summary_zh", "value", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"runbooks/{name}.md"
        assert (pages / f"{name}.md").is_file(), name
    assert {page.name.split(".")[0] for page in pages.glob("*.md")} - {"README"} == set(rules(host))
