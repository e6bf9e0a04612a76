"""Answers that grow, against the simulator, in real processes: a sign at once, the words as they come, one end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from clawdbot import calls, signs, texts
from clawdbot.cards import off_key
from clawdbot.config.live import LOOK_SECONDS
from clawdbot.platforms.base import Pace
from clawdbot.platforms.dingtalk.cards import UPDATE_RATE
from clawdbot.platforms.dingtalk.client import EMOTION
from clawdbot.platforms.feishu.client import REACTION
from clawdbot_simulator.identity import dingtalk_user, feishu_user
from clawdbot_simulator.load import Plan
from clawdbot_simulator.records import Record
from clawdbot_simulator.users import DingTalk, Feishu, Question

from .conftest import eventually
from .site import APP, Site, site
from .test_chaos import RETRIES, assert_kept, under_load
from .test_faults import answers, tell
from .test_receiver import CONNECTION, STREAM, connected

CALLS = 8
# Says a word in so many seconds.
PACE = 0.15
WORDS = "One two **three** four five six seven eight nine ten."
BOTH = pytest.mark.parametrize("platform", ["dingtalk", "feishu"])
INTAKES = pytest.mark.parametrize("intake", ["callback", "connection"])
number = iter(range(10_000))


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with site(folder, APP, {"card_calls": CALLS, **STREAM}, None, CONNECTION, MODEL_SHOW_REASONING="true") as found:
        found.run("receiver-a")
        connected(found, 1)
        yield found


@pytest.fixture(autouse=True)
def fresh(bot: Site) -> None:
    bot.control.reset()
    client = bot.queue().client
    for what in ("cards", "signs"):
        for name in client.scan_iter(f"clawdbot:{what}-off*"):
            client.delete(name)


def ask(
    bot: Site, platform: str = "feishu", text: str = "tell me", *, intake: str = "callback", **fields: Any
) -> Question:
    users = DingTalk(bot.config) if platform == "dingtalk" else Feishu(bot.config)
    question = users.text(f"user {next(number)}", text, **fields)
    if intake == "callback":
        tell(bot, question)
    else:
        bot.control.push(question)
    return question


def shown(bot: Site, question: Question) -> list[Record]:
    """What the card of a question showed, one after the other."""
    return bot.control.records(kind="card", conversation=question.conversation)


def card(bot: Site, question: Question) -> dict[str, Any]:
    """The one card of a question."""
    [found] = [each for each in bot.control.cards() if each["conversation"] == question.conversation]
    return found


def signs_of(bot: Site, question: Question) -> list[str]:
    """What was put on the user's message, and an empty text for each time that it was taken away."""
    return [record.text for record in bot.control.records(kind="sign", answers=question.message_id)]


def open_cards(bot: Site) -> list[dict[str, Any]]:
    return [each for each in bot.control.cards() if each["growing"]]


@BOTH
@INTAKES
def test_an_answer_grows(bot: Site, platform: str, intake: str) -> None:
    bot.control.set_model_answer(WORDS, before=1.5, pace=2 * PACE)
    question = ask(bot, platform, intake=intake)
    assert answers(bot, question) == [WORDS]
    first, *growing, last = [record.text for record in shown(bot, question)]
    assert first == texts.THINKING, "a sign before the model's first word"
    assert len(growing) > 1
    assert all(WORDS.startswith(words) for words in growing), growing
    assert sorted(growing, key=len) == growing
    assert last == WORDS
    assert not open_cards(bot)
    if platform == "feishu":
        assert bot.control.messages()[0].answers == question.message_id


@BOTH
def test_in_a_group(bot: Site, platform: str) -> None:
    bot.control.set_model_answer(WORDS, before=0.5, pace=PACE)
    question = ask(bot, platform, group="ops")
    assert answers(bot, question) == [WORDS]
    assert len(shown(bot, question)) > 2
    assert not open_cards(bot)


@BOTH
def test_a_quick_answer_is_a_message(bot: Site, platform: str) -> None:
    bot.control.set_model_answer(WORDS)

    def is_a_message() -> bool:
        question = ask(bot, platform)
        assert answers(bot, question) == [WORDS]
        return not shown(bot, question)

    # On a busy machine it may take longer for once.
    eventually(is_a_message)


def test_a_command_is_no_card(bot: Site) -> None:
    assert len(answers(bot, ask(bot, text="/help"))) == 1
    assert not bot.control.cards()


