"""What was decided for a message, kept so that another attempt neither pays nor decides twice."""

from __future__ import annotations

import dataclasses
import json

import redis

from clawdbot.message import Message
from clawdbot.sessions import Turn
from clawdbot.store import DEDUP_SECONDS, key


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The decision.

    Attributes:
        text: what the user gets; empty means no answer.
        outcome: ``answered``, ``ignored`` or ``apologised``.
        turn: what joins the history: the user's words and the model's; None leaves the history as it is.
        forget: True to forget the history.
    """

    text: str
    outcome: str = "answered"
    turn: Turn | None = None
    forget: bool = False


class Answers:
    """The decisions that were made, whatever ``cache.yaml`` says: they are part of the promise "answered once"."""

    def __init__(self, client: redis.Redis) -> None:
        """Keep them in Redis."""
        self._client = client

    def find(self, message: Message) -> Answer | None:
        """Return the answer that an earlier attempt decided on."""
        found = self._client.get(key("answer", message.key))
        if not found:
            return None
        fields = json.loads(str(found))
        if fields["turn"] is not None:
            fields["turn"] = tuple(fields["turn"])
        return Answer(**fields)

    def keep(self, message: Message, answer: Answer) -> None:
        """Remember the answer before it is sent."""
        value = json.dumps(dataclasses.asdict(answer))
        self._client.set(key("answer", message.key), value, ex=DEDUP_SECONDS)
