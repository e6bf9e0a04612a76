"""The languages that the bot speaks to people, and which of them somebody writes.

A language is a file in ``locale``, named by its code: the translations of `clawdbot.texts`, and in its header
``X-Scripts`` the scripts that it is written in, each by the word with which the Unicode names of its letters begin.
English, in which the texts are written, has none.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from clawdbot import catalogue, texts

FOLDER = Path(__file__).with_name("locale")
# Most of those who write to the bot are in China; whoever writes English is answered in it.
DEFAULT = "zh,en"
# So much of a message is looked at: people begin with what they want, and go on with what they paste.
LONGEST_LOOK = 500
# Fewer words tell nothing: everybody writes "OK" and the names of commands.
FEWEST_WORDS = 2
# Scripts without spaces, of which each character is taken for a word.
UNSPACED = frozenset({"CJK", "HIRAGANA", "KATAKANA"})
# Code, addresses, quotations and mentions are not one's own words.
NOT_OWN = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\w+://\S+|^>[^\n]*|@\S+", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Language:
    """A language of the bot.

    Attributes:
        code: its name, such as ``zh``.
        scripts: the scripts that it is written in.
        texts: what it says for each of `clawdbot.texts`.
    """

    code: str
    scripts: frozenset[str]
    texts: Mapping[str, str] = dataclasses.field(repr=False, compare=False)

    def say(self, text: str, **fields: object) -> str:
        """Return ``text``, one of `clawdbot.texts`, as its reader gets it; ``fields`` fill the names in braces."""
        said = self.texts.get(text, text)
        return said.format(**fields) if fields else said


def load(path: Path) -> Language:
    """Read a language from its file.

    Raises:
        CatalogueError: it cannot be read.
    """
    found = catalogue.read(path)
    return Language(path.stem, frozenset(found.headers.get("X-Scripts", "").split()), found.texts)


@functools.cache
def known() -> Mapping[str, Language]:
    """Return all languages by their codes."""
    english = Language("en", frozenset({"LATIN"}), {})
    return {language.code: language for language in (english, *map(load, sorted(FOLDER.glob("*.po"))))}


@functools.cache
def commands() -> Mapping[str, str]:
    """Return the words for commands in all languages, with the command that each stands for."""
    names = (texts.COMMAND_HELP, texts.COMMAND_RESET, texts.COMMAND_STATUS, texts.COMMAND_USAGE, texts.COMMAND_MODEL)
    return {word: name for language in known().values() for name in names for word in language.say(name).split()}


def preferred(own: Sequence[Language], said: Iterable[str]) -> Sequence[Language]:
    """Return the languages of a chat in the order in which somebody wants them.

    Args:
        own: the languages that the bot speaks there, the chat's own first.
        said: what the person said, newest first; the first line that tells decides. With one language none is read.
    """
    if len(own) == 1:
        return own
    for words in said:
        for line in NOT_OWN.sub("\n", words[:LONGEST_LOOK]).splitlines():
            count = _count(line)
            # Of those alike the first.
            best = max(own, key=lambda language: _sum(count, language))
            if _sum(count, best) >= FEWEST_WORDS:
                return (best, *(language for language in own if language is not best))
    return own


def _sum(count: Mapping[str, int], language: Language) -> int:
    return sum(count[script] for script in language.scripts)


def _count(words: str) -> Counter[str]:
    """Return the number of words by script."""
    found: Counter[str] = Counter()
    before = ""
    for character in unicodedata.normalize("NFKC", words):
        script = unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""
        if script and (script in UNSPACED or script != before):
            found[script] += 1
        before = script
    return found
