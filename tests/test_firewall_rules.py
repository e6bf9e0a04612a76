"""The rules as the kernel has them once they are loaded, in a network of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from readers import read_apart
from rendering import render

SERVICES = [
    {"name": "bot", "ports": [18789], "sources": ["10.0.0.1", "10.0.0.2", "fd00::1"]},
    {"name": "web", "ports": [80, 443], "sources": ["any"]},
    {"name": "vrrp", "protocol": "vrrp", "ports": [], "sources": ["10.0.0.3"]},
    {"name": "gossip", "protocol": "udp", "ports": [9094], "sources": ["10.0.0.3"]},
]
PINGS = "destination-unreachable, echo-request, time-exceeded, parameter-problem"
PINGS6 = "destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request"
NEIGHBOURS = "nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect"
LISTENERS = "mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report"


def loaded(folder: Path, **variables: Any) -> dict[str, list[str]]:
    """The lines of each set and chain, after the rules were loaded twice."""
    given = {"firewall_ssh_ports": [2222], "firewall_services": SERVICES, "firewall_admin_sources": ["192.0.2.0/24"]}
    rules = folder / "nftables.conf"
    rules.write_text(render("firewall", "nftables.conf", **given | variables), "utf-8")
    said = read_apart(folder, f"nft -f {rules}; nft -f {rules}; nft -s list table inet clawdbot", "nft")
    found: dict[str, list[str]] = {}
    for line in said.splitlines():
        if line.startswith("\t\t"):
            found[list(found)[-1]].append(line.strip())
        elif line.endswith("{") and line.startswith("\t"):
            found[line.split()[1]] = []
    return found


def test_what_comes_in(tmp_path: Path) -> None:
    assert loaded(tmp_path)["input"] == [
        "type filter hook input priority filter; policy drop;",
        'iif "lo" accept',
        "ct state vmap { invalid : drop, established : accept, related : accept }",
        f"icmp type {{ {PINGS} }} limit rate 50/second accept",
        f"icmpv6 type {{ {PINGS6} }} limit rate 50/second accept",
        f"icmpv6 type {{ {NEIGHBOURS} }} ip6 hoplimit 255 accept",
        f"ip6 saddr fe80::/10 icmpv6 type {{ {LISTENERS} }} accept "
        'comment "or a switch that listens in forgets this host"',
        'ip6 saddr fe80::/10 udp dport 546 accept comment "DHCPv6 client"',
        "tcp dport 2222 jump ssh_new",
        'tcp dport 18789 ip saddr @from_bot_4 accept comment "bot"',
        'tcp dport 18789 ip6 saddr @from_bot_6 accept comment "bot"',
        'tcp dport { 80, 443 } accept comment "web"',
        'meta l4proto vrrp ip saddr @from_vrrp_4 accept comment "vrrp"',
        'meta l4proto vrrp ip6 saddr @from_vrrp_6 accept comment "vrrp"',
        'udp dport 9094 ip saddr @from_gossip_4 accept comment "gossip"',
        'udp dport 9094 ip6 saddr @from_gossip_6 accept comment "gossip"',
        'limit rate 5/minute burst 10 packets log prefix "clawdbot-drop: " level info',
        'counter comment "dropped"',
    ]


def test_who_a_source_is(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    sets = {name: found[name][-1] for name in found if name.startswith(("from_", "admin_"))}
    assert sets == {
        "admin_4": "elements = { 192.0.2.0/24 }",
        "admin_6": "auto-merge",
        "from_bot_4": "elements = { 10.0.0.1-10.0.0.2 }",
        "from_bot_6": "elements = { fd00::1 }",
        "from_vrrp_4": "elements = { 10.0.0.3 }",
        "from_vrrp_6": "auto-merge",
        "from_gossip_4": "elements = { 10.0.0.3 }",
        "from_gossip_6": "auto-merge",
    }
    assert {name: found[name][0] for name in sets} == {name: f"type ipv{name[-1]}_addr" for name in sets}


def test_strangers_are_slowed_down_where_administrators_are_not(tmp_path: Path) -> None:
    found = loaded(tmp_path, firewall_ssh_rate=7, firewall_ssh_burst=3)
    limit = "limit rate over 7/minute burst 3 packets"
    assert found["ssh_new"] == [
        "ip saddr @admin_4 accept",
        "ip6 saddr @admin_6 accept",
        "ip saddr @controller_4 accept",
        "ip6 saddr @controller_6 accept",
        f"update @ssh_meter_4 {{ ip saddr {limit} }} counter drop",
        f"update @ssh_meter_6 {{ ip6 saddr & ffff:ffff:ffff:ffff:: {limit} }} counter drop",
        "accept",
    ]
    for family in (4, 6):
        kind = f"type ipv{family}_addr"
        assert found[f"controller_{family}"] == [kind, "timeout 1d"]
        assert found[f"ssh_meter_{family}"] == [kind, "size 65535", "flags dynamic,timeout", "timeout 2m"]


def test_containers_are_reached_by_no_more_than_the_host(tmp_path: Path) -> None:
    found = loaded(tmp_path, firewall_services=SERVICES[:1])["forward"]
    port = "meta l4proto tcp ct original proto-dst 18789"
    assert found == [
        "type filter hook forward priority filter - 10; policy accept;",
        "ct state established,related accept",
        "ct status ! dnat accept",
        'iifname { "lo", "docker0" } accept',
        'iifname "br-*" accept',
        f'{port} ip saddr @from_bot_4 accept comment "bot"',
        f'{port} ip6 saddr @from_bot_6 accept comment "bot"',
        "counter drop",
    ]


def test_a_former_port_leads_to_the_present_one_but_for_those_who_may_use_it(tmp_path: Path) -> None:
    former = {"name": "former", "ports": [18789], "sources": ["any"], "redirect": 80}
    found = loaded(tmp_path, firewall_services=[*SERVICES, former])
    assert found["prerouting"] == [
        "type nat hook prerouting priority dstnat; policy accept;",
        'iif "lo" accept',
        "fib daddr type != local accept",
        'tcp dport 18789 ip saddr @from_bot_4 accept comment "bot"',
        'tcp dport 18789 ip6 saddr @from_bot_6 accept comment "bot"',
        'tcp dport 18789 redirect to :80 comment "former"',
    ]
    assert not [line for line in found["input"] if "former" in line]
    assert "prerouting" not in loaded(tmp_path)


@pytest.mark.parametrize("log", [True, False])
def test_choices(tmp_path: Path, log: bool) -> None:
    rule = "ip saddr 198.51.100.7 drop"
    found = loaded(tmp_path, firewall_log=log, firewall_extra_rules=[rule])["input"]
    assert any("log prefix" in line for line in found) == log
    assert found.index(rule) < found.index("tcp dport 2222 jump ssh_new")
