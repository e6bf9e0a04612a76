"""One message of a user, as the queue keeps it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Self

ORDER_DIGITS = 15
# json.dumps makes a new encoder for every call that wants anything special.
_encode = json.JSONEncoder(separators=(",", ":")).encode


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

    @property
    def key(self) -> str:
        """Id that is unique over all platforms."""
        return f"{self.platform}:{self.id}"

    @property
    def conversation_key(self) -> str:
        """Conversation id that is unique over all platforms."""
        return f"{self.platform}:{self.conversation}"

    def dump(self) -> str:
        """Serialise for the queue: the creation time, fixed width so that Redis can order by it, then JSON."""
        # Not dataclasses.asdict: it copies deeply, and took a tenth of the time of a callback.
        fields = {name: getattr(self, name) for name in self.__slots__}
        return f"{self.created_ms:0{ORDER_DIGITS}d}|{_encode(fields)}"

    @classmethod
    def load(cls, dumped: str) -> Self:
        """Read back what `dump` wrote."""
        fields = json.loads(dumped[ORDER_DIGITS + 1 :])
        for name in ("images", "mentions"):
            fields[name] = tuple(fields[name])
        return cls(**fields)
