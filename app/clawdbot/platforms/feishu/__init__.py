"""Feishu: what comes in (`callback`, `connection`, `frame`, `content`, `crypto`), goes out (`client`, `cards`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clawdbot.config import Settings
    from clawdbot.http import Http
    from clawdbot.notes import Notes
    from clawdbot.platforms.base import Line, Receiver, Sender, Services


def receiver(settings: Settings) -> Receiver | None:
    """Return what receives, None if Feishu is not configured."""
    from clawdbot.platforms.feishu.callback import FeishuReceiver

    return FeishuReceiver(settings.feishu) if settings.feishu else None


def sender(settings: Settings, services: Services) -> Sender | None:
    """Return what sends, None if Feishu is not configured."""
    # Imported late, like the receiver: the web side has no use for it.
    from clawdbot.platforms.feishu.client import FeishuSender

    return FeishuSender(settings.feishu, services) if settings.feishu else None


def line(settings: Settings, web: Http, notes: Notes) -> Line | None:
    """Return what connects to Feishu, None if its events come as callbacks."""
    from clawdbot.platforms.feishu.connection import FeishuConnection

    config = settings.feishu
    return FeishuConnection(config, web, notes) if config and config.intake == "connection" else None
