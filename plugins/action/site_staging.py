"""Action ``site_staging``: makes an inventory to rehearse changes in from the one of this run.

Hosts, groups and settings are those of production, and so are the comments of the files of variables. What leads to
people, to the platforms or to anything of production's does not come along: addresses, names, secrets. In their place
are those of the sandbox, whose containers and simulator the result uses. Nothing is written that still holds a secret
or an address of production.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.vault import EncryptedString, is_encrypted
from ansible.plugins.action import ActionBase

PACKAGE = Path(__file__).resolve().parents[2]

#: Variables, by pattern, that lead to people, to the platforms, or to hosts, names and stores of production.
OUTSIDE = re.compile(
    r"""ansible_\w+ | sandbox_\w+ | backup_(of | ssh_key_file) | clawdbot_redis_\w+ | keepalived_\w+
    | site_(domain | former_domains | address | floating_addresses | backup_repository | redis_host)
    | site_(sites | name | active | link_(certificate | key) | promote_hook)
    | loadbalancer_(tls(_certificate|_key)? | acme_\w+ | trusted_proxies)
    | clawdbot_(dingtalk|feishu)_(app_\w+ | allow_\w+ | robot_code | card_template | \w+_url)
    | monitoring_(email_\w+ | webhook_urls | heartbeat_url | dashboard_(address|certificate\w*))""",
    re.VERBOSE,
)
#: Secrets by their specs, and settings of the sandbox, that production keeps: how hosts get their packages.
ARCHIVES = frozenset(
    (
        "site_proxy",
        "site_ca_bundle",
        "base_apt_mirror",
        "base_apt_security_mirror",
        "base_pip_index",
        "base_npm_registry",
        "clawdbot_pip_index_url",
    )
)
#: What else is taken for a secret, at any depth, if it is a text.
SECRET = re.compile(r"\w*(password|passphrase|secret|token|(api|access|aes|encryption|private)_key)", re.IGNORECASE)

OWN_SECRETS = "group_vars/all/secrets.yml"
ROLES = ("loadbalancer", "clawdbot", "redis", "monitoring")
NETWORK = {"name": "clawdbot-staging", "ipv4": "10.213.9.0/24", "ipv6": "fd00:c1a3:d809::"}
ADDRESSES = [f"10.213.9.{number}" for number in range(11, 255)]
#: Of hosts that do not come along; leads nowhere (RFC 5737).
NOWHERE = "192.0.2.1"
SIMULATOR = "staging-outside"
IMAGE = "debian12"
HEADER = """---
# Made by `make staging` from {source}, and made anew by it. Kept are secrets.yml, and what stands beside a host here
# that begins with ansible_ or sandbox_: an address, a user, another sandbox_image, or none for a server of your own.
"""
#: Shorter texts are found everywhere.
TELLING = 8

Variables = Mapping[str, Any]


class Sealed(str):
    """A value that stands in a vault, encrypted."""


class _Loader(yaml.SafeLoader):
    """Reads files of variables; what is in a vault stays there."""


def _tagged(_: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    return Sealed(node.value) if tag == "vault" else node.value


_Loader.add_multi_constructor("!", _tagged)


def made_up(name: str) -> str:
    """Stands for the secret ``name``: the same each time, and known to everybody who can read this."""
    return hashlib.sha256(name.encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Staging:
    """What becomes of the values of production.

    Attributes:
        names: each host's name here.
        addresses: each of production's addresses, and that of the same host here.
        gone: names of variables that do not come along.
    """

    names: Mapping[str, str]
    addresses: Mapping[str, str]
    gone: frozenset[str] = frozenset()
    left_out: set[str] = field(default_factory=set)

    def leaves_out(self, name: str) -> bool:
        """Whether the variable ``name`` stays in production."""
        left_out = name not in ARCHIVES and (name in self.gone or OUTSIDE.fullmatch(name) is not None)
        if left_out:
            self.left_out.add(name)
        return left_out

    def value(self, name: str, value: Any, sealed: bool = False) -> Any:
        """The value of variable or key ``name`` here; ``sealed``: all of it stood in a vault."""
        if name == "clawdbot_rules" and isinstance(value, Mapping):
            models = {each: _played(model) for each, model in (value.get("models") or {}).items()}
            value = {**value, **({"models": models} if models else {})}
        if isinstance(value, Sealed | EncryptedString):
            return made_up(name)
        if isinstance(value, Mapping):
            return {str(key): self.value(str(key), each, sealed) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(name, each, sealed) for each in value]
        if not isinstance(value, str):
            return value
        if name in ARCHIVES:
            return str(value)
        is_secret = value and "{{" not in value and (sealed or SECRET.fullmatch(name))
        return made_up(name) if is_secret else self.moved(str(value))

    def moved(self, text: str) -> str:
        """``text`` with the addresses of here, and with the names by which it asks for variables of hosts."""
        for known, pattern in (
            (self.addresses, r"(?<![\w.-])({})(?![\w-]|[.:]\w+[.:])"),
            (self.names, r"(?<=hostvars\[['\"])({})(?=['\"])"),
        ):
            if known:
                words = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
                text = re.sub(pattern.format(words), lambda found: known[found[1]], text)  # noqa: B023  # used at once
        return text

    def variables(self, variables: Variables) -> dict[str, Any]:
        """Variables that stood beside a host or a group."""
        return {
            str(name): self.value(str(name), value)
            for name, value in variables.items()
            if not str(name).startswith("inventory_") and not self.leaves_out(str(name))
        }

    def text(self, text: str, sealed: bool = False) -> str:
        """The text of a file of variables, with the values of here in their places, and its comments."""
        return rewritten(text, lambda name, value: None if self.leaves_out(name) else [self.value(name, value, sealed)])


def rewritten(text: str, change: Callable[[str, Any], list[Any] | None]) -> str:
    """The text of a file of variables with some of them changed; all else, and the comments, stay as they are.

    Args:
        text: YAML, a mapping or nothing.
        change: gets name and value; returns the new value in a list, or None where the variable goes.

    Raises:
        yaml.YAMLError: it is no YAML.
        ValueError: it holds no variables.
    """
    tree, values = yaml.compose(text, Loader=_Loader), _load(text)
    if tree is None:
        return text
    if not isinstance(tree, yaml.MappingNode):
        raise ValueError("does not hold variables")
    changed = {name: change(str(name), value) for name, value in values.items()}
    if tree.flow_style or any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
        # Aliases stand elsewhere than what they mean; JSON has no comments.
        return dump({name: new[0] for name, new in changed.items() if new is not None})
    for key, node in reversed(tree.value):
        name, start, end = key.value, key.start_mark.index, _end(node, text)
        if (new := changed[name]) is None:
            line_end = text.find("\n", end) % (len(text) + 1)
            text = f"{text[:start]}# {name}: production's own{text[line_end:]}"
        elif new[0] != values[name] or isinstance(values[name], Sealed):
            colon = text.index(":", key.end_mark.index)
            text = f"{text[: colon + 1]} {json.dumps(new[0], ensure_ascii=False, default=str)}{text[end:]}"
    return text


def _end(node: yaml.Node, text: str) -> int:
    """Where ``node`` ends in ``text``, without the comments and empty lines that follow."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last, text)
    start, end = node.start_mark.index, node.end_mark.index
    return int(start + len(text[start:end].rstrip()))


