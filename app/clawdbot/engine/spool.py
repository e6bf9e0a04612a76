"""The spool: what Redis cannot take in time waits on this node's disk, and is acknowledged all the same.

As long as something waits there, what comes after it goes there as well, so that it does not overtake. Whichever
process of the node has the turn hands over, in the order in which users wrote, in batches that Redis takes as a whole
or not at all. A row is removed after its batch was taken; who dies in between sends it once more, and Redis knows it.

Files of the folder: ``spool.db``, a SQLite database; ``waiting``, which is there as long as something waits;
``write.lock`` and ``turn.lock``, whose locks are the right to write and the turn. Threads and processes wait for them
in a row, which SQLite's own lock does not know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import queue as queues
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import redis

from clawdbot import metrics
from clawdbot.clock import now_ms
from clawdbot.config import Settings
from clawdbot.engine.failures import judge
from clawdbot.engine.intake import Accepting
from clawdbot.engine.queue import REPLAY_GRACE_MS, Kept, Queue
from clawdbot.errors import SpoolError
from clawdbot.message import ORDER_DIGITS, Message
from clawdbot.store import forget_connections

log = logging.getLogger(__name__)

MOST_AT_ONCE = 100
# Seconds between two looks: at the mark, and at what waits without one.
POLL_SECONDS = 0.2
LOOK_SECONDS = 5.0
# How long to leave a disk alone that fails, and between two log lines that say the same.
DISK_PAUSE = 5.0
TROUBLE_SECONDS = 60.0
REASONS = ("full", "old", "disk", "slow")
SCHEMA = """
    CREATE TABLE IF NOT EXISTS messages (
        id INTEGER PRIMARY KEY,      -- the order of arrival
        written TEXT NOT NULL,       -- when its user wrote it, as the queue orders by it
        name TEXT NOT NULL UNIQUE,   -- key of the message
        conversation TEXT NOT NULL,
        dumped TEXT NOT NULL,        -- as the queue keeps it
        guard TEXT NOT NULL,         -- of its signature, or empty
        arrived INTEGER NOT NULL     -- here, Unix time in milliseconds
    );
    CREATE INDEX IF NOT EXISTS by_time ON messages (written);
    CREATE INDEX IF NOT EXISTS by_guard ON messages (guard, arrived) WHERE guard <> '';
