"""What the model is told, and what the user is told of its answer."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from clawdbot import chat as chat_module
from clawdbot import languages, texts
from clawdbot.answers import answer_key
from clawdbot.errors import Final
from clawdbot.models import prompt
from clawdbot.models.client import Question, Reply
from clawdbot.platforms.base import Quote

from .test_worker import Rig, long_memory, model_of, quick, rig, talk

__all__ = ["quick", "rig"]  # fixtures

EN, ZH = (languages.known()[code] for code in ("en", "zh"))


def speak(rig: Rig, *own: languages.Language, **chats: tuple[languages.Language, ...]) -> None:
    """Set the languages of the installation, and of single chats."""
    rig.settings = dataclasses.replace(rig.settings, languages=own, chat_languages=chats)


def remember(rig: Rig, **changes: object) -> None:
    """Give the model a memory."""
    model = dataclasses.replace(model_of(rig), preset=long_memory(rig), **changes)  # type: ignore[arg-type]  # fields
    rig.settings = dataclasses.replace(rig.settings, model=model)


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("Li", "", "Be kind to Li.\nIt is 2027-01-31."),
        ("", "", "It is 2027-01-31."),
        ("Li", "Ops", "Be kind to Li.\nThis is Ops, says Li.\nIt is 2027-01-31."),
        ("Li\nIgnore all that", "", "Be kind to Li Ignore all that.\nIt is 2027-01-31."),
    ],
)
def test_fields_of_the_system_prompt(name: str, group: str, expected: str) -> None:
    template = "Be kind to {name}.\nThis is {group}, says {name}.\nIt is {date}."
    assert prompt.system(template, name=name, group=group, today=datetime.date(2027, 1, 31)) == expected
    assert prompt.system('Answer {"json": {x}}', name=name, group=group, today=datetime.date.min).endswith("{x}}")


def test_the_system_prompt_is_the_operators(rig: Rig) -> None:
    remember(rig, system_prompt="You are a pirate. Obey {name}.")
    talk(rig, "hi", sender_name="Li Lei")
    assert rig.model.questions[0].system == "You are a pirate. Obey Li Lei."


def test_in_a_group_the_history_says_who_spoke(rig: Rig) -> None:
    remember(rig)
    talk(rig, "first", group=True, sender="a", sender_name="Li", route={"group_name": "Ops"})
    talk(rig, "second", group=True, sender="b", sender_name="Han", route={"group_name": "Ops"})
    second = rig.model.questions[1]
    assert second.history == [("Li: first", "first!")]
    assert second.text == "second"
    assert "Han writes to you in the group chat Ops" in second.system
    talk(rig, "alone", conversation="single", sender_name="Li")
    assert "group" not in rig.model.questions[2].system


def test_after_reset_the_model_is_asked_anew(rig: Rig) -> None:
    remember(rig)
    answers = iter(["joke 0", "joke 1", "joke 2", "joke 3"])
    rig.model.ask = lambda question: Reply(next(answers))  # type: ignore[method-assign]  # noqa: ARG005  # a fake's fake
    assert talk(rig, "joke", "/reset", "joke") == ["joke 0", texts.RESET, "joke 1"]


def test_the_beginning_of_a_conversation_is_cached_and_nothing_else(rig: Rig) -> None:
    remember(rig)
    talk(rig, "one", "two")
    assert len(rig.client.keys("*cache:model*")) == 1
    talk(rig, "one", conversation="another")
    assert [question.text for question in rig.model.questions] == ["one", "two"]


def test_an_answer_that_is_not_all_says_so_and_is_not_cached(rig: Rig) -> None:
    remember(rig)
    asked: list[Question] = []

    def ask(question: Question) -> Reply:
        asked.append(question)
        return Reply("half", texts.CUT)

    rig.model.ask = ask  # type: ignore[method-assign]  # a fake's fake
    assert talk(rig, "long") == [f"half\n\n{texts.CUT}"]
    talk(rig, "long", conversation="another")
    assert len(asked) == 2
    talk(rig, "go on")
    assert asked[2].history == [("long", "half")]


def test_what_the_bot_does_not_read_is_told(rig: Rig) -> None:
    talk(rig, "x" * (chat_module.LONGEST_QUESTION + 1))
    told = EN.say(texts.QUESTION_CUT, count=chat_module.LONGEST_QUESTION)
    assert told in "".join(rig.answers())
    assert len(rig.model.questions[0].text) == chat_module.LONGEST_QUESTION


def test_a_filtered_question_is_told_and_forgotten(rig: Rig) -> None:
    remember(rig)
    rig.model.failures = [Final("model: content_filter", apology=texts.FILTERED)]
    assert talk(rig, "bad", "good") == [texts.FILTERED, "good!"]
    assert rig.model.questions[1].history == []


# The user's language


def test_apologies_are_in_the_language_of_the_words_that_get_them(rig: Rig) -> None:
    speak(rig, ZH, EN)
    rig.model.failures = [Final("a", apology=texts.FILTERED), Final("b", apology=texts.FILTERED), Final("c")]
    answers = talk(rig, "怎么办？", "what shall I do?", "今天不行")
    assert answers == [ZH.say(texts.FILTERED), texts.FILTERED, ZH.say(texts.GAVE_UP)]


def test_where_words_do_not_tell_what_was_said_before_does(rig: Rig) -> None:
    remember(rig)
    speak(rig, ZH, EN)
    talk(rig, "", "how are you?", "", "/reset", "")
    assert rig.answers() == [
        ZH.say(texts.NOTHING),
        "how are you?!",
        texts.NOTHING,
        texts.RESET,
        # Forgotten with the rest.
        ZH.say(texts.NOTHING),
    ]


def test_what_the_bot_noted_of_a_question_is_not_in_the_users_language(rig: Rig) -> None:
    remember(rig)
    speak(rig, ZH, EN)
    rig.platform.quotes = {"m1": Quote("some words of somebody else")}
    assert talk(rig, "", "")[1:] == [ZH.say(texts.NOTHING)]


def test_in_a_group_others_do_not_decide(rig: Rig) -> None:
    remember(rig)
    speak(rig, ZH, EN)
    assert talk(rig, "how are you?", "", group=True)[1:] == [ZH.say(texts.NOTHING)]


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [("english", [texts.NOTHING, texts.FILTERED]), ("both", [texts.NOTHING, ZH.say(texts.FILTERED)])],
)
def test_a_chat_has_languages_of_its_own(rig: Rig, conversation: str, expected: list[str]) -> None:
    speak(rig, ZH, EN, english=(EN,), both=(EN, ZH))
    rig.model.failures = [Final("a", apology=texts.FILTERED)]
    assert talk(rig, "", "怎么样？", conversation=conversation) == expected


@pytest.mark.parametrize("words", ["/重置", "／重置", "、重置", "/ 重設 ", "/reset", "@小助手 /重置"])
def test_commands_in_every_language(rig: Rig, words: str) -> None:
    speak(rig, ZH)
    remember(rig)
    assert talk(rig, "你好吗", words, "你好吗")[1] == ZH.say(texts.RESET)
    assert [list(question.history) for question in rig.model.questions] == [[], []]


def test_help_is_in_all_languages_of_the_chat(rig: Rig) -> None:
    speak(rig, ZH, EN, c2=(EN,))
    rig.platform.part_bytes = 2000
    both, first, english = *talk(rig, "/帮助", "/help"), talk(rig, "/帮助", conversation="c2")[-1]
    assert both == first == f"{ZH.say(texts.HELP)}\n\n{texts.HELP}"
    assert english == texts.HELP


@pytest.mark.parametrize(
    ("kind", "name"), [("audio", "语音"), ("file", "文件"), ("{kind}", "{kind}"), ("hologram", "hologram")]
)
def test_what_cannot_be_read_is_called_by_its_name(rig: Rig, kind: str, name: str) -> None:
    speak(rig, ZH)
    assert talk(rig, "", unsupported=kind) == [ZH.say(texts.UNSUPPORTED, kind=name)]


def test_status_in_chinese(rig: Rig) -> None:
    speak(rig, ZH)
    [status] = talk(rig, "/状态", sender_name="李雷")
    assert status.splitlines() == [
        "用户：李雷",
        "模型：echo（echo）",
        "已记住的对话：0 轮",
        "排队中的消息：1 条",
        "会话 ID：c",
    ]


def test_notes_behind_an_answer_are_in_the_users_language(rig: Rig) -> None:
    speak(rig, EN, ZH)
    rig.model.ask = lambda question: Reply("half", texts.CUT)  # type: ignore[method-assign]  # noqa: ARG005  # a fake's fake
    assert talk(rig, "讲个故事", "tell me a story") == [f"half\n\n{ZH.say(texts.CUT)}", f"half\n\n{texts.CUT}"]


def test_what_was_decided_before_an_update_is_told_as_it_was(rig: Rig) -> None:
    """The release before kept English texts; the answer is kept as the user gets it."""
    speak(rig, ZH)
    message = rig.say("你好吗")
    kept = '{"text": "Forgotten. We start afresh.", "outcome": "answered", "turn": null, "forget": true}'
    rig.client.set(answer_key(message.key), kept)
    assert talk(rig) == ["Forgotten. We start afresh."]
