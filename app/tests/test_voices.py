"""``bot.yaml``: what it may say, whose rule wins, and that a change counts without a restart."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from clawdbot import cli, texts
from clawdbot.config import Settings, bot_file, load, voices
from clawdbot.config import live as live_module
from clawdbot.config.live import Live
from clawdbot.config.voices import BotFile
from clawdbot.errors import Final, Retry
from clawdbot.message import Message
from clawdbot.sent import Mark

from .conftest import Bot, dingtalk_body, eventually
from .test_worker import Rig, model_of, quick, rig, running, talk

__all__ = ["quick", "rig"]  # fixtures

KEY = "sk-of-the-second-model"
DATA: dict[str, Any] = {
    "models": {
        "big": {"type": "qwen", "api_key": KEY, "name": "qwen-big", "vision": True, "first_token_seconds": 30},
        "small": {"type": "ollama", "name": "small", "extra_fields": {"think": False}},
    },
    "everybody": {"bot_name": "Xiaobai", "models": ["main", "big"], "messages_per_minute": 20},
    "platforms": {"feishu": {"greeting": "Hello!", "messages_per_minute": 10}},
    "groups": {"oc_1": {"session": "person", "models": ["small"], "messages_per_minute": 5}},
    "people": {"ou_1": {"may_write": False, "messages_per_minute": 1}},
    "prices": {"main": {"input": 2, "output": 8}},
    "currency": "CNY",
}


def read(data: Mapping[str, Any]) -> tuple[BotFile, list[str]]:
    found, problems = voices.read("bot.yaml", data)
    return found, [str(problem) for problem in problems]


def test_the_most_specific_rule_wins() -> None:
    found, problems = read(DATA)
    assert problems == []
    ruled = {each.name: (each.value, each.where) for each in found.explain("feishu", "oc_1", "ou_1")}
    assert ruled["messages_per_minute"] == (1, "people.ou_1")
    assert ruled["may_write"] == (False, "people.ou_1")
    assert ruled["models"] == (("small",), "groups.oc_1")
    assert ruled["greeting"] == ("Hello!", "platforms.feishu")
    assert ruled["bot_name"] == ("Xiaobai", "everybody")
    assert ruled["mention"] == (False, "")
    assert found.voice("feishu", "oc_1", "ou_2").messages_per_minute == 5
    assert found.voice("feishu", "oc_2", "ou_2").messages_per_minute == 10
    assert found.voice("dingtalk", "cid", "staff").messages_per_minute == 20
    assert found.voice("dingtalk", "cid", "staff").models == ("main", "big")
    assert BotFile().voice("dingtalk", "cid", "staff") == voices.Voice()


def test_models_are_read_by_the_rules_of_the_environment() -> None:
    found, _ = read(DATA)
    big, small = found.models["big"], found.models["small"]
    assert (big.model, big.vision, big.first_token_seconds) == ("qwen-big", True, 30)
    assert big.base_url.startswith("https://dashscope")
    assert small.extra_fields == {"think": False}
    assert KEY in set(found.secrets())
    assert KEY not in repr(found)


@pytest.mark.parametrize(
    ("data", "place", "cure"),
    [
        ({"models": {"big": {"type": "qwen"}}}, "models.big.api_key", "needs the key"),
        ({"models": {"big": {"name": "x"}}}, "models.big.type", "is missing"),
        ({"models": {"big": {"type": "nobody"}}}, "models.big.type", "is not a preset"),
        ({"models": {"Big One": {"type": "echo"}}}, "models.Big One", "is no name"),
        ({"models": {"main": {"type": "echo"}}}, "models.main", "choose another name"),
        ({"models": {"a": {"type": "echo", "temperature": 3}}}, "models.a.temperature", "from 0 to 2"),
        ({"models": ["a"]}, "models", "must have names"),
        ({"everybody": {"models": ["nobody"]}}, "models", "'nobody' is no model; there are main"),
        ({"everybody": {"models": []}}, "models", "must name a model"),
        ({"everybody": {"models": "main"}}, "models", "must be a list"),
        ({"everybody": ["x"]}, "everybody", "must be settings"),
        ({"groups": {"oc_1": {"session": "nobody"}}}, "groups.oc_1: session", "must be group or person"),
        ({"groups": {"oc_1": 7}}, "groups.oc_1", "must have settings"),
        ({"groups": {1: {}}}, "groups.1", "in quotes"),
        ({"people": {"ou_1": {"may_write": "no"}}}, "people.ou_1: may_write", "true or false"),
        ({"people": {"ou_1": {"person_limits": {"tokens_per_day": -1}}}}, "tokens_per_day", "from 0"),
        ({"platforms": {"icq": {}}}, "platforms.icq", "is no platform"),
        ({"prices": {"nobody": {"input": 1}}}, "prices.nobody", "is no model"),
        ({"everybody": {"temperature": "warm"}}, "temperature", "from 0 to 2"),
    ],
)
def test_what_is_not_sound(data: dict[Any, Any], place: str, cure: str) -> None:
    _, problems = voices.read("bot.yaml", data)
    [problem] = [problem for problem in problems if problem.fatal]
    assert place in str(problem)
    assert cure in str(problem)


@pytest.mark.parametrize(
    "data",
    [
        {"everybodi": {}},
        {"everybody": {"greting": "x"}},
        {"models": {"a": {"type": "echo", "api_kee": "x"}}},
        {"everybody": {"system_prompt": "Hi {nobody}"}},
        {"everybody": {"person_limits": {"tokens_a_day": 1}}},
    ],
)
def test_what_is_suspicious(data: dict[str, Any]) -> None:
    _, problems = voices.read("bot.yaml", data)
    assert problems
    assert not any(problem.fatal for problem in problems)


# Without a restart


def write(rig_or_path: Path, data: object) -> None:
    path = rig_or_path / "bot.yaml"
    partial = path.with_suffix(".new")
    partial.write_text(data if isinstance(data, str) else yaml.safe_dump(data, allow_unicode=True), "utf-8")
    partial.replace(path)


def test_a_change_counts_at_once_and_an_unsound_one_does_not(tmp_path: Path) -> None:
    now = [0.0]
    live = Live(tmp_path / "bot.yaml", BotFile(), lambda: now[0])

    def name() -> str:
        now[0] += live_module.LOOK_SECONDS + 1
        return live.now().voice("feishu", "c", "u").bot_name

    assert name() == ""
    write(tmp_path, {"everybody": {"bot_name": "A"}})
    assert live.now().voice("feishu", "c", "u").bot_name == "", "it is not looked at for every message"
    assert name() == "A"
    for broken in ("everybody: [", {"everybody": {"may_write": "no", "bot_name": "B"}}):
        write(tmp_path, broken)
        assert name() == "A"
    write(tmp_path, {"everybody": {"bot_name": "C"}})
    assert name() == "C"
    (tmp_path / "bot.yaml").unlink()
    assert name() == ""


def test_a_file_that_nobody_may_read_takes_no_rule_away(tmp_path: Path) -> None:
    now = [0.0]
    folder = tmp_path / "config"
    folder.mkdir()
    write(folder, {"everybody": {"bot_name": "A"}})
    found, problems = bot_file(folder / "bot.yaml")
    assert not problems
    live = Live(folder / "bot.yaml", found, lambda: now[0])
    # Root may read everything, but not through a file.
    folder.rename(tmp_path / "elsewhere")
    folder.write_text("no folder")
    now[0] += live_module.LOOK_SECONDS + 1
    assert live.now().voice("feishu", "c", "u").bot_name == "A"


def test_a_file_that_is_not_sound_keeps_the_bot_from_starting(environ: dict[str, str]) -> None:
    write(Path(environ["CLAWDBOT_CONFIG_DIR"]), {"people": {"ou_1": {"may_write": 1}}})
    [problem] = load(environ).problems
    assert problem.fatal
    assert "people.ou_1" in str(problem)


@pytest.fixture
def ruled(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(live_module, "LOOK_SECONDS", 0.0)
    return rig


def rule(rig: Rig, **data: Any) -> None:
    """Write the file; workers that run already take it up."""
    write(rig.settings.config_dir, data)
    time.sleep(0.01)
    # Whoever starts reads it, too.
    found, problems = voices.read("bot.yaml", data)
    assert not problems
    rig.settings = dataclasses.replace(rig.settings, bot=found)


def test_a_running_worker_takes_it_up(ruled: Rig) -> None:
    with running(ruled.worker()):
        ruled.say("one")
        ruled.idle()
        write(ruled.settings.config_dir, {"people": {"u": {"may_write": False}}})
        time.sleep(0.05)
        ruled.say("two")
        ruled.idle()
    assert ruled.answers() == ["one!", texts.NOT_ALLOWED]


def test_name_instruction_and_temperature_are_the_operators(ruled: Rig) -> None:
    rule(
        ruled,
        everybody={"bot_name": "Xiaobai", "system_prompt": "You are {bot}.", "temperature": 0.5},
        people={"boss": {"system_prompt": "Be {bot}, and brief."}},
    )
    talk(ruled, "hi")
    talk(ruled, "hi", sender="boss")
    assert [question.system for question in ruled.model.questions] == ["You are Xiaobai.", "Be Xiaobai, and brief."]
    assert ruled.model.questions[0].temperature == 0.5


def test_the_greeting_comes_once_and_with_help(ruled: Rig) -> None:
    rule(ruled, everybody={"greeting": "Welcome."})
    answers = talk(ruled, "one", "two", "/help")
    assert answers[:2] == ["Welcome.\n\none!", "two!"]
    assert answers[2].startswith("Welcome.\n\n")
    assert talk(ruled, "three", sender="another")[-1].startswith("Welcome.")


def test_limits_of_messages_are_those_of_the_person(ruled: Rig) -> None:
    rule(ruled, people={"u": {"messages_per_minute": 1}})
    assert talk(ruled, "one", "two") == ["one!", texts.SLOW_DOWN]
    assert talk(ruled, "one", "two", sender="another")[2:] == ["one!", "two!"]


def test_an_answer_in_a_group_mentions_who_asked_where_the_operator_wants_it(ruled: Rig) -> None:
    routes = []
    send = ruled.platform.send

    def look(message: Message, part: str, content: str, mark: Mark) -> None:
        routes.append(message.route.get("mention"))
        send(message, part, content, mark)

    ruled.platform.send = look  # type: ignore[method-assign]  # a fake's fake
    rule(ruled, groups={"g": {"mention": True}})
    talk(ruled, "word " * 100, conversation="g", group=True)
    talk(ruled, "hi", conversation="h", group=True)
    assert routes[0] is True
    assert len(routes) > 2
    assert not any(routes[1:])


# Models in a row


def big(rig: Rig, **voice: Any) -> None:
    rule(
        rig,
        models={
            "big": {"type": "vllm", "name": "big", "vision": True},
            "long": {"type": "vllm", "name": "long"},
        },
        everybody={"models": ["main", "big"], **voice},
    )


@pytest.mark.parametrize(
    "failure",
    [
        Retry("overloaded", apology=texts.BUSY),
        Final("quota", apology=texts.NO_QUOTA),
        Final("key", apology=texts.MISCONFIGURED),
        Final("too long", apology=texts.TOO_LONG),
    ],
)
def test_the_next_model_answers_when_one_cannot(ruled: Rig, failure: Exception) -> None:
    big(ruled, next_after=7)
    ruled.model.failures = [failure]
    assert talk(ruled, "one", "two") == ["one!", "two!"]
    assert [question.text for question in ruled.model.questions] == ["one", "two"]
    assert [question.text for question in ruled.others["big"].questions] == ["one"]
    assert ruled.model.questions[0].next_after == 7
    assert ruled.others["big"].questions[0].next_after == 0


def test_what_the_question_is_refused_for_it_is_refused_for_everywhere(ruled: Rig) -> None:
    big(ruled)
    ruled.model.failures = [Final("filtered", apology=texts.FILTERED)]
    assert talk(ruled, "bad") == [texts.FILTERED]
    assert "big" not in ruled.others


def test_when_all_fail_it_is_tried_again_if_one_may_recover(ruled: Rig) -> None:
    big(ruled)
    ruled.model.failures = [Final("quota", apology=texts.NO_QUOTA), Final("quota", apology=texts.NO_QUOTA)]
    ruled.others["big"] = type(ruled.model)()
    ruled.others["big"].failures = [Retry("overloaded")]
    assert talk(ruled, "one") == ["one!"]
    assert len(ruled.others["big"].questions) == 2


def test_pictures_and_long_texts_go_to_their_models(ruled: Rig) -> None:
    big(ruled, picture_models=["big"], long_models=["long"], long_characters=100)
    ruled.settings = dataclasses.replace(ruled.settings, model=dataclasses.replace(model_of(ruled), vision=False))
    ruled.platform.picture = PNG
    talk(ruled, "short", "x" * 101)
    talk(ruled, "what is it?", images=("a",))
    assert [question.text for question in ruled.model.questions] == ["short"]
    assert [question.text for question in ruled.others["long"].questions] == ["x" * 101]
    assert [len(question.pictures) for question in ruled.others["big"].questions] == [1]


def test_people_choose_where_they_may(ruled: Rig) -> None:
    assert talk(ruled, "/model") == [texts.MODEL_FIXED]
    big(ruled, models=["main"], choose=["main", "big"])
    answers = talk(ruled, "/model", "/model nobody", "/模型 BIG", "hello", "/model main", "again")
    assert answers[1:5] == [
        "main answers you here. To choose of: main, big",
        "There is no model nobody here. Choose of: main, big",
        "当前由 big 回答。可选：main, big",
        "hello!",
    ]
    assert [question.text for question in ruled.others["big"].questions] == ["hello"]
    assert [question.text for question in ruled.model.questions] == ["again"]
    talk(ruled, "mine", sender="another")
    assert len(ruled.model.questions) == 2, "the choice is one's own"
    assert texts.HELP_MODEL in "".join(talk(ruled, "how are you?", "/help", sender="another"))


# A history of one's own


def test_members_of_a_group_have_their_own_history_and_order(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "LOOK_SECONDS", 0.0)
    bot = Bot(settings)
    group = {"conversationType": "2", "conversationId": "cid-of-the-group"}

    def say(number: int, who: str) -> None:
        body = dingtalk_body(**group, msgId=f"m{number}", senderStaffId=who, senderId=who)
        assert bot.robot(body).status_code == 200

    say(1, "a")
    write(bot.settings.config_dir, {"groups": {"cid-of-the-group": {"session": "person"}}})
    time.sleep(0.01)
    say(2, "a")
    say(3, "b")
    found = {message.id: message.conversation_key for message in bot.queued()}
    assert found["m1"] == "dingtalk:cid-of-the-group"
    assert found["m2"].startswith("dingtalk:cid-of-the-group#")
    assert len({found["m1"], found["m2"], found["m3"]}) == 3


def test_a_slow_question_does_not_hold_back_the_others(ruled: Rig) -> None:
    ruled.model.gate.clear()
    ruled.say("slow", group=True, sender="a", lane="a", sender_name="Li")
    with running(ruled.worker()):
        eventually(lambda: ruled.model.questions)
        ruled.model.gate.set()
        ruled.say("quick", group=True, sender="b", lane="b", sender_name="Han")
        ruled.idle()
    ruled.say("and now?", group=True, sender="a", lane="a", sender_name="Li")
    ruled.settings = dataclasses.replace(
        ruled.settings,
        model=dataclasses.replace(
            model_of(ruled), preset=dataclasses.replace(model_of(ruled).preset, history_tokens=1000)
        ),
    )
    talk(ruled)
    assert all("quick" not in asked for asked, _ in ruled.model.questions[-1].history)


# From the command line


def test_explain_and_rules(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = Path(environ["CLAWDBOT_CONFIG_DIR"])
    write(folder, DATA)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["explain", "ou_1", "oc_1"]) == 0
    said = capsys.readouterr().out
    assert "platform: feishu" in said
    assert "messages_per_minute: 1  (people.ou_1)" in said
    assert "models: small  (groups.oc_1)" in said
    assert "mention: False  (default)" in said
    assert cli.main(["rules", str(folder / "bot.yaml")]) == 0
    write(tmp_path, {"people": {"ou_1": {"may_write": "x"}}})
    assert cli.main(["rules", str(tmp_path / "bot.yaml")]) == 1
    assert "true or false" in capsys.readouterr().out
    assert KEY not in said


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc00000030101"
    "00c9fe92ef0000000049454e44ae426082"
)
