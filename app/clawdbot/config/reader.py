"""Taking values out of one source of the configuration, with every mistake named."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import ipaddress
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

PLACEHOLDER = re.compile(
    r"^(your[_ ].*|generated or given|32 random characters|32位.*|自.*|change[_ -]?me.*|<.*>|x{3,}|todo)$",
    re.IGNORECASE,
)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, which key, and how to mend it."""

    place: str
    key: str
    cure: str
    fatal: bool = True

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.place}: {self.key}: {self.cure}"


class Reader:
    """Takes keys out of one source and remembers which were asked for and what is wrong with them."""

    def __init__(self, place: str, values: Mapping[str, Any]) -> None:
        """Read from ``values``; ``place`` is how people call the source."""
        self.place = place
        self.values = values
        self.known: list[str] = []
        self.problems: list[Problem] = []

    def problem(self, key: str, cure: str, *, fatal: bool = True) -> None:
        """Note a mistake."""
        self.problems.append(Problem(self.place, key, cure, fatal))

    def take(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``; nothing and an empty text are the default."""
        self.known.append(key)
        value = self.values.get(key)
        return default if value is None or value == "" else value

    def text(self, key: str, cure: str, *, default: str | None = None) -> str:
        """A text; without a default it has to be there."""
        value = self.take(key)
        if value is None:
            if default is None:
                self.problem(key, f"is missing; {cure}")
            return default or ""
        if not isinstance(value, str):
            self.problem(key, f"must be a text in quotes, not {type(value).__name__}; {cure}")
            return ""
        if PLACEHOLDER.match(value):
            self.problem(key, f"still holds the placeholder; {cure}")
        return value

    def url(self, key: str, *, default: str) -> str:
        """An http(s) URL, without a slash at its end."""
        value = self.text(key, f"give a URL such as {default}", default=default)
        try:
            parts = urlsplit(value)
            valid = parts.scheme in {"http", "https"} and bool(parts.hostname)
        except ValueError:
            valid = False
        if not valid:
            self.problem(key, f"is no http(s) URL; give one such as {default}")
        return value.rstrip("/")

    def networks(self, key: str, *, default: str) -> str:
        """Addresses and networks with commas between them, as they are written; ``*`` is everybody."""
        value = self.text(key, "give addresses such as 10.0.0.5,10.0.1.0/24", default=default)
        for part in value.split(","):
            try:
                ipaddress.ip_network("0.0.0.0/0" if part.strip() in ("", "*") else part.strip(), strict=False)
            except ValueError:
                self.problem(key, f"{part.strip()!r} is no address and no network; give such as 10.0.0.5,10.0.1.0/24")
                return default
        return value

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number."""
        value = self.take(key, default)
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.problem(key, f"must be a whole number from {low} to {high}, for example {default}")
            return default
        return value

    def decimal(self, key: str, low: float, high: float) -> float | None:
        """A number that may be left out."""
        value = self.take(key)
        if value is None:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not low <= number <= high:
            self.problem(key, f"must be a number from {low:g} to {high:g}, such as 0.7, or empty")
            return None
        return number

    def moment(self, key: str, *, whole_day: bool = False) -> float | None:
        """A date or a time of ISO 8601 that may be left out, in UTC unless it says otherwise, as Unix time in seconds.

        Of a date its beginning, with ``whole_day`` its end.
        """
        value = self.take(key)
        if value is None:
            return None
        # YAML makes a date of what is not in quotes.
        text = value.isoformat() if isinstance(value, datetime.date) else str(value)
        try:
            found = datetime.datetime.fromisoformat(text)
            if whole_day and "T" not in text and " " not in text:
                found += datetime.timedelta(days=1)
        except (ValueError, OverflowError):
            self.problem(key, "is no ISO 8601 date; write one such as 2027-01-31")
            return None
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()

    def fields(self, key: str, reserved: Mapping[str, str], *, example: str) -> dict[str, Any]:
        """A JSON object; ``reserved`` names the settings for the keys that it must not have."""
        value = self.take(key, "{}")
        try:
            found = json.loads(value)
        except (TypeError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.problem(key, f"must be a JSON object such as {example}")
            return {}
        for name in found.keys() & reserved.keys():
            self.problem(key, f"must not set {name}; use {reserved[name]}")
        return found

    def flag(self, key: str, default: bool) -> bool:
        """True or false; an environment has only texts for it."""
        value = self.take(key, default)
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value, value)
        if not isinstance(value, bool):
            self.problem(key, "must be true or false")
            return default
        return value

    def choice(self, key: str, options: tuple[str, ...]) -> str:
        """One of ``options``, by default the first."""
        value = self.take(key, options[0])
        if value not in options:
            self.problem(key, f"must be one of {', '.join(options)}")
            return options[0]
        return str(value)

    def names(self, key: str) -> tuple[str, ...]:
        """A list of ids."""
        value = self.take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            self.problem(key, "must be a list of ids in quotes; leave it out to let everybody in")
            return ()
        return tuple(value)

    def addresses(self, key: str, port: int) -> tuple[tuple[str, int], ...]:
        """A list of addresses and ports that may be left out."""
        value = self.take(key, [])
        found = []
        for each in value if isinstance(value, list) else [value]:
            parts = urlsplit(f"//{each}")
            try:
                host, number = parts.hostname, parts.port
            except ValueError:
                host, number = None, None
            if not isinstance(each, str) or not host or not number:
                self.problem(key, f'must be a list such as ["10.0.0.1:{port}", "10.0.0.2:{port}"]')
                return ()
            found.append((host, number))
        return tuple(found)

    def unknown(self, *, but: tuple[str, ...] = (), starting_with: tuple[str, ...] = ("",)) -> None:
        """Note the keys that nobody asked for; those of ``but`` are somebody else's."""
        for key in self.values:
            if key in self.known or key in but or not key.startswith(starting_with):
                continue
            near = difflib.get_close_matches(key, self.known, n=1)
            hint = f"did you mean {near[0]}?" if near else "correct the spelling or remove it"
            self.problem(key, f"is not a known key; {hint}", fatal=False)

    def sound(self, build: Callable[[Reader], T]) -> T | None:
        """What ``build`` makes of this source; None if it noted a mistake that keeps it from working."""
        before = len(self.problems)
        made = build(self)
        return None if any(problem.fatal for problem in self.problems[before:]) else made
