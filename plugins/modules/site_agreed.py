"""What action ``site_agreed`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_agreed
short_description: A host goes on to accept what others still use, until somebody says that nobody does
description:
  - The present values are accepted, and the former ones as long as they are not closed.
options:
  values:
    description:
      - The present value of all that this host offers to others, by name. What is not named any more is forgotten.
      - Of a secret a digest, since the note outlives it.
    type: dict
    default: {}
  close:
    description: Names of those whose former values nobody uses any more.
    type: list
    elements: str
    default: []
  open:
    description: Whether another value than was noted before may be; if not, nothing is noted where there is one.
    type: bool
    default: true
author: [clawdbot-ops]
"""

RETURN = r"""
former:
  description: Former values that are still accepted, the newest first; names that have none are left out.
  type: dict
  returned: always
opened: {description: Names whose present value is another one than was noted before., type: list, returned: always}
closed: {description: Names that had former values until now., type: list, returned: always}
"""
