"""Filters that turn the inventory into addresses, firewall rules and members of the upstream.

What they say of other hosts comes from inventory variables only, never from facts, so that ``--limit`` and unreachable
hosts change nothing. What a host listens on has to be an address that it has, though: behind NAT that is not the one in
the inventory, and the host itself said which it is when the run logged in (``ssh_login``).
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from jinja2.exceptions import UndefinedError

HostVars = Mapping[str, Mapping[str, Any]]

#: The groups whose hosts make up an installation.
SITE_GROUPS = ("loadbalancer", "clawdbot", "redis", "monitoring")


#: Private networks (RFC 1918, RFC 6598, RFC 4193).
PRIVATE = [
    ipaddress.ip_network(each)
    for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]


def address(host: str, hostvars: HostVars) -> str:
    """Address under which the other hosts reach ``host``: site_address, else ansible_host, else its name."""
    variables = hostvars[host]
    return str(variables.get("site_address") or variables.get("ansible_host") or host)


def is_private(written: str) -> bool:
    """Whether ``written`` is an IP address that is translated on the way to the internet; a name is not."""
    try:
        found = ipaddress.ip_address(written)
    except ValueError:
        return False
    return any(found in network for network in PRIVATE)


def site_private_hosts(hosts: Iterable[str], hostvars: HostVars) -> list[str]:
    """Those of ``hosts`` that the others reach at a private address."""
    return [host for host in hosts if is_private(address(host, hostvars))]


def site_public_address(host: str, hostvars: HostVars) -> str:
    """Address of ``host`` for people and platforms: ``ansible_host`` if that is a public one, else as `address`."""
    written = str(hostvars[host].get("ansible_host") or "")
    return written if written and not is_private(written) else address(host, hostvars)


def site_names(value: object) -> list[str]:
    """Names of hosts as people write them after ``-e node=``: one, several with commas between them, or a list."""
    words = value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(name for word in words for name in str(word).replace(",", " ").split()))


def same_address(written: str, addresses: Iterable[str]) -> bool:
    """Whether ``written`` is one of the IP ``addresses``, in whatever notation."""
    try:
        return ipaddress.ip_address(written) in {ipaddress.ip_address(each) for each in addresses}
    except ValueError:  # a name
        return False


def site_own_address(host: str, hostvars: HostVars) -> str:
    """Address that ``host`` has: `address`, or, if no interface has that, the one this run's login arrived at."""
    written, login = address(host, hostvars), hostvars[host].get("ssh_login") or {}
    return written if not login.get("addresses") or same_address(written, login["addresses"]) else str(login["server"])


