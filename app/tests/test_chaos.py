"""Chaos: real processes, a real Redis, kill -9, and every message accounted for at the simulator."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from clawdbot import texts
from clawdbot_simulator.load import Load, Plan, Report

from .conftest import eventually
from .site import Site, site

RETRIES = (0.3, 0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0)
# For who starts on a busy machine, where Python alone takes half a minute for it.
PATIENT = (*RETRIES, 15.0, 30.0, 60.0)


def under_load(
    bot: Site,
    plan: Plan,
    disturb: Iterable[tuple[float, str] | tuple[float, str, Path | None]],
    *,
    callbacks: bool = True,
) -> Report:
    """Run a load of callbacks, or over the connections that the bot has opened.

    ``disturb`` says how many seconds after its start which unit is killed, and which release comes in its place. "cut"
    are all connections of the bot.
    """
    reports: list[Report] = []
    # On a machine that is busy with other things, some wait so long that the bot asks them for patience.
    plan = dataclasses.replace(plan, notices=(texts.STILL_WORKING,))
    load = Load(plan, bot.control, bot.url if callbacks else "")
    thread = threading.Thread(target=lambda: reports.append(load.run()))
    begin = time.monotonic()
    thread.start()
    for second, name, *release in disturb:
        time.sleep(max(0.0, begin + second - time.monotonic()))
        if name == "redis":
            bot.redis.kill()
            time.sleep(1)
            bot.redis.start()
        elif name == "cut":
            bot.control.disturb("cut")
        else:
            bot.kill(name)
            time.sleep(0.2)
            bot.run(name, *release)
    thread.join()
    [report] = reports
    print(report.summary())
    return report


def assert_kept(report: Report, bot: Site) -> None:
    """The promise. Requests may fail while nobody is there to answer; the platform repeats them."""
    assert report.accepted == report.messages
    assert (report.lost, report.answered_twice, report.out_of_order, report.wrong_answers) == (0, 0, 0, 0)
    assert report.answered_once == report.messages
    assert bot.queue().depth().dead == 0


def test_kill_nine(tmp_path: Path) -> None:
    """600 messages of 40 conversations, 20 % of them twice; ten kills, and Redis once."""
    messages = int(os.environ.get("CLAWDBOT_CHAOS_MESSAGES", "600"))
    rate = 30.0
    plan = Plan(rate=rate, duration=messages / rate, duplicates=0.2, retries=PATIENT, timeout=5.0, settle=300.0)
    step = plan.duration / 12
    victims = [
        "worker-a",
        "web",
        "worker-b",
        "worker-a",
        "web",
        "redis",
        "worker-b",
        "worker-a",
        "web",
        "worker-b",
        "web",
    ]
    disturb = [(step * (number + 1), victim) for number, victim in enumerate(victims)]
    with site(tmp_path) as bot:
        bot.control.add_fault("model.*", "slow", seconds=0.15)
        report = under_load(bot, plan, disturb)
        assert_kept(report, bot)
        assert report.requests >= messages * 1.2


@pytest.mark.soak
def test_worker_killed_all_the_time(tmp_path: Path) -> None:
    """A kill every three seconds: the window between sending and remembering is hit if it can be."""
    plan = Plan(rate=20, duration=180, duplicates=0.2, retries=RETRIES, timeout=5.0, settle=180.0)
    disturb = [(3.0 * (1 + number), f"worker-{'ab'[number % 2]}") for number in range(56)]
    with site(tmp_path) as bot:
        bot.control.add_fault("model.*", "slow", seconds=0.15)
        assert_kept(under_load(bot, plan, disturb), bot)


def test_terminated_worker_finishes_its_answer(tmp_path: Path) -> None:
    plan = Plan(rate=20, duration=4, timeout=30.0, settle=120)
    with site(tmp_path, CLAWDBOT_LEASE_SECONDS="60") as bot:
        bot.control.add_fault("model.*", "slow", seconds=0.5)
        reports: list[Report] = []
        load = Load(plan, bot.control, bot.url)
        thread = threading.Thread(target=lambda: reports.append(load.run()))
        thread.start()
        for name in ("worker-a", "worker-b"):
            time.sleep(1)
            assert bot.terminate(name) == 0
            bot.run(name)
        thread.join()
        assert reports[0].ok, reports[0].summary()
        # Nothing had to wait for a lease to run out.
        assert reports[0].answer_max_ms < 30_000
        eventually(lambda: any(line.get("message") == "worker ended" for line in bot.log("error")))
