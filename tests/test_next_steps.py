"""What a run prints at its end fits the hosts of the inventory."""

import subprocess
from pathlib import Path

import yaml

HOSTS = """
all:
  vars: {site_redis_password: 0123456789abcdef0123}
  children:
    loadbalancer: {hosts: {lb1: {ansible_host: 192.0.2.1, ansible_port: 2222}}}
    clawdbot:
      hosts:
        app1: {ansible_host: 192.0.2.11, ansible_port: "2222"}
        app2: {ansible_host: 192.0.2.12, ansible_port: 10022}
    redis: {hosts: {redis1: {ansible_host: 192.0.2.21, ansible_port: 22}}}
    monitoring: {hosts: {lb1: {}}}
"""


def test_a_run_ends_with_each_hosts_own_ssh_port(root: Path, tmp_path: Path) -> None:
    last = yaml.safe_load((root / "playbooks/verify.yml").read_text("utf-8"))[-1]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([last]), "utf-8")
    (tmp_path / "templates").symlink_to(root / "playbooks/templates")
    (tmp_path / "hosts.yml").write_text(HOSTS, "utf-8")
    command = ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml")]
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    for line in (
        "SSH of lb1, app1 is on port 2222 now: ssh -p 2222 <user>@<host>",
        "SSH of app2 is on port 10022 now: ssh -p 10022 <user>@<host>",
        "SSH of redis1 is on port 22 now: ssh -p 22 <user>@<host>",
        "Alerts reach nobody yet: write clawdbot_dingtalk_access_token",
    ):
        assert line in shown
