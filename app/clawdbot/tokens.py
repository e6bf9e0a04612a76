"""Access tokens: one for all processes, fetched by one of them at a time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import redis

from clawdbot import metrics
from clawdbot.errors import ClawdbotError, Retry
from clawdbot.http import Response
from clawdbot.store import Script, key

LOCK_MS = 15_000
POLL_SECONDS = 0.05
# Renew this long before the end: a request that is on its way must not meet the end of its token.
EARLY_SECONDS = 900
SHORTEST_SECONDS = 60


class Token:
    """An access token kept in Redis, whatever ``cache.yaml`` says: platforms throttle those who fetch too often."""

    def __init__(self, client: redis.Redis, platform: str, app: str, fetch: Callable[[], tuple[str, float]]) -> None:
        """``fetch`` returns a new token and its life in seconds."""
        self.client = client
        self.platform = platform
        self._key = key("token", platform, app)
        self._lock = key("token-lock", platform, app)
        self._fetch = fetch
        self._drop_if = Script(client, "drop_if")

    def get(self) -> str:
        """Return a valid token.

        Raises:
            Retry: nobody got one in time.
            Final: the platform refuses our credentials.
        """
        end = time.monotonic() + LOCK_MS / 1000
        while time.monotonic() < end:
            if token := self.client.get(self._key):
                return str(token)
            owner = secrets.token_hex(8)
            if self.client.set(self._lock, owner, nx=True, px=LOCK_MS):
                try:
                    # Somebody may have stored one between our look and our lock.
                    return str(self.client.get(self._key) or self._renew())
                finally:
                    self._drop_if([self._lock], [owner])
            time.sleep(POLL_SECONDS)
        raise Retry(f"{self.platform}: no access token in time")

    def _renew(self) -> str:
        try:
            token, life = self._fetch()
        except ClawdbotError:
            metrics.TOKEN_REFRESHES.labels(self.platform, "failure").inc()
            raise
        metrics.TOKEN_REFRESHES.labels(self.platform, "success").inc()
        self.client.set(self._key, token, ex=int(max(SHORTEST_SECONDS, life - EARLY_SECONDS)))
        return token

    def reject(self, token: str) -> None:
        """Forget ``token``, which the platform refused, unless there is a newer one already."""
        self._drop_if([self._key], [token])

    def use(self, call: Callable[[str], Response], refused: Callable[[Response], bool]) -> Response:
        """Return what ``call`` returns with our token; one that is ``refused`` is replaced once.

        Raises:
            Retry: the new token was refused as well.
        """
        for _ in range(2):
            token = self.get()
            answer = call(token)
            if not refused(answer):
                return answer
            self.reject(token)
        raise Retry(f"{self.platform}: access token refused twice")
