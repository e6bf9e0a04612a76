"""Keeps two runs from changing an installation at once.

One host of the installation keeps the note who is at it. The callback ``site_run`` frees it however the run ends. One
that was killed is recognised at once where its processes can be looked for, elsewhere when it has given no sign of life
for the time of its lease.
"""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import time
import uuid
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# Gone after a boot, like the run that was cut off by it.
NOTE = "/run/clawdbot-run"

# Arguments: take or free; the caller's id; until when (seconds of the epoch, by the host's clock: from now);
# who that is; the id of a run that is dead for certain ("*": whoever it is).
SCRIPT = """
set -eu
umask 077
exec 9<>"$1"
flock 9
# A new note is empty, and read fails at its end.
IFS='|' read -r holder until who <&9 || true
now=$(date +%s)
case $2 in
    free) [ "$holder" != "$3" ] || : >"$1" ;;
    take)
        case $holder in "" | "$3" | "$6") until=0 ;; esac
        if [ "$6" != '*' ] && [ "$until" -gt "$now" ]; then
            printf 'held|%s|%s|%s\n' "$holder" "$((until - now))" "$who"
            exit
        fi
        [ "$holder" = "$3" ] || who=$5
        printf '%s|%s|%s\n' "$3" "$((now + $4))" "$who" >"$1"
        ;;
esac
echo done
"""


def start_of(pid: int) -> str:
    """When a process of this machine began, to be compared with itself only; empty where /proc tells nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def place() -> str:
    """Where process numbers mean the same: one boot of one kernel, and in it one container; elsewhere the network card.

    No name of a machine: AWX and Semaphore give every job a new one, and many machines are called "debian".
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{Path('/proc/self/ns/pid').readlink()}".replace(":", "")
    except OSError:
        return f"{uuid.getnode():x}"


def own_id() -> str:
    """Identity of this run: the place, its process and when that began. Plugins run in a child of it."""
    pid = os.getppid()
    return f"{place()}:{pid}:{start_of(pid)}"


def is_dead(holder: str) -> bool:
    """Whether the run was one of this place and is over. Of another place nothing is known."""
    where, pid, start = holder.rsplit(":", 2)
    if where != place():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's, and alive
    return start_of(int(pid)) != start


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Takes the note or frees it; fails when another run holds it. Taking it again renews the lease.

    Its options: see ``plugins/modules``.
    """

    _VALID_ARGS = frozenset({"state", "lease", "take_over", "path"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Take or free the note on the host."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result["changed"] = False
        _, options = self.validate_argument_spec(
            {
                "state": {"choices": ["taken", "free"], "default": "taken"},
                "lease": {"type": "int", "default": 1800},
                "take_over": {"type": "bool", "default": False},
                "path": {"default": NOTE},
            }
        )
        if self._task.check_mode:
            return result
        if options["state"] == "free":
            self._ask("free", options, "")
            return result
        answer = self._ask("take", options, "*" if options["take_over"] else "")
        if answer[0] == "held" and is_dead(answer[1]):
            answer = self._ask("take", options, answer[1])
        if answer[0] == "held":
            result["failed"] = True
            minutes = int(answer[2]) // 60 + 1
            result["msg"] = (
                f"Another run is changing this installation: {answer[3]}. Wait until it has ended. "
                f"If it is dead, it is forgotten in {minutes} min, or at once with -e site_take_over=true."
            )
        elif answer[0] != "done":
            result["failed"] = True
            result["msg"] = "|".join(answer)
        else:
            host = self._task.delegate_to or (task_vars or {}).get("inventory_hostname")
            result["taken"] = {"host": host, "path": options["path"]}
        return result

    def _ask(self, verb: str, options: dict[str, Any], dead: str) -> list[str]:
        """Answer of the host, in its parts."""
        who = f"{getpass.getuser()}@{socket.gethostname()} since {time.strftime('%F %T %Z')}, process {os.getppid()}"
        arguments = [options["path"], verb, own_id(), str(options["lease"]), who, dead]
        answer = self._low_level_execute_command(shlex.join(["sh", "-c", SCRIPT, "lock", *arguments]), sudoable=True)
        lines = str(answer["stdout"]).strip().splitlines()
        if answer["rc"] or not lines:
            return [f"The run could not be noted on the host: {answer['stderr'] or answer['stdout']}"]
        return lines[-1].split("|")