def test_a_long_answer_begins_on_the_card_and_goes_on_below(bot: Site) -> None:
    long = "\n\n".join(f"{number} " + "x" * 1000 for number in range(15))
    bot.control.set_model_answer(long, before=1)
    question = ask(bot)
    eventually(lambda: len(bot.control.messages()) == 2)
    parts = bot.control.messages()
    assert [part.endpoint for part in parts] == ["feishu.card", "feishu.reply"]
    assert "\n\n".join(part.text for part in parts) == long
    assert card(bot, question)["growing"] is False


def test_thoughts_are_folded_away(bot: Site) -> None:
    bot.control.set_model_answer(WORDS, reasoning="First I count.", before=0.5, pace=PACE)
    question = ask(bot)
    assert answers(bot, question) == [WORDS]
    assert card(bot, question)["folded"] == "First I count."
    assert not any("First I count" in record.text for record in shown(bot, question))


def test_markup_of_the_platform_is_defused_on_cards(bot: Site) -> None:
    bot.control.set_model_answer("Hello <at id=all></at> and more words", before=0.6, pace=0.3)
    question = ask(bot)
    answers(bot, question)
    assert not any("<at" in record.text for record in shown(bot, question))


def test_what_cannot_be_answered_is_said_on_the_card(bot: Site) -> None:
    bot.control.add_fault("model.chat", "slow", seconds=1.0)
    bot.control.set_model_answer("x", finish="content_filter")
    bot.control.add_fault("model.chat", "expired_token")
    question = ask(bot)
    eventually(bot.control.messages)
    assert not open_cards(bot)
    assert len(bot.control.messages(conversation=question.conversation)) == 1


# Refused


def test_without_the_permission_answers_are_messages_and_check_says_so(bot: Site) -> None:
    missing = {"code": 99991672, "msg": "Access denied. One of the following scopes is required: [cardkit:card:write]"}
    bot.control.add_fault("feishu.make_card", "error", status=400, body=missing)
    bot.control.set_model_answer(WORDS, before=0.6)
    assert answers(bot, ask(bot)) == [WORDS]
    assert answers(bot, ask(bot)) == [WORDS]
    assert not bot.control.cards()
    assert sum(fault.hits for fault in bot.control.faults()) == 1, "it was tried once"
    assert "99991672" in str(bot.queue().client.get(off_key("feishu")))
    said = bot.check()
    assert "cardkit:card:write" in said


@BOTH
def test_a_card_that_is_refused_where_it_should_be_shown(bot: Site, platform: str) -> None:
    refusal = {"code": 230099, "msg": "Failed to create card content, ext=ErrCode: 11310"}
    if platform == "feishu":
        bot.control.add_fault("feishu.reply", "error", count=1, status=400, body=refusal)
    else:
        body = {"result": {"deliverResults": [{"success": False, "errorMsg": "no"}]}, "success": True}
        bot.control.add_fault("dingtalk.deliver_card", "error", count=1, status=200, body=body)
    bot.control.set_model_answer(WORDS, before=0.6)
    assert answers(bot, ask(bot, platform)) == [WORDS]
    assert not bot.control.cards()
    question = ask(bot, platform)
    assert answers(bot, question) == [WORDS]
    assert card(bot, question)["text"] == WORDS, "others get theirs"


def test_an_external_user_of_dingtalk_gets_a_message(bot: Site) -> None:
    bot.control.set_model_answer(WORDS, before=0.6)
    question = ask(bot, "dingtalk", senderStaffId="")
    assert answers(bot, question) == [WORDS]
    assert not bot.control.cards()
    shown, taken = eventually(lambda: signs_of(bot, question)[1:] and signs_of(bot, question))
    assert (shown, taken) == (EMOTION, "")


# Signs


@BOTH
def test_where_there_is_no_card_the_question_gets_a_sign(bot: Site, platform: str) -> None:
    """At once, and it is gone when the answer is there."""
    without_cards(bot, platform)
    bot.control.set_model_answer(WORDS, before=2.0)
    began = time.time()
    question = ask(bot, platform, group="ops")
    [sign] = eventually(lambda: bot.control.records(kind="sign", answers=question.message_id))
    assert sign.text == {"dingtalk": EMOTION, "feishu": REACTION}[platform]
    assert sign.conversation == question.conversation
    assert sign.time - began < 1.0
    assert not bot.control.messages(conversation=question.conversation)
    assert answers(bot, question) == [WORDS]
    eventually(lambda: signs_of(bot, question)[1:] == [""])
    assert not bot.control.cards()