"""

Row = tuple[str, str, str, str, str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """What waits on the disk: messages, seconds since the first of them came, bytes."""

    messages: int = 0
    oldest_seconds: float = 0.0
    size: int = 0


class Spool:
    """The spool of this node, for one process and those that it forks."""

    def __init__(self, folder: Path, *, most_bytes: int, seconds: float, clock: Callable[[], int] = now_ms) -> None:
        """Nothing is opened yet; the database is never opened before a fork.

        Args:
            folder: where it is; on a disk, since it has to outlive a loss of power.
            most_bytes: what the database may take.
            seconds: for how long it collects.
            clock: Unix time in milliseconds.
        """
        self._folder = folder
        self.most_bytes = most_bytes
        self._seconds = seconds
        self._clock = clock
        # There as long as something waits, for all processes of the node; nobody asks a database for every callback.
        self._mark = folder / "waiting"
        self._lock = threading.Lock()
        self._tickets: queues.SimpleQueue[tuple[Row, Future[str]]] = queues.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._handing: threading.Thread | None = None
        self._handed: set[str] = set()  # keys of what Redis took and the disk did not remove
        self._told = ("", 0.0)

    @property
    def pending(self) -> bool:
        """Whether something waits, which whatever comes now must not overtake."""
        # Whatever is the matter with the disk, it is no reason to fail here.
        return os.path.exists(self._mark)  # noqa: PTH110  # pathlib's raises where the folder must not be read

    def accept(self, message: Message, replay_guard: str, patience: float) -> str:
        """Keep ``message``; on return it is on disk.

        Returns:
            ``spooled``, ``duplicate`` or ``replay``, as far as this disk knows; Redis has the last word.

        Raises:
            SpoolError: it is not kept, or was not within ``patience`` seconds.
        """
        dumped = message.dump()
        row = (
            dumped[:ORDER_DIGITS],
            message.key,
            message.conversation_key,
            dumped,
            replay_guard,
            self._clock(),
        )
        # What is no UTF-8 fails here, where nobody else is concerned.
        "".join(row[1:5]).encode()
        ticket: Future[str] = Future()
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_all, name="spool", daemon=True)
                self._writer.start()
        self._tickets.put((row, ticket))
        try:
            with _disk():
                return ticket.result(patience)
        except SpoolError:
            ticket.cancel()
            raise

    # Writing: one thread of a process, which takes along what came while the disk was busy

    def _write_all(self) -> None:
        db: sqlite3.Connection | None = None
        while True:
            batch = [self._tickets.get()]
            with contextlib.suppress(queues.Empty):
                while len(batch) < MOST_AT_ONCE:
                    batch.append(self._tickets.get_nowait())
            # Who waits no longer was told that nothing is kept.
            batch = [(row, ticket) for row, ticket in batch if ticket.set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                with self._writing():
                    db = db or self._open()
                    self._mark.touch(0o600)
                    results = self._write(db, [row for row, _ in batch])
            except Exception as error:  # whatever it is, those who wait must hear of it
                for _, ticket in batch:
                    ticket.set_exception(error)
                # Perhaps another disk, or a mended one, is there next time.
                if db:
                    db.close()
                db = None
                continue
            for (_, ticket), result in zip(batch, results, strict=True):
                ticket.set_result(result)

    def _write(self, db: sqlite3.Connection, rows: Sequence[Row]) -> list[str]:
        oldest = _oldest(db)
        if oldest is not None and self._clock() - oldest > self._seconds * 1000:
            raise SpoolError("old", "the spool has collected for too long")
        with db:
            db.execute("BEGIN IMMEDIATE")
            return [_insert(db, row) for row in rows]

    # Handing over

    def start(self, choose: Callable[[], Queue | None]) -> None:
        """Hand over from now on, in a thread of this process; ``choose`` says to whom, None: to nobody yet."""
        with self._lock:
            if self._handing is None:
                self._handing = threading.Thread(target=self._hand_over_always, args=[choose], daemon=True)
                self._handing.start()

    def hand_over(self, queue: Queue) -> bool:
        """Hand over what waits; False if something still does, or somebody else has the turn.

        Raises:
            redis.RedisError: Redis cannot take it.
            SpoolError: the disk cannot be read.
        """
        with _disk(), self._lock_file("turn", wait=False) as ours:
            if not ours:
                return False
            with self._writing():
                db = self._open()
            with contextlib.closing(db):
                after = ("", 0)
                while page := _page(db, after):
                    self._hand_over_page(queue, [kept for kept in page if kept.key not in self._handed])
                    if not self._remove(db, page):
                        after = (page[-1].written, page[-1].id)
                with self._writing():
                    if _oldest(db) is None:
                        self._mark.unlink(missing_ok=True)
                return not self.pending

    def _hand_over_page(self, queue: Queue, page: Sequence[Kept]) -> None:
        if not page:
            return
        for kept, result in zip(page, queue.hand_over(page, self._clock()), strict=True):
            metrics.SPOOL_HANDED_OVER.labels(result).inc()
            if result == "replay":
                log.warning("a signature was used again", extra={"fields": {"message": kept.key}})
        self._handed.update(kept.key for kept in page)

    def _remove(self, db: sqlite3.Connection, page: Sequence[Kept]) -> bool:
        """Remove what was handed over; a full disk cannot even do that."""
        ids = [(kept.id,) for kept in page]
        try:
            with self._writing(), db:
                db.execute("BEGIN IMMEDIATE")
                db.executemany("DELETE FROM messages WHERE id = ?", ids)
        except sqlite3.Error as error:
            self._say("what was handed over cannot be removed from the disk", error)
            return False
        self._handed.difference_update(kept.key for kept in page)
        return True

    def _hand_over_always(self, choose: Callable[[], Queue | None]) -> None:
        looked = 0.0
        while True:
            pause = POLL_SECONDS
            queue = choose()
            try:
                if time.monotonic() >= looked:
                    looked = time.monotonic() + LOOK_SECONDS
                    # A loss of power may take what was made last.
                    if not self.pending and self.held().messages:
                        with _disk():
                            self._mark.touch(0o600)
                if self.pending and queue and self.hand_over(queue):
                    log.info("what waited on this node's disk was handed over")
            except redis.RedisError as error:
                reason = "full" if isinstance(error, redis.OutOfMemoryError) else "unavailable"
                metrics.SPOOL_FAILURES.labels(reason).inc()
                if queue:
                    # Behind the same name there may be another server by now.
                    forget_connections(queue.client)
                self._say("callbacks wait on this node's disk", error, judge(error).reason)
            except SpoolError as error:
                self._say("this node's disk cannot be read", error)
                pause = DISK_PAUSE
            except Exception:
                log.exception("handing over failed")
                pause = DISK_PAUSE
            time.sleep(pause)

    def _say(self, text: str, error: Exception, reason: str = "") -> None:
        """Log, once in a while."""
        reason = reason or str(error)
        said, at = self._told
        if reason != said or time.monotonic() > at + TROUBLE_SECONDS:
            self._told = (reason, time.monotonic())
            log.error(text, extra={"fields": {"reason": reason}})

    # Looking after it

    def held(self) -> Held:
        """Return what waits.

        Raises:
            SpoolError: the disk cannot be read, or not be written to.
        """
        if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise SpoolError("disk", f"{self._folder} is no folder that the bot may write to")
        if not self._database.exists():
            return Held()
        with _disk(), contextlib.closing(sqlite3.connect(self._database, isolation_level=None)) as db:
            db.execute("BEGIN")
            oldest = _oldest(db)
            [count] = db.execute("SELECT count(*) FROM messages").fetchone()
            size = (_pragma(db, "page_count") - _pragma(db, "freelist_count")) * _pragma(db, "page_size")
        age = 0.0 if oldest is None else max(0.0, (self._clock() - oldest) / 1000)
        return Held(count, age, size)

    # Files

    @property
    def _database(self) -> Path:
        return self._folder / "spool.db"

    def _open(self) -> sqlite3.Connection:
        """Open the database, and make it if it is not there; `_writing` keeps others from doing the same."""
        if not self._database.exists():
            # SQLite gives its other files the same mode: what users wrote is for the bot only.
            os.close(os.open(self._database, os.O_CREAT | os.O_EXCL, 0o600))
        db = sqlite3.connect(self._database, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA max_page_count = {self.most_bytes // _pragma(db, 'page_size')}")
            db.executescript(SCHEMA)
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock_file("write", wait=True):
            yield

    @contextlib.contextmanager
    def _lock_file(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold a lock; a process that dies gives it back."""
        descriptor = os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        try:
            yield True
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """Say what a failure of the disk means."""
    try:
        yield
    except TimeoutError:
        raise SpoolError("slow", "the disk takes too long") from None
    except (sqlite3.Error, OSError) as error:
        reason = "full" if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" else "disk"
        raise SpoolError(reason, str(error)) from error


