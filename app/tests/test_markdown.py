"""Markdown: blocks, tables as lists, line ends that are kept, and markup that is made words."""

from __future__ import annotations

import re

import pytest
from clawdbot import markdown
from hypothesis import given
from hypothesis import strategies as st

TABLE = "| Name | Age |\n|---|:-:|\n| Li | 30 |\n| a\\|b | |"


@given(st.text(alphabet="ab`~|-\n #>@<", max_size=200))
def test_blocks_lose_nothing(content: str) -> None:
    assert "\n".join(line for block in markdown.blocks(content) for line in block.lines) == content


def test_blocks() -> None:
    content = f"text\n````md\n```\n| a |\n|---|\n````\n{TABLE}\n\nend\n```\nopen"
    assert [block.kind for block in markdown.blocks(content)] == ["text", "code", "table", "text", "code"]


def test_tables_become_lists() -> None:
    assert markdown.tables_as_lists(f"see\n{TABLE}\nend") == ("see\n- **Name**: Li; **Age**: 30\n- **Name**: a|b\nend")
    assert markdown.tables_as_lists(f"```\n{TABLE}\n```") == f"```\n{TABLE}\n```"
    six = "\n\n".join([TABLE] * 6)
    assert markdown.tables_as_lists(six, 5).count("|---|") == 5
    assert markdown.tables_as_lists("| a | b |\n|---|---|") == "a b"


def test_lines_stay_lines() -> None:
    assert markdown.hard_breaks("one\ntwo\n\nthree\n- a\n- b") == "one  \ntwo\n\nthree\n- a\n- b"
    assert markdown.hard_breaks("> a\n> b\n# t\nx") == "> a  \n> b\n# t\nx"
    assert markdown.hard_breaks("see\n```sh\na \\\nb\n```\nend") == "see\n\n```sh\na \\\nb\n```\n\nend"


CALLS = [
    '<at user_id="all">all</at>', "<at id=all></at>", "<AT\nid=all>", "< at id=all>", "</at>", "<at/>",
    "<person id='x'>", "@all",
    "@All hands", "@所有人", "@_all", "`<at id=all>`", "```\n<at id=all></at>\n```", "a`b <at id=all> c",
    "````\n```\n<at id=all>", "**x** <at id=all></at>", "| <at id=all> |\n|---|", "<at\tid=all>", "@everyone",
]  # fmt: skip


@pytest.mark.parametrize("words", CALLS)
def test_nobody_is_called(words: str) -> None:
    shown = markdown.defuse(words)
    assert not re.search(r"<[\s/]*(at|person)\b|@_?all\b|@所有人|@everyone", shown, re.IGNORECASE)
    assert shown.replace(markdown.BREAK, "") == words


@pytest.mark.parametrize(
    "words",
    [
        "<font color=red>x</font>",
        "<a href=x>",
        "[t](dtmd://dingtalkclient/sendMessage?content=x)",
        "lark://client/x",
        "<!x>",
    ],
)
def test_markup_of_platforms_is_words(words: str) -> None:
    shown = markdown.defuse(words)
    assert shown != words
    assert shown.replace(markdown.BREAK, "") == words
    assert markdown.defuse(f"```\n{words}\n```") == f"```\n{words}\n```"


@pytest.mark.parametrize(
    "words", ["a < b", "x@example.com", "[a](https://b.c)", "1 <2", "@Tom", "at 5: <3", "the @allen"]
)
def test_words_stay_words(words: str) -> None:
    assert markdown.defuse(words) == words


@given(st.text(alphabet="<@at all/`~\n _id=", max_size=120))
def test_fuzzed_calls(words: str) -> None:
    shown = markdown.defuse(words)
    assert not re.search(r"<[\s/]*at\b|@_?all\b", shown, re.IGNORECASE)
    assert shown.replace(markdown.BREAK, "") == words
