"""Action ``site_agreed``: a host goes on to accept what others still use, until somebody says that nobody does.

What two hosts have to agree on cannot change on both at once. Its owner therefore notes each value that it is told to
accept, before it does; those before it stay until they are closed. The note is on the owner itself, so any controller
finishes what another one has begun.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

HOST = Path(__file__).resolve().parent.parent / "host" / "site_agreed.py"
# Program and data both come on standard input, so that neither is in the process list or in sudo's log.
LOAD = "import sys; exec(compile(sys.stdin.read(int(sys.stdin.readline())), 'site_agreed', 'exec'))"
COMMAND = shlex.join(["/usr/bin/python3", "-Ic", LOAD])


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """The present values are accepted, and the former ones as long as they are not closed.

    Its options: see ``plugins/modules``.
    """

    _VALID_ARGS = frozenset({"values", "close", "open"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Note, and say what is open."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {"values": {}, "close": [], "open": True} | self._task.args
        call = json.dumps(arguments | {"check": bool(self._task.check_mode)})
        program = HOST.read_text("utf-8")
        answer = self._low_level_execute_command(COMMAND, in_data=f"{len(program)}\n{program}{call}".encode())
        if answer["rc"]:
            said = (answer["stderr"] or answer["stdout"]).strip()
            return {**result, "failed": True, "msg": said or "the host said nothing"}
        return {**result, **json.loads(answer["stdout"].splitlines()[-1])}
