"""Action ``ssh_login``: finds the SSH port of a host by logging in as Ansible itself does.

The login goes through Ansible's own connection, so keys, passwords, jump hosts and become are the
user's. A port that does not answer is no error as long as another one does.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

PROBE = Path(__file__).parent.parent / "files" / "probe.sh"

#: What ssh says when somebody answered and hung up before the login: an sshd that has too many logins under way
#: (``MaxStartups``), which is what many hosts behind one bastion do to it, or one that is just being reloaded.
HUNG_UP = re.compile(
    r"kex_exchange_identification|Connection (?:closed|reset) by|banner exchange|stdio forwarding failed|Broken pipe",
)
#: Seconds before another try, each longer than the one before; times a random half to one and a half.
PAUSES = (0.5, 1, 2, 3, 4, 5)


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Logs in on the first port that works and returns what the host says about that login.

    Options:
        ports (list[int], required): ports to try, in this order.
        given (list[int]): those of ``ports`` that the inventory names for this very host. If there are any, another
            port is believed to be this host's only if the machine behind it has been set up by this role.
        wanted (int, required): port sshd shall listen on; the result says who else holds it.
        fresh (bool): open a new connection even if a persistent one to that port exists.
        take_over (bool): stop the safety timer that a run which died has left behind.
        timeout (int): seconds to wait for an answer on each port.
        silent (str): what a host is that answers on none of them: ``failed`` (the default), ``unreachable``, so
            that the run goes on without it, or ``ok``, when the result has no ``login``.

    Returns:
        ``login`` {port, client, server, user, key, version, taken, listens, addresses, boot, managed}: the
            port, the address of the controller as the host sees it, the host's own address at which the login
            arrived, the user, the fingerprint of the key (empty: unknown), the version of OpenSSH, the program
            other than sshd that listens on the wanted port (empty: none), the port on which sshd got this login
            (another one than ``port`` where that is forwarded), the interface of each address but loopback's,
            the identity of this boot, which no other machine has, and whether this role has set the host up.
    """

    _VALID_ARGS = frozenset({"ports", "given", "wanted", "fresh", "take_over", "timeout", "silent"})

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
                answer = self._log_in(probe)
            except AnsibleConnectionFailure as error:
                errors.append(f"port {port}: {' '.join(str(error).split())}")
                continue
            found = re.search(r"^\{.*\}", answer["stdout"], re.MULTILINE)
            if answer["rc"] or not found:
                said = " ".join((answer["stderr"] or answer["stdout"]).split())
                errors.append(f"port {port}: logged in, but the host said: {said}")
                continue
            login = {**json.loads(found[0]), "port": port}
            if not self._is_expected(login, {int(each) for each in args.get("given", [])}):
                errors.append(
                    f"port {port}: a machine that was never set up; if it is this host, write ansible_port: {port}"
                )
                continue
            return {**result, "changed": False, "login": login}
        silent = args.get("silent", "failed")
        outcome = {"failed": silent == "failed", "unreachable": silent == "unreachable"}
        return {**result, **outcome, "changed": False, "msg": "No login. " + "; ".join(errors)}

    def _log_in(self, probe: str) -> dict[str, Any]:
        """Runs the probe; one that answers and hangs up is asked again.

        Raises:
            AnsibleConnectionFailure: nobody answers, the login is refused, or it hung up every time.
        """
        for pause in PAUSES:
            try:
                return self._low_level_execute_command(probe, sudoable=True)  # type: ignore[no-any-return]
            except AnsibleConnectionFailure as error:
                if not HUNG_UP.search(str(error)):
                    raise
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # no secret: so that not all come back at once
        return self._low_level_execute_command(probe, sudoable=True)  # type: ignore[no-any-return]

    @staticmethod
    def _is_expected(login: dict[str, Any], given: Collection[int]) -> bool:
        """Whether the machine may be the host that the inventory means."""
        return not given or login["port"] in given or login["managed"]
