"""playbooks/rotate_secrets.yml: all secrets that are ours change under load, and the run may die anywhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from installation import ROOT, Installation, lets_in
from testinfra.host import Host

OURS = {"site_redis_password", "site_alerts_token", "site_dashboard_password", "site_backup_password"}
CONSOLES = {"clawdbot_dingtalk_token", "clawdbot_dingtalk_aes_key", "clawdbot_feishu_encryption_key"}
# Notes every command line of the host; a secret in one would be there for a moment only.
WATCH = r"""
while sleep 0.1; do
    cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n'
done | awk '!seen[$0]++ { print; fflush() }' >/run/command-lines
"""
ASK = """
import base64, sys, urllib.error, urllib.request
login = base64.b64encode(b"operator:" + sys.stdin.buffer.read()).decode()
try:
    asked = urllib.request.Request("http://127.0.0.1:9095/", headers={"Authorization": "Basic " + login})
    print(urllib.request.urlopen(asked).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


class Site:
    """An installation with an inventory of its own, whose secrets are in a file that may be written."""

    def __init__(self, inventory: str) -> None:
        folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "rotate"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / "inventories/sandbox/group_vars", folder / "group_vars")
        self.file = folder / "group_vars/all/secrets.yml"
        groups = {"loadbalancer": ["lb1"], "clawdbot": ["app1", "app2"], "redis": ["redis1"], "internet": ["outside"]}
        self.hosts = Installation(inventory, groups | {"monitoring": ["redis1"]}, "rotate")

    def secrets(self) -> dict[str, Any]:
        """What the file holds."""
        values: dict[str, Any] = yaml.safe_load(self.file.read_text("utf-8"))
        return values

    def dashboard(self, password: str) -> str:
        """Status with which the dashboard answers."""
        command = f"printf '%%s' %s | python3 -c {shlex.quote(ASK)}"
        return str(self.hosts.on("redis1").check_output(command, password))

    def opens_backup(self, name: str, password: str) -> bool:
        """Whether the copies of a host can be read with it."""
        command = ". /etc/clawdbot-backup/settings; read -r RESTIC_PASSWORD; restic --quiet cat config >/dev/null"
        return bool(self.hosts.on(name).run("printf '%%s\\n' %s | sudo bash -c %s", password, command).rc == 0)


@contextmanager
def command_lines(host: Host) -> Iterator[list[str]]:
    """Afterwards all that were seen on a host meanwhile."""
    seen: list[str] = []
    host.check_output("printf %%s %s | sudo tee /run/watch >/dev/null", WATCH)
    host.check_output("sudo systemd-run --quiet --unit=watch sh /run/watch")
    try:
        yield seen
    finally:
        host.check_output("sudo systemctl stop watch.service")
        seen += host.check_output("sudo cat /run/command-lines").splitlines()


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Site:
    """As the sandbox's inventory has it, in its consoles as well."""
    site = Site(request.config.getoption("--ansible-inventory"))
    site.hosts.play("sandbox/simulator.yml")
    site.hosts.play("site.yml")
    return site


def test_all_secrets_get_new_values_under_load(site: Site) -> None:
    said = site.hosts.refuse("playbooks/rotate_secrets.yml", "-e", "only=site_redis_pasword")
    assert "there is no secret site_redis_pasword; there are site_redis_password, " in said
    before, text = site.secrets(), site.file.read_text("utf-8")
    redis = site.hosts.on("redis1")
    with command_lines(redis) as seen, site.hosts.load() as report:
        said = " ".join(site.hosts.play("playbooks/rotate_secrets.yml", "-v", "--diff").split())
    print(report["summary"])
    after = site.secrets()
    assert {name for name in before if before[name] != after[name]} == OURS | CONSOLES
    assert after.keys() - before.keys() == {"clawdbot_dingtalk_former", "clawdbot_feishu_former"}
    comments = re.findall("#.*", text)
    assert re.findall("#.*", site.file.read_text("utf-8"))[: len(comments)] == comments

    assert lets_in(redis, after["site_redis_password"])
    assert not lets_in(redis, before["site_redis_password"])
    assert site.dashboard(after["site_dashboard_password"]) == "200"
    assert site.dashboard(before["site_dashboard_password"]) == "401"
    for name in ("lb1", "app1", "app2", "redis1"):
        assert site.opens_backup(name, after["site_backup_password"])
        assert not site.opens_backup(name, before["site_backup_password"])
    for proof in (
        "Redis refuses the former password",
        "The bot refuses the former token of alerts",
        "The dashboard refuses the former password",
        f"The former password does not open the repository of {site.hosts.prefix}lb1",
    ):
        assert proof in said
    assert re.search(r"clawdbot_dingtalk_token, clawdbot_dingtalk_aes_key: in open-dev.dingtalk.com .* until 20", said)

    for name in OURS | CONSOLES:
        assert not [line for line in (*seen, said) if before[name] in line or after[name] in line], name
    changed = site.hosts.changed(site.hosts.play("site.yml"))
    assert set(changed.values()) == {0}, changed


def test_a_rotation_that_dies_is_finished_by_the_next_one(site: Site) -> None:
    """Just after it has written, in the middle of the nodes, and before the repositories know the new password."""
    before = site.secrets()
    only = ["-e", "only=site_redis_password,site_backup_password"]
    with site.hosts.load() as report:
        for task in (
            "1:Go on with them",
            "2:clawdbot : Restart the bot",
            "1:backup : Take a copy with these settings, and one every night",
        ):
            run = site.hosts.begin("playbooks/rotate_secrets.yml", *only, kill_before=task)
            said, _ = run.communicate(timeout=900)
            assert run.returncode == -9, said[-6000:]
            held = site.secrets()
            assert held["site_rotated"] == {name: before[name] for name in held["site_rotated"]}
        said = " ".join(site.hosts.play("playbooks/rotate_secrets.yml").split())
    print(report["summary"])
    assert "Finishing what an interrupted run has begun: site_redis_password, site_backup_password" in said
    after = site.secrets()
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {"site_redis_password", "site_backup_password"}
    redis = site.hosts.on("redis1")
    assert lets_in(redis, after["site_redis_password"])
    assert not lets_in(redis, before["site_redis_password"])
    assert site.opens_backup("app2", after["site_backup_password"])
    assert not site.opens_backup("app2", before["site_backup_password"])
