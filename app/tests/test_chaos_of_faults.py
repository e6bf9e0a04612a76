"""Everything that can be the matter, one after the other at random, under load: who was accepted is answered or told.

python -m pytest -m soak tests/test_chaos_of_faults.py                             ten minutes
CLAWDBOT_SOAK_SECONDS=120 python -m pytest -m soak tests/test_chaos_of_faults.py
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from clawdbot import texts
from clawdbot.engine.queue import WAITING, DeadLetter
from clawdbot_simulator.load import Load, Message, Plan, out_of_order
from clawdbot_simulator.records import Record

from .conftest import eventually
from .site import APP, Site, site
from .test_chaos import RETRIES
from .test_releases import last_release

SECONDS = float(os.environ.get("CLAWDBOT_SOAK_SECONDS", "600"))
SHORT = 10.0
# A model is silent for three minutes, and messages are given up after one.
SILENCE = min(180.0, SECONDS / 3)
GIVE_UP = min(60.0, SILENCE * 2 / 3)
SLOW = 15.0
CALM = 5.0
# A platform's repetitions, in seconds after the first callback.
REPEATED = 30.0
FEW = 20
QUESTION = re.compile(r"load-\w+-\d+")


@dataclasses.dataclass
class Faults:
    """What is done to the bot, and what nobody can promise because of it."""

    bot: Site
    old: Path
    # Moments at which Redis was emptied; which messages waited in it, and the dead letters that went with it.
    emptied: list[float] = dataclasses.field(default_factory=list)
    lost: set[str] = dataclasses.field(default_factory=set)
    forgotten: list[DeadLetter] = dataclasses.field(default_factory=list)

    def full(self) -> None:
        """Redis takes nothing more."""
        client = self.bot.queue().client
        client.config_set("maxmemory", client.info("memory")["used_memory"])
        time.sleep(SHORT)
        client.config_set("maxmemory", "256mb")

    def empty(self) -> None:
        """Redis forgets everything."""
        queue = self.bot.queue()
        # What waits is lost, so let there be little of it.
        eventually(lambda: queue.depth().messages < FEW, 120)
        self.forgotten += queue.dead()
        self.lost.update(map(str, queue.client.zrange(WAITING, 0, -1)))
        self.emptied.append(time.time())
        queue.client.flushall()

    def restart(self) -> None:
        """Redis dies and comes back."""
        self.bot.redis.kill()
        time.sleep(3)
        self.bot.redis.start()

    def read_only(self) -> None:
        """Redis becomes a replica, and is made the primary again."""
        client = self.bot.queue().client
        client.replicaof("127.0.0.1", "1")
        time.sleep(SHORT)
        client.replicaof("NO", "ONE")

    def two_releases(self) -> None:
        """A roll-out as it is done, node by node, backwards and forwards."""
        for release in (self.old, None):
            for name in ("worker-b", "web"):
                self.bot.terminate(name)
                self.bot.run(name, release)
            eventually(self.bot.ready, 30)
            time.sleep(SHORT)

    def silent_model(self) -> None:
        """The model takes questions and says nothing."""
        self.bot.control.add_fault("model.*", "slow", seconds=SILENCE)
        time.sleep(SILENCE)
        self.bot.control.clear_faults()

    def slow_platform(self) -> None:
        """The platforms do what they are told, and say so too late."""
        for endpoint in ("dingtalk.*", "feishu.*"):
            self.bot.control.add_fault(endpoint, "slow", seconds=SLOW)
        time.sleep(2 * SLOW)
        self.bot.control.clear_faults()

    def all(self) -> list[Callable[[], None]]:
        """The faults."""
        found = [self.full, self.empty, self.restart, self.read_only, self.two_releases, self.slow_platform]
        return [*found, self.silent_model]


def at_random(faults: Faults, seconds: float) -> Iterator[str]:
    """Do all of it in an order of chance, again and again until the time is over; yield the names."""
    end = time.monotonic() + seconds
    while True:
        for fault in random.sample(faults.all(), len(faults.all())):
            if time.monotonic() > end:
                return
            fault()
            yield fault.__name__
            time.sleep(CALM)


@dataclasses.dataclass
class Account:
    """What became of one message.

    Attributes:
        answers: when its answer was shown.
        dead: its dead letter, if it was given up.
        excused: True if Redis was emptied while it waited, or before the platform had stopped to repeat it.
    """

    answers: list[float]
    dead: DeadLetter | None
    excused: bool

    @property
    def kept(self) -> bool:
        """Whether the promise was kept."""
        if self.excused:
            return True
        if self.dead:
            return bool(self.dead.reason) and not self.answers
        return len(self.answers) == 1


def accounts(messages: list[Message], faults: Faults, dead: Mapping[str, DeadLetter]) -> dict[str, Account]:
    """The account of every accepted message by its key."""
    found = {}
    for message in messages:
        answers = [answer.time for answer in message.answers]
        name = f"{message.question.platform}:{message.question.message_id}"
        repeated = any(moment - REPEATED < message.first_sent < moment + CALM for moment in faults.emptied)
        found[name] = Account(answers, dead.get(name), excused=repeated or name in faults.lost)
    return found


def read_back(messages: list[Message], records: list[Record]) -> None:
    """Give every message the answers that were shown until now."""
    shown: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if found := QUESTION.search(record.text):
            shown[found[0]].append(record)
    for message in messages:
        message.answers = shown[message.question.text]


def apologies(records: list[Record]) -> dict[str, int]:
    """How many apologies each conversation got: whatever is neither an answer nor a request for patience."""
    found: dict[str, int] = defaultdict(int)
    for record in records:
        if not QUESTION.search(record.text) and record.text != texts.STILL_WORKING:
            found[f"{record.platform}:{record.conversation}"] += 1
    return found


@pytest.mark.soak
def test_chaos_of_faults(tmp_path: Path) -> None:
    settings = {
        "CLAWDBOT_GIVE_UP_SECONDS": str(int(GIVE_UP)),
        "CLAWDBOT_WORKER_CONCURRENCY": "40",
        "MODEL_FIRST_TOKEN_SECONDS": str(int(GIVE_UP / 3)),
    }
    # What becomes of the last messages is looked up below: not all are answered.
    plan = Plan(rate=8, duration=SECONDS + 10, duplicates=0.2, retries=RETRIES, timeout=5.0, settle=0)
    with site(tmp_path / "site", APP, **settings) as bot:
        faults = Faults(bot, last_release(tmp_path / "old"))
        load = Load(plan, bot.control, bot.url)
        thread = threading.Thread(target=load.run)
        begin = time.monotonic()
        thread.start()
        for name in at_random(faults, SECONDS):
            print(f"{time.monotonic() - begin:6.1f} s: {name} is over, {bot.queue().depth()}")
        thread.join()
        eventually(lambda: bot.queue().depth().messages == 0, SILENCE + 240)
        time.sleep(CALM)
        messages, records = [message for message in load._messages if message.accepted], bot.control.messages()
        letters = [*faults.forgotten, *bot.queue().dead()]
    read_back(messages, records)
    dead = {letter.key: letter for letter in letters}
    found, told = accounts(messages, faults, dead), apologies(records)
    broken = {name: account for name, account in found.items() if not account.kept}
    excused = sum(account.excused for account in found.values())
    twice = sum(len(account.answers) > 1 for account in found.values())
    print(f"{len(found)} accepted, {excused} excused, {len(dead)} dead letters, {twice} twice, {len(broken)} broken")
    print({letter.reason for letter in letters})
    assert len(found) > SECONDS * plan.rate / 2
    assert broken == {}
    assert not [letter for letter in letters if "lease" in letter.reason], "who lost a lease leaves the message alone"
    assert out_of_order(messages) == 0
    wanted: dict[str, int] = defaultdict(int)
    for letter in dead.values():
        # One that could not be told of says so.
        wanted[letter.conversation] += "no apology" not in letter.reason
    assert told == wanted
