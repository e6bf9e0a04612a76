"""Identifiers of people, conversations and messages.

They carry what the simulator needs to know, so that the process that writes as a user and the
process that plays the platforms' servers share nothing but the configuration.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass

from clawdbot_simulator.config import Config

# Observed in every published sample: sessionWebhookExpiredTime - createAt is 90 minutes.
SESSION_LIFETIME_MS = 5_400_000


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)


def name_of(identifier: str) -> str:
    """The user's name hidden in an identifier such as ``ou_416c696365``."""
    try:
        return bytes.fromhex(identifier.rpartition("_")[2]).decode()
    except ValueError:
        return identifier


# DingTalk


def dingtalk_user(name: str) -> str:
    """The user's staffId."""
    return f"staff_{name.encode().hex()}"


def dingtalk_single(user_id: str) -> str:
    """The single chat of a user with the robot."""
    return f"cid{user_id}"


def dingtalk_group(name: str) -> str:
    """The conversationId of a group chat."""
    return f"cidgroup_{name.encode().hex()}"


def dingtalk_message() -> str:
    """A new msgId."""
    return f"msg{base64.b64encode(secrets.token_bytes(16)).decode()}"


@dataclass(frozen=True)
class Session:
    """What a ``sessionWebhook`` stands for."""

    conversation: str
    message_id: str
    expires_ms: int

    def url(self, config: Config) -> str:
        """The sessionWebhook; signed, so that nobody invents one."""
        plain = json.dumps([self.conversation, self.message_id, self.expires_ms]).encode()
        session = base64.urlsafe_b64encode(plain).decode() + _mac(config, plain)
        return f"{config.public_url}/robot/sendBySession?session={session}"

    @classmethod
    def parse(cls, config: Config, session: str) -> "Session | None":
        """The session of a webhook's query; None when forged."""
        try:
            plain = base64.urlsafe_b64decode(session[:-32])
        except ValueError:
            return None
        if not hmac.compare_digest(session[-32:].encode(), _mac(config, plain).encode()):
            return None
        return cls(*json.loads(plain))


def _mac(config: Config, plain: bytes) -> str:
    key = config.dingtalk.app_secret.encode()
    return hmac.new(key, plain, hashlib.sha256).hexdigest()[:32]


# Feishu


def feishu_user(name: str) -> str:
    """The user's open_id."""
    return f"ou_{name.encode().hex()}"


def feishu_single(open_id: str) -> str:
    """The chat_id of a user's single chat with the bot."""
    return f"oc_{open_id.removeprefix('ou_')}"


def feishu_group(name: str) -> str:
    """The chat_id of a group chat."""
    return f"oc_group{name.encode().hex()}"


def feishu_message(chat_id: str) -> str:
    """A new message_id in a chat."""
    return f"om_{chat_id.removeprefix('oc_')}_{secrets.token_hex(8)}"


def feishu_chat_of(message_id: str) -> str | None:
    """The chat a message is in; None when this is no message id."""
    prefix, _, rest = message_id.partition("_")
    chat, _, suffix = rest.rpartition("_")
    return f"oc_{chat}" if prefix == "om" and chat and suffix else None


def feishu_bot(config: Config) -> str:
    """The bot's own open_id."""
    return "ou_" + hashlib.sha256(config.feishu.app_id.encode()).hexdigest()[:32]
