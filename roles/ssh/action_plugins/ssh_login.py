"""Action ``ssh_login``: finds the SSH port of a host by logging in as Ansible itself does.

The login goes through Ansible's own connection, so keys, passwords, jump hosts and become are the
user's. A port that does not answer is no error as long as another one does.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

PROBE = Path(__file__).parent.parent / "files" / "probe.sh"


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Logs in on the first port that works and returns what the host says about that login.

    Options:
        ports (list[int], required): ports to try, in this order.
        wanted (int, required): port sshd shall listen on; the result says who else holds it.
        fresh (bool): open a new connection even if a persistent one to that port exists.
        take_over (bool): stop the safety timer that a run which died has left behind.
        timeout (int): seconds to wait for an answer on each port.
        silent (str): what a host is that answers on none of them: ``failed`` (the default), ``unreachable``, so
            that the run goes on without it, or ``ok``, when the result has no ``login``.

    Returns:
        ``login`` {port, client, server, user, key, version, taken}: the port, the address of the
        controller as the host sees it, the host's own address, the user, the fingerprint of the
        key (empty: unknown), the version of OpenSSH, and the program other than sshd that listens
        on the wanted port (empty: none).
    """

    _VALID_ARGS = frozenset({"ports", "wanted", "fresh", "take_over", "timeout", "silent"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Runs the action; the connection errors of all ports are part of the failure's message."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        connection = self._connection
        if connection.transport != "ssh":
            return {**result, "skipped": True, "msg": "not an SSH connection: there is no port to find"}
        connection.set_option("reconnection_retries", 0)
        connection.set_option("timeout", int(args.get("timeout", 10)))
        if args.get("fresh", False):
            extra = connection.get_option("ssh_extra_args") or ""
            connection.set_option("ssh_extra_args", f"{extra} -o ControlPath=none".strip())
        take_over = "yes" if args.get("take_over", False) and not self._task.check_mode else "no"
        probe = shlex.join(["sh", "-euc", PROBE.read_text(), "probe", str(args["wanted"]), take_over])
        errors = []
        for port in dict.fromkeys(int(port) for port in args["ports"]):
            connection.set_option("port", port)
            try:
                answer = self._low_level_execute_command(probe, sudoable=True)
            except AnsibleConnectionFailure as error:
                errors.append(f"port {port}: {' '.join(str(error).split())}")
                continue
            found = re.search(r"^\{.*\}", answer["stdout"], re.MULTILINE)
            if answer["rc"] or not found:
                said = " ".join((answer["stderr"] or answer["stdout"]).split())
                errors.append(f"port {port}: logged in, but the host said: {said}")
                continue
            return {**result, "changed": False, "login": {**json.loads(found[0]), "port": port}}
        silent = args.get("silent", "failed")
        outcome = {"failed": silent == "failed", "unreachable": silent == "unreachable"}
        return {**result, **outcome, "changed": False, "msg": "No login. " + "; ".join(errors)}
