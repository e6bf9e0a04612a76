"""Tells a user who waits for long that the bot is still at it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class Patience:
    """A context manager around making an answer: calls ``tell`` if it takes longer than ``seconds``.

    When the context has ended nothing is told any more, so the answer never comes before the notice.
    """

    def __init__(self, seconds: float, tell: Callable[[], None]) -> None:
        """Start nothing yet."""
        self._tell = tell
        self._lock = threading.Lock()
        self._over = False
        self._timer = threading.Timer(max(0.0, seconds), self._ring)
        self._timer.daemon = True
        self.failed = False

    def __enter__(self) -> None:
        """Start to wait."""
        self._timer.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop; a notice that is on its way is waited for."""
        self._timer.cancel()
        self.failed = error is not None
        with self._lock:
            self._over = True

    def _ring(self) -> None:
        with self._lock:
            if not self._over:
                self._tell()
