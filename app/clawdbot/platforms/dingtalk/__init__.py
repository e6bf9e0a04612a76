"""DingTalk: what comes in (`callback`, `stream`, `content`, `crypto`) and what goes out (`client`, `cards`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clawdbot.config import Settings
    from clawdbot.http import Http
    from clawdbot.notes import Notes
    from clawdbot.platforms.base import Line, Receiver, Sender, Services


def receiver(settings: Settings) -> Receiver | None:
    """Return what receives, None if DingTalk is not configured."""
    from clawdbot.platforms.dingtalk.callback import DingTalkReceiver

    return DingTalkReceiver(settings.dingtalk) if settings.dingtalk else None


def sender(settings: Settings, services: Services) -> Sender | None:
    """Return what sends, None if DingTalk is not configured."""
    # Imported late, like the receiver: the web side has no use for it.
    from clawdbot.platforms.dingtalk.client import DingTalkSender

    return DingTalkSender(settings.dingtalk, services) if settings.dingtalk else None


def line(settings: Settings, web: Http, notes: Notes) -> Line | None:
    """Return what connects to DingTalk, None if its events come as callbacks."""
    from clawdbot.platforms.dingtalk.stream import DingTalkStream

    config = settings.dingtalk
    return DingTalkStream(config, web, notes) if config and config.intake == "stream" else None
