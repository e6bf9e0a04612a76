"""Access tokens: one for all processes, fetched by one of them at a time."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

from clawdbot import metrics
from clawdbot.errors import Final, Retry
from clawdbot.http import Response
from clawdbot.notes import Notes
from clawdbot.store import key

LOCK_SECONDS = 15.0
POLL_SECONDS = 0.05
# Renew this long before the end: a request that is on its way must not meet the end of its token.
EARLY_SECONDS = 900
SHORTEST_SECONDS = 60
# After a failure nobody in this process asks again for so long: they wait in line, and would fail one by one.
FAILED_SECONDS = 2.0


class Token:
    """An access token that is kept, whatever ``cache.yaml`` says: platforms throttle those who fetch too often."""

    def __init__(self, notes: Notes, platform: str, app: str, fetch: Callable[[], tuple[str, float]]) -> None:
        """Keep it in ``notes``; ``fetch`` returns a new token and its life in seconds."""
        self._notes = notes
        self.platform = platform
        self._key = key("token", platform, app)
        self._lock = key("token-lock", platform, app)
        self._fetch = fetch
        # One thread of this process at a time; the lock in the notes is for the other processes.
        self._turn = threading.Lock()
        self._failure: tuple[float, Retry | Final] | None = None

    def get(self) -> str:
        """Return a valid token.

        Raises:
            Retry: nobody got one in time.
            Final: the platform refuses our credentials.
        """
        if token := self._notes.get(self._key):
            return token
        with self._turn:
            if self._failure and time.monotonic() < self._failure[0]:
                raise _again(self._failure[1])
            return self._get()

    def _get(self) -> str:
        end = time.monotonic() + LOCK_SECONDS
        while time.monotonic() < end:
            if token := self._notes.get(self._key):
                return token
            owner = secrets.token_hex(8)
            if self._notes.claim(self._lock, owner, LOCK_SECONDS):
                try:
                    # Somebody may have stored one between our look and our lock.
                    return self._notes.get(self._key) or self._renew()
                finally:
                    self._notes.drop(self._lock, owner)
            time.sleep(POLL_SECONDS)
        raise Retry(f"{self.platform}: no access token in time")

    def _renew(self) -> str:
        try:
            token, life = self._fetch()
        except (Retry, Final) as error:
            metrics.TOKEN_REFRESHES.labels(self.platform, "failure").inc()
            self._failure = (time.monotonic() + FAILED_SECONDS, error)
            raise
        metrics.TOKEN_REFRESHES.labels(self.platform, "success").inc()
        self._notes.put(self._key, token, max(SHORTEST_SECONDS, life - EARLY_SECONDS))
        return token

    def reject(self, token: str) -> None:
        """Forget ``token``, which the platform refused, unless there is a newer one already."""
        self._notes.drop(self._key, token)

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


def _again(error: Retry | Final) -> Retry | Final:
    """Another exception that says the same: one that is raised by several threads mixes their tracebacks."""
    if isinstance(error, Retry):
        return Retry(str(error), after=error.after or FAILED_SECONDS, apology=error.apology)
    return Final(str(error), apology=error.apology)
