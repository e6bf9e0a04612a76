"""Two sites of one installation: which of them answers, and whether it is this one.

A claim in Redis says so, an epoch and a name; of those of both sites the one with the highest epoch counts. Whoever
promotes a site writes it there. The Redis of the site that stands by copies the other one's, and has its claim.

A site that was dead has a claim of yesterday. So its claim counts only with a word for it: that the other site was
asked, or somebody promoted this one, since Redis was started here. The word has the ``run_id`` of that Redis. Processes
that go on living need neither Redis nor the other site for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import redis

from clawdbot.config import Settings, SiteConfig
from clawdbot.store import connect, key

T = TypeVar("T")

log = logging.getLogger(__name__)

CLAIM = key("site")
# Who did nothing for so long was frozen, and may have been replaced meanwhile.
FROZEN_SECONDS = 20.0
LOOK_SECONDS = 0.5
ASK_SECONDS = 1.0


class Role(enum.Enum):
    """What this site does now.

    Attributes:
        ACTIVE: it answers.
        LEAVING: it ends what is in work and takes messages for the other one, whose Redis still copies ours.
        STANDBY: it hands messages on to the other one.
        UNKNOWN: nobody has said; messages wait on the nodes' disks.
    """

    ACTIVE = "active"
    LEAVING = "leaving"
    STANDBY = "standby"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Claim:
    """Who answers, by the ``epoch``-th promotion."""

    epoch: int
    name: str

    @classmethod
    def load(cls, text: object) -> Claim | None:
        """Read what is in Redis; None if there is nothing, or none."""
        epoch, _, name = str(text or "").partition(" ")
        return cls(int(epoch), name) if epoch.isascii() and epoch.isdigit() and name else None


@dataclasses.dataclass(frozen=True, slots=True)
class Word:
    """What a Redis says: its claim, whether it leads, its ``run_id``, and the one that the last word was given for."""

    claim: Claim | None
    leads: bool
    run: str
    given: str


class Sites:
    """Knows what this site does, as one process sees it."""

    def __init__(self, config: SiteConfig, client: redis.Redis, clock: Callable[[], float] | None = None) -> None:
        """Nothing is asked yet.

        Args:
            config: this site and the other one.
            client: this site's Redis.
            clock: seconds; by default those that also pass while the machine is suspended.
        """
        self.config = config
        self.role = Role.UNKNOWN
        self._here = client
        self._there = connect(config.redis, timeout=ASK_SECONDS, connections=2, retries=0)
        self._clock = clock or (lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
        self._word = key("site-word", config.name)
        self._confirmed = False
        self._highest: Claim | None = None
        self._looked = self._clock()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def answers(self) -> str:
        """Name of the site that answers as far as we know, or empty."""
        return self._highest.name if self._highest else ""

    def start(self) -> None:
        """Look again and again from now on. Threads do not outlive a fork, so every process calls this."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_always, name="sites", daemon=True)
                self._thread.start()

    def choose(self, here: T, there: T) -> T | None:
        """Return what belongs to the site that takes messages now: one of both, None if nobody knows which."""
        match self.role:
            case Role.ACTIVE | Role.LEAVING:
                return here
            case Role.STANDBY:
                return there
        return None

    def look(self) -> None:
        """Ask both Redis once, and draw the conclusions."""
        moment = self._clock()
        if moment - self._looked > FROZEN_SECONDS:
            self._confirmed = False
            try:
                self._here.delete(self._word)
            except redis.RedisError:
                return
        self._looked = moment
        here, there = self._ask(self._here), self._ask(self._there)
        role = self._decide(here, there)
        if role is Role.ACTIVE and here and here.given != here.run:
            with contextlib.suppress(redis.RedisError):
                self._here.set(self._word, here.run)
        if role is not self.role:
            fields = {"site": self.config.name, "role": role.value, "before": self.role.value, "answers": self.answers}
            log.warning("this site has another role", extra={"fields": fields})
            self.role = role

    def _decide(self, here: Word | None, there: Word | None) -> Role:
        claims = [word.claim for word in (here, there) if word and word.claim]
        if self._highest:
            claims.append(self._highest)
        if not claims:
            return Role.UNKNOWN
        best = self._highest = max(claims)
        if any(claim.epoch == best.epoch and claim.name != best.name for claim in claims):
            # Each was promoted while the other could not be asked. Whoever promotes one of them again ends it.
            return Role.UNKNOWN
        if best.name != self.config.name:
            self._confirmed = False
            goes = self.role in (Role.ACTIVE, Role.LEAVING) and here and here.leads and there and not there.leads
            return Role.LEAVING if goes else Role.STANDBY
        if here is None:
            # Redis is away, which changes nothing about who answers.
            return self.role
        if not here.leads:
            return Role.STANDBY
        if there or here.given == here.run:
            self._confirmed = True
        return Role.ACTIVE if self._confirmed else Role.UNKNOWN

    def _ask(self, client: redis.Redis) -> Word | None:
        try:
            with client.pipeline(transaction=False) as pipe:
                pipe.get(CLAIM)
                pipe.get(self._word)
                pipe.role()
                pipe.info("server")
                claim, given, role, server = pipe.execute()
        except redis.RedisError:
            return None
        return Word(Claim.load(claim), str(role[0]) == "master", str(server["run_id"]), str(given or ""))

    def _look_always(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                log.exception("looking at the sites failed")
            time.sleep(LOOK_SECONDS)


def sites_of(settings: Settings) -> Sites | None:
    """Return what knows which site answers, None where there is only one."""
    if settings.site is None:
        return None
    return Sites(settings.site, connect(settings.redis, timeout=ASK_SECONDS, connections=2, retries=0))
