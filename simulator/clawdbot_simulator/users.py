"""Users of both platforms: what they write, as the callbacks the platforms would send.

Body layouts: DingTalk "Receive message" and its published samples; Feishu
``im.message.receive_v1``.
"""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from clawdbot_simulator import identity
from clawdbot_simulator.config import Config
from clawdbot_simulator.crypto import (
    dingtalk_decrypt,
    dingtalk_encrypt,
    dingtalk_event_signature,
    dingtalk_robot_sign,
    feishu_encrypt,
    feishu_signature,
)
from clawdbot_simulator.records import Record

DINGTALK_PATH = "/api/dingtalk/callback"
FEISHU_PATH = "/api/feishu/callback"
# Both platforms give a callback 3 s; DingTalk's figure is an assumption its implementers share.
CALLBACK_TIMEOUT = 3.0
# Seconds after which Feishu repeats a callback that was not answered with HTTP 200.
FEISHU_RETRIES = (15.0, 300.0, 3600.0, 21600.0)
JSON = "application/json; charset=utf-8"


@dataclass(frozen=True)
class Callback:
    """One HTTP POST of a platform."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    query: Mapping[str, str] = field(default_factory=dict)

    def post(
        self,
        base_url: str,
        session: requests.Session | None = None,
        timeout: float = CALLBACK_TIMEOUT,
        verify: bool | str = True,
    ) -> requests.Response:
        """Send it to the bot at ``base_url``; raises requests.RequestException.

        ``verify``: True for the system's TLS trust, or a file of certificates.
        """
        return (session or requests).post(
            base_url.rstrip("/") + self.path,
            params=dict(self.query),
            data=self.body,
            headers=dict(self.headers),
            timeout=timeout,
            verify=verify,
            allow_redirects=False,  # the platforms accept HTTP 200 only
        )


@dataclass(frozen=True)
class Question:
    """A message of a user to the bot.

    ``callback()`` gives the HTTP request for it, signed now; calling it again is the platform's
    repetition: the same message with a fresh signature. ``event`` is what it holds, which is all that
    goes over a connection of the bot's.
    """

    platform: str
    conversation: str
    message_id: str
    user: str
    text: str
    group: str | None
    callback: Callable[[], Callback]
    event: Mapping[str, Any] = field(default_factory=dict)


class DingTalk:
    """DingTalk's side of the callbacks."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._app = config.dingtalk

    def text(
        self, user: str, text: str, *, group: str | None = None, quotes: Question | Record | None = None, **changes: Any
    ) -> Question:
        """A text message; in a group with the robot mentioned, else it is not delivered.

        ``quotes`` is what it replies to: what somebody asked, or what the robot said. ``changes`` replace fields of the
        callback's body, for tests.
        """
        # The platform cuts the mention out and leaves the space behind it.
        said: dict[str, Any] = {"content": f" {text}" if group else text}
        return self._question(
            user, text, group, {"msgtype": "text", "text": said, **self._quote(said, quotes)} | changes
        )

    def _quote(self, said: dict[str, Any], quotes: Question | Record | None) -> dict[str, Any]:
        """Add to ``said`` what it quotes; return what stands elsewhere in the callback.

        DingTalk documents none of it. The message travels along, but of a card only under which key it was delivered
        (QwenLM/qwen-code#9536, soimy/openclaw-channel-dingtalk#252).
        """
        if quotes is None:
            return {}
        replied: dict[str, Any] = {"msgType": "interactiveCard"}
        elsewhere = {}
        if isinstance(quotes, Question):
            kind = quotes.event["msgtype"]
            content = {"text": quotes.text} if kind == "text" else quotes.event["content"]
            replied = {"msgType": kind, "msgId": quotes.message_id, "content": content}
        elif quotes.detail["msg_type"] == "card":
            elsewhere = {"originalProcessQueryKey": quotes.detail["name"]}
        else:
            replied = {"msgType": "text", "content": {"text": quotes.text}}
        said |= {"isReplyMsg": True, "repliedMsg": replied}
        return elsewhere

    def picture(self, user: str, code: str, **changes: Any) -> Question:
        """A picture in a single chat (in groups it cannot carry a mention)."""
        content = {"downloadCode": code, "pictureDownloadCode": code}
        return self._question(user, "", None, {"msgtype": "picture", "content": content} | changes)

    def rich_text(
        self,
        user: str,
        text: str,
        codes: Sequence[str],
        *,
        group: str | None = None,
        **changes: Any,
    ) -> Question:
        """Text and pictures in one message."""
        parts: list[dict[str, str]] = [{"text": text}]
        parts += [{"type": "picture", "downloadCode": code, "pictureDownloadCode": code} for code in codes]
        body = {"msgtype": "richText", "content": {"richText": parts}}
        return self._question(user, text, group, body | changes)

    def robot(self, body: Mapping[str, Any], *, enveloped: bool = False, timestamp: int | None = None) -> Callback:
        """A robot callback, signed in its headers; ``enveloped``: its body is encrypted as well.

        ``timestamp`` in milliseconds; default: now.
        """
        payload = json.dumps(body, ensure_ascii=False)
        if enveloped:
            encrypt = dingtalk_encrypt(self._app.aes_key, self._app.app_key, payload)
            payload = json.dumps({"encrypt": encrypt})
        stamp = str(identity.now_ms() if timestamp is None else timestamp)
        headers = {
            "Content-Type": JSON,
            "timestamp": stamp,
            "sign": dingtalk_robot_sign(self._app.app_secret, stamp),
        }
        return Callback(DINGTALK_PATH, payload.encode(), headers)

    def event(self, event_type: str, *, timestamp: int | None = None, **fields: Any) -> Callback:
        """An encrypted event subscription callback; ``check_url`` is what saving the URL sends."""
        payload = {"EventType": event_type, **fields}
        encrypt = dingtalk_encrypt(self._app.aes_key, self._app.app_key, json.dumps(payload))
        stamp = str(identity.now_ms() if timestamp is None else timestamp)
        nonce = secrets.token_hex(8)
        signature = dingtalk_event_signature(self._app.token, stamp, nonce, encrypt)
        query = {
            "msg_signature": signature,
            "signature": signature,
            "timestamp": stamp,
            "nonce": nonce,
        }
        body = json.dumps({"encrypt": encrypt}).encode()
        return Callback(DINGTALK_PATH, body, {"Content-Type": JSON}, query)

    def read_event_reply(self, reply: Mapping[str, Any]) -> str:
        """The plain text of the bot's answer to an event, "success".

        ValueError when its signature or encryption is wrong.
        """
        stamp, nonce, encrypt = (str(reply.get(key)) for key in ("timeStamp", "nonce", "encrypt"))
        wanted = dingtalk_event_signature(self._app.token, stamp, nonce, encrypt)
        if reply.get("msg_signature") != wanted:
            raise ValueError("the reply's msg_signature is wrong")
        return dingtalk_decrypt(self._app.aes_key, self._app.app_key, encrypt)

    def _question(self, user: str, text: str, group: str | None, changes: Mapping[str, Any]) -> Question:
        user_id, now = identity.dingtalk_user(user), identity.now_ms()
        corp, robot = f"corp_{self._app.app_key}", f"$:LWCP_v1:${self._app.app_key}"
        conversation = identity.dingtalk_group(group) if group else identity.dingtalk_single(user_id)
        expires = now + identity.SESSION_LIFETIME_MS
        message_id = str(changes.get("msgId") or identity.dingtalk_message())
        session = identity.Session(conversation, message_id, expires)
        body: dict[str, Any] = {
            "conversationId": conversation,
            "conversationType": "2" if group else "1",
            "chatbotCorpId": corp,
            "chatbotUserId": robot,
            "msgId": message_id,
            "senderNick": user,
            "isAdmin": False,
            "senderStaffId": user_id,
            "senderId": f"$:LWCP_v1:${user_id}",
            "senderCorpId": corp,
            "createAt": now,
            "sessionWebhook": session.url(self._config),
            "sessionWebhookExpiredTime": expires,
            "robotCode": self._app.app_key,
            "senderPlatform": "Mac",
        }
        if group:
            body |= {
                "conversationTitle": group,
                "isInAtList": True,
                "atUsers": [{"dingtalkId": robot}],
            }
        body |= changes
        return Question("dingtalk", conversation, message_id, user, text, group, lambda: self.robot(body), body)