def dump(value: Any) -> str:
    """YAML as people write it: the innermost lists and mappings in one line."""
    plain = json.loads(json.dumps(value, default=str))
    return str(yaml.safe_dump(plain, default_flow_style=None, sort_keys=False, allow_unicode=True, width=160))


def texts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """All texts in the variable ``name``, at any depth, each with the nearest name."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from texts(str(key), each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts(name, each)
    elif isinstance(value, str | EncryptedString):
        yield name, value


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Options and what is returned: see ``plugins/modules``."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the folder."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _, options = self.validate_argument_spec(
            {"path": {"type": "path", "required": True}, "hosts": {"type": "int", "default": 3}}
        )
        target = Path(options["path"]).resolve()
        source = self._source(variables, target)
        folder = source if source.is_dir() else source.parent
        inventory = InventoryManager(loader=self._loader, sources=[str(source)])
        called = self._templar.template(variables.get("site_group_names", {}))
        groups = inventory.get_groups_dict()
        members = [groups.get(called.get(role, role), [])[: options["hosts"]] for role in ROLES]
        hosts = list(dict.fromkeys(host for group in members for host in group))
        if not hosts:
            raise AnsibleActionFail(f"{source}: none of the groups {', '.join(ROLES)} has a host")

        here = placed([*(f"staging-{host}" for host in hosts), SIMULATOR], self._whereabouts(target))
        sandbox = (PACKAGE / "inventories/sandbox/group_vars/all/main.yml").read_text("utf-8")
        given = set(yaml.safe_load(sandbox))
        hidden = {name for name, option in _specs() if option.get("no_log")} - {"clawdbot_rules"}
        production = {host.name: variables["hostvars"].raw_get(host.name) for host in inventory.get_hosts()}
        staging = Staging(
            {host: f"staging-{host}" for host in hosts},
            {
                address: here.get(f"staging-{host}", {}).get("ansible_host", NOWHERE)
                for host, beside in production.items()
                for address in _addresses(host, beside)
            },
            frozenset(given | hidden),
        )
        files, locks = self._files(folder, inventory, hosts, staging)
        files["hosts.yml"] = HEADER.format(source=source.name) + dump(tree(inventory, hosts, here, staging))
        kept = {name for text in files.values() for name in _load(text)}
        files["group_vars/all/staging.yml"] = rewritten(sandbox, lambda name, value: _own(name, value, kept))
        prove(files, production, staging)
        if (own := target / OWN_SECRETS).exists():
            files[OWN_SECRETS], locks[OWN_SECRETS] = self._read(own)

        present = {str(file.relative_to(target)): self._read(file)[0] for file in target.rglob("*") if file.is_file()}
        result["changed"] = files != present
        if result["changed"] and not self._task.check_mode:
            _write(target, {place: locks.get(place, str.encode)(text) for place, text in files.items()})
        result.update(path=str(target), hosts=list(here), left_out=sorted(staging.left_out - given))
        return result

    def _source(self, variables: Variables, target: Path) -> Path:
        """The inventory of this run, one that may become one at ``target``."""
        sources = [Path(source) for source in variables["ansible_inventory_sources"]]
        if len(sources) != 1 or not sources[0].exists():
            raise AnsibleActionFail("Name the one folder or file of production's inventory: -i inventories/mine")
        source = sources[0].resolve()
        if target in (source, *source.parents) or source in target.parents:
            raise AnsibleActionFail(f"{target}: is, or lies in, production's inventory itself; name another folder")
        if target.exists() and not (target / "group_vars/all/staging.yml").exists():
            raise AnsibleActionFail(f"{target}: was not made by this; move it away, or name another folder")
        return source

    @staticmethod
    def _whereabouts(target: Path) -> dict[str, Variables]:
        """What the present staging says of its hosts' whereabouts."""
        file = target / "hosts.yml"
        known = yaml.safe_load(file.read_text("utf-8"))["all"]["hosts"] if file.exists() else {}
        return {
            host: {name: value for name, value in (beside or {}).items() if name.startswith(("ansible_", "sandbox_"))}
            for host, beside in known.items()
        }

    def _read(self, file: Path) -> tuple[str, Callable[[str], bytes]]:
        """The text of a file of variables, and what makes a file of it again: in its vault, if it was in one."""
        content, vault = file.read_bytes(), self._loader._vault
        if not is_encrypted(content):
            return content.decode(), str.encode
        plain, label, password = vault.decrypt_and_get_vault_id(content)
        return plain.decode(), lambda text: bytes(vault.encrypt(text, password, vault_id=label))

    def _files(
        self, folder: Path, inventory: InventoryManager, hosts: Iterable[str], staging: Staging
    ) -> tuple[dict[str, str], dict[str, Callable[[str], bytes]]]:
        """The files of variables that Ansible reads, by the places that they have here, and what writes each."""
        files, locks = {}, {}
        for kind, names in (
            ("group_vars", {group: group for group in inventory.groups}),
            ("host_vars", {host: staging.names[host] for host in hosts}),
        ):
            for name, here in names.items():
                own = folder / kind / name
                for file in map(Path, self._loader.find_vars_files(str(folder / kind), name)):
                    place = f"{kind}/{here}/{file.relative_to(own) if own in file.parents else 'main.yml'}"
                    place = place if place != OWN_SECRETS else f"{kind}/{here}/other_secrets.yml"
                    text, locks[place] = self._read(file)
                    try:
                        files[place] = staging.text(text, sealed=locks[place] is not str.encode)
                    except (yaml.YAMLError, ValueError) as error:
                        mark = getattr(error, "problem_mark", None)  # not its text, which would show a secret
                        line = f":{mark.line + 1}" if mark else ""
                        raise AnsibleActionFail(f"{file}{line}: holds no variables in YAML; mend it first") from None
        return files, locks


