"""A sign on the user's message that the bot is at it, where no card says so.

It is decoration: whatever fails, the answer comes all the same. What was put there is kept until the message is
settled, so that it is also taken away when the worker died meanwhile.
"""

from __future__ import annotations

import contextlib
import logging

import redis

from clawdbot import http
from clawdbot.calls import Calls
from clawdbot.engine.queue import Hold
from clawdbot.errors import ClawdbotError, Final
from clawdbot.message import Message
from clawdbot.notes import Notes
from clawdbot.platforms.base import Sender
from clawdbot.sent import SIGN, mark_key
from clawdbot.store import DEDUP_SECONDS, key

log = logging.getLogger(__name__)

# After a refusal nobody is shown a sign for so long.
OFF_SECONDS = 3600.0


class Signs:
    """The signs on the messages in work."""

    def __init__(self, client: redis.Redis, notes: Notes, calls: Calls) -> None:
        """``notes`` say where there are none for a while, and why."""
        self._client = client
        self._notes = notes
        self._calls = calls

    def put(self, sender: Sender, message: Message, hold: Hold) -> None:
        """Put the sign on ``message``, unless it is there, or signs are refused or too dear just now.

        Raises:
            Retry: it did not work this time.
            LeaseLost: another worker took over.
        """
        name = mark_key(message.key, SIGN)
        if self._notes.get(off_key(sender.name)) or self._calls.scarce(sender) or self._notes.get(name):
            return
        try:
            with http.asking_before_writing(hold.check):
                sign = sender.react(message)
        except Final as error:
            self._notes.put(off_key(sender.name), str(error), OFF_SECONDS)
            log.warning("a sign was refused, so there are none for a while", extra={"fields": {"reason": str(error)}})
            return
        self._notes.put(name, sign, DEDUP_SECONDS)

    def take(self, sender: Sender, message: Message) -> None:
        """Take the sign away that is on ``message``, if there is one."""
        name = mark_key(message.key, SIGN)
        with contextlib.suppress(redis.RedisError):
            sign = self._notes.get(name)
            if not sign:
                return
            # Nobody is helped by trying again.
            self._client.delete(name)
            try:
                sender.unreact(message, sign)
            except ClawdbotError as error:
                fields = {"message_key": message.key, "reason": str(error)}
                log.info("a sign stays", extra={"fields": fields})


def off_key(platform: str) -> str:
    """Name of the note that says why a platform shows no signs."""
    return key("signs-off", platform)
