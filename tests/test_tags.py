"""Every tag of a role does in site.yml what its name says: the role or one part of it, after what must always run."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ROLES = sorted(path.parent.parent.name for path in ROOT.glob("roles/*/tasks/main.yml"))
PARTS = ("install", "configure", "verify")
# Parts of these roles that belong to other work: a node's turn, a host that leaves, data that moves, the first login.
OTHERS = {
    "member.yml",
    "drained.yml",
    "leave.yml",
    "move.yml",
    "absent.yml",
    "no_dashboard.yml",
    "helpers.yml",
    "connect.yml",
    "package_lists.yml",
}


@dataclass(frozen=True)
class Leaf:
    """A task that does something, with the tags it has in site.yml, and those of each include on the way to it."""

    role: str
    file: str
    name: str
    tags: frozenset[str]
    gates: tuple[frozenset[str], ...]
    notes: str
    needs: frozenset[str]

    def runs(self, wanted: str) -> bool:
        """Whether --tags ``wanted`` reaches it: each dynamic include has to be selected by itself."""
        return all(tags & {wanted, "always"} for tags in (*self.gates, self.tags))


def internals(task: Mapping[str, Any]) -> frozenset[str]:
    """Names of a role's own variables that a task reads."""
    return frozenset(re.findall(r"\b__\w+\b(?! \| default)", yaml.safe_dump(dict(task)))) - {str(task.get("register"))}


def listed(value: Any) -> frozenset[str]:
    """``tags`` as a set."""
    return frozenset(value if isinstance(value, list) else [value] if value else [])


def filled(text: Any, task: Mapping[str, Any], variables: Mapping[str, Any]) -> list[str]:
    """The values that ``{{ item }}`` or a variable may have; quoted words where a loop is worked out."""
    name = re.fullmatch(r"\{\{ (\w+) \}\}", str(text))
    if not name:
        return [str(text)]
    if name[1] != "item":
        return [str(variables[name[1]])]
    loop = task["loop"]
    return loop if isinstance(loop, list) else re.findall(r"'(\w+)'", loop)


class Site:
    """site.yml, followed as Ansible does: what is imported inherits tags, what is included only those of ``apply``."""

    def playbook(self, file: Path, tags: frozenset[str]) -> Iterator[Leaf]:
        """The tasks of a playbook and of those it imports."""
        for play in yaml.safe_load(file.read_text("utf-8")):
            own = tags | listed(play.get("tags"))
            if book := play.get("ansible.builtin.import_playbook"):
                yield from self.playbook(file.parent / book, own)
                continue
            for role in play.get("roles", []):
                yield from self.role(role["role"], "main", own | listed(role.get("tags")), (), {})
            yield from self.tasks(play.get("tasks", []), "", file, own, (), play.get("vars", {}))

    def role(self, role: str, part: str, *rest: Any) -> Iterator[Leaf]:
        """The tasks of one of a role's files."""
        file = ROOT / f"roles/{role}/tasks/{part.removesuffix('.yml')}.yml"
        if file.exists() or role != "site":
            yield from self.tasks(yaml.safe_load(file.read_text("utf-8")), role, file, *rest)

    def tasks(
        self,
        tasks: list[dict[str, Any]],
        role: str,
        file: Path,
        tags: frozenset[str],
        gates: tuple[frozenset[str], ...],
        variables: Mapping[str, Any],
        needs: frozenset[str] = frozenset(),
    ) -> Iterator[Leaf]:
        """The tasks of a list, with what they include."""
        for task in tasks:
            own = tags | listed(task.get("tags"))
            uses = needs | internals({"when": task.get("when")})
            known = {**variables, **task.get("vars", {})}
            nested = [task[part] for part in ("block", "rescue", "always") if part in task]
            action = next((key for key in task if re.search(r"\.(import|include)_(role|tasks)$", key)), "")
            for block in nested:
                yield from self.tasks(block, role, file, own, gates, known, uses)
            if not action:
                if not nested:
                    yield Leaf(
                        role,
                        file.name,
                        task.get("name", ""),
                        own,
                        gates,
                        task.get("register", ""),
                        uses | internals(task),
                    )
                continue
            call = task[action] if isinstance(task[action], dict) else {"file": task[action]}
            below, doors = own, gates
            if "include" in action:
                below, doors = tags | listed(call.get("apply", {}).get("tags")), (*gates, own)
            if action.endswith("_role"):
                for name in sorted({*filled(call["name"], task, known)} & {*ROLES}):
                    for part in filled(call.get("tasks_from", "main"), task, known):
                        yield from self.role(name, part, below, doors, known, uses)
            else:
                for name in filled(call["file"], task, known):
                    found = file.parent / name
                    yield from self.tasks(
                        yaml.safe_load(found.read_text("utf-8")), role, found, below, doors, known, uses
                    )


LEAVES = list(Site().playbook(ROOT / "site.yml", frozenset()))
TAGS = sorted(
    tag
    for role in ROLES
    for tag in {role, *(f"{role}_{part}" for part in PARTS)}
    if tag == role
    or any(tag in re.findall(r"\w+", str(leaf.tags)) for leaf in LEAVES if leaf.role == role)
    or re.search(
        rf"\b{tag}\b", "".join(path.read_text("utf-8") for path in (ROOT / f"roles/{role}/tasks").glob("*.yml"))
    )
)


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_reaches_its_role(tag: str) -> None:
    role = max((role for role in ROLES if tag in (role, *(f"{role}_{part}" for part in PARTS))), key=len)
    reached = [leaf for leaf in LEAVES if leaf.role == role and leaf.runs(tag) and "always" not in leaf.tags]
    assert reached, f"--tags {tag} does nothing of {role}"


@pytest.mark.parametrize("role", ROLES)
def test_the_tag_of_a_role_reaches_all_of_it(role: str) -> None:
    missed = [
        f"{leaf.file}: {leaf.name}"
        for leaf in LEAVES
        if leaf.role == role and leaf.file not in OTHERS and not leaf.runs(role)
    ]
    assert not missed


@pytest.mark.parametrize("tag", TAGS)
def test_what_has_to_run_always_does(tag: str) -> None:
    reached = {leaf.name for leaf in LEAVES if leaf.runs(tag)}
    assert reached >= {
        "Check groups, addresses, secrets and variables",
        "Log in on the last known, the given, the wanted or the standard port",
        "Keep other runs out",
        "Check that every host runs a supported system",
        "Let the next run begin",
    }


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_leaves_out_nothing_that_it_needs(tag: str) -> None:
    """What a selected task reads was noted by one that is selected as well."""
    noted = {leaf.notes for leaf in LEAVES if leaf.runs(tag)}
    lost = {leaf.notes for leaf in LEAVES if leaf.notes} - noted
    assert not {
        f"{leaf.role}: {leaf.name}: {leaf.needs & lost}" for leaf in LEAVES if leaf.runs(tag) and leaf.needs & lost
    }


def test_a_turn_of_a_node_is_whole_with_the_bots_tag() -> None:
    reached = {(leaf.role, leaf.file) for leaf in LEAVES if leaf.runs("clawdbot_configure")}
    assert {("loadbalancer", "member.yml"), ("loadbalancer", "drained.yml"), ("clawdbot", "start.yml")} <= reached
    assert ("", "roll.yml") in reached
    assert "backup" in {leaf.role for leaf in LEAVES if leaf.runs("clawdbot")}
