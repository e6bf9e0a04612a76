"""Filter that turns the bot's nodes into members of the load balancer's upstream.

It reads inventory variables only, never facts, so that ``--limit`` and unreachable hosts change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean


def site_members(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], port: int) -> list[dict[str, Any]]:
    """Members for ``loadbalancer_members``.

    Args:
        hosts: names of the nodes.
        hostvars: Ansible's ``hostvars``. Read are ``site_address``, else ``ansible_host``, else the name itself; and
            ``site_member_weight`` (integer, 1), ``site_member_backup`` and ``site_member_down`` (booleans, false).
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
                "address": str(variables.get("site_address") or variables.get("ansible_host") or host),
                "port": int(port),
                "weight": int(variables.get("site_member_weight", 1)),
                "backup": boolean(variables.get("site_member_backup", False)),
                "down": boolean(variables.get("site_member_down", False)),
            }
        )
    return members


class FilterModule:
    """Entry point for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Names of the filters."""
        return {"site_members": site_members}