def prove(files: Mapping[str, str], production: Mapping[str, Variables], staging: Staging) -> None:
    """Nothing that is to be written holds a secret or an address of ``production``, a host's variables by its name.

    Raises:
        AnsibleActionFail: something does.
    """
    secrets: set[str] = set()
    for variables in production.values():
        for name, value in (pair for variable in variables.items() for pair in texts(*variable)):
            if name not in ARCHIVES and (SECRET.fullmatch(name) or isinstance(value, EncryptedString)):
                with contextlib.suppress(AnsibleError):  # in a vault that this run has no key of
                    secrets.add(str(value))
    telling = [secret for secret in secrets if len(secret) >= TELLING and "{{" not in secret]
    for place, text in files.items():
        if any(secret in text for secret in telling):
            raise AnsibleActionFail(f"{place}: would still hold a secret of production; nothing was written")
        for name, value in texts("", _load(text)):
            if name not in ARCHIVES and staging.moved(value) != value:
                raise AnsibleActionFail(f"{place}: {name}: would still lead to production; nothing was written")


def tree(
    inventory: InventoryManager, hosts: Iterable[str], here: Mapping[str, Variables], staging: Staging
) -> dict[str, Any]:
    """Hosts, groups and what stands beside them, for ``hosts.yml``."""
    beside = {staging.names[host]: staging.variables(inventory.get_host(host).vars) for host in hosts}
    children: dict[str, Any] = {}
    for name, group in inventory.groups.items():
        if name in ("all", "ungrouped"):
            continue
        parts = {
            "vars": staging.variables(group.vars),
            "hosts": {staging.names[host.name]: {} for host in group.hosts if host.name in staging.names},
            "children": {child.name: {} for child in group.child_groups},
        }
        children[name] = {part: content for part, content in parts.items() if content}
    children["internet"] = {"hosts": {SIMULATOR: {}}}
    common = staging.variables(inventory.groups["all"].vars)
    return {
        "all": {
            **({"vars": common} if common else {}),
            "hosts": {host: {**whereabouts, **beside.get(host, {})} for host, whereabouts in here.items()},
            "children": children,
        }
    }


