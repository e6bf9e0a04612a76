"""Action ``site_secrets``: writes the secrets that nobody else has to issue, and says where the others come from.

It is the one list of the installation's secrets. A variable that the inventory sets anywhere keeps its value; what is
missing is added to the end of the file, whose other lines stay as they are.

It also gives them new values, for ``playbooks/rotate_secrets.yml``. Those before them stand in the same file, as
``site_rotated``, until they are proven dead: old and new are written at once, so a run that dies loses neither, and the
next one knows what it has to finish.
"""

from __future__ import annotations

import base64
import datetime
import functools
import json
import os
import re
import secrets
import string
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.parsing.vault import is_encrypted, match_encrypt_secret
from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible.utils.vars import load_extra_vars
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

#: Variable with the values that were replaced, and the comment above it.
ROTATED = "site_rotated"
ABOUT_ROTATED = """
# The values before those above. playbooks/rotate_secrets.yml takes them away when it has proven that nothing accepts
# them any more; if it was interrupted, run it again.
"""
ABOUT_FORMER = """
# Accepted as well until then: enter the present values in the console before. Then these lines can go.
"""
#: How long a console has time.
CONSOLE_DAYS = 7

LETTERS = string.ascii_letters + string.digits
HEADER = """---
# Secrets of this installation: `make secrets` made those that nobody else has to issue. Write the others behind their
# names and take the "#" away; leave those of a platform that you do not use.
"""


def text(length: int) -> Callable[[], str]:
    """A maker of ``length`` random letters and digits, which need no quotes anywhere."""
    return lambda: "".join(secrets.choice(LETTERS) for _ in range(length))


