"""What other hosts can reach, tried from them; the real services of each kind of host are in the scenario harden."""

import subprocess
from collections.abc import Iterator
from functools import cache

import pytest
import testinfra
from testinfra.host import Host

SERVERS = ("firewall-debian12", "firewall-debian13")
FRIEND_V6 = "fd00:c1a3:d808::f00d"
LISTENERS = (80, 18789, 6379)
testinfra_hosts = [f"docker://clawdbot-{name}" for name in SERVERS]


@cache
def client(name: str) -> Host:
    return testinfra.get_host(f"docker://clawdbot-firewall-{name}")


def address(host: Host, family: int) -> str:
    shown = host.check_output(f"ip -{family} -brief address show dev eth0 scope global")
    return str(next(word for word in shown.split()[2:] if FRIEND_V6 not in word).split("/")[0])


def reaches(source: Host, target: str, port: int) -> bool:
    return bool(source.run(f"timeout 2 bash -c '</dev/tcp/{target}/{port}'").rc == 0)


@pytest.fixture(autouse=True)
def _listeners(host: Host) -> Iterator[None]:
    for port in LISTENERS:
        host.check_output(
            f"systemctl is-active -q listener-{port} ||"
            f" systemd-run -q --collect --unit=listener-{port} python3 -m http.server --bind :: {port}"
        )
    assert all(
        host.run(f"for i in 1 2 3 4 5 6 7 8 9; do ss -Hltn | grep -q ':{port} ' && exit; sleep 1; done; exit 1").rc == 0
        for port in LISTENERS
    )
    yield
    host.run("systemctl stop 'listener-*'")


def test_only_declared_ports_answer(host: Host) -> None:
    target = address(host, 4)
    assert [reaches(client("friend"), target, port) for port in LISTENERS] == [True, True, False]
    assert [reaches(client("stranger"), target, port) for port in LISTENERS] == [True, True, False]


def test_the_same_over_ipv6(host: Host) -> None:
    target = address(host, 6)
    client("friend").run(f"ip -6 address add {FRIEND_V6}/64 dev eth0 nodad")
    client("friend").check_output(f"ip -6 route replace {target}/128 dev eth0 src {FRIEND_V6}")
    assert [reaches(client("friend"), target, port) for port in LISTENERS] == [True, True, False]
    assert [reaches(client("stranger"), target, port) for port in LISTENERS] == [True, True, False]


def peer(source: Host, target: str, port: int) -> list[str]:
    """Port that answers a connection, and the address that it sees."""
    return str(source.check_output(f"timeout 5 bash -c 'cat </dev/tcp/{target}/{port}'")).split()


@pytest.mark.parametrize("family", [4, 6])
def test_a_redirected_port_is_served_by_the_other_one_with_the_clients_address(host: Host, family: int) -> None:
    """Those who may use the port itself, and the host, get the port itself."""
    host.check_output("systemctl stop 'listener-*'")
    program = (
        "import socketserver,sys\n"
        "class H(socketserver.BaseRequestHandler):\n"
        "  def handle(self): self.request.sendall(f'{sys.argv[1]} {self.client_address[0]}'.encode())\n"
        "socketserver.TCPServer.address_family=10\n"
        "socketserver.TCPServer.allow_reuse_address=True\n"
        "socketserver.TCPServer(('::',int(sys.argv[1])),H).serve_forever()"
    )
    for port in (80, 18789):
        host.check_output(f"systemd-run -q --collect --unit=listener-{port} python3 -c %s {port}", program)
    host.check_output("timeout 10 sh -c 'until [ $(ss -Hltn | grep -cE \":(80|18789) \") = 2 ]; do sleep 0.2; done'")
    target, mapped = address(host, family), "::ffff:" if family == 4 else ""
    if family == 6:
        client("friend").run(f"ip -6 address add {FRIEND_V6}/64 dev eth0 nodad")
        client("friend").check_output(f"ip -6 route replace {target}/128 dev eth0 src {FRIEND_V6}")
    stranger = mapped + address(client("stranger"), family)
    friend = mapped + (FRIEND_V6 if family == 6 else address(client("friend"), family))
    for port in (18789, 18790):
        assert peer(client("stranger"), target, port) == ["80", stranger]
    assert peer(client("friend"), target, 18789) == ["18789", friend]
    assert peer(host, "::1" if family == 6 else "127.0.0.1", 18789)[0] == "18789"
    assert peer(host, target, 18789)[0] == "18789"


def test_strangers_reach_ssh_at_a_limited_rate(host: Host) -> None:
    burst = f"for i in $(seq 12); do timeout 1 bash -c '</dev/tcp/{address(host, 4)}/22' && echo in; done; true"
    assert client("stranger").check_output(burst).count("in") in range(5, 8)
    assert client("friend").check_output(burst).count("in") == 12


def test_published_container_ports_follow_the_same_policy(host: Host) -> None:
    """What Docker does for `-p 8081:80`, by hand: a network namespace behind a DNAT rule."""
    target = address(host, 4)
    host.check_output(
        "ip netns add box && ip link add veth0 type veth peer name eth0 netns box"
        " && ip address add 10.99.0.1/24 dev veth0 && ip link set veth0 up"
        " && ip -n box address add 10.99.0.2/24 dev eth0 && ip -n box link set eth0 up"
        " && ip -n box route add default via 10.99.0.1"
        " && nft 'table ip publish { chain ports { type nat hook prerouting priority dstnat;"
        " iifname eth0 tcp dport { 8080, 8081 } dnat to 10.99.0.2:80; }; }'"
    )
    host.check_output(
        "systemd-run -q --collect --unit=listener-box ip netns exec box python3 -m http.server 80; sleep 2"
    )
    try:
        # 8080 is not declared, 8081 is for the friend.
        assert [reaches(client("friend"), target, port) for port in (8080, 8081)] == [False, True]
        assert [reaches(client("stranger"), target, port) for port in (8080, 8081)] == [False, False]
        host.check_output("systemctl reload nftables")
        assert reaches(client("friend"), target, 8081), "the tables of others outlive a reload"
        host.check_output("systemctl stop nftables")
        assert reaches(client("stranger"), target, 8080), "without the guard the port would be public"
        host.check_output("systemctl start nftables")
        assert not reaches(client("stranger"), target, 8080)
    finally:
        host.run("ip netns delete box; nft delete table ip publish")


def test_rules_come_back_after_a_reboot(host: Host) -> None:
    name = host.backend.get_pytest_id().removeprefix("docker://")
    subprocess.run(["docker", "restart", "--time", "20", name], check=True, capture_output=True)
    up = "for i in $(seq 30); do systemctl is-active -q nftables && exit; sleep 1; done; exit 1"
    assert host.run(up).rc == 0
    assert "policy drop" in host.check_output("nft list chain inet clawdbot input")
