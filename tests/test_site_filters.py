"""Addresses and firewall rules follow the inventory."""

import pytest
import site_inventory as site

GROUPS = {"loadbalancer": ["lb1"], "clawdbot": ["app1", "app2"], "redis": ["app2"], "elsewhere": ["x"]}
HOSTVARS = {
    "lb1": {"ansible_host": "10.0.0.1"},
    "app1": {"ansible_host": "bastion-name", "site_address": "10.0.0.2"},
    "app2": {"ansible_host": "10.0.0.3"},
    "10.0.0.9": {},
}


def test_address_prefers_site_address_then_ansible_host_then_the_name() -> None:
    hosts = ["app1", "app2", "10.0.0.9", "app2"]
    assert site.site_addresses(hosts, HOSTVARS) == ["10.0.0.2", "10.0.0.3", "10.0.0.9"]


def test_hosts_of_other_groups_are_not_part_of_the_site() -> None:
    assert site.site_hosts(GROUPS) == ["lb1", "app1", "app2"]


def test_a_node_that_is_leaving_is_in_no_group_any_more() -> None:
    assert site.site_groups(GROUPS, ["app2"]) == {
        "loadbalancer": ["lb1"],
        "clawdbot": ["app1"],
        "redis": [],
        "monitoring": [],
    }


@pytest.mark.parametrize(
    ("service", "host", "expected"),
    [
        ({"name": "http", "port": 80, "on": "loadbalancer", "to": "any"}, "lb1", ["any"]),
        ({"name": "bot", "port": 18789, "on": "clawdbot", "to": ["loadbalancer"]}, "app1", ["10.0.0.1"]),
        ({"name": "redis", "port": "6379", "on": "redis", "to": ["clawdbot"]}, "app2", ["10.0.0.2", "10.0.0.3"]),
        ({"name": "node", "port": 9100, "on": "site", "to": ["redis"]}, "app1", ["10.0.0.3"]),
    ],
)
def test_a_host_opens_what_it_offers_to_those_who_use_it(
    service: dict[str, object], host: str, expected: list[str]
) -> None:
    rules = site.site_firewall([service], host, GROUPS, HOSTVARS)
    assert [rule["sources"] for rule in rules] == [expected]
    assert rules[0]["ports"] == [int(str(service["port"]))]


def test_a_host_opens_nothing_that_it_does_not_offer_and_nothing_for_nobody() -> None:
    redis = {"name": "redis", "port": 6379, "on": "redis", "to": ["clawdbot"]}
    unused = {"name": "node", "port": 9100, "on": "site", "to": ["monitoring"]}
    assert site.site_firewall([redis, unused], "lb1", GROUPS, HOSTVARS) == []
