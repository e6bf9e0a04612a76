"""Taking a model's reasoning out of its answer."""

from __future__ import annotations

import re

from clawdbot import markdown

# <think>, as most open models write it, with its relatives; the one group that matches something marks a closing tag.
TAG = re.compile(
    r"<(/?)(?:\w+:)?(?:think(?:ing)?|reasoning)\b[^<>]*(?<!/)>"
    r"|<(/?)thoughts?>"
    r"|◁(/?)think▷"
    # Magistral
    r"|(?-i:\[(/?)THINK\])"
    # Sky-T1, OpenThinker
    r"|<\|(?:begin|(end))_of_thought\|>"
    # gpt-oss
    r"|<\|channel\|>(?:analysis|commentary|(final))<\|message\|>",
    re.IGNORECASE,
)


def parted(text: str) -> tuple[str, str]:
    """Return ``text`` without its reasoning, and the reasoning.

    Reasoning may stand between two tags, before a closing one whose opening one was part of the prompt, or behind an
    opening one that was never closed, because the answer was cut. In code and between backticks somebody talks about
    the tags.
    """
    kept: list[str] = []
    thoughts: list[str] = []
    at, inside = 0, False
    # Where code begins and ends, as far as it was looked at, and how many tags it has opened.
    seen, ticks, fence, in_code = 0, 0, "", 0
    for tag in TAG.finditer(text):
        piece, closing = text[seen : tag.start()], any(tag.groups())
        seen, ticks = tag.end(), ticks + piece.count("`")
        if not inside:
            fence = markdown.open_fence(piece.split("\n"), fence)
        tick = ticks % 2 == 1 and piece.endswith("`")
        if closing and ((in_code and not inside) or (tick and text.startswith("`", seen))):
            in_code = max(0, in_code - 1)
            continue
        if not closing and not inside and (fence or tick):
            in_code += 1
            continue
        if closing:
            thoughts += [*([] if inside else kept), text[at : tag.start()]]
        if closing and not inside:
            kept.clear()
        elif not inside:
            kept.append(text[at : tag.start()])
        at, inside = seen, not closing
        ticks, fence, in_code = 0, "", 0
    (thoughts if inside else kept).append(text[at:])
    return "".join(kept).strip(), "".join(thoughts).strip()


def without(text: str) -> str:
    """Return ``text`` without its reasoning; see `parted`."""
    return parted(text)[0]