def placed(hosts: Iterable[str], known: Mapping[str, Variables]) -> dict[str, dict[str, Any]]:
    """Where each of ``hosts`` is: where it was (``known``), else a container at the next free address."""
    taken = {beside.get("ansible_host") for beside in known.values()}
    free = (address for address in ADDRESSES if address not in taken)
    return {host: dict(known.get(host) or {"ansible_host": next(free), "sandbox_image": IMAGE}) for host in hosts}


def _addresses(host: str, variables: Variables) -> set[str]:
    """By what production reaches ``host``, as far as it can be told from a word."""
    found = {str(variables.get(name) or "") for name in ("ansible_host", "ansible_ssh_host", "site_address")} | {host}
    return {address for address in found if re.search(r"[.:]", address) and "{{" not in address}


def _played(model: Any) -> Any:
    """A model of the rules, played by the simulator."""
    if not isinstance(model, Mapping):
        return model
    played = {"type": "gpt", "name": "sandbox-model", "base_url": "{{ sandbox_simulator_url }}/v1"}
    return {**model, **played, "api_key": "{{ clawdbot_model_api_key }}"}


def _own(name: str, value: Any, kept: Iterable[str]) -> list[Any] | None:
    """What staging says instead of the sandbox."""
    if name in kept:
        return None
    return [{"sandbox_network": NETWORK, "sandbox_cache": str(value).replace("/sandbox", "/staging")}.get(name, value)]


def _specs() -> Iterator[tuple[str, Variables]]:
    """The options of all roles."""
    for file in PACKAGE.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(file.read_text("utf-8"))["argument_specs"].values():
            yield from entry.get("options", {}).items()


def _load(text: str) -> dict[str, Any]:
    """The variables in ``text``."""
    return yaml.load(text, Loader=_Loader) or {}  # noqa: S506  # a SafeLoader


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    """Puts the folder in its place whole; nobody but its owner can read it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".staging.") as folder:
        new = Path(folder) / "new"
        for place, content in files.items():
            file = new / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_bytes(content)
        if target.exists():
            shutil.move(target, Path(folder) / "old")
        shutil.move(new, target)
