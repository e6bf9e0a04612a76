"""What a model service's refusal means, by the tables in ``failures.yaml`` and ``finishes.yaml``."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from clawdbot import texts
from clawdbot.errors import ClawdbotError, Final, Retry


class Kind(enum.StrEnum):
    """How a call ended: the metric's label, and what decides about another attempt and the user's text."""

    SUCCESS = "success"
    # Money, key, model: only the operator can help.
    QUOTA = "quota"
    AUTH = "auth"
    MODEL = "model"
    # The service has to recover.
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    UNREACHABLE = "unreachable"
    BROKEN_OFF = "broken_off"
    SILENT = "silent"
    MALFORMED = "malformed"
    # The question, or the answer.
    CONTEXT = "context"
    CONTENT_FILTER = "content_filter"
    LENGTH = "length"
    TOO_SLOW = "too_slow"
    EMPTY = "empty"
    BAD_REQUEST = "bad_request"


# What the user reads; the kinds that are not here are worth another attempt.
FINAL = {
    Kind.QUOTA: texts.NO_QUOTA,
    Kind.AUTH: texts.MISCONFIGURED,
    Kind.MODEL: texts.NO_MODEL,
    Kind.CONTEXT: texts.TOO_LONG,
    Kind.CONTENT_FILTER: texts.FILTERED,
    Kind.LENGTH: texts.THOUGHT_TOO_LONG,
    Kind.TOO_SLOW: texts.TOO_SLOW,
    Kind.EMPTY: texts.EMPTY,
    Kind.BAD_REQUEST: texts.BAD_REQUEST,
}
# Worth asking again at once. A silent service has had its time, and that attempt may have to be paid.
AT_ONCE = {
    Kind.RATE_LIMITED,
    Kind.OVERLOADED,
    Kind.SERVER_ERROR,
    Kind.UNREACHABLE,
    Kind.BROKEN_OFF,
    Kind.MALFORMED,
}


class Failed(ClawdbotError):
    """A call did not bring an answer.

    Attributes:
        kind: what it means.
        fields: for the log: the status and the service's own code.
        after: seconds that the service asked us to wait, or None.
    """

    def __init__(self, kind: Kind, *, after: float | None = None, **fields: Any) -> None:
        """Keep them."""
        super().__init__(", ".join([f"model: {kind}", *(f"{name} {value}" for name, value in fields.items() if value)]))
        self.kind = kind
        self.fields = fields
        self.after = after

    def for_the_queue(self) -> Retry | Final:
        """Return the error that decides what happens to the message."""
        if self.kind in FINAL:
            return Final(str(self), apology=FINAL[self.kind])
        return Retry(str(self), after=self.after, apology=texts.BUSY)


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table; an empty condition always holds."""

    kind: Kind
    status: Collection[int] = ()
    codes: Collection[str] = ()
    words: Collection[str] = ()

    def holds(self, status: int, codes: Collection[str], message: str) -> bool:
        """Whether all conditions hold; ``codes`` and ``message`` are in lower case."""
        return (
            (not self.status or status in self.status)
            and (not self.codes or any(_like(code, known) for code in codes for known in self.codes))
            and (not self.words or any(word in message for word in self.words))
        )


def _like(code: str, known: str) -> bool:
    return code == known or (known.endswith("*") and code.startswith(known[:-1]))


@functools.cache
def table() -> Mapping[str, list[Rule]]:
    """Return the rules by section."""
    data = yaml.safe_load(Path(__file__).with_name("failures.yaml").read_text("utf-8"))
    return {name: [_rule(**line) for line in lines] for name, lines in data.items()}


def _rule(kind: str, status: Any = (), codes: Any = (), words: Any = ()) -> Rule:
    return Rule(Kind(kind), tuple(status), tuple(map(str.lower, codes)), tuple(map(str.lower, words)))


def _rules(provider: str) -> Iterator[Rule]:
    sections = table()
    yield from sections.get(provider, [])
    for name, rules in sections.items():
        if name not in {provider, "all"}:
            yield from (rule for rule in rules if rule.codes and not rule.words and not _numeric(rule))
    yield from sections["all"]


def _numeric(rule: Rule) -> bool:
    return any(code.isdigit() for code in rule.codes)


def sort(provider: str, status: int, error: Mapping[str, Any]) -> tuple[Kind, str]:
    """Return what a refusal means, and the service's code for it as far as it may be logged.

    Args:
        provider: name of the preset.
        status: HTTP status.
        error: the error object, or what the service sent instead of one.
    """
    found = [str(error.get(name) or "") for name in ("code", "error_code", "type")]
    codes = [code.lower() for code in found if code]
    message = " ".join(str(error.get(name) or "") for name in ("message", "error_msg", "msg")).lower()
    kind = next((rule.kind for rule in _rules(provider) if rule.holds(status, codes, message)), None)
    if kind is None:
        kind = Kind.SERVER_ERROR if status >= 500 or status < 300 else Kind.BAD_REQUEST
    # A code is an identifier; anything longer may quote the user.
    said = next((code for code in found if code and len(code) <= 80 and code.replace(".", "").isidentifier()), "")
    return kind, said or next((code for code in found if code.isdigit()), "")


@functools.cache
def _finishes() -> Mapping[str, Kind]:
    data = yaml.safe_load(Path(__file__).with_name("finishes.yaml").read_text("utf-8"))
    return {name: Kind(kind) for name, kind in data.items()}


def finish(reason: str) -> Kind:
    """Return what ``finish_reason`` means; `Kind.SUCCESS` for every one that is not in the table."""
    return _finishes().get(reason.lower(), Kind.SUCCESS)
