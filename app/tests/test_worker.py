"""Worker and chat together: what becomes of a message, whatever happens."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from clawdbot import gathering, texts
from clawdbot.answers import Answer
from clawdbot.cache import Cache
from clawdbot.chat import Chat
from clawdbot.config import Access, ModelConfig, Settings
from clawdbot.engine import worker as worker_module
from clawdbot.engine.queue import Begun, Hold, Lease, Queue
from clawdbot.engine.worker import Worker
from clawdbot.errors import Final, Retry, Throttled, Unsure
from clawdbot.limits import Limiter
from clawdbot.message import Message
from clawdbot.models.client import Question, Reply
from clawdbot.models.presets import Preset
from clawdbot.platforms.base import Attachment, CardSender, Quote, Sender
from clawdbot.sent import Mark
from clawdbot.store import connect, key, raw_bytes, session_key
from PIL import Image

from .conftest import RedisServer, eventually


class FakePlatform:
    """Remembers what users would have read; fails on demand."""

    name = "dingtalk"
    part_bytes = 200

    def __init__(self) -> None:
        self.access = Access()
        self.cards: CardSender | None = None
        self.monthly_calls = 0
        self.signs: list[str] = []
        self.read: list[tuple[str, str]] = []
        self.failures: list[Exception] = []
        self.after_writing: Callable[[], None] = lambda: None
        self.deaf = False
        self.picture = b"no picture"
        self.fetched: list[Attachment] = []
        self.quotes: dict[str, Quote] = {}
        self.downloads: list[Exception] = []

    def addressed(self, message: Message) -> bool:
        """Whether the bot is meant."""
        return not (message.group and self.deaf)

    def react(self, message: Message) -> str:
        """Show a sign."""
        self.signs.append(message.key)
        return "sign"

    def unreact(self, message: Message, reaction: str) -> None:
        """Take it away."""
        assert reaction == "sign"
        self.signs.remove(message.key)

    def user_name(self, message: Message) -> str:
        """A name for some."""
        return message.sender_name

    def quoted(self, message: Message) -> Quote | None:
        """What some tests put there."""
        return self.quotes.get(message.id)

    def download(self, message: Message, picture: Attachment) -> bytes:  # noqa: ARG002  # part of Sender
        """The picture, or a failure."""
        if self.downloads:
            raise self.downloads.pop(0)
        self.fetched.append(picture)
        return self.picture

    def send(self, message: Message, part: str, content: str, mark: Mark) -> None:  # noqa: ARG002  # Sender's
        """Show it to the user, or fail before."""
        if self.failures:
            raise self.failures.pop(0)
        self.read.append((message.id, content))
        mark.written()
        self.after_writing()


class FakeModel:
    """Answers ``<text>!``; fails on demand."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.failures: list[Exception] = []
        self.broken: dict[str, Exception] = {}
        self.gate = threading.Event()
        self.gate.set()

    def ask(self, question: Question) -> Reply:
        """Answer."""
        self.questions.append(question)
        self.gate.wait(60)
        if self.failures:
            raise self.failures.pop(0)
        if question.text in self.broken:
            raise self.broken[question.text]
        return Reply(f"{question.text}!")


