"""AI cards of DingTalk.

Source: open.dingtalk.com, "Create and deliver cards" and "AI card streaming update" (api-streamingupdate); public
clients use them so. The id is ours. Whether delivering the same id twice shows one card or two is nowhere said, so who
does not know whether a card was delivered tries to update it first. Mentions as in PyPI ``dingtalk-stream`` 0.24.3,
card_replier.py. Where a card is quoted, its ``carrierId`` is all that DingTalk says of it
(soimy/openclaw-channel-dingtalk#252).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from clawdbot import markdown
from clawdbot.config import DingTalkConfig
from clawdbot.errors import Final
from clawdbot.limits import Limits, Rate
from clawdbot.message import Message
from clawdbot.platforms.base import MENTION, CardRefused, Folded, Own, Pace

# Half of what an application may, the rest is for answers; of all nodes together.
UPDATE_RATE = Rate(10, 10)
CALL_SECONDS = 5.0
# The variable of the template that grows.
VARIABLE = "content"
PROCESSING = "1"
# The pauses double, so that what an answer may cost is enough for about so long.
COVERED_SECONDS = 60.0
SHORTEST_PAUSE = 0.5


class DingTalkCards:
    """What `clawdbot.platforms.base.CardSender` describes."""

    def __init__(
        self,
        config: DingTalkConfig,
        call: Callable[..., dict[str, Any]],
        robot_code: Callable[[Message], str],
        limiter: Limits,
        own: Own,
    ) -> None:
        """``call``, ``robot_code`` and ``own`` are those of the sender."""
        # One call shows the card, and one finishes it.
        most = config.card_calls - 2
        first = max(SHORTEST_PAUSE, COVERED_SECONDS / 2**most)
        self.pace = Pace(first=first, factor=2.0, longest=COVERED_SECONDS, most=most)
        self._config = config
        self._call = call
        self._robot_code = robot_code
        self._limiter = limiter
        self._own = own

    def possible(self, message: Message) -> bool:
        """Who is not of the organisation has no staff id, by which a single chat is found."""
        return message.group or bool(message.route.get("staff_id"))

    def make(self, message: Message, words: str) -> str:  # noqa: ARG002  # part of CardSender
        """Invent an id; DingTalk hears of it when the card is delivered."""
        return f"clawdbot-{secrets.token_hex(16)}"

    def post(self, message: Message, card: str, words: str, turn: int, *, again: bool) -> None:
        """Deliver the card; what is refused before the delivery is refused for everybody."""
        if again:
            try:
                self.update(card, words, turn)
                return
            except Final:
                # There is none.
                pass
        body: dict[str, Any] = {
            "cardTemplateId": self._config.card_template,
            "outTrackId": card,
            "callbackType": "STREAM",
            "userIdType": 1,
            "cardData": {"cardParamMap": {"flowStatus": PROCESSING, VARIABLE: _shown(words)}},
        }
        if message.group:
            body["openSpaceId"] = f"dtv1.card//IM_GROUP.{message.conversation}"
            body["imGroupOpenDeliverModel"] = {"robotCode": self._robot_code(message), **_at(message)}
        else:
            body["openSpaceId"] = f"dtv1.card//IM_ROBOT.{message.route.get('staff_id')}"
            body["imRobotOpenDeliverModel"] = {"spaceType": "IM_ROBOT", "robotCode": self._robot_code(message)}
        try:
            answer = self._call("card", "/v1.0/card/instances/createAndDeliver", body)
        except Final as error:
            raise CardRefused(str(error), everywhere=True) from None
        result = answer.get("result")
        delivered = result.get("deliverResults") if isinstance(result, dict) else None
        for each in delivered if isinstance(delivered, list) else []:
            if isinstance(each, dict) and each.get("success") is False:
                raise CardRefused("dingtalk: the card was not delivered")
            if isinstance(each, dict) and isinstance(each.get("carrierId"), str):
                self._own.shows(message, each["carrierId"], card)

    def may(self) -> bool:
        """Whether all nodes together are slow enough."""
        return self._limiter.allows(f"dingtalk-cards:{self._config.app_key}", UPDATE_RATE)

    def update(self, card: str, words: str, turn: int) -> None:  # noqa: ARG002  # DingTalk knows no order
        """Show all that was said so far."""
        self._stream("card_update", card, words, final=False)

    def finish(self, message: Message, card: str, words: str, turn: int, folded: Folded | None) -> None:  # noqa: ARG002  # part of CardSender
        """Show the answer; the template has no place for what is folded."""
        self._stream("card_finish", card, words, final=True)
        self._own.said(message, card, words)

    def _stream(self, way: str, card: str, words: str, *, final: bool) -> None:
        body = {
            "outTrackId": card,
            "guid": secrets.token_hex(16),
            "key": VARIABLE,
            "content": _shown(words),
            "isFull": True,
            "isFinalize": final,
            "isError": False,
        }
        self._call(way, "/v1.0/card/streaming", body, method="PUT", deadline=CALL_SECONDS)


def asker_of(message: Message) -> str:
    """Return the staff id of who is to be mentioned, empty for nobody."""
    return str(message.route.get("staff_id") or "") if message.route.get(MENTION) else ""


def _at(message: Message) -> dict[str, Any]:
    asker = asker_of(message)
    return {"atUserIds": {asker: message.sender_name or asker}} if asker else {}


def _shown(words: str) -> str:
    return markdown.hard_breaks(markdown.tables_as_lists(markdown.defuse(words)))
