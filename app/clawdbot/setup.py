"""First set-up: missing configuration files with fresh secrets and safe modes. What is there is kept."""

from __future__ import annotations

import base64
import os
import re
import secrets
import string
from collections.abc import Mapping
from pathlib import Path

from clawdbot.config import rules
from clawdbot.errors import ConfigError
from clawdbot.models.presets import presets

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = "clawdbot.env"
FILES = ("dingtalk.yaml", "feishu.js", "cache.yaml", ENVIRONMENT)
ALPHABET = string.ascii_letters + string.digits


def random_text(length: int) -> str:
    """Return ``length`` random letters and digits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def generated() -> Mapping[str, str]:
    """Return fresh secrets for the placeholders that are ours to choose; the platforms give the others."""
    return {
        "generated or given": base64.b64encode(secrets.token_bytes(32)).decode().rstrip("="),
        "your own verification token": random_text(32),
        "32 random characters": random_text(32),
    }


def create(folder: Path, values: Mapping[str, str]) -> list[str]:
    """Create what is missing in ``folder`` and set ``values`` in its environment file.

    Args:
        folder: the configuration folder.
        values: variables to set; an empty value leaves what is there.

    Returns:
        One line for each thing that was done.

    Raises:
        ConfigError: a value cannot be written, or the folder cannot.
    """
    model = values.get("MODEL_TYPE", "")
    if model and model not in presets():
        raise ConfigError(f"--model-type {model}: no such preset; choose one of {', '.join(presets())}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        done = [_create_file(folder / name) for name in FILES if not (folder / name).exists()]
        return done + _set(folder / ENVIRONMENT, values)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: {error.strerror}; run this as the owner of {folder}") from None


def _create_file(path: Path) -> str:
    text = (EXAMPLES / f"{path.name}.example").read_text("utf-8")
    for placeholder, value in generated().items():
        text = text.replace(f'"{placeholder}"', f'"{value}"').replace(f"'{placeholder}'", f"'{value}'")
    text = text.replace("/opt/clawdbot/config", str(path.parent))
    text = text.replace("/opt/clawdbot/logs", str(path.parent.parent / "logs"))
    _write(path, text)
    return f"created {path}"


def _write(path: Path, text: str) -> None:
    """Replace ``path`` at once, for its present owner; readable by nobody else."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            if path.exists():
                found = path.stat()
                os.fchown(file.fileno(), found.st_uid, found.st_gid)
                os.fchmod(file.fileno(), found.st_mode & 0o777)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _quoted(value: str) -> str:
    """Return ``value`` as systemd and every shell read it alike."""
    return "'" + value.replace("'", "'\"'\"'") + "'"


def _set(path: Path, values: Mapping[str, str]) -> list[str]:
    """Set variables in an environment file, keeping all other lines."""
    before = path.read_text("utf-8")
    text = before
    for name, value in values.items():
        if not value:
            continue
        if name in {"MODEL_API_KEY", "MODEL_API_SECRET"} and not rules.KEY.fullmatch(value):
            raise ConfigError(f"{name} {rules.NO_KEY}")
        line = f"{name}={_quoted(value)}"
        # A quoted value may have several lines.
        old = rf"(?m)^{name}=(?:'[^']*'|\"[^\"]*\"|[^\n'\"])*$"
        text, found = re.subn(old, line.replace("\\", r"\\"), text)
        if not found:
            text = f"{text.rstrip()}\n{line}\n"
    if text == before:
        return []
    _write(path, text)
    return [f"set {', '.join(name for name in values if values[name])} in {path}"]
