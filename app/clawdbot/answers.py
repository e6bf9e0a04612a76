"""What was decided for a message, kept so that another attempt neither pays nor decides twice."""

from __future__ import annotations

import dataclasses
import json
from typing import Self

import redis

from clawdbot.message import Message, Unreadable
from clawdbot.sessions import Turn
from clawdbot.store import dump_json, key


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The decision.

    Attributes:
        text: what the user gets; empty means no answer.
        outcome: ``answered``, ``ignored`` or ``apologised``.
        turn: what joins the history: the user's words and the model's; None leaves the history as it is.
        forget: True to forget the history.
        thoughts: how the model came to it, if users see that; not kept for another attempt.
    """

    text: str
    outcome: str = "answered"
    turn: Turn | None = None
    forget: bool = False
    thoughts: str = ""

    def dump(self) -> str:
        """Serialise. The release before refuses fields that it does not know, so this is still all: version 1."""
        return dump_json({name: getattr(self, name) for name in self.__slots__ if name != "thoughts"})

    @classmethod
    def load(cls, dumped: str) -> Self:
        """Read back what `dump` wrote, in this release, one before or one after.

        Raises:
            Unreadable: it is none of these.
        """
        try:
            fields = json.loads(dumped)
            if fields.get("v", 1) != 1:
                raise Unreadable("answer of another version", dumped)
            turn = fields.get("turn")
            return cls(
                str(fields["text"]),
                str(fields.get("outcome", "answered")),
                None if turn is None else (str(turn[0]), str(turn[1])),
                fields.get("forget") is True,
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise Unreadable(f"answer ({type(error).__name__})", dumped) from None


def answer_key(message_key: str) -> str:
    """Redis key of the decision on a message; it is there until the message is settled."""
    return key("answer", message_key)


class Answers:
    """The decisions that were made, whatever ``cache.yaml`` says: they are part of the promise "answered once"."""

    def __init__(self, client: redis.Redis) -> None:
        """Read from Redis; `Queue.keep` writes."""
        self._client = client

    def find(self, message: Message) -> Answer | None:
        """Return the answer that an earlier attempt decided on.

        Raises:
            Unreadable: there is one, but in no format of ours.
        """
        found = self._client.get(answer_key(message.key))
        return Answer.load(str(found)) if found else None
