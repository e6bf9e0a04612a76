#!/usr/bin/env python3
"""What many hosts ask of the controller, and how that grows: 10, 100 and 1 000 of them, of which none exists.

Two are balancers, one has Redis, one the monitoring, all others are nodes. Measured are processor time and the largest
process of what a run does before it reaches any host (read the inventory, check it, plan), and of what it then works
out for each host: what names other hosts is rendered by the variables of its own play. That is done for ten hosts in
each case, so a run as a whole is in proportion if this takes as long among a thousand as among ten. "nothing" is a task
that does nothing on these ten: what Ansible itself takes.

    .venv/bin/python bench/size.py
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {"loadbalancer": 2, "redis": 1, "monitoring": 1}
#: Hosts that work something out, whatever there are: those of `NEEDED`, and nodes.
SAMPLE = 10

#: What hosts would have said, as far as the plays ask for it.
ANSWERS = {
    "ssh_login": {"port": 22, "listens": 22, "client": "192.0.2.1", "version": "10.0", "addresses": {}},
    "ansible_managed": "Ansible managed",
    "__ssh_ports": ["{{ ssh_port }}"],
    "__leave_look": {"stdout_lines": ["clawdbot", "exporters", "agreements"]},
}


#: Plays by their playbook, roles whose defaults they need, and what they work out of other hosts, by its name: the role
#: that has a template for it, or an expression.
STAGES: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "leave": ("Remove what is not wanted any more", [], {"what goes": "{{ leave_going }}"}),
    "harden": (
        "Harden",
        ["base", "firewall", "ssh", "fail2ban"],
        {
            "hosts": "{{ base_hosts.items() | map('join', ' ') | join('\n') }}",
            "nftables.conf": "firewall",
            "sshd.conf": "ssh",
            "jail.local": "fail2ban",
        },
    ),
    "balance": ("Balance", ["loadbalancer"], {"clawdbot_members.conf": "loadbalancer"}),
    "observe": ("Observe", ["monitoring"], {"prometheus.yml": "monitoring"}),
}


@dataclass(frozen=True)
class Cost:
    """What a command took: processor seconds, its own and its children's, MB of the largest of these processes."""

    seconds: float
    megabytes: float
    output: str


def inventory(hosts: int, folder: Path) -> Path:
    """Writes an inventory of so many hosts into ``folder``, and the names of some of them beside it."""
    counts = NEEDED | {"clawdbot": hosts - sum(NEEDED.values())}
    addresses = (f"10.{n // 62500}.{n // 250 % 250}.{n % 250 + 1}" for n in range(hosts))
    children = {
        group: {"hosts": {f"{group}{n}": {"ansible_host": next(addresses)} for n in range(1, count + 1)}}
        for group, count in counts.items()
    }
    sample = [host for members in children.values() for host in members["hosts"]][:SAMPLE]
    (folder / "sample").write_text("\n".join(sample), "utf-8")
    names = ("app_secret", "encryption_key", "verification_token")
    variables = {f"clawdbot_feishu_{name}": secrets.token_hex(16) for name in names}
    variables |= {"clawdbot_feishu_app_id": "cli_1", "site_redis_password": secrets.token_hex(16)}
    file = folder / "hosts.yml"
    file.write_text(yaml.safe_dump({"all": {"children": children, "vars": variables}}), "utf-8")
    return file


def playbook(name: str, folder: Path) -> Path:
    """Writes a playbook in which the hosts of a stage work out what names others there, and say how long that is."""
    title, roles, sources = STAGES[name]
    plays: list[dict[str, Any]] = yaml.safe_load((ROOT / f"playbooks/{name}.yml").read_text("utf-8"))
    real = next(play for play in plays if play["name"] == title)
    texts = {
        file: (ROOT / f"roles/{source}/templates/{file}.j2").read_text("utf-8") if source in roles else source
        for file, source in sources.items()
    }
    defaults: dict[str, Any] = {}
    for role in roles:
        for path in (ROOT / f"roles/{role}").glob("[dv]*s/main.yml"):
            defaults |= yaml.safe_load(path.read_text("utf-8")) or {}
    said = [f"{file} {{{{ texts['{file}'] | length }}}} bytes" for file in texts]
    play = {key: real[key] for key in ("name", "hosts", "serial") if key in real} | {
        "gather_facts": False,
        "vars": defaults | real.get("vars", {}) | {"texts": texts},
        "vars_files": [str(ROOT / "playbooks" / file) for file in real.get("vars_files", [])],
        "roles": ["site"],
        "tasks": [{"name": "Work it out", "ansible.builtin.debug": {"msg": said}}],
    }
    look = yaml.safe_load((ROOT / "playbooks/tasks/neighbours.yml").read_text("utf-8"))
    connect = {"name": "Connect", "hosts": "all", "gather_facts": False, "roles": ["site"], "tasks": look}
    file = folder / f"{name}.yml"
    file.write_text(yaml.safe_dump([connect, play]), "utf-8")
    return file


def run(*command: str | Path) -> Cost:
    """Runs a program of Ansible's and measures it; its messages are shown when it fails."""
    with tempfile.TemporaryFile("w+") as output:
        program = Path(sys.executable).with_name(str(command[0]))
        process = subprocess.Popen([program, *command[1:]], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603  # own playbooks
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{said[-4000:]}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said)


def measure(hosts: int, folder: Path) -> Iterator[tuple[str, Cost]]:
    """Each step, measured with so many hosts."""
    source, nothing = inventory(hosts, folder), folder / "nothing.yml"
    limited = ("ansible-playbook", "-i", source, "--limit", f"@{folder / 'sample'}", "-e", json.dumps(ANSWERS))
    yield "inventory", run("ansible-inventory", "-i", source, "--list")
    yield "preflight", run("ansible-playbook", "-i", source, ROOT / "playbooks/preflight.yml")
    yield "plan", run("ansible-playbook", "-i", source, ROOT / "site.yml", "--list-hosts", "--list-tasks")
    for name in STAGES:
        yield name, run(*limited, playbook(name, folder))
    task = {"name": "Do nothing", "ansible.builtin.debug": {}}
    nothing.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [task]}]), "utf-8")
    yield "nothing", run(*limited, nothing)


def sizes(output: str) -> dict[str, int]:
    """Bytes of the longest of each file that was rendered; what has no name of a file is none."""
    found: dict[str, int] = {}
    for name, length in re.findall(r"^ *- (\S+) (\d+) bytes$", output, re.MULTILINE):
        found[name] = max(found.get(name, 0), int(length))
    return found


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="What many hosts ask of the controller, and how that grows.")
    parser.add_argument("hosts", type=int, nargs="*", default=[10, 100, 1000], help="how many (default 10 100 1000)")
    counts: list[int] = parser.parse_args().hosts
    os.environ |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    steps: dict[str, list[Cost]] = {}
    files: dict[str, list[int]] = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            for step, cost in measure(count, Path(folder)):
                steps.setdefault(step, []).append(cost)
                for name, length in sizes(cost.output).items():
                    files.setdefault(name, []).append(length)
    print(f"{'hosts':24}" + "".join(f"{count:>20,}" for count in counts))
    for step, costs in steps.items():
        print(f"{step:24}" + "".join(f"{cost.seconds:9.1f} s {cost.megabytes:5.0f} MB" for cost in costs))
    for name, lengths in files.items():
        print(f"{name:24}" + "".join(f"{length:18,} B" for length in lengths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