@dataclasses.dataclass
class Rig:
    """A bot without HTTP."""

    settings: Settings
    client: redis.Redis
    platform: FakePlatform = dataclasses.field(default_factory=FakePlatform)
    model: FakeModel = dataclasses.field(default_factory=FakeModel)
    others: dict[str, FakeModel] = dataclasses.field(default_factory=dict)
    counter: int = 0
    give_up_seconds: float = 600.0

    def __post_init__(self) -> None:
        self.queue = Queue(self.client, "writer")
        self.queue.prepare()

    def make(self, config: ModelConfig) -> FakeModel:
        """A model of ``bot.yaml``, by the name that it has at its service."""
        return self.others.setdefault(config.model, FakeModel())

    def worker(
        self, name: str = "w", *, slots: int = 4, lease_seconds: float = 30, names: Sequence[str] = ("dingtalk",)
    ) -> Worker:
        """A worker over the fakes, for the platforms of those ``names``."""
        client = connect(self.settings.redis, timeout=2)
        queue = Queue(client, name)
        platforms: dict[str, Sender] = dict.fromkeys(names, self.platform)
        cache = Cache(client, enabled=self.settings.redis.enabled, ttl=60)
        chat = Chat(self.settings, platforms, self.model, cache, Limiter(client), queue, make=self.make)
        return Worker(
            queue, chat, slots=slots, lease_seconds=lease_seconds, give_up_seconds=self.give_up_seconds, ttl=60
        )

    def say(self, text: str = "hello", conversation: str = "c", **fields: Any) -> Message:
        """Queue a message."""
        self.counter += 1
        base = Message("dingtalk", f"m{self.counter}", conversation, False, "u", self.counter, text=text)
        message = dataclasses.replace(base, **fields)
        assert self.queue.accept(message) == "accepted"
        return message

    def answers(self) -> list[str]:
        """What users read."""
        return [text for _, text in self.platform.read]

    def idle(self) -> None:
        """Wait until nothing waits."""
        eventually(lambda: self.queue.depth().messages == 0)


@contextlib.contextmanager
def running(*workers: Worker) -> Iterator[None]:
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(worker_module, "POLL_MS", 20)


@pytest.fixture
def rig(settings: Settings, client: redis.Redis) -> Rig:
    return Rig(settings, client)


def talk(rig: Rig, *texts: str, **fields: Any) -> list[str]:
    """Say something and return all answers so far."""
    for text in texts:
        rig.say(text, **fields)
    with running(rig.worker()):
        rig.idle()
    return rig.answers()


def test_answers_in_order(rig: Rig) -> None:
    expected = []
    for number in range(30):
        rig.say(str(number), conversation=f"c{number % 3}")
        expected.append(f"{number}!")
    with running(rig.worker("a"), rig.worker("b")):
        rig.idle()
    for start in range(3):
        got = [text for name, text in rig.platform.read if (int(name[1:]) - 1) % 3 == start]
        assert got == expected[start::3]


def test_history_goes_along_and_is_forgotten_on_demand(rig: Rig) -> None:
    rig.settings = dataclasses.replace(rig.settings, model=dataclasses.replace(model_of(rig), preset=long_memory(rig)))
    assert talk(rig, "one", "two", "/reset", "three") == ["one!", "two!", texts.RESET, "three!"]
    assert [list(question.history) for question in rig.model.questions] == [[], [("one", "one!")], []]


def model_of(rig: Rig) -> ModelConfig:
    assert rig.settings.model
    return rig.settings.model


def long_memory(rig: Rig) -> Preset:
    return dataclasses.replace(model_of(rig).preset, history_tokens=1000)


def test_without_cache_it_works_and_remembers_nothing(rig: Rig) -> None:
    rig.settings = dataclasses.replace(rig.settings, redis=dataclasses.replace(rig.settings.redis, enabled=False))
    assert talk(rig, "one", "one") == ["one!", "one!"]
    assert [list(question.history) for question in rig.model.questions] == [[], []]
    assert rig.client.get(session_key("dingtalk:c")) is None


def test_cached_output_is_for_the_same_user_in_the_same_situation_only(rig: Rig) -> None:
    assert talk(rig, "hot", "hot") == ["hot!", "hot!"]
    assert len(rig.model.questions) == 1
    rig.say("hot", sender="somebody else")
    rig.say("hot", conversation="d")
    with running(rig.worker()):
        rig.idle()
    assert len(rig.model.questions) == 2


def test_commands(rig: Rig) -> None:
    rig.platform.part_bytes = 2000
    help_text, status = talk(rig, "/HELP", "/status", sender_name="Li Lei")
    assert "/reset" in help_text
    assert "you: Li Lei" in status
    assert "model: echo" in status
    assert rig.model.questions == []


