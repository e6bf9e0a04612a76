"""A circuit breaker: after several failures in a row, ask nobody for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Per process and thread-safe.

    After ``failures`` failures in a row it is open for ``seconds``; then one call is let through as a trial,
    which closes it or opens it again.
    """

    def __init__(self, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start closed."""
        self._limit = failures
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0

    def wait(self) -> float:
        """Return 0 if a call may be made now, else the seconds until the next trial."""
        with self._lock:
            if self._failures < self._limit:
                return 0.0
            now = self._clock()
            if now < self._open_until:
                return self._open_until - now
            # The trial: others wait until it has ended or its time is over.
            self._open_until = now + self._seconds
            return 0.0

    def succeeded(self) -> None:
        """Close."""
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        """Count a failure."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit:
                self._open_until = self._clock() + self._seconds
