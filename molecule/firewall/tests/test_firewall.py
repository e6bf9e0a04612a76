"""What other hosts can reach, tried from them over IPv4 and IPv6."""

import os
import subprocess
from collections.abc import Iterator

import pytest
import testinfra
import yaml
from testinfra.host import Host

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
SERVERS = ("firewall-debian12", "firewall-debian13")
FRIEND_V6 = "fd00:c1a3:d808::f00d"
OPEN_PORTS = (80, 18789, 6379)

testinfra_hosts = [f"ansible://{name}?force_ansible=False" for name in SERVERS]


def client(name: str) -> Host:
    return testinfra.get_host(f"ansible://firewall-{name}", ansible_inventory=INVENTORY)


def address(host: Host, family: int) -> str:
    scope = host.check_output(f"ip -{family} -brief address show dev eth0 scope global")
    return next(word.split("/")[0] for word in scope.split()[2:] if FRIEND_V6 not in word)


def reaches(source: Host, target: str, port: int) -> bool:
    return bool(source.run(f"timeout 2 bash -c '</dev/tcp/{target}/{port}'").rc == 0)


@pytest.fixture(autouse=True)
def listeners(host: Host) -> Iterator[None]:
    for port in OPEN_PORTS:
        host.run(
            f"sudo systemd-run --quiet --collect --unit=listener-{port} python3 -m http.server --bind :: {port}"
        )
    host.check_output("sleep 1")
    yield
    for port in OPEN_PORTS:
        host.run(f"sudo systemctl stop listener-{port}")


@pytest.mark.parametrize("family", [4, 6])
def test_only_declared_ports_answer(host: Host, family: int) -> None:
    target = address(host, family)
    friend, stranger = client("friend"), client("outside")
    if family == 6:
        friend.run(f"sudo ip -6 address add {FRIEND_V6}/64 dev eth0 nodad")
        source_rule = f"sudo ip -6 route replace {target}/128 dev eth0 src {FRIEND_V6}"
        friend.check_output(source_rule)
    assert [reaches(friend, target, port) for port in OPEN_PORTS] == [True, True, False]
    assert [reaches(stranger, target, port) for port in OPEN_PORTS] == [True, False, False]
