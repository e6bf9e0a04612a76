"""What each part of the configuration has to look like."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clawdbot import languages
from clawdbot.config.reader import Reader
from clawdbot.config.settings import (
    Access,
    AlertsConfig,
    DingTalkConfig,
    FeishuConfig,
    Former,
    ModelConfig,
    RedisConfig,
    SiteConfig,
)
from clawdbot.languages import Language
from clawdbot.models import prompt
from clawdbot.models.presets import presets

AES_KEY_LENGTH = 43
# What goes into a header and is no quotation mark, which is copied by mistake.
KEY = re.compile(r"[!#-&(-\[\]-~]*")
NO_KEY = "has a character that no key has, such as a space, a quotation mark or one beyond ASCII; copy it again"
# The template for AI cards that DingTalk gives to everybody; many public clients use it.
CARD_TEMPLATE = "382e4302-551d-4880-bf29-a30acfab2e71.schema"
# One to show the card, one for what grows, one to finish it.
FEWEST_CARD_CALLS = 3
MOST_CALLS = 100_000_000
# Fields of a request to the model that have a setting of their own.
RESERVED_FIELDS = {"model": "MODEL_NAME", "messages": "MODEL_SYSTEM_PROMPT", "stream": "MODEL_STREAM"}


def dingtalk(reader: Reader) -> DingTalkConfig:
    """``dingtalk.yaml``."""
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
        access=_access(reader),
        card_calls=reader.number("card_calls", 0, 0, 100),
        card_template=reader.text("card_template", "leave it out to use DingTalk's own", default=CARD_TEMPLATE),
        monthly_calls=reader.number("monthly_calls", 0, 0, MOST_CALLS),
        intake=reader.choice("intake", ("http", "stream")),
    )
    if 0 < config.card_calls < FEWEST_CARD_CALLS:
        reader.problem("card_calls", f"must be at least {FEWEST_CARD_CALLS}, such as 10; 0 for answers without cards")
    config = dataclasses.replace(config, former=_former_block(reader, config, ("app_secret", "aes_key", "token")))
    for key, value in (("aes_key", config.aes_key), ("former.aes_key", config.former.values.get("aes_key", ""))):
        if value and not _is_aes_key(value):
            reader.problem(key, f"must be exactly {AES_KEY_LENGTH} letters and digits; ./init_env.sh generates one")
    return config


def _is_aes_key(value: str) -> bool:
    try:
        return len(value) == AES_KEY_LENGTH and bool(base64.b64decode(value + "=", validate=True))
    except (binascii.Error, ValueError):
        return False


def feishu(reader: Reader) -> FeishuConfig:
    """``feishu.js``."""
    console = "copy it from the Feishu developer console"
    webhook_url = reader.url("webhook_url", default="https://open.feishu.cn/open-apis/im/v1/messages")
    encryption_key = reader.text("encryption_key", f"{console}, Events & Callbacks: Encrypt Key", default="")
    intake = reader.choice("intake", ("http", "connection"))
    if not encryption_key and intake == "http":
        cure = "is empty, so callbacks carry no signature; set an Encrypt Key in the console and here"
        reader.problem("encryption_key", cure, fatal=False)
    config = FeishuConfig(
        app_id=reader.text("app_id", f"{console}, Credentials: App ID"),
        app_secret=reader.text("app_secret", f"{console}, Credentials: App Secret"),
        encryption_key=encryption_key,
        verification_token=reader.text("verification_token", f"{console}, Events & Callbacks: Verification Token"),
        webhook_url=webhook_url,
        api_base_url=reader.url("api_base_url", default=_origin(webhook_url)),
        access=_access(reader),
        cards=reader.flag("cards", default=True),
        monthly_calls=reader.number("monthly_calls", 0, 0, MOST_CALLS),
        intake=intake,
    )
    names = ("app_secret", "encryption_key", "verification_token")
    return dataclasses.replace(config, former=_former_block(reader, config, names))


def _former_block(reader: Reader, config: DingTalkConfig | FeishuConfig, names: tuple[str, ...]) -> Former:
    """What ``former`` says in the file of a platform about the secrets ``names``."""
    given = reader.take("former", {})
    if not isinstance(given, dict):
        reader.problem(
            "former", f'must hold former values and a date, such as {{{names[0]}: "...", until: "2027-01-31"}}'
        )
        return Former()
    block = Reader(reader.place, given)
    found = _former(block, {name: (name, getattr(config, name)) for name in names}, "until")
    block.unknown()
    reader.problems += [dataclasses.replace(problem, key=f"former.{problem.key}") for problem in block.problems]
    return found


def _former(reader: Reader, secrets: Mapping[str, tuple[str, str]], until_key: str) -> Former:
    """Secrets that were replaced, and the date up to which they count.

    Args:
        reader: where they stand.
        secrets: for each secret the key under which its former value stands, and its present one.
        until_key: the key of the date.
    """
    values = {}
    for name, (key, present) in secrets.items():
        value = reader.text(key, f"write the former {name}, or leave it out", default="")
        if value and not present:
            reader.problem(key, f"replaces nothing, since {name} is empty; take it out")
        elif value and value == present:
            reader.problem(key, f"is the present {name}; write the one before it", fatal=False)
        elif value:
            values[name] = value
    given = reader.values.get(until_key) not in (None, "")
    until = reader.moment(until_key, whole_day=True)
    if values and not given:
        reader.problem(until_key, "is missing; write the date up to which former secrets count, such as 2027-01-31")
    elif until is not None and not values:
        reader.problem(until_key, "is of no use without a former secret; take it out", fatal=False)
    elif until is not None and until <= time.time():
        reader.problem(until_key, "is over, so former secrets are refused; take them out", fatal=False)
    return Former(values, until or 0.0)


def redis(reader: Reader, password: str) -> RedisConfig:
    """``cache.yaml``, and the password from the environment."""
    servers, sentinels = reader.addresses("servers", 6379), reader.addresses("sentinels", 26379)
    tls = reader.flag("tls", default=False)
    if bool(servers) != bool(sentinels):
        reader.problem("servers", "needs `sentinels` as well, and they need `servers`; give both, or none of them")
        servers = sentinels = ()
    if servers and tls:
        reader.problem("tls", "does not go together with `servers`; take one of them out")
    return RedisConfig(
        enabled=reader.flag("enabled", default=True),
        host=reader.text("host", "give the address of Redis", default="127.0.0.1"),
        port=reader.number("port", 6379, 1, 65535),
        db=reader.number("db", 0, 0, 1_000_000),
        ttl=reader.number("ttl", 3600, 1, 30 * 86400),
        username=reader.text("username", "give the account of Redis", default=""),
        password=password,
        servers=servers,
        sentinels=sentinels,
        primary=reader.text("primary", "give the name that Sentinel knows", default="clawdbot"),
        tls=tls,
        tls_ca=reader.text("tls_ca", "give a file of certificates", default=""),
    )


def site(reader: Reader, password: str) -> SiteConfig | None:
    """The second site of ``cache.yaml``, whose Redis has the same password; None if there is none."""
    name = reader.text("site", "give the name of this site", default="")
    other = reader.text("other_site", "give the name of the other site", default="")
    where = reader.addresses("other_redis", 6380)
    certificate = reader.text("link_certificate", "give the file of the certificate that both sites have", default="")
    tls_key = reader.text("link_key", "give the file of its key", default="")
    if not name and not other and not where:
        return None
    if not name or not other or name == other or len(where) != 1:
        reader.problem("other_redis", "needs `site` and `other_site`, two names, and is one address; give all three")
        return None
    [(host, port)] = where
    link = RedisConfig(
        host=host, port=port, password=password, tls=bool(certificate), tls_certificate=certificate, tls_key=tls_key
    )
    return SiteConfig(name, other, link)


def _expiry(reader: Reader, api_key: str) -> float | None:
    """Unix time at which the key ends: its own ``exp`` if it is a JWT, else what the operator declared."""
    declared = reader.moment("MODEL_API_KEY_EXPIRES_AT")
    with_payload = api_key.split(".")
    if len(with_payload) == 3:  # a JWT has three parts
        try:
            payload = json.loads(base64.urlsafe_b64decode(with_payload[1] + "=="))
            return float(payload["exp"])
        except (ValueError, KeyError, TypeError):
            pass
    return declared


def model(reader: Reader) -> ModelConfig:
    """The ``MODEL_`` variables."""
    name = reader.text("MODEL_TYPE", "choose a preset", default="echo")
    table = presets()
    if name not in table:
        reader.problem("MODEL_TYPE", f"{name!r} is not a preset; choose one of {', '.join(table)}")
    preset = table.get(name, table["echo"])
    api_key = reader.text("MODEL_API_KEY", "create a key in the model service's console", default="")
    api_secret = reader.text("MODEL_API_SECRET", "leave it empty if the service has none", default="")
    if preset.auth != "none" and not api_key:
        reader.problem("MODEL_API_KEY", f"is missing; model type {name} needs the key of its service")
    if api_secret and preset.auth in {"none", "bearer"}:
        reader.problem("MODEL_API_SECRET", f"is not used by model type {name}; it can be emptied", fatal=False)
    for key, value in (("MODEL_API_KEY", api_key), ("MODEL_API_SECRET", api_secret)):
        if not KEY.fullmatch(value):
            reader.problem(key, NO_KEY)
    base_url = reader.url("MODEL_BASE_URL", default=preset.base_url or "http://127.0.0.1:8000/v1")
    return ModelConfig(
        name=name,
        preset=preset,
        api_key=api_key,
        api_secret=api_secret,
        base_url=base_url.removesuffix("/chat/completions") if preset.base_url else "",
        model=reader.text("MODEL_NAME", "give the model's name", default=preset.model),
        vision=reader.flag("MODEL_VISION", default=preset.vision),
        expires_at=_expiry(reader, api_key),
        system_prompt=_system_prompt(reader),
        temperature=reader.decimal("MODEL_TEMPERATURE", 0, 2),
        max_tokens=reader.number("MODEL_MAX_TOKENS", 0, 0, 1_000_000),
        answer_characters=reader.number("MODEL_ANSWER_CHARACTERS", 20_000, 100, 200_000),
        extra_fields=reader.fields("MODEL_EXTRA_FIELDS", RESERVED_FIELDS, example='{"enable_thinking": false}'),
        stream=reader.flag("MODEL_STREAM", default=True),
        show_reasoning=reader.flag("MODEL_SHOW_REASONING", default=False),
        first_token_seconds=reader.number("MODEL_FIRST_TOKEN_SECONDS", 200, 1, 3600),
        idle_seconds=reader.number("MODEL_IDLE_SECONDS", 15, 1, 3600),
        total_seconds=reader.number("MODEL_TOTAL_SECONDS", 300, 1, 3600),
    )


def _system_prompt(reader: Reader) -> str:
    found = reader.text("MODEL_SYSTEM_PROMPT", "tell the model how to behave", default=prompt.DEFAULT)
    for name in prompt.unknown_fields(found):
        known = ", ".join(f"{{{field}}}" for field in prompt.FIELDS)
        reader.problem("MODEL_SYSTEM_PROMPT", f"{{{name}}} stays as it is; the fields are {known}", fatal=False)
    return found


def model_variables() -> list[str]:
    """Return the names of all ``MODEL_`` variables."""
    reader = Reader("environment", {})
    model(reader)
    return list(dict.fromkeys(reader.known))


def alerts(reader: Reader) -> AlertsConfig:
    """Where alerts come from and go to."""
    token = reader.text("CLAWDBOT_ALERTS_TOKEN", "copy it from Alertmanager's configuration", default="")
    return AlertsConfig(
        token=token,
        feishu_chat=reader.text("CLAWDBOT_ALERTS_FEISHU_CHAT", "give the group's chat_id, oc_...", default=""),
        former=_former(reader, {"token": ("CLAWDBOT_ALERTS_FORMER_TOKEN", token)}, "CLAWDBOT_ALERTS_FORMER_UNTIL"),
    )


def speech(reader: Reader) -> dict[str, Any]:
    """Which languages the bot speaks."""
    key = "CLAWDBOT_CHAT_LANGUAGES"
    chats = {}
    for chat, codes in reader.fields(key, {}, example='{"oc_1": ["en"]}').items():
        if isinstance(codes, list) and codes:
            chats[chat] = _languages(reader, key, codes, of=f"{chat}: ")
        else:
            reader.problem(key, f'{chat}: must be a list such as ["en"]')
    key = "CLAWDBOT_LANGUAGES"
    own = reader.text(key, "give languages such as zh,en", default=languages.DEFAULT)
    return {"languages": _languages(reader, key, own.split(",")), "chat_languages": chats}


def _languages(reader: Reader, key: str, codes: Iterable[object], *, of: str = "") -> tuple[Language, ...]:
    known = languages.known()
    found: dict[str, Language] = {}
    for code in [str(code).strip() for code in codes]:
        if code not in known:
            reader.problem(key, f"{of}{code!r} is no language of the bot; choose of {', '.join(known)}")
        elif code in found:
            reader.problem(key, f"{of}names {code} twice")
        else:
            found[code] = known[code]
    return tuple(found.values()) or tuple(known.values())


def service(reader: Reader) -> dict[str, Any]:
    """What concerns the processes rather than a platform or the model."""
    return {
        "log_dir": Path(reader.text("CLAWDBOT_LOG_DIR", "give a directory", default="/opt/clawdbot/logs")),
        "log_socket": reader.text("CLAWDBOT_LOG_SOCKET", "give the socket's path", default=""),
        "port": reader.number("CLAWDBOT_PORT", 18789, 1, 65535),
        "web_workers": reader.number("CLAWDBOT_WEB_WORKERS", 3, 1, 64),
        "web_threads": reader.number("CLAWDBOT_WEB_THREADS", 8, 1, 256),
        "worker_concurrency": reader.number("CLAWDBOT_WORKER_CONCURRENCY", 16, 1, 256),
        "lease_seconds": reader.number("CLAWDBOT_LEASE_SECONDS", 30, 1, 3600),
        "give_up_seconds": reader.number("CLAWDBOT_GIVE_UP_SECONDS", 900, 10, 86400),
        "user_messages_per_minute": reader.number("CLAWDBOT_USER_MESSAGES_PER_MINUTE", 60, 1, 100_000),
        # Empty: what Redis cannot take is refused. Answers that come later than a working day help nobody, and
        # ids are known for 24 hours, so that what waits for less is never taken for new.
        "spool_dir": reader.text("CLAWDBOT_SPOOL_DIR", "give a folder on a disk", default=""),
        "spool_megabytes": reader.number("CLAWDBOT_SPOOL_MEGABYTES", 256, 1, 65536),
        "spool_seconds": reader.number("CLAWDBOT_SPOOL_SECONDS", 14400, 60, 43200),
        "forwarded_allow_ips": reader.networks("CLAWDBOT_FORWARDED_ALLOW_IPS", default="127.0.0.1,::1"),
        "metrics_allow_ips": reader.networks("CLAWDBOT_METRICS_ALLOW_IPS", default=""),
    }


def _access(reader: Reader) -> Access:
    return Access(reader.names("allow_users"), reader.names("allow_conversations"))


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
