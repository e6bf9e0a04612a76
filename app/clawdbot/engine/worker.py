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

from clawdbot import metrics, store
from clawdbot.chat import Chat
from clawdbot.clock import now_ms
from clawdbot.copies import NotCopied
from clawdbot.engine.failures import Failure, Verdict, judge
from clawdbot.engine.patience import Patience
from clawdbot.engine.queue import Begun, DeadLetter, Hold, Lease, Queue
from clawdbot.errors import Final, LeaseLost, Retry
from clawdbot.limits import backoff, jittered
from clawdbot.message import Message, Unreadable
from clawdbot.sites import Role, Sites

log = logging.getLogger(__name__)

# Attempts in a row that end without any result: the message kills its workers.
MAX_DEATHS = 12
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 60.0
# A platform or model that asks for more patience than this gets it in several attempts.
LONGEST_WAIT = 300.0
# After this many seconds a user is told that the answer takes longer.
PATIENCE_SECONDS = 25.0
APOLOGIES = 3
POLL_MS = 500
REDIS_PAUSE = 0.5
# So long the nodes get to hand over what they kept while Redis was away, before anything is begun; longer where they
# have to find another Redis.
HAND_OVER_SECONDS = 1.0
MOVED_SECONDS = 2.0
# The same trouble with Redis is told this often.
TROUBLE_SECONDS = 60.0
TIDY_SECONDS = 60.0
RETIRE_SECONDS = 3600.0


