"""What action ``site_staging`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_staging
short_description: Makes an inventory to rehearse changes in from that of production
description:
  - Hosts, groups and settings are production's. Addresses, names and secrets are not.
  - The simulator of the sandbox is in place of the platforms and of the model.
options:
  path: {description: The folder of the new inventory., type: path, required: true}
  hosts: {description: How many hosts of each group come along., type: int, default: 3}
author: [clawdbot-ops]
"""

RETURN = r"""
path: {description: The folder., type: str, returned: always}
hosts: {description: Names of the hosts in it., type: list, elements: str, returned: always}
left_out: {description: Variables that did not come along., type: list, elements: str, returned: always}
"""
