"""DingTalk: `crypto` signatures and encryption, `callback` what comes in, `client` what goes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clawdbot.config import Settings
    from clawdbot.platforms.base import Receiver, Sender, Services


def receiver(settings: Settings) -> Receiver | None:
    """Return what receives, None if DingTalk is not configured."""
    from clawdbot.platforms.dingtalk.callback import DingTalkReceiver

    return DingTalkReceiver(settings.dingtalk) if settings.dingtalk else None


def sender(settings: Settings, services: Services) -> Sender | None:
    """Return what sends, None if DingTalk is not configured."""
    # Imported late, like the receiver: the web side has no use for it.
    from clawdbot.platforms.dingtalk.client import DingTalkSender

    return DingTalkSender(settings.dingtalk, services) if settings.dingtalk else None