def consumer_name() -> str:
    """Return a name that no other process has, now or later."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Worker:
    """Runs until told to stop. See `engine.queue` for what lives in Redis."""

    def __init__(
        self,
        queue: Queue,
        chat: Chat,
        *,
        slots: int,
        lease_seconds: float,
        give_up_seconds: float,
        ttl: int,
        sites: Sites | None = None,
    ) -> None:
        """Make a worker.

        Args:
            queue: where messages come from.
            chat: what answers them.
            slots: messages at a time.
            lease_seconds: a lease that is not renewed for so long is anybody's.
            give_up_seconds: a message that fails for so long is given up.
            ttl: life of a session in seconds.
            sites: where there is a second site: whether this one answers.
        """
        self._queue = queue
        self._chat = chat
        self._give_up_seconds = give_up_seconds
        self._slots = slots
        self._lease_seconds = lease_seconds
        self._ttl = ttl
        self._sites = sites
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._free = threading.Semaphore(slots)
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._trouble = ("", 0.0)

    def stop(self) -> None:
        """Take nothing more; `run` returns when what is in work has ended."""
        self._stop.set()

    def run(self) -> None:
        """Work until `stop`, then drain."""
        if self._sites:
            self._sites.start()
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
        moves = 0
        next_reap = next_tidy = next_retire = 0.0
        while not self._stop.is_set():
            if self._sites and self._sites.role is not Role.ACTIVE:
                self._stand_by(self._sites)
                prepared = False
                continue
            count = self._reserve()
            if not count:
                continue
            leases: list[Lease] = []
            try:
                if not prepared:
                    self._queue.prepare()
                    prepared = True
                    # Other nodes have older messages of the same conversations on their disks.
                    if self._queue.moves != moves:
                        moves = self._queue.moves
                        self._stop.wait(MOVED_SECONDS)
                    elif self._trouble[0]:
                        self._stop.wait(HAND_OVER_SECONDS)
                now = time.monotonic()
                # What fails here must not keep the work from going on, so it comes again at its time only.
                if now >= next_tidy:
                    next_tidy = now + jittered(TIDY_SECONDS)
                    self._queue.tidy()
                if now >= next_retire:
                    next_retire = now + RETIRE_SECONDS
                    self._queue.retire_idle_consumers()
                self._queue.promote()
                if now >= next_reap:
                    leases = self._reap(count)
                    # As long as there are abandoned leases, look for more at once.
                    next_reap = now if leases else now + jittered(self._lease_seconds / 4)
                if not leases:
                    leases = self._queue.take(count, POLL_MS)
                if self._queue.moves != moves:
                    # A connection that was opened anew led to another Redis, which is no error.
                    moves = self._queue.moves
                    self._stop.wait(MOVED_SECONDS)
                self._well()
            except redis.RedisError as error:
                # Whatever it is: when it is over, the group may be gone.
                prepared = False
                self._ill(judge(error), error)
                self._stop.wait(REDIS_PAUSE)
            finally:
                for _ in range(count - len(leases)):
                    self._free.release()
            with self._lock:
                self._held.update(lease.entry for lease in leases)
            for lease in leases:
                pool.submit(self._work, lease)

    def _stand_by(self, sites: Sites) -> None:
        """Wait until this site answers, and until the nodes have handed over what they kept meanwhile."""
        log.info("standing by", extra={"fields": {"answers": sites.answers}})
        while sites.role is not Role.ACTIVE:
            if self._stop.wait(REDIS_PAUSE):
                return
        # They lead to what may have been a replica.
        store.forget_connections(self._queue.client)
        self._stop.wait(MOVED_SECONDS)

    def _ill(self, failure: Failure, error: Exception) -> None:
        """Say what is the matter with Redis, once in a while."""
        if isinstance(error, (redis.exceptions.ReadOnlyError, NotCopied)):
            # Behind the same name there may be another server by now.
            store.forget_connections(self._queue.client)
        reason, told = self._trouble
        if reason != failure.reason or time.monotonic() > told + TROUBLE_SECONDS:
            self._trouble = (failure.reason, time.monotonic())
            log.error(failure.reason, extra={"fields": {"error": type(error).__name__}})

    def _well(self) -> None:
        if self._trouble[0]:
            self._trouble = ("", 0.0)
            log.info("Redis is fine again")

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
        # Redis may be back before the lease runs out, for which the user would have to wait.
        end = time.monotonic() + self._lease_seconds
        try:
            while not self._worked(lease) and time.monotonic() < end:
                if self._stop.wait(REDIS_PAUSE):
                    break
        except Exception:
            log.exception("a slot failed")
        finally:
            with self._lock:
                self._held.discard(lease.entry)
            self._free.release()

    def _worked(self, lease: Lease) -> bool:
        """Work on a leased conversation; False if Redis was in the way and may not be for long."""
        try:
            begun = self._queue.begin(lease)
            if begun is not None:
                self._answer(lease, begun)
        except redis.RedisError as error:
            failure = judge(error)
            self._ill(failure, error)
            return failure.verdict is not Verdict.PAUSE
        return True

    def _answer(self, lease: Lease, begun: Begun) -> None:
        """Answer the head of a conversation, or let `_fail` decide what becomes of it."""
        hold = Hold(self._queue, lease, self._sites)
        try:
            message = begun.message()
        except Unreadable as error:
            log.error(
                "a message that cannot be read; see: clawdbot dead list", extra={"fields": {"reason": str(error)}}
            )
            self._queue.bury(lease, DeadLetter.unreadable(lease, begun, str(error)))
            metrics.MESSAGES.labels("unknown", "dead").inc()
            return
        patience = Patience(PATIENCE_SECONDS - begun.age, lambda: self._ask_for_patience(message, hold))
        try:
            if begun.attempt > MAX_DEATHS:
                raise Final("every attempt ended without a result")
            answer = self._chat.handle(message, hold, patience, first=begun.first)
            session = self._chat.session_after(message, answer)
            if not self._queue.done(lease, message, session, self._ttl):
                raise LeaseLost("the lease belongs to another worker")
        except Exception as error:
            self._fail(lease, begun, message, hold, error, told=patience.failed)
            return
        if answer.outcome == "answered":
            seconds = max(0.0, (now_ms() - message.created_ms) / 1000)
            metrics.ANSWER_SECONDS.labels(message.platform).observe(seconds)
        metrics.MESSAGES.labels(message.platform, answer.outcome).inc()

    # Failing

    def _fail(self, lease: Lease, begun: Begun, message: Message, hold: Hold, error: Exception, *, told: bool) -> None:
        """Do what `judge` says. ``told`` is True if it was the answer that could not be made, not its delivery."""
        failure = judge(error)
        fields = {"message_key": message.key, "attempt": begun.failures + 1, "reason": failure.reason}
        if failure.bug:
            log.exception("a message failed", exc_info=error, extra={"fields": fields})
        match failure.verdict:
            case Verdict.LEAVE:
                log.warning("another worker took over", extra={"fields": fields})
                outcome = "lost_lease"
            case Verdict.PAUSE:
                self._ill(failure, error)
                self._queue.defer(lease, message.key, jittered(FIRST_BACKOFF), failed=False)
                outcome = "redis"
            case Verdict.KNOCK | Verdict.RETRY if begun.age < self._give_up_seconds:
                outcome = "throttled" if failure.verdict is Verdict.KNOCK else "deferred"
                self._wait(lease, begun, message, hold, failure, told=told)
            case _:
                self._bury(lease, begun, message, hold, failure)
                outcome = "dead"
        metrics.MESSAGES.labels(message.platform, outcome).inc()

    def _wait(self, lease: Lease, begun: Begun, message: Message, hold: Hold, failure: Failure, *, told: bool) -> None:
        """Let the conversation wait, but not longer than until the message is to be given up."""
        knock = failure.verdict is Verdict.KNOCK
        pause = FIRST_BACKOFF if knock else backoff(begun.failures, FIRST_BACKOFF, LONGEST_BACKOFF)
        asked = failure.after or 0.0
        wait = min(LONGEST_WAIT, max(jittered(pause), jittered(asked) if knock else asked))
        wait = min(wait, max(FIRST_BACKOFF, self._give_up_seconds - begun.age))
        if told and begun.age + wait > PATIENCE_SECONDS:
            self._ask_for_patience(message, hold)
        self._queue.defer(lease, message.key, wait, failed=not knock)
        fields = {"message_key": message.key, "wait_seconds": round(wait, 1), "reason": failure.reason}
        log.log(logging.INFO if knock else logging.WARNING, "will try again", extra={"fields": fields})

    def _ask_for_patience(self, message: Message, hold: Hold) -> None:
        """Tell the user that it takes longer; the answer matters more than this."""
        try:
            self._chat.ask_for_patience(message, hold)
        except Exception as error:  # whatever it is, the answer is still being made
            fields = {"message_key": message.key, "reason": judge(error).reason}
            log.warning("could not ask for patience", extra={"fields": fields})

    def _bury(self, lease: Lease, begun: Begun, message: Message, hold: Hold, failure: Failure) -> None:
        """Tell the user, as long as the message is ours, and make a dead letter of it."""
        reason = failure.reason
        try:
            self._apologise(message, failure.apology, hold)
        except LeaseLost:
            log.warning("another worker took over", extra={"fields": {"message_key": message.key}})
            return
        except redis.RedisError:
            raise
        except Exception as error:  # a dead letter must not depend on it
            reason = f"{reason}; no apology: {judge(error).reason}"
        if self._queue.bury(lease, DeadLetter.of(message, begun, reason, failure.raw)):
            fields = {"message_key": message.key, "reason": reason, "seconds": round(begun.age)}
            log.error("gave a message up; see: clawdbot dead list", extra={"fields": fields})

    def _apologise(self, message: Message, apology: str, hold: Hold) -> None:
        for attempt in range(APOLOGIES):
            try:
                self._chat.apologise(message, apology, hold)
            except Retry as error:
                if attempt + 1 == APOLOGIES:
                    raise
                # The heart keeps the lease meanwhile.
                time.sleep(min(LONGEST_BACKOFF, max(error.after or 0.0, jittered(FIRST_BACKOFF * 2**attempt))))
            else:
                return