class Reception:
    """Takes messages: Redis if it can take them in time, else this node's disk."""

    def __init__(self, intake: Accepting, spool: Spool, patience: float) -> None:
        """The disk gets ``patience`` seconds, in addition to those of ``intake``."""
        self._intake = intake
        self._spool = spool
        self._patience = patience
        for reason in REASONS:
            # A counter that begins with its first event has no increase to be alerted of.
            metrics.SPOOL_REFUSALS.labels(reason)
        for reason in ("full", "unavailable"):
            metrics.SPOOL_FAILURES.labels(reason)

    def accept(self, message: Message, replay_guard: str = "") -> str:
        """See `Intake.accept`; ``spooled`` if it is on this node's disk.

        Raises:
            redis.RedisError: neither Redis nor the disk has it.
        """
        if not self._spool.pending:
            try:
                return self._intake.accept(message, replay_guard)
            except redis.RedisError as error:
                if kept := self._keep(message, replay_guard):
                    return kept
                raise error from None
        # Whatever is the matter with the disk, a Redis that is back is there for those who write now.
        return self._keep(message, replay_guard) or self._intake.accept(message, replay_guard)

    def _keep(self, message: Message, replay_guard: str) -> str:
        """Empty if the disk does not take it."""
        try:
            return self._spool.accept(message, replay_guard, self._patience)
        except SpoolError as error:
            metrics.SPOOL_REFUSALS.labels(error.reason).inc()
            log.error("this node's disk takes no callback", extra={"fields": {"reason": str(error)}})
            return ""


def spool_of(settings: Settings, clock: Callable[[], int] = now_ms) -> Spool | None:
    """Return the spool that ``settings`` name, None if there is none."""
    if not settings.spool_dir:
        return None
    most_bytes = settings.spool_megabytes * 1024 * 1024
    return Spool(Path(settings.spool_dir), most_bytes=most_bytes, seconds=settings.spool_seconds, clock=clock)


def _insert(db: sqlite3.Connection, row: Row) -> str:
    """As ``accept.lua`` does it, as far as this disk can know."""
    _, name, _, _, guard, arrived = row
    if db.execute("SELECT 1 FROM messages WHERE name = ?", [name]).fetchone():
        return "duplicate"
    if guard:
        [first] = db.execute("SELECT min(arrived) FROM messages WHERE guard = ?", [guard]).fetchone()
        if first is not None and arrived - first > REPLAY_GRACE_MS:
            return "replay"
    db.execute(
        "INSERT INTO messages (written, name, conversation, dumped, guard, arrived) VALUES (?, ?, ?, ?, ?, ?)", row
    )
    return "spooled"


def _oldest(db: sqlite3.Connection) -> int | None:
    found = db.execute("SELECT arrived FROM messages ORDER BY id LIMIT 1").fetchone()
    return None if found is None else int(found[0])


def _page(db: sqlite3.Connection, after: tuple[str, int]) -> list[Kept]:
    rows = db.execute(
        "SELECT id, written, name, conversation, dumped, guard, arrived FROM messages"
        " WHERE (written, id) > (?, ?) ORDER BY written, id LIMIT ?",
        [*after, MOST_AT_ONCE],
    )
    return [Kept(*row) for row in rows]


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
