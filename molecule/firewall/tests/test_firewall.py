"""What other hosts can reach, tried from them; the real services of each kind of host are in the scenario harden."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import testinfra
from again import converge
from testinfra.host import Host

CONVERGE = Path(__file__).parents[1] / "converge.yml"
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


NAT = (
    "table ip bastion { chain out { type nat hook postrouting priority srcnat;"
    " oifname eth0 ip saddr 10.99.0.0/24 masquerade; }; }"
)


def as_it_was_before(host: Host) -> None:
    """A server that this role has never seen."""
    host.check_output(
        "systemctl disable -q --now nftables; nft delete table inet clawdbot; rm -rf /var/lib/clawdbot/firewall"
        " /etc/systemd/system/nftables.service.d /etc/nftables.kept /etc/nftables.conf*; systemctl daemon-reload"
    )


def restarted(host: Host) -> None:
    name = host.backend.get_pytest_id().removeprefix("docker://")
    subprocess.run(["docker", "restart", "--time", "20", name], check=True, capture_output=True)
    up = "for i in $(seq 30); do systemctl is-active -q nftables && exit; sleep 1; done; exit 1"
    assert host.run(up).rc == 0


def again(host: Host) -> str:
    run = converge(CONVERGE, host.backend.get_pytest_id().removeprefix("docker://clawdbot-"))
    assert run.returncode == 0, run.stdout[-3000:]
    return " ".join(run.stdout.split())


def test_own_rules_are_named_and_address_translation_outlives_a_reboot(host: Host) -> None:
    as_it_was_before(host)
    target = address(host, 4)
    host.check_output(f"install -d /etc/nftables.d; echo '{NAT}' >/etc/nftables.d/nat.nft")
    host.check_output(
        "printf '%s\n' '#!/usr/sbin/nft -f' 'flush ruleset' 'include \"/etc/nftables.d/*.nft\"'"
        " 'table inet filter { chain input { type filter hook input priority 0; policy drop; iif lo accept;"
        " ct state established accept; tcp dport 22 accept; }; chain forward { type filter hook forward priority 0;"
        ' oifname "nowhere" drop; }; }\' >/etc/nftables.conf; systemctl enable -q --now nftables'
    )
    before = host.check_output("cat /etc/nftables.conf")
    assert not reaches(client("stranger"), target, 80)
    said = again(host)
    assert "/etc/nftables.conf.before-clawdbot" in said
    assert "table ip bastion" in said
    assert host.check_output("cat /etc/nftables.conf.before-clawdbot") == before
    assert reaches(client("stranger"), target, 80), "only one place says who may come in"
    for _ in ("now", "after a reload", "after a restart", "after a reboot"):
        rules = host.check_output("nft list ruleset")
        assert rules.count("masquerade") == 1
        assert rules.count('oifname "nowhere" drop') == 1
        assert "policy drop" in host.check_output("nft list chain inet clawdbot input")
        host.check_output(
            {"now": "systemctl reload nftables", "after a reload": "systemctl restart nftables"}.get(_, ":")
        )
        if _ == "after a restart":
            restarted(host)
    assert "changed=0" in again(host)


def test_ufw_is_named_and_gives_way(host: Host) -> None:
    as_it_was_before(host)
    target = address(host, 4)
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ufw")
    host.check_output(
        "printf '*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s 10.99.0.0/24 -o eth0 -j MASQUERADE\nCOMMIT\n'"
        " >>/etc/ufw/before.rules; ufw allow 22/tcp; ufw --force enable"
    )
    assert not reaches(client("stranger"), target, 80)
    said = again(host)
    assert "ufw is off" in said
    assert "22/tcp" in host.check_output("ufw show added")
    assert reaches(client("stranger"), target, 80)
    restarted(host)
    assert "masquerade" in host.check_output("nft list table ip ufw_nat")
    assert "policy drop" in host.check_output("nft list chain inet clawdbot input")
    assert host.run("iptables -S INPUT").stdout.strip() in ("-P INPUT ACCEPT", "")
    assert "changed=0" in again(host)
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get purge -qq -y ufw")


def test_rules_that_lock_us_out_bring_ufw_back(host: Host) -> None:
    as_it_was_before(host)
    host.check_output("DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ufw")
    host.check_output("ufw allow 22/tcp; ufw --force enable")
    name = host.backend.get_pytest_id().removeprefix("docker://clawdbot-")
    run = converge(CONVERGE, name, firewall_rollback_after=15, firewall_extra_rules=["tcp dport 22 drop"])
    assert run.returncode != 0
    assert "Status: active" in host.check_output("ufw status")
    assert host.run("nft list table inet clawdbot").rc != 0
    host.check_output("ufw --force disable; DEBIAN_FRONTEND=noninteractive apt-get purge -qq -y ufw")
    assert "changed=" in again(host)


def test_switches_that_listen_in_are_answered(host: Host) -> None:
    """Multicast listener queries; without an answer a switch forgets who listens, and IPv6 goes away after minutes."""
    count = "nft list chain inet clawdbot input | sed -n 's/.*counter packets \\([0-9]*\\) .*dropped.*/\\1/p'"
    query = (
        "import socket, struct\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)\n"
        "s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)\n"
        "scope = socket.if_nametoindex('eth0')\n"
        "for _ in range(20):\n"
        "    s.sendto(struct.pack('!BBHHH16s', 130, 0, 0, 1000, 0, b''), ('ff02::1', 0, 0, scope))\n"
    )
    before = int(host.check_output(count))
    client("stranger").check_output("python3 -c %s", query)
    assert int(host.check_output(count)) - before < 20


def test_address_of_the_controller_is_not_counted_and_not_written_down(host: Host) -> None:
    controller = next(
        word for word in host.check_output("nft list set inet clawdbot controller_4").split() if word.count(".") == 3
    )
    assert not re.search(rf"\b{re.escape(controller)}\b", host.check_output("cat /etc/nftables.conf"))


def test_rules_come_back_after_a_reboot(host: Host) -> None:
    restarted(host)
    assert "policy drop" in host.check_output("nft list chain inet clawdbot input")