@BOTH
def test_a_sign_that_is_refused_is_not_tried_again_and_check_says_so(bot: Site, platform: str) -> None:
    without_cards(bot, platform)
    refusal: dict[str, Any] = {"code": 99991672, "msg": "Access denied. One of the following scopes is required: [a:b]"}
    if platform == "dingtalk":
        refusal = {"code": "Forbidden.AccessDenied.AccessTokenPermissionDenied", "message": "no"}
        refusal["accessdenieddetail"] = {"requiredScopes": ["a:b"]}
    bot.control.add_fault(f"{platform}.react", "error", status=403, body=refusal)
    bot.control.set_model_answer(WORDS, before=0.6)
    assert answers(bot, ask(bot, platform)) == [WORDS]
    assert answers(bot, ask(bot, platform)) == [WORDS]
    assert sum(fault.hits for fault in bot.control.faults()) == 1
    assert "needs" in str(bot.queue().client.get(signs.off_key(platform)))
    said = bot.check()
    assert "gets no sign" in said
    assert "a:b" in said


@BOTH
def test_a_sign_that_cannot_be_shown_or_taken_away_hurts_nobody(bot: Site, platform: str) -> None:
    without_cards(bot, platform)
    bot.control.add_fault(f"{platform}.react", "server_error", count=1)
    bot.control.add_fault(f"{platform}.unreact", "drop", count=1)
    bot.control.set_model_answer(WORDS, before=0.6)
    for _ in range(2):
        assert answers(bot, ask(bot, platform)) == [WORDS]
    assert len(bot.control.messages()) == 2


@BOTH
def test_who_takes_over_takes_the_sign_away(bot: Site, platform: str) -> None:
    without_cards(bot, platform)
    bot.control.set_model_answer(WORDS, before=30)
    question = ask(bot, platform)
    eventually(lambda: signs_of(bot, question))
    # The note of it follows the platform's answer.
    eventually(lambda: list(bot.queue().client.scan_iter("clawdbot:sent:*:sign")))
    kill_workers(bot)
    bot.control.set_model_answer(WORDS, before=1)
    run_workers(bot)
    assert answers(bot, question) == [WORDS]
    eventually(lambda: signs_of(bot, question)[1:] == [""])


def without_cards(bot: Site, platform: str) -> None:
    bot.queue().client.set(off_key(platform), "refused", ex=600)


def kill_workers(bot: Site) -> None:
    for name in ("worker-a", "worker-b"):
        bot.kill(name)


def run_workers(bot: Site) -> None:
    for name in ("worker-a", "worker-b"):
        bot.run(name)


@BOTH
def test_updates_that_fail_do_not_hurt(bot: Site, platform: str) -> None:
    endpoint = {"feishu": "feishu.update_card", "dingtalk": "dingtalk.stream_card"}[platform]
    bot.control.add_fault(endpoint, "server_error", count=2)
    bot.control.set_model_answer(WORDS, before=0.6, pace=PACE)
    question = ask(bot, platform)
    assert answers(bot, question) == [WORDS]
    assert not open_cards(bot)


@BOTH
@pytest.mark.parametrize("kind", ["server_error", "drop", "drop_after", "rate_limit"])
def test_the_end_comes_in_spite_of_faults(bot: Site, platform: str, kind: Any) -> None:
    endpoint = {"feishu": "feishu.replace_card", "dingtalk": "dingtalk.stream_card"}[platform]
    bot.control.set_model_answer(WORDS, before=1)
    question = ask(bot, platform)
    eventually(lambda: shown(bot, question))
    bot.control.add_fault(endpoint, kind, count=1)
    assert answers(bot, question) == [WORDS]
    assert not open_cards(bot)
    assert len(bot.control.records(kind="model")) == 1


def test_a_card_that_cannot_be_mended_is_followed_by_a_message(bot: Site) -> None:
    gone = {"code": 200740, "msg": "The card entity does not exist"}
    bot.control.set_model_answer(WORDS, before=1)
    question = ask(bot)
    eventually(lambda: shown(bot, question))
    bot.control.add_fault("feishu.replace_card", "error", status=400, body=gone)
    assert answers(bot, question) == [WORDS]
    assert bot.control.messages()[0].endpoint == "feishu.reply"


