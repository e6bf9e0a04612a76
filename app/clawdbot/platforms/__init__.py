"""The chat platforms. A new one is a package here, and its line in `PLATFORMS`; `base` says what it has to have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from clawdbot.platforms import dingtalk, feishu

if TYPE_CHECKING:
    from clawdbot.config import Settings
    from clawdbot.http import Http
    from clawdbot.notes import Notes
    from clawdbot.platforms.base import Line, Receiver, Sender, Services


@dataclasses.dataclass(frozen=True, slots=True)
class Platform:
    """How to make the parts of a platform; None if it is not configured, or not to be connected to."""

    receiver: Callable[[Settings], Receiver | None]
    sender: Callable[[Settings, Services], Sender | None]
    line: Callable[[Settings, Http, Notes], Line | None]


PLATFORMS = {
    "dingtalk": Platform(dingtalk.receiver, dingtalk.sender, dingtalk.line),
    "feishu": Platform(feishu.receiver, feishu.sender, feishu.line),
}


def receivers(settings: Settings) -> dict[str, Receiver]:
    """Return the receiving halves of the platforms that are configured."""
    made = {name: platform.receiver(settings) for name, platform in PLATFORMS.items()}
    return {name: receiver for name, receiver in made.items() if receiver}


def senders(settings: Settings, services: Services) -> dict[str, Sender]:
    """Return the sending halves of the platforms that are configured."""
    made = {name: platform.sender(settings, services) for name, platform in PLATFORMS.items()}
    return {name: sender for name, sender in made.items() if sender}


def lines(settings: Settings, web: Http, notes: Notes) -> list[Line]:
    """Return how to connect to the platforms whose events come over a connection that we open."""
    made = [platform.line(settings, web, notes) for platform in PLATFORMS.values()]
    return [line for line in made if line]