def test_long_answers_are_split(rig: Rig) -> None:
    talk(rig, "word " * 100)
    assert len(rig.platform.read) > 2
    assert "".join(rig.answers()).replace(" ", "") == "word" * 100 + "!"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"unsupported": "audio"}, "audio"), ({"text": ""}, "empty message"), ({"images": ("a",)}, "PNG, JPEG")],
)
def test_polite_refusals(rig: Rig, fields: dict[str, Any], expected: str) -> None:
    rig.say(**fields)
    with running(rig.worker()):
        rig.idle()
    [answer] = rig.answers()
    assert expected in answer


def test_model_without_eyes(rig: Rig) -> None:
    rig.settings = dataclasses.replace(rig.settings, model=dataclasses.replace(model_of(rig), vision=False))
    assert talk(rig, "what is it?", images=("a",)) == [texts.NO_VISION]


def test_picture_that_cannot_be_fetched(rig: Rig) -> None:
    rig.platform.downloads = [Retry("busy"), Final("gone")]
    assert talk(rig, "", images=("a",)) == [texts.NO_DOWNLOAD]


def test_allow_lists(rig: Rig) -> None:
    rig.platform.access = Access(users=("friend",), conversations=("c",))
    rig.say("a", sender="friend")
    rig.say("b", sender="stranger")
    rig.say("c", sender="friend", conversation="elsewhere")
    with running(rig.worker()):
        rig.idle()
    assert sorted(rig.answers()) == sorted(["a!", texts.NOT_ALLOWED])


def test_group_messages_for_others(rig: Rig) -> None:
    rig.platform.deaf = True
    assert talk(rig, "psst", group=True) == []


def test_user_rate_limit(rig: Rig) -> None:
    rig.settings = dataclasses.replace(rig.settings, user_messages_per_minute=2)
    answers = talk(rig, "1", "2", "3")
    assert answers == ["1!", "2!", texts.SLOW_DOWN]


def test_another_attempt_is_not_another_message_of_the_user(rig: Rig) -> None:
    rig.settings = dataclasses.replace(rig.settings, user_messages_per_minute=2)
    rig.model.failures = [Retry("away"), Throttled("breaker", after=0.01), Retry("away"), Retry("away")]
    assert talk(rig, "a", "b") == ["a!", "b!"]


# What belongs to a question


@pytest.fixture
def seeing(rig: Rig) -> Rig:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    rig.platform.picture = out.getvalue()
    rig.settings = dataclasses.replace(rig.settings, model=dataclasses.replace(model_of(rig), vision=True))
    return rig


def shown(rig: Rig) -> list[int]:
    """How many pictures each question had."""
    return [len(question.pictures) for question in rig.model.questions]


def test_quote_and_its_pictures_go_along(seeing: Rig) -> None:
    seeing.platform.quotes["m1"] = Quote("one\ntwo", (Attachment("other", "p"),))
    seeing.platform.quotes["m2"] = Quote("alone")
    talk(seeing, "why?", "")
    assert [question.text for question in seeing.model.questions] == [
        "> one\n> two\n\nwhy?",
        f"> alone\n\n{gathering.ONLY_QUOTED}",
    ]
    assert shown(seeing) == [1, 0]
    assert seeing.platform.fetched == [Attachment("other", "p")]


def test_quote_that_cannot_be_read(seeing: Rig) -> None:
    seeing.platform.quotes = {"m1": Quote(), "m2": Quote()}
    answers = talk(seeing, "", "but why?")
    assert answers[0] == texts.UNREADABLE_QUOTE
    assert seeing.model.questions[0].text == f"> {gathering.UNREADABLE}\n\nbut why?"


def test_picture_of_a_quote_that_is_gone_stops_nothing(seeing: Rig) -> None:
    seeing.platform.quotes["m1"] = Quote("one", (Attachment("other", "p"),))
    seeing.platform.downloads = [Final("gone")]
    assert talk(seeing, "why?")[0].startswith("> one")
    assert shown(seeing) == [0]