def test_a_card_that_does_not_take_the_answer_says_where_it_is(bot: Site) -> None:
    too_large = {"code": 200860, "msg": "Card content exceeds limit."}
    bot.control.set_model_answer(WORDS, before=1)
    question = ask(bot)
    eventually(lambda: shown(bot, question))
    bot.control.add_fault("feishu.replace_card", "error", count=1, status=400, body=too_large)
    eventually(lambda: len(bot.control.messages()) == 2)
    assert [record.text for record in bot.control.messages()] == [texts.BELOW, WORDS]
    assert not open_cards(bot)


def test_near_the_quota_answers_are_messages(bot: Site) -> None:
    client = bot.queue().client
    name = calls.month_key("dingtalk")
    client.set(name, 91_000)
    reconfigure(bot, monthly_calls=100_000)
    try:
        bot.control.set_model_answer(WORDS, before=0.6)
        assert answers(bot, ask(bot, "dingtalk")) == [WORDS]
        assert not bot.control.cards()
        assert int(str(client.get(name))) == 91_001, "what an answer costs is counted"
        assert "91001 of 100000 calls of this month are made" in bot.check()
        client.set(name, 80_000)
        question = ask(bot, "dingtalk")
        assert answers(bot, question) == [WORDS]
        assert card(bot, question)["text"] == WORDS
    finally:
        reconfigure(bot)


# Quotes and mentions


@BOTH
def test_what_grew_on_a_card_can_be_asked_about(bot: Site, platform: str) -> None:
    """In a group, where no permission to read everybody's messages is given."""
    if platform == "feishu":
        bot.control.add_fault("feishu.message", "error", status=400, body={"code": 230027, "msg": "no permission"})
    bot.control.set_model_answer(WORDS, before=0.6)
    question = ask(bot, platform, group="team")
    assert answers(bot, question) == [WORDS]
    [said] = bot.control.messages()
    bot.control.set_model_answer("Because.")
    ask(bot, platform, "why?", group="team", quotes=said)
    eventually(lambda: bot.control.messages()[1:])
    assert bot.control.records(kind="model")[-1].text == f"> {WORDS}\n\nwhy?"


def test_a_card_that_nobody_remembers_is_looked_up(bot: Site) -> None:
    bot.control.set_model_answer(WORDS, before=0.6)
    question = ask(bot)
    assert answers(bot, question) == [WORDS]
    [said] = bot.control.messages()
    client = bot.queue().client
    for name in client.scan_iter("clawdbot:cache:said:*"):
        client.delete(name)
    second = ask(bot, "feishu", "why?", quotes=said)
    answers(bot, second)
    assert bot.control.records(kind="model")[-1].text == f"> {WORDS}\n\nwhy?"
    assert bot.control.records(kind="lookup", endpoint="feishu.message")


@BOTH
def test_a_quoted_picture_is_seen(bot: Site, platform: str) -> None:
    users = DingTalk(bot.config) if platform == "dingtalk" else Feishu(bot.config)
    picture = users.picture("Ann", "pic") if isinstance(users, DingTalk) else users.image("Ann", "pic")
    bot.control.keep(picture)
    answers(bot, ask(bot, platform, "what is it?", group="team", quotes=picture))
    [asked] = bot.control.records(kind="model")
    assert asked.text == "> (picture)\n\nwhat is it?"
    assert len(asked.detail["images"]) == 1


@BOTH
def test_a_card_mentions_who_asked_where_that_is_the_rule(bot: Site, platform: str) -> None:
    rules = bot.folder / "config/bot.yaml"
    rules.write_text("everybody: {mention: true}\n", "utf-8")
    time.sleep(LOOK_SECONDS + 0.5)
    try:
        bot.control.set_model_answer(WORDS, before=0.6, pace=PACE)
        question = ask(bot, platform, group="team")
        assert answers(bot, question) == [WORDS]
        asker = (dingtalk_user if platform == "dingtalk" else feishu_user)(question.user)
        assert {record.detail["asker"] for record in shown(bot, question)} == {asker}
        alone = ask(bot, platform)
        answers(bot, alone)
        assert {record.detail["asker"] for record in shown(bot, alone)} == {""}
    finally:
        rules.unlink()
        time.sleep(LOOK_SECONDS + 0.5)


