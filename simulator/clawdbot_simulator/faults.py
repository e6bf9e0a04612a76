"""Faults that can be switched on for an endpoint, a number of times or until reset."""

import itertools
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

Kind = Literal[
    "slow",  # answer normally, `seconds` later
    "rate_limit",  # too many requests, in the platform's own form; come back in `retry_after` s
    "server_error",  # HTTP 500
    "expired_token",  # all access tokens handed out so far are void (the model: the key is)
    "drop",  # close the connection without doing anything
    "drop_after",  # do it, then close the connection without an answer
    "dead_session",  # the DingTalk session webhook has expired
    "error",  # answer with `status` and `body`, whatever they are
]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass
class Fault:
    """One switched-on fault. All kinds wait ``seconds`` before they act."""

    endpoint: str  # "feishu.reply", or a pattern such as "dingtalk.*"
    kind: Kind
    count: int | None = None  # how many requests it hits; None: until reset
    seconds: float = 0.0
    retry_after: int = 1  # seconds
    status: int = 400
    body: dict[str, Any] = field(default_factory=dict)
    id: int = 0
    hits: int = 0


class FaultBoard:
    """The faults that are on; the oldest that fits a request is applied to it."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Switch a fault on; gives it its id."""
        with self._lock:
            fault.id = next(self._ids)
            self._faults.append(fault)
            return fault

    def take(self, endpoint: str) -> Fault | None:
        """The fault to apply to this request, counted as a hit; None when all is well."""
        with self._lock:
            for fault in self._faults:
                spent = fault.count is not None and fault.hits >= fault.count
                if not spent and fnmatchcase(endpoint, fault.endpoint):
                    fault.hits += 1
                    return fault
        return None

    def active(self) -> list[Fault]:
        """All faults, spent ones too."""
        with self._lock:
            return list(self._faults)

    def clear(self, fault_id: int | None = None) -> None:
        """Switch one fault off, or all."""
        with self._lock:
            self._faults = [f for f in self._faults if fault_id is not None and f.id != fault_id]