def test_picture_first_and_the_question_after_it(seeing: Rig) -> None:
    seeing.say("", images=("a",))
    seeing.say("", images=("b",))
    seeing.say("/status")
    talk(seeing, "what is it?", "thanks")
    # The second picture shows the same as the first, so its answer is known.
    assert shown(seeing) == [1, 2, 0]
    assert seeing.platform.fetched[2:] == [Attachment("m1", "a"), Attachment("m2", "b")]


def test_pictures_wait_for_the_same_person_in_the_same_conversation(seeing: Rig) -> None:
    seeing.say("", images=("a",))
    seeing.say("and I?", sender="somebody else")
    seeing.say("elsewhere", conversation="d")
    talk(seeing)
    assert sorted(shown(seeing)) == [0, 0, 1]
    [name] = seeing.client.keys(key("pictures", "*"))
    assert 200 < seeing.client.ttl(name) <= gathering.EARLIER_SECONDS


def test_another_attempt_gets_the_same_pictures(seeing: Rig) -> None:
    seeing.say("", images=("a",))
    talk(seeing)
    seeing.model.failures = [Retry("busy")]
    talk(seeing, "what is it?", "and now?")
    assert shown(seeing) == [1, 1, 1, 0]


def test_own_pictures_speak_for_themselves(seeing: Rig) -> None:
    seeing.say("", images=("a",))
    talk(seeing, "and this?", images=("b",))
    assert shown(seeing) == [1, 1]


def test_members_of_a_group_are_told_apart(rig: Rig) -> None:
    rig.settings = dataclasses.replace(rig.settings, model=dataclasses.replace(model_of(rig), preset=long_memory(rig)))
    rig.say("one", group=True, sender="a", sender_name="Li Lei")
    rig.say("two", group=True, sender="b")
    rig.say("three", group=True, sender="c")
    talk(rig)
    asked = [turn[0] for turn in rig.model.questions[-1].history]
    assert asked[0] == "Li Lei: one"
    assert re.fullmatch(r"user [0-9a-f]{4}: two", asked[1])


@pytest.mark.parametrize("words", ["／reset", "@Bot /reset", "/RESET @Bot"])
def test_commands_in_other_clothes(rig: Rig, words: str) -> None:
    assert talk(rig, words) == [texts.RESET]


# Failures


def test_model_failure_is_tried_again(rig: Rig) -> None:
    rig.model.failures = [Retry("model: server_error", apology="busy"), Retry("model: server_error", apology="busy")]
    assert talk(rig, "a", "b") == ["a!", "b!"]


def test_model_that_stays_broken_ends_in_one_apology_and_a_dead_letter(rig: Rig) -> None:
    rig.give_up_seconds = 0.5
    rig.model.broken = {"a": Retry("model: server_error", apology="busy, sorry")}
    assert talk(rig, "a", "b") == ["busy, sorry", "b!"]
    [letter] = rig.queue.dead()
    assert (letter.key, letter.reason) == ("dingtalk:m1", "model: server_error")
    assert letter.attempts > 1
    rig.model.broken = {}
    assert rig.queue.revive([letter]) == 1
    with running(rig.worker()):
        rig.idle()
    assert rig.answers()[-1] == "a!"


def test_waiting_for_a_breaker_or_our_own_limit_is_no_attempt(rig: Rig) -> None:
    rig.model.failures = [Throttled("breaker", after=0.01)] * 20
    assert talk(rig, "a") == ["a!"]
    assert list(rig.queue.dead()) == []


def test_backoff_grows_to_a_minute_and_ends_at_the_age(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "FIRST_BACKOFF", 1.0)
    monkeypatch.setattr("clawdbot.engine.worker.jittered", lambda seconds: seconds)
    rig.give_up_seconds = 900
    sent = rig.say()
    worker = rig.worker("one")
    [lease] = worker._queue.take(1, 1)
    waits = []
    worker._queue.defer = lambda lease, name, seconds, *, failed=True: waits.append(seconds) or True  # type: ignore[method-assign,func-returns-value]  # noqa: ARG005  # looks on
    for failures, age in ((0, 0), (1, 1), (3, 7), (5, 31), (6, 63), (40, 800), (41, 870)):
        begun = Begun(sent.dump(), 1, failures, age)
        worker._fail(lease, begun, sent, Hold(worker._queue, lease), Retry("r"), told=False)
    assert waits == [1, 2, 8, 32, 60, 60, 30]


