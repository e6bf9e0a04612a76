#!/usr/bin/env python3
"""Times site.yml on fresh sandbox hosts: the first run, the run with nothing to do, and where that one spends its time.

Makes the hosts of the default inventory anew, so what ran on them is gone; `make demo` builds it again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SLOWEST = 10
PROFILE = {
    "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
    "PROFILE_TASKS_TASK_OUTPUT_LIMIT": str(SLOWEST),
    "ANSIBLE_NOCOLOR": "1",
}


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


def main() -> None:
    """Run and print."""
    play("sandbox/down.yml", "-e", "sandbox_remove_images=false")
    play("sandbox/up.yml")
    play("sandbox/simulator.yml")
    first, _ = play("site.yml")
    again, output = play("site.yml", profile=True)
    hosts = recap(output)
    changed = {host: counts["changed"] for host, counts in hosts.items() if counts["changed"]}
    print(f"first run   {first:6.1f} s")
    print(f"no-op run   {again:6.1f} s   ({first / again:.1f} times faster; changed: {changed or 'nothing'})")
    print("tasks a host in the no-op run (ran / skipped):")
    for host, counts in hosts.items():
        print(f"  {host:12} {counts['ok']:4} / {counts['skipped']}")
    print(f"slowest {SLOWEST} tasks of the no-op run:")
    for line in output.splitlines():
        if re.search(r"-{2,} *[\d.]+s$", line):
            print(f"  {line}")
    if changed:
        sys.exit("the second run changed something")


if __name__ == "__main__":
    main()
