"""What the machines say of themselves has to fit the inventory."""

from typing import Any

import pytest
import site_contacts
import site_inventory


def host(address: str = "172.16.3.4", port: int = 22, boot: str = "", **written: str) -> dict[str, Any]:
    """A host that answers on ``port`` and has ``address``."""
    login = {"server": address, "addresses": {address: "eth0"}, "listens": 22, "port": port, "boot": boot or address}
    return {"ssh_login": login, **written}


@pytest.mark.parametrize(
    ("hosts", "alone"),
    [
        ({"bot1": host(ansible_host="203.0.113.10")}, True),
        ({"bot1": host(ansible_host="203.0.113.10", port=10022)}, True),
        ({"a": host(ansible_host="203.0.113.10"), "b": host("172.16.3.5", ansible_host="203.0.113.11")}, False),
        (
            {
                "a": host(port=10022, site_address="172.16.3.4"),
                "b": host("172.16.3.5", 10023, site_address="172.16.3.5"),
            },
            False,
        ),
        ({"clone1": host("10.0.0.1", boot="x"), "clone2": host("10.0.0.2", boot="x")}, False),
    ],
)
def test_what_can_work_passes(hosts: dict[str, dict[str, Any]], alone: bool) -> None:
    assert list(site_contacts.findings(hosts, alone)) == []


def test_an_address_on_no_interface_is_refused_with_the_line_to_write() -> None:
    hosts = {"app1": host(site_address="10.9.9.9"), "app2": host("172.16.3.5")}
    ((key, name, cure),) = site_contacts.findings(hosts, alone=False)
    assert (key, name) == ("site_address", "app1")
    assert "10.9.9.9 is on no interface of app1, which has 172.16.3.4 on eth0" in cure
    assert "write site_address: 172.16.3.4" in cure


def test_the_others_cannot_find_a_host_behind_a_forwarded_port() -> None:
    ((key, name, cure),) = site_contacts.findings({"app1": host(port=10022)}, alone=False)
    assert (key, name) == ("ansible_host", "app1")
    assert "port 10022 is forwarded" in cure


def test_two_names_of_one_machine_are_refused() -> None:
    ((key, _, cure),) = site_contacts.findings({"app1": host(), "app2": host()}, alone=False)
    assert key == "app2"
    assert "app1 and app2 are one machine" in cure


def test_hosts_are_known_by_their_public_or_by_their_private_addresses() -> None:
    hosts = {"lb1": host(ansible_host="203.0.113.10"), "app1": host("172.16.3.5", ansible_host="172.16.3.5")}
    private = site_inventory.site_private_hosts(hosts, hosts)
    assert private == ["app1"]
    ((key, name, cure),) = site_contacts.findings(hosts, alone=False, private=private)
    assert (key, name) == ("ansible_host", "lb1")
    assert "write site_address: 172.16.3.4" in cure
    hosts["lb1"]["site_address"] = "172.16.3.4"
    assert list(site_contacts.findings(hosts, alone=False, private=["lb1", "app1"])) == []


@pytest.mark.parametrize(
    ("written", "public"),
    [
        ({"ansible_host": "203.0.113.10", "site_address": "172.16.3.4"}, "203.0.113.10"),
        ({"ansible_host": "172.16.3.4"}, "172.16.3.4"),
        ({"ansible_host": "10.1.1.1", "site_address": "203.0.113.10"}, "203.0.113.10"),
        ({"ansible_host": "bot.example.com", "site_address": "172.16.3.4"}, "bot.example.com"),
        ({}, "lb1"),
    ],
)
def test_people_and_platforms_are_told_the_public_address(written: dict[str, str], public: str) -> None:
    assert site_inventory.site_public_address("lb1", {"lb1": written}) == public
