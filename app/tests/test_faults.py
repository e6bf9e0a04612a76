"""Faults of platforms and model, against the simulator: each ends in an answer or an apology, once."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from clawdbot import languages, texts
from clawdbot_simulator.records import Record
from clawdbot_simulator.users import DingTalk, Feishu, Question
from PIL import Image

from .conftest import eventually
from .site import Site, site


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(bot: Site) -> None:
    bot.control.reset()


Users = dict[str, DingTalk | Feishu]


@pytest.fixture
def users(bot: Site) -> Users:
    return {"dingtalk": DingTalk(bot.config), "feishu": Feishu(bot.config)}


def tell(bot: Site, question: Question) -> None:
    assert question.callback().post(bot.url, timeout=60).status_code == 200


def answers(bot: Site, question: Question, seconds: float = 120.0) -> list[str]:
    """What the user reads in answer, and half a second more for what should not come."""

    def found() -> list[Record]:
        return [record for record in bot.control.messages() if record.conversation == question.conversation]

    eventually(found, seconds)
    time.sleep(0.5)
    return [record.text for record in found()]


BOTH = pytest.mark.parametrize("platform", ["dingtalk", "feishu"])
number = iter(range(10_000))


def ask(bot: Site, users: Users, platform: str) -> list[str]:
    question = users[platform].text(f"user {next(number)}", f"question {next(number)}")
    tell(bot, question)
    return [re.sub(rf"^echo: {question.text}$", "answered", text) for text in answers(bot, question)]


@BOTH
def test_conversation(bot: Site, users: Users, platform: str) -> None:
    assert ask(bot, users, platform) == ["answered"]


FAULTS: list[tuple[str, str, dict[str, Any]]] = [
    ("dingtalk.session", "rate_limit", {"count": 1}),
    ("dingtalk.session", "server_error", {"count": 2}),
    ("dingtalk.session", "drop", {"count": 1}),
    ("dingtalk.session", "dead_session", {}),
    ("dingtalk.*", "expired_token", {"count": 1}),
    ("feishu.reply", "rate_limit", {"count": 1}),
    ("feishu.reply", "server_error", {"count": 2}),
    ("feishu.reply", "drop", {"count": 1}),
    ("feishu.reply", "drop_after", {"count": 1}),
    ("feishu.reply", "expired_token", {"count": 1}),
    ("model.*", "rate_limit", {"count": 1}),
    ("model.*", "server_error", {"count": 1}),
    ("model.*", "server_error", {"count": 3}),
    ("model.*", "drop", {"count": 1}),
    ("model.*", "slow", {"seconds": 4, "count": 1}),
]


@pytest.mark.parametrize(("endpoint", "kind", "options"), FAULTS, ids=lambda value: str(value))
def test_fault_ends_in_the_answer(bot: Site, users: Users, endpoint: str, kind: Any, options: dict[str, Any]) -> None:
    bot.control.add_fault(endpoint, kind, **options)
    platform = "feishu" if endpoint.startswith("feishu") else "dingtalk"
    assert ask(bot, users, platform) == ["answered"]
    assert sum(fault.hits for fault in bot.control.faults()) > 0


def test_dead_session_and_expired_token_together(bot: Site, users: Users) -> None:
    assert ask(bot, users, "dingtalk") == ["answered"]
    bot.control.add_fault("dingtalk.session", "dead_session")
    bot.control.add_fault("dingtalk.batch_send", "expired_token", count=1)
    assert ask(bot, users, "dingtalk") == ["answered"]


@BOTH
def test_refused_key_is_told_at_once(bot: Site, users: Users, platform: str) -> None:
    bot.control.add_fault("model.*", "expired_token")
    assert ask(bot, users, platform) == [texts.MISCONFIGURED]
    page = requests.get(f"{bot.url}/metrics", timeout=5).text
    assert 'clawdbot_model_calls_total{outcome="auth",provider="gpt"}' in page


@BOTH
def test_whoever_writes_chinese_is_answered_in_it(bot: Site, users: Users, platform: str) -> None:
    chinese = languages.known()["zh"]
    bot.control.add_fault("model.*", "expired_token")
    for words, said in (("请问怎么办", texts.MISCONFIGURED), ("/重置", texts.RESET)):
        question = users[platform].text(f"李 {next(number)}", words)
        tell(bot, question)
        assert answers(bot, question) == [chinese.say(said)]


@BOTH
def test_group(bot: Site, users: Users, platform: str) -> None:
    question = users[platform].text("Li", f"in the group {next(number)}", group=f"group {next(number)}")
    tell(bot, question)
    assert answers(bot, question) == [f"echo: {question.text}"]


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (30, 20), "blue").save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    "write",
    [
        lambda users, key: users["dingtalk"].picture("Li", key),
        lambda users, key: users["dingtalk"].rich_text("Li", "what is it?", [key]),
        lambda users, key: users["feishu"].image("Han", key),
    ],
)
def test_pictures(bot: Site, users: Users, write: Callable[[Users, str], Question]) -> None:
    key = f"img_{next(number)}"
    bot.control.upload(key, picture())
    question = write(users, key)
    tell(bot, question)
    eventually(lambda: [text for text in answers(bot, question) if "[1 image(s)]" in text], 120)


def test_memory_of_web_and_workers(bot: Site) -> None:
    """Web (three processes and their master) and one worker together stay below 300 MB."""
    pids = [bot.processes["worker-a"].pid, bot.processes["web"].pid]
    children = Path(f"/proc/{pids[1]}/task/{pids[1]}/children").read_text().split()
    total = 0
    for pid in [*map(str, pids), *children]:
        total += int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])
    assert len(children) == 3
    assert total / 1024 < 300


def test_no_secret_and_no_words_in_any_log(bot: Site, users: Users) -> None:
    question = users["dingtalk"].text("Li", "my very private words")
    tell(bot, question)
    answers(bot, question)
    config = bot.config
    secrets = [
        config.dingtalk.app_secret, config.dingtalk.aes_key, config.dingtalk.token, config.dingtalk.access_token,
        config.dingtalk.robot_secret, config.feishu.app_secret, config.feishu.encryption_key,
        config.feishu.verification_token, config.model.api_key,
    ]  # fmt: skip
    text = "".join(file.read_text() for file in [*bot.logs.iterdir(), *bot.folder.glob("*.out")])
    assert len(text) > 1000
    assert not [secret for secret in secrets if secret in text]
    for word in ("private", "session=", "sign=", "Traceback"):
        assert word not in text
