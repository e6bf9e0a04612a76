"""One run at a time, and a dead one blocks nobody."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import site_lock

Ask = Callable[..., str]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """What the host answers to a run."""

    def to(verb: str, run: str, lease: int = 60, dead: str = "") -> str:
        command = [
            "sh",
            "-c",
            site_lock.SCRIPT,
            "lock",
            str(tmp_path / "note"),
            verb,
            run,
            str(lease),
            f"who {run}",
            dead,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return to


def test_the_second_is_told_who_is_at_it_until_the_first_has_ended(ask: Ask) -> None:
    assert ask("take", "one") == "done"
    held, holder, seconds, who = ask("take", "two").split("|")
    assert (held, holder, who) == ("held", "one", "who one")
    assert 50 < int(seconds) <= 60
    assert ask("free", "two") == "done"
    assert ask("take", "two").startswith("held")
    assert ask("free", "one") == "done"
    assert ask("take", "two") == "done"


def test_the_lease_is_renewed_and_runs_out(ask: Ask) -> None:
    ask("take", "one", lease=0)
    assert ask("take", "two") == "done"
    ask("take", "two", lease=0)
    ask("take", "two")
    assert ask("take", "one").startswith("held|two")


@pytest.mark.parametrize("dead", ["one", "*"])
def test_a_dead_run_is_replaced(ask: Ask, dead: str) -> None:
    ask("take", "one")
    assert ask("take", "two", dead="three").startswith("held")
    assert ask("take", "two", dead=dead) == "done"
    assert ask("take", "one").startswith("held|two")


def test_only_a_run_of_this_controller_is_known_to_be_dead() -> None:
    here, own = socket.gethostname(), os.getpid()
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert not site_lock.is_dead(f"{here}:{own}:{site_lock.start_of(own)}")
    assert site_lock.is_dead(f"{here}:{own}:1"), "another process had this number before"
    assert site_lock.is_dead(f"{here}:{gone.pid}:1")
    assert not site_lock.is_dead(f"elsewhere:{gone.pid}:1")
