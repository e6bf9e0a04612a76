"""Text: counting, trimming and splitting."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from unicodedata import combining

from clawdbot.markdown import OPENING, open_fence

# Of a code block, in bytes; a longer one loses the name of its language where it is opened again.
LONGEST_OPENING = 25
LONGEST_COMMAND = 200
# The key of the slash types an enumeration comma where a keyboard writes Chinese.
COMMAND = re.compile(r"(?:@\S+\s+)*[/、]\s*([^\W\d_]+)(?:\s+([a-z0-9][a-z0-9._-]*))?[.!。]?(?:\s*@\S+)*\s*")
# What clients put around mentions.
INVISIBLE = "\u200b\u200e\u200f\u2060\ufeff"
JOINER = "\u200d"
ASCII_CHARACTERS_PER_TOKEN = 4
MARKDOWN = re.compile(r"(^#{1,6} |^\s*[-*+] |^\s*\d+\. |\*\*|```|`[^`]+`|\[[^\]]+\]\(|^\|.*\|$|^> )", re.MULTILINE)


def clean(text: str) -> str:
    """Replace what cannot be written as UTF-8 (lone surrogates), drop NUL, strip, invisible characters included."""
    if text.isascii() and "\0" not in text:
        return text.strip()
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip().strip(INVISIBLE).strip()


def command(text: str, names: Collection[str], taking: Collection[str] = ()) -> tuple[str, str]:
    """Return which of the commands ``names`` (lower case) somebody gives, and the word behind it; empty if none.

    Only those of ``taking`` may have a word behind them.

    A mention may stand before or behind it; a Chinese keyboard writes the slash, spaces and letters in full width,
    and clients put invisible characters around mentions.
    """
    if len(text) > LONGEST_COMMAND:
        return "", ""
    plain = "".join(character for character in text if unicodedata.category(character) != "Cf")
    plain = unicodedata.normalize("NFKC", plain).strip().lower()
    found = COMMAND.fullmatch(plain)
    if not found or found[1] not in names or (found[2] and found[1] not in taking):
        return "", ""
    return found[1], found[2] or ""


def size(text: str) -> int:
    """Length in UTF-8 bytes."""
    return len(text.encode("utf-8", "replace"))


def tokens(text: str) -> int:
    """Estimate tokens: one per character outside ASCII, one per four within; models differ, this errs upwards."""
    ascii_count = sum(character.isascii() for character in text)
    return len(text) - ascii_count + ascii_count // ASCII_CHARACTERS_PER_TOKEN + 1


def cut(text: str, budget: int) -> str:
    """Return the beginning of ``text`` that has at most ``budget`` estimated tokens, with a sign where it was cut."""
    if tokens(text) <= budget:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens(text[:middle]) < budget else (low, middle - 1)
    return f"{text[:low]}…"


def trim_history(turns: Iterable[tuple[str, str]], budget: int) -> list[tuple[str, str]]:
    """Keep the newest turns whose estimated tokens fit into ``budget``.

    The newest one stays in any case, cut if it has to be: without it nobody could ask on.
    """
    kept: list[tuple[str, str]] = []
    for turn in reversed(list(turns)):
        asked, answered = map(tokens, turn)
        if asked + answered > budget:
            if not kept and budget > 2:
                # What one of the two leaves of its half is the other's.
                share = max(budget // 2, budget - answered)
                question = cut(turn[0], share)
                kept.append((question, cut(turn[1], budget - tokens(question))))
            break
        budget -= asked + answered
        kept.append(turn)
    return kept[::-1]


def first_line(text: str) -> str:
    """Return the first line that has words, without what makes it a heading or the like."""
    return next((line for line in text.splitlines() if line.strip()), "").strip("#*`>- ")


def is_markdown(text: str) -> bool:
    """Whether ``text`` gains from being shown as Markdown."""
    return bool(MARKDOWN.search(text))


def split(text: str, limit: int) -> list[str]:
    """Split ``text`` into parts of at most ``limit`` UTF-8 bytes, losing nothing that is visible, in linear time.

    Breaks at paragraphs if possible, else at lines, else at words, else anywhere. A code block that has to be
    broken is closed in one part and opened again, with its language, in the next.
    """
    room = limit - 2 * LONGEST_OPENING
    if room <= 0:
        raise ValueError(f"limit {limit} leaves no room for text")
    parts: list[str] = []
    opened, at = "", 0
    # A character has a byte at least: only the end is short enough to be measured.
    while len(text) - at > limit or size(opened + text[at:]) > limit:
        end, following = _cut(text, at, room - size(opened))
        part = opened + text[at:end]
        opened, at = _open_fence(part), following
        parts.append(f"{part}\n{opened[: len(opened) - len(opened.lstrip('`~'))]}" if opened else part)
    if at < len(text) or not parts:
        parts.append(opened + text[at:])
    return parts


def _cut(text: str, start: int, limit: int) -> tuple[int, int]:
    """Return where a part ends that begins at ``start`` and has at most ``limit`` bytes, and where the next begins."""
    window = text[start : start + limit].encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")
    for separator in ("\n\n", "\n", " "):
        at = window.rfind(separator)
        if at > len(window) // 4:
            return start + at, start + at + len(separator)
    end = start + max(1, len(window))
    # Not within a run of backticks or a character that is made of several.
    while start + 1 < end < len(text) and _together(text[end - 1], text[end]):
        end -= 1
    if end == start + 1:
        end = start + max(1, len(window))
    return end, end


def _together(before: str, after: str) -> bool:
    return (before == after == "`") or before == JOINER or after in {JOINER, "\ufe0f"} or bool(combining(after))


def _open_fence(part: str) -> str:
    """Return the line that opens the code block in which ``part`` ends, empty if it ends outside of one."""
    found = OPENING.match(open_fence(part.split("\n")))
    if not found:
        return ""
    opened = found[0].strip()
    return f"{opened if size(opened) < LONGEST_OPENING else found[1]}\n"
