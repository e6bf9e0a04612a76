"""The rules in real processes, against the simulator: taken up while all runs, and the next model on the same card."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clawdbot import texts
from clawdbot_simulator.users import Feishu, Question

from .conftest import eventually, free_port
from .site import Site, site
from .test_faults import answers, tell

WORDS = "One two three four five."


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Nobody answers where the main model should."""
    away = f"http://127.0.0.1:{free_port()}/v1"
    with site(tmp_path_factory.mktemp("site"), MODEL_BASE_URL=away, CLAWDBOT_GIVE_UP_SECONDS="600") as found:
        yield found


def rule(bot: Site, **data: Any) -> None:
    path = bot.folder / "config/bot.yaml"
    partial = path.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(data), "utf-8")
    partial.replace(path)


def backup(bot: Site) -> dict[str, Any]:
    """The simulator as another model."""
    config = bot.config
    return {"type": "gpt", "base_url": f"{config.public_url}/v1", "api_key": config.model.api_key, "name": "sim-vision"}


def ask(bot: Site, text: str, name: str = "Li") -> Question:
    question = Feishu(bot.config).text(name, text)
    tell(bot, question)
    return question


def test_a_question_that_waits_is_answered_when_another_model_is_named(bot: Site) -> None:
    """Nothing is restarted, and the card that the user looks at all the time is the one that ends."""
    bot.control.set_model_answer(WORDS, before=0.5, pace=0.2)
    before = {name: bot.processes[name].pid for name in ("web", "worker-a", "worker-b")}
    question = ask(bot, "is anybody there?")
    eventually(lambda: bot.control.records(kind="card", conversation=question.conversation))
    rule(bot, models={"backup": backup(bot)}, everybody={"models": ["main", "backup"]}, prices={"backup": {"input": 1}})
    assert answers(bot, question) == [WORDS]
    [card] = bot.control.cards()
    assert (card["text"], card["growing"]) == (WORDS, False)
    assert {name: bot.processes[name].pid for name in before} == before
    assert all(Path(f"/proc/{pid}").exists() for pid in before.values())


def test_rules_that_are_not_sound_change_nothing_and_are_told(bot: Site) -> None:
    rule(bot, everybody={"models": ["nobody"]})
    assert answers(bot, ask(bot, "and now?", "Han")) == [WORDS]

    def told() -> bool:
        # It is looked at when somebody writes.
        assert answers(bot, ask(bot, "and now?", os.urandom(4).hex())) == [WORDS]
        return any("not sound" in str(line) for line in bot.log("error"))

    eventually(told)
    assert "'nobody' is no model" in bot.check()


def test_who_may_not_write_is_told(bot: Site) -> None:
    rule(bot, models={"backup": backup(bot)}, everybody={"models": ["backup"], "may_write": False})

    def refused() -> bool:
        again = ask(bot, f"hello {os.urandom(4).hex()}", "Wang")
        return answers(bot, again)[-1] == texts.NOT_ALLOWED

    eventually(refused)
