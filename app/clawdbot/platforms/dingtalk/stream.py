"""DingTalk's Stream mode: messages come over a websocket that we open.

Sources: open-dingtalk/developerpedia, docs/learn/stream/protocol.md, and the frames of PyPI ``dingtalk-stream`` 0.24.3.
A robot message that is not acknowledged was seen to come again after 60 s; the protocol does not promise it.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any
from urllib.parse import quote

from clawdbot import text
from clawdbot.clock import now_ms
from clawdbot.config import DingTalkConfig
from clawdbot.errors import Final, Refusal, Retry
from clawdbot.former import Uses
from clawdbot.http import SERVER_ERROR, Http, TransportError
from clawdbot.limits import backoff, jittered
from clawdbot.notes import Notes
from clawdbot.platforms import base
from clawdbot.platforms.base import Arrival, Received
from clawdbot.platforms.dingtalk.callback import DingTalkReceiver

OPEN = "/v1.0/gateway/connections/open"
MESSAGES = "/v1.0/im/bot/messages/get"
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


class DingTalkStream:
    """What `clawdbot.platforms.base.Line` describes."""

    name = "dingtalk"

    def __init__(self, config: DingTalkConfig, web: Http, notes: Notes) -> None:
        """Nothing is opened yet."""
        self._config = config
        self._http = web
        self._uses = Uses(notes, {self.name: config.former})

    def open(self) -> DingTalkSession:
        """Get an endpoint and its ticket, which opens it once within 90 s."""
        secrets = self._config.accepted("app_secret", now_ms())
        return self._uses.first(self.name, secrets, self._open_with, Final)

    def pause(self, failures: int) -> float:
        """DingTalk asks for none."""
        return jittered(backoff(failures, FIRST_PAUSE, LONGEST_PAUSE))

    def _open_with(self, app_secret: str) -> DingTalkSession:
        body = {
            "clientId": self._config.app_key,
            "clientSecret": app_secret,
            "subscriptions": [{"type": "CALLBACK", "topic": MESSAGES}],
            "ua": "clawdbot",
        }
        try:
            response = self._http.request("POST", self._config.api_base_url + OPEN, payload=body)
        except TransportError as error:
            raise Retry(f"dingtalk: {error}") from None
        answer = response.json()
        endpoint, ticket = answer.get("endpoint"), answer.get("ticket")
        if response.status == 200 and isinstance(endpoint, str) and isinstance(ticket, str):
            url = base.websocket_url(endpoint, self._config.api_base_url)
            return DingTalkSession(f"{url}?ticket={quote(ticket, safe='')}", DingTalkReceiver(self._config))
        reason = f"dingtalk: connections/open answered {response.status} {str(answer.get('code', ''))[:80]}"
        if response.status == 200 or response.is_temporary():
            raise Retry(reason, after=response.retry_after())
        raise Final(reason)


class DingTalkSession:
    """What `clawdbot.platforms.base.Session` describes."""

    # DingTalk pings, and is content with that.
    ping_seconds = 0.0

    def __init__(self, url: str, receiver: DingTalkReceiver) -> None:
        """Read with ``receiver``."""
        self.url = url
        self._receiver = receiver

    def ping(self) -> bytes:
        """Never sent."""
        return b""

    def read(self, data: str | bytes, now_ms: int) -> Arrival:
        """Read a frame: ``{"type", "headers": {"topic", "messageId"}, "data": "<JSON>"}``."""
        frame = base.parse_json(data)
        headers = base.section(frame, "headers")
        name, topic = base.identifier(headers, "messageId"), base.string(headers, "topic")
        content = frame.get("data")
        content = content if isinstance(content, str) else "{}"
        match frame.get("type"):
            case "SYSTEM" if topic == "disconnect":
                return Arrival(leave=True)
            case "SYSTEM":
                # A ping wants its own data back.
                return Arrival(answer=_answer(name, 200, content))
            case "CALLBACK" if topic == MESSAGES:
                return Arrival(
                    receive=lambda: self._receiver.pushed(base.parse_json(content), now_ms),
                    acknowledge=partial(_acknowledge, name),
                )
            case "CALLBACK":
                return Arrival(receive=partial(_nothing, f"topic {topic}"), acknowledge=partial(_acknowledge, name))
            case "EVENT":
                kind = base.string(headers, "eventType") or topic
                return Arrival(
                    receive=partial(_nothing, f"event {kind}"), acknowledge=partial(_acknowledge_event, name)
                )
            case _:
                raise Refusal(400, "bad_type")


def _nothing(note: str) -> Received:
    return Received({}, note=text.clean(note)[:80])


def _acknowledge(name: str, status: int) -> str:
    """Of a callback: what cannot be taken now is not answered, and so comes again."""
    return _answer(name, status, json.dumps({"response": None})) if status < SERVER_ERROR else ""


def _acknowledge_event(name: str, status: int) -> str:
    return _answer(name, 200, json.dumps({"status": "SUCCESS" if status < SERVER_ERROR else "LATER"}))


def _answer(name: str, code: int, data: str) -> str:
    answer: dict[str, Any] = {
        "code": code,
        "headers": {"messageId": name, "contentType": "application/json"},
        "message": "OK",
        "data": data,
    }
    return json.dumps(answer)
