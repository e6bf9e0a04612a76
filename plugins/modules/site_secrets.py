"""What action ``site_secrets`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_secrets
short_description: Makes up the secrets of an inventory that nobody else has to issue
description:
  - What is there already is not changed.
options:
  path: {description: "The file, C(group_vars/all/secrets.yml) of the first inventory by default.", type: path}
  everything: {description: "Make up what others issue as well, for a sandbox.", type: bool, default: false}
  extra: {description: More names to make up., type: list, elements: str, default: []}
author: [clawdbot-ops]
"""

RETURN = r"""
path: {description: The file., type: str, returned: always}
made: {description: Names that got a value., type: list, elements: str, returned: always}
encrypted: {description: Whether the file is encrypted., type: bool, returned: always}
issued: {description: Who has to be asked for what., type: list, elements: str, returned: always}
"""
