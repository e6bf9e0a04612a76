"""Catalogues of translated texts: gettext's ``.po`` files, read as they are.

Of the format it takes what the bot's texts need: ``msgid``, ``msgstr`` and comments. A text that is not translated, or
marked ``fuzzy``, is as if it were not there. Anything else (contexts, plurals) is an error with its line.

Source: gnu.org, "GNU gettext utilities", "The Format of PO Files".
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

LINE = re.compile(r'(?:(msgid|msgstr)\s+)?(".*")')


class CatalogueError(Exception):
    """A catalogue that cannot be read; the text names file, line and what is wrong."""


@dataclasses.dataclass(frozen=True, slots=True)
class Catalogue:
    """What a file says: its headers, and the translation of each text."""

    headers: Mapping[str, str]
    texts: Mapping[str, str]


@dataclasses.dataclass(slots=True)
class _Entry:
    line: int
    fuzzy: bool
    msgid: str = ""
    msgstr: str | None = None


def read(path: Path) -> Catalogue:
    """Read a catalogue.

    Raises:
        CatalogueError: there is something in it that is not understood.
        OSError: the file cannot be read.
    """
    return parse(path.read_text("utf-8"), str(path))


def parse(content: str, name: str) -> Catalogue:
    """Return what the file ``name`` says.

    Raises:
        CatalogueError: there is something in it that is not understood.
    """
    found: dict[str, _Entry] = {}
    for each in _entries(content, name):
        if each.msgid in found:
            raise CatalogueError(f"{name}:{each.line}: {each.msgid!r} is there twice")
        found[each.msgid] = each
    texts = {text: each.msgstr for text, each in found.items() if each.msgstr and not each.fuzzy}
    header = texts.pop("", "")
    headers = dict(line.split(": ", 1) for line in header.splitlines() if ": " in line)
    return Catalogue(headers, texts)


def _entries(content: str, name: str) -> list[_Entry]:
    entries: list[_Entry] = []
    fuzzy = False
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            fuzzy = fuzzy or (line.startswith("#,") and "fuzzy" in line)
            continue
        keyword, said = _parts(f"{name}:{number}", line.strip())
        if keyword == "msgid":
            entries.append(_Entry(number, fuzzy, said))
            fuzzy = False
        elif not entries or (keyword and entries[-1].msgstr is not None):
            raise CatalogueError(f"{name}:{number}: has no msgid")
        elif entries[-1].msgstr is None and not keyword:
            entries[-1].msgid += said
        else:
            entries[-1].msgstr = (entries[-1].msgstr or "") + said
    return entries


def _parts(place: str, line: str) -> tuple[str, str]:
    """Return the keyword of a line, empty if it goes on with the one before, and the text between its quotes."""
    parts = LINE.fullmatch(line)
    if not parts:
        raise CatalogueError(f"{place}: {line!r} is no line of a catalogue")
    try:
        # What our texts escape is escaped alike in JSON.
        return parts[1] or "", str(json.loads(parts[2]))
    except ValueError:
        raise CatalogueError(f"{place}: {parts[2]} is no text in quotes") from None


def entry(text: str, translation: str = "", *, comment: str = "") -> str:
    """Return what stands in a catalogue for ``text``."""
    lines = [f"#. {comment}"] if comment else []
    if "{" in text:
        # Editors then check the fields themselves.
        lines.append("#, python-brace-format")
    return "\n".join([*lines, f"msgid {_quoted(text)}", f"msgstr {_quoted(translation)}"])


def _quoted(text: str) -> str:
    """Several lines stand below each other, as the tools write them."""
    lines = [json.dumps(line, ensure_ascii=False) for line in text.splitlines(keepends=True)]
    return "\n".join(lines if len(lines) == 1 else ['""', *lines])
