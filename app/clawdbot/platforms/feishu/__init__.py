"""Feishu (Lark): `crypto` signatures and encryption, `callback` what comes in, `client` what goes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clawdbot.config import Settings
    from clawdbot.platforms.base import Receiver, Sender, Services


def receiver(settings: Settings) -> Receiver | None:
    """Return what receives, None if Feishu is not configured."""
    from clawdbot.platforms.feishu.callback import FeishuReceiver

    return FeishuReceiver(settings.feishu) if settings.feishu else None


def sender(settings: Settings, services: Services) -> Sender | None:
    """Return what sends, None if Feishu is not configured."""
    # Imported late, like the receiver: the web side has no use for it.
    from clawdbot.platforms.feishu.client import FeishuSender

    return FeishuSender(settings.feishu, services) if settings.feishu else None
