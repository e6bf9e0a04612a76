"""What tasks write: for whom, and what is shown of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("roles/*/tasks/*.yml"))
FILES += sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("playbooks/**/*.yml"))
#: Modules that show what they write as a difference.
WRITERS = {"text_files", "ansible.builtin.template", "ansible.builtin.copy", "ansible.builtin.blockinfile"}


def tasks(of: Any) -> Iterator[dict[str, Any]]:
    """All tasks, those in blocks as well."""
    for each in of or []:
        if isinstance(each, dict):
            yield each
            for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
                yield from tasks(each.get(part))


def modes(value: Any) -> Iterator[str]:
    """Modes anywhere in a task."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "mode" and isinstance(inner, str):
                yield from re.findall(r"0[0-7]{3}\b", inner)
            yield from modes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from modes(inner)


@pytest.mark.parametrize("file", FILES)
def test_nobody_else_writes_what_a_task_has_written(file: str) -> None:
    for mode in modes(yaml.safe_load((ROOT / file).read_text("utf-8"))):
        assert int(mode, 8) & 0o022 == 0, mode


@pytest.mark.parametrize("file", FILES)
def test_what_is_not_logged_is_not_shown_as_a_difference_either(file: str) -> None:
    for task in tasks(yaml.safe_load((ROOT / file).read_text("utf-8"))):
        if WRITERS & set(task):
            assert ("no_log" in task) == ("diff" in task), task["name"]
            assert task.get("diff") is not True, task["name"]
            assert task.get("no_log") is not False, task["name"]


COMMANDS = {"ansible.builtin.command", "ansible.builtin.shell", "ansible.builtin.raw", "ansible.builtin.uri"}
#: First words of names of tasks that change nothing.
LOOKS = (
    "Ask",
    "Check",
    "Compare",
    "Find",
    "Let",
    "Look",
    "Make sure",
    "Read",
    "Receive",
    "Rehearse",
    "See",
    "The",
    "Try",
    "Wait",
)
#: They look at what a dry run has not made.
LATER = {
    "Ask sshd where it looks for keys",
    "Check that the copy may take the place of what is there",
    "Check that Node.js runs and is new enough",
    "Make sure that the services stay up",
    "Read what the bot said",
    "Receive nothing more, and hand over the messages that wait on this node's disk",
    "Rehearse a restore",
    "Wait until Redis has caught up",
    "Wait until the bot is ready",
    "Wait until those who send it requests find it ready",
    "Wait until the packages are there; what apt says is in /var/log/clawdbot-upgrade.log",
}


@pytest.mark.parametrize("file", FILES)
def test_what_only_looks_changes_nothing_and_looks_in_a_dry_run_as_well(file: str) -> None:
    for task in tasks(yaml.safe_load((ROOT / file).read_text("utf-8"))):
        looks = task.get("name", "").startswith(LOOKS)
        if COMMANDS & set(task):
            changed = task.get("changed_when", False)
            assert not (looks and changed is True), task["name"]
            assert looks or changed is not False, task["name"]
            if looks and changed is False and task["name"] not in LATER:
                assert task.get("check_mode") is False, task["name"]


#: Plays whose roles read what Ansible finds out about hosts, which takes a second a host.
FACTS = {
    "app.yml: Lay the release beside the running one",
    "balance.yml: Balance",
    "connect.yml: Make the hosts ready for packages",
    "data.yml: Data",
    "exporters.yml: Exporters",
    "harden.yml: Prepare",
    "observe.yml: Observe",
}
#: Plays that are no work for root; some of their tasks are.
NOT_ROOT = {
    "add_node.yml: Check the names",
    "add_node.yml: Check the others",
    "close.yml: Close",
    "connect.yml: Connect",
    "end.yml: End",
    "preflight.yml: Check the inventory",
    "promote_site.yml: Check that the inventory means it",
    "promote_site.yml: Wait for the bot",
    "remove_node.yml: Check the names",
    "remove_node.yml: Stop the bot on the nodes",
}


def test_plays_are_roots_and_gather_facts_where_they_need_it() -> None:
    facts, not_root = set(), set()
    for path in ROOT.glob("playbooks/*.yml"):
        for play in yaml.safe_load(path.read_text("utf-8")):
            name = f"{path.name}: {play['name']}"
            if "hosts" in play and play.get("gather_facts", True):
                facts.add(name)
            if play.get("hosts", "localhost") != "localhost" and not play.get("become"):
                not_root.add(name)
    assert facts == FACTS
    assert not_root == NOT_ROOT