# How the platforms say that the calls of the month are used up, and of what: asking for a token costs none.
USED_UP: dict[str, dict[str, Any]] = {
    "dingtalk": {"status": 403, "body": {"code": "Forbidden.AccessDenied.ApiCountLimitForOrg", "message": "no"}},
    "feishu": {"status": 429, "body": {"code": 99991403, "msg": "no"}},
}
COUNTED = {
    "dingtalk": ("deliver_card", "stream_card", "react", "batch_send"),
    "feishu": ("make_card", "react", "reply", "send", "user"),
}


@BOTH
def test_when_the_quota_is_used_up_nothing_is_lost(bot: Site, platform: str) -> None:
    """The answer waits among the dead letters, at once, and costs nothing when there are calls again."""
    for endpoint in COUNTED[platform]:
        bot.control.add_fault(f"{platform}.{endpoint}", "error", **USED_UP[platform])
    if platform == "dingtalk":
        bot.control.add_fault("dingtalk.session", "dead_session")
    bot.control.set_model_answer(WORDS, before=0.6)
    question = ask(bot, platform)
    [letter] = eventually(lambda: list(bot.queue().dead()))
    assert str(next(iter(USED_UP[platform]["body"].values()))) in letter.reason
    assert not bot.control.messages()
    bot.control.clear_faults()
    assert bot.queue().revive([letter]) == 1
    assert answers(bot, question) == [WORDS]
    assert len(bot.control.records(kind="model")) == 1


def test_a_session_of_dingtalk_takes_answers_that_the_quota_does_not(bot: Site) -> None:
    for endpoint in COUNTED["dingtalk"]:
        bot.control.add_fault(f"dingtalk.{endpoint}", "error", **USED_UP["dingtalk"])
    bot.control.set_model_answer(WORDS, before=0.6)
    assert answers(bot, ask(bot, "dingtalk")) == [WORDS]
    assert not bot.control.cards()


# What it costs


@BOTH
def test_an_answer_costs_few_calls(bot: Site, platform: str) -> None:
    bot.control.set_model_answer(" ".join(str(each) for each in range(80)), before=0.5, pace=0.1)
    question = ask(bot, platform)
    eventually(lambda: bot.control.messages(conversation=question.conversation))
    states = len(shown(bot, question))
    assert states <= {"dingtalk": CALLS, "feishu": 12}[platform]
    eventually(lambda: f'clawdbot_answer_platform_calls_count{{platform="{platform}"}}' in metrics(bot))
    key = f"{platform}:{question.message_id}"
    [line] = eventually(lambda: [each for each in bot.log("error") if each.get("message_key") == key])
    print(f"{platform}: an answer of eight seconds costs {line['platform_calls']} calls, {states} of them on the card")
    # Besides: the card itself, the user's name, and a token, since the one before was made void.
    assert states <= int(str(line["platform_calls"])) <= states + 4


@BOTH
@INTAKES
@pytest.mark.soak
def test_the_first_sign_and_the_first_words_come_soon(bot: Site, platform: str, intake: str) -> None:
    """Of twenty answers one after the other; the model is silent for two seconds."""
    signs_after, words_after = [], []
    for _ in range(20):
        bot.control.set_model_answer(WORDS, before=2.0, pace=PACE)
        began = time.time()
        question = ask(bot, platform, intake=intake)
        sign, words = eventually(partial(first_two, bot, question))
        [asked] = bot.control.records(kind="model")[-1:]
        signs_after.append(sign.time - began)
        words_after.append(words.time - asked.time - 2.0)
        assert answers(bot, question) == [WORDS]
        bot.control.reset()
    print(f"{platform}, {intake}: a sign after {summary(signs_after)}")
    print(f"words after the model's first {summary(words_after)}")
    assert sorted(signs_after)[18] < 1.0
    assert sorted(words_after)[18] < 0.5


def first_two(bot: Site, question: Question) -> list[Record]:
    found = shown(bot, question)
    return found[:2] if found[1:] else []


def summary(seconds: list[float]) -> str:
    found = sorted(seconds)
    return f"P50 {found[len(found) // 2]:.2f} s, P95 {found[len(found) * 95 // 100 - 1]:.2f} s"


