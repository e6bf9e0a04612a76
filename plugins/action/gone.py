"""Action ``gone``: what a role has made on a host is there no more, after one round trip.

A role says what it makes next to where it makes it, in its entry point ``absent``. What the host held before the role
came, and what belongs to somebody else, stays: nothing is removed that is not named.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

HOST = Path(__file__).resolve().parent.parent / "host" / "gone.py"
# Program and data both come on standard input, so that neither is in the process list or in sudo's log.
LOAD = "import sys; exec(compile(sys.stdin.read(int(sys.stdin.readline())), 'gone', 'exec'))"
COMMAND = shlex.join(["/usr/bin/python3", "-Ic", LOAD])
DEFAULTS: dict[str, Any] = {"units": [], "files": [], "users": [], "before": "", "after": ""}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Units are stopped and disabled, then files and accounts removed; nothing is done where the mark is not there.

    Its options: see ``plugins/modules``.
    """

    _VALID_ARGS = frozenset({"mark", *DEFAULTS})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Remove it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        thing = DEFAULTS | dict(self._task.args)
        for path in [thing.get("mark", ""), *thing["files"]]:
            # A variable that was empty must not take the whole of its folder along.
            if len([part for part in str(path).split("/") if part]) < 2 or not str(path).startswith("/"):
                raise AnsibleActionFail(f"'{path}' is no path of a file of a role")
        call = json.dumps(thing | {"check": bool(self._task.check_mode)})
        program = HOST.read_text("utf-8")
        answer = self._low_level_execute_command(COMMAND, in_data=f"{len(program)}\n{program}{call}".encode())
        if answer["rc"]:
            said = (answer["stderr"] or answer["stdout"]).strip()
            return {**result, "failed": True, "msg": said or "the host said nothing"}
        done = json.loads(answer["stdout"].splitlines()[-1])
        return {**result, **done, "changed": bool(done["gone"])}
