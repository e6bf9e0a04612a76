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