class Feishu:
    """Feishu's side of the callbacks."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._app = config.feishu

    def text(
        self,
        user: str,
        text: str,
        *,
        group: str | None = None,
        mention: bool = True,
        quotes: Question | Record | None = None,
        **changes: Any,
    ) -> Question:
        """A text message; in a group with the bot mentioned, if ``mention``.

        ``quotes`` is what it replies to: what somebody asked (`Control.keep`), or what the bot said. ``changes``
        replace fields of the event's ``message``, for tests.
        """
        words = f"@_user_1 {text}" if group and mention else text
        if quotes:
            parent = quotes.message_id if isinstance(quotes, Question) else quotes.detail["name"]
            changes = {"root_id": parent, "parent_id": parent} | changes
        return self._question(user, text, group, mention, "text", {"text": words}, changes)

    def image(self, user: str, image_key: str, **changes: Any) -> Question:
        """A picture in a single chat."""
        return self._question(user, "", None, False, "image", {"image_key": image_key}, changes)

    def post(
        self,
        user: str,
        text: str,
        image_keys: Sequence[str],
        *,
        group: str | None = None,
        **changes: Any,
    ) -> Question:
        """Text and pictures in one message."""
        line: list[dict[str, str]] = [{"tag": "text", "text": text}]
        if group:
            line.insert(0, {"tag": "at", "user_id": "@_user_1", "user_name": "clawdbot"})
        images = [[{"tag": "img", "image_key": key}] for key in image_keys]
        content = {"title": "", "content": [line, *images]}
        return self._question(user, text, group, bool(group), "post", content, changes)

    def event(self, body: Mapping[str, Any], *, signed: bool = True, timestamp: int | None = None) -> Callback:
        """An encrypted callback, signed unless told otherwise; ``timestamp`` in seconds."""
        encrypt = feishu_encrypt(self._app.encryption_key, json.dumps(body, ensure_ascii=False))
        raw = json.dumps({"encrypt": encrypt}).encode()
        headers = {"Content-Type": JSON}
        if signed:
            stamp = str(int(time.time()) if timestamp is None else timestamp)
            nonce = secrets.token_hex(8)
            signature = feishu_signature(stamp, nonce, self._app.encryption_key, raw)
            headers |= {
                "X-Lark-Request-Timestamp": stamp,
                "X-Lark-Request-Nonce": nonce,
                "X-Lark-Signature": signature,
            }
        return Callback(FEISHU_PATH, raw, headers)

    def url_verification(self, challenge: str, *, signed: bool = False) -> Callback:
        """What saving the request URL sends; documented as unsigned, seen signed as well."""
        body = {
            "challenge": challenge,
            "token": self._app.verification_token,
            "type": "url_verification",
        }
        return self.event(body, signed=signed)

    def _question(
        self,
        user: str,
        text: str,
        group: str | None,
        mention: bool,
        kind: str,
        content: Mapping[str, Any],
        changes: Mapping[str, Any],
    ) -> Question:
        open_id, now = identity.feishu_user(user), str(identity.now_ms())
        chat = identity.feishu_group(group) if group else identity.feishu_single(open_id)
        tenant = f"tenant_{self._app.app_id}"
        message: dict[str, Any] = {
            "message_id": identity.feishu_message(chat),
            "create_time": now,
            "update_time": now,
            "chat_id": chat,
            "chat_type": "group" if group else "p2p",
            "message_type": kind,
            "content": json.dumps(content, ensure_ascii=False),
        }
        if group and mention:
            bot = identity.feishu_bot(self._config)
            message["mentions"] = [
                {
                    "key": "@_user_1",
                    "id": {"open_id": bot, "union_id": f"on_{bot[3:]}", "user_id": ""},
                    "name": "clawdbot",
                    "tenant_key": tenant,
                }
            ]
        message |= changes
        ids = {"open_id": open_id, "union_id": f"on_{open_id[3:]}", "user_id": open_id[3:]}
        body = {
            "schema": "2.0",
            "header": {
                "event_id": secrets.token_hex(16),
                "event_type": "im.message.receive_v1",
                "create_time": now,
                "token": self._app.verification_token,
                "app_id": self._app.app_id,
                "tenant_key": tenant,
            },
            "event": {
                "sender": {"sender_id": ids, "sender_type": "user", "tenant_key": tenant},
                "message": message,
            },
        }
        return Question(
            "feishu",
            str(message["chat_id"]),
            str(message["message_id"]),
            user,
            text,
            group,
            lambda: self.event(body),
            body,
        )
