"""The account of a load run catches every way in which a bot can fail."""

import itertools
import threading
from dataclasses import replace

import pytest
from clawdbot_simulator import load
from clawdbot_simulator.client import Control
from clawdbot_simulator.load import Load, Message, Plan, Report
from clawdbot_simulator.records import Record
from clawdbot_simulator.users import Feishu

from .conftest import Behaviour, good, toy_bot

PLAN = Plan(rate=100, duration=1, conversations=6, settle=2)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LINGER", 0.3)


def run(sim: Control, behaviour: Behaviour = good, plan: Plan = PLAN, batch: int = 1) -> Report:
    with toy_bot(sim, behaviour, batch) as url:
        return Load(plan, sim, url).run()


def test_a_good_bot(sim: Control) -> None:
    report = run(sim)
    assert report.ok, report.summary()
    assert (report.messages, report.accepted, report.answered_once, report.requests) == (100, 100, 100, 100)
    assert 50 < report.rate <= 100
    assert 0 < report.ack_p50_ms <= report.ack_p99_ms <= report.ack_max_ms
    assert report.summary().startswith("ok: 100 messages at ")


def test_repetitions_are_sent_and_answered_once(sim: Control) -> None:
    report = run(sim, plan=replace(PLAN, duplicates=0.2))
    assert report.ok, report.summary()
    assert report.requests == 120


def test_a_run_that_is_stopped_accounts_for_what_was_sent(sim: Control) -> None:
    with toy_bot(sim, good) as url:
        endless = Load(replace(PLAN, duration=20), sim, url)
        threading.Timer(1, endless.stop).start()
        report = endless.run()
    assert report.ok, report.summary()
    assert 0 < report.messages < 1000


def test_one_platform(sim: Control) -> None:
    assert run(sim, plan=replace(PLAN, platforms=("feishu",))).ok
    assert {record.platform for record in sim.messages()} == {"feishu"}


def test_lost_messages(sim: Control) -> None:
    report = run(sim, lambda number, text: [] if number % 10 == 0 else [text])
    assert (report.ok, report.lost, report.answered_once) == (False, 10, 90)


def test_second_answers(sim: Control) -> None:
    report = run(sim, lambda number, text: [text] * (2 if number % 10 == 0 else 1))
    assert (report.ok, report.answered_twice, sum(report.doubled.values())) == (False, 10, 10)
    assert set(report.doubled) <= {"dingtalk", "feishu"}  # in the same words
    assert " 10 answered twice (" in report.summary()


def test_who_waits_for_long_may_be_told(sim: Control) -> None:
    def slow(_number: int, text: str) -> list[str]:
        return ["Wait", text]

    plan = replace(PLAN, rate=20)
    assert run(sim, slow, plan).answered_twice == 20
    assert run(sim, slow, replace(plan, notices=["Wait"])).answered_once == 20


def test_apologies(sim: Control) -> None:
    report = run(sim, lambda number, text: ["Sorry"] if number % 10 == 0 else [text])
    assert (report.ok, report.wrong_answers) == (False, 10)


def test_disorder(sim: Control) -> None:
    report = run(sim, batch=10, plan=replace(PLAN, rate=20, duration=2, conversations=1))
    assert (report.ok, report.answered_once) == (False, 40)
    assert report.out_of_order >= 4  # at the least the first of each batch, answered last


def test_refused_callbacks(sim: Control) -> None:
    report = run(sim, lambda number, text: None if number == 50 else [text])
    assert (report.ok, report.accepted, report.lost) == (False, 50, 0)
    assert report.failures == {"HTTP 503": 50}


def test_refused_callbacks_are_retried_if_wanted(sim: Control) -> None:
    calls = itertools.count()
    plan = replace(PLAN, retries=(0.1, 0.2))
    report = run(sim, lambda _, text: None if next(calls) in (3, 5, 7) else [text], plan)
    assert (report.accepted, report.answered_once, report.out_of_order) == (100, 100, 0)
    assert (report.failed_requests, report.ok) == (3, False)


def test_an_absent_bot(sim: Control) -> None:
    report = Load(PLAN, sim, "http://127.0.0.1:1").run()
    assert (report.ok, report.failures) == (False, {"ConnectionError": 100})


def test_messages_under_way_together_have_no_order(sim: Control) -> None:
    def message(sent: float, accepted: float, answer: int) -> Message:
        record = Record(answer, 0, "message", "feishu.reply")
        return Message(lambda: Feishu(sim.config).text("Bob", "hi"), sent, accepted, [record])

    assert load.out_of_order([message(1, 3, answer=2), message(2, 4, answer=1)]) == 0
    assert load.out_of_order([message(1, 2, answer=2), message(3, 4, answer=1)]) == 1
    assert load.out_of_order([message(1, 2, answer=1), message(3, 4, answer=2)]) == 0


def test_percentiles() -> None:
    assert load.percentile([], 99) == 0
    assert [load.percentile([0.001 * n for n in range(1, 101)], p) for p in (50, 99, 100)] == [50, 99, 100]


def test_the_longest_gap() -> None:
    assert load.longest_gap([]) == load.longest_gap([1.0]) == 0
    assert load.longest_gap([4.0, 1.0, 1.5]) == 2500
