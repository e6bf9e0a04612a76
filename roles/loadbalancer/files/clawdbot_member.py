#!/usr/bin/python3
"""Takes one member of the upstream out of service, or puts it back.

Usage: clawdbot-member NAME down|up [--drain SECONDS]

"down" returns when no request is in flight to the member any more; if that takes longer than SECONDS it says so and
exits 75. The last member in service is kept: requests would have nowhere else to go. "up" puts back what "down" took
out, never a member that the inventory declares down. A name that is no member is no error: a new node is not known here
before it is ready. Prints what it did. The next rendering of the file puts every member back.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pwd
import re
import socket
import subprocess
import sys
from pathlib import Path

MEMBERS = Path("/etc/nginx/clawdbot_members.conf")
LOCK = Path("/run/clawdbot-member.lock")
LINE = re.compile(
    r"(server \[?(?P<address>[^ \]]+)\]?:(?P<port>\d+) [^;]*?)(?P<down> down)?; # (?P<name>\S+)(?P<drained> drained)?"
)
ESTABLISHED = "01"


def in_flight(address: str, port: str) -> int:
    """Counts the connections of Nginx to the member."""
    family, table = (socket.AF_INET6, "tcp6") if ":" in address else (socket.AF_INET, "tcp")
    packed = socket.inet_pton(family, address)
    # The kernel prints 32-bit words in the order of the machine.
    words = [packed[start : start + 4] for start in range(0, len(packed), 4)]
    remote = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{int(port):04X}"
    nginx = str(pwd.getpwnam("www-data").pw_uid)
    rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return sum((row[2], row[3], row[7]) == (remote, ESTABLISHED, nginx) for row in rows)


def switch(name: str, state: str, drain: float) -> int:
    """Does what the command line asks for; returns the exit status."""
    lines = MEMBERS.read_text().splitlines()
    members = [(index, match) for index, line in enumerate(lines) if (match := LINE.fullmatch(line))]
    own = [(index, match) for index, match in members if match["name"] == name]
    if not own:
        print(f"unknown: {name} is no member here")
        return 0
    member = own[0][1]
    if state == "down" and all(match["down"] for _, match in members if match["name"] != name) and not member["down"]:
        print(f"kept: {name} is the only member in service")
        return 0
    for index, match in own:
        if state == "down" and not match["down"]:
            lines[index] = f"{match[1]} down; # {name} drained"
        elif state == "up" and match["drained"]:
            lines[index] = f"{match[1]}; # {name}"
    new = MEMBERS.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    new.rename(MEMBERS)

    # Also when the file was as wanted: a run that was cut short may not have put it into effect.
    applied = subprocess.run(  # noqa: S603  # constants and a number
        ["/usr/local/sbin/clawdbot-nginx", "apply", "--drain", str(drain if state == "down" else 0)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if applied.returncode:
        return applied.returncode
    if state == "down" and (waiting := in_flight(member["address"], member["port"])):
        print(f"{name} takes no new requests, but {waiting} are in flight after {drain:g} s", file=sys.stderr)
        return os.EX_TEMPFAIL
    print(f"{applied.stdout.strip() or 'unchanged'}: {name} is {state}")
    return 0


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Takes one member of the upstream out of service, or puts it back.")
    parser.add_argument("name", help="name of the member")
    parser.add_argument("state", choices=["down", "up"])
    parser.add_argument("--drain", type=float, default=30, metavar="SECONDS", help="wait for its requests so long")
    arguments = parser.parse_args()
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return switch(arguments.name, arguments.state, arguments.drain)


if __name__ == "__main__":
    sys.exit(main())
