"""What goes to Feishu: answers, look-ups, downloads.

Source: open.feishu.cn server API. Failures come as HTTP 400, as 429 and as 200 with a ``code``, so the body is
always read. A reply carries a ``uuid`` that succeeds once an hour: it is made of message id and part, so a
repeated send shows nothing twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from clawdbot import markdown, metrics, text
from clawdbot.clock import now_ms
from clawdbot.config import FeishuConfig
from clawdbot.errors import Final, Refusal, Retry
from clawdbot.former import Uses
from clawdbot.http import Response, TransportError
from clawdbot.limits import Rate
from clawdbot.message import Message
from clawdbot.platforms import base
from clawdbot.platforms.base import Attachment, Content, Own, Quote, Services
from clawdbot.platforms.feishu import content
from clawdbot.platforms.feishu.cards import MOST_TABLES, FeishuCards, asker_of, mention
from clawdbot.sent import Mark
from clawdbot.tokens import Token

API_RATE = Rate(16, 50)
CHAT_RATE = Rate(5, 5)
MAX_IMAGE_BYTES = 10 * 1024 * 1024
BAD_TOKEN = {99991663, 99991665, 99991677, 99991668}
LATER = {99991400, 230020, 230049, 300120}
# The answered message is gone; the chat is still there.
RECALLED = {230011, 230110}
# Refusals that no other form of the message would change: of the chat, the recipient, the words or the permissions.
# Bot not in the chat, bot off, no access to the user, sensitive words, no permission, leak protection, muted, stopped
# by the user, chat dissolved; application disabled, wrong secret, address not allowed, no token, scope missing.
NOT_THE_FORM = {
    230002, 230006, 230013, 230022, 230027, 230028, 230035, 230053, 232009,
    10014, 10015, 99991401, 99991661, 99991672, 99991679,
}  # fmt: skip
MOST_FORWARDED = 20
QUOTE_SECONDS = 5.0
# A card as its app wrote it, instead of the advice to update the client (NousResearch/hermes-agent#49001,
# riba2534/feishu-cli#119).
AS_WRITTEN = {"card_msg_content_type": "user_card_content"}
UUID_CHARACTERS = 50
# Keys that are pressed (open.feishu.cn, "Emojis").
REACTION = "Typing"
# So it begins where an app lacks a permission, and the names of those that would do follow.
SCOPES = re.compile(r"\[([a-z0-9_:., -]+)\]")
MISSING_SCOPE = {99991672, 99991679}
# The calls that the organisation has in a month ("Custom app API call limit"); seen with status 429.
USED_UP = 99991403


class FeishuSender:
    """What `clawdbot.platforms.base.Sender` describes."""

    name = "feishu"
    # A card or post may have 30 KB; JSON may double each byte.
    part_bytes = 12_000

    def __init__(self, config: FeishuConfig, services: Services) -> None:
        """Share ``services`` with others."""
        self.access = config.access
        self.monthly_calls = config.monthly_calls
        self._config = config
        self._http = services.http
        self._limiter = services.limiter
        self._cache = services.cache
        self._token = Token(services.notes, self.name, config.app_id, self._fetch_token)
        self._uses = Uses(services.notes, {self.name: config.former})
        self._own = Own(services.cache)
        self.cards: base.CardSender | None = None
        if config.cards:
            self.cards = FeishuCards(config, self._call, self._reply, services.limiter, self._own)

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

    def quoted(self, message: Message) -> Quote | None:
        """Look up the message that is replied to; in a group that takes the permission for all of its messages.

        What the bot said itself needs no permission as long as it is known here.
        """
        parent = str(message.route.get("parent") or "")
        if not parent:
            return None
        if own := self._own.find(message, parent):
            return Quote(own)
        path = f"/open-apis/im/v1/messages/{quote(parent, safe='')}"
        try:
            data = self._call("quote", "GET", path, params=AS_WRITTEN, deadline=QUOTE_SECONDS).get("data")
        except Final:
            return Quote()
        words: list[str] = []
        images: list[Attachment] = []
        # Of forwarded messages the first one is the envelope.
        for item in base.items(data, "items")[:MOST_FORWARDED] if isinstance(data, dict) else []:
            said = _read(item)
            words.append(said.text)
            # A picture of a forwarded message is asked for by the id of the envelope.
            images += [Attachment(parent, image) for image in said.images]
        joined = "\n".join(filter(None, words))[: base.LONGEST_QUOTE]
        return Quote(joined, tuple(images[: base.MOST_QUOTED_PICTURES]))

    def download(self, message: Message, picture: Attachment) -> bytes:  # noqa: ARG002  # part of Sender
        """Fetch a picture of the message that has it."""
        ids = (quote(picture.message, safe=""), quote(picture.reference, safe=""))
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

        def reply(form: str, body: Mapping[str, Any]) -> None:
            if name := self._reply(message, f"{part}-{form}", form, body):
                self._own.said(message, name, content)

        _plainer(content, reply, asker_of(message))

    def _reply(self, message: Message, part: str, form: str, content: Mapping[str, Any]) -> str:
        """Return the id of the reply, empty if Feishu names none."""
        self._limiter.wait(f"feishu-chat:{message.conversation}", CHAT_RATE)
        body = {"content": json.dumps(content, ensure_ascii=False), "msg_type": form, "uuid": reply_uuid(message, part)}
        options = {"payload": body, "deadline": base.SEND_SECONDS}
        path = "/open-apis/im/v1/messages"
        try:
            answer = self._call("reply", "POST", f"{path}/{quote(message.id, safe='')}/reply", **options)
        except _Recalled:
            body |= {"receive_id": message.conversation}
            answer = self._call("send", "POST", path, params={"receive_id_type": "chat_id"}, **options)
        return base.string(base.section(answer, "data"), "message_id")

    def react(self, message: Message) -> str:
        """Put an emoji on the message; the app needs ``im:message.reactions:write_only``."""
        body = {"reaction_type": {"emoji_type": REACTION}}
        data = self._call("reaction", "POST", _reactions(message), payload=body, deadline=base.SIGN_SECONDS).get("data")
        reaction = data.get("reaction_id") if isinstance(data, dict) else None
        if not isinstance(reaction, str) or not reaction:
            raise Final("feishu: a reaction has no id")
        return reaction

    def unreact(self, message: Message, reaction: str) -> None:
        """Take it away again."""
        path = f"{_reactions(message)}/{quote(reaction, safe='')}"
        self._call("reaction", "DELETE", path, deadline=base.SIGN_SECONDS)

    def push(self, chat: str, content: str, uuid: str) -> None:
        """Write to a group the bot is a member of; the same ``uuid`` (at most 38 characters) writes once an hour.

        Raises:
            Retry: too fast, or Feishu is not reachable.
            Final: Feishu refuses the message.
        """
        self._limiter.wait(f"feishu-chat:{chat}", CHAT_RATE)

        def send(form: str, content: Mapping[str, Any]) -> None:
            body = {
                "receive_id": chat,
                "content": json.dumps(content, ensure_ascii=False),
                "msg_type": form,
                "uuid": f"{uuid}-{form}",
            }
            path = "/open-apis/im/v1/messages"
            self._call("push", "POST", path, params={"receive_id_type": "chat_id"}, payload=body)

        _plainer(content, send)

    # Calls

    def _fetch_token(self) -> tuple[str, float]:
        """Fetch an access token; a platform that refuses our secret may still have the former one."""
        secrets = self._config.accepted("app_secret", now_ms())
        return self._uses.first(self.name, secrets, self._fetch_token_with, Final)

    def _fetch_token_with(self, app_secret: str) -> tuple[str, float]:
        url = f"{self._config.api_base_url}/open-apis/auth/v3/tenant_access_token/internal"
        body = {"app_id": self._config.app_id, "app_secret": app_secret}
        response = self._exchange("token", "POST", url, payload=body)
        answer = response.json()
        token = answer.get("tenant_access_token")
        if response.status != 200 or answer.get("code") != 0 or not isinstance(token, str) or not token:
            self._raise("token", response)
        return str(token), float(answer.get("expire") or 0)

    def _call(self, way: str, method: str, path: str, **options: Any) -> dict[str, Any]:
        return self._raw(way, method, path, **options).json()

    def _raw(self, way: str, method: str, path: str, **options: Any) -> Response:
        """Call the server API with our token; a refused token is replaced once."""
        self._limiter.wait(f"feishu-api:{self._config.app_id}:{way}", API_RATE)
        url = self._config.api_base_url + path

        def call(token: str) -> Response:
            return self._exchange(way, method, url, headers={"Authorization": f"Bearer {token}"}, **options)

        response = self._token.use(call, lambda response: _code(response) in BAD_TOKEN)
        # A picture is the only success that is no JSON.
        file = way == "download" and not response.is_object() and not response.is_page()
        if response.status != 200 or (_code(response) != 0 and not file):
            self._raise(way, response)
        metrics.SENDS.labels(self.name, way, "success").inc()
        return response

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
        if code in MISSING_SCOPE and (scopes := SCOPES.search(str(response.json().get("msg", ""))[:2000])):
            reason += f", needs one of {scopes[1][:200]}"
        if code in RECALLED:
            raise _Recalled(reason)
        if code == USED_UP:
            raise Final(f"{reason}: the calls of this month are used up")
        if code in LATER or response.is_temporary():
            raise Retry(reason, after=response.retry_after())
        if response.status == 200 and "code" not in response.json():
            # A gateway's page, or whatever else is no answer of Feishu's.
            raise Retry(f"{reason}, not Feishu's", after=response.retry_after())
        raise (Final if code in NOT_THE_FORM else _FormRefused)(reason)


def _reactions(message: Message) -> str:
    return f"/open-apis/im/v1/messages/{quote(message.id, safe='')}/reactions"


class _Recalled(Final):
    """The message to reply to is gone."""


class _FormRefused(Final):
    """Perhaps it is the form of the message that is refused: a plainer one may pass."""


def _read(item: dict[str, Any]) -> Content:
    """What a message says that was looked up; nothing if it is gone or cannot be read."""
    try:
        said = content.read(
            base.string(item, "msg_type"), base.parse_json(base.string(base.section(item, "body"), "content") or "{}")
        )
    except Refusal:
        return Content()
    return dataclasses.replace(said, text=content.named(said.text, base.items(item, "mentions")))


def _code(response: Response) -> int:
    """The ``code`` of an answer; -1 if it has none."""
    code = response.json().get("code", -1)
    return code if isinstance(code, int) else -1


def reply_uuid(message: Message, part: str) -> str:
    """Return the idempotency key of a part: at most 50 characters, the same at every attempt."""
    return hashlib.sha256(f"{message.key}/{part}".encode()).hexdigest()[:UUID_CHARACTERS]


def _text(words: str) -> dict[str, Any]:
    return {"text": words}


def _post(words: str) -> dict[str, Any]:
    return {"zh_cn": {"title": "", "content": [[{"tag": "md", "text": markdown.tables_as_lists(words)}]]}}


def _card(words: str) -> dict[str, Any]:
    shown = markdown.tables_as_lists(words, MOST_TABLES)
    return {"schema": "2.0", "body": {"elements": [{"tag": "markdown", "content": shown}]}}


def _at(asker: str, form: str) -> str:
    """A mention; cards have another tag for it than texts."""
    if not asker:
        return ""
    return f"{mention(asker)} " if form == "interactive" else f'<at user_id="{asker}"></at> '


def _plainer(words: str, send: Callable[[str, dict[str, Any]], None], asker: str = "") -> None:
    """Send ``words`` in the best form that Feishu takes; plain text needs no card. ``asker`` is mentioned.

    Raises:
        Final: none is taken.
    """
    forms = [("interactive", _card), ("post", _post), ("text", _text)] if text.is_markdown(words) else [("text", _text)]
    words = markdown.defuse(words)
    for form, build in forms:
        try:
            send(form, build(f"{_at(asker, form)}{words}"))
            return
        except _FormRefused as error:
            refusal = error
    raise Final(f"feishu: every form was refused, the last one so: {refusal}")
