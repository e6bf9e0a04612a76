"""Hosts that lose their power, seen from outside, and what becomes of them after a while."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def docker(*arguments: str) -> None:
    """Tells Docker, under which the hosts are containers."""
    subprocess.run(["docker", *arguments], check=True, capture_output=True)


def eventually(look: Callable[[], T], seconds: float = 90) -> T:
    """Waits until ``look`` finds something, and returns that."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.3)
    return found
