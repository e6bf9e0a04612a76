"""What a failure means: the table that decides, and what an operator reads of Redis."""

from __future__ import annotations

import pytest
import redis
from clawdbot.engine.failures import Verdict, judge
from clawdbot.errors import Final, LeaseLost, Retry, Throttled, Unsure
from clawdbot.message import Unreadable
from redis import exceptions

OLD = "Error compiling script (new function): user_script:1: unexpected symbol near '#'"


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (LeaseLost("lost"), Verdict.LEAVE, "lost"),
        (Throttled("breaker", after=3), Verdict.KNOCK, "breaker"),
        (Retry("busy"), Verdict.RETRY, "busy"),
        (Unsure("silence"), Verdict.RETRY, "silence"),
        (Final("no"), Verdict.BURY, "no"),
        (Unreadable("of another version", "raw"), Verdict.BURY, "of another version"),
        (redis.ResponseError("NOGROUP No such key 'clawdbot:ready'"), Verdict.LEAVE, "emptied or replaced"),
        (exceptions.BusyLoadingError("loading"), Verdict.PAUSE, "loading its data"),
        (exceptions.ReadOnlyError("readonly"), Verdict.PAUSE, "read-only"),
        (exceptions.OutOfMemoryError("oom"), Verdict.PAUSE, "memory of Redis is full"),
        (exceptions.NoScriptError("none"), Verdict.PAUSE, "forgets our scripts"),
        (redis.ResponseError("MISCONF Redis is configured to save"), Verdict.PAUSE, "cannot write to its disk"),
        (redis.ResponseError(OLD), Verdict.PAUSE, "version 7.0 or later is needed"),
        (exceptions.AuthenticationError("wrong"), Verdict.PAUSE, "refuses the password"),
        (exceptions.NoPermissionError("none"), Verdict.PAUSE, "does not permit"),
        (redis.TimeoutError("slow"), Verdict.PAUSE, "does not answer in time"),
        (redis.ConnectionError("refused"), Verdict.PAUSE, "Redis is away"),
        (redis.ResponseError("ERR unknown"), Verdict.PAUSE, "refuses a command"),
    ],
)
def test_what_it_means(error: Exception, verdict: Verdict, reason: str) -> None:
    failure = judge(error)
    assert (failure.verdict, failure.bug) == (verdict, False)
    assert reason in failure.reason


def test_the_rest_is_a_bug_of_ours_and_quotes_nothing() -> None:
    failure = judge(KeyError("a user's words"))
    assert (failure.verdict, failure.reason, failure.bug) == (Verdict.BURY, "KeyError", True)
    assert failure.apology
