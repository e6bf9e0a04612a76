"""What Redis cannot take in time waits on the node's disk: acknowledged, in order, once."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from clawdbot import cli
from clawdbot.clock import now_ms
from clawdbot.config import RedisConfig, Settings
from clawdbot.engine import spool as spools
from clawdbot.engine.intake import Intake
from clawdbot.engine.queue import REPLAY_GRACE_MS, Queue
from clawdbot.engine.spool import Reception, Spool
from clawdbot.errors import SpoolError
from clawdbot.message import Message
from clawdbot.store import connect
from clawdbot_simulator.users import DingTalk, Feishu

from .conftest import Bot, Run, dingtalk_body, eventually, feishu_event, free_port
from .site import APP, Site, site
from .test_queue import message
from .test_web import metric

PATIENCE = 30.0
MEGABYTE = 1024 * 1024


class Clock:
    """A time of our choice."""

    def __init__(self) -> None:
        self.ms = now_ms()

    def __call__(self) -> int:
        """Return it."""
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(tmp_path: Path, clock: Clock) -> Spool:
    return Spool(tmp_path, most_bytes=MEGABYTE, seconds=3600, clock=clock)


@pytest.fixture
def queue(client: redis.Redis) -> Queue:
    found = Queue(client, "one")
    found.prepare()
    return found


@pytest.fixture
def nowhere() -> Queue:
    """The queue of a Redis that is away."""
    return Queue(connect(RedisConfig(port=free_port()), timeout=0.2, retries=0))


def keep(spool: Spool, *messages: Message, guard: str = "") -> list[str]:
    return [spool.accept(each, guard, PATIENCE) for each in messages]


def waiting(client: redis.Redis, conversation: str = "c") -> list[str]:
    return [Message.load(str(each)).id for each in client.lrange(f"clawdbot:conv:dingtalk:{conversation}", 0, -1)]


def numbered(count: int, conversation: str = "c") -> list[Message]:
    return [message(conversation, name=f"n{number}", created_ms=number + 1) for number in range(count)]


def test_handed_over_in_the_order_in_which_users_wrote(spool: Spool, queue: Queue) -> None:
    messages = numbered(250)
    assert not spool.pending
    assert keep(spool, *reversed(messages)) == ["spooled"] * 250
    assert spool.pending
    assert (spool.held().messages, spool.held().oldest_seconds) == (250, 0)
    assert spool.hand_over(queue)
    assert waiting(queue.client) == [each.id for each in messages]
    assert (spool.pending, spool.held().messages) == (False, 0)


def test_services_of_a_node_do_not_overtake_each_other(
    tmp_path: Path, spool: Spool, queue: Queue, nowhere: Queue
) -> None:
    """Such as the service that ends during a roll-out, and its stand-in."""
    other = Spool(tmp_path, most_bytes=MEGABYTE, seconds=3600)
    assert Reception(Intake(nowhere, patience=0.2), spool, PATIENCE).accept(message()) == "spooled"
    assert Reception(Intake(queue, patience=1.0), other, PATIENCE).accept(message()) == "spooled"
    assert spool.hand_over(queue)
    assert Reception(Intake(queue, patience=1.0), other, PATIENCE).accept(message()) == "accepted"


@pytest.mark.parametrize("moment", [-5, 10**30])
def test_a_moment_that_cannot_be_concerns_nobody_else(spool: Spool, queue: Queue, moment: int) -> None:
    keep(spool, dataclasses.replace(message(), created_ms=moment), message())
    assert spool.hand_over(queue)
    assert queue.depth().messages == 2


def test_no_worker_begins_before_a_batch_is_there(spool: Spool, queue: Queue, client: redis.Redis) -> None:
    """A newer message that is begun is not overtaken any more."""
    keep(spool, *numbered(spools.MOST_AT_ONCE))
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(client.llen("clawdbot:conv:dingtalk:c"))

    thread = threading.Thread(target=look)
    thread.start()
    spool.hand_over(queue)
    stop.set()
    thread.join()
    assert set(seen) <= {0, spools.MOST_AT_ONCE}


def test_a_repetition_is_known_on_disk_in_redis_and_across_nodes(
    tmp_path: Path, spool: Spool, queue: Queue, client: redis.Redis
) -> None:
    first, second = message(), message()
    queue.accept(first)
    assert keep(spool, second, second, first) == ["spooled", "duplicate", "spooled"]
    (tmp_path / "other").mkdir()
    other = Spool(tmp_path / "other", most_bytes=MEGABYTE, seconds=3600)
    assert keep(other, second) == ["spooled"]
    assert spool.hand_over(queue)
    assert other.hand_over(queue)
    assert waiting(client) == [first.id, second.id]
    assert queue.depth().messages == 2


def pass_time(client: redis.Redis, clock: Clock, ms: int) -> None:
    """Let time pass, for Redis as well: as far as signatures are concerned."""
    clock.ms += ms
    for name in client.scan_iter("clawdbot:replay:*"):
        client.set(name, int(client.get(name) or 0) - ms)


def test_when_a_signature_came_counts_and_not_when_it_reaches_redis(
    spool: Spool, queue: Queue, client: redis.Redis, clock: Clock
) -> None:
    """DingTalk's does not cover the body, and two messages may have the same."""
    accepted, kept, another = message(), message(), message()
    queue.accept(accepted, "signature")
    pass_time(client, clock, REPLAY_GRACE_MS // 2)
    assert keep(spool, kept, guard="signature") == ["spooled"]
    pass_time(client, clock, 600_000)
    assert spool.hand_over(queue)
    pass_time(client, clock, REPLAY_GRACE_MS // 2)
    assert queue.accept(another, "signature") == "replay"
    assert waiting(client) == [accepted.id, kept.id]


def test_a_captured_signature_is_refused(spool: Spool, queue: Queue, client: redis.Redis, clock: Clock) -> None:
    """By the disk, if that saw it before, else by Redis."""
    other, first = message(), message()
    assert queue.accept(other, "seen by redis") == "accepted"
    assert keep(spool, first, guard="seen here") == ["spooled"]
    pass_time(client, clock, REPLAY_GRACE_MS + 1)
    assert keep(spool, message(), guard="seen here") == ["replay"]
    assert keep(spool, message(), guard="seen by redis") == ["spooled"]
    pass_time(client, clock, 600_000)
    assert spool.hand_over(queue)
    assert queue.accept(message(), "seen here") == "replay"
    assert waiting(client) == [other.id, first.id]


def test_what_redis_does_not_take_stays(spool: Spool, queue: Queue, client: redis.Redis, nowhere: Queue) -> None:
    messages = numbered(5)
    keep(spool, *messages)
    with pytest.raises(redis.ConnectionError):
        spool.hand_over(nowhere)
    most = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.OutOfMemoryError):
            spool.hand_over(queue)
    finally:
        client.config_set("maxmemory", str(most))
    assert (spool.pending, spool.held().messages, waiting(client)) == (True, 5, [])
    client.script_flush()
    assert spool.hand_over(queue)
    assert waiting(client) == [each.id for each in messages]


def test_only_one_has_the_turn(tmp_path: Path, spool: Spool, queue: Queue) -> None:
    keep(spool, message())
    again = Spool(tmp_path, most_bytes=MEGABYTE, seconds=3600)
    with again._lock_file("turn", wait=False) as ours:
        assert ours
        assert not spool.hand_over(queue)
    assert spool.hand_over(queue)


def test_bounded_in_size_and_usable_again(spool: Spool, queue: Queue) -> None:
    big = dataclasses.replace(message(), text="x" * 100_000)
    kept = 0
    reason = ""
    while not reason and kept < 100:
        try:
            keep(spool, dataclasses.replace(big, id=f"b{kept}"))
            kept += 1
        except SpoolError as error:
            reason = error.reason
    assert reason == "full"
    assert 3 < kept < 11
    assert spool.held().messages == kept
    assert spool.held().size <= MEGABYTE
    assert spool.hand_over(queue)
    assert keep(spool, dataclasses.replace(big, id="later")) == ["spooled"]


def test_bounded_in_age(spool: Spool, queue: Queue, clock: Clock) -> None:
    keep(spool, message())
    clock.ms += 3_599_000
    keep(spool, message())
    assert spool.held().oldest_seconds == 3599
    clock.ms += 2000
    with pytest.raises(SpoolError) as caught:
        keep(spool, message())
    assert caught.value.reason == "old"
    assert spool.hand_over(queue)
    assert keep(spool, message()) == ["spooled"]


def test_many_write_at_once_and_the_disk_is_asked_less_often(spool: Spool) -> None:
    commits: list[int] = []
    write = spool._write

    def counted(db: sqlite3.Connection, rows: Any) -> list[str]:
        commits.append(len(rows))
        time.sleep(0.02)
        return write(db, rows)

    spool._write = counted  # type: ignore[method-assign]  # to count
    threads = [threading.Thread(target=keep, args=(spool, message())) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert spool.held().messages == sum(commits) == 60
    assert len(commits) < 30


def test_a_disk_that_hangs_is_not_waited_for(spool: Spool) -> None:
    write = spool._write
    gate = threading.Event()

    def stuck(db: sqlite3.Connection, rows: Any) -> list[str]:
        gate.wait(60)
        return write(db, rows)

    spool._write = stuck  # type: ignore[method-assign]  # a disk that hangs
    for _ in range(2):
        with pytest.raises(SpoolError) as caught:
            spool.accept(message(), "", 0.1)
        assert caught.value.reason == "slow"
    gate.set()
    keep(spool, message())
    # The first was on its way already; the second was not begun, since its sender was told that it is not kept.
    assert spool.held().messages == 2


def test_a_broken_file_refuses_and_is_tried_again(spool: Spool, tmp_path: Path) -> None:
    database = tmp_path / "spool.db"
    database.write_bytes(b"no database " * 1000)
    with pytest.raises(SpoolError) as caught:
        keep(spool, message())
    assert caught.value.reason == "disk"
    with pytest.raises(SpoolError):
        spool.held()
    assert not spool.pending
    database.unlink()
    assert keep(spool, message()) == ["spooled"]
    assert database.stat().st_mode & 0o777 == 0o600


def test_what_was_handed_over_and_cannot_be_removed_is_not_sent_again(
    spool: Spool, queue: Queue, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full to the last byte; and who does not know sends it once more, which Redis knows."""
    keep(spool, *numbered(150))
    hand_over = queue.hand_over
    sent: list[int] = []

    def counted(page: Any, now: int) -> list[str]:
        sent.append(len(page))
        return hand_over(page, now)

    monkeypatch.setattr(queue, "hand_over", counted)
    monkeypatch.setattr(spool, "_remove", lambda *_: False)
    for _ in range(2):
        assert not spool.hand_over(queue)
    assert sum(sent) == len(waiting(client)) == 150
    monkeypatch.undo()
    assert spool.hand_over(queue)
    assert len(waiting(client)) == 150


# A disk that is full in earnest, and processes that are killed


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    program = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from clawdbot.config import RedisConfig
        from clawdbot.engine.queue import Queue
        from clawdbot.engine.spool import Spool
        from clawdbot.errors import SpoolError
        from clawdbot.message import Message
        from clawdbot.store import connect
        spool = Spool(Path(sys.argv[2]), most_bytes=1 << 28, seconds=3600)
        def text(name, **fields):
            return Message("dingtalk", name, "c", False, "u", int(name[1:]) + 1, **fields)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program) + textwrap.dedent(code), str(APP), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_full_disk_refuses_and_keeps_what_it_has(tmp_path: Path, queue: Queue, client: redis.Redis) -> None:
    """A process whose files may not grow any more meets what a full disk does."""
    code = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        kept = 0
        try:
            while kept < 1000:
                spool.accept(text(f"n{kept}", text="x" * 5000), "", 30)
                kept += 1
        except SpoolError as error:
            print(kept, error.reason)
    """
    out, _ = child(code, tmp_path).communicate(timeout=60)
    kept, reason = out.split()
    assert reason in ("full", "disk")
    assert 5 < int(kept) < 100
    spool = Spool(tmp_path, most_bytes=MEGABYTE, seconds=3600)
    assert spool.held().messages == int(kept)
    assert spool.hand_over(queue)
    assert waiting(client) == [f"n{number}" for number in range(int(kept))]


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path, queue: Queue, client: redis.Redis) -> None:
    code = """
        for number in range(100_000):
            spool.accept(text(f"n{number}"), "", 30)
            print(number, flush=True)
    """
    process = child(code, tmp_path)
    assert process.stdout
    for _ in range(40):
        last = int(process.stdout.readline())
    process.kill()
    rest = process.communicate()[0].split()
    last = int(rest[-1]) if rest else last
    spool = Spool(tmp_path, most_bytes=MEGABYTE, seconds=3600)
    assert spool.hand_over(queue)
    found = waiting(client)
    # The one after it may have been written when nobody could be told any more.
    assert found[: last + 1] == [f"n{number}" for number in range(last + 1)]
    assert len(found) <= last + 2


def test_a_kill_in_mid_hand_over_loses_and_doubles_nothing(tmp_path: Path, queue: Queue, client: redis.Redis) -> None:
    """Redis has taken a batch, and the disk still has it."""
    keep(Spool(tmp_path, most_bytes=MEGABYTE, seconds=3600), *numbered(250))
    code = """
        import os, signal
        hand_over = Queue.hand_over
        def die_after(self, page, now):
            hand_over(self, page, now)
            os.kill(os.getpid(), signal.SIGKILL)
        Queue.hand_over = die_after
        spool.hand_over(Queue(connect(RedisConfig(port=int(sys.argv[3])), timeout=5)))
    """
    process = child(code, tmp_path, client.connection_pool.connection_kwargs["port"])
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(waiting(client)) == spools.MOST_AT_ONCE
    again = Spool(tmp_path, most_bytes=MEGABYTE, seconds=3600)
    assert again.held().messages == 250
    assert again.hand_over(queue)
    assert waiting(client) == [f"n{number}" for number in range(250)]
    assert queue.depth().messages == 250


# The reception: Redis first, else the disk


def test_while_something_waits_nothing_overtakes_it(spool: Spool, queue: Queue, nowhere: Queue) -> None:
    first, second = numbered(2)
    away = Reception(Intake(nowhere, patience=0.1), spool, PATIENCE)
    assert away.accept(first) == "spooled"
    back = Reception(Intake(queue, patience=5), spool, PATIENCE)
    assert back.accept(second) == "spooled"
    assert queue.depth().messages == 0
    assert spool.hand_over(queue)
    assert back.accept(message()) == "accepted"


def test_a_redis_that_is_back_is_there_whatever_the_disk_does(
    spool: Spool, queue: Queue, nowhere: Queue, clock: Clock
) -> None:
    assert Reception(Intake(nowhere, patience=0.1), spool, PATIENCE).accept(message()) == "spooled"
    clock.ms += 3_601_000
    with pytest.raises(redis.RedisError):
        Reception(Intake(nowhere, patience=0.1), spool, PATIENCE).accept(message())
    assert Reception(Intake(queue, patience=5), spool, PATIENCE).accept(message()) == "accepted"


# The web application


@pytest.fixture
def spooling(settings: Settings, tmp_path: Path) -> Settings:
    (tmp_path / "spool").mkdir()
    return dataclasses.replace(settings, spool_dir=str(tmp_path / "spool"))


def test_callbacks_without_redis(spooling: Settings) -> None:
    bot = Bot(dataclasses.replace(spooling, redis=dataclasses.replace(spooling.redis, port=free_port())))
    before = metric(bot, "clawdbot_callbacks_total", platform="dingtalk", result="spooled")
    calls: list[Callable[[], Any]] = [
        lambda: bot.robot(dingtalk_body()),
        lambda: bot.lark(feishu_event(bot.feishu)),
    ]
    for call in calls:
        begin = time.monotonic()
        assert call().status_code == 200
        assert time.monotonic() - begin < 2
    assert metric(bot, "clawdbot_callbacks_total", platform="dingtalk", result="spooled") == before + 1
    assert metric(bot, "clawdbot_spool_messages") == 2
    assert 0 < metric(bot, "clawdbot_spool_bytes") < metric(bot, "clawdbot_spool_max_bytes") == 256 * MEGABYTE


def test_callbacks_with_neither_redis_nor_a_disk(spooling: Settings) -> None:
    bot = Bot(dataclasses.replace(spooling, redis=dataclasses.replace(spooling.redis, port=free_port())))
    assert metric(bot, "clawdbot_spool_refusals_total", reason="full") >= 0
    shutil.rmtree(spooling.spool_dir)
    before = metric(bot, "clawdbot_spool_refusals_total", reason="disk")
    response = bot.robot(dingtalk_body())
    assert (response.status_code, response.json) == (503, {"error": "try again"})
    assert metric(bot, "clawdbot_spool_refusals_total", reason="disk") == before + 1


def test_good_callbacks_do_not_touch_the_disk(spooling: Settings) -> None:
    bot = Bot(spooling)
    assert bot.robot(dingtalk_body()).status_code == 200
    assert not list(Path(spooling.spool_dir).iterdir())


# The command line


@pytest.fixture
def run(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "spool").mkdir()
    monkeypatch.setenv("CLAWDBOT_SPOOL_DIR", str(tmp_path / "spool"))
    return run


def test_drain_hands_over_by_itself(run: Run, tmp_path: Path, client: redis.Redis) -> None:
    assert run("drain") == (0, "nothing waits on this node's disk\n")
    keep(Spool(tmp_path / "spool", most_bytes=MEGABYTE, seconds=3600), *numbered(3))
    assert "on this node's disk:   3" in run("queue")[1]
    assert run("drain") == (0, "nothing waits on this node's disk\n")
    assert waiting(client) == ["n0", "n1", "n2"]
    assert "on this node's disk:   0" in run("queue")[1]


def test_drain_says_why_it_cannot(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(Spool(tmp_path / "spool", most_bytes=MEGABYTE, seconds=3600), message())
    cache = tmp_path / "config" / "cache.yaml"
    cache.write_text(f'{{"enabled": true, "host": "127.0.0.1", "port": {free_port()}, "db": 0, "ttl": 60}}')
    monkeypatch.setattr(cli, "REDIS_SECONDS", 0.2)
    code, said = run("drain", "--seconds", "1")
    assert code == cli.EX_UNAVAILABLE
    assert "1 messages still wait on this node's disk: Redis is away" in said
    code, said = run("queue")
    assert code == cli.EX_UNAVAILABLE
    assert "on this node's disk:   1" in said


def test_check_knows_a_folder_that_is_not_there(run: Run, tmp_path: Path) -> None:
    assert run("check")[0] == 0
    (tmp_path / "spool").rmdir()
    code, said = run("check")
    assert code == 0
    assert "warning: environment: CLAWDBOT_SPOOL_DIR" in said


# A whole bot in real processes


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as found:
        yield found


@pytest.mark.parametrize("way", ["killed", "frozen"])
def test_redis_is_away_and_web_is_killed(node: Site, way: str) -> None:
    """Every callback gets its 200 in time, and every message its answer, once and in order."""
    users: list[DingTalk | Feishu] = [DingTalk(node.config), Feishu(node.config)]
    written: dict[str, list[str]] = {}
    slowest = 0.0

    def write(count: int) -> None:
        nonlocal slowest
        for _ in range(count):
            for user in users:
                number = sum(map(len, written.values()))
                question = user.text("Li", f"question {number}")
                begin = time.monotonic()
                assert question.callback().post(node.url, timeout=10).status_code == 200
                slowest = max(slowest, time.monotonic() - begin)
                written.setdefault(question.conversation, []).append(f"echo: {question.text}")

    def answered() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for record in node.control.messages():
            found.setdefault(record.conversation, []).append(record.text)
        return found

    write(2)
    eventually(lambda: answered() == written)
    assert node.redis.process
    if way == "killed":
        node.redis.kill()
    else:
        node.redis.process.send_signal(signal.SIGSTOP)
    write(10)
    assert slowest < 2
    page = requests.get(f"{node.url}/metrics", timeout=10).text
    assert "clawdbot_spool_messages 20.0" in page
    node.kill("web")
    node.run("web")
    eventually(lambda: requests.get(f"{node.url}/health", timeout=60).status_code == 200)
    write(5)
    assert not node.ready()
    if way == "killed":
        node.redis.start()
    else:
        node.redis.process.send_signal(signal.SIGCONT)
    write(5)
    eventually(lambda: answered() == written)
    eventually(node.ready)
    eventually(lambda: "clawdbot_spool_messages 0.0" in requests.get(f"{node.url}/metrics", timeout=10).text)
    time.sleep(1)
    assert answered() == written
