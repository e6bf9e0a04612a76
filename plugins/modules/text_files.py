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
          - A command that looks at the new file, C(%s), before that takes its place, and refuses it by its exit status.
          - It does not run in check mode. Files before a refused one are written already.
        type: str
        default: ""
      state: {description: Whether it is to be there., type: str, choices: [present, absent], default: present}
author: [clawdbot-ops]
"""

RETURN = r"""
paths: {description: The files that changed., type: list, elements: str, returned: always}
"""
