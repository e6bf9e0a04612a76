"""Attackers are banned, others are not: tried from two other hosts."""

import os

import testinfra
from testinfra.host import Host

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]

testinfra_hosts = ["ansible://servers"]


def client(name: str) -> Host:
    return testinfra.get_host(f"ansible://fail2ban-{name}", ansible_inventory=INVENTORY)


def address(host: Host) -> str:
    return str(host.check_output("hostname -I")).split()[0]


def test_ssh(host: Host) -> None:
    assert host.run("sudo fail2ban-client status sshd").rc == 0
    assert address(host)
