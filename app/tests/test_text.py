"""Counting, trimming and splitting text."""

from __future__ import annotations

import time

import pytest
from clawdbot import text
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(alphabet="ab答 \n`😀", max_size=400), st.integers(60, 200))
def test_split_keeps_every_visible_character_and_the_limit(content: str, limit: int) -> None:
    parts = text.split(content, limit)
    assert all(text.size(part) <= limit for part in parts)
    visible = [character for character in "".join(parts) if character in "ab答😀"]
    assert visible == [character for character in content if character in "ab答😀"]


def test_short_text_stays_as_it_is() -> None:
    assert text.split("  a\n\nb ", 100) == ["  a\n\nb "]
    assert text.split("", 100) == [""]


def test_splits_at_the_best_place() -> None:
    assert text.split("a" * 40 + "\n\n" + "b" * 40 + "\nc", 100) == ["a" * 40 + "\n\n" + "b" * 40 + "\nc"]
    assert text.split("a" * 40 + "\n\n" + "b" * 60, 100) == ["a" * 40, "b" * 60]
    assert text.split("a" * 40 + "\n" + "b" * 60, 100) == ["a" * 40, "b" * 60]
    assert text.split("a" * 40 + " " + "b" * 60, 100) == ["a" * 40, "b" * 60]


def test_code_block_is_closed_and_opened_again() -> None:
    code = "```python\n" + "\n".join(f"line {number}" for number in range(30)) + "\n```\nafter"
    parts = text.split(code, 120)
    assert len(parts) > 2
    for part in parts:
        assert part.count("```") % 2 == 0
    assert all(part.startswith("```python\n") for part in parts[:-1])


@pytest.mark.parametrize("answer", ["答" * 8000, "short"])
@pytest.mark.parametrize("question", ["问" * 8000, "short", "word " * 4000])
def test_the_newest_turn_stays_whatever_its_length(question: str, answer: str) -> None:
    kept = text.trim_history([("old", "old"), (question, answer)], 800)
    asked, answered = kept[-1]
    assert question.startswith(asked.rstrip("…"))
    assert answer.startswith(answered.rstrip("…"))
    assert min(len(asked), len(answered)) >= len("short")
    assert 700 <= sum(map(text.tokens, kept[-1])) <= 800 or kept[-1] == (question, answer)


@given(st.lists(st.tuples(st.text(max_size=90), st.text(max_size=90)), min_size=1), st.integers(10, 100))
def test_a_history_keeps_within_its_budget(turns: list[tuple[str, str]], budget: int) -> None:
    kept = text.trim_history(turns, budget)
    assert kept
    assert sum(text.tokens(part) for turn in kept for part in turn) <= budget
    assert kept[:-1] == turns[len(turns) - len(kept) : -1]


def test_limit_without_room() -> None:
    with pytest.raises(ValueError, match="no room"):
        text.split("x", 30)


def test_tokens() -> None:
    assert text.tokens("") == 1
    assert text.tokens("a" * 40) == 11
    assert text.tokens("答" * 10) == 11


def test_history_keeps_the_newest() -> None:
    turns = [("old " * 10, "x"), ("new", "y"), ("newest", "z")]
    assert text.trim_history(turns, 10) == turns[1:]
    assert text.trim_history(turns, 1000) == turns
    assert text.trim_history(turns, 0) == []


@pytest.mark.parametrize("plain", ["hello", "a-b", "2 * 3 = 6", "1.5", "a_b"])
def test_plain_text(plain: str) -> None:
    assert not text.is_markdown(plain)


@pytest.mark.parametrize("marked", ["# t", "a\n- b", "**b**", "`c`", "[a](b)", "1. a", "> q", "|a|b|", "```\nx\n```"])
def test_markdown(marked: str) -> None:
    assert text.is_markdown(marked)


def test_clean() -> None:
    assert text.clean(" a\0\ud800b ") == "a?b"


NAMES = ("help", "reset", "status", "重置")


@pytest.mark.parametrize(
    "words",
    [
        "/reset", "/RESET", " /reset ", "／reset", "／ｒｅｓｅｔ", "/ reset", "\u200b/reset\u200b", "@Bot /reset",
        "@Bot\u2005/reset",
        "/reset @Bot", "/reset@Bot", "@A @B /reset", "@Bot\n/reset", "\u3000／reset\u3000", "/reset。", "/Reset!",
    ],
)  # fmt: skip
def test_commands_however_they_are_written(words: str) -> None:
    assert text.command(words, NAMES) == ("reset", "")


@pytest.mark.parametrize(
    "words",
    [
        "/重置", "／重置", "、重置", "/ 重置", "／　重置", "\u3000/重置\u3000", "/重置。", "/重置！",
        "\u200b/重置\u200b", "@小助手 /重置", "/重置 @小助手", "/重置@小助手", "@小助手\u2005／重置",
    ],
)  # fmt: skip
def test_commands_of_a_chinese_keyboard(words: str) -> None:
    assert text.command(words, NAMES) == ("重置", "")


@pytest.mark.parametrize("words", ["/reset main", "@Bot /reset MAIN", "／reset　main。", "/reset main @Bot"])
def test_commands_with_a_word_behind_them(words: str) -> None:
    assert text.command(words, NAMES, ["reset"]) == ("reset", "main")
    assert text.command(words, NAMES) == ("", "")


@pytest.mark.parametrize(
    "words",
    [
        "重置", "/重置密码", "/重置 密码", "怎么 /重置", "//重置", "。重置", "/重",
        "reset", "/resets", "what does /reset do", "/reset now", "@Bot what does /reset", "/", "//reset", "/other", "",
        "x" * 500, "/reset @Bot please", "http://x/reset",
    ],
)  # fmt: skip
def test_no_commands(words: str) -> None:
    assert text.command(words, NAMES) == ("", "")


def test_splitting_is_linear() -> None:
    """Four times as much takes about four times as long; where the rest is copied for each part it is sixteen times."""

    def seconds(content: str) -> float:
        started = time.process_time()
        parts = text.split(content, 7000)
        taken = time.process_time() - started
        assert all(text.size(part) <= 7000 for part in parts)
        return taken

    for piece, count in (("word ", 400_000), ("答", 600_000), ("x\n", 700_000)):
        short, long = (min(seconds("```\n" + piece * each) for _ in range(2)) for each in (count, 4 * count))
        assert long < 10 * short


def test_nothing_that_belongs_together_is_cut() -> None:
    family = "👨\u200d👩\u200d👧"
    for shift in range(12):
        for part in text.split("a" * shift + family * 40, 120):
            assert part.replace(family, "").strip("a") == ""
    for part in text.split("e\u0301" * 200, 101):
        assert part.count("e") == part.count("\u0301")
    for part in text.split("ab`c`" + "x" * 48 + "```" + "y" * 80, 103):
        assert part.count("```") != 1 or "```" in part


def test_longer_fences_are_closed_as_they_were_opened() -> None:
    parts = text.split("````md\n" + "```\ncode\n```\n" * 20 + "````\nafter", 120)
    assert all(part.startswith("````md\n") and part.endswith("\n````") for part in parts[:-1])


@pytest.mark.parametrize("padded", ["\u200b a \ufeff", "\u2060a", " a\u200e"])
def test_invisible_characters_around_words_go(padded: str) -> None:
    assert text.clean(padded) == "a"
