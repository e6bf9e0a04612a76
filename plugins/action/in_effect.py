"""Action ``in_effect``: programs of the host run what is written, whatever became of the run that wrote it.

Handlers are lost with the run that notified them: the files are equal the next time, and nothing is notified. This
compares what a program took last with what is written, all programs of a task in one round trip.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

HOST = Path(__file__).resolve().parent.parent / "host" / "in_effect.py"
# Program and data both come on standard input, so that neither is in the process list or in sudo's log.
LOAD = "import sys; exec(compile(sys.stdin.read(int(sys.stdin.readline())), 'in_effect', 'exec'))"
COMMAND = shlex.join(["/usr/bin/python3", "-Ic", LOAD])
DEFAULTS: dict[str, Any] = {"files": [], "reload_files": [], "check": "true", "reload": ""}
# Whether a unit is enabled is asked first, because to enable one is slow: that looks for init scripts as well.
PRESENT = {
    "check": "systemctl is-active --quiet {0} && systemctl is-enabled --quiet {0}",
    "run": "systemctl daemon-reload; systemctl is-enabled --quiet {0} || systemctl enable --quiet {0}\n"
    "systemctl restart {0} || {{ journalctl --unit={0} --lines=20 --output=cat >&2; exit 1; }}",
    "reload": "systemctl reload {0}",
}
ABSENT = {
    "check": "! systemctl is-active --quiet {0} && ! systemctl is-enabled --quiet {0} 2>/dev/null",
    "run": "systemctl disable --quiet --now {0}",
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Each thing is brought into force when its files are not those it took last, or when its check fails.

    Its options: see ``plugins/modules``.
    """

    _VALID_ARGS = frozenset({"things"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compare, and apply what differs."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        things = [self._complete(dict(thing)) for thing in self._task.args["things"]]
        call = json.dumps({"things": things, "check": bool(self._task.check_mode)})
        program = HOST.read_text("utf-8")
        answer = self._low_level_execute_command(COMMAND, in_data=f"{len(program)}\n{program}{call}".encode())
        if answer["rc"]:
            said = (answer["stderr"] or answer["stdout"]).strip()
            return {**result, "failed": True, "msg": said or "the host said nothing"}
        done = json.loads(answer["stdout"].splitlines()[-1])
        return {**result, **done, "changed": bool(done["applied"])}

    def _complete(self, thing: dict[str, Any]) -> dict[str, Any]:
        """The entry with a name and all scripts."""
        state = thing.pop("state", "present")
        unit = thing.pop("unit", "")
        if unit:
            scripts = PRESENT if state == "present" else ABSENT
            filled = {name: script.format(shlex.quote(unit)) for name, script in scripts.items()}
            thing = {"name": unit, **filled, **thing}
            if state == "absent":
                thing |= {"files": [], "reload_files": []}  # what does not run reads nothing
        unknown = set(thing) - {"name", "run", *DEFAULTS}
        if unknown or not thing.get("name") or not thing.get("run"):
            problem = f"there is no option {', '.join(sorted(unknown))}" if unknown else "give unit, or name and run"
            raise AnsibleActionFail(f"{thing.get('name')}: {problem}")
        return DEFAULTS | thing
