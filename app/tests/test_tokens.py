"""Access tokens: fetched once for all, and a failure is known to all who wait."""

from __future__ import annotations

import threading
import time

import pytest
import redis
from clawdbot import tokens
from clawdbot.errors import Final, LeaseLost, Retry
from clawdbot.notes import SharedNotes
from clawdbot.tokens import Token


def get_all(token: Token, count: int = 8) -> list[str]:
    """Let ``count`` threads ask at once; return what they got, or the name of what was raised."""
    got: list[str] = []

    def ask() -> None:
        try:
            got.append(token.get())
        except (Retry, Final) as error:
            got.append(type(error).__name__)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_one_fetches_for_all(client: redis.Redis) -> None:
    calls: list[int] = []

    def fetch() -> tuple[str, float]:
        calls.append(1)
        time.sleep(0.1)
        return "t", 7200

    assert get_all(Token(SharedNotes(client), "p", "a", fetch)) == ["t"] * 8
    assert len(calls) == 1
    assert 6000 < client.ttl("clawdbot:token:p:a") <= 6300


@pytest.mark.parametrize("kind", [Retry, Final])
def test_failure_is_known_to_all_who_wait(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, kind: type[Retry | Final]
) -> None:
    monkeypatch.setattr(tokens, "FAILED_SECONDS", 60)
    calls: list[int] = []

    def fetch() -> tuple[str, float]:
        calls.append(1)
        time.sleep(0.1)
        raise kind("p: token endpoint is away")

    token = Token(SharedNotes(client), "p", "a", fetch)
    started = time.monotonic()
    assert get_all(token) == [kind.__name__] * 8
    assert len(calls) == 1
    assert time.monotonic() - started < tokens.FAILED_SECONDS / 2
    # When its time is over, somebody asks again.
    monkeypatch.setattr(time, "monotonic", lambda: started + tokens.FAILED_SECONDS * 2)
    get_all(token, 1)
    assert len(calls) == 2


def test_a_lease_that_was_lost_is_nobody_elses_failure(client: redis.Redis) -> None:
    """Whoever fetches a token on the way to a user may find that the lease is gone: no other message's concern."""
    found: list[Exception | str] = [LeaseLost("the lease belongs to another worker"), "t"]

    def fetch() -> tuple[str, float]:
        one = found.pop(0)
        if isinstance(one, Exception):
            raise one
        return one, 7200

    token = Token(SharedNotes(client), "p", "a", fetch)
    with pytest.raises(LeaseLost):
        token.get()
    assert token.get() == "t"


def test_token_on_a_full_memory(client: redis.Redis) -> None:
    most = client.config_get("maxmemory")["maxmemory"]
    try:
        client.config_set("maxmemory", 1)
        assert Token(SharedNotes(client), "p", "a", lambda: ("t", 7200.0)).get() == "t"
    finally:
        client.config_set("maxmemory", str(most))
