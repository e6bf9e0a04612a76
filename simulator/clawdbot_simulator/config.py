"""The simulator's configuration: the credentials it shares with the bot, in one JSON file."""

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """The configuration cannot be used; the text lists every problem with its file and key."""


@dataclass(frozen=True)
class DingTalkApp:
    """Credentials of the DingTalk app, named as in the bot's ``dingtalk.yaml``."""

    app_key: str
    app_secret: str
    aes_key: str  # 43 characters: base64 of 32 bytes without its "="
    token: str
    access_token: str = ""  # of the group robot behind /robot/send; empty: no such robot
    robot_secret: str = ""  # the group robot's SEC...; empty: it does not check a signature


@dataclass(frozen=True)
class FeishuApp:
    """Credentials of the Feishu app, named as in the bot's ``feishu.js``."""

    app_id: str
    app_secret: str
    encryption_key: str
    verification_token: str


@dataclass(frozen=True)
class ModelService:
    """Credentials of the OpenAI-compatible model."""

    api_key: str = ""  # empty: any key, as local models have it


@dataclass(frozen=True)
class Config:
    """Everything the simulator knows.

    ``public_url`` is the address under which the bot reaches the simulator; session webhooks and
    downloads point to it. ``control_token`` opens ``/_sim/``.
    """

    public_url: str
    control_token: str
    dingtalk: DingTalkApp
    feishu: FeishuApp
    model: ModelService

    @classmethod
    def random(cls, public_url: str) -> "Config":
        """A configuration with fresh secrets."""
        return cls(
            public_url=public_url,
            control_token=secrets.token_urlsafe(24),
            dingtalk=DingTalkApp(
                app_key="ding" + secrets.token_hex(8),
                app_secret=secrets.token_urlsafe(32),
                aes_key=base64.b64encode(secrets.token_bytes(32)).decode().rstrip("="),
                token=secrets.token_hex(8),
                access_token=secrets.token_hex(32),
                robot_secret="SEC" + secrets.token_hex(32),
            ),
            feishu=FeishuApp(
                app_id="cli_" + secrets.token_hex(8),
                app_secret=secrets.token_hex(16),
                encryption_key=secrets.token_hex(16),
                verification_token=secrets.token_hex(16),
            ),
            model=ModelService(api_key="sk-" + secrets.token_hex(16)),
        )

    def to_json(self) -> str:
        """The text of a configuration file."""
        return json.dumps(asdict(self), indent=2)


SECTIONS = {"dingtalk": DingTalkApp, "feishu": FeishuApp, "model": ModelService}


def load_config(path: Path) -> Config:
    """Read and check the JSON file; raises ConfigError with all problems at once."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `clawdbot_simulator new-config` prints a fresh one") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a JSON object")

    problems: list[str] = []

    def section(kind: type, values: object, prefix: str) -> dict[str, str]:
        if not isinstance(values, Mapping):
            problems.append(f"{prefix.rstrip('.')}: must be an object")
            return {}
        known = {field.name: field for field in fields(kind) if field.name not in SECTIONS}
        for name in sorted(set(values) - set(known) - (set(SECTIONS) if kind is Config else set())):
            problems.append(f"{prefix}{name}: unknown key; remove it")
        for name, field in known.items():
            required = field.default is MISSING
            value = values.get(name, "")
            if not isinstance(value, str) or (required and not value):
                problems.append(f"{prefix}{name}: must be a non-empty string")
        return {name: values[name] for name in known if name in values}

    top = section(Config, raw, "")
    parts: dict[str, Any] = {name: section(kind, raw.get(name), f"{name}.") for name, kind in SECTIONS.items()}
    aes_key = parts["dingtalk"].get("aes_key")
    if isinstance(aes_key, str) and aes_key and len(aes_key) != 43:
        problems.append(f"dingtalk.aes_key: must have 43 characters, has {len(aes_key)}")
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    return Config(
        public_url=top["public_url"].rstrip("/"),
        control_token=top["control_token"],
        **{name: kind(**parts[name]) for name, kind in SECTIONS.items()},
    )
