"""What answers cost of the calls that an organisation has at a platform."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Iterator

import redis

from clawdbot import http, metrics
from clawdbot.message import Message
from clawdbot.platforms.base import Sender
from clawdbot.store import key

log = logging.getLogger(__name__)

# Of the calls of a month, what is only there to look at leaves the rest to answers.
SHARE = 0.9
MONTH_SECONDS = 40 * 86400


class Calls:
    """Counts the calls of all nodes."""

    def __init__(self, client: redis.Redis) -> None:
        """Count in Redis."""
        self._client = client

    @contextlib.contextmanager
    def counted(self, sender: Sender, message: Message) -> Iterator[None]:
        """Count the calls that are made meanwhile."""
        with http.counting() as calls:
            try:
                yield
            finally:
                metrics.ANSWER_CALLS.labels(sender.name).observe(calls.count)
                fields = {"message_key": message.key, "platform_calls": calls.count}
                log.info("worked on a message", extra={"fields": fields})
                # A number that is a little too small hurts nobody, an answer that is given twice does.
                with contextlib.suppress(redis.RedisError):
                    self._add(sender, calls.count)

    def _add(self, sender: Sender, count: int) -> None:
        if count and sender.monthly_calls:
            name = month_key(sender.name)
            self._client.incrby(name, count)
            self._client.expire(name, MONTH_SECONDS)

    def scarce(self, sender: Sender) -> bool:
        """Whether the calls of this month run out."""
        return bool(sender.monthly_calls) and self.made(sender.name) >= sender.monthly_calls * SHARE

    def made(self, platform: str) -> int:
        """Return how many calls were made this month; 0 where nobody said how many there are."""
        return int(str(self._client.get(month_key(platform)) or 0))


def month_key(platform: str) -> str:
    """Name of this month's number."""
    return key("calls", platform, f"{datetime.datetime.now(datetime.UTC):%Y-%m}")
