"""Feishu's long connection: events come over a websocket that we open.

Sources: PyPI ``lark-oapi`` 1.7.5, ``lark_oapi/ws``, and open.feishu.cn "Receive events through a long connection". The
connection is authenticated, so events are neither signed nor encrypted. What is not acknowledged within 3 s comes
again.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from clawdbot.clock import now_ms
from clawdbot.config import FeishuConfig
from clawdbot.errors import Final, Refusal, Retry
from clawdbot.former import Uses
from clawdbot.http import SERVER_ERROR, Http, TransportError
from clawdbot.limits import backoff, jittered
from clawdbot.notes import Notes
from clawdbot.platforms import base
from clawdbot.platforms.base import Arrival, Received
from clawdbot.platforms.feishu.callback import FeishuReceiver
from clawdbot.platforms.feishu.frame import CONTROL, DATA, Frame, decode

OPEN = "/callback/ws/endpoint"
# Codes of its answer that may be another one the next time: busy, internal error.
LATER = {1, 1000040343}
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
# Parts of an event are waited for so long; so many events, of so many parts, may be incomplete at a time.
PARTS_SECONDS = 10.0
MOST_INCOMPLETE = 64
MOST_PARTS = 64


@dataclasses.dataclass(slots=True)
class Manner:
    """How Feishu wants its clients to connect, in seconds, as ``ClientConfig`` says it.

    Its ``ReconnectCount`` is not followed: a bot that has given up is off.

    Attributes:
        interval: between two tries; None as long as Feishu has said nothing.
        nonce: greatest pause before the first try after a loss; its length is left to chance.
        ping: between two pings.
    """

    interval: float | None = None
    nonce: float = 0.0
    ping: float = 120.0

    def follow(self, given: Mapping[str, Any]) -> None:
        """Take over what Feishu says."""

        def seconds(name: str, present: float | None, least: float) -> float | None:
            value = given.get(name)
            usable = isinstance(value, int) and not isinstance(value, bool) and least <= value <= 3600
            return float(value) if usable and value is not None else present

        self.interval = seconds("ReconnectInterval", self.interval, 1)
        self.nonce = seconds("ReconnectNonce", self.nonce, 0) or 0.0
        self.ping = seconds("PingInterval", self.ping, 1) or self.ping


class FeishuConnection:
    """What `clawdbot.platforms.base.Line` describes."""

    name = "feishu"

    def __init__(self, config: FeishuConfig, web: Http, notes: Notes) -> None:
        """Nothing is opened yet."""
        self._config = config
        self._http = web
        self._uses = Uses(notes, {self.name: config.former})
        self._manner = Manner()

    def open(self) -> FeishuSession:
        """Get an endpoint."""
        secrets = self._config.accepted("app_secret", now_ms())
        return self._uses.first(self.name, secrets, self._open_with, Final)

    def pause(self, failures: int) -> float:
        """As Feishu wishes."""
        if self._manner.interval is None:
            return jittered(backoff(failures, FIRST_PAUSE, LONGEST_PAUSE))
        if failures == 0:
            return random.uniform(0, self._manner.nonce)  # noqa: S311  # spreads load, protects nothing
        return self._manner.interval

    def _open_with(self, app_secret: str) -> FeishuSession:
        body = {"AppID": self._config.app_id, "AppSecret": app_secret}
        try:
            response = self._http.request("POST", self._config.api_base_url + OPEN, payload=body)
        except TransportError as error:
            raise Retry(f"feishu: {error}") from None
        answer = response.json()
        code = answer.get("code")
        if response.status == 200 and code == 0:
            data = base.section(answer, "data")
            self._manner.follow(base.section(data, "ClientConfig"))
            url = base.websocket_url(data.get("URL"), self._config.api_base_url)
            return FeishuSession(url, FeishuReceiver(self._config), self._manner)
        reason = f"feishu: ws/endpoint answered {response.status} code {code}"
        if response.status != 200 or code in LATER or not response.is_object():
            raise Retry(reason, after=response.retry_after())
        raise Final(reason)


class FeishuSession:
    """What `clawdbot.platforms.base.Session` describes."""

    def __init__(self, url: str, receiver: FeishuReceiver, manner: Manner) -> None:
        """Read with ``receiver``, and keep ``manner`` up to date."""
        self.url = url
        self._receiver = receiver
        self._manner = manner
        service = parse_qs(urlsplit(url).query).get("service_id", [""])[0]
        self._service = int(service) if service.isascii() and service.isdigit() else 0
        self._parts: dict[str, tuple[float, list[bytes | None]]] = {}

    @property
    def ping_seconds(self) -> float:
        """As Feishu wishes; it may say so anew at any time."""
        return self._manner.ping

    def ping(self) -> bytes:
        """Return a frame that Feishu answers with its wishes."""
        return Frame(service=self._service, method=CONTROL, headers=(("type", "ping"),)).encode()

    def read(self, data: str | bytes, now_ms: int) -> Arrival:
        """Read a frame."""
        frame = decode(data.encode() if isinstance(data, str) else data)
        kind = frame.header("type")
        if frame.method == CONTROL:
            if kind == "pong" and frame.payload:
                self._manner.follow(base.parse_json(frame.payload))
            return Arrival()
        if frame.method != DATA:
            raise Refusal(400, "bad_method")
        payload = self._whole(frame)
        if payload is None:
            return Arrival()
        acknowledge = partial(_acknowledge, frame, time.monotonic())
        if kind != "event":
            note = Received({}, note=f"frame of type {kind[:64]}")
            return Arrival(receive=lambda: note, acknowledge=acknowledge)
        return Arrival(receive=lambda: self._receiver.pushed(base.parse_json(payload), now_ms), acknowledge=acknowledge)

    def _whole(self, frame: Frame) -> bytes | None:
        """The payload of an event; None as long as parts of it are missing."""
        count, number = _small(frame.header("sum") or "1"), _small(frame.header("seq") or "0")
        if count <= 1:
            return frame.payload
        if not (count <= MOST_PARTS and number < count):
            raise Refusal(400, "bad_parts")
        now = time.monotonic()
        self._parts = {name: known for name, known in self._parts.items() if known[0] > now}
        name = frame.header("message_id")
        _, parts = self._parts.get(name, (0.0, [None] * count))
        if len(parts) != count or (name not in self._parts and len(self._parts) >= MOST_INCOMPLETE):
            raise Refusal(400, "bad_parts")
        parts[number] = frame.payload
        self._parts[name] = (now + PARTS_SECONDS, parts)
        there = [part for part in parts if part is not None]
        if len(there) < count:
            return None
        del self._parts[name]
        return b"".join(there)


def _small(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise Refusal(400, "bad_parts")
    return int(text)


def _acknowledge(frame: Frame, began: float, status: int) -> bytes:
    """The frame again, with how long it took and a code; one that is not 200 has Feishu come again."""
    headers = (*frame.headers, ("biz_rt", str(round((time.monotonic() - began) * 1000))))
    payload = json.dumps({"code": 200 if status == 200 else SERVER_ERROR}).encode()
    return dataclasses.replace(frame, headers=headers, payload=payload).encode()
