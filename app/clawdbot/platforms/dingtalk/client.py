"""What goes to DingTalk: answers, downloads, group robot pushes.

Source: open.dingtalk.com server API, host api.dingtalk.com, and the group robot's ``/robot/send``. HTTP 200 may
carry a failure, so bodies are always read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from clawdbot import http, markdown, metrics, text
from clawdbot.clock import now_ms
from clawdbot.config import DingTalkConfig
from clawdbot.errors import Final, Retry, Unsure
from clawdbot.former import Uses
from clawdbot.http import SERVER_ERROR, TOO_MANY, Response, TransportError
from clawdbot.limits import Rate
from clawdbot.message import Message
from clawdbot.platforms import base
from clawdbot.platforms.base import SEND_SECONDS, Attachment, CardSender, Own, Quote, Services
from clawdbot.platforms.dingtalk.cards import DingTalkCards, asker_of
from clawdbot.platforms.dingtalk.crypto import robot_sign
from clawdbot.sent import Mark
from clawdbot.tokens import Token

# help.dingtalk.io serves the international site from dingtalk.io.
WEBHOOK_HOSTS = ("oapi.dingtalk.com", "api.dingtalk.com", "oapi.dingtalk.io", "api.dingtalk.io")
# Pictures come from DingTalk's own hosts or its object storage.
DOWNLOAD_HOSTS = (".dingtalk.com", ".dingtalk.io", ".aliyuncs.com")
API_RATE = Rate(20, 20)
PUSH_RATE = Rate(20 / 60, 20)
SESSION_MARGIN_MS = 30_000
MAX_IMAGE_BYTES = 10 * 1024 * 1024
TITLE_CHARACTERS = 30
ERRCODE_TOO_FAST = 130101
TOO_FAST_SECONDS = 60.0
BAD_TOKEN = {401}
BAD_REQUEST = 400
# Session gone, robot or token unknown, refused by its security settings, too fast, over its quota.
NOT_THE_FORM = {300001, 300005, 310000, ERRCODE_TOO_FAST, 90030}
# msgParam may have 15 000 bytes; JSON needs some for line ends and quotation marks.
LONGEST_SHOWN = 12_000
# The gateway has asked and got no answer: nobody knows whether it was done.
GATEWAY_TIMEOUT = 504
# A text on a background of DingTalk's, which is how public clients write one of their own.
EMOTION, EMOTION_ID = "🤔思考中", "2659900"
# Calls that people would see twice; a token may be asked for as often as one likes.
SHOWN = {"session", "single", "group", "push"}


class DingTalkSender:
    """What `clawdbot.platforms.base.Sender` describes."""

    name = "dingtalk"
    # msgParam may have 15 000 bytes, and JSON may double each of them.
    part_bytes = 7_000

    def __init__(self, config: DingTalkConfig, services: Services) -> None:
        """Share ``services`` with others."""
        self.access = config.access
        self.monthly_calls = config.monthly_calls
        self._config = config
        self._http = services.http
        self._limiter = services.limiter
        self._token = Token(services.notes, self.name, config.app_key, self._fetch_token)
        self._uses = Uses(services.notes, {self.name: config.former})
        self._own = Own(services.cache)
        self.cards: CardSender | None = None
        if config.card_calls:
            self.cards = DingTalkCards(config, self._api, self._robot_code, services.limiter, self._own)
        self._bases = (config.api_base_url, config.oapi_base_url)

    def addressed(self, message: Message) -> bool:  # noqa: ARG002  # part of Sender
        """DingTalk delivers only those group messages that mention the robot."""
        return True

    def user_name(self, message: Message) -> str:
        """The callback brings the name along."""
        return message.sender_name

    # Answers

    def send(
        self,
        message: Message,
        part: str,  # noqa: ARG002  # part of Sender
        content: str,
        mark: Mark,
    ) -> None:
        """Answer through the session webhook while it lives, else through the server API; as Markdown, else as text."""
        *better, plain = _forms(content)
        for form in better:
            try:
                self._send_form(message, form, mark)
                return
            except _FormRefused:
                mark.refused()
        self._send_form(message, plain, mark)

    def _send_form(self, message: Message, form: _Form, mark: Mark) -> None:
        webhook = str(message.route.get("session_webhook", ""))
        alive = int(message.route.get("session_expires_ms", 0)) - SESSION_MARGIN_MS > now_ms()
        refusal: Final | None = None
        if webhook and alive and http.allowed(webhook, WEBHOOK_HOSTS, self._bases):
            try:
                self._send_by_session(webhook, form, mark, asker_of(message))
                return
            except Final as error:
                # A dead session says nothing about the other way.
                refusal = error
                mark.refused()
        try:
            self._send_by_api(message, form, mark)
        except Final:
            if isinstance(refusal, _FormRefused):
                raise refusal from None
            raise

    def _send_by_session(self, webhook: str, form: _Form, mark: Mark, asker: str) -> None:
        response = self._post("session", webhook, form.webhook(asker), on_written=mark.written)
        self._check_errcode("session", response)

    def _send_by_api(self, message: Message, form: _Form, mark: Mark) -> None:
        body: dict[str, Any] = {
            "robotCode": self._robot_code(message),
            "msgKey": form.key,
            "msgParam": json.dumps(form.param, ensure_ascii=False),
        }
        if message.group:
            way, path = "group", "/v1.0/robot/groupMessages/send"
            body["openConversationId"] = message.conversation
        else:
            way, path = "single", "/v1.0/robot/oToMessages/batchSend"
            staff = message.route.get("staff_id")
            if not staff:
                raise Final("dingtalk: the session is over and the sender has no staff id")
            body["userIds"] = [staff]
        answer = self._api(way, path, body, mark)
        refused = [name for name in answer if name.endswith("StaffIdList") and answer[name]]
        if "flowControlledStaffIdList" in refused:
            raise Retry("dingtalk: the recipient is flow controlled", after=TOO_FAST_SECONDS)
        if refused:
            raise Final(f"dingtalk: the recipient is in {refused[0]}")
        key = answer.get("processQueryKey")
        if not key:
            raise Retry(f"dingtalk: {way} answered 200 without a processQueryKey")
        self._own.said(message, str(key), form.words)

    def _robot_code(self, message: Message) -> str:
        return str(message.route.get("robot_code") or self._config.robot_code)

    def react(self, message: Message) -> str:
        """Put an emotion on the message.

        Public clients do it so (hermes, dingtalk-openclaw-connector); DingTalk's pages have the SDK's names only.
        """
        self._api("reaction", "/v1.0/robot/emotion/reply", self._emotion(message), deadline=base.SIGN_SECONDS)
        return EMOTION

    def unreact(self, message: Message, reaction: str) -> None:  # noqa: ARG002  # there is but one
        """Take it away again."""
        self._api("reaction", "/v1.0/robot/emotion/recall", self._emotion(message), deadline=base.SIGN_SECONDS)

    def _emotion(self, message: Message) -> dict[str, Any]:
        words = {"emotionId": EMOTION_ID, "emotionName": EMOTION, "text": EMOTION, "backgroundId": "im_bg_1"}
        return {
            "robotCode": self._robot_code(message),
            "openMsgId": message.id,
            "openConversationId": message.conversation,
            "emotionType": 2,
            "emotionName": EMOTION,
            "textEmotion": words,
        }

    def push(self, content: str) -> None:
        """Write to the group of ``webhook_url``; the stored URL is never changed.

        Raises:
            Retry: too fast, or DingTalk is not reachable.
            Final: DingTalk refuses the robot.
        """
        config = self._config
        params = {}
        if config.access_token:
            params["access_token"] = config.access_token
        if config.robot_secret:
            timestamp = str(now_ms())
            params |= {"timestamp": timestamp, "sign": robot_sign(config.robot_secret, timestamp)}
        self._limiter.wait("dingtalk-push", PUSH_RATE)
        response = self._post("push", config.webhook_url, _forms(content)[0].webhook(), params=params)
        self._check_errcode("push", response)

    # Pictures

    def quoted(self, message: Message) -> Quote | None:
        """The callback brings along what is quoted; of what the robot said it may have but the key of its delivery."""
        found = message.route.get("quote")
        if not isinstance(found, dict):
            return None
        key = found.get("key")
        words = (self._own.find(message, key) if isinstance(key, str) else "") or str(found.get("text", ""))
        images = found.get("images")
        codes = [code for code in images if isinstance(code, str)] if isinstance(images, list) else []
        return Quote(words, tuple(Attachment(message.id, code) for code in codes))

    def download(self, message: Message, picture: Attachment) -> bytes:
        """Exchange the download code for a URL and fetch it, without our token."""
        body = {"downloadCode": picture.reference, "robotCode": self._robot_code(message)}
        url = self._api("download", "/v1.0/robot/messageFiles/download", body).get("downloadUrl")
        if not isinstance(url, str) or not http.allowed(url, DOWNLOAD_HOSTS, self._bases):
            raise Final("dingtalk: the picture's URL is on a host that is not allowed")
        try:
            response = self._http.request("GET", url, deadline=30, max_bytes=MAX_IMAGE_BYTES)
        except TransportError as error:
            raise Retry(f"dingtalk: {error}") from None
        if response.is_temporary():
            raise Retry(f"dingtalk: download answered {response.status}", after=response.retry_after())
        if response.status != 200:
            raise Final(f"dingtalk: download answered {response.status}")
        if response.is_page():
            raise Retry("dingtalk: download answered with a page")
        return response.body

    # Calls

    def _fetch_token(self) -> tuple[str, float]:
        """Fetch an access token; a platform that refuses our secret may still have the former one."""
        secrets = self._config.accepted("app_secret", now_ms())
        return self._uses.first(self.name, secrets, self._fetch_token_with, Final)

    def _fetch_token_with(self, app_secret: str) -> tuple[str, float]:
        body = {"appKey": self._config.app_key, "appSecret": app_secret}
        response = self._post("token", f"{self._config.api_base_url}/v1.0/oauth2/accessToken", body)
        answer = response.json()
        token = answer.get("accessToken")
        if response.status != 200 or not isinstance(token, str) or not token:
            self._raise("token", response)
        return str(token), float(answer.get("expireIn") or 0)

    def _api(
        self, way: str, path: str, body: Mapping[str, Any], mark: Mark | None = None, **options: Any
    ) -> dict[str, Any]:
        """Call the server API with our token; a refused token is replaced once."""
        self._limiter.wait(f"dingtalk-api:{self._config.app_key}", API_RATE)
        url = self._config.api_base_url + path

        def call(token: str) -> Response:
            headers = {"x-acs-dingtalk-access-token": token}
            return self._post(way, url, body, headers=headers, on_written=mark and mark.written, **options)

        def refused(response: Response) -> bool:
            bad = response.status in BAD_TOKEN or "InvalidAuthentication" in str(response.json().get("code", ""))
            if bad and mark:
                mark.refused()
            return bad

        response = self._token.use(call, refused)
        if response.status != 200 or not response.is_object():
            self._raise(way, response)
        metrics.SENDS.labels(self.name, way, "success").inc()
        return response.json()

    def _post(self, way: str, url: str, body: Mapping[str, Any], *, method: str = "POST", **options: Any) -> Response:
        shown = way in SHOWN
        try:
            options.setdefault("deadline", SEND_SECONDS if shown else http.CALL_SECONDS)
            response = self._http.request(method, url, payload=body, **options)
        except TransportError as error:
            metrics.SENDS.labels(self.name, way, "unreachable").inc()
            raise (Unsure if error.sent and shown else Retry)(f"dingtalk: {error}") from None
        if response.status == GATEWAY_TIMEOUT and shown:
            metrics.SENDS.labels(self.name, way, "failure").inc()
            raise Unsure(f"dingtalk: {way} answered {response.status}")
        return response

    def _raise(self, way: str, response: Response) -> None:
        """Sort a failed call into later and never."""
        metrics.SENDS.labels(self.name, way, "failure").inc()
        code = str(response.json().get("code", ""))[:80]
        reason = f"dingtalk: {way} answered {response.status} {code}{_scopes(response.json())}"
        throttled = "QpsLimit" in code or "QpmLimit" in code or response.status == TOO_MANY
        if throttled:
            raise Retry(reason, after=response.retry_after() or 2.0)
        if response.status >= SERVER_ERROR:
            raise Retry(reason, after=response.retry_after())
        if response.status == 200 and not response.is_object():
            # A gateway's page: so DingTalk answers an address that has called too often.
            raise Retry(f"{reason}, no JSON", after=response.retry_after() or TOO_FAST_SECONDS)
        raise (_FormRefused if response.status == BAD_REQUEST and way in {"single", "group"} else Final)(reason)

    def _check_errcode(self, way: str, response: Response) -> None:
        """Webhooks answer 200 and say in ``errcode`` whether it worked."""
        if response.status != 200 or (way == "push" and not response.is_object()):
            self._raise(way, response)
        code = response.json().get("errcode")
        if code == 0:
            metrics.SENDS.labels(self.name, way, "success").inc()
            return
        metrics.SENDS.labels(self.name, way, "failure").inc()
        # Where there is another way than this webhook, that one is not throttled.
        if code == ERRCODE_TOO_FAST and way == "push":
            raise Retry(f"dingtalk: {way} errcode {code}", after=TOO_FAST_SECONDS)
        raise (Final if code in NOT_THE_FORM else _FormRefused)(f"dingtalk: {way} errcode {code}")


def _scopes(answer: Mapping[str, Any]) -> str:
    """The permissions that are missing, if that is what the answer says."""
    detail = answer.get("accessdenieddetail")
    scopes = detail.get("requiredScopes") if isinstance(detail, dict) else None
    if not isinstance(scopes, list) or not scopes:
        return ""
    return f", needs {', '.join(str(scope)[:80] for scope in scopes[:5])}"


class _FormRefused(Final):
    """Perhaps it is the form of the message that is refused: a plainer one may pass."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """A message in one of the forms that it may have.

    Attributes:
        kind: its name at a webhook.
        key: its name at the server API.
        param: its content for either; a webhook calls the text of Markdown alike.
    """

    kind: str
    key: str
    param: dict[str, str]

    @property
    def words(self) -> str:
        """What people read."""
        return self.param["content" if self.kind == "text" else "text"]

    def webhook(self, asker: str = "") -> dict[str, Any]:
        if not asker:
            return {"msgtype": self.kind, self.kind: self.param}
        # Only who stands in the text as well is called.
        name = "content" if self.kind == "text" else "text"
        param = self.param | {name: f"@{asker} {self.words}"}
        return {"msgtype": self.kind, self.kind: param, "at": {"atUserIds": [asker], "isAtAll": False}}


def _forms(content: str) -> list[_Form]:
    """The forms to try, best first; plain text needs no Markdown.

    Source: open.dingtalk.com "Message types of robots": headings, quotes, bold and italic words, links, pictures and
    lists are shown. Lines are joined unless two spaces end them (blinkbean/dingtalk#2), tables are not shown by mobile
    clients (soimy/openclaw-channel-dingtalk#533), and code blocks by those of computers (eryajf/chatgpt-dingtalk#209).
    """
    plain = markdown.defuse(content)
    forms = [_Form("text", "sampleText", {"content": plain})]
    if text.is_markdown(content):
        shown = markdown.hard_breaks(markdown.tables_as_lists(plain))
        # A table with long headings may grow beyond what fits.
        shown = shown if text.size(shown) <= LONGEST_SHOWN else plain
        forms.insert(0, _Form("markdown", "sampleMarkdown", {"title": _title(plain), "text": shown}))
    return forms


def _title(content: str) -> str:
    return text.first_line(content)[:TITLE_CHARACTERS] or "clawdbot"