def test_all_workers_together_keep_to_the_limit(bot: Site) -> None:
    """Thirty answers grow at once on two workers; what a card misses is in its next state, and nothing is lost."""
    bot.control.set_model_answer(WORDS, before=0.5, pace=0.4)
    questions = [ask(bot, "dingtalk") for _ in range(30)]
    for question in questions:
        assert answers(bot, question) == [WORDS]
    assert len(bot.control.messages()) == 30
    updates = [r.time for r in bot.control.records(kind="card") if r.detail["growing"] and r.text != texts.THINKING]
    print(f"{len(updates)} updates of 30 cards in {updates[-1] - updates[0]:.1f} s")
    for at, first in enumerate(updates):
        within = sum(1 for each in updates[at:] if each < first + 2.0)
        assert within <= UPDATE_RATE.burst + 2.5 * UPDATE_RATE.per_second, "of two seconds, and what was on its way"
    assert not open_cards(bot)


def test_pauses_grow() -> None:
    pace = Pace(first=0.5, factor=2.0, longest=5.0)
    assert [pace.seconds(number) for number in (1, 2, 3, 4, 5, 10_000)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


# Workers that die


@BOTH
@pytest.mark.parametrize("after", [0.0, 1.0], ids=str)
def test_who_takes_over_finishes_the_same_card(bot: Site, platform: str, after: float) -> None:
    """Both workers are killed while the answer grows: the one that comes has a card to finish, and makes no other."""
    bot.control.set_model_answer(WORDS, before=0.5, pace=0.8)
    question = ask(bot, platform)
    eventually(lambda: shown(bot, question))
    time.sleep(after)
    kill_workers(bot)
    [left] = open_cards(bot)
    bot.control.set_model_answer("Another answer.", before=1.0)
    run_workers(bot)
    assert answers(bot, question) == ["Another answer."]
    assert card(bot, question)["id"] == left["id"]
    assert not open_cards(bot)


@BOTH
def test_who_takes_over_a_card_that_nobody_has_seen_yet(bot: Site, platform: str) -> None:
    """Killed while the card is sent: it is there or not, and is there once in the end."""
    endpoint = {"feishu": "feishu.reply", "dingtalk": "dingtalk.deliver_card"}[platform]
    fault = bot.control.add_fault(endpoint, "slow", seconds=3, count=1)
    bot.control.set_model_answer(WORDS, before=20)
    question = ask(bot, platform)
    eventually(lambda: [each for each in bot.control.faults() if each.id == fault.id and each.hits])
    kill_workers(bot)
    bot.control.set_model_answer(WORDS, before=1)
    run_workers(bot)
    assert answers(bot, question) == [WORDS]
    assert card(bot, question)["text"] == WORDS


@INTAKES
@pytest.mark.soak
def test_killed_at_any_moment_of_growing(tmp_path: Path, intake: str) -> None:
    """Each answer grows for two seconds, and a worker is killed every two: none is open in the end, none doubled.

    Over connections receivers are killed, and all connections cut, in between.
    """
    plan = Plan(rate=6, duration=30, duplicates=0.2, retries=RETRIES, timeout=5.0, settle=180.0)
    kills = [
        (2.0 + 2.5 * number + secrets.randbelow(1000) / 1000, f"worker-{'ab'[number % 2]}") for number in range(10)
    ]
    over_connections = intake == "connection"
    if over_connections:
        others = ("receiver-a", "cut", "receiver-b", "cut") * 2
        kills = sorted([*kills, *((3.5 + 3.0 * number, victim) for number, victim in enumerate(others))])
    with site(tmp_path, APP, {"card_calls": CALLS, **STREAM}, None, CONNECTION) as bot:
        if over_connections:
            for name in ("receiver-a", "receiver-b"):
                bot.run(name)
            connected(bot, 2)
        bot.control.set_model_answer(None, before=0.5, pace=0.7)
        report = under_load(bot, plan, kills, callbacks=not over_connections)
        assert_kept(report, bot)
        assert not open_cards(bot)
        cards = bot.control.cards()
        print(f"{intake}: {len(cards)} of {report.messages} answers on cards")
        assert len(cards) > report.messages / 2


def test_nothing_is_left_in_redis(bot: Site) -> None:
    bot.control.set_model_answer(WORDS, before=0.6)
    assert answers(bot, ask(bot)) == [WORDS]
    client = bot.queue().client
    eventually(lambda: not list(client.scan_iter("clawdbot:sent:*")))


def reconfigure(bot: Site, **dingtalk: Any) -> None:
    bot.configure(**dingtalk)
    for name in ("worker-a", "worker-b"):
        bot.terminate(name)
        bot.run(name)


def metrics(bot: Site) -> str:
    return requests.get(f"{bot.url}/metrics", timeout=5).text
