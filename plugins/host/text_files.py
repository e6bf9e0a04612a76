"""The part of action ``text_files`` that runs on the host: brings files to the state that is wanted.

A dict of JSON on standard input, ``{"files": [...], "check": bool, "diff": bool}``, one on standard output,
``{"paths": [those that changed], "diff": [...]}``. Needs nothing but Python's standard library.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple


class State(NamedTuple):
    """What a file holds, its permissions, and to whom it belongs."""

    content: str
    mode: int
    owner: int
    group: int


def present(path: str) -> State | None:
    """State of a file, None where there is none."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace", newline="") as file:
            found = os.fstat(file.fileno())
            return State(file.read(), found.st_mode & 0o7777, found.st_uid, found.st_gid)
    except FileNotFoundError:
        return None


def identifiers(owner: str, group: str, check: bool) -> tuple[int, int]:
    """Numbers of account and group; in check mode -1 if one is missing."""
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        if not check:
            sys.exit(f"{error.args[0]}; create it first")
        return -1, -1


def check(draft: str, command: str, path: str) -> None:
    """Has a command, in which ``%s`` stands for the file, look at what is to become ``path``; ends if it refuses."""
    argv = [word.replace("%s", draft) for word in shlex.split(command)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # noqa: S603  # the role's own
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).replace(draft, path)
        sys.exit(f"{path} stays as it was, {argv[0]} refuses the new one: {' '.join(said.split())}")


def write(path: str, wanted: State, validate: str) -> None:
    """Replaces the file atomically; a missing folder is made, and closed to others if the file is."""
    target = Path(path)
    target.parent.mkdir(mode=0o755 if wanted.mode & 0o077 else 0o700, parents=True, exist_ok=True)
    # Not even for a moment more readable than it is to be.
    number, draft = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".ansible", dir=target.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
            os.fchown(number, wanted.owner, wanted.group)
            os.fchmod(number, wanted.mode)
            file.write(wanted.content)
        if validate:
            check(draft, validate, path)
        Path(draft).replace(target)
    except BaseException:
        Path(draft).unlink()
        raise


def main() -> None:
    """Entry point."""
    call: dict[str, Any] = json.load(sys.stdin)
    diff = []
    for file in call["files"]:
        path = os.path.realpath(file["path"])
        wanted = None
        if file["state"] == "present":
            owner, group = identifiers(file["owner"], file["group"], call["check"])
            wanted = State(file["content"], int(file["mode"], 8), owner, group)
        found = present(path)
        if found == wanted:
            continue
        headers = {"before_header": path, "after_header": path}
        diff.append({"before": found.content if found else "", "after": wanted.content if wanted else "", **headers})
        if call["check"]:
            continue
        if wanted:
            write(path, wanted, file["validate"])
        else:
            Path(path).unlink()
    json.dump({"paths": [entry["after_header"] for entry in diff], "diff": diff if call["diff"] else []}, sys.stdout)


if __name__ == "__main__":
    main()
