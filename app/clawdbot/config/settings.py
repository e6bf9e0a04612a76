"""What a configuration consists of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clawdbot.config.reader import Problem
from clawdbot.languages import Language
from clawdbot.models.presets import Preset

if TYPE_CHECKING:
    from clawdbot.config.voices import BotFile


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Who may talk to the bot; an empty tuple lets everybody in."""

    users: tuple[str, ...] = ()
    conversations: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Secret:
    """A value to try. ``former`` is the name of the setting that it once stood in, empty if it still does."""

    value: str = dataclasses.field(repr=False)
    former: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Former:
    """Secrets that were replaced here and may not have been where the other side keeps them.

    Attributes:
        values: by the name of the setting that each once stood in.
        until: when they end, Unix time in seconds.
    """

    values: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    until: float = 0.0


class Replaceable:
    """A part of the configuration whose secrets may have former ones."""

    __slots__ = ()
    former: Former

    def accepted(self, name: str, now_ms: int) -> tuple[Secret, ...]:
        """Return the secret ``name``, and the former one as long as it counts.

        Args:
            name: a setting.
            now_ms: Unix time in milliseconds.
        """
        present = Secret(getattr(self, name))
        if name not in self.former.values or now_ms >= self.former.until * 1000:
            return (present,)
        return (present, Secret(self.former.values[name], former=name))


@dataclasses.dataclass(frozen=True, slots=True)
class DingTalkConfig(Replaceable):
    """``dingtalk.yaml``.

    ``robot_secret`` is the SEC... secret of a group robot that `push` signs with. ``card_calls`` is how many calls an
    answer on a card may cost, 0 for no cards; ``monthly_calls`` how many the organisation has in a month, 0 if unknown.
    ``intake`` is how messages come: ``http`` as callbacks, ``stream`` over a connection that the receiver opens.
    """

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
    former: Former = Former()
    card_calls: int = 0
    card_template: str = ""
    monthly_calls: int = 0
    intake: str = "http"


@dataclasses.dataclass(frozen=True, slots=True)
class FeishuConfig(Replaceable):
    """``feishu.js``. An empty ``encryption_key`` means that none is set in Feishu's console.

    ``cards`` lets answers grow; ``monthly_calls`` is how many calls the organisation has in a month, 0 if unknown.
    ``intake`` is how messages come: ``http`` as callbacks, ``connection`` over one that the receiver opens.
    """

    app_id: str
    app_secret: str = dataclasses.field(repr=False)
    encryption_key: str = dataclasses.field(repr=False)
    verification_token: str = dataclasses.field(repr=False)
    webhook_url: str
    api_base_url: str
    access: Access
    former: Former = Former()
    cards: bool = True
    monthly_calls: int = 0
    intake: str = "http"


@dataclasses.dataclass(frozen=True, slots=True)
class AlertsConfig(Replaceable):
    """Where alerts come from and go to. An empty ``token`` switches the receiver off, an empty chat its platform."""

    token: str = dataclasses.field(repr=False)
    feishu_chat: str
    former: Former = Former()


@dataclasses.dataclass(frozen=True, slots=True)
class RedisConfig:
    """``cache.yaml`` and the password. ``enabled`` and ``ttl`` (seconds) concern the cache, not the queue.

    Attributes:
        servers: addresses of several servers that stand in for each other; then ``host`` and ``port`` say nothing.
        sentinels: addresses of the Sentinels that know which of them is the primary.
        primary: the name by which they know it.
        tls: whether to encrypt; ``tls_ca`` is a file of the authorities to trust, empty for the system's.
        tls_certificate: file of a certificate that both sides have, and that is all that is trusted; then names of
            hosts say nothing. ``tls_key`` is the file of its key.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 6379
    db: int = 0
    ttl: int = 3600
    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    servers: tuple[tuple[str, int], ...] = ()
    sentinels: tuple[tuple[str, int], ...] = ()
    primary: str = "clawdbot"
    tls: bool = False
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return ", ".join(f"{host}:{port}" for host, port in self.servers or [(self.host, self.port)])


@dataclasses.dataclass(frozen=True, slots=True)
class SiteConfig:
    """The second site of an installation: name of this one, of the other one, and where the other one's Redis is."""

    name: str
    other: str
    redis: RedisConfig


