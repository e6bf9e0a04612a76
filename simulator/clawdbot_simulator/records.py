"""What the simulator received, in the order of arrival."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["message", "question", "card", "sign", "token", "model", "download", "lookup", "refused"]

# Enough for an hour of load; then the oldest records are dropped.
CAPACITY = 200_000


@dataclass(frozen=True)
class Record:
    """One request of the bot.

    ``kind`` "message" is a message a user can now read; ``answers`` is the id of the message it
    replies to, empty when the API used does not say. ``card`` is what a card showed for a while; when it is done it is
    a ``message``. ``sign`` is an emoji on message ``answers``; without a text it was taken away. ``question`` is what
    a user was made to ask by the control API. ``refused`` are requests that had no effect.
    """

    seq: int  # 1, 2, 3, ...
    time: float  # seconds since the epoch, the simulator's clock
    kind: Kind
    endpoint: str  # such as "feishu.reply"
    conversation: str = ""
    answers: str = ""
    text: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def platform(self) -> str:
        """``dingtalk``, ``feishu`` or ``model``."""
        return self.endpoint.partition(".")[0]


class Records:
    """An append-only log that readers can wait on."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque(maxlen=CAPACITY)
        self._seq = 0
        self._changed = threading.Condition()

    def add(
        self,
        kind: Kind,
        endpoint: str,
        *,
        conversation: str = "",
        answers: str = "",
        text: str = "",
        **detail: Any,
    ) -> None:
        """Append a record and wake the readers."""
        with self._changed:
            self._seq += 1
            self._records.append(Record(self._seq, time.time(), kind, endpoint, conversation, answers, text, detail))
            self._changed.notify_all()

    def query(self, *, after: int = 0, wait: float = 0.0, **equal: str) -> list[Record]:
        """Records with ``seq > after`` whose attributes equal the given ones, oldest first.

        Waits up to ``wait`` seconds for the first.
        """
        deadline = time.monotonic() + wait
        with self._changed:
            while True:
                found = self._matching(after, equal)
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found
                self._changed.wait(left)

    def _matching(self, after: int, equal: dict[str, str]) -> list[Record]:
        newest: list[Record] = []
        for record in reversed(self._records):
            if record.seq <= after:
                break
            if all(getattr(record, name) == value for name, value in equal.items()):
                newest.append(record)
        newest.reverse()
        return newest

    @property
    def last_seq(self) -> int:
        """Number of the newest record, 0 before the first."""
        with self._changed:
            return self._seq

    def clear(self) -> None:
        """Forget all records; ``seq`` goes on counting, so that readers lose nothing new."""
        with self._changed:
            self._records.clear()