def site_host_addresses(
    hosts: Iterable[str], hostvars: HostVars, here: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Address of each of ``hosts``, in their order.

    Args:
        hosts: inventory names.
        hostvars: Ansible's ``hostvars``.
        here: the host that will use the addresses, and the one under which it reaches itself.
    """
    return {host: (here or {}).get(host) or address(host, hostvars) for host in hosts}


def site_addresses(hosts: Iterable[str], hostvars: HostVars) -> list[str]:
    """Addresses of ``hosts`` in their order, each once."""
    return list(dict.fromkeys(site_host_addresses(hosts, hostvars).values()))


def hops(arguments: str) -> Iterator[tuple[str, int]]:
    """Hosts through which a login with these ``arguments`` of ssh goes, and words that may be one, with ports.

    Source: ssh_config(5), ProxyJump.
    """
    for several in re.findall(r"(?:-J\s*|ProxyJump[=\s]\s*)([^\s'\"]+)", arguments):
        for hop in several.split(","):
            found = re.fullmatch(r"(?:ssh://)?(?:[^@]*@)?(?:\[([^]]+)]|([^:]+))(?::(\d+))?", hop)
            if found:
                yield found[1] or found[2], int(found[3] or 22)
    for command in re.findall(r"ProxyCommand[=\s]\s*(.*)", arguments):
        given = re.search(r"(?:-p\s*|Port[=\s])(\d+)", command)
        for word in re.split(r"[\s@'\"]+", command):
            yield word, int(given[1]) if given else 22


def site_jumps(hostvars: HostVars) -> dict[str, list[tuple[int, str]]]:
    """For each name or address that logins go through (``ProxyJump``, ``ProxyCommand``) the ports, and whose logins.

    Sources: ``ansible_ssh_common_args`` and ``ansible_ssh_extra_args`` of all hosts.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for host in hostvars:
        variables = hostvars[host]
        for key in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
            for name, port in hops(str(variables.get(key) or "")):
                found.setdefault(name, []).append((port, host))
    return found


def site_jump_ports(host: str, hostvars: HostVars, jumps: Mapping[str, Iterable[tuple[int, str]]]) -> list[int]:
    """Ports of ``host`` at which the logins of other hosts come through it, of ``jumps`` as `site_jumps` gives them."""
    variables = hostvars[host]
    names = [host, *(str(variables[key]) for key in ("ansible_host", "site_address") if variables.get(key))]
    return list(dict.fromkeys(port for name in names for port, comer in jumps.get(name, ()) if comer != host))


def site_groups(
    groups: Mapping[str, list[str]], leaving: Iterable[str], names: Mapping[str, str]
) -> dict[str, list[str]]:
    """The four groups without the nodes that are ``leaving``; a group that the inventory does not have is empty.

    Args:
        groups: Ansible's ``groups``.
        leaving: names of hosts.
        names: ``site_group_names``, what the inventory calls our groups.
    """
    gone = set(leaving)
    return {
        group: [host for host in groups.get(names.get(group, group), []) if host not in gone] for group in SITE_GROUPS
    }


def site_groups_of(groups: Mapping[str, list[str]], host: str) -> list[str]:
    """Which of the four groups, as `site_groups` gives them, a host is in."""
    return [group for group in SITE_GROUPS if host in groups[group]]


def site_patterns(
    groups: Mapping[str, list[str]], hostvars: HostVars, only: Collection[str] | None = None
) -> dict[str, str]:
    """Patterns for ``hosts`` of a play, which is read before there is a host, and so before ``site_group_names``.

    Args:
        groups: Ansible's ``groups``.
        hostvars: Ansible's ``hostvars``; empty where the playbook is only looked at (``--list-hosts``).
        only: names of hosts, for a stage that concerns no others.

    Returns:
        A pattern for each of the four groups, for all of them (``site``), and for all but the monitoring (``serving``).
    """
    variables: Mapping[str, Any] = hostvars[groups["all"][0]] if hostvars and groups["all"] else {}
    names = {group: variables.get("site_group_names", {}).get(group, group) or "!all" for group in SITE_GROUPS}

    def union(*members: str) -> str:
        parts = [name for group in members if (name := names[group]) != "!all"]
        if only is not None:
            parts = list(dict.fromkeys(host for name in parts for host in groups.get(name, []) if host in only))
        return ",".join(parts) or "!all"

    return {group: union(group) for group in names} | {
        "site": union(*SITE_GROUPS),
        "serving": union("loadbalancer", "clawdbot", "redis"),
    }


def site_hosts(groups: Mapping[str, list[str]]) -> list[str]:
    """Names of all hosts of the installation, each once; hosts outside the four groups are not part of it."""
    return list(dict.fromkeys(host for group in SITE_GROUPS for host in groups.get(group, [])))


def site_strangers(everybody: Iterable[str], groups: Mapping[str, list[str]], leaving: Iterable[str]) -> list[str]:
    """Hosts among ``everybody`` that are not of the installation, and not about to leave it."""
    ours = {*site_hosts(groups), *leaving}
    return [host for host in everybody if host not in ours]


def site_firewall(
    services: Iterable[Mapping[str, Any]],
    host: str,
    groups: Mapping[str, list[str]],
    hostvars: HostVars,
) -> list[dict[str, Any]]:
    """Rules for the firewall of ``host``.

    Args:
        services: rows of ``site_services``: name, port, or a protocol that has none, ``on`` (group that offers it, or
            ``site`` for every host), ``to`` (groups that may use it, or ``any``) or, of hosts that are not of this
            inventory, ``sources`` (their addresses and networks), where another port of the host serves it,
            ``redirect``, ``former``, ports that are served as well, and ``agreed``, the name in ``site_agreements``
            of a port whose former ones stay open.
        host: inventory name of the host that is being configured.
        groups: names of the hosts by group.
        hostvars: Ansible's ``hostvars``.

    Returns:
        Entries in the shape of ``firewall_services``: name, protocol, ports, sources and redirect.
    """
    rules = []
    for service in services:
        if host not in (site_hosts(groups) if service["on"] == "site" else groups.get(service["on"], [])):
            continue
        users = service.get("to", [])
        if users == "any":
            sources = ["any"]
        elif "sources" in service:
            sources = list(service["sources"])
        else:
            members = dict.fromkeys(user for group in users for user in groups.get(group, []))
            sources = site_addresses(members, hostvars)
        if sources:
            former = (hostvars[host].get("site_former") or {}).get(service.get("agreed"), [])
            first = [service["port"]] if "port" in service else []
            ports = [int(port) for port in (*first, *service.get("former", []), *former)]
            protocol = service.get("protocol", "tcp")
            rule = {"name": service["name"], "protocol": protocol, "ports": ports, "sources": sources}
            if "redirect" in service:
                rule["redirect"] = int(service["redirect"])
            rules.append(rule)
    return rules


def site_links(sites: Mapping[str, Mapping[str, Any]], port: int) -> dict[str, dict[str, Any]]:
    """Where the Redis of each site is reached by the other one.

    Args:
        sites: ``site_sites``: for each name ``redis``, a name or an address, maybe with a port, and ``addresses``,
            from which the connections of its hosts come.
        port: where none is written.

    Returns:
        For each name: name, host, port and addresses.
    """
    found = {}
    for name, site in sites.items():
        written = str(site["redis"])
        # Of an IPv6 address with a port the address is in brackets.
        split = re.fullmatch(r"\[?([^]]*?)]?:(\d+)", written) if written.count(":") == 1 or "]:" in written else None
        host, own = (split[1], int(split[2])) if split else (written.strip("[]"), int(port))
        found[name] = {"name": name, "host": host, "port": own, "addresses": list(site["addresses"])}
    return found


def site_agreed(
    agreements: Mapping[str, Mapping[str, Any]], host: str, groups: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Present values of what ``host`` offers to others, by name, from ``site_agreements``."""
    member_of = site_groups_of(groups, host)
    return {name: each["value"] for name, each in agreements.items() if set(each["on"]) & set(member_of)}


def site_behind(
    agreements: Mapping[str, Mapping[str, Any]], groups: Mapping[str, list[str]], there: Collection[str]
) -> dict[str, list[str]]:
    """For each name in ``site_agreements`` the hosts that use it and are not among those that are ``there``."""
    arrived = set(there)
    return {
        name: [host for host in site_hosts({group: groups[group] for group in each["users"]}) if host not in arrived]
        for name, each in agreements.items()
    }


def site_unsucceeded(groups: Mapping[str, list[str]], hostvars: HostVars) -> list[str]:
    """Groups whose services no host of theirs has yet, as playbooks/leave.yml saw it: who leaves them, leaves last."""

    def has(host: str, group: str) -> bool:
        return group in (hostvars[host].get("__leave_look") or {}).get("stdout_lines", [])

    return [group for group in SITE_GROUPS if groups[group] and not any(has(host, group) for host in groups[group])]


def site_members(hosts: Iterable[str], hostvars: HostVars, port: int, here: str = "") -> list[dict[str, Any]]:
    """Members for ``loadbalancer_members``.

    Args:
        hosts: names of the nodes.
        hostvars: Ansible's ``hostvars``. Read are what `address` reads, and ``site_member_weight`` (integer, 1),
            ``site_member_backup`` and ``site_member_down`` (booleans, false).
        port: TCP port of the bot.
        here: name of the balancer; a bot on the same host is asked at its loopback address.

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
                "address": "127.0.0.1" if host == here else address(host, hostvars),
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
        kind = str(hostvars[host].get("loadbalancer_tls", "selfsigned")).lower()
        return "none" if kind in ("off", "no", "false") else kind  # YAML 1.1 makes a boolean of the word without quotes
    return "none"


def site_alert_nodes(nodes: Iterable[str], hostvars: HostVars) -> list[str]:
    """Those of ``nodes`` that have a chat for alerts, as the bot sees it: DingTalk's group robot or a Feishu group."""

    def has_chat(variables: Mapping[str, Any]) -> bool:
        named = ("clawdbot_dingtalk_access_token", "clawdbot_alerts_feishu_chat")
        try:
            robot = str(variables.get("clawdbot_dingtalk_webhook_url") or "")
            return "access_token=" in robot or any(variables.get(name) for name in named)
        except UndefinedError:  # It is made of further hosts' variables, so not to be read from here, but set.
            return True

    return [node for node in nodes if has_chat(hostvars[node])]


def site_intakes(nodes: Iterable[str], hostvars: HostVars) -> dict[str, str]:
    """How the messages of the platforms of ``nodes`` come; ``http`` if those of one node do so."""
    found: dict[str, str] = {}
    for platform, name in (("dingtalk", "app_key"), ("feishu", "app_id")):
        for variables in (hostvars[node] for node in nodes):
            try:
                if variables.get(f"clawdbot_{platform}_{name}") and found.get(platform) != "http":
                    found[platform] = str(variables.get(f"clawdbot_{platform}_intake") or "http")
            except UndefinedError:  # likewise
                found[platform] = "http"
    return found


def site_unheard(groups: Mapping[str, list[str]], hostvars: HostVars) -> str:
    """What to write so that alerts reach somebody; empty where they do, and where nothing watches."""
    if not groups["monitoring"]:
        return ""
    variables = hostvars[groups["monitoring"][0]]
    try:
        token = variables.get("site_alerts_token") or ""
        if any(variables.get(name) for name in ("monitoring_email_to", "monitoring_webhook_urls")):
            return ""
    except UndefinedError:  # likewise
        return ""
    if token and site_alert_nodes(groups["clawdbot"], hostvars):
        return ""
    return (
        "Alerts reach nobody yet: write clawdbot_dingtalk_access_token (of a group robot), clawdbot_alerts_feishu_chat "
        "(a group) or monitoring_email_to (a mailbox), see docs/monitoring.md."
        + ("" if token else " The chats need site_alerts_token as well; `make secrets` makes it.")
    )


def site_survives(groups: Mapping[str, list[str]], hostvars: HostVars) -> str:
    """What the deaths of servers do to the bot, in a sentence for people; empty where there is only one.

    Args:
        groups: names of the hosts by group.
        hostvars: of which ``site_floating_addresses`` of the first balancer counts.
    """
    parts = {group: groups[group] for group in ("loadbalancer", "clawdbot", "redis") if groups[group]}
    if not groups["clawdbot"] or len({host for hosts in parts.values() for host in hosts}) == 1:
        return ""
    # Of servers of Redis more than half have to agree.
    spare = {group: (len(hosts) - 1) // (2 if group == "redis" else 1) for group, hosts in parts.items()}
    many = min(spare.values())
    if not many:
        alone = ", ".join(f"{parts[group][0]} ({group})" for group, more in spare.items() if not more)
        return f"Nobody stands in for {alone}; see docs/availability.md."
    balancers = parts.get("loadbalancer", [])
    try:
        moves = not balancers or hostvars[balancers[0]].get("site_floating_addresses")
    except UndefinedError:  # likewise
        moves = True
    condition = "" if moves else f", if what is in front of {', '.join(balancers)} passes over a dead one"
    return f"Any {'server' if many == 1 else f'{many} servers'} may die, not any {many + 1}{condition}."


def site_url(scheme: str, host: str, port: int | str) -> str:
    """URL of a server, without a path and without the port that the scheme implies."""
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" if int(port) == {"http": 80, "https": 443}[scheme] else f"{scheme}://{name}:{port}"


def site_batch(hosts: Collection[str], forks: int) -> int:
    """How many hosts do their tasks together, so that none waits for others between a change and its proof.

    Args:
        hosts: all that take part.
        forks: hosts that the controller serves at once.

    Returns:
        At most ``forks``; batches are equally long, because a batch of one that fails would end the whole run.
    """
    rounds = max(1, math.ceil(len(hosts) / max(1, int(forks))))
    return max(1, math.ceil(len(hosts) / rounds))


class FilterModule:
    """Entry point for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Names of the filters."""
        return {
            "site_names": site_names,
            "site_host_addresses": site_host_addresses,
            "site_addresses": site_addresses,
            "site_own_address": site_own_address,
            "site_private_hosts": site_private_hosts,
            "site_public_address": site_public_address,
            "site_jumps": site_jumps,
            "site_jump_ports": site_jump_ports,
            "site_groups": site_groups,
            "site_groups_of": site_groups_of,
            "site_patterns": site_patterns,
            "site_hosts": site_hosts,
            "site_strangers": site_strangers,
            "site_firewall": site_firewall,
            "site_links": site_links,
            "site_agreed": site_agreed,
            "site_behind": site_behind,
            "site_unsucceeded": site_unsucceeded,
            "site_members": site_members,
            "site_certificate": site_certificate,
            "site_alert_nodes": site_alert_nodes,
            "site_intakes": site_intakes,
            "site_survives": site_survives,
            "site_unheard": site_unheard,
            "site_url": site_url,
            "site_batch": site_batch,
        }
