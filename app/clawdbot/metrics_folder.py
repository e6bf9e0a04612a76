"""Where the processes keep their metrics; to be called before `clawdbot.metrics` is imported.

``PROMETHEUS_MULTIPROC_DIR`` is shared by web, worker and receiver. Each of them has its own subfolder, so that the
restart of one never wipes what the other is writing.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
ROLES = ("web", "worker", "receiver")


def use(role: str, environ: MutableMapping[str, str]) -> None:
    """Point prometheus_client to the subfolder of ``role``, without the files of processes that ended.

    Does nothing where the variable is not set: metrics then stay within the process.
    """
    root = environ.get(VARIABLE)
    if not root:
        return
    folder = Path(root) / role
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        pid = re.search(r"_(\d+)\.db$", file.name)
        if pid and not Path("/proc", pid[1]).exists():
            file.unlink(missing_ok=True)
    environ[VARIABLE] = str(folder)


def files() -> list[str]:
    """Return the metric files of all roles; empty where metrics stay within the process."""
    own = os.environ.get(VARIABLE)
    if not own:
        return []
    return [str(file) for role in ROLES for file in (Path(own).parent / role).glob("*.db")]
