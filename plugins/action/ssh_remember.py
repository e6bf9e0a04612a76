"""Action ``ssh_remember``: notes on the controller on which ports a host may answer next time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Writes the note, atomically. It is the controller's own and no change of the host.

    Its options: see ``plugins/modules``.
    """

    _VALID_ARGS = frozenset({"file", "ports"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Runs the action; check mode notes nothing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if not self._task.check_mode:
            note = Path(self._task.args["file"])
            note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = note.with_name(f"{note.name}.{os.getpid()}")
            draft.write_text(" ".join(str(port) for port in self._task.args["ports"]) + "\n")
            draft.replace(note)
        return {**result, "changed": False}
