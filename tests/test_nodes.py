"""Nodes that come and go: what is refused before any host is reached, and what is stopped."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import yaml

SECRETS = """
site_redis_password: 0123456789abcdef0123
clawdbot_model_type: echo
clawdbot_feishu_app_id: cli_1
clawdbot_feishu_app_secret: s1
clawdbot_feishu_encryption_key: k1
clawdbot_feishu_verification_token: t1
"""
#: Stands for ssh, and notes that it was called.
SSH = """#!/bin/sh
touch "$0.called"
exit 255
"""


def play(root: Path, inventory: Path, playbook: str, node: str) -> str:
    """A run that fails before anything is touched; what it says."""
    ssh = inventory / "ssh"
    ssh.write_text(SSH, "utf-8")
    ssh.chmod(0o755)
    command = ["ansible-playbook", "-i", str(inventory / "hosts.yml"), f"playbooks/{playbook}", "-e", f"node={node}"]
    environment = os.environ | {"ANSIBLE_SSH_EXECUTABLE": str(ssh)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0, done.stdout
    return " ".join((done.stdout + done.stderr).split())


def test_no_node_joins_a_server_that_has_been_alone(root: Path, tmp_path: Path) -> None:
    inventory = tmp_path / "mine"
    shutil.copytree(root / "inventories/single", inventory)
    hosts = (inventory / "hosts.yml").read_text("utf-8")
    shown = "    clawdbot:\n      hosts:\n        bot1:\n"
    assert shown in hosts, hosts
    joined = hosts.replace(shown, f"{shown}        app2: {{ansible_host: 203.0.113.11}}\n")
    (inventory / "hosts.yml").write_text(joined, "utf-8")
    (inventory / "group_vars/all/secrets.yml").write_text(SECRETS, "utf-8")
    said = play(root, inventory, "add_node.yml", "app2")
    assert "bot1 has been alone so far, and listens for itself only. Run site.yml, which takes in app2 as well" in said
    assert not (inventory / "ssh.called").exists()


def test_a_node_that_is_called_by_its_ipv6_address_leaves_like_others(root: Path, tmp_path: Path) -> None:
    """A colon is no separator of patterns."""
    inventory = tmp_path / "mine"
    shutil.copytree(root / "inventories/cluster", inventory)
    hosts = (inventory / "hosts.yml").read_text("utf-8")
    (inventory / "hosts.yml").write_text(hosts.replace("app3: {", '"2001:db8::23": {'), "utf-8")
    (inventory / "group_vars/all/secrets.yml").write_text(SECRETS, "utf-8")
    for playbook in ("remove_node.yml", "add_node.yml"):
        said = play(root, inventory, playbook, "2001:db8::23")
        assert (inventory / "ssh.called").exists()
        assert "ignoring: 2001" not in said
        assert ("[2001:db8::23]" in said.partition("PLAY [Connect]")[2]) == (playbook == "add_node.yml")


def test_a_host_loses_what_it_is_no_longer_to_have_and_nothing_else(root: Path, tmp_path: Path) -> None:
    """Each host here has been everything once; what a host has that joins is not there yet."""
    leave = yaml.safe_load((root / "playbooks/leave.yml").read_text("utf-8"))[-1]
    left = yaml.safe_load((root / "playbooks/left.yml").read_text("utf-8"))[0]
    parts = yaml.safe_load((root / "playbooks/vars/leave.yml").read_text("utf-8"))["leave_parts"]
    everything = [part["name"] for part in parts]
    for part in parts:  # each has an entry point
        assert (
            root / "roles" / part.get("role", part["name"]) / "tasks" / f"{part.get('entry', 'absent')}.yml"
        ).exists()
    plays = []
    for when, play in (("now", leave), ("last", left)):
        (remove,) = play["tasks"]
        del remove["ansible.builtin.include_role"]
        remove["ansible.builtin.debug"] = {"msg": f"{{{{ inventory_hostname }}}} loses {{{{ item.name }}}} {when}."}
        looked = {
            "ansible.builtin.set_fact": {
                "__leave_look": {"stdout_lines": "{{ [] if new is defined else everything }}"}
            },
            "vars": {"everything": everything},
        }
        files = [str(root / "playbooks" / file) for file in play["vars_files"]]
        plays.append(play | {"tasks": [looked, remove], "connection": "local", "become": False, "vars_files": files})
    (tmp_path / "play.yml").write_text(yaml.safe_dump(plays), "utf-8")
    hosts = (
        "[bots]\napp1\nsingle\n[redis]\nold\nsingle\n[loadbalancer]\nnewcomer new=true\n[monitoring]\nmonitor\nsingle\n"
        "[clawdbot]\nold\n"
    )
    settings = (
        "site_group_names={'clawdbot': 'bots'}\nsite_dashboard_password=x\nsite_backup_password=x\n"
        f"site_redis_password={'x' * 16}\n"
    )
    (tmp_path / "hosts").write_text(f"{hosts}[all:vars]\n{settings}", "utf-8")
    command = ["ansible-playbook", "-i", str(tmp_path / "hosts"), str(tmp_path / "play.yml")]
    # The plays' own folder has what makes `hostvars` known to the first play.
    environment = os.environ | {"ANSIBLE_CALLBACK_PLUGINS": str(root / "plugins/callback")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    found = re.findall(r"(\w+) loses (\w+) (\w+)\.", done.stdout)
    # The new balancer is not there yet, so the former ones serve until the end of the run.
    assert set(found) == {
        *(("app1", part, "now") for part in ("dashboard", "monitoring")),
        *(("app1", part, "last") for part in ("keepalived", "loadbalancer", "redis", "nginx", "docker")),
        *(("old", part, "now") for part in ("clawdbot", "dashboard", "monitoring")),
        *(("old", part, "last") for part in ("keepalived", "loadbalancer", "nginx", "docker")),
        *(("monitor", part, "now") for part in ("clawdbot", "backup")),
        *(("monitor", part, "last") for part in ("keepalived", "loadbalancer", "redis", "docker")),
        *(("single", part, "last") for part in ("keepalived", "loadbalancer", "docker")),
    }, found
