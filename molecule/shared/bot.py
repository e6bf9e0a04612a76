"""A bot as its own host sees it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from installation import ROOT
from testinfra.host import Host

READY = "http://127.0.0.1:18789/ready"
HEALTH = "http://127.0.0.1:18789/health"
# Asks the bot itself, again and again; the balancer would forgive a refusal.
ASK = """
import json, signal, sys, time, urllib.request
said = {"answered": 0, "failed": []}
signal.signal(signal.SIGTERM, lambda *_: exit(print(json.dumps(said))))
while True:
    try:
        urllib.request.urlopen(sys.argv[1], timeout=120).read()
        said["answered"] += 1
    except OSError as error:
        said["failed"].append(f"after {said['answered']} answers: {error!r}")
    time.sleep(0.02)
"""


def wait_until_ready(host: Host) -> None:
    """Waits up to 60 s for bot and worker."""
    ready = f"python3 -c 'import urllib.request as u; u.urlopen(\"{READY}\")' 2>/dev/null"
    # With several units it succeeds when one of them is active.
    units = " && ".join(f"systemctl is-active --quiet {name}.service" for name in ("clawdbot", "clawdbot-worker"))
    # A unit that runs a container is active before its container is there.
    worker = "pgrep --full '^[^ ]*python[0-9.]* -m clawdbot worker' >/dev/null"
    host.check_output("timeout 60 sh -c %s", f"until {units} && {worker} && {ready}; do sleep 0.3; done")


@contextmanager
def nobody_refused(host: Host, url: str = HEALTH) -> Iterator[None]:
    """While the block lasts, every request of the host to its own bot, or to ``url``, is answered."""
    host.check_output(
        "sudo systemd-run --quiet --unit=ask --property=StandardOutput=truncate:/run/ask python3 -c %s %s", ASK, url
    )
    try:
        host.check_output("sleep 1")  # it has begun by then
        yield
    finally:
        host.check_output("sudo systemctl stop ask.service")
    said = json.loads(host.check_output("sudo cat /run/ask"))
    assert not said["failed"], said["failed"]
    assert said["answered"] > 20


def converge(host: Host, *options: str) -> str:
    """A run of role clawdbot with other settings on this host, as its operator does it."""
    inventory, name = os.environ["MOLECULE_INVENTORY_FILE"], host.backend.get_hostname()
    done = subprocess.run(
        [
            "ansible-playbook",
            "-i",
            inventory,
            "--tags",
            "clawdbot",
            "--limit",
            name,
            "molecule/clawdbot/converge.yml",
            *options,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout
