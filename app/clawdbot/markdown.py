"""Markdown as models write it, and what becomes of it where a client shows less than that."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

OPENING = re.compile(r"^ {0,3}(`{3,20}|~{3,20})([^`]*)$")
DELIMITER = re.compile(r"^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")
CELL_END = re.compile(r"(?<!\\)\|")
HEADING = re.compile(r"^ {0,3}#{1,6} ")
# A line that begins something of its own anyway.
ITEM = re.compile(r"^\s*([-*+] |\d+[.)] |#{1,6} )")
# Invisible, and enough to keep a client from reading on: what stands on both sides no longer belongs together.
BREAK = "\u200b"
# Who is called by these hears a bell, so they are defused even within code.
CALL = re.compile(r"<(?=[\s/]*(?:at|person)\b)|@(?=_?all\b|everyone\b|所有人)|(?<=@)(?=_all\b)", re.IGNORECASE)
TAG = re.compile(r"<(?=/?[a-z@!])", re.IGNORECASE)
# Links that do something within the client, such as to send a message in the name of whoever taps on them.
CLIENT_LINK = re.compile(r"\b(dtmd|dingtalk|lark|feishu|larkoffice|javascript)(:)", re.IGNORECASE)
INLINE_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """Some lines of one kind: ``code`` with its fences, ``table``, or ``text``."""

    kind: str
    lines: list[str]


def blocks(content: str) -> Iterator[Block]:
    """Yield the blocks of ``content``; joined by line ends they are what it was."""
    lines = content.split("\n")
    text: list[str] = []
    at = 0
    while at < len(lines):
        end, kind = _code_end(lines, at), "code"
        if end == at:
            end, kind = _table_end(lines, at), "table"
        if end == at:
            text.append(lines[at])
            at += 1
            continue
        if text:
            yield Block("text", text)
            text = []
        yield Block(kind, lines[at:end])
        at = end
    if text:
        yield Block("text", text)


def _code_end(lines: list[str], at: int) -> int:
    """Return the line behind the code block that begins at ``at``, or ``at``."""
    opening = OPENING.match(lines[at])
    if not opening:
        return at
    for number in range(at + 1, len(lines)):
        if closes(opening[1], lines[number]):
            return number + 1
    return len(lines)


def closes(fence: str, line: str) -> bool:
    """Whether ``line`` ends the code block that ``fence`` began."""
    line = line.strip()
    return len(line) >= len(fence) and not line.strip(fence[0])


def open_fence(lines: Iterable[str], opening: str = "") -> str:
    """Return the line that opened the code block which ``lines`` end in, empty outside of one.

    ``opening`` is that line for the block in which ``lines`` begin.
    """
    for line in lines:
        if opened := OPENING.match(opening):
            opening = "" if closes(opened[1], line) else opening
        elif OPENING.match(line):
            opening = line
    return opening


def _table_end(lines: list[str], at: int) -> int:
    if at + 1 >= len(lines) or "|" not in lines[at] or "|" not in lines[at + 1] or not DELIMITER.match(lines[at + 1]):
        return at
    end = at + 2
    while end < len(lines) and "|" in lines[end]:
        end += 1
    return end


def tables_as_lists(content: str, keep: int = 0) -> str:
    """Turn the tables of ``content`` but the first ``keep`` into lists: a point a row, with the column's names."""
    shown: list[str] = []
    for block in blocks(content):
        if block.kind != "table":
            shown += block.lines
        elif keep > 0:
            keep -= 1
            shown += block.lines
        else:
            shown += _list(block.lines)
    return "\n".join(shown)


def _list(lines: list[str]) -> list[str]:
    names, *rows = [_cells(line) for line in (lines[0], *lines[2:])]
    points = []
    for row in rows:
        named = zip([*names, *[""] * len(row)], row, strict=False)
        points.append("- " + "; ".join(f"**{name}**: {cell}" if name else cell for name, cell in named if cell))
    return points or [" ".join(names)]


def _cells(line: str) -> list[str]:
    line = line.strip().removeprefix("|")
    if line.endswith("|") and not line.endswith("\\|"):
        line = line[:-1]
    return [cell.strip().replace("\\|", "|") for cell in CELL_END.split(line)]


def hard_breaks(content: str) -> str:
    """Keep every line of text a line, where clients join lines; and let code stand alone."""
    shown: list[str] = []
    for block in blocks(content):
        if block.kind != "text":
            if shown and shown[-1].strip():
                shown.append("")
            shown += [*block.lines, ""]
            continue
        lines = block.lines
        for number, line in enumerate(lines):
            more = number + 1 < len(lines) and bool(lines[number + 1].strip())
            breaks = more and bool(line.strip()) and not HEADING.match(line) and not ITEM.match(lines[number + 1])
            # Behind code there is an empty line already.
            if number or line.strip() or not shown:
                shown.append(f"{line.rstrip()}  " if breaks else line)
    return "\n".join(shown).rstrip("\n")


def defuse(content: str) -> str:
    """Take the effect out of everything in ``content`` that is more than words to a platform.

    Nothing that a user or a model says may call people, or be a platform's own markup: Feishu reads ``<at ...>`` and
    other tags in texts, posts and cards alike, DingTalk ``dtmd://`` links. Code stays as it is but for calls.
    """
    if "<" not in content and "@" not in content and ":" not in content:
        return content
    shown = []
    for block in blocks(content):
        lines = "\n".join(block.lines)
        shown.append(_calls(lines) if block.kind == "code" else _inert(lines))
    return "\n".join(shown)


def _calls(words: str) -> str:
    return CALL.sub(lambda found: found[0] + BREAK, words)


def _inert(words: str) -> str:
    shown, at = [], 0
    for code in INLINE_CODE.finditer(words):
        shown += [_no_markup(words[at : code.start()]), _calls(code[0])]
        at = code.end()
    return "".join([*shown, _no_markup(words[at:])])


def _no_markup(words: str) -> str:
    words = TAG.sub(lambda found: found[0] + BREAK, _calls(words))
    return CLIENT_LINK.sub(lambda found: found[1] + BREAK + found[2], words)