def test_who_waits_for_long_is_told_so_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "PATIENCE_SECONDS", 0.3)
    rig.say("a")
    rig.model.gate.clear()
    with running(rig.worker()):
        eventually(lambda: rig.platform.read)
        time.sleep(0.5)
        rig.model.gate.set()
        rig.idle()
    assert rig.answers() == [texts.STILL_WORKING, "a!"]


def test_who_waits_for_a_broken_model_is_told_so_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "PATIENCE_SECONDS", 0.2)
    rig.model.broken = {"a": Retry("model: server_error")}
    rig.say("a")
    with running(rig.worker("a")):
        eventually(lambda: rig.platform.read)
    with running(rig.worker("b")):
        time.sleep(1)
        rig.model.broken = {}
        rig.idle()
    assert rig.answers() == [texts.STILL_WORKING, "a!"]


def test_quick_answer_comes_without_a_notice(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "PATIENCE_SECONDS", 60)
    rig.say("a")
    with running(rig.worker()):
        rig.idle()
        # Nobody is going to ring.
        eventually(lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()))
    assert rig.answers() == ["a!"]


def test_slow_platform_is_repeated_once_and_then_taken_for_delivered(rig: Rig) -> None:
    """The request was written, no answer came: DingTalk may have shown it each time."""
    shown: list[str] = []

    def send(message: Message, part: str, content: str, mark: Mark) -> None:  # noqa: ARG001  # Platform's
        mark.written()
        shown.append(content)
        raise Unsure("dingtalk: ReadTimeout")

    rig.platform.send = send  # type: ignore[method-assign]  # slow for ever
    rig.say("a")
    with running(rig.worker()):
        rig.idle()
    assert shown == ["a!", "a!"]
    assert list(rig.queue.dead()) == []


def test_dead_letters_are_retried_in_the_order_of_writing(rig: Rig) -> None:
    rig.give_up_seconds = 0
    failure = Retry("away", apology="busy")
    rig.model.broken = {str(number): failure for number in range(6)}
    assert talk(rig, *map(str, range(6))) == ["busy"] * 6
    rig.model.broken = {}
    rig.say("6")
    letters = list(rig.queue.dead())
    assert rig.queue.revive(reversed(letters)) == 6
    with running(rig.worker()):
        rig.idle()
    assert rig.answers()[6:] == [f"{number}!" for number in range(7)]


# Formats


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage \xff\xfe",
        b'000000000000001|{"platform": "dingtalk"}',
        b"000000000000001|[1]",
        b'000000000000001|{"platform":"dingtalk","id":7,"conversation":"c","group":false,"sender":"u","created_ms":1}',
        b"000000000000001Z{}",
        b"",
    ],
)
def test_message_that_cannot_be_read_is_buried_and_the_next_one_answered(rig: Rig, raw: bytes) -> None:
    rig.say("a")
    rig.client.connection_pool.disconnect()
    with redis.Redis(port=rig.client.connection_pool.connection_kwargs["port"]) as plain:
        plain.lset(key("conv", "dingtalk:c"), 0, raw)
        rig.say("b")
        with running(rig.worker()):
            eventually(lambda: rig.answers())
            eventually(lambda: rig.client.llen(key("conv", "dingtalk:c")) == 0)
        assert rig.answers() == ["b!"]
        [letter] = rig.queue.dead()
        assert raw_bytes(letter.dumped) == raw
        assert letter.reason.startswith("cannot be read")
        assert rig.queue.revive([letter]) == 1
        assert plain.lindex(key("conv", "dingtalk:c"), 0) == raw
    rig.queue.tidy()
    with running(rig.worker()):
        eventually(lambda: list(rig.queue.dead()))
        rig.queue.tidy()
    assert rig.queue.depth().messages == 0


