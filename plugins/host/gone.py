"""The part of action ``gone`` that runs on the host: removes what a role has made.

A dict of JSON on standard input, ``{"mark": path, "units": [...], "files": [...], "users": [...], "before": script,
"after": script, "check": bool}``, one on standard output, ``{"gone": [names]}``. Needs nothing but Python's standard
library.
"""

from __future__ import annotations

import glob
import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

#: What action ``in_effect`` notes; what does not run has nothing in effect.
RECORDS = Path("/var/lib/clawdbot/in-effect")
UNIT_FOLDER = "/etc/systemd/system/"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command; its output is for the caller to judge."""
    return subprocess.run(  # noqa: S603  # names and scripts are the role's own
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def must(*command: str) -> None:
    """Runs a command that has to succeed."""
    done = run(*command)
    if done.returncode:
        said = "\n".join(text for text in (done.stdout.strip(), done.stderr.strip()) if text)
        sys.exit(said or f"{' '.join(command)}: exit status {done.returncode}")


def present(patterns: list[str]) -> list[str]:
    """All that matches: files, folders, and links that lead nowhere, which pathlib passes over."""
    return [path for pattern in patterns for path in sorted(glob.glob(pattern))]  # noqa: PTH207


def active(units: list[str]) -> list[str]:
    """Those that run, or would after a reboot."""
    return [
        unit
        for unit in units
        if run("systemctl", "is-active", "--quiet", unit).returncode == 0
        or run("systemctl", "is-enabled", "--quiet", unit).returncode == 0
        or run("systemctl", "is-failed", "--quiet", unit).returncode == 0
    ]


def known(user: str) -> bool:
    """Whether there is such an account."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def remove(path: str) -> None:
    """A file, a link or a folder with all that is in it."""
    target = Path(path)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink()


def main() -> None:
    """Entry point."""
    call: dict[str, Any] = json.load(sys.stdin)
    mark = call["mark"]
    if not os.path.lexists(mark):
        json.dump({"gone": []}, sys.stdout)
        return
    units = active(call["units"])
    files = [path for path in present(call["files"]) if path != mark]
    users = [user for user in call["users"] if known(user)]
    if not call["check"]:
        if call["before"]:
            must("/bin/sh", "-euc", call["before"])
        for unit in units:
            run("systemctl", "disable", "--quiet", unit)
        if units:
            must("systemctl", "stop", *units)
            run("systemctl", "reset-failed", *units)
        for path in files:
            remove(path)
        for user in users:
            must("userdel", user)
        for unit in call["units"]:
            (RECORDS / unit).unlink(missing_ok=True)
        if any(path.startswith(UNIT_FOLDER) for path in [*files, mark]):
            must("systemctl", "daemon-reload")
        if call["after"]:
            must("/bin/sh", "-euc", call["after"])
        # Last, so that a run that dies before is finished by the next one.
        remove(mark)
    json.dump({"gone": [*units, *files, *users, mark]}, sys.stdout)


if __name__ == "__main__":
    main()
