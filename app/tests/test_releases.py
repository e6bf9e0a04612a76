"""Two releases on one queue: what one wrote the other one reads, in both directions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import redis
from clawdbot.config import Settings
from clawdbot.message import Message
from clawdbot.store import key
from clawdbot_simulator.load import Plan

from .conftest import eventually
from .site import site
from .test_chaos import PATIENT, assert_kept, under_load
from .test_worker import Rig, quick, running

VECTORS = Path(__file__).with_name("vectors")
# The releases whose queue may be met, each as `record_release` recorded it.
RECORDED = sorted(VECTORS.glob("release_*.json"))
# The last of them itself. Not from the history: a shallow clone has none.
LAST_RELEASE = RECORDED[-1].with_suffix(".tar.xz")

__all__ = ["quick"]  # a fixture of `test_worker` that is used here as well


@pytest.fixture
def rig(settings: Settings, client: redis.Redis) -> Rig:
    return Rig(settings, client)


@pytest.fixture(params=RECORDED, ids=lambda path: path.stem)
def left(request: pytest.FixtureRequest, client: redis.Redis) -> list[list[str]]:
    """What a release left in Redis when its workers were killed, now in the Redis of the test."""
    commands: list[list[str]] = json.loads(request.param.read_text("utf-8"))
    for command in commands:
        client.execute_command(*command)  # type: ignore[no-untyped-call]  # the package has no types here
    return commands


def accepted(left: list[list[str]]) -> list[Message]:
    """All messages that the release accepted."""
    return [Message.load(part) for name, at, *parts in left if name == "RPUSH" and ":conv:" in at for part in parts]


def test_what_an_earlier_release_left_is_answered(left: list[list[str]], rig: Rig) -> None:
    messages = accepted(left)
    assert len(messages) > 8
    assert all(rig.queue.accept(sent) == "duplicate" for sent in messages)
    with running(rig.worker(lease_seconds=1, names=("dingtalk", "feishu"))):
        rig.idle()
    told = {sent.id for sent in messages if sent.text.startswith(("Answered", "你好", "dead"))}
    # The first part of this one had gone out when the worker was killed: it is not sent again.
    told |= {sent.id for sent in messages if sent.text == "begun 1"}
    read = [name for name, _ in rig.platform.read]
    assert sorted(read) == sorted(sent.id for sent in messages if sent.id not in told)
    for sent in messages:
        same = [other.id for other in messages if other.conversation_key == sent.conversation_key]
        assert [name for name in read if name in same] == [name for name in same if name in read]
    # The model was not paid again for what had been decided, and the histories are there.
    assert "begun 1" not in [question.text for question in rig.model.questions]
    assert rig.client.get(key("session", next(sent for sent in messages if sent.text == "begun 1").conversation_key))


def test_dead_letters_of_an_earlier_release(left: list[list[str]], rig: Rig) -> None:
    letters = list(rig.queue.dead())
    assert len(letters) == 2
    assert all(letter.message and letter.message.text.startswith("dead") for letter in letters)
    rig.queue.tidy()
    assert rig.queue.revive(letters) == 2
    with running(rig.worker(lease_seconds=1, names=("dingtalk", "feishu"))):
        rig.idle()
    assert {letter.message.id for letter in letters if letter.message} <= {name for name, _ in rig.platform.read}
    assert rig.queue.depth().dead == 0
    assert left


def last_release(folder: Path) -> Path:
    """The application of the last release."""
    shutil.unpack_archive(LAST_RELEASE, folder, filter="data")
    return folder


def test_two_releases_side_by_side(tmp_path: Path) -> None:
    """Roll-out and roll-back under load: each of web and workers is of the one release and of the other in turn."""
    old = last_release(tmp_path / "old")
    plan = Plan(rate=20, duration=20, duplicates=0.2, retries=PATIENT, timeout=5.0, settle=300.0)
    with site(tmp_path / "site") as bot:
        bot.control.add_fault("model.*", "slow", seconds=0.15)
        bot.kill("worker-b")
        bot.run("worker-b", old)
        report = under_load(
            bot, plan, [(5, "web", old), (10, "worker-a", old), (13, "worker-b", None), (15, "web", None)]
        )
        assert_kept(report, bot)
        eventually(lambda: bot.queue().depth().messages == 0)
