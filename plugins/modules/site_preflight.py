"""What action ``site_preflight`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_preflight
short_description: Checks an inventory without touching a host and reports everything that is wrong at once
description:
  - It has no options, and fails with one message that lists everything with its file and line.
author: [clawdbot-ops]
"""