def aes_key() -> str:
    """A key as DingTalk takes it: 32 bytes in Base64 without its "=", letters and digits only (docs/dingtalk.md)."""
    while not (key := base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")).isalnum():
        pass
    return key


@functools.cache
def link() -> tuple[str, str]:
    """The certificate that both sites of an installation have, signed by itself and good for 100 years, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "clawdbot-link")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=36525))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(form[0]).decode(), key.private_bytes(*form).decode()


def written(value: str) -> str:
    """A value as it stands behind its name in YAML; one of several lines as a block."""
    return value if "\n" not in value else "|\n" + "".join(f"  {line}\n" for line in value.splitlines()).rstrip("\n")


@dataclass(frozen=True)
class Block:
    """Secrets that stand together in the file.

    Attributes:
        about: what they are for, as the comment above them.
        made: what is made up here, and how.
        issued: what somebody else issues.
        console: who does, and where.
        of: a variable; without it nobody needs these secrets.
        elsewhere: a variable; with it these secrets are those of something that somebody else runs, there.
        former: variable whose values are accepted beside those of ``made``, which are entered in that console, too.
    """

    about: str
    made: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    issued: tuple[str, ...] = ()
    console: str = ""
    of: str = ""
    elsewhere: str = ""
    former: str = ""


BLOCKS = (
    Block("Between the bot and Redis.", {"site_redis_password": text(48)}, elsewhere="site_redis_host"),
    Block(
        "Between the two sites.",
        {"site_link_certificate": lambda: link()[0], "site_link_key": lambda: link()[1]},
        of="site_sites",
    ),
    Block(
        'Alerts into the chats, and the dashboard on the monitoring host; "" to do without.',
        {"site_alerts_token": text(48), "site_dashboard_password": text(24)},
    ),
    Block(
        'The nightly backup; "" to do without. Keep a copy elsewhere: nobody can read the backup without it.',
        {"site_backup_password": text(48)},
    ),
    Block(
        "The model.",
        issued=("clawdbot_model_api_key",),
        console="your model provider's console, under API keys",
    ),
    Block(
        "DingTalk. Token and AES key are entered in its console as they are here, if you use event subscriptions.",
        {"clawdbot_dingtalk_token": text(20), "clawdbot_dingtalk_aes_key": aes_key},
        ("clawdbot_dingtalk_app_key", "clawdbot_dingtalk_app_secret"),
        "open-dev.dingtalk.com > your app > Credentials: Client ID and Client Secret (docs/dingtalk.md)",
        former="clawdbot_dingtalk_former",
    ),
    Block(
        "The DingTalk group robot that tells of alerts; a Feishu group or a mailbox does as well (docs/monitoring.md).",
        issued=("clawdbot_dingtalk_access_token", "clawdbot_dingtalk_robot_secret"),
        console="the group's settings > Robots: what follows access_token= in its webhook URL, and its SEC... secret",
    ),
    Block(
        "Feishu. The encryption key is entered in its console as it is here.",
        {"clawdbot_feishu_encryption_key": text(32)},
        ("clawdbot_feishu_app_id", "clawdbot_feishu_app_secret", "clawdbot_feishu_verification_token"),
        "open.feishu.cn/app > your app > Credentials, and Events & Callbacks > Encryption Strategy (docs/feishu.md)",
        former="clawdbot_feishu_former",
    ),
)


def added(
    blocks: tuple[Block, ...], known: Mapping[str, object], named: str, everything: bool
) -> tuple[str, list[str]]:
    """Lines to add, and the names that they give a value.

    Args:
        blocks: the secrets there are.
        known: variables that have a value already, even an empty one.
        named: the file as it is; an issued secret that is named in it, if only in a comment, is not named twice.
        everything: make up what others issue as well.
    """
    lines, made = [], []
    for block in blocks:
        block_lines = []
        for name in (*block.made, *block.issued):
            if name in known or (block.of and not known.get(block.of)):
                continue
            if name in block.made or everything:
                block_lines.append(f"{name}: {written(block.made.get(name, text(40))())}")
                made.append(name)
            elif name not in named:
                block_lines.append(f"#{name}:")
        if block_lines:
            source = [f"# From {block.console}."] if block.issued and not everything else []
            lines += ["", f"# {block.about}", *source, *block_lines]
    return "".join(f"{line}\n" for line in lines), made


class _Names(yaml.SafeLoader):
    """Reads a file of variables for their names; a single value in a vault is a value like any other."""


_Names.add_multi_constructor("!", lambda loader, suffix, node: "")  # noqa: ARG005  # PyYAML's interface


class _Values(_Names):
    """Reads it for its values, which ``vault`` opens."""

    vault: Any = None

    def opened(self, node: yaml.ScalarNode) -> str:
        """What is in the vault."""
        return str(self.vault.decrypt(node.value).decode())


_Values.add_constructor("!vault", _Values.opened)

#: A label and a password of Vault, if something is encrypted.
Key = tuple[str, Any] | None


class File:
    """A file of variables, in a vault as a whole or not.

    Attributes:
        path: where it is, without links.
        text: what it holds.
        key: what it is encrypted with.
    """

    def __init__(self, path: Path, vault: Any) -> None:
        """Read it, if it is there."""
        self.path, self._vault = path, vault
        content = path.read_bytes() if path.exists() else b""
        self.key: Key = None
        if is_encrypted(content):
            content, label, password = vault.decrypt_and_get_vault_id(content)
            self.key = (label, password)
        self.text = content.decode()

    def read(self, loader: type[yaml.SafeLoader]) -> dict[str, Any]:
        """What it holds.

        Raises:
            AnsibleActionFail: it holds no variables. The error says where, and shows nothing.
        """
        reader = loader(self.text)
        if isinstance(reader, _Values):
            reader.vault = self._vault
        try:
            found = reader.get_single_data() or {}
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            raise AnsibleActionFail(f"{self.path}:{mark.line + 1 if mark else 1}: is not YAML; mend it first") from None
        finally:
            reader.dispose()
        if not isinstance(found, dict):
            raise AnsibleActionFail(f"{self.path}: does not hold variables; mend it first")
        return found

    def write(self, text: str, key: Key, mode: int = 0o600) -> None:
        """Replaces the file at once; nobody reads it at any moment who may not in the end."""
        content = self._vault.encrypt(text, key[1], vault_id=key[0]) if key else text.encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=".secrets.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def replace(self, text: str) -> None:
        """Writes another text, as encrypted and as readable as it was."""
        self.write(text, self.key, self.path.stat().st_mode & 0o777)

    # --- Editing in place --------------------------------------------------------------------------

    def entries(self) -> list[tuple[yaml.Node, yaml.Node]]:
        """Names and values, with the places where they stand."""
        root = yaml.compose(self.text, Loader=yaml.SafeLoader)
        return list(root.value) if isinstance(root, yaml.MappingNode) else []

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it holds these values and nothing else."""
        try:
            return self.read(_Values) == values
        except AnsibleActionFail:
            return False

    def key_of(self, node: yaml.Node) -> Key:
        """What a single value is encrypted with."""
        if node.tag != "!vault":
            return None
        _, label, password = self._vault.decrypt_and_get_vault_id(node.value)
        return label, password

    def value_of(self, node: yaml.Node) -> str:
        """A single value."""
        return self._vault.decrypt(node.value).decode() if node.tag == "!vault" else str(node.value)

    def scalar(self, value: str, key: Key, quote: str = '"') -> str:
        """A value as YAML."""
        if key:
            sealed = self._vault.encrypt(value, key[1], vault_id=key[0]).decode()
            return "!vault |\n" + textwrap.indent(sealed.rstrip("\n"), " " * 10)
        # What is made up here needs no quotes, and JSON's are those of YAML.
        return f"{quote}{value}{quote}" if value.isalnum() else json.dumps(value, ensure_ascii=False)

    def replaced(self, values: Mapping[int, str]) -> str:
        """Its text with this YAML in the place of the values that begin there."""
        text = self.text
        ends = {node.start_mark.index: _end(node, text) for _, node in self.entries()}
        for start in sorted(values, reverse=True):
            text = text[:start] + values[start] + text[ends[start] :]
        return text

    def without(self, name: str, about: str) -> str:
        """Its text without a variable and the comment that was written above it."""
        for key, node in self.entries():
            if key.value == name:
                end = self.text.find("\n", _end(node, self.text)) + 1 or len(self.text)
                return self.text[: key.start_mark.index].removesuffix(about) + self.text[end:]
        return self.text


def _end(node: yaml.Node, text: str) -> int:
    """Where a node ends; PyYAML counts what follows a block, such as comments, as part of it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, yaml.MappingNode) else last, text)
    start = node.start_mark.index
    return start + len(text[start : node.end_mark.index].rstrip())


@dataclass(frozen=True)
class Place:
    """Where a secret stands: the file, the value in it, and what that holds."""

    file: File
    node: yaml.Node
    value: str


class Rotation:
    """New values in the place of old ones, and the old ones beside them.

    Attributes:
        files: those of the inventory whose variables are everybody's.
        known: variables of each host, worked out.
        extra: names that were given with -e.
        wrong: what stands in the way.
    """

    def __init__(
        self, files: Sequence[File], known: Sequence[Mapping[str, Any]], extra: Iterable[str], home: Path
    ) -> None:
        self.files, self.known, self.extra, self.home = files, known, set(extra), home
        self.wrong: list[str] = []
        self.begun = {file: values for file in files if (values := file.read(_Values).get(ROTATED))}

    def has(self, name: str) -> bool:
        """Whether a host has a value of this variable."""
        return any(variables.get(name) for variables in self.known)

    def names(self, only: Sequence[str]) -> list[str]:
        """Those to replace."""
        blocks = {name: block for block in BLOCKS for name in (*block.made, *block.issued)}
        # Redis has one certificate at a time, so there is no while in which both of two sites' would count.
        valid = [name for block in BLOCKS if not block.of and not self.has(block.elsewhere) for name in block.made]
        for name in only:
            if name not in blocks:
                self.wrong.append(f"only: there is no secret {name}; there are {', '.join(valid)}")
            elif blocks[name].of:
                self.wrong.append(
                    f"only: {name} is that of the other site as well. To change it, take "
                    f"{' and '.join(blocks[name].made)} out, have make secrets write new ones, and run site.yml with "
                    "both inventories"
                )
            elif self.has(elsewhere := blocks[name].elsewhere):
                self.wrong.append(f"only: {name} is that of {elsewhere}; change it there (docs/changing.md)")
            elif name not in valid:
                self.wrong.append(f"only: {name} comes from {blocks[name].console}; change it there (docs/changing.md)")
        if self.begun:
            begun = list(next(iter(self.begun.values())))
            if more := [name for name in only if name in valid and name not in begun]:
                self.wrong.append(
                    f"only: {', '.join(more)} has to wait: a run that was interrupted has begun with "
                    f"{', '.join(begun)}. Run this without -e only, which finishes that"
                )
            return begun
        there = [name for name in valid if self.has(name)]
        for name in only:
            if name in valid and name not in there:
                self.wrong.append(f"only: {name} has no value yet; make secrets writes one")
        return [name for name in there if name in only or not only]

    def place(self, name: str, ours: str = "") -> Place | None:
        """Where a secret stands; ``ours`` is its name where ``name`` is another variable that it refers to."""
        ours = ours or name
        found = [(file, node) for file in self.files for key, node in file.entries() if key.value == name]
        if name in self.extra:
            self.wrong.append(f"{name}: was given with -e, which wins over every file; leave that out")
        elif not found:
            self.wrong.append(f"{name}: does not stand in {self.home}; move it there")
        elif len(found) > 1:
            places = " and ".join(f"{file.path}:{node.start_mark.line + 1}" for file, node in found)
            self.wrong.append(f"{name}: stands in {places}; leave one")
        else:
            (file, node) = found[0]
            value = file.value_of(node)
            if reference := re.fullmatch(r"\{\{\s*(\w+)\s*\}\}", value):
                return self.place(reference[1], ours)
            at = f"{file.path}:{node.start_mark.line + 1}"
            if "{{" in value or "{%" in value:
                self.wrong.append(f"{at}: {name}: is worked out by a template; change it where its value comes from")
            elif not self.begun and any(variables.get(ours) != value for variables in self.known):
                self.wrong.append(f"{at}: {name}: some hosts have another value from elsewhere; take that out")
            else:
                return Place(file, node, value)
        return None

    def plan(self, names: Sequence[str]) -> dict[str, Place]:
        """Where they stand, all in one file."""
        found = {name: place for name in names if (place := self.place(name))}
        homes: dict[Path, list[str]] = {}
        for name, place in found.items():
            homes.setdefault(place.file.path, []).append(name)
        if len(homes) > 1:
            each = "; ".join(f"{path}: -e only={','.join(held)}" for path, held in homes.items())
            self.wrong.append(f"the secrets stand in several files; rotate those of one at a time, {each}")
        for block in BLOCKS:
            if block.former and set(block.made) & set(names) and not self.begun and self._is_open(block):
                others = [name for name in names if name not in block.made]
                also = f" Or leave it out: -e only={','.join(others)}" if others else ""
                self.wrong.append(
                    f"{block.former}: what it holds is still accepted, so the console may not have the present values. "
                    f"Enter them there, take the variable out, and run this again.{also}"
                )
        return found

    def _is_open(self, block: Block) -> bool:
        """Whether a console may still have former secrets of this block."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        held = [variables.get(block.former) or {} for variables in self.known]
        return any(set(former) - {"until"} and str(former.get("until", ""))[:10] >= today for former in held)

    def edit(self, places: Mapping[str, Place]) -> tuple[str, dict[str, Any]]:
        """The text with new values, and what it says differently."""
        file = next(iter(places.values())).file
        before = file.read(_Values)
        new = {name: block.made[name]() for block in BLOCKS for name in block.made if name in places}
        keys = {name: file.key_of(place.node) for name, place in places.items()}
        in_place = {
            place.node.start_mark.index: file.scalar(new[name], keys[name], _quote(place.node))
            for name, place in places.items()
        }
        edited = File(file.path, file._vault)
        edited.text = file.replaced(in_place)
        given: dict[str, Any] = {**new}
        for block in BLOCKS:
            held = [name for name in block.made if block.former and name in places]
            # A platform that is not in use has no console.
            if held and self.has(block.issued[0]):
                short = {name: name.removeprefix(block.former.removesuffix("former")) for name in held}
                until = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=CONSOLE_DAYS)
                given[block.former] = {short[name]: places[name].value for name in held} | {"until": str(until)}
                lines = {short[name]: file.scalar(places[name].value, keys[name]) for name in held}
                edited.text = edited.without(block.former, ABOUT_FORMER)
                edited.text += _mapping(edited.text, ABOUT_FORMER, block.former, {**lines, "until": f'"{until}"'})
        former = {name: place.value for name, place in places.items()}
        lines = {name: file.scalar(value, keys[name]) for name, value in former.items()}
        edited.text += _mapping(edited.text, ABOUT_ROTATED, ROTATED, lines)
        # Under the names that the file has, where ours refer to those.
        names = {node.start_mark.index: key.value for key, node in file.entries()}
        stored = {names[places[name].node.start_mark.index]: value for name, value in new.items()}
        expected = before | {name: value for name, value in given.items() if name not in new} | stored
        if not edited.holds(expected | {ROTATED: former}):
            raise AnsibleActionFail(f"{file.path}: cannot be edited by program; write it as plain lines 'name: value'")
        if not os.access(file.path.parent, os.W_OK):
            raise AnsibleActionFail(f"{file.path.parent}: cannot be written to")
        return edited.text, given

    def finish(self) -> None:
        """The former values are dead."""
        for file in self.begun:
            file.replace(file.without(ROTATED, ABOUT_ROTATED))


