"""The receiver of Alertmanager's webhook: hands alerts to a DingTalk group robot and a Feishu group.

Every node may be told of the same alerts; Redis remembers what a chat has been told, so people read it once. The
answer is 503 as long as a chat has not been told, and Alertmanager tries again; chats that know are then left out.

Source: prometheus.io, "Alerting based on metrics", webhook payload version 4.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis
from flask import Flask, Response, jsonify, request
from prometheus_client import Counter

from clawdbot import languages, texts
from clawdbot.cache import Cache
from clawdbot.clock import now_ms
from clawdbot.config import Settings
from clawdbot.errors import ClawdbotError, Refusal, Unsure
from clawdbot.former import Uses
from clawdbot.http import Http
from clawdbot.languages import Language
from clawdbot.limits import Limiter, Rate, Unlimited
from clawdbot.notes import Notes, OwnNotes, SharedNotes
from clawdbot.platforms.base import Services, items, parse_json, same, section, string
from clawdbot.platforms.dingtalk.client import DingTalkSender
from clawdbot.platforms.feishu.client import FeishuSender
from clawdbot.store import key
from clawdbot.web import observe
from clawdbot.web.body import read

log = logging.getLogger(__name__)

SENT = Counter("clawdbot_alert_messages_total", "Messages about alerts by chat and outcome.", ["chat", "outcome"])
# Longer than Alertmanager repeats a failed delivery, shorter than it waits before a reminder.
REMEMBERED_SECONDS = 3600
CLAIMED, TOLD = "claimed", "told"
# A node that dies while it sends holds the others back no longer than this.
CLAIM_SECONDS = 60
# More of one group are counted, not listed.
LONGEST_LIST = 10
LONGEST_NAME = 200
# After the 21st message of a minute DingTalk silences a robot for ten; burst and refill together stay below.
ROBOT_RATE = Rate(9 / 60, 10)
PUBLIC = {
    400: "not Alertmanager's webhook, version 4",
    401: "wrong or missing bearer token",
    413: "Request Entity Too Large",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a notification; times as Alertmanager wrote them.

    ``summaries`` are by language; the one of English is that of all others that lack one.
    """

    name: str
    status: str
    summaries: Mapping[str, str]
    value: str
    runbook: str
    starts: str
    ends: str
    fingerprint: str

    def summary(self, language: Language) -> str:
        """What is the matter."""
        return self.summaries[language.code] or self.summaries["en"]

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes it another piece of news."""
        return (self.fingerprint, self.status, self.starts, self.ends if self.status == "resolved" else "")


@dataclasses.dataclass(frozen=True, slots=True)
class Notification:
    """What Alertmanager says about one group of alerts."""

    group: str
    alerts: Sequence[Alert]

    @property
    def digest(self) -> str:
        """The same for every node that is told of the same state."""
        content = [self.group, *sorted(alert.identity for alert in self.alerts)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def parse(body: bytes) -> Notification:
    """Read a notification.

    Raises:
        Refusal: 400, it is none.
    """
    data = parse_json(body)
    alerts = [_alert(item) for item in items(data, "alerts")]
    if data.get("version") != "4" or not alerts or len(alerts) != len(data["alerts"]):
        raise Refusal(400, "no_alerts")
    return Notification(string(data, "groupKey"), alerts)


def _alert(data: Mapping[str, Any]) -> Alert:
    labels, annotations = section(data, "labels"), section(data, "annotations")
    name, status = string(labels, "alertname"), string(data, "status")
    if not name or status not in {"firing", "resolved"}:
        raise Refusal(400, "bad_alert")
    return Alert(
        name=name[:LONGEST_NAME],
        status=status,
        summaries={code: string(annotations, f"summary_{code}") for code in languages.known()}
        | {"en": string(annotations, "summary") or name},
        value=string(annotations, "value"),
        runbook=string(annotations, "runbook_url"),
        starts=string(data, "startsAt"),
        ends=string(data, "endsAt"),
        fingerprint=string(data, "fingerprint") or json.dumps(labels, sort_keys=True),
    )


def message(notification: Notification, spoken: Sequence[Language]) -> str:
    """What people read, as Markdown: what fires first, then what is over.

    Nobody has asked for it, so sentences are in each of the chat's languages, and figures as the first has them.
    """
    parts = []
    for status, sign, title in (("firing", "🔴", texts.ALERTS_FIRING), ("resolved", "✅", texts.ALERTS_RESOLVED)):
        alerts = [alert for alert in notification.alerts if alert.status == status]
        if not alerts:
            continue
        parts.append(f"{sign} **{_in_each(spoken, title)}**")
        parts += [_paragraph(alert, spoken) for alert in alerts[:LONGEST_LIST]]
        if len(alerts) > LONGEST_LIST:
            parts.append(f"… {_in_each(spoken, texts.ALERTS_MORE, count=len(alerts) - LONGEST_LIST)}")
    return "\n\n".join(parts)


def _in_each(spoken: Sequence[Language], text: str, **fields: object) -> str:
    return " · ".join(language.say(text, **fields) for language in spoken)


def _paragraph(alert: Alert, spoken: Sequence[Language]) -> str:
    say = spoken[0].say
    facts = [f"`{alert.name}`", say(texts.ALERT_SINCE, time=_clock(alert.starts))]
    if alert.status == "resolved":
        facts.append(say(texts.ALERT_UNTIL, time=_clock(alert.ends)))
    elif alert.value:
        facts.insert(1, alert.value)
    if alert.runbook.startswith(("https://", "http://")):
        facts.append(f"[{say(texts.ALERT_RUNBOOK)}]({alert.runbook})")
    summary, *others = dict.fromkeys(alert.summary(language) for language in spoken)
    return "\n".join([f"**{summary}**", *others, " · ".join(facts)])


def _clock(moment: str) -> str:
    """A time of RFC 3339 to the second, in UTC."""
    try:
        parsed = datetime.datetime.fromisoformat(moment)
    except ValueError:
        return "?"
    return parsed.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@dataclasses.dataclass(frozen=True, slots=True)
class Chat:
    """A chat that gets alerts.

    Attributes:
        write: writes a text to it; the second argument is the same for the same news.
        languages: those that are spoken there.
    """

    write: Callable[[str, str], None]
    languages: Sequence[Language]


def chats(settings: Settings, services: Services) -> dict[str, Chat]:
    """The chats that are configured: DingTalk's robot if it has an access token, Feishu's group if it has an id."""
    found: dict[str, Chat] = {}
    robot = settings.dingtalk
    if robot and (robot.access_token or "access_token=" in robot.webhook_url):
        dingtalk = DingTalkSender(robot, services)

        def push(content: str, _: str) -> None:
            services.limiter.wait("dingtalk-alerts", ROBOT_RATE)
            dingtalk.push(content)

        found["dingtalk"] = Chat(push, settings.languages)
    if settings.feishu and settings.alerts.feishu_chat:
        feishu, group = FeishuSender(settings.feishu, services), settings.alerts.feishu_chat
        write = functools.partial(feishu.push, group)
        found["feishu"] = Chat(write, settings.languages_of(group))
    return found


def tell(name: str, chat: Chat, notification: Notification, notes: Notes) -> bool:
    """Tell a chat unless it has been told, or another node is telling it; returns whether it knows.

    Raises:
        redis.RedisError: the notes are in a Redis that is away.
    """
    remembered = key("alerts", name, notification.digest)
    if not notes.claim(remembered, CLAIMED, CLAIM_SECONDS):
        return notes.get(remembered) == TOLD
    try:
        chat.write(message(notification, chat.languages), notification.digest)
    except ClawdbotError as error:
        # Nobody knows whether it is there: it is written once more, and no oftener.
        if isinstance(error, Unsure) and not notes.claim(f"{remembered}:unsure", CLAIMED, REMEMBERED_SECONDS):
            notes.put(remembered, TOLD, REMEMBERED_SECONDS)
            return True
        notes.drop(remembered, CLAIMED)
        SENT.labels(name, "failure").inc()
        log.error("an alert could not be delivered", extra={"fields": {"chat": name, "error": str(error)}})
        return False
    notes.put(remembered, TOLD, REMEMBERED_SECONDS)
    SENT.labels(name, "success").inc()
    return True


def install(app: Flask, settings: Settings, client: redis.Redis, clock: Callable[[], int] = now_ms) -> None:
    """Add ``POST /api/alerts`` to ``app``; ``clock`` returns Unix time in milliseconds.

    200: every chat knows. 400: no notification. 401: the bearer token is wrong or missing. 404: switched off.
    503: a chat could not be told, or none is configured; to be repeated.
    """
    web, cache = Http(), Cache(client, enabled=False, ttl=1)
    together = Services(SharedNotes(client), web, Limiter(client), cache)
    # That Redis is down must reach people, too; the price is that each node says it.
    alone = Services(OwnNotes(), web, Unlimited(), cache)
    shared, own = chats(settings, together), chats(settings, alone)
    uses = Uses(together.notes, settings.former())

    def verify(token: str) -> None:
        if not same(request.headers.get("Authorization", ""), f"Bearer {token}"):
            raise Refusal(401, "wrong_token")

    def deliver(notification: Notification) -> bool:
        try:
            told = [tell(name, chat, notification, together.notes) for name, chat in shared.items()]
        except redis.RedisError as error:
            log.error("Redis is away, this node delivers alone", extra={"fields": {"error": type(error).__name__}})
            told = [tell(name, chat, notification, alone.notes) for name, chat in own.items()]
        return all(told)

    @app.post("/api/alerts")
    def alerts() -> Response:
        if not settings.alerts.token:
            return _answer("switched_off", "alerts have no token; set CLAWDBOT_ALERTS_TOKEN", 404)
        try:
            uses.first("alerts", settings.alerts.accepted("token", clock()), verify)
            notification = parse(read(request.environ))
        except Refusal as refusal:
            return _answer(refusal.reason, PUBLIC[refusal.status], refusal.status)
        if not shared:
            log.error("there is no chat for alerts: set access_token in dingtalk.yaml or CLAWDBOT_ALERTS_FEISHU_CHAT")
            return _answer("no_chat", "no chat is configured", 503)
        return _answer("delivered", "", 200) if deliver(notification) else _answer("undelivered", "try again", 503)


def _answer(result: str, error: str, status: int) -> Response:
    observe.note(result=result)
    response = jsonify({"error": error} if error else {"status": "ok"})
    response.status_code = status
    return response