def test_message_of_the_next_release_is_answered(rig: Rig) -> None:
    """It may have fields that we do not know."""
    sent = rig.say("a")
    rig.client.lset(key("conv", "dingtalk:c"), 0, sent.dump().replace('{"platform"', '{"new":{"x":1},"platform"'))
    with running(rig.worker()):
        rig.idle()
    assert rig.answers() == ["a!"]


def test_answer_of_the_next_release_is_sent_and_one_that_is_none_is_buried(rig: Rig) -> None:
    first, second = rig.say("a", conversation="a"), rig.say("b", conversation="b")
    rig.client.set(key("answer", first.key), '{"text":"kept","outcome":"answered","turn":null,"forget":false,"new":1}')
    rig.client.set(key("answer", second.key), '{"no": "text"')
    with running(rig.worker()):
        rig.idle()
    assert sorted(rig.answers()) == sorted(["kept", texts.GAVE_UP])
    [letter] = rig.queue.dead()
    assert (letter.key, letter.answer) == (second.key, '{"no": "text"')
    rig.queue.revive([letter])
    with running(rig.worker()):
        rig.idle()
    assert rig.answers()[-1] == "b!"


# Redis


def test_redis_comes_back_empty(rig: Rig) -> None:
    with running(rig.worker()):
        rig.say("a")
        rig.idle()
        rig.client.flushall()
        time.sleep(0.3)
        rig.say("b")
        rig.idle()
    assert rig.answers() == ["a!", "b!"]


def test_full_memory_drains(rig: Rig) -> None:
    """What frees memory goes on; intake is refused, and nothing that was promised is forgotten."""
    most = rig.client.config_get("maxmemory")["maxmemory"]
    accepted: list[Message] = []
    filler = {"filler": "x" * 20_000}
    try:
        rig.client.config_set("maxmemory", rig.client.info("memory")["used_memory"] + 2_000_000)
        while len(accepted) < 1000:
            try:
                accepted.append(rig.say(conversation=str(len(accepted) % 10), route=filler))
            except redis.OutOfMemoryError:
                break
        assert 50 < len(accepted) < 1000
        assert all(rig.client.exists(key("dedup", sent.key)) for sent in accepted)
        with running(rig.worker()):
            rig.idle()
        assert all(rig.client.exists(key("dedup", sent.key)) for sent in accepted)
        rig.say("again", conversation="new")
        with running(rig.worker()):
            rig.idle()
    finally:
        rig.client.config_set("maxmemory", str(most))
    assert len(rig.answers()) == len(accepted) + 1
    assert list(rig.queue.dead()) == []


def test_read_only_redis_and_back(rig: Rig) -> None:
    with running(rig.worker()):
        rig.client.replicaof("127.0.0.1", "1")
        with pytest.raises(redis.exceptions.ReadOnlyError):
            rig.say("a")
        time.sleep(0.3)
        rig.client.replicaof("NO", "ONE")
        rig.say("b")
        rig.idle()
    assert rig.answers() == ["b!"]


def test_final_model_failure_is_told_at_once(rig: Rig) -> None:
    rig.model.failures = [Final("model: auth", apology="key refused")]
    assert talk(rig, "a", "b") == ["key refused", "b!"]
    assert list(rig.queue.dead()) == []


def test_final_platform_failure_does_not_block_the_conversation(rig: Rig) -> None:
    rig.platform.failures = [Final("bot was removed"), Final("bot was removed")]
    assert talk(rig, "a", "b") == ["b!"]
    assert [letter.reason for letter in rig.queue.dead()] == ["bot was removed; no apology: bot was removed"]


def test_platform_failure_does_not_pay_the_model_twice(rig: Rig) -> None:
    rig.platform.failures = [Retry("too fast", after=0.01), Retry("too fast", after=0.01)]
    assert talk(rig, "a") == ["a!"]
    assert len(rig.model.questions) == 1


def test_bug_is_an_apology_and_not_a_loop(rig: Rig) -> None:
    rig.model.failures = [KeyError("oops")]
    assert talk(rig, "a", "b") == [texts.UNEXPECTED, "b!"]
    assert [letter.reason for letter in rig.queue.dead()] == ["KeyError"]


