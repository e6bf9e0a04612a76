"""What action ``site_secrets`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_secrets
short_description: Makes up the secrets of an inventory that nobody else has to issue
description:
  - What is there already is not changed.
  - For C(playbooks/rotate_secrets.yml) it gives them new values, and keeps those before them in the same file, as
    C(site_rotated).
options:
  state:
    description:
      - V(present) makes up what is missing.
      - V(rotated) gives new values; where an earlier rotation was not finished, those of that one.
      - V(proven) takes away those before them.
    type: str
    choices: [present, rotated, proven]
    default: present
  only: {description: Names to rotate; all that are made up here by default., type: list, elements: str, default: []}
  path:
    description:
      - The file, C(group_vars/all/secrets.yml) of the first inventory by default.
      - A rotation takes that of C(group_vars/all) which holds them.
    type: path
  everything: {description: "Make up what others issue as well, for a sandbox.", type: bool, default: false}
  extra: {description: More names to make up., type: list, elements: str, default: []}
author: [clawdbot-ops]
"""

RETURN = r"""
path: {description: The file., type: str, returned: always}
made: {description: Names that got a value., type: list, elements: str, returned: present}
encrypted: {description: Whether the file is encrypted., type: bool, returned: present}
issued: {description: Who has to be asked for what., type: list, elements: str, returned: present}
rotated: {description: Names that got another value., type: list, elements: str, returned: rotated and proven}
consoles: {description: What to enter where., type: list, elements: str, returned: proven}
finishes: {description: Whether an earlier run has begun it., type: bool, returned: rotated}
given: {description: "What the inventory says now, to be hidden.", type: dict, returned: rotated}
former: {description: "The values before, to be hidden.", type: dict, returned: rotated}
"""
