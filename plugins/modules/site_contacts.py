"""What action ``site_contacts`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_contacts
short_description: Refuses hosts that are not what the inventory takes them for
description:
  - Looks at every host of the play that this run has logged in to.
options:
  alone: {description: Whether the installation has no other host., type: bool, required: true}
  private:
    description: Its hosts that the others reach at a private address.
    type: list
    elements: str
    required: true
author: [clawdbot-ops]
"""
