"""A scenario's converge.yml once more: with other values, for one host, or by a controller that dies half-way."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parent


def converge(playbook: Path, limit: str, kill_before: str = "", **variables: Any) -> subprocess.CompletedProcess[str]:
    """Runs the playbook; ``kill_before`` names the task before which the controller dies as with ``kill -9``."""
    command = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], "--limit", limit]
    environment = os.environ | {
        "ANSIBLE_CALLBACK_PLUGINS": str(SHARED / "callback_plugins"),
        "ANSIBLE_CALLBACKS_ENABLED": "kill_before",
        "KILL_BEFORE": f"1:{kill_before}" if kill_before else "0:",
        "ANSIBLE_FORCE_COLOR": "false",
    }
    return subprocess.run(
        [*command, "--extra-vars", json.dumps(variables), str(playbook)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        start_new_session=True,
    )
