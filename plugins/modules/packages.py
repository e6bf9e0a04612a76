"""What action ``packages`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Debian packages, installed where one is missing
description:
  - Each is installed without those that it recommends, from lists that are at most an hour old. dpkg is asked first.
options:
  name:
    description: The packages, each as M(ansible.builtin.apt) takes it.
    type: list
    elements: str
    required: true
author: [clawdbot-ops]
"""
