"""Action ``packages``: Debian packages that a role needs, installed where one is missing.

``ansible.builtin.apt`` reads the whole of apt's cache to find that there is nothing to do, which takes a host's
processor most of a second for each role. Here dpkg is asked first, and apt only about what is not there.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from ansible.plugins.action import ActionBase

# What is there, and what of it came along with something else: apt may remove that with the other.
LOOK = """
dpkg-query --show --showformat '${Package} ${Architecture} ${Version} ${db:Status-Status}\\n' -- "$@" 2>/dev/null
cd /var/lib/apt && [ ! -e extended_states ] ||
    awk '$1 == "Package:" { name = $2 } $1 == "Auto-Installed:" && $2 { print name, "auto" }' extended_states
"""
# As apt takes them: a name, perhaps with an architecture and one exact version. All else is apt's business.
PLAIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]+)(:(?P<architecture>[a-z0-9-]+))?(=(?P<version>[^*]+))?")


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Each package is installed without those that it recommends, from lists that are at most an hour old.

    Its options: see ``plugins/modules``.
    """

    _VALID_ARGS = frozenset({"name"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Look, and install what is missing; another run of apt or dpkg is waited for, five minutes at most."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = self._task.args["name"]
        names = [str(name) for name in ([given] if isinstance(given, str) else given)]
        plain = [found for found in map(PLAIN.fullmatch, names) if found]
        if len(plain) == len(names):
            asked = sorted({found["name"] for found in plain})
            seen = self._low_level_execute_command(shlex.join(["sh", "-c", LOOK, "look", *asked]))
            if seen["rc"] == 0 and not missing(plain, seen["stdout"]):
                return {**result, "changed": False}
        wanted = {"name": names, "install_recommends": False, "update_cache": True, "cache_valid_time": 3600}
        wanted |= {"lock_timeout": 900}
        done = self._execute_module(module_name="ansible.builtin.apt", module_args=wanted, task_vars=task_vars)
        return {**result, **done}


def missing(packages: list[re.Match[str]], seen: str) -> list[str]:
    """Which of the packages are not there whole, in their version and for their own sake, by what the look printed."""
    installed: dict[tuple[str, str | None], str] = {}
    automatic = set()
    for words in map(str.split, seen.splitlines()):
        if words[1:] == ["auto"]:
            automatic.add(words[0])
        elif words[3:] == ["installed"]:
            name, architecture, version = words[:3]
            installed[name, architecture] = installed[name, None] = version
    return [
        each[0]
        for each in packages
        if each["name"] in automatic
        or installed.get((each["name"], each["architecture"])) is None
        or each["version"] not in (None, installed[each["name"], each["architecture"]])
    ]
