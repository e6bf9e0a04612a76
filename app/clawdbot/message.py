"""One message of a user, as the queue keeps it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Self

from clawdbot.store import dump_json

ORDER_DIGITS = 15
# The character behind the creation time. The first release wrote "|" there, and reads on behind whatever it finds.
# A field more needs no other version: readers ignore what they do not know, and fields that are absent have defaults.
VERSION = "1"
READABLE = frozenset({"|", VERSION})


class Unreadable(Exception):
    """What was kept in Redis is not in a format of ours.

    Attributes:
        raw: what was kept.
    """

    def __init__(self, reason: str, raw: str) -> None:
        """Keep the reason, which quotes nothing a user wrote, and what was kept."""
        super().__init__(reason)
        self.raw = raw


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """A user's message, independent of the platform it came from.

    Attributes:
        platform: ``dingtalk`` or ``feishu``.
        id: the platform's message id, the key of deduplication.
        conversation: the platform's conversation id; order is kept within it.
        group: True in a group chat.
        sender: the platform's user id.
        sender_name: display name if the platform sent one, else empty.
        created_ms: when the user wrote it, Unix time in milliseconds.
        text: plain text, without mentions, stripped.
        images: references that the platform's client can download.
        unsupported: the platform's type name if the bot cannot read this kind, else empty.
        mentions: ids of those mentioned (Feishu); whether the bot is among them decides in groups.
        route: what the platform's client needs to find the way back.
        lane: whose history and order this is within the conversation, empty if it is everybody's.
    """

    platform: str
    id: str
    conversation: str
    group: bool
    sender: str
    created_ms: int
    sender_name: str = ""
    text: str = ""
    images: tuple[str, ...] = ()
    unsupported: str = ""
    mentions: tuple[str, ...] = ()
    route: dict[str, Any] = dataclasses.field(default_factory=dict)
    lane: str = ""

    @property
    def key(self) -> str:
        """Id that is unique over all platforms."""
        return f"{self.platform}:{self.id}"

    @property
    def conversation_key(self) -> str:
        """Id of what has one history and one order, unique over all platforms."""
        return f"{self.platform}:{self.conversation}{f'#{self.lane}' if self.lane else ''}"

    def dump(self) -> str:
        """Serialise for the queue: the creation time, fixed width so that Redis can order by it, version, JSON."""
        # Not dataclasses.asdict: it copies deeply, and took a tenth of the time of a callback.
        fields = {name: getattr(self, name) for name in self.__slots__}
        return f"{self.created_ms:0{ORDER_DIGITS}d}{VERSION}{dump_json(fields)}"

    @classmethod
    def load(cls, dumped: str) -> Self:
        """Read back what `dump` wrote, in this release, one before or one after.

        Raises:
            Unreadable: it is none of these.
        """
        version = dumped[ORDER_DIGITS : ORDER_DIGITS + 1]
        if version not in READABLE:
            raise Unreadable(f"message of version {version!r}", dumped)
        try:
            known = dict.fromkeys(cls.__slots__)
            fields = {name: value for name, value in json.loads(dumped[ORDER_DIGITS + 1 :]).items() if name in known}
            for name in ("images", "mentions"):
                fields[name] = tuple(fields.get(name, ()))
            message = cls(**fields)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise Unreadable(f"message ({type(error).__name__})", dumped) from None
        if not _has_types(message):
            raise Unreadable("message with a field of another type", dumped)
        return message


TYPES: dict[str, type] = {"group": bool, "created_ms": int, "images": tuple, "mentions": tuple, "route": dict}


def _has_types(message: Message) -> bool:
    return all(isinstance(getattr(message, name), TYPES.get(name, str)) for name in message.__slots__)
