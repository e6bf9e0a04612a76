"""Short texts that live for a while: in Redis, for all processes, or for this one while Redis is away."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import redis

from clawdbot.store import Script


class Notes(Protocol):
    """Texts by name. Lives are in seconds."""

    def get(self, name: str) -> str | None:
        """Return the text, None if there is none."""

    def put(self, name: str, text: str, life: float) -> None:
        """Write it, whatever was there."""

    def claim(self, name: str, text: str, life: float) -> bool:
        """Write it if nothing is there; return whether it was written."""

    def drop(self, name: str, text: str) -> None:
        """Remove it if it is ``text``."""


class SharedNotes:
    """Notes of all processes, also when the memory of Redis is full. Every method may raise `redis.RedisError`."""

    def __init__(self, client: redis.Redis) -> None:
        """Keep them where ``client`` leads."""
        self._client = client
        self._put = Script(client, "put")
        self._drop_if = Script(client, "drop_if")

    def get(self, name: str) -> str | None:
        """See `Notes.get`."""
        found = self._client.get(name)
        return str(found) if found else None

    def put(self, name: str, text: str, life: float) -> None:
        """See `Notes.put`."""
        self._put([name], [text, int(life * 1000)])

    def claim(self, name: str, text: str, life: float) -> bool:
        """See `Notes.claim`."""
        return bool(self._put([name], [text, int(life * 1000), "NX"]))

    def drop(self, name: str, text: str) -> None:
        """See `Notes.drop`."""
        self._drop_if([name], [text])


class OwnNotes:
    """Notes of this process."""

    def __init__(self) -> None:
        """Begin with none."""
        self._texts: dict[str, tuple[str, float]] = {}
        self._turn = threading.Lock()

    def get(self, name: str) -> str | None:
        """See `Notes.get`."""
        text, ends = self._texts.get(name, ("", 0.0))
        return text if ends > time.monotonic() else None

    def put(self, name: str, text: str, life: float) -> None:
        """See `Notes.put`."""
        with self._turn:
            now = time.monotonic()
            self._texts = {each: entry for each, entry in self._texts.items() if entry[1] > now}
            self._texts[name] = (text, now + life)

    def claim(self, name: str, text: str, life: float) -> bool:
        """See `Notes.claim`."""
        with self._turn:
            if self.get(name) is not None:
                return False
            self._texts[name] = (text, time.monotonic() + life)
            return True

    def drop(self, name: str, text: str) -> None:
        """See `Notes.drop`."""
        with self._turn:
            if self.get(name) == text:
                del self._texts[name]
