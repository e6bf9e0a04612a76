"""What a failure means: the one table that decides what becomes of a message, and what the log says of Redis."""

from __future__ import annotations

import dataclasses
import enum

import redis
from redis import exceptions
from redis.sentinel import MasterNotFoundError

from clawdbot import texts
from clawdbot.copies import NotCopied
from clawdbot.errors import Final, LeaseLost, Retry, Throttled
from clawdbot.message import Unreadable


class Verdict(enum.Enum):
    """What becomes of the message in work."""

    KNOCK = "knocked too early: wait, which is no attempt"
    RETRY = "wait and try again, until the message is too old"
    BURY = "a dead letter at once, and an apology"
    LEAVE = "leave it: another worker has it, or Redis has forgotten it"
    PAUSE = "Redis cannot help at the moment: give the message back and let Redis rest"


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A failure that was judged.

    Attributes:
        verdict: what becomes of the message.
        reason: for log and dead letter; never a secret or a user's words.
        after: seconds that the other side asked us to wait, or None.
        apology: what the user is told if the message is given up; empty for the usual words.
        raw: what could not be read, for the dead letter.
        bug: True if it is our own.
    """

    verdict: Verdict
    reason: str
    after: float | None = None
    apology: str = ""
    raw: str = ""
    bug: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    kind: type[BaseException]
    prefix: str
    verdict: Verdict
    reason: str = ""


# The first row that fits decides. `reason` is what an operator reads instead of the exception's own text.
_ROWS = (
    _Row(LeaseLost, "", Verdict.LEAVE),
    _Row(Throttled, "", Verdict.KNOCK),
    _Row(Retry, "", Verdict.RETRY),
    _Row(Final, "", Verdict.BURY),
    _Row(Unreadable, "", Verdict.BURY),
    _Row(
        redis.ResponseError,
        "NOGROUP",
        Verdict.LEAVE,
        "Redis came back without the queue: it was emptied or replaced, and what it held is lost",
    ),
    _Row(exceptions.BusyLoadingError, "", Verdict.PAUSE, "Redis is loading its data"),
    _Row(exceptions.ReadOnlyError, "", Verdict.PAUSE, "Redis is read-only: a replica, where the primary is needed"),
    _Row(exceptions.MasterDownError, "", Verdict.PAUSE, "Redis is a replica that has lost its primary"),
    _Row(exceptions.OutOfMemoryError, "", Verdict.PAUSE, "the memory of Redis is full"),
    _Row(redis.ResponseError, "MISCONF", Verdict.PAUSE, "Redis cannot write to its disk"),
    _Row(exceptions.NoScriptError, "", Verdict.PAUSE, "Redis forgets our scripts again and again"),
    _Row(exceptions.AuthenticationError, "", Verdict.PAUSE, "Redis refuses the password"),
    _Row(exceptions.AuthenticationWrongNumberOfArgsError, "", Verdict.PAUSE, "Redis wants no password"),
    _Row(exceptions.NoPermissionError, "", Verdict.PAUSE, "Redis does not permit what the bot needs"),
    _Row(
        redis.ResponseError,
        "Error compiling script",
        Verdict.PAUSE,
        "Redis is too old: version 7.0 or later is needed",
    ),
    _Row(redis.ResponseError, "NOREPLICAS", Verdict.PAUSE, "Redis has no replica, and takes no writes without one"),
    _Row(NotCopied, "", Verdict.PAUSE),
    _Row(MasterNotFoundError, "", Verdict.PAUSE, "no Sentinel knows a healthy Redis"),
    _Row(redis.TimeoutError, "", Verdict.PAUSE, "Redis does not answer in time"),
    _Row(redis.ConnectionError, "", Verdict.PAUSE, "Redis is away"),
    _Row(redis.ResponseError, "", Verdict.PAUSE, "Redis refuses a command"),
    _Row(redis.RedisError, "", Verdict.PAUSE, "Redis does not answer"),
)


def judge(error: Exception) -> Failure:
    """Return what ``error`` means. What is not in the table is a bug of ours."""
    for row in _ROWS:
        if isinstance(error, row.kind) and str(error).startswith(row.prefix):
            reason = row.reason or str(error)
            apology = getattr(error, "apology", "")
            return Failure(row.verdict, reason, getattr(error, "after", None), apology, getattr(error, "raw", ""))
    return Failure(Verdict.BURY, type(error).__name__, apology=texts.UNEXPECTED, bug=True)
