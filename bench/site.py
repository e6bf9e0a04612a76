#!/usr/bin/env python3
"""Times site.yml on fresh sandbox hosts: the first run, the run with nothing to do, one node more, and where time goes.

The cluster is the one of the default inventory with as many nodes as NODES says. Makes its hosts anew and removes them
afterwards, so what ran on them is gone; `make demo` builds it again. Exit status 1 if the second run changes something.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SLOWEST = 10
# Bot nodes of the cluster that is timed; with Redis, balancer and monitoring it has three hosts more.
NODES = 4
PROFILE = {
    "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
    "PROFILE_TASKS_TASK_OUTPUT_LIMIT": str(SLOWEST),
    "ANSIBLE_NOCOLOR": "1",
}


def inventory(folder: Path, nodes: int) -> tuple[str, str]:
    """Arguments for the default inventory with so many nodes; what it lacks is written into ``folder``."""
    hosts = {
        f"app{number}": {"ansible_host": f"10.213.7.{20 + number}", "sandbox_image": f"debian{12 + (number - 1) % 2}"}
        for number in range(1, nodes + 1)
    }
    file = folder / f"{nodes}.json"
    file.write_text(json.dumps({"all": {"children": {"clawdbot": {"hosts": hosts}}}}))
    return "-i", str(file)


def play(playbook: str, *arguments: str, profile: bool = False) -> tuple[float, str]:
    """Runs a playbook; returns the seconds it took and what it printed."""
    environment = os.environ | (PROFILE if profile else {"ANSIBLE_NOCOLOR": "1"})
    begin = time.monotonic()
    done = subprocess.run(  # noqa: S603  # our own playbooks
        ["ansible-playbook", "-i", "inventories/sandbox", playbook, *arguments],  # noqa: S607  # the environment's own Ansible
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{playbook} failed:\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}")
    return time.monotonic() - begin, done.stdout


def recap(output: str) -> dict[str, dict[str, int]]:
    """The counts of PLAY RECAP by host."""
    hosts = {}
    for line in output.partition("PLAY RECAP")[2].splitlines():
        host, _, counts = line.partition(":")
        found = dict(re.findall(r"(\w+)=(\d+)", counts))
        if found:
            hosts[host.strip()] = {name: int(value) for name, value in found.items()}
    return hosts


def slowest(output: str) -> None:
    """Print what `profile_tasks` says."""
    for line in output.splitlines():
        if re.search(r"-{2,} *[\d.]+s$", line):
            print(f"  {line}")


def main() -> int:
    """Run and print."""
    with tempfile.TemporaryDirectory() as folder:
        cluster, larger = inventory(Path(folder), NODES), inventory(Path(folder), NODES + 1)
        play("sandbox/down.yml", *larger, "-e", "sandbox_remove_images=false")
        play("sandbox/up.yml", *cluster)
        play("sandbox/simulator.yml", *cluster)
        first, _ = play("site.yml", *cluster)
        again, output = play("site.yml", *cluster, profile=True)
        play("sandbox/up.yml", *larger)
        added, adding = play("playbooks/add_node.yml", *larger, "-e", f"node=app{NODES + 1}", profile=True)
        play("sandbox/down.yml", *larger, "-e", "sandbox_remove_images=false")
    hosts = recap(output)
    changed = {host: counts["changed"] for host, counts in hosts.items() if counts["changed"]}
    print(f"{NODES} nodes, {len(hosts) - 1} hosts")
    print(f"first run      {first:6.1f} s")
    print(f"no-op run      {again:6.1f} s   ({again / first:.2f} of the first; changed: {changed or 'nothing'})")
    print(f"one node more  {added:6.1f} s   ({added / first:.2f} of the first)")
    print("tasks a host in the no-op run (ran / skipped):")
    for host, counts in hosts.items():
        print(f"  {host:12} {counts['ok']:4} / {counts['skipped']}")
    print(f"slowest {SLOWEST} tasks of the no-op run:")
    slowest(output)
    print(f"slowest {SLOWEST} tasks of one node more:")
    slowest(adding)
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
