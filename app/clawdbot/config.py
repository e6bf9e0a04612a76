"""Configuration: three files and the environment, read once at start.

Files in ``CLAWDBOT_CONFIG_DIR``: ``dingtalk.yaml``, ``feishu.js`` (a Node.js module, read through Node and
never evaluated here) and ``cache.yaml``. Everything wrong is collected as a `Problem` that names place, key and
cure; a platform with a problem is switched off, the other one goes on.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from clawdbot.errors import ConfigError
from clawdbot.models.presets import Preset, presets

PLACEHOLDER = re.compile(
    r"^(your[_ ].*|generated or given|32 random characters|32位.*|自.*|change[_ -]?me.*|<.*>|x{3,}|todo)$",
    re.IGNORECASE,
)
AES_KEY_LENGTH = 43
PLATFORM_FILES = ("dingtalk.yaml", "feishu.js")
NODE_TIMEOUT_SECONDS = 20
# Node without just-in-time compilation, so that it also runs under systemd's MemoryDenyWriteExecute.
NODE_READ = ("node", "--jitless", "-e", "process.stdout.write(JSON.stringify(require(process.argv[1])))")


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, which key, and how to mend it."""

    place: str
    key: str
    cure: str
    fatal: bool = True

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.place}: {self.key}: {self.cure}"


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Who may talk to the bot; an empty tuple lets everybody in."""

    users: tuple[str, ...] = ()
    conversations: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class DingTalkConfig:
    """``dingtalk.yaml``. ``robot_secret`` is the SEC... secret of a group robot that `push` signs with."""

    app_key: str
    app_secret: str = dataclasses.field(repr=False)
    aes_key: str = dataclasses.field(repr=False)
    token: str = dataclasses.field(repr=False)
    webhook_url: str = dataclasses.field(repr=False)
    api_base_url: str
    oapi_base_url: str
    robot_code: str
    access_token: str = dataclasses.field(repr=False)
    robot_secret: str = dataclasses.field(repr=False)
    access: Access


@dataclasses.dataclass(frozen=True, slots=True)
class FeishuConfig:
    """``feishu.js``. An empty ``encryption_key`` means that none is set in Feishu's console."""

    app_id: str
    app_secret: str = dataclasses.field(repr=False)
    encryption_key: str = dataclasses.field(repr=False)
    verification_token: str = dataclasses.field(repr=False)
    webhook_url: str
    api_base_url: str
    access: Access


