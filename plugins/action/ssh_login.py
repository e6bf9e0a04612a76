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
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

PROBE = Path(__file__).resolve().parent.parent / "host" / "ssh_login.sh"

#: What ssh says when somebody answered and hung up before the login: an sshd that has too many logins under way
#: (``MaxStartups``), which is what many hosts behind one bastion do to it, or one that is just being reloaded.
HUNG_UP = re.compile(
    r"kex_exchange_identification|Connection (?:closed|reset) by|banner exchange:|stdio forwarding failed|Broken pipe",
)
#: Seconds before another try, each longer than the one before; times a random half to one and a half.
PAUSES = (0.5, 1, 2, 3, 4, 5)

#: What ssh, sudo and Ansible say, and what to do about it; what comes last on the way to a root shell is first.
CURES = (
    (
        r"not in the sudoers|not allowed to execute",
        "On the host, as root: adduser {user} sudo. Or log in as somebody who may.",
    ),
    (r"sudo: (?:command )?not found", "On the host, as root: apt install sudo. Or write ansible_user: root."),
    (r"Missing \w+ password", "sudo asks {user} for a password: add --ask-become-pass (-K)."),
    (r"Incorrect \w+ password", "sudo of {user} wants another password than was typed."),
    (
        r"the login was by ",
        "Put your key there first: {copy_key} (have none yet? ssh-keygen before that), and leave --ask-pass (-k) out.",
    ),
    (
        r"Permission denied \(",
        "The host does not let {user} in. Put your key there: {copy_key} (have none yet? ssh-keygen first); one with a "
        "passphrase has to be in your agent, too: ssh-add. Or write another ansible_user.",
    ),
    (
        r"IDENTIFICATION HAS CHANGED",
        "Either the host was installed anew or another machine answers. If you know which: ssh-keygen -R '{known_as}', "
        "then log in once and say yes to its new key: {log_in}",
    ),
    (
        r"Host key verification failed",
        "Nobody here has said yes to the host's key. Log in once, compare it with what the provider shows, and say "
        "yes: {log_in}",
    ),
    (r"No such file or directory: b?'ssh'", "On this machine: apt install openssh-client."),
)
#: What ssh says when nobody answers.
NOBODY = re.compile(r"refused|timed out|No route|unreachable|resolve")


def cure(errors: Mapping[int, str], login: Callable[[str, int], str], user: str, address: str) -> str:
    """What to do when no port works; empty where nobody knows.

    Args:
        errors: what was said on each port.
        login: gives the command line of a program of ssh's family for a port.
        user: the user of the login.
        address: the host's address.
    """
    for said, advice in CURES:
        for port, error in errors.items():
            if re.search(said, error):
                return advice.format(
                    user=user,
                    log_in=login("ssh", port),
                    copy_key=login("ssh-copy-id", port),
                    known_as=address if port == 22 else f"[{address}]:{port}",
                )
    if all(NOBODY.search(error) for error in errors.values()):
        return (
            "Is ansible_host right, is the machine on, and is its port open in the provider's security group? "
            "If sshd has another port than 22, write ansible_port."
        )
    return ""


def hung_up(said: str) -> bool:
    """Whether somebody answered and hung up, so that another try may help.

    A bastion that says "open failed" has let us in, and found nobody behind it.
    """
    return bool(HUNG_UP.search(said)) and "open failed:" not in said


def objection(login: Mapping[str, Any], given: Collection[int]) -> str:
    """Why a login that works is not used; empty: it is.

    Args:
        login: what the host says of it.
        given: the ports that the inventory names for this host.
    """
    if login["managed"]:
        return ""  # it was used before
    if given and login["port"] not in given:
        return f"a machine that was never set up; if it is this host, write ansible_port: {login['port']}"
    # As sshd calls them; the method is empty where its journal has forgotten a connection that is kept.
    if login["method"].startswith(("password", "keyboard-interactive")):
        return "the login was by password, which the first run switches off; nothing was changed"
    return ""


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships no types
    """Logs in on the first port that works and returns what the host says about that login.

    Its options: see ``plugins/modules``.
    """

    _VALID_ARGS = frozenset({"ports", "given", "wanted", "fresh", "take_over", "timeout", "silent"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Runs the action; the message of a failure is what was said on each port, and what to do about it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._task.args
        connection = self._connection
        if connection.transport != "ssh":
            return {**result, "skipped": True, "msg": "not an SSH connection: there is no port to find"}
        connection.set_option("reconnection_retries", 0)
        connection.set_option("timeout", int(args.get("timeout", 10)))
        if args.get("fresh", False):
            # In front: of several OpenSSH takes the first, and the user's own arguments may name one.
            own = connection.get_option("ssh_args") or ""
            connection.set_option("ssh_args", f"-o ControlPath=none {own}".strip())
        take_over = "yes" if args.get("take_over", False) and not self._task.check_mode else "no"
        probe = shlex.join(["sh", "-euc", PROBE.read_text(), "probe", str(args["wanted"]), take_over])
        errors: dict[int, str] = {}
        for port in dict.fromkeys(int(port) for port in args["ports"]):
            connection.set_option("port", port)
            try:
                answer = self._log_in(probe)
            except AnsibleError as error:  # nobody answers, the login or sudo is refused
                errors[port] = " ".join(str(error).replace("@@", "").split())  # ssh frames its warnings with them
                continue
            found = re.search(r"^\{.*\}", answer["stdout"], re.MULTILINE)
            if answer["rc"] or not found:
                # Where sudo has a terminal, it talks on stdout, and ssh ends with a line of its own on stderr.
                said = re.sub(
                    r"^Shared connection to .* closed\.", "", answer["stdout"] + answer["stderr"], flags=re.MULTILINE
                )
                errors[port] = f"logged in, but the host said: {' '.join(said.split())}"
                continue
            login = {**json.loads(found[0]), "port": port}
            if against := objection(login, {int(each) for each in args.get("given", [])}):
                errors[port] = against
                continue
            return {**result, "changed": False, "login": login}
        silent = args.get("silent", "failed")
        outcome = {"failed": silent == "failed", "unreachable": silent == "unreachable"}
        user, address = (str(connection.get_option(name) or "") for name in ("remote_user", "host"))
        lines = [
            "No login.",
            *(f"port {port}: {said}" for port, said in errors.items()),
            # Who asks for a new connection has just changed something, and knows better.
            "" if args.get("fresh", False) else cure(errors, self._login, user or "the user", address),
        ]
        return {**result, **outcome, "changed": False, "msg": "\n".join(filter(None, lines))}

    def _login(self, program: str, port: int) -> str:
        """The command line on which ``program``, ssh or a relative, logs in on ``port`` as Ansible does."""
        user, address, options, key = (
            self._connection.get_option(name) for name in ("remote_user", "host", "ssh_common_args", "private_key_file")
        )
        words = [program, options, f"-i {shlex.quote(key)}" if key else "", f"-p {port}" if port != 22 else ""]
        return " ".join([*filter(None, words), f"{user}@{address}" if user else address])

    def _log_in(self, probe: str) -> dict[str, Any]:
        """Runs the probe; one that answers and hangs up is asked again.

        Raises:
            AnsibleConnectionFailure: nobody answers, the login is refused, or it hung up every time.
        """
        for pause in PAUSES:
            try:
                return self._low_level_execute_command(probe, sudoable=True)  # type: ignore[no-any-return]
            except AnsibleConnectionFailure as error:
                if not hung_up(str(error)):
                    raise
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # no secret: so that not all come back at once
        return self._low_level_execute_command(probe, sudoable=True)  # type: ignore[no-any-return]
