"""``bot.yaml``: how the bot speaks, to whom, with which models and at what price. The most specific rule wins."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from clawdbot.config import rules
from clawdbot.config.reader import Problem, Reader
from clawdbot.config.settings import ModelConfig
from clawdbot.models import prompt

FILE = "bot.yaml"
# The model that the environment describes.
MAIN = "main"
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
# Keys of a model, as the environment calls them without MODEL_; the instruction belongs to the voice.
MODEL_KEYS = {name.removeprefix("MODEL_").lower(): name for name in rules.model_variables()}
NOT_OF_A_MODEL = {"system_prompt"}
LIMITS = ("tokens_per_day", "tokens_per_month", "cost_per_day", "cost_per_month")
MOST = 1_000_000_000
SESSIONS = ("group", "person")
PLATFORMS = ("dingtalk", "feishu")
# Where rules stand, the weakest first.
EVERYBODY = "everybody"


@dataclasses.dataclass(frozen=True, slots=True)
class Voice:
    """What holds for somebody who writes.

    Attributes:
        bot_name: how the bot is called, for the instruction's ``{bot}``.
        greeting: what comes before the first answer that somebody gets.
        system_prompt: instruction to the model; empty: that of the environment.
        temperature: None: that of the model.
        models: who is asked, one after the other until there is an answer.
        picture_models: the same for questions with pictures; empty: ``models``.
        long_models: the same for long questions; empty: ``models``.
        long_characters: what is a long question.
        next_after: seconds without a first word after which the next model is asked.
        choose: models of which people may choose with /model.
        may_write: whether the bot answers at all.
        messages_per_minute: of one person; 0: that of the environment.
        session: ``group``: all members have one history and one order; ``person``: each has their own.
        mention: whether an answer in a group mentions who asked.
        person_limits: what one person may use, by the names of `LIMITS`.
        group_limits: what all of a group may use together.
    """

    bot_name: str = ""
    greeting: str = ""
    system_prompt: str = ""
    temperature: float | None = None
    models: tuple[str, ...] = (MAIN,)
    picture_models: tuple[str, ...] = ()
    long_models: tuple[str, ...] = ()
    long_characters: int = 6000
    next_after: int = 20
    choose: tuple[str, ...] = ()
    may_write: bool = True
    messages_per_minute: int = 0
    session: str = "group"
    mention: bool = False
    person_limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
    group_limits: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in the currency of the file."""

    input: float
    output: float


@dataclasses.dataclass(frozen=True, slots=True)
class Ruled:
    """A setting of somebody, and where it is written; ``where`` is empty for a default."""

    name: str
    value: object
    where: str


@dataclasses.dataclass(frozen=True, slots=True)
class BotFile:
    """The file.

    Attributes:
        models: by name, besides `MAIN`.
        rules: the settings of voices that are written there, by section and id.
        prices: by the model's name.
        currency: of the prices.
    """

    models: Mapping[str, ModelConfig] = dataclasses.field(default_factory=dict)
    rules: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    prices: Mapping[str, Price] = dataclasses.field(default_factory=dict)
    currency: str = "CNY"

    def voice(self, platform: str, conversation: str, sender: str) -> Voice:
        """Return what holds for ``sender`` in ``conversation``."""
        return Voice(**{ruled.name: ruled.value for ruled in self.explain(platform, conversation, sender)})  # type: ignore[arg-type]  # checked when they were read

    def explain(self, platform: str, conversation: str, sender: str) -> list[Ruled]:
        """Return every setting of a voice, and which rule it comes from."""
        default = Voice()
        found = {name: Ruled(name, getattr(default, name), "") for name in Voice.__slots__}
        for where in (EVERYBODY, f"platforms.{platform}", f"groups.{conversation}", f"people.{sender}"):
            for name, value in self.rules.get(where, {}).items():
                found[name] = Ruled(name, value, where)
        return list(found.values())

    def secrets(self) -> Iterator[str]:
        """The keys of the models."""
        for model in self.models.values():
            yield from (model.api_key, model.api_secret)


def read(place: str, values: Mapping[str, Any]) -> tuple[BotFile, list[Problem]]:
    """Make it of ``values``; ``place`` is how people call the file."""
    reader = Reader(place, values)
    models = {name: _model(reader, name, of) for name, of in _sections(reader, "models", MODEL_NAME)}
    if MAIN in models:
        reader.problem(f"models.{MAIN}", "is the model of clawdbot.env; choose another name")
    names = {MAIN, *models}
    rules_found = {}
    everybody = reader.take(EVERYBODY, {})
    sections = [(EVERYBODY, everybody)] if isinstance(everybody, dict) else []
    if not sections:
        reader.problem(EVERYBODY, "must be settings such as {bot_name: Xiaobai}")
    for section in ("platforms", "groups", "people"):
        sections += [(f"{section}.{name}", of) for name, of in _sections(reader, section)]
    for where, of in sections:
        if where.startswith("platforms.") and where.removeprefix("platforms.") not in PLATFORMS:
            reader.problem(where, f"is no platform; there are {', '.join(PLATFORMS)}")
        rules_found[where] = _rule(reader, where, of, names)
    prices = {name: _price(reader, name, of) for name, of in _sections(reader, "prices")}
    for name in prices.keys() - names:
        reader.problem(f"prices.{name}", f"is no model; there are {', '.join(sorted(names))}")
    currency = reader.text("currency", "give its code, such as CNY", default="CNY")
    reader.unknown()
    return BotFile(models, rules_found, prices, currency), reader.problems


