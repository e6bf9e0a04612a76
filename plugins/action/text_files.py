"""Action ``text_files``: many small files of a role in one round trip, rendered on the controller.

What runs on the host, ``plugins/host/text_files.py``, is no module of Ansible's: to unpack and import what those need
takes longer than the writing.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, cast

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

HOST = Path(__file__).resolve().parent.parent / "host" / "text_files.py"
# Program and data both come on standard input, so that neither is in the process list or in sudo's log.
LOAD = "import sys; exec(compile(sys.stdin.read(int(sys.stdin.readline())), 'text_files', 'exec'))"
COMMAND = shlex.join(["/usr/bin/python3", "-Ic", LOAD])
SOURCES = ("template", "file", "content")
DEFAULTS = {"mode": "0644", "owner": "root", "group": "root", "state": "present", "validate": ""}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Each file is replaced as a whole, atomically; a missing folder is made, for root, as closed as the file.

    Its options: see ``plugins/modules``.
    """

    _VALID_ARGS = frozenset({"files"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Render, and bring the host's files to that state."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = {"ansible_managed": "Ansible managed"} | (task_vars or {})
        files = [self._rendered(DEFAULTS | dict(file), variables) for file in self._task.args["files"]]
        call = json.dumps({"files": files, "check": bool(self._task.check_mode), "diff": bool(self._task.diff)})
        program = HOST.read_text("utf-8")
        answer = self._low_level_execute_command(COMMAND, in_data=f"{len(program)}\n{program}{call}".encode())
        if answer["rc"]:
            said = (answer["stderr"] or answer["stdout"]).strip()
            return {**result, "failed": True, "msg": said.splitlines()[-1] if said else "the host said nothing"}
        done = json.loads(answer["stdout"].splitlines()[-1])
        return {**result, **done, "changed": bool(done["paths"])}

    def _rendered(self, file: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """The entry with ``content`` in place of what it is made of."""
        unknown = set(file) - {"path", *SOURCES, *DEFAULTS}
        if unknown:
            raise AnsibleActionFail(f"{file.get('path')}: there is no option {', '.join(sorted(unknown))}")
        sources = {name: file.pop(name) for name in SOURCES if name in file}
        if file["state"] == "absent":
            return file
        if len(sources) != 1:
            raise AnsibleActionFail(f"{file.get('path')}: give one of {', '.join(SOURCES)}")
        ((name, value),) = sources.items()
        if name == "template":
            value = self._template(value, variables)
        elif name == "file":
            value = self._text(self._find_needle("files", value))
        return file | {"content": value}

    def _template(self, name: str, variables: dict[str, Any]) -> str:
        """A template of the role, rendered as the module ``template`` does."""
        path = self._find_needle("templates", name)
        templar = self._templar.copy_with_new_env(searchpath=[str(Path(path).parent)], available_variables=variables)
        return str(templar.template(trust_as_template(self._text(path)), escape_backslashes=False))

    def _text(self, path: str) -> str:
        """What a file of the controller holds; one that Vault has encrypted is decrypted."""
        return cast(str, self._loader.get_text_file_contents(path))
