"""What a DingTalk message says. The forms of a message differ from those of the same message when it is quoted.

Sources: open.dingtalk.com "Receive message"; the forms of quotes are documented nowhere and were reported by those
who saw them: QwenLM/qwen-code#9536, #11759 (text, rich text, card), agentscope-ai/QwenPaw#4209 (voice),
chenhg5/cc-connect#1121 (card data), soimy/openclaw-channel-dingtalk#252 (``originalProcessQueryKey``, under which the
robot sent the card that is quoted).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from clawdbot.platforms import base
from clawdbot.platforms.base import Content
from clawdbot.text import clean

DEEPEST = 12


def read(kind: str, content: Any) -> Content:
    """Return what a message of ``kind`` with ``content`` says."""
    if kind == "picture":
        images = _download_codes([content] if isinstance(content, dict) else [])
        return Content(images=tuple(images), unsupported="" if images else kind)
    if kind == "richText":
        return _rich_text(content if isinstance(content, dict) else {})
    words = _voice(content) if kind == "audio" else _words(content)
    readable = kind in {"text", "markdown"} or bool(words)
    return Content(words, unsupported="" if readable else kind[:64] or "unknown")


def _rich_text(content: dict[str, Any]) -> Content:
    pieces = base.items(content, "richText")
    words = [base.string(piece, "text") or base.string(piece, "content") for piece in pieces]
    return Content("\n".join(filter(None, words)), tuple(_download_codes(pieces)))


def _voice(content: Any) -> str:
    """DingTalk's transcript of a voice message."""
    return base.string(content, "recognition") if isinstance(content, dict) else ""


def _words(content: Any) -> str:
    """The words of a text, or of a card: plain, in its data, or in a tree of elements."""
    if isinstance(content, str):
        return clean(content[: base.LONGEST_TEXT])
    if not isinstance(content, dict):
        return ""
    for name in ("content", "text", "markdown"):
        if words := base.string(content, name):
            return words
    data = content.get("cardData")
    data = _object(data) if isinstance(data, str) else data
    if isinstance(data, dict):
        return _words(data.get("cardParamMap") or data)
    return clean("\n".join(_leaves(content.get("cardContent"), DEEPEST))[: base.LONGEST_TEXT]) or base.string(
        content, "title"
    )


def _leaves(element: Any, depth: int) -> Iterator[str]:
    """What is shown of a card's tree of elements."""
    if isinstance(element, str):
        element = _object(element)
    if isinstance(element, list) and depth:
        for one in element:
            yield from _leaves(one, depth - 1)
    if isinstance(element, dict) and depth:
        if element.get("elementType") == "TEXT" and isinstance(element.get("value"), str):
            yield element["value"]
        yield from _leaves(element.get("children"), depth - 1)


def _object(encoded: str) -> Any:
    try:
        return json.loads(encoded)
    except (ValueError, RecursionError):
        return None


def quote(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what ``body`` quotes, as it travels with the message in `Message.route`; None if it quotes nothing."""
    places = (base.section(body, "text"), base.section(body, "content"), body)
    found = [reply for place in places if isinstance(reply := _decoded(place.get("repliedMsg")), dict)]
    key = base.string(body, "originalProcessQueryKey")[: base.LONGEST_ID]
    if not found and not key and not any(place.get("isReplyMsg") is True for place in places):
        return None
    replied = found[0] if found else {}
    said = read(base.string(replied, "msgType") or base.string(replied, "msgtype"), _decoded(replied.get("content")))
    return {
        "text": said.text[: base.LONGEST_QUOTE],
        "images": [code[: base.LONGEST_ID * 8] for code in said.images[: base.MOST_QUOTED_PICTURES]],
        **({"key": key} if key else {}),
    }


def _decoded(given: Any) -> Any:
    """What may come as it is or as JSON text."""
    return (_object(given) or given) if isinstance(given, str) else given


def _download_codes(pieces: list[dict[str, Any]]) -> list[str]:
    codes = (base.string(piece, "downloadCode") or base.string(piece, "pictureDownloadCode") for piece in pieces)
    return [code for code in codes if code]
