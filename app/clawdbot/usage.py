"""What people use: tokens and money by person, group, model and day, and the limits of both."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Callable, Iterator

import redis

from clawdbot import metrics
from clawdbot.config.voices import Price, Voice
from clawdbot.message import Message
from clawdbot.store import dump_json, key

# A day's numbers are kept so that a whole year can be looked at.
KEEP_SECONDS = 400 * 86400
WARN_AT = 0.8
MILLION = 1_000_000
PERIODS = {"day": "%Y-%m-%d", "month": "%Y-%m"}


@dataclasses.dataclass(frozen=True, slots=True)
class Spent:
    """What was used in a period; money in millionths of the currency."""

    tokens: int = 0
    micros: int = 0

    def of(self, kind: str) -> float:
        """Return it as a limit counts it: ``tokens`` or ``cost``."""
        return self.tokens if kind == "tokens" else self.micros / MILLION


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """A limit and what is used of it."""

    who: str
    kind: str
    period: str
    most: float
    used: float


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """What one person used in one place of one model on one day."""

    day: str
    platform: str
    person: str
    group: str
    model: str
    answers: int
    prompt: int
    completion: int
    micros: int


class Usage:
    """Counts in Redis."""

    def __init__(self, client: redis.Redis, today: Callable[[], datetime.date] | None = None) -> None:
        """``today`` is the date by which days and months begin: that of this host."""
        self._client = client
        self._today = today or (lambda: datetime.datetime.now(datetime.UTC).astimezone().date())

    def note(self, message: Message, model: str, price: Price | None, prompt: int, completion: int) -> Spent:
        """Count an answer; return what it cost."""
        micros = round(price.input * prompt + price.output * completion) if price else 0
        cost = Spent(prompt + completion, micros)
        if micros:
            metrics.MODEL_COST.labels(model).inc(micros / MILLION)
        name = dump_json([message.platform, message.sender, message.conversation if message.group else "", model])
        day = key("usage", f"{self._today():%Y-%m-%d}")
        # With a full Redis an answer is given and not counted.
        with contextlib.suppress(redis.OutOfMemoryError):
            pipe = self._client.pipeline(transaction=False)
            for field, count in (("a", 1), ("p", prompt), ("c", completion), ("m", micros)):
                pipe.hincrby(day, f"{field}{name}", count)
            pipe.expire(day, KEEP_SECONDS)
            for who in _who(message).values():
                for period in PERIODS:
                    spent = self._name(who, period)
                    pipe.hincrby(spent, "tokens", cost.tokens)
                    pipe.hincrby(spent, "micros", cost.micros)
                    pipe.expire(spent, 40 * 86400)
            pipe.execute()
        return cost

    def spent(self, who: str, period: str) -> Spent:
        """Return what ``who`` used in the present ``day`` or ``month``."""
        tokens, micros = self._client.hmget(self._name(who, period), ["tokens", "micros"])
        return Spent(int(str(tokens or 0)), int(str(micros or 0)))

    def limits(self, message: Message, voice: Voice) -> list[Limit]:
        """Return the limits that ``message`` is under."""
        found = []
        for kind, who in _who(message).items():
            rules = voice.person_limits if kind == "person" else voice.group_limits
            for name, most in rules.items():
                unit, _, period = name.partition("_per_")
                found.append(Limit(kind, unit, period, most, self.spent(who, period).of(unit)))
        return found

    def of_person(self, message: Message) -> dict[str, Spent]:
        """Return what the writer of ``message`` used, by period."""
        who = _who(message)["person"]
        return {period: self.spent(who, period) for period in PERIODS}

    def lines(self, month: str) -> Iterator[Line]:
        """Return what was used in ``month`` (2027-01), by day."""
        for day in (f"{month}-{number:02d}" for number in range(1, 32)):
            found: dict[str, dict[str, int]] = {}
            for field, count in self._client.hgetall(key("usage", day)).items():
                found.setdefault(str(field)[1:], {})[str(field)[0]] = int(str(count))
            for who, counts in sorted(found.items()):
                numbers = (counts.get(each, 0) for each in "apcm")
                yield Line(day, *json.loads(who), *numbers)

    def _name(self, who: str, period: str) -> str:
        return key("spent", who, f"{self._today():{PERIODS[period]}}")


def crossed(limit: Limit, cost: Spent) -> bool:
    """Whether it is ``cost`` that brought ``limit`` to where people are warned; ``limit`` is as it was before."""
    line = limit.most * WARN_AT
    return limit.used < line <= limit.used + cost.of(limit.kind)


def _who(message: Message) -> dict[str, str]:
    found = {"person": f"{message.platform}:person:{message.sender}"}
    if message.group:
        found["group"] = f"{message.platform}:group:{message.conversation}"
    return found