@dataclasses.dataclass(frozen=True, slots=True)
class RedisConfig:
    """``cache.yaml`` and the password. ``enabled`` and ``ttl`` (seconds) concern the cache, not the queue."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 6379
    db: int = 0
    ttl: int = 3600
    password: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model service answers. ``expires_at`` is Unix time in seconds, None if nobody said."""

    name: str
    preset: Preset
    api_key: str = dataclasses.field(default="", repr=False)
    api_secret: str = dataclasses.field(default="", repr=False)
    base_url: str = ""
    model: str = ""
    vision: bool = False
    expires_at: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. A platform or model that cannot work is None."""

    config_dir: Path
    log_dir: Path
    log_socket: str
    port: int
    web_workers: int
    web_threads: int
    worker_concurrency: int
    lease_seconds: float
    user_messages_per_minute: int
    forwarded_allow_ips: str
    redis: RedisConfig
    dingtalk: DingTalkConfig | None
    feishu: FeishuConfig | None
    model: ModelConfig | None
    problems: tuple[Problem, ...]

    def secrets(self) -> frozenset[str]:
        """Return every secret value, so that the log can refuse to print one."""
        found = [self.redis.password]
        if self.dingtalk:
            ding = self.dingtalk
            found += [ding.app_secret, ding.aes_key, ding.token, ding.access_token, ding.robot_secret]
        if self.feishu:
            found += [self.feishu.app_secret, self.feishu.encryption_key, self.feishu.verification_token]
        if self.model:
            found += [self.model.api_key, self.model.api_secret]
        return frozenset(value for value in found if value)


class _Reader:
    """Takes keys out of one source and remembers what is wrong with them."""

    def __init__(self, place: str, values: Mapping[str, Any]) -> None:
        self.place = place
        self.values = dict(values)
        self.problems: list[Problem] = []

    def problem(self, key: str, cure: str, *, fatal: bool = True) -> None:
        self.problems.append(Problem(self.place, key, cure, fatal))

    def text(self, key: str, cure: str, *, default: str | None = None) -> str:
        value = self.values.pop(key, None)
        if value is None or value == "":
            if default is None:
                self.problem(key, f"is missing; {cure}")
            return default or ""
        if not isinstance(value, str):
            self.problem(key, f"must be a text in quotes, not {type(value).__name__}; {cure}")
            return ""
        if PLACEHOLDER.match(value):
            self.problem(key, f"still holds the placeholder; {cure}")
        return value

    def url(self, key: str, *, default: str) -> str:
        value = self.text(key, f"give a URL such as {default}", default=default)
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            self.problem(key, f"is no http(s) URL; give one such as {default}")
        return value.rstrip("/")

    def number(self, key: str, default: int, low: int, high: int) -> int:
        value = self.values.pop(key, default)
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.problem(key, f"must be a whole number from {low} to {high}, for example {default}")
            return default
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.pop(key, default)
        if not isinstance(value, bool):
            self.problem(key, "must be true or false")
            return default
        return value

    def names(self, key: str) -> tuple[str, ...]:
        value = self.values.pop(key, None) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problem(key, "must be a list of ids in quotes; leave it out to let everybody in")
            return ()
        return tuple(value)

    def access(self) -> Access:
        return Access(self.names("allow_users"), self.names("allow_conversations"))

    def rest(self) -> None:
        for key in self.values:
            self.problem(key, "is not a known key; correct the spelling or remove it", fatal=False)

    @property
    def broken(self) -> bool:
        return any(problem.fatal for problem in self.problems)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}); create it, or give its owner read access") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        # The parser's own message quotes the line, and the line may hold a secret.
        raise ConfigError("is not valid YAML; check quotes and indentation") from None
    if not isinstance(data, dict):
        raise ConfigError('must consist of `key: "value"` lines')
    return {str(key): value for key, value in data.items()}


def _read_js(path: Path) -> Mapping[str, Any]:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}); create it, or give its owner read access") from None
    environment = {"PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")}
    try:
        done = subprocess.run(  # noqa: S603  # a fixed program; the path is an argument, not code
            [*NODE_READ, str(path.resolve())],
            capture_output=True,
            timeout=NODE_TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=True,
        )
        data = json.loads(done.stdout)
    except FileNotFoundError:
        raise ConfigError("needs Node.js to be read; install the package nodejs") from None
    except subprocess.TimeoutExpired:
        raise ConfigError("does not end when Node.js loads it; leave only module.exports = {...}") from None
    except (subprocess.CalledProcessError, ValueError):
        raise ConfigError(f"is not a valid Node.js module; try: node -e 'require(\"{path}\")'") from None
    if not isinstance(data, dict):
        raise ConfigError("must export an object: module.exports = { key: 'value' }")
    return data


def _load_file(
    path: Path, read: Callable[[Path], Mapping[str, Any]], problems: list[Problem], *, optional: bool = False
) -> _Reader | None:
    if optional and not path.exists():
        problems.append(Problem(str(path), "file", "is not there, so this platform is off", fatal=False))
        return None
    try:
        return _Reader(str(path), read(path))
    except ConfigError as error:
        problems.append(Problem(str(path), "file", str(error)))
        return None


def _dingtalk(reader: _Reader) -> DingTalkConfig:
    console = "copy it from the DingTalk developer console"
    app_key = reader.text("app_key", f"{console}, Credentials: Client ID")
    config = DingTalkConfig(
        app_key=app_key,
        app_secret=reader.text("app_secret", f"{console}, Credentials: Client Secret"),
        aes_key=reader.text("aes_key", f"{console}, Event subscription; ./init_env.sh generates one"),
        token=reader.text("token", f"{console}, Event subscription; ./init_env.sh generates one"),
        webhook_url=reader.url("webhook_url", default="https://oapi.dingtalk.com/robot/send"),
        api_base_url=reader.url("api_base_url", default="https://api.dingtalk.com"),
        oapi_base_url=reader.url("oapi_base_url", default="https://oapi.dingtalk.com"),
        robot_code=reader.text("robot_code", "leave it out to use app_key", default=app_key),
        access_token=reader.text("access_token", "copy it from the group robot's URL", default=""),
        robot_secret=reader.text("robot_secret", "copy the group robot's SEC... secret", default=""),
        access=reader.access(),
    )
    try:
        valid = len(config.aes_key) == AES_KEY_LENGTH and base64.b64decode(config.aes_key + "=", validate=True)
    except (binascii.Error, ValueError):
        valid = b""
    if config.aes_key and not valid:
        reader.problem("aes_key", f"must be exactly {AES_KEY_LENGTH} letters and digits; ./init_env.sh generates one")
    return config


def _feishu(reader: _Reader) -> FeishuConfig:
    console = "copy it from the Feishu developer console"
    webhook_url = reader.url("webhook_url", default="https://open.feishu.cn/open-apis/im/v1/messages")
    encryption_key = reader.text("encryption_key", f"{console}, Events & Callbacks: Encrypt Key", default="")
    if not encryption_key:
        cure = "is empty, so callbacks carry no signature; set an Encrypt Key in the console and here"
        reader.problem("encryption_key", cure, fatal=False)
    return FeishuConfig(
        app_id=reader.text("app_id", f"{console}, Credentials: App ID"),
        app_secret=reader.text("app_secret", f"{console}, Credentials: App Secret"),
        encryption_key=encryption_key,
        verification_token=reader.text("verification_token", f"{console}, Events & Callbacks: Verification Token"),
        webhook_url=webhook_url,
        api_base_url=reader.url("api_base_url", default=_origin(webhook_url)),
        access=reader.access(),
    )


def _redis(reader: _Reader, password: str) -> RedisConfig:
    return RedisConfig(
        enabled=reader.flag("enabled", default=True),
        host=reader.text("host", "give the address of Redis", default="127.0.0.1"),
        port=reader.number("port", 6379, 1, 65535),
        db=reader.number("db", 0, 0, 1_000_000),
        ttl=reader.number("ttl", 3600, 1, 30 * 86400),
        password=password,
    )


def _expiry(reader: _Reader, api_key: str) -> float | None:
    """Unix time at which the key ends: its own ``exp`` if it is a JWT, else what the operator declared."""
    declared = reader.text("MODEL_API_KEY_EXPIRES_AT", "write a date such as 2027-01-31", default="")
    with_payload = api_key.split(".")
    if len(with_payload) == 3:  # a JWT has three parts
        try:
            payload = json.loads(base64.urlsafe_b64decode(with_payload[1] + "=="))
            return float(payload["exp"])
        except (ValueError, KeyError, TypeError):
            pass
    if not declared:
        return None
    try:
        moment = datetime.datetime.fromisoformat(declared)
    except ValueError:
        reader.problem("MODEL_API_KEY_EXPIRES_AT", "is no ISO 8601 date; write one such as 2027-01-31")
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _model(reader: _Reader) -> ModelConfig | None:
    name = reader.text("MODEL_TYPE", "choose a preset", default="echo")
    table = presets()
    api_key = reader.text("MODEL_API_KEY", "create a key in the model service's console", default="")
    api_secret = reader.text("MODEL_API_SECRET", "leave it empty if the service has none", default="")
    expires_at = _expiry(reader, api_key)
    if name not in table:
        reader.problem("MODEL_TYPE", f"{name!r} is not a preset; choose one of {', '.join(table)}")
        return None
    preset = table[name]
    if preset.auth != "none" and not api_key:
        reader.problem("MODEL_API_KEY", f"is missing; model type {name} needs the key of its service")
    if api_secret and preset.auth in {"none", "bearer"}:
        reader.problem("MODEL_API_SECRET", f"is not used by model type {name}; it can be emptied", fatal=False)
    base_url = preset.base_url
    if base_url:
        base_url = reader.url("MODEL_BASE_URL", default=base_url)
    model = reader.text("MODEL_NAME", "give the model's name", default=preset.model)
    vision = reader.text("MODEL_VISION", "write true or false", default=str(preset.vision).lower())
    if vision not in {"true", "false"}:
        reader.problem("MODEL_VISION", "must be true or false, or empty for what the preset says")
    return ModelConfig(name, preset, api_key, api_secret, base_url, model, vision == "true", expires_at)


def load(environ: Mapping[str, str]) -> Settings:
    """Read the configuration that ``environ`` points to. Never raises: see `Settings.problems`."""
    problems: list[Problem] = []
    env = _Reader("environment (clawdbot.env)", environ)
    config_dir = Path(env.text("CLAWDBOT_CONFIG_DIR", "give a directory", default="/opt/clawdbot/config"))

    # One platform is enough; a bot without any has nobody to talk to.
    dingtalk_path, feishu_path = config_dir / "dingtalk.yaml", config_dir / "feishu.js"
    dingtalk_file = _load_file(dingtalk_path, _read_yaml, problems, optional=feishu_path.exists())
    feishu_file = _load_file(feishu_path, _read_js, problems, optional=dingtalk_path.exists())
    cache_file = _load_file(config_dir / "cache.yaml", _read_yaml, problems) or _Reader("cache.yaml", {})

    dingtalk = _dingtalk(dingtalk_file) if dingtalk_file else None
    feishu = _feishu(feishu_file) if feishu_file else None
    password = env.text("CLAWDBOT_REDIS_PASSWORD", "give the password of Redis", default="")
    redis = _redis(cache_file, password)
    for reader in (dingtalk_file, feishu_file, cache_file):
        if reader:
            reader.rest()
            problems += reader.problems

    model_env = _Reader(env.place, environ)
    model = _model(model_env)
    settings = Settings(
        config_dir=config_dir,
        log_dir=Path(env.text("CLAWDBOT_LOG_DIR", "give a directory", default="/opt/clawdbot/logs")),
        log_socket=env.text("CLAWDBOT_LOG_SOCKET", "give the socket's path", default=""),
        port=env.number("CLAWDBOT_PORT", 18789, 1, 65535),
        web_workers=env.number("CLAWDBOT_WEB_WORKERS", 3, 1, 64),
        web_threads=env.number("CLAWDBOT_WEB_THREADS", 8, 1, 256),
        worker_concurrency=env.number("CLAWDBOT_WORKER_CONCURRENCY", 16, 1, 256),
        lease_seconds=env.number("CLAWDBOT_LEASE_SECONDS", 30, 1, 3600),
        user_messages_per_minute=env.number("CLAWDBOT_USER_MESSAGES_PER_MINUTE", 60, 1, 100_000),
        forwarded_allow_ips=env.text("CLAWDBOT_FORWARDED_ALLOW_IPS", "give addresses", default="127.0.0.1,::1"),
        redis=redis,
        dingtalk=None if dingtalk_file is None or dingtalk_file.broken else dingtalk,
        feishu=None if feishu_file is None or feishu_file.broken else feishu,
        model=None if model_env.broken else model,
        problems=(),
    )
    problems += env.problems + model_env.problems
    return dataclasses.replace(settings, problems=tuple(problems))
