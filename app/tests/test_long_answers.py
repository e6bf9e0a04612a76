"""Answers that take a reasoning model three minutes, and a connection that dies, at their real length."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clawdbot import texts
from clawdbot_simulator.users import DingTalk, Feishu

from .conftest import eventually
from .site import Site, site
from .test_faults import answers, tell

pytestmark = pytest.mark.soak
WORDS = " ".join(str(number) for number in range(41))


@pytest.fixture
def bot(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as found:
        yield found


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "in_one_piece"])
def test_an_answer_of_three_minutes_arrives(bot: Site, streams: bool) -> None:
    """A minute of silence and a token every three seconds, or three minutes of silence and all at once."""
    bot.control.set_model_answer(WORDS, before=60, pace=3, streams=streams)
    question = DingTalk(bot.config).text("Li", "think it over")
    began = time.monotonic()
    tell(bot, question)
    eventually(lambda: len(bot.control.messages()) == 2, 240)
    assert time.monotonic() - began > 175
    assert answers(bot, question) == [texts.STILL_WORKING, WORDS]
    assert len(bot.control.records(kind="model")) == 1, "it was asked, and paid, once"


def test_an_answer_of_three_minutes_grows_on_one_card(bot: Site) -> None:
    """Half a minute of silence, after which the card says that it takes longer, and two and a half of words."""
    bot.control.set_model_answer(" ".join(str(number) for number in range(301)), before=30, pace=0.5)
    question = Feishu(bot.config).text("Li", "think it over")
    tell(bot, question)
    eventually(bot.control.messages, 240)
    shown = [record.text for record in bot.control.records(kind="card")]
    assert shown[:2] == [texts.THINKING, texts.STILL_WORKING]
    assert shown == sorted(shown[:2], key=shown.index) + sorted(shown[2:], key=len)
    assert 20 < len(shown) < 60, "few calls, and none too late"
    print(f"an answer of three minutes: {len(shown)} states of the card")
    [card] = bot.control.cards()
    assert card["text"].endswith(" 300")
    assert not card["growing"]
    assert len(bot.control.records(kind="model")) == 1


def test_a_dead_connection_is_noticed_within_twenty_seconds(bot: Site) -> None:
    bot.control.set_model_answer("one two", pace=100)
    question = DingTalk(bot.config).text("Li", "hello")
    tell(bot, question)
    eventually(lambda: bot.control.records(kind="model"))
    began = time.monotonic()
    eventually(lambda: [line for line in bot.log("model_api") if line["outcome"] == "silent"], 30)
    assert time.monotonic() - began < 20
    bot.control.set_model_answer("better now")
    assert answers(bot, question, 30) == ["better now"]
