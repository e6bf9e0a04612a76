"""``bot.yaml`` as it is now: a change counts without a restart, one that is not sound leaves what was there before."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from clawdbot import metrics
from clawdbot.config.loading import bot_file
from clawdbot.config.voices import BotFile

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0


class Live:
    """The file, looked at again every other second; threads share it."""

    def __init__(self, path: Path, found: BotFile, clock: Callable[[], float] = time.monotonic) -> None:
        """``found`` is what was read at the start."""
        self._path = path
        self._found = found
        self._clock = clock
        self._turn = threading.Lock()
        self._seen = self._state()
        self._due = clock() + LOOK_SECONDS

    def now(self) -> BotFile:
        """Return what holds now."""
        if self._clock() >= self._due and self._turn.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._due = self._clock() + LOOK_SECONDS
                self._turn.release()
        return self._found

    def _look(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        found, problems = bot_file(self._path)
        wrong = [str(problem) for problem in problems if problem.fatal]
        metrics.BOT_FILE.labels("refused" if wrong else "taken").inc()
        if wrong:
            fields = {"problems": wrong[:5]}
            log.error("bot.yaml is not sound; what was there before still counts", extra={"fields": fields})
            return
        self._found = found
        log.info("bot.yaml has changed and counts from now on")

    def _state(self) -> tuple[int, int, int] | None:
        """What changes whenever the file does; None if there is none."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            # Nobody takes rules away by taking away the right to read them.
            return (error.errno or 0, 0, 0)
        return (found.st_mtime_ns, found.st_size, found.st_ino)
