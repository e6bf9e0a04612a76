"""Several Redis servers: what was acknowledged outlives any of them, once and in order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from clawdbot import cli
from clawdbot.copies import NotCopied, durably
from clawdbot.engine.intake import Intake
from clawdbot.engine.queue import Queue
from clawdbot.store import connect
from clawdbot_simulator.load import Load, Plan, Report

from .conftest import eventually
from .site import APP, site
from .test_queue import message
from .trio import PASSWORD, Trio, trio


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Trio]:
    with trio(tmp_path / "trio", to_disk=False) as found:
        yield found


def test_what_is_acknowledged_is_at_another_server(three: Trio) -> None:
    with connect(three.config, timeout=2) as client:
        durably(client, ["SET", "clawdbot:x", "1"])
        assert "1" in [three.client(number).get("clawdbot:x") for number in (1, 2)]
        # Both replicas stand still: they are attached, and have nothing of what is written now.
        for number in (1, 2):
            three.signal(f"redis{number}", signal.SIGSTOP)
        with pytest.raises(NotCopied, match="no other Redis has it"):
            durably(client, ["SET", "clawdbot:x", "2"])
        # Nor does it count that an earlier write of the same connection had copies, or that this one writes nothing.
        with pytest.raises(NotCopied, match="no other Redis has it"):
            durably(client, ["GET", "clawdbot:x"])
        # One of them has it: the other one may be promoted in this instant.
        three.signal("redis1", signal.SIGCONT)
        with pytest.raises(NotCopied, match="not every Redis that copies has it"):
            durably(client, ["SET", "clawdbot:x", "3"])
        # It is silent for so long that the primary leaves it.
        eventually(lambda: _set(client))
        three.signal("redis2", signal.SIGCONT)


def test_a_repetition_counts_only_when_the_first_is_at_another_server(three: Trio) -> None:
    queue = Queue(connect(three.config, timeout=1, retries=0), "one")
    intake = Intake(queue, patience=1.0)
    asked = message()
    assert intake.accept(message()) == "accepted"
    for number in (1, 2):
        three.signal(f"redis{number}", signal.SIGSTOP)
    for _ in range(3):
        with pytest.raises(redis.RedisError):
            intake.accept(asked)
    for number in (1, 2):
        three.signal(f"redis{number}", signal.SIGCONT)
    assert eventually(lambda: _accepted(intake, asked)) == "duplicate"
    assert queue.depth().messages == 2


def _accepted(intake: Intake, asked: Any) -> str:
    try:
        return intake.accept(asked)
    except redis.RedisError:
        return ""


def test_a_primary_that_was_frozen_and_replaced_acknowledges_nothing(three: Trio) -> None:
    """It wakes up with clients of its own, and takes itself for the primary until Sentinel tells it."""
    with connect(three.config, timeout=1, retries=0) as client:
        durably(client, ["SET", "clawdbot:x", "before"])
        pool = client.connection_pool
        old: Any = pool.get_connection()
        three.signal("redis0", signal.SIGSTOP)
        eventually(lambda: three.primary > 0)
        three.signal("redis0", signal.SIGCONT)
        group: Any = pool.group
        refused = 0
        end = time.monotonic() + 3
        while time.monotonic() < end:
            try:
                old.send_packed_command(old.pack_commands([["SET", "clawdbot:x", "after"], *group.proof]))
                replies = [old.read_response() for _ in range(4)]
                with pytest.raises(NotCopied):
                    group.check(old, replies[1:])
                refused += 1
            except redis.RedisError:
                break
        old.disconnect()
        pool.release(old)
        eventually(lambda: _set(client))
        assert three.client(three.primary).get("clawdbot:x") == "moved"
        assert group.moves == 1


def _set(client: redis.Redis) -> bool:
    try:
        durably(client, ["SET", "clawdbot:x", "moved"])
    except redis.RedisError:
        return False
    return True


def test_who_replaced_us_is_told_from_whom_we_replaced(three: Trio) -> None:
    """Both say that they are primaries; only one of them must stop what the other acknowledges."""
    with connect(three.config, timeout=1, retries=0) as client:
        durably(client, ["SET", "clawdbot:x", "1"])
        for number in range(3):
            three.signal(f"sentinel{number}", signal.SIGSTOP)
        three.client(1).replicaof("NO", "ONE")
        # The other replica is still with the first: it has a copy, and is about to leave.
        eventually(lambda: len(three.client(0).role()[2]) == 1)
        time.sleep(2)  # longer than an answer counts
        pool: Any = client.connection_pool
        connection = pool.get_connection()
        connection.send_packed_command(connection.pack_commands(pool.group.proof))
        replies = [connection.read_response() for _ in range(3)]
        assert int(replies[1]) == 1
        with pytest.raises(NotCopied, match="another Redis was promoted"):
            pool.group.check(connection, replies)
        # Seen from the one that was promoted the first is no reason to stop.
        connection.port = three.ports[1]
        pool.group.check(connection, ["0", "1", ["master", 1, [["127.0.0.1", str(three.ports[2]), "1"]]]])
        pool.release(connection)


@pytest.mark.parametrize("way", ["kill", "freeze", "planned"])
def test_nothing_acknowledged_is_lost(three: Trio, way: str) -> None:
    """Eight threads write as fast as they can; whatever they were told is there afterwards."""
    stop = threading.Event()
    told: list[str] = []
    lock = threading.Lock()
    gaps: list[float] = []

    def write(thread: int) -> None:
        with connect(three.config, timeout=1, retries=0) as client:
            number = 0
            last = time.monotonic()
            while not stop.is_set():
                name = f"clawdbot:{thread}-{number}"
                try:
                    durably(client, ["SET", name, "1"])
                except redis.RedisError:
                    time.sleep(0.05)
                    continue
                with lock:
                    told.append(name)
                    gaps.append(time.monotonic() - last)
                last = time.monotonic()
                number += 1

    threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    if way == "kill":
        three.kill(0)
    elif way == "freeze":
        three.signal("redis0", signal.SIGSTOP)
    else:
        assert three.sentinel(0, "FAILOVER", "clawdbot") == "OK"
    eventually(lambda: three.primary > 0)
    if way == "freeze":
        three.signal("redis0", signal.SIGCONT)
    if way == "kill":
        three.run(0, replica_of=three.primary)
    before = len(told)
    eventually(lambda: len(told) > before + 200)
    stop.set()
    for thread in threads:
        thread.join()
    three.whole()
    with connect(three.config, timeout=5) as client:
        there = set(client.scan_iter("clawdbot:*", count=1000))
    print(f"{way}: {len(told)} told, longest gap {max(gaps):.1f} s")
    assert set(told) <= there
    # On a machine that does nothing else it is half of ten.
    assert max(gaps) < 30


def test_the_command_line_finds_the_primary(
    three: Trio, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (environ | {"CLAWDBOT_REDIS_PASSWORD": PASSWORD}).items():
        monkeypatch.setenv(name, value)
    three.write_cache_yaml(Path(environ["CLAWDBOT_CONFIG_DIR"]) / "cache.yaml")
    assert cli.main(["check"]) == 0
    assert "good" not in capsys.readouterr().out  # its disk is not waited for
    three.kill(0)
    eventually(lambda: three.primary > 0)
    assert eventually(lambda: cli.main(["queue"]) == 0)
    capsys.readouterr()
    assert cli.main(["check"]) == 0
    assert "Redis has 1 of 2 replicas" in capsys.readouterr().out
    for number in range(3):
        three.signal(f"sentinel{number}", signal.SIGKILL)
    assert cli.main(["queue"]) == cli.EX_UNAVAILABLE
    assert "no Sentinel knows a healthy Redis" in capsys.readouterr().err


def _other(three: Trio, before: int) -> int:
    """One more than the number of the primary, 0 as long as it is the same."""
    found = three.primary
    return 0 if found == before else found + 1


def test_a_bot_under_load_notices_a_pause(tmp_path: Path) -> None:
    """Real processes and signed callbacks; its primary is killed, frozen and moved by command."""
    plan = Plan(rate=20, duration=60, duplicates=0.1, timeout=2.5, settle=120)
    with trio(tmp_path / "trio") as three, site(tmp_path / "site", APP, None, three) as bot:
        bot.control.add_fault("model.*", "slow", seconds=0.15)
        reports: list[Report] = []
        load = Load(plan, bot.control, bot.url)
        thread = threading.Thread(target=lambda: reports.append(load.run()))
        thread.start()
        for way in ("kill", "freeze", "planned"):
            time.sleep(3)
            before = eventually(lambda: three.primary + 1) - 1
            if way == "kill":
                three.kill(before)
            elif way == "freeze":
                three.signal(f"redis{before}", signal.SIGSTOP)
            else:
                assert three.sentinel(0, "FAILOVER", "clawdbot") == "OK"
            after = eventually(partial(_other, three, before)) - 1
            time.sleep(3)
            if way == "kill":
                three.run(before, replica_of=after)
            elif way == "freeze":
                three.signal(f"redis{before}", signal.SIGCONT)
            three.whole()
        thread.join()
        [report] = reports
        assert report.ok, report.summary()
        print(report.summary())
        assert any(line.get("result") == "spooled" for line in bot.log("access"))
