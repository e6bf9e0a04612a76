"""Who is connected to a platform whose events come over a connection, over all nodes."""

from __future__ import annotations

import redis

from clawdbot.store import Script, key

# Who has said nothing for so long is gone; it is said several times meanwhile.
GONE_SECONDS = 30.0
SAY_SECONDS = 5.0


class Connected:
    """The receivers that are connected. Every method may raise `redis.RedisError`."""

    def __init__(self, client: redis.Redis) -> None:
        """Keep them where ``client`` leads."""
        self._client = client
        self._count = Script(client, "connected")

    def count(self, platform: str) -> int:
        """Return how many are connected to ``platform``."""
        return int(self._count([_key(platform)], [int(GONE_SECONDS * 1000)]))

    def add(self, platform: str, name: str) -> None:
        """Say that the receiver ``name`` is connected."""
        self._count([_key(platform)], [int(GONE_SECONDS * 1000), name])

    def remove(self, platform: str, name: str) -> None:
        """Say that it is not any more."""
        self._client.zrem(_key(platform), name)


def _key(platform: str) -> str:
    return key("connected", platform)
