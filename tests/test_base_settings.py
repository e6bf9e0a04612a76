"""What every host is told about updates, kernel, journal and shells, as apt, the shell and systemd read it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from readers import reader
from rendering import evaluate, render

ROOT = Path(__file__).resolve().parents[1]
#: What Debian's own file says, which ours comes after.
DEBIANS = """
Unattended-Upgrade::Origins-Pattern { "origin=Debian,codename=${distro_codename},label=Debian"; };
Unattended-Upgrade::Package-Blacklist { "linux-"; };
"""


def apt(folder: Path, **variables: Any) -> dict[str, list[str]]:
    """Settings of apt; an empty value is a list's own name."""
    file = folder / "apt.conf"
    file.write_text(DEBIANS + render("base", "apt.conf", **variables), "utf-8")
    command = [reader("apt-config"), "dump"]
    said = subprocess.run(
        command, env=os.environ | {"APT_CONFIG": str(file)}, capture_output=True, text=True, check=True
    )
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'(?m)^(\S+) "(.*)";$', said.stdout):
        found.setdefault(name.removesuffix("::").lower(), []).append(value)
    return found


def test_security_updates_and_no_others_come_by_themselves(tmp_path: Path) -> None:
    found = apt(tmp_path)
    label = "label=Debian-Security"
    meant = {
        "apt::periodic::update-package-lists": ["1"],
        "apt::periodic::unattended-upgrade": ["1"],
        "apt::periodic::autocleaninterval": ["7"],
        "dpkg::options": ["", "--force-confdef", "--force-confold"],
        "unattended-upgrade::origins-pattern": [
            "",
            f"origin=Debian,codename=${{distro_codename}},{label}",
            f"origin=Debian,codename=${{distro_codename}}-security,{label}",
        ],
        "unattended-upgrade::package-blacklist": [""],
        "unattended-upgrade::automatic-reboot": ["false"],
        "unattended-upgrade::automatic-reboot-time": ["04:30"],
        "unattended-upgrade::remove-unused-kernel-packages": ["true"],
        "unattended-upgrade::remove-new-unused-dependencies": ["true"],
        "unattended-upgrade::syslogenable": ["true"],
    }
    assert {name: found.get(name) for name in meant} == meant


def test_packages_that_stay_as_they_are(tmp_path: Path) -> None:
    found = apt(tmp_path, base_upgrade_blocklist=["redis-", "nginx"], base_automatic_reboot=True)
    assert found["unattended-upgrade::package-blacklist"] == ["", "redis-", "nginx"]
    assert found["unattended-upgrade::automatic-reboot"] == ["true"]


def test_the_kernel_gets_each_setting() -> None:
    text = render("base", "sysctl.conf", base_extra_sysctls={"vm.swappiness": 10, "kernel.sysrq": 1})
    found = dict(re.findall(r"(?m)^-(\S+) = (\S+)$", text))
    asked = yaml.safe_load((ROOT / "roles/base/defaults/main.yml").read_text("utf-8"))["base_sysctls"]
    assert found == {name: str(value) for name, value in asked.items()} | {"vm.swappiness": "10", "kernel.sysrq": "1"}


def test_the_journal_is_kept_and_forgets() -> None:
    lines = render("base", "journald.conf").splitlines()
    assert lines[1:] == ["[Journal]", "Storage=persistent", "SystemMaxUse=500M", "MaxRetentionSec=30day"]


@pytest.mark.parametrize(("flags", "timeout", "expected"), [("-ic", 900, "900 0"), ("-c", 900, " 0"), ("-ic", 0, " 0")])
def test_an_idle_shell_ends_and_nothing_dumps_its_memory(
    tmp_path: Path, flags: str, timeout: int, expected: str
) -> None:
    file = tmp_path / "profile.sh"
    file.write_text(render("base", "profile.sh", base_shell_timeout=timeout), "utf-8")
    script = f'. {file}; echo "$TMOUT $(ulimit -c)"; sh -c \'[ -z "$TMOUT" ] || echo handed on\'; TMOUT=1'
    command = ["bash", "--norc", flags, script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    lines = done.stdout.splitlines()
    assert lines[0] == expected
    assert ("handed on" in lines, "readonly" in done.stderr) == (expected != " 0",) * 2


@pytest.mark.parametrize(
    ("exporter", "meant"),
    [
        (
            "node",
            "--web.listen-address=10.0.0.1:9100 --collector.systemd --collector.systemd.enable-start-time-metrics",
        ),
        ("nginx", "--web.listen-address=10.0.0.1:9113 --nginx.scrape-uri=http://127.0.0.1:8080/stub_status"),
        ("redis", "--web.listen-address=10.0.0.1:9121 --redis.addr=redis://127.0.0.1:6379"),
        ("blackbox", "--web.listen-address=127.0.0.1:9115 --config.file=/etc/prometheus/blackbox.yml"),
    ],
)
def test_exporters_listen_where_they_are_told(tmp_path: Path, exporter: str, meant: str) -> None:
    given = {"exporters_address": "10.0.0.1", "exporters_redis_password": 'a"b$c`d\\'}
    known = evaluate("exporters", "__exporters_known", **given)[exporter]
    file = tmp_path / "default"
    file.write_text(render("exporters", "default", __exporter=known, **given), "utf-8")
    script = f'. {file}; echo "$ARGS"; echo "${{REDIS_PASSWORD-}}"'
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith(meant)
    assert said[1] == (given["exporters_redis_password"] if exporter == "redis" else "")
    if exporter == "node":
        (units,) = re.findall(r"unit-include=(\S+)", said[0])
        seen = ("clawdbot.service", "clawdbot-worker.service", "ssh.service", "nginx.service", "redis-server.service")
        assert all(re.fullmatch(units, unit) for unit in seen)
        assert not re.fullmatch(units, "cron.service")
