"""What action ``ssh_remember`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ssh_remember
short_description: Notes on the controller on which ports a host answers
description:
  - The note is written atomically. It is the controller's own and no change of the host.
options:
  file: {description: Where the note is kept; its folder is made for the user alone., type: path, required: true}
  ports: {description: "The ports, the likeliest first.", type: list, elements: int, required: true}
author: [clawdbot-ops]
"""
