"""What was said in a conversation so far."""

from __future__ import annotations

import json

import redis

from clawdbot import text
from clawdbot.message import Message
from clawdbot.store import dump_json, session_key

# The user's words and the model's.
Turn = tuple[str, str]


class Sessions:
    """The histories of conversations. `Queue.done` writes them; switched off with the cache there are none."""

    def __init__(self, client: redis.Redis, *, enabled: bool) -> None:
        """Read from ``client``."""
        self._client = client
        self._enabled = enabled

    def find(self, message: Message) -> list[Turn]:
        """Return the history of the message's conversation, oldest turn first."""
        if not self._enabled:
            return []
        found = self._client.get(session_key(message.conversation_key))
        try:
            return [(str(turn[0]), str(turn[1])) for turn in json.loads(str(found))] if found else []
        except (ValueError, TypeError, LookupError, RecursionError):
            # Better no history than no answer.
            return []

    def after(self, message: Message, turn: Turn | None, budget: int) -> str | None:
        """Return the history with ``turn``, trimmed to ``budget`` estimated tokens, for `Queue.done`."""
        if turn is None or not self._enabled:
            return None
        return dump_json(text.trim_history([*self.find(message), turn], budget))
