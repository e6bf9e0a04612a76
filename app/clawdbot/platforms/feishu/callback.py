"""What Feishu sends: the URL check and version 2 events, encrypted or (without an Encrypt Key) plain.

Sources: open.feishu.cn "Receive message" and "Step 3: Receive events". Whether the URL check is signed is not
documented consistently: with headers the signature is verified, without them only a URL check is accepted that
decrypts with our key and knows our token.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from clawdbot import former
from clawdbot.config import FeishuConfig, Secret
from clawdbot.errors import Refusal
from clawdbot.message import Message
from clawdbot.platforms import base
from clawdbot.platforms.base import CallbackRequest, Received
from clawdbot.platforms.feishu import content, crypto

RECEIVE = "im.message.receive_v1"
URL_CHECK = "url_verification"
# Feishu repeats for 7.1 hours, perhaps with the first time stamp, and we remember messages for 24.
WINDOW_MS = 12 * 3_600_000
FUTURE_MS = 3_600_000
# Seconds below, milliseconds above: the unit is not documented.
MILLISECONDS_FROM = 10**11
LONGEST_CHALLENGE = 1024
SIGNED_HEADERS = ("x-lark-signature", "x-lark-request-timestamp", "x-lark-request-nonce")


class FeishuReceiver:
    """Verifies and parses Feishu's callbacks, see `clawdbot.platforms.base.Receiver`."""

    name = "feishu"

    def __init__(self, config: FeishuConfig) -> None:
        """Keep the keys."""
        self._config = config

    def receive(self, request: CallbackRequest) -> Received:
        """See `Receiver.receive`."""
        secrets: tuple[Secret, ...] = ()
        if self._config.encryption_key:
            event, signed, encryption_key = self._open(request)
            secrets = (encryption_key,)
        else:
            event, signed = base.parse_json(request.body), True
            if "encrypt" in event:
                raise Refusal(401, "encrypted_but_no_key")
        given = base.string(base.section(event, "header"), "token") or base.string(event, "token")

        def verify(token: str) -> None:
            if not base.same(given, token):
                raise Refusal(401, "bad_token")

        _, token = former.first(self._config.accepted("verification_token", request.now_ms), verify)
        return dataclasses.replace(self._understood(event, signed, request.now_ms), secrets=(*secrets, token))

    def pushed(self, event: dict[str, Any], now_ms: int) -> Received:
        """An event; see `Receiver.pushed`."""
        return _event(event, self._config.app_id, now_ms)

    def _understood(self, event: dict[str, Any], signed: bool, now_ms: int) -> Received:
        """What an event says that knows our token; ``signed`` or not."""
        if event.get("type") == URL_CHECK:
            return _answer_url_check(event)
        if not signed:
            raise Refusal(401, "no_signature")
        return _event(event, self._config.app_id, now_ms)

    def _open(self, request: CallbackRequest) -> tuple[dict[str, Any], bool, Secret]:
        """Decrypt; return the event, whether a signature was there and right, and the key."""
        given, timestamp, nonce = (request.header(name) or "" for name in SIGNED_HEADERS)

        def verify(encryption_key: str) -> None:
            if not base.same(given, crypto.signature(timestamp, nonce, encryption_key, request.body)):
                raise Refusal(401, "bad_signature")

        keys = self._config.accepted("encryption_key", request.now_ms)
        if given:
            # Whatever was signed with a key is encrypted with it.
            keys = (former.first(keys, verify)[1],)
        encrypted = base.parse_json(request.body).get("encrypt")
        if not isinstance(encrypted, str):
            raise Refusal(401, "not_encrypted")
        try:
            event, key = former.first(keys, lambda key: base.parse_json(crypto.decrypt(key, encrypted)))
        except Refusal:
            if given:
                raise
            # Why it failed is nobody's business.
            raise Refusal(401, "no_signature") from None
        # The age of a URL check does not matter: answering an old one gains nobody anything.
        if given and event.get("type") != URL_CHECK and not _fresh(timestamp, request.now_ms):
            raise Refusal(401, "stale_timestamp")
        return event, bool(given), key


def _fresh(timestamp: str, now_ms: int) -> bool:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
        return False
    moment = int(timestamp)
    age = now_ms - (moment if moment >= MILLISECONDS_FROM else moment * 1000)
    return -FUTURE_MS <= age <= WINDOW_MS


def _answer_url_check(event: dict[str, Any]) -> Received:
    challenge = event.get("challenge")
    if not isinstance(challenge, str) or len(challenge) > LONGEST_CHALLENGE:
        raise Refusal(400, "bad_challenge")
    return Received({"challenge": challenge}, note=URL_CHECK)


def _event(event: dict[str, Any], app_id: str, now_ms: int) -> Received:
    header, body = base.section(event, "header"), base.section(event, "event")
    if event.get("schema") != "2.0" or not header:
        return Received({}, note="not a version 2 event")
    if header.get("app_id") != app_id:
        raise Refusal(401, "other_app")
    kind = base.string(header, "event_type")[:64]
    if kind != RECEIVE:
        return Received({}, note=f"event {kind or 'without type'}")
    sender = base.section(body, "sender")
    if sender.get("sender_type") != "user":
        return Received({}, note="not from a user")
    return Received({}, _message(base.section(body, "message"), sender, now_ms))


def _message(data: dict[str, Any], sender: dict[str, Any], now_ms: int) -> Message:
    kind = base.string(data, "message_type")
    raw = data.get("content")
    mentions = base.items(data, "mentions")
    said = content.read(kind, base.parse_json(raw) if isinstance(raw, str) else {})
    group = data.get("chat_type") != "p2p"
    parent = base.string(data, "parent_id")[: base.LONGEST_ID]
    mentioned = [base.string(base.section(mention, "id"), "open_id") for mention in mentions]
    return Message(
        platform="feishu",
        id=base.identifier(data, "message_id"),
        conversation=base.identifier(data, "chat_id"),
        group=group,
        sender=base.identifier(base.section(sender, "sender_id"), "open_id"),
        created_ms=base.milliseconds(data, "create_time", now_ms),
        text=content.without_address(said.text, mentions, group=group),
        images=said.images,
        unsupported=said.unsupported,
        mentions=tuple(filter(None, mentioned)),
        route={"parent": parent} if parent else {},
    )
