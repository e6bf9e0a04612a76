"""Compares the inventory with the machines that answered, before any of them is touched.

Each finding names the file, the line and what to write there.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ansible.plugins.action import ActionBase


def interfaces(login: Mapping[str, Any]) -> str:
    """What a host has, for people: 172.16.3.4 on eth0, ..."""
    return ", ".join(f"{address} on {interface}" for address, interface in login["addresses"].items())


def has(login: Mapping[str, Any], written: str) -> bool:
    """Whether the address ``written`` is on an interface."""
    return ipaddress.ip_address(written) in {ipaddress.ip_address(address) for address in login["addresses"]}


def numeric(written: str) -> bool:
    """Whether it is an address and no name."""
    try:
        ipaddress.ip_address(written)
    except ValueError:
        return False
    return True


def findings(
    hosts: Mapping[str, Mapping[str, Any]], alone: bool, private: Collection[str] = ()
) -> Iterable[tuple[str, str, str]]:
    """What cannot be right.

    Args:
        hosts: variables of the hosts that answered: ``ssh_login``, and what the inventory has of ``site_address`` and
            ``ansible_host``.
        alone: whether the installation has no other host.
        private: hosts that the others reach at a private address.

    Yields:
        key that has to change, host, what to do.
    """
    machines: dict[tuple[str, frozenset[str]], str] = {}
    known = {host: str(each.get("site_address") or each.get("ansible_host") or host) for host, each in hosts.items()}
    inside = next(iter(private), None)
    for host, variables in hosts.items():
        login, written = variables["ssh_login"], str(variables.get("site_address") or "")
        if written and not has(login, written):
            yield (
                "site_address",
                host,
                f"{written} is on no interface of {host}, which has {interfaces(login)}; "
                f"write site_address: {login['server']} behind its name",
            )
        elif not written and not alone and int(login["listens"]) != int(login["port"]):
            yield (
                "ansible_host",
                host,
                f"port {login['port']} is forwarded to {host}, so the others do not find it at this address; "
                f"write site_address: {login['server']} behind its name",
            )
        elif not written and inside and not alone and numeric(known[host]) and not has(login, known[host]):
            yield (
                "ansible_host",
                host,
                f"{known[host]} is on no interface of {host}, and {inside} is known by its private address, so "
                f"the two would not know each other's packets; write site_address: {login['server']} behind its name",
            )
        first = machines.setdefault((login["boot"], frozenset(login["addresses"])), host)
        if first != host:
            yield (
                host,
                host,
                f"{first} and {host} are one machine; give one of them its own ansible_host (or ansible_port, where "
                "ports are forwarded), or write one name in all groups that the machine is in",
            )


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Looks at every host of the play that this run has logged in to. Its options: see ``plugins/modules``."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compare; the failure's message has everything that is wrong."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _, options = self.validate_argument_spec(
            {
                "alone": {"type": "bool", "required": True},
                "private": {"type": "list", "elements": "str", "required": True},
            }
        )
        everybody, hosts = variables["hostvars"], variables["ansible_play_hosts"]
        known = {host: everybody[host] for host in hosts if "ssh_login" in everybody[host]}
        found = list(findings(known, options["alone"], options["private"]))
        result["changed"] = False
        if found:
            preflight = self._shared_loader_obj.action_loader.get("site_preflight", class_only=True)
            sources = sys.modules[preflight.__module__].Sources(variables["ansible_inventory_sources"])
            lines = [f"  - {sources.where(key, host)}: {key}: {cure}" for key, host, cure in found]
            result["failed"] = True
            result["msg"] = "\n".join([f"{len(lines)} thing(s) to mend; no host was touched:", *lines])
        return result
