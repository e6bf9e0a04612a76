#!/usr/bin/python
"""Module ``text_files``: writes many small configuration files in one round trip."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: text_files
short_description: Write many small text files in one round trip
description:
  - Each file is owned by root and replaced as a whole, atomically. Missing folders are made.
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
author: clawdbot-ops
"""

RETURN = r"""
paths:
  description: Paths of the files that changed.
  returned: always
  type: list
  elements: str
"""


def read(path: str) -> tuple[str | None, int | None]:
    """Content and permissions of the file, or two times None where there is none."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            return file.read(), os.fstat(file.fileno()).st_mode & 0o7777
    except FileNotFoundError:
        return None, None


def write(module: AnsibleModule, path: str, content: str, mode: int) -> None:
    """Replaces the file atomically; its folder is made where it is missing."""
    target = Path(path)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = Path(module.tmpdir) / target.name
    draft.write_text(content, "utf-8")
    draft.chmod(mode)
    os.chown(draft, 0, 0)
    module.atomic_move(str(draft), path)


def main() -> None:
    """Entry point for Ansible."""
    suboptions: dict[str, Any] = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
    }
    module = AnsibleModule(
        argument_spec={"files": {"type": "list", "elements": "dict", "required": True, "options": suboptions}},
        supports_check_mode=True,
    )
    diffs = []
    for wanted in module.params["files"]:
        path, mode = os.path.realpath(wanted["path"]), int(wanted["mode"], 8)
        content, present_mode = read(path)
        if (content, present_mode) == (wanted["content"], mode):
            continue
        diffs.append({"before": content or "", "after": wanted["content"], "before_header": path, "after_header": path})
        if not module.check_mode:
            write(module, path, wanted["content"], mode)
    module.exit_json(
        changed=bool(diffs), paths=[diff["after_header"] for diff in diffs], diff=diffs if module._diff else []
    )


if __name__ == "__main__":
    main()
