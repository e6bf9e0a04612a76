"""The worker: takes leases, lets `Chat` answer, settles.

One thread dispatches, one renews the leases of this process, and a pool of threads does the work.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import redis

from clawdbot import metrics, texts
from clawdbot.chat import Chat
from clawdbot.clock import now_ms
from clawdbot.engine.queue import DeadLetter, Lease, Queue
from clawdbot.errors import ClawdbotError, Final, LeaseLost, Retry, Throttled
from clawdbot.limits import jittered
from clawdbot.message import Message

log = logging.getLogger(__name__)

# Failures that are worth another attempt, and attempts that ended without any result: their workers died.
MAX_FAILURES = 6
MAX_ATTEMPTS = 12
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 60.0
# A platform or model that asks for more patience than this gets it in several attempts.
LONGEST_WAIT = 300.0
POLL_MS = 500
REDIS_PAUSE = 0.5
HOUSEKEEPING_SECONDS = 3600.0


def consumer_name() -> str:
    """Return a name that no other process has, now or later."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Worker:
    """Runs until told to stop. See `engine.queue` for what lives in Redis."""

    def __init__(self, queue: Queue, chat: Chat, *, slots: int, lease_seconds: float, ttl: int) -> None:
        """``slots`` messages at a time; a lease that is not renewed for ``lease_seconds`` is anybody's."""
        self._queue = queue
        self._chat = chat
        self._slots = slots
        self._lease_seconds = lease_seconds
        self._ttl = ttl
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._free = threading.Semaphore(slots)
        self._lock = threading.Lock()
        self._held: set[str] = set()

    def stop(self) -> None:
        """Take nothing more; `run` returns when what is in work has ended."""
        self._stop.set()

    def run(self) -> None:
        """Work until `stop`, then drain."""
        heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heart.start()
        with ThreadPoolExecutor(self._slots, thread_name_prefix="slot") as pool:
            self._dispatch(pool)
            log.info("draining", extra={"fields": {"in_work": len(self._held)}})
        self._ended.set()
        heart.join()
        try:
            self._queue.retire()
        except redis.RedisError:
            log.warning("could not sign off; the name of this worker is removed later")

    # Dispatching

    def _dispatch(self, pool: ThreadPoolExecutor) -> None:
        prepared = False
        next_reap = next_housekeeping = 0.0
        while not self._stop.is_set():
            count = self._reserve()
            if not count:
                continue
            leases: list[Lease] = []
            try:
                if not prepared:
                    self._queue.prepare()
                    prepared = True
                now = time.monotonic()
                if now >= next_housekeeping:
                    self._queue.retire_idle_consumers()
                    next_housekeeping = now + HOUSEKEEPING_SECONDS
                self._queue.promote()
                if now >= next_reap:
                    leases = self._reap(count)
                    # As long as there are abandoned leases, look for more at once.
                    next_reap = now if leases else now + jittered(self._lease_seconds / 4)
                if not leases:
                    leases = self._queue.take(count, POLL_MS)
            except redis.RedisError as error:
                log.error("Redis does not answer", extra={"fields": {"error": type(error).__name__}})
                self._stop.wait(REDIS_PAUSE)
            finally:
                for _ in range(count - len(leases)):
                    self._free.release()
            with self._lock:
                self._held.update(lease.entry for lease in leases)
            for lease in leases:
                pool.submit(self._work, lease)

    def _reserve(self) -> int:
        """Reserve all free slots, waiting for the first."""
        if not self._free.acquire(timeout=POLL_MS / 1000):
            return 0
        count = 1
        while self._free.acquire(blocking=False):
            count += 1
        return count

    def _reap(self, count: int) -> list[Lease]:
        leases = self._queue.reap(count, int(self._lease_seconds * 1000))
        # After a pause of this process its own leases may look abandoned; taking them again renewed them.
        with self._lock:
            return [lease for lease in leases if lease.entry not in self._held]

    def _beat(self) -> None:
        while not self._ended.wait(self._lease_seconds / 4):
            with self._lock:
                held = list(self._held)
            if not held:
                continue
            try:
                lost = self._queue.renew(held)
            except redis.RedisError:
                continue
            with self._lock:
                # Those that were settled meanwhile are not lost.
                lost &= self._held
            if lost:
                # Not released here: `still_ours` stops the slot before it sends anything.
                log.warning("leases lost", extra={"fields": {"count": len(lost)}})

    # Working

    def _work(self, lease: Lease) -> None:
        try:
            self._work_on(lease)
        except LeaseLost:
            log.warning("another worker took over", extra={"fields": {"conversation": lease.conversation}})
        except redis.RedisError as error:
            # The lease runs out and somebody tries again.
            log.error("Redis does not answer", extra={"fields": {"error": type(error).__name__}})
        except Exception:
            log.exception("a slot failed")
        finally:
            with self._lock:
                self._held.discard(lease.entry)
            self._free.release()

    def _work_on(self, lease: Lease) -> None:
        begun = self._queue.begin(lease)
        if begun is None:
            return
        message, attempt = begun

        def still_ours() -> None:
            if not self._queue.owns(lease):
                raise LeaseLost("the lease belongs to another worker")

        try:
            if attempt > MAX_ATTEMPTS:
                raise Final("every attempt ended without a result")
            answer = self._chat.handle(message, still_ours)
        except Throttled as error:
            self._queue.defer(lease, message, jittered(error.after or FIRST_BACKOFF), counts=False)
            metrics.MESSAGES.labels(message.platform, "throttled").inc()
            return
        except Retry as error:
            if attempt < MAX_FAILURES:
                self._defer(lease, message, attempt, error)
            else:
                self._bury(lease, message, attempt, error, error.apology)
            return
        except Final as error:
            self._bury(lease, message, attempt, error, error.apology)
            return
        except (LeaseLost, redis.RedisError):
            metrics.MESSAGES.labels(message.platform, "lost_lease").inc()
            raise
        except Exception as error:
            log.exception("a message failed", extra={"fields": {"message_key": message.key}})
            self._bury(lease, message, attempt, Final(type(error).__name__), texts.UNEXPECTED)
            return
        outcome = answer.outcome
        session = self._chat.session_after(message, answer)
        if not self._queue.done(lease, message, session, self._ttl):
            outcome = "lost_lease"
        if outcome == "answered":
            seconds = max(0.0, (now_ms() - message.created_ms) / 1000)
            metrics.ANSWER_SECONDS.labels(message.platform).observe(seconds)
        metrics.MESSAGES.labels(message.platform, outcome).inc()

    def _defer(self, lease: Lease, message: Message, attempt: int, error: Retry) -> None:
        backoff = jittered(min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (attempt - 1)))
        wait = min(LONGEST_WAIT, max(backoff, error.after or 0.0))
        self._queue.defer(lease, message, wait)
        metrics.MESSAGES.labels(message.platform, "deferred").inc()
        fields = {"message_key": message.key, "attempt": attempt, "wait_seconds": round(wait, 1)}
        log.warning("will try again", extra={"fields": fields | {"reason": str(error)}})

    def _bury(self, lease: Lease, message: Message, attempt: int, error: ClawdbotError, apology: str) -> None:
        fields = {"message_key": message.key, "attempt": attempt, "reason": str(error)}
        log.error("gave a message up; see: python -m clawdbot dead list", extra={"fields": fields})
        try:
            self._chat.apologise(message, apology, lambda: None)
        except ClawdbotError as failure:
            log.warning("could not apologise", extra={"fields": {**fields, "reason": str(failure)}})
        self._queue.bury(lease, DeadLetter(message, str(error), now_ms(), attempt))
        metrics.MESSAGES.labels(message.platform, "dead").inc()
