"""What action ``gone`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gone
short_description: What a role has made on a host is there no more, after one round trip
description:
  - Units are stopped and disabled, then files and accounts removed; nothing is done where the mark is not there.
options:
  mark:
    description:
      - A file or folder that only the role makes. It goes last, so a run that dies before is finished by the next one.
    type: path
    required: true
  units:
    description: Units of systemd. Those of packages stay, stopped and disabled.
    type: list
    elements: str
    default: []
  files: {description: Files and folders; patterns are expanded., type: list, elements: path, default: []}
  users:
    description: Accounts; their homes stay unless they are among the files.
    type: list
    elements: str
    default: []
  before: {description: "A shell script that runs first, to tell others; -e and -u are set.", type: str}
  after: {description: "The same, when all but the mark is gone.", type: str}
author: [clawdbot-ops]
"""

RETURN = r"""
gone: {description: What was there., type: list, elements: str, returned: always}
"""
