"""The bot speaks to people in their language, and every catalogue has every text."""

from __future__ import annotations

import string
import unicodedata
from pathlib import Path

import pytest
from clawdbot import catalogue, languages, texts
from clawdbot.catalogue import CatalogueError
from hypothesis import given
from hypothesis import strategies as st

TEXTS = {value: name for name, value in vars(texts).items() if name.isupper()}
KNOWN = languages.known()
EN, ZH = KNOWN["en"], KNOWN["zh"]
TRANSLATED = sorted(path.stem for path in languages.FOLDER.glob("*.po"))
COMMANDS = [text for text, name in TEXTS.items() if name.startswith("COMMAND_")]


def fields(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_catalogue_has_every_text(code: str) -> None:
    found = catalogue.read(languages.FOLDER / f"{code}.po").texts
    missing = "\n\n".join(catalogue.entry(text, comment=name) for text, name in TEXTS.items() if text not in found)
    assert not missing, f"{code}.po lacks, or has as fuzzy or empty:\n\n{missing}\n"


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_catalogue_has_no_text_in_vain(code: str) -> None:
    found = catalogue.read(languages.FOLDER / f"{code}.po").texts
    assert not found.keys() - TEXTS.keys(), f"{code}.po has what texts.py does not say any more"


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_translation_has_the_fields_of_its_text(code: str) -> None:
    translations = KNOWN[code].texts
    assert {text: fields(said) for text, said in translations.items()} == {text: fields(text) for text in translations}


@pytest.mark.parametrize("code", TRANSLATED)
def test_a_catalogue_says_what_it_is(code: str) -> None:
    headers = catalogue.read(languages.FOLDER / f"{code}.po").headers
    assert headers["Language"] == code
    assert headers["Content-Type"] == "text/plain; charset=UTF-8"
    scripts = {unicodedata.name(character).split()[0] for character in map(chr, range(0x3100)) if character.isalpha()}
    assert KNOWN[code].scripts
    assert KNOWN[code].scripts <= scripts | {"CJK", "HANGUL"}


@pytest.mark.parametrize("code", sorted(KNOWN))
def test_help_names_the_commands_in_its_own_words(code: str) -> None:
    for name in COMMANDS:
        assert (
            f"/{KNOWN[code].say(name).split()[0]} - "
            in f"{KNOWN[code].say(texts.HELP)}\n{KNOWN[code].say(texts.HELP_MODEL)}"
        )


def test_no_word_stands_for_two_commands() -> None:
    words = [word for language in KNOWN.values() for name in COMMANDS for word in language.say(name).split()]
    assert len(set(words)) == len(words)
    assert languages.commands().keys() == set(words)
    assert all(unicodedata.normalize("NFKC", word).lower() == word and word.isalpha() for word in words)


def test_what_is_no_text_of_ours_is_said_as_it_is() -> None:
    assert ZH.say("busy, sorry") == "busy, sorry"
    assert EN.say(texts.STATUS_TURNS, count=3) == "turns remembered: 3"
    assert "3 轮" in ZH.say(texts.STATUS_TURNS, count=3)


# Which language somebody writes in


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("你好", "zh"),
        ("how are you", "en"),
        ("这个 Kubernetes Ingress 怎么配置 TLS", "zh"),
        ("what does 你好 mean in English?", "en"),
        ("帮我翻译：\nDear Sir or Madam, we are writing to you because of your order", "zh"),
        ("please translate this:\n关于进一步加强安全生产工作的通知", "en"),
        ("为什么不行？ https://example.com/one/two/three/four `pip install this that`", "zh"),
        ("```python\nfor each in every: print(each)\n```\n请解释", "zh"),
        ("> a long English quotation that somebody else wrote\n你怎么看", "zh"),
        ("@Some Body 请帮忙", "zh"),
        ("ＨＯＷ ＡＲＥ ＹＯＵ", "en"),
        ("繁體中文", "zh"),
    ],
)
@pytest.mark.parametrize("own", [(ZH, EN), (EN, ZH)], ids=["zh_en", "en_zh"])
def test_the_language_is_that_of_ones_own_words(own: tuple[languages.Language, ...], words: str, expected: str) -> None:
    assert languages.preferred(own, [words])[0].code == expected


