"""Hosts that lose their power, seen from outside, and what becomes of them after a while."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: What the names of the scenario's containers begin with.
PREFIX = f"clawdbot-{os.environ['MOLECULE_SCENARIO_NAME']}-"


def docker(*arguments: str) -> None:
    """Tells Docker, under which the hosts are containers."""
    subprocess.run(["docker", *arguments], check=True, capture_output=True)


def inside(host: str, command: str) -> str:
    """What a command says on a host, nothing if it fails. Not over SSH, since hosts lose their power."""
    done = subprocess.run(
        ["timeout", "10", "docker", "exec", PREFIX + host, "sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def eventually(look: Callable[[], T], seconds: float = 90) -> T:
    """Waits until ``look`` finds something, and returns that."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.3)
    return found