def test_message_that_kills_its_workers_is_given_up(rig: Rig) -> None:
    sent = rig.say("poison")
    rig.client.hset(key("attempts"), sent.conversation_key, worker_module.MAX_DEATHS)
    with running(rig.worker()):
        rig.idle()
    assert rig.answers() == [texts.GAVE_UP]
    assert rig.model.questions == []


def test_platform_that_was_switched_off(rig: Rig) -> None:
    rig.give_up_seconds = 0
    rig.say("a", platform="feishu")
    with running(rig.worker()):
        rig.idle()
    [letter] = rig.queue.dead()
    assert letter.conversation == "feishu:c"
    assert letter.reason.startswith("feishu is switched off; mend its configuration; no apology")


# Crashes


def test_crash_after_the_model_answered(rig: Rig) -> None:
    """The next worker sends what the first one decided."""
    sent = rig.say("a")
    first = rig.worker("first")
    [lease] = first._queue.take(1, 1)
    first._queue.begin(lease)
    rig.platform.failures = [SystemExit()]  # type: ignore[list-item]  # dies without a word
    with pytest.raises(SystemExit):
        first._chat.handle(sent, Hold(first._queue, lease), contextlib.nullcontext())
    with running(rig.worker("second", lease_seconds=0.2)):
        rig.idle()
    assert rig.answers() == ["a!"]
    assert len(rig.model.questions) == 1
    assert not rig.queue.owns(lease)


def test_crash_after_the_answer_went_out(rig: Rig) -> None:
    """Part by part: what the user has read is not sent again."""
    sent = rig.say("word " * 60)
    first = rig.worker("first")
    [lease] = first._queue.take(1, 1)

    def die() -> None:
        if len(rig.platform.read) == 2:
            raise SystemExit

    rig.platform.after_writing = die
    with pytest.raises(SystemExit):
        first._chat.handle(sent, Hold(first._queue, lease), contextlib.nullcontext())
    rig.platform.after_writing = lambda: None
    with running(rig.worker("second", lease_seconds=0.2)):
        rig.idle()
    assert "".join(rig.answers()).replace(" ", "") == "word" * 60 + "!"
    assert len(rig.answers()) == len(set(enumerate(rig.answers())))


def test_worker_that_was_frozen_sends_nothing(rig: Rig) -> None:
    """It lost its lease while the model was thinking; whoever has it now answers."""
    rig.say("a")
    rig.model.gate.clear()
    slow = rig.worker("slow")
    slow._queue.renew = lambda entries: set()  # type: ignore[method-assign]  # noqa: ARG005  # a heart that has stopped
    with running(slow):
        eventually(lambda: rig.model.questions)
        time.sleep(0.05)
        thief = Queue(rig.client, "thief")
        [lease] = thief.reap(1, lease_ms=20)
        rig.model.gate.set()
        time.sleep(0.3)
        assert rig.answers() == []
        begun = thief.begin(lease)
        assert begun
        assert begun.attempt == 2
        assert thief.done(lease, begun.message(), None, 1)


def test_worker_that_was_frozen_does_not_apologise(rig: Rig) -> None:
    """It wakes up into a failure after somebody else has answered."""
    rig.say("a")
    rig.model.gate.clear()
    rig.model.failures = [Final("model: auth")]
    slow = rig.worker("slow")
    slow._queue.renew = lambda entries: set()  # type: ignore[method-assign]  # noqa: ARG005  # a heart that has stopped
    with running(slow):
        eventually(lambda: rig.model.questions)
        time.sleep(0.05)
        thief = Queue(rig.client, "thief")
        [lease] = thief.reap(1, lease_ms=20)
        rig.model.gate.set()
        time.sleep(0.3)
        assert rig.answers() == []
        begun = thief.begin(lease)
        assert begun
        assert thief.done(lease, begun.message(), None, 1)
    assert list(rig.queue.dead()) == []


