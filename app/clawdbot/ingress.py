"""The way in: what every message goes through, be it of a callback or over a connection that we opened."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping

import redis

from clawdbot import metrics
from clawdbot.clock import now_ms
from clawdbot.config import RedisConfig, Settings, voices
from clawdbot.config.live import Live
from clawdbot.engine.failures import judge
from clawdbot.engine.intake import Accepting, Intake
from clawdbot.engine.queue import Queue
from clawdbot.engine.spool import Reception, spool_of
from clawdbot.errors import Refusal
from clawdbot.former import Uses
from clawdbot.message import Message
from clawdbot.notes import SharedNotes
from clawdbot.platforms.base import Received
from clawdbot.sites import Sites
from clawdbot.store import connect

log = logging.getLogger(__name__)

# DingTalk waits 2.5 s for an answer, and the balancer 2 s, after which it takes the node for dead; over a connection
# Feishu waits 3 s. Whatever Redis and the disk do, there is an answer before. Redis gets so long; less where there is a
# spool, whose disk gets the rest. A try that Redis does not answer takes so much of it.
REDIS_SECONDS = 1.5
BEFORE_SPOOL_SECONDS = 0.8
SPOOL_SECONDS = 1.0
TRY_SECONDS = 0.5
# Nobody waits for the hand-over; but where another Redis takes over, all nodes shall have found it at the same time.
HAND_OVER_SECONDS = 2.0
MOVED_HAND_OVER_SECONDS = 1.0
# What a caller hears of a refusal; the reason is in the log.
PUBLIC = {400: "malformed", 401: "not authentic", 405: "Method Not Allowed", 413: "Request Entity Too Large"}
TRY_AGAIN = {"error": "try again"}


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """What became of a callback or an event.

    Attributes:
        status: 200: accepted, seen before, or authentic and of no interest. 400: malformed. 401: not authentic. 405:
            not a POST. 413: too large. 500: a fault of ours. 503: neither Redis nor this node's disk can take the
            message, nothing was accepted.
        reply: what a caller gets.
        fields: what belongs into the access line; ``result`` is always among it.
    """

    status: int
    reply: Mapping[str, object]
    fields: dict[str, str]


class _AtSite:
    """Takes messages into the queue of the site that answers."""

    def __init__(self, sites: Sites, here: Accepting, there: Accepting) -> None:
        self._sites = sites
        self._here = here
        self._there = there

    def accept(self, message: Message, replay_guard: str = "") -> str:
        """See `Queue.accept`."""
        chosen = self._sites.choose(self._here, self._there)
        if chosen is None:
            raise redis.ConnectionError("it is not known which site answers")
        return chosen.accept(message, replay_guard)


def receiving(config: RedisConfig, sites: Sites | None) -> Callable[[], Queue | None]:
    """Return what says which queue takes what waited on a disk; None: nobody knows yet."""

    def queue(config: RedisConfig) -> Queue:
        seconds = MOVED_HAND_OVER_SECONDS if config.servers else HAND_OVER_SECONDS
        return Queue(connect(config, timeout=seconds, connections=2, retries=0))

    here = queue(config)
    if sites is None:
        return lambda: here
    there = queue(sites.config.redis)
    return lambda: sites.choose(here, there)


class Ingress:
    """Takes messages into the queue, for the threads of one process."""

    def __init__(
        self,
        settings: Settings,
        client: redis.Redis,
        platforms: Iterable[str],
        clock: Callable[[], int] = now_ms,
        sites: Sites | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            settings: the configuration.
            client: for what is no message.
            platforms: names of those that messages come from.
            clock: Unix time in milliseconds.
            sites: where there is a second site: whose Redis takes messages.
        """
        self._redis = settings.redis
        self.sites = sites
        self.spool = spool_of(settings, clock)
        intake: Accepting = self._intake(settings.redis)
        if sites:
            intake = _AtSite(sites, intake, self._intake(sites.config.redis))
        self._reception = Reception(intake, self.spool, SPOOL_SECONDS) if self.spool else intake
        self._uses = Uses(SharedNotes(client), settings.former())
        self._live = Live(settings.config_dir / voices.FILE, settings.bot)
        for name in platforms:
            for result in ("platform_error", "full"):
                # A counter that begins with its first event has no increase to be alerted of.
                metrics.CALLBACKS.labels(name, result)

    def _intake(self, config: RedisConfig) -> Intake:
        # A connection for the leader, and one to load scripts.
        hasty = Queue(connect(config, timeout=TRY_SECONDS, connections=2, retries=0))
        return Intake(hasty, patience=BEFORE_SPOOL_SECONDS if self.spool else REDIS_SECONDS, attempt=TRY_SECONDS)

    def start(self) -> None:
        """Hand over what waits on the disk from now on. Threads do not outlive a fork, so every process calls this."""
        if self.sites:
            self.sites.start()
        if self.spool:
            self.spool.start(receiving(self._redis, self.sites))

    def take(self, platform: str, receive: Callable[[], Received]) -> Taken:
        """Queue what ``receive`` returns; when this returns with status 200, the message is on disk."""
        fields: dict[str, str] = {}
        status, reply = self._take(platform, receive, fields)
        metrics.CALLBACKS.labels(platform, fields["result"]).inc()
        return Taken(status, reply, fields)

    def _take(
        self, platform: str, receive: Callable[[], Received], fields: dict[str, str]
    ) -> tuple[int, Mapping[str, object]]:
        try:
            received = receive()
            if received.note:
                fields["note"] = received.note
            fields["result"] = "platform_error" if received.trouble else "ignored"
            if received.trouble:
                log.error(
                    "a platform reports trouble instead of messages",
                    extra={"fields": {"platform": platform, "reason": received.trouble}},
                )
            if received.message:
                fields["message"] = received.message.id
                fields["result"] = self._reception.accept(self._in_lane(received.message), received.replay_guard)
                if fields["result"] == "replay":
                    raise Refusal(401, "replayed_signature")
            self._uses.note(platform, *received.secrets)
        except Refusal as refusal:
            fields["result"] = refusal.reason
            return refusal.status, {"error": PUBLIC[refusal.status]}
        except redis.OutOfMemoryError:
            # What is queued and remembered already is kept; the platform comes again.
            fields["result"] = "full"
            log.error("a callback could not be queued: the memory of Redis is full")
            return 503, TRY_AGAIN
        except redis.RedisError as error:
            fields["result"] = "unavailable"
            log.error("a callback could not be queued", extra={"fields": {"reason": judge(error).reason}})
            return 503, TRY_AGAIN
        except Exception:
            fields["result"] = "failed"
            log.exception("a request failed")
            return 500, {"error": "Internal Server Error"}
        return 200, received.reply

    def _in_lane(self, message: Message) -> Message:
        """Where members of a group have histories of their own, they do not wait for each other either."""
        if not message.group:
            return message
        voice = self._live.now().voice(message.platform, message.conversation, message.sender)
        return dataclasses.replace(message, lane=message.sender) if voice.session == "person" else message
