"""What action ``in_effect`` of ``plugins/action`` takes and returns: where ansible-doc looks for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: in_effect
short_description: Programs of the host run what is written, whatever became of the run that wrote it
description:
  - Each thing is brought into force when its files are not those it took last, or when its check fails.
options:
  things:
    description: What is to run what is written.
    type: list
    elements: dict
    required: true
    suboptions:
      unit: {description: "A unit of systemd that shall be enabled and run, restarted if need be.", type: str}
      name: {description: "Name of something else, which needs O(things[].run).", type: str}
      run: {description: "A shell script that brings the files into force; -e and -u are set.", type: str}
      check: {description: A shell script that says by its exit status whether it is in force still., type: str}
      files:
        description: What it reads; patterns are expanded, C(**/*) too.
        type: list
        elements: path
        default: []
      reload_files: {description: What it reads again without a restart., type: list, elements: path, default: []}
      reload: {description: "A shell script for O(things[].reload_files); a unit is reloaded.", type: str}
      state:
        description: With V(absent) the unit is stopped and disabled, if there is one.
        type: str
        choices: [present, absent]
        default: present
author: [clawdbot-ops]
"""

RETURN = r"""
applied: {description: Names of those that were not up to date., type: list, elements: str, returned: always}
"""
