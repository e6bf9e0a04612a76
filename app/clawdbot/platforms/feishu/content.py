"""What a Feishu message says, be it one of an event or one that was looked up.

Sources: open.feishu.cn "Receive message", "Message content" and "Get the content of a message". Cards come back in a
form of their own, which depends on their version; all that looks like words is taken from them. A card of version 2
has only the advice to update the client there, and itself in ``user_dsl``, or instead, where a message is looked up
that way (zarazhangrui/lark-coding-agent-bridge, src/bot/interactive-card.ts).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from clawdbot.platforms import base
from clawdbot.platforms.base import Content
from clawdbot.text import clean

DEEPEST = 12
UPDATE_CLIENT = "请升级至最新版本客户端，以查看内容"
# Keys below which a card has words.
SHOWN = ("header", "title", "subtitle", "text", "content", "body", "elements", "columns", "fields", "value")


def read(kind: str, content: dict[str, Any]) -> Content:
    """Return what a message of ``kind`` says; its mentions are keys such as ``@_user_1``.

    Raises:
        Refusal: 400, a picture has no key.
    """
    if kind == "text":
        return Content(base.string(content, "text"))
    if kind == "image":
        return Content(images=(base.identifier(content, "image_key"),))
    if kind == "post":
        words, images = _post(content)
        return Content(words, tuple(images))
    if kind == "interactive" and (words := _card(content)):
        return Content(words)
    return Content(unsupported=kind[:64] or "unknown")


def _post(content: dict[str, Any]) -> tuple[str, list[str]]:
    """Words and pictures of a rich text; its lines are lists of tagged pieces, perhaps below a language."""
    if "content" not in content:
        content = next((value for value in content.values() if isinstance(value, dict)), content)
    lines, images = [base.string(content, "title")], []
    rows = content.get("content")
    for row in rows if isinstance(rows, list) else []:
        pieces = [piece for piece in row if isinstance(piece, dict)] if isinstance(row, list) else []
        line = ""
        for piece in pieces:
            tag = piece.get("tag")
            if tag == "img":
                images.append(base.identifier(piece, "image_key"))
            elif tag == "at":
                key = base.string(piece, "user_id")
                line += (key if key.startswith("@") else f"@{base.string(piece, 'user_name')}") + " "
            elif tag == "code_block":
                line += f"\n```{base.string(piece, 'language')}\n{base.string(piece, 'text')}\n```"
            elif tag == "a":
                line += f"{base.string(piece, 'text')} ({base.string(piece, 'href')})"
            else:
                value = piece.get("text")
                line += value[: base.LONGEST_TEXT] if isinstance(value, str) else ""
        lines.append(line)
    return clean("\n".join(lines)), images


def _card(content: dict[str, Any]) -> str:
    given = base.string(content, "user_dsl")
    card = base.parse_json(given) if given else content
    words = clean("\n".join(_shown(card, DEEPEST))[: base.LONGEST_TEXT])
    return "" if words == UPDATE_CLIENT else words


def _shown(element: Any, depth: int) -> Iterator[str]:
    if isinstance(element, str):
        yield element
    elif isinstance(element, list) and depth:
        for one in element:
            yield from _shown(one, depth - 1)
    elif isinstance(element, dict) and depth:
        for name in SHOWN:
            yield from _shown(element.get(name), depth - 1)


def _keys(mentions: Sequence[dict[str, Any]]) -> str:
    """A pattern for the keys of mentions, ``@_user_10`` before ``@_user_1``; whatever follows, digits included."""
    keys = {base.string(mention, "key") for mention in mentions} - {""}
    return "|".join(map(re.escape, sorted(keys, key=len, reverse=True)))


def named(words: str, mentions: Sequence[dict[str, Any]]) -> str:
    """Return ``words`` with names for the keys of mentions."""
    names = {base.string(mention, "key"): base.string(mention, "name") for mention in mentions}
    keys = _keys(mentions)
    return re.sub(keys, lambda found: f"@{names[found[0]]}", words).strip() if keys else words


def without_address(words: str, mentions: Sequence[dict[str, Any]], *, group: bool) -> str:
    """Return ``words`` without the mentions that only say who is meant, the others named.

    That are those at the very start. In a group whoever is mentioned alone is the bot, or else the message is none of
    its business; so that mention may stand at the end as well, as all of them may around a command.
    """
    keys = _keys(mentions)
    if not keys:
        return words
    bare = re.sub(keys, " ", words).strip()
    if bare[:1] in {"/", "／"} and len(bare.split()) == 1:
        return bare
    words = re.sub(rf"^(?:\s*(?:{keys}))+", "", words)
    if group and "|" not in keys:
        words = re.sub(rf"(?:\s*(?:{keys}))+\s*$", "", words)
    return named(words, mentions)
