"""The queue against a real Redis: once, in order, fenced."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
import redis
from clawdbot.engine import queue as module
from clawdbot.engine.queue import ATTEMPTS, TRIES, WAITING, Begun, DeadLetter, Lease, Queue
from clawdbot.message import Message
from clawdbot.store import PREFIX, READY, key, session_key

COUNTER = itertools.count()


def message(conversation: str = "c", *, created_ms: int = 0, name: str = "") -> Message:
    number = next(COUNTER)
    return Message(
        platform="dingtalk",
        id=name or f"m{number}",
        conversation=conversation,
        group=False,
        sender="u",
        created_ms=created_ms or number + 1,
        text="答",
        images=("i",),
        route={"a": 1},
    )


@pytest.fixture
def queue(client: redis.Redis) -> Queue:
    found = Queue(client, "one")
    found.prepare()
    found.prepare()
    return found


def other(queue: Queue) -> Queue:
    return Queue(queue.client, "two")


def begin(queue: Queue, lease: Lease) -> Begun:
    begun = queue.begin(lease)
    assert begun
    return begun


def head(queue: Queue, lease: Lease) -> tuple[Message, int]:
    begun = begin(queue, lease)
    return begun.message(), begun.attempt


def finish_all(queue: Queue) -> list[str]:
    """Work everything off and return the ids in order."""
    done = []
    while leases := queue.take(1, 1):
        found, _ = head(queue, leases[0])
        done.append(found.id)
        assert queue.done(leases[0], found, None, 1)
    return done


def test_message_survives_the_queue(queue: Queue) -> None:
    sent = message()
    assert queue.accept(sent) == "accepted"
    [lease] = queue.take(10, 1)
    assert head(queue, lease) == (sent, 1)


def test_duplicates(queue: Queue) -> None:
    sent = message()
    assert [queue.accept(sent) for _ in range(3)] == ["accepted", "duplicate", "duplicate"]
    assert finish_all(queue) == [sent.id]
    assert queue.accept(sent) == "duplicate"


def test_nothing_is_left_behind(queue: Queue) -> None:
    """After the work only what expires by itself remains, and the empty stream."""
    for _ in range(3):
        queue.accept(message(), replay_guard="g")
    finish_all(queue)
    kinds = {name.split(":")[1] for name in queue.client.scan_iter(f"{PREFIX}*")}
    assert kinds == {"ready", "dedup", "known", "replay", "replays"}
    assert queue.client.xlen(READY) == 0


def test_order_within_a_conversation_and_one_lease(queue: Queue) -> None:
    sent = [message("c") for _ in range(5)]
    for each in sent:
        queue.accept(each)
    [lease] = queue.take(10, 1)
    assert other(queue).take(10, 1) == []
    first, _ = head(queue, lease)
    queue.done(lease, first, None, 1)
    assert [first.id, *finish_all(queue)] == [each.id for each in sent]


def test_a_message_that_was_overtaken_gets_its_place(queue: Queue) -> None:
    times = {"a": 50, "b": 100, "late": 10, "between": 70, "same": 100, "last": 200}
    for name, created_ms in times.items():
        queue.accept(message("c", created_ms=created_ms, name=name))
    assert finish_all(queue) == ["late", "a", "between", "b", "same", "last"]


def test_a_head_that_was_begun_stays_the_head(queue: Queue) -> None:
    for name, created_ms in {"a": 50, "b": 100}.items():
        queue.accept(message("c", created_ms=created_ms, name=name))
    [lease] = queue.take(1, 1)
    a, _ = head(queue, lease)
    for each in ("later", "again"):
        queue.accept(message("c", created_ms=10, name=each))
        # Also while it waits for another attempt.
        queue.defer(lease, a.key, 0, failed=each == "later")
        queue.promote()
        [lease] = queue.take(1, 1)
    queue.done(lease, head(queue, lease)[0], None, 1)
    assert finish_all(queue) == ["later", "again", "b"]


def test_conversations_run_side_by_side(queue: Queue) -> None:
    for name in ("a", "b", "c"):
        queue.accept(message(name))
    assert {lease.conversation for lease in queue.take(10, 1)} == {"dingtalk:a", "dingtalk:b", "dingtalk:c"}


def test_attempts_are_counted_until_the_message_is_done(queue: Queue) -> None:
    first, second = message("c"), message("c")
    queue.accept(first)
    queue.accept(second)
    [lease] = queue.take(1, 1)
    assert [head(queue, lease), head(queue, lease)] == [(first, 1), (first, 2)]
    queue.done(lease, first, None, 1)
    [lease] = queue.take(1, 1)
    assert head(queue, lease) == (second, 1)
    queue.done(lease, second, None, 1)
    assert (queue.client.hlen(ATTEMPTS), queue.client.hlen(TRIES)) == (0, 0)


def test_lease_that_is_lost_is_worth_nothing(queue: Queue) -> None:
    sent = message()
    queue.accept(sent)
    [lease] = queue.take(1, 1)
    thief = other(queue)
    assert thief.reap(10, lease_ms=60_000) == []
    time.sleep(0.02)
    assert thief.reap(10, lease_ms=10) == [lease]
    stale = Begun(sent.dump(), 1, 0, 0.0)
    assert queue.owns(lease) is False
    assert queue.begin(lease) is None
    assert queue.done(lease, sent, "x", 60) is False
    assert queue.defer(lease, sent.key, 1) is False
    assert queue.bury(lease, DeadLetter.of(sent, stale, "r")) is False
    assert queue.client.get(session_key(sent.conversation_key)) is None
    # A heartbeat must not steal it back.
    assert queue.renew([lease.entry]) == {lease.entry}
    assert thief.owns(lease)
    assert head(thief, lease) == (sent, 1)
    assert thief.done(lease, sent, None, 1)


def test_renewed_lease_is_nobodys_prey(queue: Queue) -> None:
    queue.accept(message())
    [lease] = queue.take(1, 1)
    for _ in range(5):
        time.sleep(0.02)
        assert queue.renew([lease.entry]) == set()
    assert other(queue).reap(10, lease_ms=60) == []


def test_deferred_conversation_waits_and_keeps_its_order(queue: Queue) -> None:
    first, second = message("c"), message("c")
    queue.accept(first)
    [lease] = queue.take(1, 1)
    assert queue.defer(lease, first.key, 0.2)
    queue.accept(second)
    assert queue.promote() == 0
    assert queue.take(1, 1) == []
    assert queue.depth().delayed == 1
    time.sleep(0.25)
    assert queue.promote() == 1
    assert finish_all(queue) == [first.id, second.id]


def test_session_is_written_with_the_finish(queue: Queue) -> None:
    name = session_key("dingtalk:c")
    for session, expected in (("[1]", "[1]"), (None, "[1]"), ("", None)):
        sent = message("c")
        queue.accept(sent)
        [lease] = queue.take(1, 1)
        assert queue.done(lease, sent, session, 60)
        assert queue.client.get(name) == expected


def test_dead_letters(queue: Queue) -> None:
    for name in ("a", "b"):
        sent = message("c", name=name)
        queue.accept(sent)
        [lease] = queue.take(1, 1)
        assert queue.bury(lease, DeadLetter.of(sent, begin(queue, lease), "reason"))
    dead = list(queue.dead())
    assert [letter.key for letter in dead] == ["dingtalk:a", "dingtalk:b"]
    assert dead[0].reason == "reason"
    assert queue.depth().dead == 2
    assert [queue.drop(dead[:1]), queue.drop(dead[:1])] == [1, 0]
    assert [queue.revive(dead), queue.revive(dead)] == [1, 0]
    assert list(queue.dead()) == []
    assert finish_all(queue) == ["b"]


def test_burying_lets_the_next_message_through(queue: Queue) -> None:
    first, second = message("c"), message("c")
    queue.accept(first)
    queue.accept(second)
    [lease] = queue.take(1, 1)
    queue.bury(lease, DeadLetter.of(first, begin(queue, lease), "r"))
    assert finish_all(queue) == [second.id]


def bury(queue: Queue, name: str) -> None:
    sent = message(name=name)
    queue.accept(sent)
    [lease] = queue.take(1, 1)
    queue.bury(lease, DeadLetter.of(sent, begin(queue, lease), "the reason"))


def names(queue: Queue) -> list[str]:
    return [letter.key.removeprefix("dingtalk:") for letter in queue.dead()]


def test_dead_letters_are_bounded_and_end(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    for name in "abcde":
        bury(queue, name)
    queue.tidy()
    assert names(queue) == list("abcde")
    monkeypatch.setattr(module, "MOST_DEAD", 3)
    queue.tidy()
    assert names(queue) == list("cde")
    assert queue.depth().dead == 3
    monkeypatch.setattr(module, "DEAD_SECONDS", 0.2)
    time.sleep(0.3)
    bury(queue, "f")
    queue.tidy()
    assert names(queue) == ["f"]
    assert queue.client.zcard(module.DEAD_ORDER) == 1


def test_dead_letters_of_the_first_release_are_found_and_bounded(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """It kept them without an order, and dropped them without looking at ours."""
    for name in "abc":
        bury(queue, name)
    queue.client.delete(module.DEAD_ORDER)
    assert names(queue) == list("abc")
    queue.client.hdel(module.DEAD, "dingtalk:b")
    assert names(queue) == list("ac")
    monkeypatch.setattr(module, "MOST_DEAD", 1)
    queue.tidy()
    assert names(queue) == ["c"]


def test_ids_and_signatures_are_known_for_their_time(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    sent = [message(name=name) for name in "abcde"]
    for one in sent:
        assert queue.accept(one, f"guard {one.id}") == "accepted"
    finish_all(queue)
    queue.tidy()
    assert [queue.accept(one, f"guard {one.id}") for one in sent] == ["duplicate"] * 5
    assert queue.client.llen(module.KNOWN) == queue.client.llen(module.REPLAYS) == 5
    monkeypatch.setattr(module, "DEDUP_SECONDS", 0.2)
    monkeypatch.setattr(module, "REPLAY_GUARD_SECONDS", 0.2)
    time.sleep(0.3)
    late = message(name="f")
    queue.accept(late)
    queue.tidy()
    assert queue.client.keys(key("dedup", "*")) == [key("dedup", late.key)]
    assert queue.client.keys(key("replay*")) == []
    assert queue.client.llen(module.KNOWN) == 1
    assert queue.accept(sent[0], f"guard {sent[0].id}") == "accepted"


def test_depth(queue: Queue) -> None:
    assert queue.depth().messages == 0
    for _ in range(3):
        queue.accept(message("c"))
    time.sleep(0.05)
    depth = queue.depth()
    assert depth.messages == 3
    assert 0.04 < depth.oldest_seconds < 5
    finish_all(queue)
    assert queue.client.zcard(WAITING) == 0
    assert queue.depth().oldest_seconds == 0


def test_lost_group_is_made_again(queue: Queue) -> None:
    sent = message()
    queue.accept(sent)
    queue.client.xgroup_destroy(READY, "workers")
    queue.prepare()
    assert finish_all(queue) == [sent.id]


def test_idle_consumers_go_but_never_those_with_a_lease(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clawdbot.engine.queue.IDLE_CONSUMER_MS", -1)
    queue.accept(message())
    [lease] = queue.take(1, 1)
    other(queue).take(1, 1)
    queue.retire_idle_consumers()
    assert [consumer["name"] for consumer in queue.client.xinfo_consumers(READY, "workers")] == ["one"]
    assert queue.owns(lease)
    queue.retire()
    assert queue.owns(lease)


def test_reaping_forgets_entries_that_are_gone(queue: Queue) -> None:
    queue.accept(message())
    [lease] = queue.take(1, 1)
    queue.client.xdel(READY, lease.entry)
    time.sleep(0.01)
    assert other(queue).reap(10, 5) == []


def test_abandoned_lease_is_found_behind_any_number_of_live_ones(queue: Queue) -> None:
    for number in range(300):
        queue.accept(message(f"c{number}"))
    live, abandoned = queue.take(299, 1), queue.take(1, 1)
    time.sleep(0.3)
    queue.renew(lease.entry for lease in live)
    assert other(queue).reap(1, 200) == abandoned


@pytest.mark.parametrize("entry", [{"conversation": "dingtalk:nobody"}, {"what": "is this"}])
def test_entry_without_messages_is_cleared_away(queue: Queue, entry: dict[Any, Any]) -> None:
    queue.client.xadd(READY, entry)
    [lease] = queue.take(1, 1)
    assert queue.begin(lease) is None
    assert queue.client.xlen(READY) == 0


def test_full_memory_drops_cache_entries_and_never_messages(queue: Queue) -> None:
    """What ``volatile-ttl`` is for: the entries that end first go first, keys without an end stay."""
    client = queue.client
    most = client.config_get("maxmemory")["maxmemory"]
    queue.accept(message("keep"))
    try:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 3_000_000)
        for number in range(600):
            client.set(key("cache", number), "x" * 10_000, ex=3600)
        assert client.info("stats")["evicted_keys"] > 0
    finally:
        client.config_set("maxmemory", str(most))
    assert len(finish_all(queue)) == 1
