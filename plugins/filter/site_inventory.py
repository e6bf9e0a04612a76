"""Filters that turn the inventory into addresses, firewall rules and members of the upstream.

They read inventory variables only, never facts, so that ``--limit`` and unreachable hosts change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

HostVars = Mapping[str, Mapping[str, Any]]

#: The groups whose hosts make up an installation.
SITE_GROUPS = ("loadbalancer", "clawdbot", "redis", "monitoring")


def address(host: str, hostvars: HostVars) -> str:
    """Address under which the other hosts reach ``host``: site_address, else ansible_host, else its name."""
    variables = hostvars[host]
    return str(variables.get("site_address") or variables.get("ansible_host") or host)


def site_names(value: object) -> list[str]:
    """Names of hosts as people write them after ``-e node=``: one, several with commas between them, or a list."""
    words = value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(name for word in words for name in str(word).replace(",", " ").split()))


def site_addresses(hosts: Iterable[str], hostvars: HostVars) -> list[str]:
    """Addresses of ``hosts`` in their order, each once."""
    return list(dict.fromkeys(address(host, hostvars) for host in hosts))


def site_groups(groups: Mapping[str, list[str]], leaving: Iterable[str]) -> dict[str, list[str]]:
    """The four groups without the nodes that are ``leaving``; a group that the inventory does not have is empty."""
    gone = set(leaving)
    return {group: [host for host in groups.get(group, []) if host not in gone] for group in SITE_GROUPS}


def site_hosts(groups: Mapping[str, list[str]]) -> list[str]:
    """Names of all hosts of the installation, each once; hosts outside the four groups are not part of it."""
    return list(dict.fromkeys(host for group in SITE_GROUPS for host in groups.get(group, [])))


def site_firewall(
    services: Iterable[Mapping[str, Any]],
    host: str,
    groups: Mapping[str, list[str]],
    hostvars: HostVars,
) -> list[dict[str, Any]]:
    """Rules for the firewall of ``host``.

    Args:
        services: rows of ``site_services``: name, port, ``on`` (group that offers it, or ``site`` for
            every host), ``to`` (groups that may use it, or ``any``) and, where another port of the host serves
            it, ``redirect``.
        host: inventory name of the host that is being configured.
        groups: names of the hosts by group.
        hostvars: Ansible's ``hostvars``.

    Returns:
        Entries in the shape of ``firewall_services``: name, protocol, ports, sources and redirect.
    """
    rules = []
    for service in services:
        if service["on"] != "site" and host not in groups.get(service["on"], []):
            continue
        users = service["to"]
        if users == "any":
            sources = ["any"]
        else:
            sources = site_addresses((user for group in users for user in groups.get(group, [])), hostvars)
        if sources:
            rule = {"name": service["name"], "protocol": "tcp", "ports": [int(service["port"])], "sources": sources}
            if "redirect" in service:
                rule["redirect"] = int(service["redirect"])
            rules.append(rule)
    return rules


def site_members(hosts: Iterable[str], hostvars: HostVars, port: int) -> list[dict[str, Any]]:
    """Members for ``loadbalancer_members``.

    Args:
        hosts: names of the nodes.
        hostvars: Ansible's ``hostvars``. Read are what `address` reads, and ``site_member_weight`` (integer, 1),
            ``site_member_backup`` and ``site_member_down`` (booleans, false).
        port: TCP port of the bot.

    Returns:
        One entry a host, in their order: name, address, port, weight, backup, down.

    Raises:
        TypeError, ValueError: a variable cannot be converted.
    """
    members = []
    for host in hosts:
        variables = hostvars[host]
        members.append(
            {
                "name": host,
                "address": address(host, hostvars),
                "port": int(port),
                "weight": int(variables.get("site_member_weight", 1)),
                "backup": boolean(variables.get("site_member_backup", False)),
                "down": boolean(variables.get("site_member_down", False)),
            }
        )
    return members


def site_certificate(balancers: Iterable[str], hostvars: HostVars) -> str:
    """Where the certificate of ``balancers`` comes from: loadbalancer_tls of the first; "none" without balancers."""
    for host in balancers:
        return worded(hostvars[host].get("loadbalancer_tls", "selfsigned"), no="none")
    return "none"


def site_url(scheme: str, host: str, port: int | str) -> str:
    """URL of a server, without a path and without the port that the scheme implies."""
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" if int(port) == {"http": 80, "https": 443}[scheme] else f"{scheme}://{name}:{port}"


def worded(value: object, no: str = "no", yes: str = "yes") -> str:
    """A choice between words, some of which YAML 1.1 makes a boolean of when they are not quoted (``off``, ``yes``).

    Args:
        value: what the user wrote, as YAML has read it.
        no: the word among the choices for "false", by whatever name.
        yes: the same for "true".
    """
    text = str(value)
    if text.lower() in ("no", "off", "false"):
        return no
    return yes if text.lower() in ("yes", "on", "true") else text


class FilterModule:
    """Entry point for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Names of the filters."""
        return {
            "site_names": site_names,
            "site_addresses": site_addresses,
            "site_groups": site_groups,
            "site_hosts": site_hosts,
            "site_firewall": site_firewall,
            "site_members": site_members,
            "site_certificate": site_certificate,
            "site_url": site_url,
            "worded": worded,
        }
