"""The cache of ``cache.yaml``: model outputs and what was looked up at the platforms."""

from __future__ import annotations

import json
from typing import Any

import redis

from clawdbot import metrics
from clawdbot.store import dump_json, key


class Cache:
    """What may be lost at any time. Switched off, it never finds anything."""

    def __init__(self, client: redis.Redis, *, enabled: bool, ttl: int) -> None:
        """``ttl`` is the life of an entry in seconds."""
        self.client = client
        self.enabled = enabled
        self.ttl = ttl

    def lookup(self, kind: str, name: str) -> Any:
        """Return what was remembered under ``kind`` and ``name``, None if nothing was."""
        if not self.enabled:
            return None
        found = self.client.get(key("cache", kind, name))
        try:
            value = json.loads(str(found)) if found else None
        except ValueError:
            value = None
        metrics.CACHE.labels(kind, "miss" if value is None else "hit").inc()
        return value

    def remember(self, kind: str, name: str, value: Any) -> None:
        """Remember a JSON value for the configured time."""
        if not self.enabled:
            return
        try:
            self.client.set(key("cache", kind, name), dump_json(value), ex=self.ttl)
        except redis.OutOfMemoryError:
            metrics.CACHE.labels(kind, "full").inc()
