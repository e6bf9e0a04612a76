"""Callback ``site_run``: a run that ends before its last play frees its note (see action ``site_lock``) all the same.

Ansible has no ``always`` for a whole playbook: when every host of a play has failed, nothing comes after. This callback
lies beside the playbooks, where Ansible finds it without any configuration, and acts when the run is over, however it
ended: a failure, hosts that do not answer, Ctrl-C, a cancelled job. Only what nobody can catch (``kill -9``, the power)
is left to the lease.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from ansible.executor.task_queue_manager import TaskQueueManager
from ansible.playbook.play import Play
from ansible.plugins.callback import CallbackBase
from ansible.vars.hostvars import HostVars

DOCUMENTATION = r"""
name: site_run
type: aggregate
short_description: Frees the note of a run, however the run ends
description:
  - It acts where M(clawdbot.ops.site_lock) has taken a note, and says nothing unless that could not be freed.
author: [clawdbot-ops]
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible is not typed
    """Says nothing unless the note could not be freed."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "site_run"

    def __init__(self) -> None:
        super().__init__()
        self._play: Any = None
        self._passwords: dict[str, str | None] = {}
        self._note: dict[str, Any] = {}

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Free the note when the run is interrupted as well; Ansible's own handlers follow."""
        # The hosts of the first play depend on the inventory's variables, too (`site_patterns`). Ansible makes
        # ``hostvars`` with each play that begins, which is too late for the first one's.
        manager = playbook.get_plays()[0].get_variable_manager()
        HostVars(manager._inventory, manager, playbook._loader)
        run = os.getpid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupted(run, signal.getsignal(number)))

    def _interrupted(self, run: int, then: Any) -> Callable[[int, FrameType | None], None]:
        """A handler that frees the note, once, and goes on with ``then``."""

        def handler(number: int, frame: FrameType | None) -> None:
            try:
                if os.getpid() == run:
                    self._free()
            finally:
                then(number, frame)

        return handler

    def set_play_context(self, play_context: Any) -> None:
        """Keep the passwords that were asked for (-k, -K)."""
        self._passwords = {"conn_pass": play_context.password, "become_pass": play_context.become_pass}

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Keep what knows inventory and variables."""
        self._play = play

    def v2_runner_on_ok(self, result: Any) -> None:
        """Notice that the note was taken, and where, or that it is free."""
        if result.task.action == "site_lock":
            taken = result.result.get("taken")
            self._note = {"by": result.host.name, "become": result.task.become, **taken} if taken else {}

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002  # Ansible's interface
        """The run is over."""
        self._free()

    def _free(self) -> None:
        """Free the note if there is one, by a play of its own."""
        note, self._note = self._note, {}
        if not note:
            return
        manager, loader = self._play.get_variable_manager(), self._play.get_loader()
        inventory = manager._inventory
        task = {"site_lock": {"state": "free", "path": note["path"]}, "delegate_to": note["host"]}
        play = Play().load(
            {
                "name": "End",
                "hosts": note["by"],
                "gather_facts": False,
                "tasks": [{"name": "Let the next run begin", "tags": "always", "become": note["become"], **task}],
            },
            variable_manager=manager,
            loader=loader,
        )
        inventory.remove_restriction()
        # This callback, which says nothing of a task, stands in for the one that writes to the screen.
        queue = TaskQueueManager(inventory, manager, loader, self._passwords, self.CALLBACK_NAME, False)
        try:
            failed = queue.run(play)
        finally:
            queue.cleanup()
        if failed:
            self._display.warning(f"{note['host']} could not be told that this run is over; it is forgotten with time.")
