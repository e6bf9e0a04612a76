"""What DingTalk sends: robot messages and event subscriptions, on one URL.

A robot message carries the headers ``timestamp`` and ``sign``; an event carries ``msg_signature`` (or
``signature``), ``timestamp`` (or ``timeStamp``) and ``nonce`` in the query and ``{"encrypt": ...}`` as its body.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from clawdbot import former
from clawdbot.config import DingTalkConfig, Secret
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
        """Keep the keys."""
        self._config = config

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

    def pushed(self, event: dict[str, Any], now_ms: int) -> Received:
        """A robot message; see `Receiver.pushed`."""
        return _message_in(event, now_ms)

    def _event(self, request: CallbackRequest, signature: str) -> Received:
        """An event. No event has an effect yet, so an old one is answered, too: replaying it gains nothing."""
        query = request.query
        timestamp = query.get("timestamp") or query.get("timeStamp") or ""
        encrypted = base.parse_json(request.body).get("encrypt")
        if not isinstance(encrypted, str):
            raise Refusal(400, "no_encrypt")

        def verify(token: str) -> None:
            if not base.same(signature, event_signature(token, timestamp, query["nonce"], encrypted)):
                raise Refusal(401, "bad_signature")

        _, token = former.first(self._config.accepted("token", request.now_ms), verify)
        event, aes_key = self._open(encrypted, request.now_ms)
        note = f"event {base.string(event, 'EventType')[:64] or 'without type'}"
        reply = self._success(token.value, aes_key.value, request.now_ms)
        return Received(reply, note=note, secrets=(token, aes_key))

    def _open(self, encrypted: str, now_ms: int, *, owner_required: bool = True) -> tuple[dict[str, Any], Secret]:
        def decrypt(aes_key: str) -> dict[str, Any]:
            cipher = EventCipher(aes_key, self._config.app_key)
            return base.parse_json(cipher.decrypt(encrypted, owner_required=owner_required))

        return former.first(self._config.accepted("aes_key", now_ms), decrypt)

    def _success(self, token: str, aes_key: str, now_ms: int) -> dict[str, str]:
        """The encrypted and signed ``success`` that DingTalk waits for; it reads what it would have written itself."""
        encrypted = EventCipher(aes_key, self._config.app_key).encrypt(b"success")
        timestamp, fresh = str(now_ms), nonce()
        signature = event_signature(token, timestamp, fresh, encrypted)
        return {"msg_signature": signature, "timeStamp": timestamp, "nonce": fresh, "encrypt": encrypted}

    def _robot(self, request: CallbackRequest, sign: str) -> Received:
        timestamp = request.header("timestamp") or ""

        def verify(app_secret: str) -> None:
            if not base.same(sign, robot_sign(app_secret, timestamp)):
                raise Refusal(401, "bad_signature")

        _, app_secret = former.first(self._config.accepted("app_secret", request.now_ms), verify)
        if not (timestamp.isascii() and timestamp.isdigit()) or abs(request.now_ms - int(timestamp)) > WINDOW_MS:
            raise Refusal(401, "stale_timestamp")
        body = base.parse_json(request.body)
        secrets: tuple[Secret, ...] = (app_secret,)
        if isinstance(body.get("encrypt"), str):
            # Seen in the field, not documented: the same envelope, signed by the headers, its owner optional.
            body, aes_key = self._open(body["encrypt"], request.now_ms, owner_required=False)
            secrets = (app_secret, aes_key)
        received = _message_in(body, request.now_ms)
        guard = f"{self.name}:{timestamp}" if received.message else ""
        return dataclasses.replace(received, replay_guard=guard, secrets=secrets)


def _message_in(body: dict[str, Any], now_ms: int) -> Received:
    if (code := str(body.get("errCode") or "0")[:32]) != "0" and not _says_anything(body):
        # Over quota (20001) DingTalk calls without content, with or without an id.
        return Received(NOTHING_TO_SAY, note=f"no content, errCode {code}", trouble=f"errCode {code}")
    message = _message(body, now_ms)
    if message.group and body.get("isInAtList") is False:
        return Received(NOTHING_TO_SAY, note="not mentioned")
    return Received(NOTHING_TO_SAY, message)


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
