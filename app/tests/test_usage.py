"""What is counted, and the limits of it."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
from typing import Any

import pytest
import redis
from clawdbot import cli, metrics
from clawdbot.config.voices import Price, Voice
from clawdbot.message import Message
from clawdbot.models.client import Question, Reply
from clawdbot.usage import Spent, Usage

from .test_voices import quick, rig, rule, ruled
from .test_worker import Rig, talk

__all__ = ["quick", "rig", "ruled"]  # fixtures

PRICES = {"main": {"input": 2, "output": 8}}
TODAY = f"{datetime.datetime.now(datetime.UTC).astimezone():%Y-%m-%d}"


def message(sender: str = "u", *, group: bool = False) -> Message:
    return Message("feishu", "m", "oc_1", group, sender, 1)


def counting(rig: Rig, prompt: int = 1000, completion: int = 500) -> None:
    """The model counts."""

    def ask(question: Question) -> Reply:
        rig.model.questions.append(question)
        return Reply(f"{question.text}!", prompt=prompt, completion=completion)

    rig.model.ask = ask  # type: ignore[method-assign]  # a fake's fake


def test_days_and_months_begin_anew(client: redis.Redis) -> None:
    day = [datetime.date(2027, 1, 30)]
    usage = Usage(client, lambda: day[0])
    price = Price(2, 8)
    assert usage.note(message(), "main", price, 1_000_000, 500_000) == Spent(1_500_000, 6_000_000)
    day[0] = datetime.date(2027, 1, 31)
    usage.note(message(), "big", None, 10, 5)
    usage.note(message(group=True), "main", price, 100, 0)
    assert usage.of_person(message()) == {"day": Spent(115, 200), "month": Spent(1_500_115, 6_000_200)}
    day[0] = datetime.date(2027, 2, 1)
    assert usage.of_person(message()) == {"day": Spent(), "month": Spent()}
    lines = list(usage.lines("2027-01"))
    assert [
        (line.day, line.group, line.model, line.answers, line.prompt, line.completion, line.micros) for line in lines
    ] == [
        ("2027-01-30", "", "main", 1, 1_000_000, 500_000, 6_000_000),
        ("2027-01-31", "", "big", 1, 10, 5, 0),
        ("2027-01-31", "oc_1", "main", 1, 100, 0, 200),
    ]
    assert list(usage.lines("2027-02")) == []


def test_limits_are_those_of_the_person_and_of_the_group(client: redis.Redis) -> None:
    usage = Usage(client)
    voice = Voice(person_limits={"tokens_per_day": 100, "cost_per_month": 5}, group_limits={"tokens_per_month": 1000})
    usage.note(message("a", group=True), "main", Price(1_000_000, 0), 3, 7)
    usage.note(message("b", group=True), "main", None, 20, 0)
    found = {
        (limit.who, limit.kind, limit.period): limit.used for limit in usage.limits(message("a", group=True), voice)
    }
    assert found == {
        ("person", "tokens", "day"): 10,
        ("person", "cost", "month"): 3.0,
        ("group", "tokens", "month"): 30,
    }
    assert [limit.who for limit in usage.limits(message("a"), voice)] == ["person", "person"]


def test_a_limit_warns_once_and_then_holds(ruled: Rig) -> None:
    counting(ruled)
    rule(ruled, everybody={"person_limits": {"tokens_per_day": 5000}})
    answers = talk(ruled, "1", "2", "3", "4", "5", "/help")
    near = "(More than 80 % of the limit of 5000 tokens a day are used.)"
    assert answers[:3] == ["1!", "2!", f"3!\n\n{near}"]
    assert answers[3] == "4!", "the last one may go beyond it, since nobody knows before"
    assert answers[4] == "The limit of 5000 tokens a day is reached. Please ask the person who runs the bot."
    assert "/usage" in "".join(answers[5:]), "commands cost nothing"
    assert talk(ruled, "6", sender="another")[-1] == "6!"


def test_a_limit_in_money_of_a_group(ruled: Rig) -> None:
    counting(ruled, 1_000_000, 0)
    rule(ruled, prices=PRICES, groups={"g": {"group_limits": {"cost_per_month": 3}}})
    group: dict[str, Any] = {"conversation": "g", "group": True}
    answers = talk(ruled, "1", sender="a", **group)
    assert talk(ruled, "2", sender="b", **group)[1].startswith("2!\n\n(More than 80 % of the limit of 3.00 CNY a month")
    assert "3.00 CNY a month (the whole group) is reached" in talk(ruled, "3", sender="c", **group)[2]
    assert answers == ["1!"]


def test_people_see_what_they_use(ruled: Rig) -> None:
    counting(ruled, 1_000_000, 0)
    rule(ruled, prices=PRICES, everybody={"person_limits": {"cost_per_day": 10}})
    before = metrics.MODEL_COST.labels("main")._value.get()
    assert talk(ruled, "1", "/usage")[1].splitlines() == [
        "today: 1000000 tokens, 2.00 CNY",
        "this month: 1000000 tokens, 2.00 CNY",
        "limit 10.00 CNY a day: 20 % used",
    ]
    assert metrics.MODEL_COST.labels("main")._value.get() == before + 2.0


def test_a_cached_answer_costs_nothing(ruled: Rig) -> None:
    counting(ruled)
    assert talk(ruled, "same", "same") == ["same!", "same!"]
    [line] = Usage(ruled.client).lines(TODAY[:7])
    assert (line.answers, line.prompt, line.completion) == (1, 1000, 500)


def test_the_operator_sees_it_all(
    ruled: Rig, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counting(ruled)
    rule(ruled, prices=PRICES)
    talk(ruled, "1", "2")
    talk(ruled, "3", conversation="g", group=True, sender="another")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["usage", "--month", TODAY[:7], "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["person"], row["group"], row["answers"], row["prompt"], row["cost"]) for row in rows] == [
        ("another", "g", "1", "1000", "0.006000"),
        ("u", "", "2", "2000", "0.012000"),
    ]
    assert cli.main(["usage"]) == 0
    assert "another" in capsys.readouterr().out
    assert cli.main(["usage", "--month", "january"]) == 78


def test_with_a_full_redis_people_are_answered(ruled: Rig) -> None:
    ruled.client.config_set("maxmemory", "1")
    try:
        found = Usage(ruled.client).note(message(), "main", None, 1, 1)
    finally:
        ruled.client.config_set("maxmemory", "0")
    assert found == Spent(2, 0)
    assert dataclasses.astuple(Usage(ruled.client).spent("feishu:person:u", "day")) == (0, 0)
