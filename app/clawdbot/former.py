"""Secrets that were replaced: they are tried beside the present ones for a while, and who still uses them is noted.

A platform's console cannot change in the same instant as we do, so its callbacks may be signed or encrypted with
either. When nobody has used a former secret since the console was changed, it can be closed before its date.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import redis

from clawdbot import metrics
from clawdbot.clock import now_ms
from clawdbot.config import Former, Secret
from clawdbot.errors import ClawdbotError, Refusal
from clawdbot.notes import Notes
from clawdbot.store import key

T = TypeVar("T")

log = logging.getLogger(__name__)

# A process notes a use at most once in so many seconds: while a console is not changed, every callback is one.
NOTED_SECONDS = 60.0
# The note outlives the secret, so that what was used to the end can be told.
KEPT_SECONDS = 7 * 86400.0


def first(
    secrets: Sequence[Secret], use: Callable[[str], T], refused: type[ClawdbotError] = Refusal
) -> tuple[T, Secret]:
    """Return what ``use`` makes of the first secret that it takes, and that secret.

    Args:
        secrets: what to try, the present one first.
        use: raises ``refused`` if it does not take a secret.
        refused: any other exception ends the search.

    Raises:
        ClawdbotError: none is taken; it is what ``use`` said of the present one.
    """
    present, *others = secrets
    try:
        return use(present.value), present
    except refused as error:
        refusal = error
    for secret in others:
        with contextlib.suppress(refused):
            return use(secret.value), secret
    raise refusal


class Uses:
    """Notes when a former secret was used."""

    def __init__(self, notes: Notes, former: Mapping[str, Former]) -> None:
        """Keep them in ``notes``; ``former`` has the replaced secrets of each part of the configuration."""
        self._notes = notes
        self._former = former
        self._next: dict[tuple[str, str], float] = {}
        for part, replaced in former.items():
            for name in replaced.values:
                # A counter that begins with its first event has no increase to be alerted of.
                metrics.FORMER_SECRETS.labels(part, name)

    def first(
        self, part: str, secrets: Sequence[Secret], use: Callable[[str], T], refused: type[ClawdbotError] = Refusal
    ) -> T:
        """Return what ``use`` makes of the first secret that it takes, and note which that was; see `first`."""
        found, secret = first(secrets, use, refused)
        self.note(part, secret)
        return found

    def note(self, part: str, *secrets: Secret) -> None:
        """Count those of ``secrets`` that are former ones; a Redis that is away is told the next time."""
        for name in (secret.former for secret in secrets if secret.former):
            metrics.FORMER_SECRETS.labels(part, name).inc()
            moment = time.monotonic()
            if moment < self._next.get((part, name), -math.inf):
                continue
            self._next[part, name] = moment + NOTED_SECONDS
            until = self._former[part].until
            log.info("a former secret was used", extra={"fields": {"part": part, "secret": name, "until": until}})
            with contextlib.suppress(redis.RedisError):
                life = until - now_ms() / 1000 + KEPT_SECONDS
                self._notes.put(_key(part, name, until), str(now_ms()), life)


def last_used(notes: Notes, part: str, name: str, until: float) -> float | None:
    """Return when the former secret ``name`` was used last, Unix time in seconds, give or take `NOTED_SECONDS`.

    None: not since it became a former one. Every replacement is known by its date, ``until``.

    Raises:
        redis.RedisError: the notes are in a Redis that is away.
    """
    found = notes.get(_key(part, name, until))
    return int(found) / 1000 if found else None


def _key(part: str, name: str, until: float) -> str:
    return key("former", part, name, int(until))