def _quote(node: yaml.Node) -> str:
    """The quotes of a value."""
    style = getattr(node, "style", None)
    return style if style in ("'", '"') else ""


def _mapping(text: str, about: str, name: str, lines: Mapping[str, str]) -> str:
    """A variable of several values, to be put behind ``text``."""
    end = "" if text.endswith("\n") else "\n"
    return end + about + f"{name}:\n" + "".join(f"  {key}: {value}\n" for key, value in lines.items())


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Options and what is returned: see ``plugins/modules``."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the file."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _, options = self.validate_argument_spec(
            {
                "state": {"choices": ["present", "rotated", "proven"], "default": "present"},
                "only": {"type": "list", "elements": "str", "default": []},
                "path": {"type": "path"},
                "everything": {"type": "bool", "default": False},
                "extra": {"type": "list", "elements": "str", "default": []},
            }
        )
        path = Path(options["path"] or self._home(variables)).resolve()
        if options["state"] == "present":
            return result | self._complete(path, variables, options)
        return result | self._rotate(path, variables, options)

    def _complete(self, path: Path, variables: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """What is missing is made."""
        for read in map(Path, self._loader.find_vars_files(str(path.parent.parent), path.parent.name)):
            if read.parent != path.parent and path.parent not in read.parents:
                raise AnsibleActionFail(
                    f"Beside a folder {path.parent.name} Ansible reads no file of that name: move {read} to "
                    f"{path.parent}/main.yml first"
                )
        vault = self._loader._vault
        file = File(path, vault)
        key = file.key
        if not key and vault.secrets:
            identity = constants.config.get_config_value("DEFAULT_VAULT_ENCRYPT_IDENTITY")
            key = match_encrypt_secret(vault.secrets, identity)
        mine = file.read(_Names)

        known = {**variables, **mine}
        for host in variables.get("hostvars", {}):
            known.update(variables["hostvars"].raw_get(host))
        extra = Block("More.", {name: text(40) for name in options["extra"]})
        lines, made = added((*BLOCKS, extra), known, file.text, options["everything"])

        new = (file.text or HEADER) + ("\n" if file.text and not file.text.endswith("\n") else "") + lines
        is_right = path.exists() and path.stat().st_mode & 0o077 == 0 and bool(file.key) == bool(key)
        changed = new != file.text or not is_right
        if changed and not self._task.check_mode:
            file.write(new, key)
        issued = [
            f"{', '.join(missing)}: from {block.console}"
            for block in BLOCKS
            if (missing := [name for name in block.issued if name not in known])
        ]
        return {"changed": changed, "path": str(path), "made": made, "encrypted": bool(key), "issued": issued}

    def _rotate(self, home: Path, variables: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """New values, or the end of the old ones."""
        group = home.parent
        found = self._loader.find_vars_files(str(group.parent), group.name)
        paths = dict.fromkeys(Path(file).resolve() for file in found)
        files = [File(path, self._loader._vault) for path in paths]
        rotation = Rotation(files, self._known(variables), load_extra_vars(self._loader), home)
        names = rotation.names([name for name in options["only"] if name])
        if options["state"] == "proven":
            changed = bool(rotation.begun)
            if not self._task.check_mode:
                rotation.finish()
            return {"changed": changed, "rotated": names, "consoles": self._consoles(files, names), "path": str(home)}

        places = rotation.plan(names)
        if not names and not rotation.wrong:
            rotation.wrong.append(f"{home}: there is no secret to rotate; make secrets writes them")
        if rotation.wrong:
            lines = [f"{len(rotation.wrong)} thing(s) to mend; nothing was changed:"]
            raise AnsibleActionFail("\n".join([*lines, *(f"  - {line}" for line in rotation.wrong)]))
        file = next(iter(places.values())).file
        result = {
            "changed": not rotation.begun,
            "rotated": names,
            "finishes": bool(rotation.begun),
            "path": str(file.path),
        }
        if rotation.begun:
            held = file.read(_Values)
            given = {name: place.value for name, place in places.items()}
            given |= {block.former: held[block.former] for block in BLOCKS if block.former in held}
            former = held[ROTATED]
        else:
            former = {name: place.value for name, place in places.items()}
            edited, given = rotation.edit(places)
        # A dry run finds all that may be wrong, and is not hidden.
        if self._task.check_mode:
            return result
        if not rotation.begun:
            file.replace(edited)
        return result | {"given": given, "former": former}

    def _known(self, variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Of each host what it has of these secrets."""
        names = {name for block in BLOCKS for name in (*block.made, *block.issued[:1], block.former, block.elsewhere)}
        found = []
        for host in variables["groups"]["all"]:
            raw = variables["hostvars"].raw_get(host)
            templar = Templar(loader=self._loader, variables={**raw, "hostvars": variables["hostvars"]})
            found.append({name: templar.template(raw[name]) for name in names if name in raw})
        return found

    @staticmethod
    def _consoles(files: Sequence[File], names: Sequence[str]) -> list[str]:
        """What people have to enter."""
        held: dict[str, Any] = {}
        for file in files:
            held |= file.read(_Values)
        return [
            f"{', '.join(entered)}: in {block.console}, until {held[block.former]['until']}"
            for block in BLOCKS
            if block.former in held and (entered := [name for name in block.made if name in names])
        ]

    @staticmethod
    def _home(variables: Mapping[str, Any]) -> Path:
        """Where the preflight says that secrets belong."""
        root = Path(variables["ansible_inventory_sources"][0])
        if not root.exists():
            raise AnsibleActionFail(f"{root}: there is no such file or folder; name your inventory")
        return (root if root.is_dir() else root.parent) / "group_vars" / "all" / "secrets.yml"
