"""Taking a model's reasoning out of its answer."""

from __future__ import annotations

import re

# <think>, as most open models write it, with its relatives; between backticks somebody talks about the tag.
TAG = re.compile(r"(?<!`)(?:<(/?)think(?:ing)?\b[^<>]*>|<(/?)thought>|◁(/?)think▷)(?!`)", re.IGNORECASE)


def without(text: str) -> str:
    """Return ``text`` without its reasoning.

    Reasoning may stand between two tags, before a closing one whose opening one was part of the prompt, or behind an
    opening one that was never closed, because the answer was cut.
    """
    kept: list[str] = []
    at, inside = 0, False
    for tag in TAG.finditer(text):
        if any(tag.groups()):
            if not inside:
                kept.clear()
            inside = False
        elif not inside:
            kept.append(text[at : tag.start()])
            inside = True
        at = tag.end()
    if not inside:
        kept.append(text[at:])
    return "".join(kept).strip()
