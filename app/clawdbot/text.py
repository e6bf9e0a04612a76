"""Text: counting, trimming and splitting."""

from __future__ import annotations

import re
from collections.abc import Iterable

FENCE = "```"
ASCII_CHARACTERS_PER_TOKEN = 4
MARKDOWN = re.compile(r"(^#{1,6} |^\s*[-*+] |^\s*\d+\. |\*\*|```|`[^`]+`|\[[^\]]+\]\(|^\|.*\|$|^> )", re.MULTILINE)


def clean(text: str) -> str:
    """Replace what cannot be written as UTF-8 (lone surrogates), drop NUL, strip."""
    if text.isascii() and "\0" not in text:
        return text.strip()
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()


def size(text: str) -> int:
    """Length in UTF-8 bytes."""
    return len(text.encode("utf-8", "replace"))


def tokens(text: str) -> int:
    """Estimate tokens: one per character outside ASCII, one per four within; models differ, this errs upwards."""
    ascii_count = sum(character.isascii() for character in text)
    return len(text) - ascii_count + ascii_count // ASCII_CHARACTERS_PER_TOKEN + 1


def trim_history(turns: Iterable[tuple[str, str]], budget: int) -> list[tuple[str, str]]:
    """Keep the newest turns whose estimated tokens fit into ``budget``."""
    kept: list[tuple[str, str]] = []
    for turn in reversed(list(turns)):
        budget -= tokens(turn[0]) + tokens(turn[1])
        if budget < 0:
            break
        kept.append(turn)
    return kept[::-1]


def is_markdown(text: str) -> bool:
    """Whether ``text`` gains from being shown as Markdown."""
    return bool(MARKDOWN.search(text))


def split(text: str, limit: int) -> list[str]:
    """Split ``text`` into parts of at most ``limit`` UTF-8 bytes, losing nothing that is visible.

    Breaks at paragraphs if possible, else at lines, else at words, else anywhere. A code block that has to be
    broken is closed in one part and opened again, with its language, in the next.
    """
    room = limit - 2 * len(FENCE) - 32
    if room <= 0:
        raise ValueError(f"limit {limit} leaves no room for text")
    parts: list[str] = []
    opened = ""
    while size(opened + text) > limit:
        head, text = _cut(text, room - size(opened))
        part = opened + head
        opened = _open_fence(part)
        parts.append(f"{part}\n{FENCE}" if opened else part)
    if text or not parts:
        parts.append(opened + text)
    return parts


def _cut(text: str, limit: int) -> tuple[str, str]:
    """Cut at the last good place within ``limit`` bytes."""
    window = text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore") or text[0]
    for separator in ("\n\n", "\n", " "):
        at = window.rfind(separator)
        if at > len(window) // 4:
            return text[:at], text[at + len(separator) :]
    return window, text[len(window) :]


def _open_fence(part: str) -> str:
    """Return the line that opens the code block in which ``part`` ends, empty if it ends outside of one."""
    opened = ""
    for line in part.split("\n"):
        if line.lstrip().startswith(FENCE):
            opened = "" if opened else f"{line.strip()[:24]}\n"
    return opened
