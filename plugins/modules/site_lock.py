"""What action ``site_lock`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_lock
short_description: Keeps two runs from changing an installation at once
description:
  - Takes the note or frees it; fails when another run holds it. Taking it again renews the lease.
options:
  state: {description: What to do with the note., type: str, choices: [taken, free], default: taken}
  lease:
    description: Seconds after which a run that gives no sign of life is forgotten.
    type: int
    default: 1800
  take_over: {description: Take it whoever holds it., type: bool, default: false}
  path: {description: File of the note on the host., type: path, default: /run/clawdbot-run}
author: [clawdbot-ops]
"""

RETURN = r"""
taken: {description: Host and path of the note., type: dict, returned: "when it was taken, but not in check mode"}
"""
