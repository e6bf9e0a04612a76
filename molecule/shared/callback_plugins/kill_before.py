"""Kills the controller, with all its processes, before a certain task: as with ``kill -9``, or with Ctrl-C."""

from __future__ import annotations

import os
import signal
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible ships no types
    """KILL_BEFORE is ``occurrence:task name``, of no name the number of any task; without it nothing is killed.

    KILL_BY is the signal's name, SIGKILL by default.
    """

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kill_before"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        occurrence, _, self.task_name = os.environ.get("KILL_BEFORE", "0:").partition(":")
        self.left = int(occurrence)
        self.signal = signal.Signals[os.environ.get("KILL_BY", "SIGKILL")]

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002  # Ansible's interface
        """Counts the task's occurrences."""
        if self.task_name in ("", task.get_name()):
            self.left -= 1
            if self.left == 0:
                os.killpg(os.getpgrp(), self.signal)
