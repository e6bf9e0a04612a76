"""What goes to Feishu: answers, look-ups, downloads.

Source: open.feishu.cn server API. Failures come as HTTP 400, as 429 and as 200 with a ``code``, so the body is
always read. A reply carries a ``uuid`` that succeeds once an hour: it is made of message id and part, so a
repeated send shows nothing twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from clawdbot import metrics, text
from clawdbot.config import FeishuConfig
from clawdbot.errors import Final, Retry
from clawdbot.http import Response, TransportError
from clawdbot.limits import Rate
from clawdbot.message import Message
from clawdbot.platforms.base import Services
from clawdbot.sent import Mark
from clawdbot.tokens import Token

API_RATE = Rate(16, 50)
CHAT_RATE = Rate(5, 5)
MAX_IMAGE_BYTES = 10 * 1024 * 1024
BAD_TOKEN = {99991663, 99991665, 99991677, 99991668}
LATER = {99991400, 230020, 230049}
# The answered message is gone; the chat is still there.
RECALLED = {230011, 230110}
# Card or post refused for its form: the next plainer form may pass.
FORM_REFUSED = {230025, 230099, 200860, 230001, 230054}
UUID_CHARACTERS = 50
TOO_MANY = 429
SERVER_ERROR = 500


class FeishuSender:
    """What `clawdbot.platforms.base.Sender` describes."""

    name = "feishu"
    # A card or post may have 30 KB; JSON may double each byte.
    part_bytes = 12_000

    def __init__(self, config: FeishuConfig, services: Services) -> None:
        """Share ``services`` with others."""
        self.access = config.access
        self._config = config
        self._http = services.http
        self._limiter = services.limiter
        self._cache = services.cache
        self._token = Token(services.client, self.name, config.app_id, self._fetch_token)

    def addressed(self, message: Message) -> bool:
        """In a group the bot is meant if one of the mentions has its own id; names can be faked."""
        return not message.group or (bool(message.mentions) and self._own_id() in message.mentions)

    def _own_id(self) -> str:
        own = self._cache.lookup("feishu-bot", self._config.app_id)
        if not own:
            answer = self._call("info", "GET", "/open-apis/bot/v3/info")
            bot = answer.get("bot")
            own = bot.get("open_id") if isinstance(bot, dict) else None
            if not isinstance(own, str) or not own:
                raise Final("feishu: bot/v3/info names no open_id; switch on the bot ability of the app")
            self._cache.remember("feishu-bot", self._config.app_id, own)
        return str(own)

    def user_name(self, message: Message) -> str:
        """Look the name up; without the permission for it the name stays empty."""
        name = self._cache.lookup("feishu-user", message.sender)
        if name is None:
            try:
                path = f"/open-apis/contact/v3/users/{quote(message.sender, safe='')}"
                data = self._call("user", "GET", path, params={"user_id_type": "open_id"}).get("data")
                user = data.get("user") if isinstance(data, dict) else None
                name = user.get("name") if isinstance(user, dict) else None
            except (Final, Retry):
                name = None
            name = name[:64] if isinstance(name, str) else ""
            self._cache.remember("feishu-user", message.sender, name)
        return str(name)

    def download(self, message: Message, image: str) -> bytes:
        """Fetch a picture of this very message."""
        ids = (quote(message.id, safe=""), quote(image, safe=""))
        path = f"/open-apis/im/v1/messages/{ids[0]}/resources/{ids[1]}"
        response = self._raw("download", "GET", path, params={"type": "image"}, max_bytes=MAX_IMAGE_BYTES)
        return response.body

    # Answers

    def send(
        self,
        message: Message,
        part: str,
        content: str,
        mark: Mark,  # noqa: ARG002  # the uuid does what it is for
    ) -> None:
        """Reply; degrade from card to post to text, and from a reply to a message if the original was recalled."""
        self._limiter.wait(f"feishu-chat:{message.conversation}", CHAT_RATE)
        for form, build in _forms(content):
            try:
                self._reply(message, f"{part}-{form}", form, build(content))
                return
            except _FormRefused:
                continue
        raise Final("feishu: every form of the answer was refused")

    def _reply(self, message: Message, part: str, form: str, content: Mapping[str, Any]) -> None:
        body = {"content": json.dumps(content, ensure_ascii=False), "msg_type": form, "uuid": reply_uuid(message, part)}
        try:
            self._call("reply", "POST", f"/open-apis/im/v1/messages/{quote(message.id, safe='')}/reply", payload=body)
        except _Recalled:
            body |= {"receive_id": message.conversation}
            path = "/open-apis/im/v1/messages"
            self._call("send", "POST", path, params={"receive_id_type": "chat_id"}, payload=body)

    def push(self, chat: str, content: str, uuid: str) -> None:
        """Write to a group the bot is a member of; the same ``uuid`` (at most 38 characters) writes once an hour.

        Raises:
            Retry: too fast, or Feishu is not reachable.
            Final: Feishu refuses the message.
        """
        self._limiter.wait(f"feishu-chat:{chat}", CHAT_RATE)
        for form, build in _forms(content):
            body = {
                "receive_id": chat,
                "content": json.dumps(build(content), ensure_ascii=False),
                "msg_type": form,
                "uuid": f"{uuid}-{form}",
            }
            try:
                self._call(
                    "push", "POST", "/open-apis/im/v1/messages", params={"receive_id_type": "chat_id"}, payload=body
                )
                return
            except _FormRefused:
                continue
        raise Final("feishu: every form of the message was refused")

    # Calls

    def _fetch_token(self) -> tuple[str, float]:
        url = f"{self._config.api_base_url}/open-apis/auth/v3/tenant_access_token/internal"
        body = {"app_id": self._config.app_id, "app_secret": self._config.app_secret}
        response = self._exchange("token", "POST", url, payload=body)
        answer = response.json()
        token = answer.get("tenant_access_token")
        if answer.get("code") != 0 or not isinstance(token, str) or not token:
            self._raise("token", response)
        return str(token), float(answer.get("expire") or 0)

    def _call(self, way: str, method: str, path: str, **options: Any) -> dict[str, Any]:
        return self._raw(way, method, path, **options).json()

    def _raw(self, way: str, method: str, path: str, **options: Any) -> Response:
        """Call the server API with our token; a refused token is replaced once."""
        self._limiter.wait(f"feishu-api:{self._config.app_id}:{way}", API_RATE)
        for last in (False, True):
            token = self._token.get()
            headers = {"Authorization": f"Bearer {token}"}
            response = self._exchange(way, method, self._config.api_base_url + path, headers=headers, **options)
            code = _code(response)
            if response.status == 200 and code == 0:
                metrics.SENDS.labels(self.name, way, "success").inc()
                return response
            if code not in BAD_TOKEN or last:
                self._raise(way, response)
            self._token.reject(token)
        raise AssertionError("unreachable")

    def _exchange(self, way: str, method: str, url: str, **options: Any) -> Response:
        try:
            return self._http.request(method, url, **options)
        except TransportError as error:
            metrics.SENDS.labels(self.name, way, "unreachable").inc()
            raise Retry(f"feishu: {error}") from None

    def _raise(self, way: str, response: Response) -> None:
        """Sort a failed call into later, another way, and never."""
        metrics.SENDS.labels(self.name, way, "failure").inc()
        code = _code(response)
        reason = f"feishu: {way} answered {response.status} code {code}"
        if code in RECALLED:
            raise _Recalled(reason)
        if code in FORM_REFUSED:
            raise _FormRefused(reason)
        if code in LATER or code in BAD_TOKEN or response.status == TOO_MANY or response.status >= SERVER_ERROR:
            raise Retry(reason, after=response.retry_after())
        raise Final(reason)


class _Recalled(Final):
    """The message to reply to is gone."""


class _FormRefused(Final):
    """This form of message is refused."""


def _code(response: Response) -> int:
    """The ``code`` of an answer; one that is no JSON (a picture, a gateway's page) has none."""
    code = response.json().get("code", 0)
    return code if isinstance(code, int) else -1


def reply_uuid(message: Message, part: str) -> str:
    """Return the idempotency key of a part: at most 50 characters, the same at every attempt."""
    return hashlib.sha256(f"{message.key}/{part}".encode()).hexdigest()[:UUID_CHARACTERS]


def _text(content: str) -> dict[str, Any]:
    return {"text": content}


def _post(content: str) -> dict[str, Any]:
    return {"zh_cn": {"title": "", "content": [[{"tag": "md", "text": content}]]}}


def _card(content: str) -> dict[str, Any]:
    return {"schema": "2.0", "body": {"elements": [{"tag": "markdown", "content": content}]}}


def _forms(content: str) -> list[tuple[str, Callable[[str], dict[str, Any]]]]:
    """The forms to try, best first; plain text needs no card."""
    if not text.is_markdown(content):
        return [("text", _text)]
    return [("interactive", _card), ("post", _post), ("text", _text)]
