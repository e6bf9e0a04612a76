"""Action ``site_secrets``: writes the secrets that nobody else has to issue, and says where the others come from.

It is the one list of the installation's secrets. A variable that the inventory sets anywhere keeps its value; what is
missing is added to the end of the file, whose other lines stay as they are. Values are never returned.
"""

from __future__ import annotations

import base64
import datetime
import functools
import os
import secrets
import string
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.parsing.vault import is_encrypted, match_encrypt_secret
from ansible.plugins.action import ActionBase
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

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
    """

    about: str
    made: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    issued: tuple[str, ...] = ()
    console: str = ""
    of: str = ""


BLOCKS = (
    Block("Between the bot and Redis.", {"site_redis_password": text(48)}),
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


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible is not typed
    """Options and what is returned: see ``plugins/modules``."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the file."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _, options = self.validate_argument_spec(
            {
                "path": {"type": "path"},
                "everything": {"type": "bool", "default": False},
                "extra": {"type": "list", "elements": "str", "default": []},
            }
        )
        path = Path(options["path"] or self._home(variables)).resolve()
        for file in map(Path, self._loader.find_vars_files(str(path.parent.parent), path.parent.name)):
            if file.parent != path.parent and path.parent not in file.parents:
                raise AnsibleActionFail(
                    f"Beside a folder {path.parent.name} Ansible reads no file of that name: move {file} to "
                    f"{path.parent}/main.yml first"
                )
        vault = self._loader._vault
        before = path.read_bytes() if path.exists() else b""
        label, password = None, None
        if is_encrypted(before):
            before, label, password = vault.decrypt_and_get_vault_id(before)
        elif vault.secrets:
            identity = constants.config.get_config_value("DEFAULT_VAULT_ENCRYPT_IDENTITY")
            label, password = match_encrypt_secret(vault.secrets, identity)
        old = before.decode()
        try:
            mine = yaml.load(old, Loader=_Names) or {}  # noqa: S506  # a SafeLoader that knows !vault
        except yaml.YAMLError as error:
            # Not its text, which would show a secret.
            mark = getattr(error, "problem_mark", None)
            raise AnsibleActionFail(f"{path}:{mark.line + 1 if mark else 1}: is not YAML; mend it first") from None
        if not isinstance(mine, dict):
            raise AnsibleActionFail(f"{path}: does not hold variables; mend it first")

        known = {**variables, **mine}
        for host in variables.get("hostvars", {}):
            known.update(variables["hostvars"].raw_get(host))
        extra = Block("More.", {name: text(40) for name in options["extra"]})
        lines, made = added((*BLOCKS, extra), known, old, options["everything"])

        new = (old or HEADER) + ("\n" if old and not old.endswith("\n") else "") + lines
        is_right = (
            path.exists() and path.stat().st_mode & 0o077 == 0 and is_encrypted(path.read_bytes()) == bool(password)
        )
        if new != old or not is_right:
            result["changed"] = True
            if not self._task.check_mode:
                _write(path, vault.encrypt(new, password, vault_id=label) if password else new.encode())
        result.update(path=str(path), made=made, encrypted=bool(password))
        result["issued"] = [
            f"{', '.join(missing)}: from {block.console}"
            for block in BLOCKS
            if (missing := [name for name in block.issued if name not in known])
        ]
        return result

    @staticmethod
    def _home(variables: Mapping[str, Any]) -> Path:
        """Where the preflight says that secrets belong."""
        root = Path(variables["ansible_inventory_sources"][0])
        if not root.exists():
            raise AnsibleActionFail(f"{root}: there is no such file or folder; name your inventory")
        return (root if root.is_dir() else root.parent) / "group_vars" / "all" / "secrets.yml"


class _Names(yaml.SafeLoader):
    """Reads a file of variables for their names; a single value in a vault is a value like any other."""


_Names.add_multi_constructor("!", lambda loader, suffix, node: "")  # noqa: ARG005  # PyYAML's interface


def _write(path: Path, content: bytes) -> None:
    """Replaces the file at once; nobody but its owner can read it at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".secrets.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
