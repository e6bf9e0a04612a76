#!/usr/bin/python
"""Module ``text_files``: writes many small configuration files in one round trip."""

from __future__ import annotations

import grp
import os
import pwd
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: text_files
short_description: Write many small text files in one round trip
description:
  - Each file is replaced as a whole, atomically. Missing folders are made, for root.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {type: path, required: true, description: Where the file is; a link is followed.}
      content: {type: str, required: true, description: What it holds.}
      mode: {type: str, default: "0644", description: Its permissions, octal.}
      owner: {type: str, default: root, description: Account that owns it; in check mode it may be missing yet.}
      group: {type: str, default: root, description: Group that owns it; in check mode it may be missing yet.}
author: clawdbot-ops
"""

RETURN = r"""
paths:
  description: Paths of the files that changed.
  returned: always
  type: list
  elements: str
"""


class State(NamedTuple):
    """What a file holds, its permissions, and to whom it belongs."""

    content: str
    mode: int
    owner: int
    group: int


def present(path: str) -> State | None:
    """State of a file, None where there is none."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            return State(file.read(), found.st_mode & 0o7777, found.st_uid, found.st_gid)
    except FileNotFoundError:
        return None


def identifiers(module: AnsibleModule, owner: str, group: str) -> tuple[int, int]:
    """Numbers of account and group; in check mode -1 if one is missing."""
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        if not module.check_mode:
            module.fail_json(f"{error.args[0]}; create it first")
        return -1, -1


def write(path: str, wanted: State) -> None:
    """Replaces the file atomically; its folder is made where it is missing."""
    target = Path(path)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # Not AnsibleModule.atomic_move: for a moment it gives a new file to everybody to read, whatever the mode is to be.
    number, draft = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".ansible", dir=target.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            os.fchown(number, wanted.owner, wanted.group)
            os.fchmod(number, wanted.mode)
            file.write(wanted.content)
        Path(draft).replace(target)
    except BaseException:
        Path(draft).unlink()
        raise


def main() -> None:
    """Entry point for Ansible."""
    suboptions: dict[str, Any] = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
    }
    module = AnsibleModule(
        argument_spec={"files": {"type": "list", "elements": "dict", "required": True, "options": suboptions}},
        supports_check_mode=True,
    )
    diffs = []
    for file in module.params["files"]:
        path = os.path.realpath(file["path"])
        wanted = State(file["content"], int(file["mode"], 8), *identifiers(module, file["owner"], file["group"]))
        found = present(path)
        if found == wanted:
            continue
        headers = {"before_header": path, "after_header": path}
        diffs.append({"before": found.content if found else "", "after": wanted.content, **headers})
        if not module.check_mode:
            write(path, wanted)
    module.exit_json(
        changed=bool(diffs), paths=[diff["after_header"] for diff in diffs], diff=diffs if module._diff else []
    )


if __name__ == "__main__":
    main()
