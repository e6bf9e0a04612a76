"""Cards of Feishu that grow.

Source: open.feishu.cn, "Streaming updates of cards" and the pages of cardkit-v1. A card is made, sent by its id, given
all of the text again and again, of which the client animates what is new, and at last replaced as a whole without
``streaming_mode``: one call, and it does not matter whether Feishu has ended that mode itself, as it does after ten
minutes. Each call has a ``sequence`` greater than the one before (300317), so who comes late changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from clawdbot import markdown, text
from clawdbot.config import FeishuConfig
from clawdbot.errors import Final
from clawdbot.limits import Limits, Rate
from clawdbot.message import Message
from clawdbot.platforms.base import MENTION, CardRefused, Folded, Own, Pace

PATH = "/open-apis/cardkit/v1/cards"
ELEMENT = "answer"
# Of all nodes together; Feishu allows 1000 a minute and 50 a second.
UPDATE_RATE = Rate(14, 40)
CALL_SECONDS = 5.0
# A card with more is not shown (measured by picsky/dsh-pocket-console).
MOST_TABLES = 5
SUMMARY_CHARACTERS = 60
# Of 30 KB that a card may have the answer takes most; JSON may double each byte.
FOLDED_BYTES = 2_000
# As fast as models write; what is late is shown at once.
TYPING = {"print_frequency_ms": {"default": 30}, "print_step": {"default": 2}, "print_strategy": "fast"}


class FeishuCards:
    """What `clawdbot.platforms.base.CardSender` describes."""

    pace = Pace(first=0.5, factor=1.5, longest=5.0)

    def __init__(
        self,
        config: FeishuConfig,
        call: Callable[..., dict[str, Any]],
        reply: Callable[[Message, str, str, Mapping[str, Any]], str],
        limiter: Limits,
        own: Own,
    ) -> None:
        """``call``, ``reply`` and ``own`` are those of the sender."""
        self._app = config.app_id
        self._call = call
        self._reply = reply
        self._limiter = limiter
        self._own = own

    def possible(self, message: Message) -> bool:  # noqa: ARG002  # part of CardSender
        """Feishu tells when it is asked."""
        return True

    def make(self, message: Message, words: str) -> str:
        """Make a card; what is refused here is refused for everybody."""
        body = {"type": "card_json", "data": content(words, streaming=True, asker=asker_of(message))}
        try:
            data = self._call("card", "POST", PATH, payload=body, deadline=CALL_SECONDS).get("data")
        except Final as error:
            raise CardRefused(str(error), everywhere=True) from None
        made = data.get("card_id") if isinstance(data, dict) else None
        if not isinstance(made, str) or not made:
            raise CardRefused("feishu: a card was made without an id", everywhere=True)
        return made

    def post(
        self,
        message: Message,
        card: str,
        words: str,  # noqa: ARG002  # part of CardSender
        turn: int,  # noqa: ARG002  # part of CardSender
        *,
        again: bool,  # noqa: ARG002  # its uuid makes a repetition harmless
    ) -> None:
        """Reply with the card."""
        try:
            name = self._reply(message, f"card-{card}", "interactive", {"type": "card", "data": {"card_id": card}})
        except Final as error:
            raise CardRefused(str(error)) from None
        if name:
            self._own.shows(message, name, card)

    def may(self) -> bool:
        """Whether all nodes together are slow enough."""
        return self._limiter.allows(f"feishu-cards:{self._app}", UPDATE_RATE)

    def update(self, card: str, words: str, turn: int) -> None:
        """Show all that was said so far."""
        path = f"{PATH}/{quote(card, safe='')}/elements/{ELEMENT}/content"
        body = {"content": _shown(words), "sequence": turn}
        self._call("card_update", "PUT", path, payload=body, deadline=CALL_SECONDS)

    def finish(self, message: Message, card: str, words: str, turn: int, folded: Folded | None) -> None:
        """Replace the card by one that does not grow."""
        data = content(words, streaming=False, folded=folded, asker=asker_of(message))
        body = {"card": {"type": "card_json", "data": data}, "sequence": turn}
        self._call("card_finish", "PUT", f"{PATH}/{quote(card, safe='')}", payload=body)
        self._own.said(message, card, words)


def asker_of(message: Message) -> str:
    """Return the id of who is to be mentioned, empty for nobody; one that could be more than an id mentions nobody."""
    return message.sender if message.route.get(MENTION) and re.fullmatch(r"ou_\w+", message.sender) else ""


def mention(asker: str) -> str:
    """Return what calls ``asker`` on a card."""
    return f"<at id={asker}></at>"


def content(words: str, *, streaming: bool, folded: Folded | None = None, asker: str = "") -> str:
    """Return a card as JSON text. ``asker`` is mentioned above what grows, from the beginning."""
    config: dict[str, Any] = {"streaming_mode": streaming, "update_multi": True}
    config["summary"] = {"content": markdown.defuse(text.first_line(words)[:SUMMARY_CHARACTERS])}
    if streaming:
        config["streaming_config"] = TYPING
    elements: list[dict[str, Any]] = [{"tag": "markdown", "element_id": ELEMENT, "content": _shown(words)}]
    if folded:
        shown = text.split(markdown.defuse(folded.text), FOLDED_BYTES)[0]
        panel = {
            "tag": "collapsible_panel",
            "expanded": False,
            "header": {"title": {"tag": "plain_text", "content": folded.title}},
            "elements": [{"tag": "markdown", "content": markdown.tables_as_lists(shown)}],
        }
        elements.insert(0, panel)
    if asker:
        elements.insert(0, {"tag": "markdown", "content": mention(asker)})
    return json.dumps({"schema": "2.0", "config": config, "body": {"elements": elements}}, ensure_ascii=False)


def _shown(words: str) -> str:
    return markdown.tables_as_lists(markdown.defuse(words), MOST_TABLES)
