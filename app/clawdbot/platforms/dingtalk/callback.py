"""What DingTalk sends: robot messages and event subscriptions, on one URL.

A robot message carries the headers ``timestamp`` and ``sign``; an event carries ``msg_signature`` (or
``signature``), ``timestamp`` (or ``timeStamp``) and ``nonce`` in the query and ``{"encrypt": ...}`` as its body.
"""

from __future__ import annotations

import re
from typing import Any

from clawdbot.config import DingTalkConfig
from clawdbot.errors import Refusal
from clawdbot.message import Message
from clawdbot.platforms import base
from clawdbot.platforms.base import CallbackRequest, Received
from clawdbot.platforms.dingtalk import content
from clawdbot.platforms.dingtalk.crypto import EventCipher, event_signature, nonce, robot_sign

# The documentation allows a robot message's time to differ by one hour.
WINDOW_MS = 3_600_000
GROUP = "2"
# DingTalk takes the mention of the robot out. Where a client leaves it in, this space ends it; names may have others.
MENTION = re.compile(r"^(?:\s*@[^\u2005\n]{1,64}\u2005\s*)+")
NOTHING_TO_SAY = {"msgtype": "empty"}


class DingTalkReceiver:
    """Verifies and parses DingTalk's callbacks, see `clawdbot.platforms.base.Receiver`."""

    name = "dingtalk"

    def __init__(self, config: DingTalkConfig) -> None:
        """Prepare keys."""
        self._config = config
        self._cipher = EventCipher(config.aes_key, config.app_key)

    def receive(self, request: CallbackRequest) -> Received:
        """Tell the two kinds apart; see `Receiver.receive`."""
        query = request.query
        signature = query.get("msg_signature") or query.get("signature")
        if signature and "nonce" in query:
            return self._event(request, signature)
        sign = request.header("sign")
        if sign is not None:
            return self._robot(request, sign)
        raise Refusal(401, "no_signature")

    def _event(self, request: CallbackRequest, signature: str) -> Received:
        """An event. No event has an effect yet, so an old one is answered, too: replaying it gains nothing."""
        query = request.query
        timestamp = query.get("timestamp") or query.get("timeStamp") or ""
        encrypted = base.parse_json(request.body).get("encrypt")
        if not isinstance(encrypted, str):
            raise Refusal(400, "no_encrypt")
        expected = event_signature(self._config.token, timestamp, query["nonce"], encrypted)
        if not base.same(signature, expected):
            raise Refusal(401, "bad_signature")
        event = base.parse_json(self._cipher.decrypt(encrypted))
        note = f"event {base.string(event, 'EventType')[:64] or 'without type'}"
        return Received(self._success(request.now_ms), note=note)

    def _success(self, now_ms: int) -> dict[str, str]:
        """The encrypted and signed ``success`` that DingTalk waits for."""
        encrypted, timestamp, fresh = self._cipher.encrypt(b"success"), str(now_ms), nonce()
        signature = event_signature(self._config.token, timestamp, fresh, encrypted)
        return {"msg_signature": signature, "timeStamp": timestamp, "nonce": fresh, "encrypt": encrypted}

    def _robot(self, request: CallbackRequest, sign: str) -> Received:
        timestamp = request.header("timestamp") or ""
        if not base.same(sign, robot_sign(self._config.app_secret, timestamp)):
            raise Refusal(401, "bad_signature")
        if not (timestamp.isascii() and timestamp.isdigit()) or abs(request.now_ms - int(timestamp)) > WINDOW_MS:
            raise Refusal(401, "stale_timestamp")
        body = base.parse_json(request.body)
        if isinstance(body.get("encrypt"), str):
            # Seen in the field, not documented: the same envelope, signed by the headers, its owner optional.
            body = base.parse_json(self._cipher.decrypt(body["encrypt"], owner_required=False))
        if (code := str(body.get("errCode") or "0")[:32]) != "0" and not _says_anything(body):
            # Over quota (20001) DingTalk calls without content, with or without an id.
            return Received(NOTHING_TO_SAY, note=f"no content, errCode {code}", trouble=f"errCode {code}")
        message = _message(body, request.now_ms)
        if message.group and body.get("isInAtList") is False:
            return Received(NOTHING_TO_SAY, note="not mentioned")
        return Received(NOTHING_TO_SAY, message, replay_guard=f"dingtalk:{timestamp}")


def _says_anything(body: dict[str, Any]) -> bool:
    return bool(body.get("content") or base.string(base.section(body, "text"), "content"))


def _message(body: dict[str, Any], now_ms: int) -> Message:
    kind = base.string(body, "msgtype")
    said = content.read(kind, body.get("text" if kind == "text" else "content"))
    if kind == "picture" and not said.images:
        raise Refusal(400, "picture_without_code")
    group = body.get("conversationType") == GROUP
    quoted = content.quote(body)
    staff = base.string(body, "senderStaffId")
    return Message(
        platform="dingtalk",
        id=base.identifier(body, "msgId"),
        conversation=base.identifier(body, "conversationId"),
        group=group,
        # Outside of the organisation there is no staff id.
        sender=staff or base.identifier(body, "senderId"),
        sender_name=base.string(body, "senderNick")[:64],
        created_ms=base.milliseconds(body, "createAt", now_ms),
        text=MENTION.sub("", said.text) if group else said.text,
        images=said.images,
        unsupported=said.unsupported,
        route={
            "session_webhook": base.string(body, "sessionWebhook"),
            "session_expires_ms": base.milliseconds(body, "sessionWebhookExpiredTime", 0),
            "robot_code": base.string(body, "robotCode"),
            "staff_id": staff,
            "group_name": base.string(body, "conversationTitle")[:64],
            **({} if quoted is None else {"quote": quoted}),
        },
    )
