"""What action ``text_files`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: text_files
short_description: Brings many text files to a state in one round trip
description:
  - Each file is replaced as a whole, atomically; a missing folder is made, for root, as closed as the file.
options:
  files:
    description: The files. Each has one of C(template), C(file) and C(content), unless it is to be absent.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Where the file is; a link is followed., type: path, required: true}
      template: {description: "Its source, a template of the role.", type: str}
      file: {description: "Its source, a file of the role or a path on the controller.", type: str}
      content: {description: The text itself., type: str}
      mode: {description: "Its permissions, octal.", type: str, default: "0644"}
      owner: {description: To whom it belongs; in check mode the account may be missing yet., type: str, default: root}
      group: {description: The same for the group., type: str, default: root}
      validate:
        description:
          - A command, no shell script, that says by its exit status whether the file is right. C(%s) in it is the path
            of the file before it takes its place.
          - Files are tried and replaced in their order; the first one that is refused ends the task.
        type: str
      state: {description: Whether it is to be there., type: str, choices: [present, absent], default: present}
author: [clawdbot-ops]
"""

RETURN = r"""
paths: {description: The files that changed., type: list, elements: str, returned: always}
"""