def test_heartbeat_keeps_the_lease_of_a_slow_answer(rig: Rig) -> None:
    rig.say("a")
    rig.model.gate.clear()
    # With its only slot taken the slow one does not reap, so nothing but its heart keeps the lease.
    slow = rig.worker("slow", slots=1, lease_seconds=1.5)
    with running(slow):
        eventually(lambda: rig.model.questions)
        eager = rig.worker("eager", lease_seconds=1.5)
        with running(eager):
            time.sleep(2.5)
            assert len(rig.model.questions) == 1
            rig.model.gate.set()
            rig.idle()
    assert rig.answers() == ["a!"]


def test_own_abandoned_looking_lease_is_not_worked_on_twice(rig: Rig) -> None:
    rig.say("a")
    rig.model.gate.clear()
    worker = rig.worker("one", lease_seconds=0.3)
    beat = worker._queue.renew
    worker._queue.renew = lambda entries: set()  # type: ignore[method-assign]  # noqa: ARG005  # frozen for a while
    with running(worker):
        eventually(lambda: rig.model.questions)
        time.sleep(1)
        worker._queue.renew = beat  # type: ignore[method-assign]  # the heart beats again
        rig.model.gate.set()
        rig.idle()
    assert rig.answers() == ["a!"]
    assert len(rig.model.questions) == 1


def test_drain_finishes_what_is_in_work_and_takes_nothing_more(rig: Rig) -> None:
    rig.say("a", conversation="a")
    rig.model.gate.clear()
    worker = rig.worker()
    thread = threading.Thread(target=worker.run)
    thread.start()
    eventually(lambda: rig.model.questions)
    worker.stop()
    # A read that has begun may still take something.
    time.sleep(1)
    rig.say("b", conversation="b")
    assert thread.is_alive()
    rig.model.gate.set()
    thread.join(60)
    assert not thread.is_alive()
    assert rig.answers() == ["a!"]
    assert rig.queue.depth().messages == 1
    assert [found["name"] for found in rig.client.xinfo_consumers(key("ready"), "workers")] == []


def test_redis_comes_back(rig: Rig, redis_server: RedisServer) -> None:
    """Redis dies right after the answer went out: the worker insists on writing that down."""

    def kill_redis() -> None:
        rig.platform.after_writing = lambda: None
        redis_server.kill()
        timer = threading.Timer(1.0, redis_server.start)
        timer.start()

    original = rig.platform.send

    def send(message: Message, part: str, content: str, mark: Mark) -> None:
        if message.text == "a":
            kill_redis()
        original(message, part, content, mark)

    rig.platform.send = send  # type: ignore[method-assign]  # Redis dies within
    rig.say("a", conversation="a")
    with running(rig.worker(lease_seconds=1)):
        eventually(lambda: rig.platform.read)
        eventually(lambda: redis_server.process)
        eventually(redis_server.answers)
        rig.say("b", conversation="b")
        rig.idle()
    assert sorted(rig.answers()) == ["a!", "b!"]


def test_a_lease_is_not_left_to_run_out_when_redis_restarts(rig: Rig, redis_server: RedisServer) -> None:
    """Redis is away when the answer is to be settled: that is done when Redis is back, long before the lease ends."""
    worker = rig.worker(lease_seconds=600)
    original = worker._chat.session_after

    def session_after(message: Message, answer: Answer) -> str | None:
        worker._chat.session_after = original  # type: ignore[method-assign]  # a method again
        redis_server.kill()
        threading.Timer(1.0, redis_server.start).start()
        return original(message, answer)

    worker._chat.session_after = session_after  # type: ignore[method-assign]  # the last step before it
    rig.say("a")
    with running(worker):
        eventually(lambda: rig.platform.read)
        eventually(redis_server.answers)
        rig.idle()
    assert rig.answers() == ["a!"]


def test_unknown_lease_is_left_alone(rig: Rig) -> None:
    worker = rig.worker()
    worker._free.acquire()
    worker._work(Lease("0-1", "dingtalk:nobody"))
    assert rig.answers() == []