@dataclasses.dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model service answers, and what it is told.

    Attributes:
        name: name of the preset.
        preset: what is known about it.
        api_key: the key.
        api_secret: its second half, for the services that have one.
        base_url: empty for ``echo``.
        model: name of the model.
        vision: whether the model reads pictures.
        expires_at: when the key ends, Unix time in seconds, None if nobody said.
        system_prompt: instruction to the model; see `clawdbot.models.prompt`.
        temperature: None leaves it to the service.
        max_tokens: greatest length of an answer, which the service keeps; 0 leaves it to the service.
        answer_characters: what is longer is cut by the bot.
        extra_fields: more fields of the request; null takes one away.
        stream: whether the answer is asked for piece by piece.
        show_reasoning: whether users may see how the model came to its answer.
        first_token_seconds: how long a streaming service may be silent before the answer begins.
        idle_seconds: how long it may be silent afterwards.
        total_seconds: how long an answer may take.
    """

    name: str
    preset: Preset
    api_key: str = dataclasses.field(default="", repr=False)
    api_secret: str = dataclasses.field(default="", repr=False)
    base_url: str = ""
    model: str = ""
    vision: bool = False
    expires_at: float | None = None
    system_prompt: str = ""
    temperature: float | None = None
    max_tokens: int = 0
    answer_characters: int = 20_000
    extra_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stream: bool = True
    show_reasoning: bool = False
    first_token_seconds: float = 200
    idle_seconds: float = 15
    total_seconds: float = 300


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. A platform or model that cannot work is None.

    ``site`` is None where there is no second one. Of several languages the first is the installation's own, or the
    chat's; see `clawdbot.languages.preferred`.
    """

    config_dir: Path
    log_dir: Path
    log_socket: str
    port: int
    web_workers: int
    web_threads: int
    worker_concurrency: int
    lease_seconds: float
    give_up_seconds: float
    user_messages_per_minute: int
    spool_dir: str
    spool_megabytes: int
    spool_seconds: float
    forwarded_allow_ips: str
    metrics_allow_ips: str
    redis: RedisConfig
    site: SiteConfig | None
    dingtalk: DingTalkConfig | None
    feishu: FeishuConfig | None
    model: ModelConfig | None
    alerts: AlertsConfig
    bot: BotFile
    languages: tuple[Language, ...]
    chat_languages: Mapping[str, tuple[Language, ...]]
    problems: tuple[Problem, ...]

    def former(self) -> dict[str, Former]:
        """Return the secrets that were replaced, by the part of the configuration that has some."""
        parts = {"dingtalk": self.dingtalk, "feishu": self.feishu, "alerts": self.alerts}
        return {name: part.former for name, part in parts.items() if part and part.former.values}

    def connected(self) -> list[str]:
        """Return the platforms whose events come over connections that the receiver opens."""
        parts = {"dingtalk": self.dingtalk, "feishu": self.feishu}
        return [name for name, part in parts.items() if part and part.intake != "http"]

    def languages_of(self, conversation: str) -> tuple[Language, ...]:
        """Return the languages that the bot speaks in a conversation of the platform's id, at least one."""
        return self.chat_languages.get(conversation, self.languages)

    def secrets(self) -> frozenset[str]:
        """Return every secret value, so that the log can refuse to print one."""
        found = [self.redis.password, self.alerts.token]
        if self.dingtalk:
            ding = self.dingtalk
            found += [ding.app_secret, ding.aes_key, ding.token, ding.access_token, ding.robot_secret]
        if self.feishu:
            found += [self.feishu.app_secret, self.feishu.encryption_key, self.feishu.verification_token]
        if self.model:
            found += [self.model.api_key, self.model.api_secret]
        found += self.bot.secrets()
        found += [value for former in self.former().values() for value in former.values.values()]
        return frozenset(value for value in found if value)