def _sections(reader: Reader, key: str, pattern: re.Pattern[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    found = reader.take(key, {})
    if not isinstance(found, dict):
        reader.problem(key, "must have names, and settings below them")
        return
    for name, values in found.items():
        if not isinstance(name, str) or (pattern and not pattern.fullmatch(name)):
            reader.problem(f"{key}.{name}", "is no name; write it in quotes, of models in lower case")
        elif not isinstance(values, dict):
            reader.problem(f"{key}.{name}", "must have settings below it")
        else:
            yield name, values


def _inner(reader: Reader, where: str, values: Mapping[str, Any]) -> Reader:
    inner = Reader(f"{reader.place}: {where}", values)
    inner.problems = reader.problems
    return inner


def _model(reader: Reader, name: str, values: Mapping[str, Any]) -> ModelConfig:
    """A model is read by the rules of the environment's."""
    where = f"models.{name}"
    given = {}
    for key, value in values.items():
        if key not in MODEL_KEYS or key in NOT_OF_A_MODEL:
            reader.problem(
                f"{where}.{key}", f"is not a known key; there are {', '.join(sorted(MODEL_KEYS))}", fatal=False
            )
            continue
        given[MODEL_KEYS[key]] = json.dumps(value) if isinstance(value, dict) else value
    inner = Reader(f"{reader.place}: {where}", given)
    if "type" not in values:
        reader.problem(f"{where}.type", "is missing; write the preset, such as deepseek")
    found = rules.model(inner)
    for problem in inner.problems:
        key = problem.key.removeprefix("MODEL_").lower()
        reader.problems.append(dataclasses.replace(problem, place=reader.place, key=f"{where}.{key}"))
    return found


def _rule(reader: Reader, where: str, values: Mapping[str, Any], models: set[str]) -> dict[str, Any]:
    inner = _inner(reader, where, values)
    default = Voice()
    voice = {
        "bot_name": inner.text("bot_name", "give a name", default=""),
        "greeting": inner.text("greeting", "give a text", default=""),
        "system_prompt": inner.text("system_prompt", "tell the model how to behave", default=""),
        "temperature": inner.decimal("temperature", 0, 2),
        **{key: _models(inner, key, models) for key in ("models", "picture_models", "long_models", "choose")},
        "long_characters": inner.number("long_characters", default.long_characters, 1, 1_000_000),
        "next_after": inner.number("next_after", default.next_after, 1, 3600),
        "may_write": inner.flag("may_write", default=True),
        "messages_per_minute": inner.number("messages_per_minute", 0, 0, 100_000),
        "session": inner.text("session", f"write {' or '.join(SESSIONS)}", default=default.session),
        "mention": inner.flag("mention", default=False),
        **{key: _limits(inner, key) for key in ("person_limits", "group_limits")},
    }
    if voice["session"] not in SESSIONS:
        inner.problem("session", f"must be {' or '.join(SESSIONS)}")
    if values.get("models") == []:
        inner.problem("models", "must name a model at least")
    for name in prompt.unknown_fields(str(voice["system_prompt"])):
        known = ", ".join(f"{{{field}}}" for field in prompt.FIELDS)
        inner.problem("system_prompt", f"{{{name}}} stays as it is; the fields are {known}", fatal=False)
    inner.unknown()
    # What is not written is inherited.
    return {key: value for key, value in voice.items() if values.get(key) is not None}


def _models(reader: Reader, key: str, known: set[str]) -> tuple[str, ...]:
    found = reader.take(key, [])
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        reader.problem(key, "must be a list of models")
        return ()
    for name in found:
        if name not in known:
            reader.problem(key, f"{name!r} is no model; there are {', '.join(sorted(known))}")
    return tuple(dict.fromkeys(found))


def _limits(reader: Reader, key: str) -> dict[str, float]:
    values = reader.take(key, {})
    if not isinstance(values, dict):
        reader.problem(key, f"must be limits such as {{{LIMITS[0]}: 100000}}")
        return {}
    inner = _inner(reader, key, values)
    found = {name: inner.decimal(name, 0, MOST) for name in LIMITS}
    inner.unknown()
    return {name: value for name, value in found.items() if value is not None}


def _price(reader: Reader, name: str, values: Mapping[str, Any]) -> Price:
    inner = _inner(reader, f"prices.{name}", values)
    found = [inner.decimal(key, 0, MOST) or 0.0 for key in ("input", "output")]
    inner.unknown()
    return Price(*found)
