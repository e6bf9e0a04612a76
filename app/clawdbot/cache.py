"""What is remembered between messages: sessions, model outputs, platform look-ups, answers and sent parts.

The first three are the cache of ``cache.yaml`` and are off when it is disabled. Answers and sent parts are part
of the promise "answered once" and are always kept.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import redis

from clawdbot import metrics, text
from clawdbot.engine.queue import DEDUP_SECONDS, session_key
from clawdbot.message import Message
from clawdbot.sent import Mark
from clawdbot.store import key


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What was decided for a message, kept so that another attempt neither pays nor decides twice.

    Attributes:
        text: what the user gets; empty means no answer.
        outcome: ``answered``, ``ignored`` or ``apologised``.
        turn: what joins the history: the user's words and the model's; None leaves the history as it is.
        forget: True to forget the history.
    """

    text: str
    outcome: str = "answered"
    turn: tuple[str, str] | None = None
    forget: bool = False


class Cache:
    """Access to all of it."""

    def __init__(self, client: redis.Redis, *, enabled: bool, ttl: int) -> None:
        """``ttl`` is the life in seconds of cache entries."""
        self.client = client
        self.enabled = enabled
        self.ttl = ttl

    # The cache of cache.yaml

    def session(self, message: Message) -> list[tuple[str, str]]:
        """Return the history of the message's conversation as (user's words, model's words)."""
        if not self.enabled:
            return []
        found = self.client.get(session_key(message.conversation_key))
        return [(turn[0], turn[1]) for turn in json.loads(str(found))] if found else []

    @staticmethod
    def dump_session(turns: list[tuple[str, str]], budget: int) -> str:
        """Serialise a history for `Queue.done`, trimmed to ``budget`` estimated tokens."""
        return json.dumps(text.trim_history(turns, budget))

    def lookup(self, kind: str, name: str) -> Any:
        """Return what was remembered under ``kind`` and ``name``, None if nothing was."""
        if not self.enabled:
            return None
        found = self.client.get(key("cache", kind, name))
        metrics.CACHE.labels(kind, "hit" if found else "miss").inc()
        return json.loads(str(found)) if found else None

    def remember(self, kind: str, name: str, value: Any) -> None:
        """Remember a JSON value for the configured time."""
        if self.enabled:
            self.client.set(key("cache", kind, name), json.dumps(value), ex=self.ttl)

    # The promise

    def answer(self, message: Message) -> Answer | None:
        """Return the answer that an earlier attempt decided on."""
        found = self.client.get(key("answer", message.key))
        if not found:
            return None
        fields = json.loads(str(found))
        if fields["turn"] is not None:
            fields["turn"] = tuple(fields["turn"])
        return Answer(**fields)

    def keep_answer(self, message: Message, answer: Answer) -> None:
        """Remember the answer before it is sent."""
        value = json.dumps(dataclasses.asdict(answer))
        self.client.set(key("answer", message.key), value, ex=DEDUP_SECONDS)

    def was_sent(self, message: Message, part: str) -> bool:
        """Whether a part went out at an earlier attempt."""
        return bool(self.client.exists(key("sent", message.key, part)))

    def mark(self, message: Message, part: str) -> Mark:
        """Return the mark that says so."""
        return Mark(self.client, key("sent", message.key, part))
