#!/usr/bin/python3
"""Puts a changed /etc/nginx into effect whole or not at all.

Usage: clawdbot-nginx apply [--drain SECONDS]

Tests the configuration, reloads Nginx and waits until new workers serve it. If any of this fails, the configuration
that last worked is restored, the refused one is kept in /var/lib/clawdbot-nginx/refused, and the command says why and
exits 1. Prints "changed" if there was something to do. With --drain it also waits until the workers of the old
configuration have finished their requests, at most SECONDS.
"""

from __future__ import annotations

import argparse
import fcntl
import filecmp
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

LIVE = Path("/etc/nginx")
STATE = Path("/var/lib/clawdbot-nginx")
GOOD = STATE / "good"
REFUSED = STATE / "refused"
# The drop-ins of the unit, and those that Nginx was started with: systemd tells what it has read, not what runs.
DROP_INS = Path("/etc/systemd/system/nginx.service.d")
STARTED_WITH = STATE / "unit"
ERROR_LOG = Path("/var/log/nginx/error.log")
# systemd learns late that the binary was changed: when the requests of the old process are over.
PID = Path("/run/nginx.pid")
# A new configuration of 500 upstream servers is in effect after well under a second.
RELOAD_SECONDS = 15.0


class Refused(Exception):
    """The configuration cannot be put into effect; the message says why."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command; its output is for the caller to judge."""
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # callers pass constants


def unit(name: str) -> str:
    """A property of the systemd unit."""
    return run("systemctl", "show", "--property", name, "--value", "nginx.service").stdout.strip()


def same(left: Path, right: Path) -> bool:
    """Whether two trees hold the same names and contents."""
    names = sorted(path.relative_to(left) for path in left.rglob("*"))
    if names != sorted(path.relative_to(right) for path in right.rglob("*")):
        return False
    files = [name for name in names if (left / name).is_file()]
    return all((right / name).is_file() and filecmp.cmp(left / name, right / name, shallow=False) for name in files)


def copy(source: Path, target: Path) -> None:
    """Replaces the tree ``target`` by an exact copy of ``source``."""
    new, old = (target.with_name(f"{target.name}.{suffix}") for suffix in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    subprocess.run(["/usr/bin/cp", "--archive", source, new], check=True)  # noqa: S603  # constant paths
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def workers() -> set[int]:
    """Process ids of the workers that take new connections."""
    found = set()
    master = PID.read_text().strip() if PID.exists() else "0"
    for child in run("pgrep", "--parent", master).stdout.split():
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if title.startswith(b"nginx: worker process") and b"shutting down" not in title:
            found.add(int(child))
    return found


def logged_errors(offset: int) -> str:
    """What Nginx wrote about failures since its log had ``offset`` bytes."""
    with ERROR_LOG.open("rb") as log:
        log.seek(offset)
        lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(line for line in lines if "[emerg]" in line or "[alert]" in line) or "Nginx logged no reason"


def reload() -> set[int]:
    """Reloads and waits for the new workers. Returns the old ones; raises Refused."""
    old = workers()
    offset = ERROR_LOG.stat().st_size if ERROR_LOG.exists() else 0
    run("systemctl", "reload", "nginx.service")
    deadline = time.monotonic() + RELOAD_SECONDS
    while not (current := workers()) - old or current & old:
        if time.monotonic() > deadline or "[emerg]" in logged_errors(offset):
            raise Refused(f"Nginx did not take the configuration: {logged_errors(offset)}")
        time.sleep(0.05)
    return old


def runs() -> bool:
    """Whether Nginx runs, with its unit as it is written; where an earlier version noted nothing, that is assumed."""
    written = same(DROP_INS, STARTED_WITH) if STARTED_WITH.exists() else GOOD.exists()
    return written and unit("ActiveState") == "active" and unit("NeedDaemonReload") == "no"


def take() -> set[int]:
    """Makes Nginx run what lies in /etc/nginx. Returns the workers it replaced; raises Refused."""
    test = run("nginx", "-t", "-q")
    if test.returncode:
        raise Refused(test.stderr.strip())
    if runs():
        return reload()
    run("systemctl", "daemon-reload")
    start = run("systemctl", "restart", "nginx.service")
    if start.returncode:
        raise Refused(start.stderr.strip() + "\n" + run("journalctl", "--no-pager", "-n10", "-u", "nginx").stdout)
    return set()


def wait_until_gone(pids: set[int], seconds: float) -> None:
    """Waits until the processes have ended, at most so many seconds."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)


def apply(drain: float) -> bool:
    """Puts /etc/nginx into effect; returns whether there was something to do, raises Refused."""
    if runs() and GOOD.exists() and same(LIVE, GOOD):
        return False
    try:
        old = take()
    except Refused:
        if GOOD.exists():
            copy(LIVE, REFUSED)
            copy(GOOD, LIVE)
            run("systemctl", "reload-or-restart", "nginx.service")
        raise
    copy(LIVE, GOOD)
    copy(DROP_INS, STARTED_WITH)
    wait_until_gone(old, drain)
    return True


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Puts a changed /etc/nginx into effect whole or not at all.")
    parser.add_argument("command", choices=["apply"])
    parser.add_argument("--drain", type=float, default=0, metavar="SECONDS", help="wait for the old workers so long")
    arguments = parser.parse_args()
    os.umask(0o077)
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if apply(arguments.drain):
                print("changed")
        except Refused as reason:
            kept = f"The last working configuration is back, the refused one is in {REFUSED}." if GOOD.exists() else ""
            print(f"{reason}\n{kept}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
