"""The time."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Unix time in milliseconds, by this host's clock."""
    return time.time_ns() // 1_000_000
