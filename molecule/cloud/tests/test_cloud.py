"""From nothing to an answered message on servers as clouds hand them out, reached as people reach them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from installation import ROOT, Installation
from testinfra.host import Host

#: What this scenario tries, printed at its end: what is special about each server.
KINDS = {
    "bot1": [
        "Debian 12, one server, its public address only (1:1 NAT)",
        "sudo with a password, no IPv6",
        "cloud-init that ended with an error",
        "time servers and agent of the provider",
    ],
    "lb1": [
        "Debian 13, root with a key, its public address (1:1 NAT)",
        "a bastion of the inventory",
        "own nftables rules, two interfaces",
    ],
    "app1": ["Debian 13, through that bastion, which takes one login at a time", "keys in a folder of root's"],
    "app2": ["Debian 12, through a bastion that is not ours, one login at a time", "sshd_config without Include"],
    "redis1": ["Debian 13, behind a forwarded port (10022)", "cloud-init that is done", "ufw"],
}
PUBLIC = {"bot1": "198.51.100.10", "lb1": "198.51.100.20", "redis1": "198.51.100.30"}
PRIVATE = {
    "bot1": "10.213.47.10",
    "lb1": "10.213.47.20",
    "app1": "10.213.47.21",
    "app2": "10.213.47.22",
    "redis1": "10.213.47.30",
}


def machine(name: str) -> Host:
    """A server, reached as root through Docker."""
    return testinfra.get_host(f"docker://clawdbot-cloud-{name}")


def address(name: str) -> str:
    """Where the controller reaches a host that is not behind the router."""
    with Path(os.environ["MOLECULE_INSTANCE_CONFIG"]).open() as file:
        return next(str(each["address"]) for each in yaml.safe_load(file) if each["instance"] == f"cloud-{name}")


def through(bastion: str) -> str:
    """Options of ssh that reach a server through another one, as people write them."""
    key = ROOT / ".cache/molecule/id_ed25519"
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    return f'{options} -o ProxyCommand="ssh -i {key} {options} -W %h:%p {bastion}"'


@pytest.fixture(scope="session")
def single(request: pytest.FixtureRequest) -> Installation:
    """One server with nothing but its public address in the inventory."""
    groups = {group: ["bot1"] for group in ("loadbalancer", "clawdbot", "redis", "monitoring")}
    hosts = {"bot1": {"ansible_host": PUBLIC["bot1"]}}
    return Installation(
        request.config.getoption("--ansible-inventory"), groups | {"internet": ["outside"]}, "single", hosts
    )


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Installation:
    """Four servers, each reached in another way."""
    groups = {"loadbalancer": ["lb1"], "clawdbot": ["app1", "app2"], "redis": ["redis1"], "internet": ["outside"]}
    hosts: dict[str, dict[str, Any]] = {
        "lb1": {"ansible_host": PUBLIC["lb1"], "ansible_user": "root", "site_address": PRIVATE["lb1"]},
        "app1": {"ansible_host": PRIVATE["app1"], "ansible_ssh_common_args": through(f"root@{PUBLIC['lb1']}")},
        "app2": {"ansible_host": PRIVATE["app2"], "ansible_ssh_common_args": through(f"debian@{address('router')}")},
        "redis1": {"ansible_host": PUBLIC["redis1"], "ansible_port": 10022, "site_address": PRIVATE["redis1"]},
    }
    return Installation(request.config.getoption("--ansible-inventory"), groups, "cluster", hosts)


def answers(public: str) -> str:
    """A conversation with people of both platforms, who know the public address only."""
    outside = testinfra.get_host("docker://clawdbot-cloud-outside")
    return str(
        outside.check_output(
            "cd /opt/simulator && python3 -m clawdbot_simulator converse --config config.json"
            f" --callback-base http://{public}:18789"
        )
    )


def test_one_server_answers_at_its_public_address(single: Installation) -> None:
    password = ("--become-password-file", str(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "sudo"))
    said = single.play("site.yml", *password)
    assert "module apt-configure failed" in " ".join(said.split())
    assert "6 of 6 messages were answered" in answers(PUBLIC["bot1"])
    assert single.changed(single.play("site.yml", *password)) == {"bot1": 0}


def test_one_server_keeps_what_is_its_providers() -> None:
    server = machine("bot1")
    assert "server ntp.cloud.aliyuncs.com" in server.file("/etc/chrony/chrony.conf").content_string
    assert server.service("aegis").is_running
    assert server.file("/etc/ssh/sshd_config.d/50-cloud-init.conf").exists
    assert "passwordauthentication no" in server.check_output("sshd -T")


def test_what_cannot_be_right_is_refused_before_anything_is_touched(cluster: Installation) -> None:
    written = cluster.hosts["lb1"].pop("site_address")
    cluster.hosts["app1"]["site_address"] = "10.213.47.99"
    before = machine("lb1").check_output("find /etc /usr -newer /etc/hostname -type f | wc -l")
    try:
        cluster.nodes("app1", "app2")
        said = cluster.refuse("site.yml")
    finally:
        del cluster.hosts["app1"]["site_address"]
        cluster.hosts["lb1"]["site_address"] = written
        cluster.nodes("app1", "app2")
    assert "10.213.47.99 is on no interface of cloud-app1" in said
    assert f"write site_address: {PRIVATE['app1']}" in said
    assert f"write site_address: {PRIVATE['lb1']}" in said
    assert machine("lb1").check_output("find /etc /usr -newer /etc/hostname -type f | wc -l") == before


def test_a_cluster_answers_however_its_servers_are_reached(cluster: Installation) -> None:
    cluster.play("site.yml")
    assert "6 of 6 messages were answered" in answers(PUBLIC["lb1"])
    assert cluster.changed(cluster.play("site.yml")) == dict.fromkeys(("lb1", "app1", "app2", "redis1"), 0)


def test_a_cluster_keeps_what_its_servers_came_with() -> None:
    bastion = machine("lb1")
    assert bastion.file("/etc/nftables.conf.before-clawdbot").exists
    bastion.check_output("systemctl restart nftables.service")
    assert "masquerade" in bastion.check_output("nft list table ip office")
    assert bastion.interface("eth9").addresses[0] == "192.168.99.20"
    assert "22/tcp" in machine("redis1").check_output("ufw show added")
    assert "inactive" in machine("redis1").check_output("ufw status")
    assert "/etc/ssh/keys/%u" in machine("app1").check_output("sshd -T -C user=debian | grep -i ^authorizedkeysfile")


def test_ports_that_others_come_through_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """The forwarded one leads to 22, and the bastion is known to everybody behind it by its port."""

    def listening(name: str) -> set[str]:
        return set(machine(name).check_output("ss -Hltn | awk '{ print $4 }' | sed 's/.*://'").split())

    assert "22" in listening("redis1")
    assert "22" in listening("lb1")
    for name in ("app1", "app2", "bot1"):
        assert "2222" in listening(name)
        assert "22" not in listening(name)
    run = subprocess.run(["timeout", "3", "bash", "-c", f"</dev/tcp/{PUBLIC['bot1']}/6379"], check=False)
    assert run.returncode != 0
    with capsys.disabled():
        print("\ntried in this scenario:")
        for server, kinds in KINDS.items():
            print("\n".join(f"  {server:8} {kind}" for kind in kinds))