@pytest.mark.parametrize(
    "words", ["", "ok", "OK!", "/reset", "123", "👍", "好", "Привет, как дела", "> quoted words only"]
)
@pytest.mark.parametrize("own", [(ZH, EN), (EN, ZH)], ids=["zh_en", "en_zh"])
def test_words_that_do_not_tell_leave_it_to_the_chat(own: tuple[languages.Language, ...], words: str) -> None:
    assert languages.preferred(own, [words]) == own


def test_what_was_said_before_tells_where_the_last_words_do_not() -> None:
    assert languages.preferred((ZH, EN), ["/reset", "ok", "how are you", "你好"]) == (EN, ZH)


def test_of_two_languages_that_share_a_script_the_one_that_explains_more_is_meant() -> None:
    japanese = languages.Language("ja", frozenset({"HIRAGANA", "KATAKANA", "CJK"}), {})
    for own in ((ZH, japanese), (japanese, ZH)):
        assert languages.preferred(own, ["日本語で話して"])[0] is japanese
        assert languages.preferred(own, ["日本語話"])[0] is own[0]


def test_only_languages_of_the_chat_are_spoken() -> None:
    assert languages.preferred((ZH,), ["how are you"]) == (ZH,)


@given(st.text(max_size=3000))
def test_any_words_have_a_language(words: str) -> None:
    assert set(languages.preferred((ZH, EN), [words])) == {ZH, EN}


# Reading a catalogue

HEAD = 'msgid ""\nmsgstr ""\n"Language: xx\\n"\n"X-Scripts: LATIN GREEK\\n"\n\n'


def written(folder: Path, content: str) -> Path:
    path = folder / "xx.po"
    path.write_text(HEAD + content, "utf-8")
    return path


def test_a_catalogue_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '# of the translator\n#. of the programmer\n#: texts.py:1\n#, python-brace-format\nmsgid "a"\nmsgstr "b"\n\n'
        'msgid ""\n"two\\n"\n"lines \\"quoted\\""\nmsgstr ""\n"zwei\\n"\n"Zeilen\\t\\\\"\n\n'
        '#, fuzzy\nmsgid "unsure"\nmsgstr "?"\n\nmsgid "empty"\nmsgstr ""\n\n#~ msgid "old"\n#~ msgstr "alt"\n',
    )
    found = catalogue.read(path)
    assert found.headers == {"Language": "xx", "X-Scripts": "LATIN GREEK"}
    assert found.texts == {"a": "b", 'two\nlines "quoted"': "zwei\nZeilen\t\\"}
    assert languages.load(path).scripts == {"LATIN", "GREEK"}


@given(st.dictionaries(st.text(min_size=1), st.text(min_size=1), max_size=4))
def test_what_is_written_is_read_back(translations: dict[str, str]) -> None:
    content = "\n\n".join(catalogue.entry(text, said) for text, said in translations.items())
    assert catalogue.parse(HEAD + content, "xx.po").texts == translations


@pytest.mark.parametrize(
    ("content", "line", "cure"),
    [
        ('msgid "a"\nmsgstr "b\n', 7, "is no line of a catalogue"),
        ('msgctxt "c"\nmsgid "a"\nmsgstr "b"\n', 6, "is no line of a catalogue"),
        ('msgid "a"\nmsgid_plural "as"\n', 7, "is no line of a catalogue"),
        ('msgid "a"\nmsgstr "\\x"\n', 7, "is no text in quotes"),
        ('msgstr "b"\nmsgstr "c"\n', 6, "has no msgid"),
        ('msgid "a"\nmsgstr "b"\n\nmsgid "a"\nmsgstr "c"\n', 9, "is there twice"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: str, line: int, cure: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(CatalogueError, match=f"xx.po:{line}: .*{cure}"):
        catalogue.read(path)
