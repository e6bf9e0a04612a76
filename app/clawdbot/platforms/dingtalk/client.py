"""What goes to DingTalk: answers, downloads, group robot pushes.

Source: open.dingtalk.com server API, host api.dingtalk.com, and the group robot's ``/robot/send``. HTTP 200 may
carry a failure, so bodies are always read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clawdbot import http, metrics, text
from clawdbot.clock import now_ms
from clawdbot.config import DingTalkConfig
from clawdbot.errors import Final, Retry
from clawdbot.http import Response, TransportError
from clawdbot.limits import Rate
from clawdbot.message import Message
from clawdbot.platforms.base import Services
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
TOO_MANY = 429
SERVER_ERROR = 500


class DingTalkSender:
    """What `clawdbot.platforms.base.Sender` describes."""

    name = "dingtalk"
    # msgParam may have 15 000 bytes, and JSON may double each of them.
    part_bytes = 7_000

    def __init__(self, config: DingTalkConfig, services: Services) -> None:
        """Share ``services`` with others."""
        self.access = config.access
        self._config = config
        self._http = services.http
        self._limiter = services.limiter
        self._token = Token(services.client, self.name, config.app_key, self._fetch_token)
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
        """Answer through the session webhook while it lives, else through the server API."""
        webhook = str(message.route.get("session_webhook", ""))
        alive = int(message.route.get("session_expires_ms", 0)) - SESSION_MARGIN_MS > now_ms()
        if webhook and alive and http.allowed(webhook, WEBHOOK_HOSTS, self._bases):
            try:
                self._send_by_session(webhook, content, mark)
                return
            except Final:
                # A dead session says nothing about the other way.
                mark.refused()
        self._send_by_api(message, content, mark)

    def _send_by_session(self, webhook: str, content: str, mark: Mark) -> None:
        response = self._post("session", webhook, _webhook_body(content), on_written=mark.written)
        self._check_errcode("session", response)

    def _send_by_api(self, message: Message, content: str, mark: Mark) -> None:
        robot_code = message.route.get("robot_code") or self._config.robot_code
        kind, param = _template(content)
        body: dict[str, Any] = {
            "robotCode": robot_code,
            "msgKey": kind,
            "msgParam": json.dumps(param, ensure_ascii=False),
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
        response = self._post("push", config.webhook_url, _webhook_body(content), params=params)
        self._check_errcode("push", response)

    # Pictures

    def download(self, message: Message, image: str) -> bytes:
        """Exchange the download code for a URL and fetch it, without our token."""
        robot_code = message.route.get("robot_code") or self._config.robot_code
        body = {"downloadCode": image, "robotCode": robot_code}
        url = self._api("download", "/v1.0/robot/messageFiles/download", body).get("downloadUrl")
        if not isinstance(url, str) or not http.allowed(url, DOWNLOAD_HOSTS, self._bases):
            raise Final("dingtalk: the picture's URL is on a host that is not allowed")
        try:
            response = self._http.request("GET", url, deadline=30, max_bytes=MAX_IMAGE_BYTES)
        except TransportError as error:
            raise Retry(f"dingtalk: {error}") from None
        if response.status >= SERVER_ERROR or response.status == TOO_MANY:
            raise Retry(f"dingtalk: download answered {response.status}", after=response.retry_after())
        if response.status != 200:
            raise Final(f"dingtalk: download answered {response.status}")
        return response.body

    # Calls

    def _fetch_token(self) -> tuple[str, float]:
        body = {"appKey": self._config.app_key, "appSecret": self._config.app_secret}
        response = self._post("token", f"{self._config.api_base_url}/v1.0/oauth2/accessToken", body)
        answer = response.json()
        token = answer.get("accessToken")
        if not isinstance(token, str) or not token:
            self._raise("token", response)
        return str(token), float(answer.get("expireIn") or 0)

    def _api(self, way: str, path: str, body: Mapping[str, Any], mark: Mark | None = None) -> dict[str, Any]:
        """POST to the server API with our token; a refused token is replaced once."""
        self._limiter.wait(f"dingtalk-api:{self._config.app_key}", API_RATE)
        url = self._config.api_base_url + path
        for last in (False, True):
            token = self._token.get()
            headers = {"x-acs-dingtalk-access-token": token}
            response = self._post(way, url, body, headers=headers, on_written=mark and mark.written)
            if response.status in BAD_TOKEN or "InvalidAuthentication" in str(response.json().get("code", "")):
                self._token.reject(token)
                if mark:
                    mark.refused()
                if last:
                    raise Retry(f"dingtalk: {way}: access token refused twice")
                continue
            if response.status != 200:
                self._raise(way, response)
            metrics.SENDS.labels(self.name, way, "success").inc()
            return response.json()
        raise AssertionError("unreachable")

    def _post(self, way: str, url: str, body: Mapping[str, Any], **options: Any) -> Response:
        try:
            return self._http.request("POST", url, payload=body, **options)
        except TransportError as error:
            metrics.SENDS.labels(self.name, way, "unreachable").inc()
            raise Retry(f"dingtalk: {error}") from None

    def _raise(self, way: str, response: Response) -> None:
        """Sort a failed call into later and never."""
        metrics.SENDS.labels(self.name, way, "failure").inc()
        code = str(response.json().get("code", ""))[:80]
        reason = f"dingtalk: {way} answered {response.status} {code}"
        throttled = "QpsLimit" in code or "QpmLimit" in code or response.status == TOO_MANY
        if throttled:
            raise Retry(reason, after=response.retry_after() or 2.0)
        if response.status >= SERVER_ERROR:
            raise Retry(reason, after=response.retry_after())
        raise Final(reason)

    def _check_errcode(self, way: str, response: Response) -> None:
        """Webhooks answer 200 and say in ``errcode`` whether it worked."""
        if response.status != 200:
            self._raise(way, response)
        code = response.json().get("errcode")
        if code == 0:
            metrics.SENDS.labels(self.name, way, "success").inc()
            return
        metrics.SENDS.labels(self.name, way, "failure").inc()
        # Where there is another way than this webhook, that one is not throttled.
        if code == ERRCODE_TOO_FAST and way == "push":
            raise Retry(f"dingtalk: {way} errcode {code}", after=TOO_FAST_SECONDS)
        raise Final(f"dingtalk: {way} errcode {code}")


def _title(content: str) -> str:
    first = next((line for line in content.splitlines() if line.strip()), "")
    return first.strip("#*`>- ")[:TITLE_CHARACTERS] or "clawdbot"


def _webhook_body(content: str) -> dict[str, Any]:
    if text.is_markdown(content):
        return {"msgtype": "markdown", "markdown": {"title": _title(content), "text": content}}
    return {"msgtype": "text", "text": {"content": content}}


def _template(content: str) -> tuple[str, dict[str, str]]:
    if text.is_markdown(content):
        return "sampleMarkdown", {"title": _title(content), "text": content}
    return "sampleText", {"content": content}
