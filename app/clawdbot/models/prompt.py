"""The instruction to the model."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping

FIELDS = ("name", "group", "date", "bot")
DEFAULT = """You are a helpful assistant in a company's chat. Answer in the language of the user.
Your name is {bot}.
{name} writes to you in the group chat {group}; what was said before begins with the names of its writers."""
NAMELESS_GROUP = "(without a name)"
LONGEST_NAME = 50
FIELD = re.compile(r"\{([a-z_]+)\}")


def unknown_fields(template: str) -> list[str]:
    """Return what looks like a field of ``template`` and is none."""
    return [name for name in FIELD.findall(template) if name not in FIELDS]


def system(template: str, *, name: str, group: str, today: datetime.date, bot: str = "") -> str:
    """Fill the fields of ``template``; a line with a field that has no value is left out.

    Args:
        template: the setting ``MODEL_SYSTEM_PROMPT``.
        name: of the one who writes, empty if unknown.
        group: name of the group, empty in a chat of two.
        today: the date.
        bot: how the bot is called, empty if it has no name.
    """
    values = {"name": one_line(name), "group": one_line(group), "date": today.isoformat(), "bot": one_line(bot)}
    return "\n".join(_filled(line, values) for line in template.splitlines() if _complete(line, values)).strip()


def _complete(line: str, values: Mapping[str, str]) -> bool:
    return all(values.get(field, field) for field in FIELD.findall(line))


def _filled(line: str, values: Mapping[str, str]) -> str:
    return FIELD.sub(lambda field: values.get(field[1], field[0]), line)


def one_line(name: str) -> str:
    """Return a name in a form that cannot pass for anything else: people choose their names themselves."""
    return " ".join(name.split())[:LONGEST_NAME]
