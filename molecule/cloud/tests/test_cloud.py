"""From nothing to an answered message on servers as clouds hand them out, reached as people reach them."""

from __future__ import annotations

import os
import shlex
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
        "time servers, mirror and agent of the provider",
    ],
    "lb1": [
        "Debian 13, root with a key, its public address (1:1 NAT)",
        "a bastion of the inventory",
        "own nftables rules, two interfaces",
    ],
    "app1": ["Debian 13, through that bastion, which takes one of five logins at a time", "keys in a folder of root's"],
    "app2": [
        "Debian 12, through a bastion that is not ours, one of five logins at a time",
        "sshd_config without Include",
    ],
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
    assert "deb [trusted=yes] http://10.213.47.2/agents ./" in server.file("/etc/apt/sources.list").content_string
    assert "http://10.213.47.2/agents" in server.check_output("apt-get indextargets --format '$(SITE)'")


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


@pytest.mark.parametrize("bastion", ["lb1", "router"])
def test_a_bastion_may_have_more_hosts_behind_it_than_logins_at_a_time(
    cluster: Installation, tmp_path: Path, bastion: str
) -> None:
    """Both bastions take one; five hosts that log in at once are five names of one here."""
    behind = cluster.hosts["app1" if bastion == "lb1" else "app2"]
    # Nobody waits for a login of somebody else's.
    host = behind | {"ansible_ssh_extra_args": "-o ControlMaster=no -o ControlPath=none"}
    hosts = {f"host{number}": host for number in range(5)}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}), "utf-8")
    login = {"ansible.builtin.include_role": {"name": "ssh", "tasks_from": "connect"}}
    tasks = [login | {"vars": {"ssh_memory": str(tmp_path)}}]
    play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]), "utf-8")
    # grep fails where it counts none, which the comparison below finds out.
    refused = "journalctl --quiet --unit ssh | grep -c 'drop connection .*Maxstartups' || true"
    before = int(machine(bastion).check_output(refused))
    command = ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stdout[-6000:]
    assert int(machine(bastion).check_output(refused)) > before, "the bastion took all of them at once"


def test_a_cluster_answers_however_its_servers_are_reached(cluster: Installation) -> None:
    cluster.play("site.yml")
    assert "6 of 6 messages were answered" in answers(PUBLIC["lb1"])
    assert cluster.changed(cluster.play("site.yml")) == dict.fromkeys(("lb1", "app1", "app2", "redis1"), 0)


def test_a_cluster_keeps_what_its_servers_came_with() -> None:
    bastion = machine("lb1")

    def answer_to_the_office(server: str, port: int) -> str:
        """The first line that the office gets, whose packets come in by the second interface."""
        ask = f"exec 3<>/dev/tcp/{server}/{port}; printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3"
        return str(bastion.check_output(f"ip netns exec office timeout 5 bash -c {shlex.quote(ask)}"))

    assert " 200 " in answer_to_the_office("192.168.99.20", 80)
    assert bastion.file("/etc/nftables.conf.before-clawdbot").exists
    bastion.check_output("systemctl restart nftables.service")
    # Nobody outside knows a way back to the office's own address.
    assert answer_to_the_office(address("outside"), 9000).startswith("HTTP/")
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
