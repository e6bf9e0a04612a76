"""The errors that decide what happens to a message."""

from __future__ import annotations


class ClawdbotError(Exception):
    """Base of our own errors. Their text never holds a secret or a user's words, so it may be logged."""


class ConfigError(ClawdbotError):
    """The configuration cannot work; the text names file, key and cure."""


class Refusal(ClawdbotError):
    """A callback is refused.

    Attributes:
        status: HTTP status, 400, 401, 404 or 413.
        reason: short word for log and metric; the caller of the callback never sees it.
    """

    def __init__(self, status: int, reason: str) -> None:
        """Keep status and reason."""
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


class Retry(ClawdbotError):
    """Try this message again later.

    Attributes:
        after: seconds that the other side asked us to wait, or None.
        apology: what the user is told when the attempts are used up.
    """

    def __init__(self, reason: str, *, after: float | None = None, apology: str = "") -> None:
        """Keep the reason and the wait."""
        super().__init__(reason)
        self.after = after
        self.apology = apology


class Throttled(Retry):
    """We do not even ask: our own rate limit, or a breaker that is open. Not a failure, only an early knock."""


class Unsure(Retry):
    """The request was written and no answer came, so it may have had its effect.

    Only for requests that have it twice if they are sent twice.
    """


class Final(ClawdbotError):
    """Trying again cannot help.

    Attributes:
        apology: what the user is told; empty when nobody can be told.
    """

    def __init__(self, reason: str, *, apology: str = "") -> None:
        """Keep the reason and the sentence for the user."""
        super().__init__(reason)
        self.apology = apology


class LeaseLost(ClawdbotError):
    """Another worker owns the conversation now; this one must not touch it any more."""


class SpoolError(ClawdbotError):
    """This node's disk does not take or give what shall wait on it.

    Attributes:
        reason: ``full``: the spool or its disk; ``old``: it has collected for too long; ``disk``: it fails; ``slow``.
    """

    def __init__(self, reason: str, text: str) -> None:
        """Keep the reason."""
        super().__init__(text)
        self.reason = reason
