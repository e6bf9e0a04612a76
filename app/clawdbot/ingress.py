"""The way in: what every message goes through, be it of a callback or over a connection that we opened."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping

import redis

from clawdbot import metrics
from clawdbot.clock import now_ms
from clawdbot.config import Settings, voices
from clawdbot.config.live import Live
from clawdbot.engine.failures import judge
from clawdbot.engine.intake import Intake
from clawdbot.engine.queue import Queue
from clawdbot.engine.spool import Reception, spool_of
from clawdbot.errors import Refusal
from clawdbot.former import Uses
from clawdbot.message import Message
from clawdbot.notes import SharedNotes
from clawdbot.platforms.base import Received
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


class Ingress:
    """Takes messages into the queue, for the threads of one process."""

    def __init__(
        self, settings: Settings, client: redis.Redis, platforms: Iterable[str], clock: Callable[[], int] = now_ms
    ) -> None:
        """Nothing is opened yet.

        Args:
            settings: the configuration.
            client: for what is no message.
            platforms: names of those that messages come from.
            clock: Unix time in milliseconds.
        """
        self._redis = settings.redis
        # A connection for the leader, and one to load scripts.
        hasty = Queue(connect(settings.redis, timeout=TRY_SECONDS, connections=2, retries=0))
        self.spool = spool_of(settings, clock)
        patience = BEFORE_SPOOL_SECONDS if self.spool else REDIS_SECONDS
        intake = Intake(hasty, patience=patience, attempt=TRY_SECONDS)
        self._reception = Reception(intake, self.spool, SPOOL_SECONDS) if self.spool else intake
        self._uses = Uses(SharedNotes(client), settings.former())
        self._live = Live(settings.config_dir / voices.FILE, settings.bot)
        for name in platforms:
            for result in ("platform_error", "full"):
                # A counter that begins with its first event has no increase to be alerted of.
                metrics.CALLBACKS.labels(name, result)

    def start(self) -> None:
        """Hand over what waits on the disk from now on. Threads do not outlive a fork, so every process calls this."""
        if self.spool:
            seconds = MOVED_HAND_OVER_SECONDS if self._redis.servers else HAND_OVER_SECONDS
            self.spool.start(Queue(connect(self._redis, timeout=seconds, connections=2, retries=0)))

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
