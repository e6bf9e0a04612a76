"""Every setting that the bot reads can be set with its role, and what the role sets is read by the bot."""

import datetime
import importlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rendering
import yaml

ROOT = Path(__file__).resolve().parents[1]
ROLE = ROOT / "roles/clawdbot"
FILES = ("clawdbot.env", "service.env", "dingtalk.yaml", "feishu.js", "cache.yaml", "bot.yaml")
# Set for the scripts around the bot and for the library of its metrics.
NOT_THE_BOTS = {"CLAWDBOT_RUNTIME", "PROMETHEUS_MULTIPROC_DIR"}
AWKWARD = 'it\'s "so": $HOME `x` 你好 \\n\nand a second line'
# What takes more than any text.
VALUES: dict[str, Any] = {
    "clawdbot_model_type": "glm",
    "clawdbot_model_vision": True,
    "clawdbot_model_system_prompt": f"You are {{name}}'s helper.\n{AWKWARD}",
    "clawdbot_model_temperature": 0.5,
    "clawdbot_model_extra_fields": {"enable_thinking": False, "stop": ["it's"], "drop": None},
    "clawdbot_model_base_url": "http://127.0.0.1:8000/v1",
    "clawdbot_model_api_key_expires_at": "2027-01-31",
    "clawdbot_dingtalk_aes_key": "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG",
    "clawdbot_dingtalk_allow_users": ["alice", "它's"],
    "clawdbot_dingtalk_allow_conversations": ["cid1"],
    "clawdbot_dingtalk_card_calls": 10,
    "clawdbot_dingtalk_intake": "stream",
    "clawdbot_feishu_intake": "connection",
    "clawdbot_feishu_allow_users": ["ou_1"],
    "clawdbot_feishu_allow_conversations": ["oc_1"],
    "clawdbot_alerts_former": {"token": "it's old", "until": datetime.date(2199, 1, 31)},
    "clawdbot_dingtalk_former": {
        "app_secret": "it's old",
        "aes_key": "GFEDCBA9876543210zyxwvutsrqponmlkjihgfedcba",
        "token": "它",
        "until": "2199-01-31",
    },
    "clawdbot_feishu_former": {
        "app_secret": "it's old",
        "encryption_key": "它",
        "verification_token": "old",
        # As YAML reads it without quotes.
        "until": datetime.date(2199, 1, 31),
    },
    "clawdbot_languages": ["en", "zh"],
    "clawdbot_chat_languages": {"oc_1": ["en"], "它's": ["zh", "en"]},
    "clawdbot_link": {
        "site": "shanghai",
        "other_site": "beijing",
        "other_redis": "[2001:db8::1]:7380",
        "certificate": "PEM",
        "key": "PEM",
    },
    "clawdbot_rules": {
        "models": {"big": {"type": "qwen", "api_key": "sk-1", "extra_fields": {"stop": ["它's"]}}},
        "everybody": {"greeting": "你好：# it's\nme", "models": ["main", "big"]},
        "groups": {"oc_1": {"may_write": False, "temperature": 0.5}},
        "prices": {"big": {"input": 1, "output": 2.5}},
    },
    "clawdbot_extra_environment": {"HTTPS_PROXY": "http://user:p%40ss@proxy:3128", "NOTE": AWKWARD, "NUMBER": 5},
}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The bot's package `config`, which needs nothing that the controller lacks."""
    monkeypatch.syspath_prepend(str(ROOT / "app"))
    yield importlib.import_module("clawdbot.config")
    for name in [name for name in sys.modules if name.partition(".")[0] == "clawdbot"]:
        del sys.modules[name]


def defaults() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROLE / "defaults/main.yml").read_text("utf-8"))
    return values


def everything_set() -> dict[str, Any]:
    """Each variable of the role with a value that is not its default."""
    found = {}
    for name, value in defaults().items():
        if name in VALUES:
            found[name] = VALUES[name]
        elif isinstance(value, bool):
            found[name] = not value
        elif isinstance(value, int):
            found[name] = value + 1
        elif isinstance(value, str):
            found[name] = f"https://{name}.example.com" if name.endswith("_url") else value or name
    return found


def render(folder: Path, **variables: Any) -> None:
    """Write the six files as the role does."""
    folder.mkdir(exist_ok=True)
    for name in FILES:
        (folder / name).write_text(rendering.render("clawdbot", name, **variables), "utf-8")


def environment(folder: Path) -> dict[str, str]:
    """What a shell makes of the two environment files."""
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    script = f'set -a; . "$0/service.env"; . "$0/clawdbot.env"; exec {sys.executable} -c "{program}"'
    done = subprocess.run(["sh", "-c", script, str(folder)], env={}, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return {name: value for name, value in found.items() if name not in {"PWD", "LC_CTYPE"}}


def named_in_the_sources() -> set[str]:
    """Variables whose names stand in the bot's code, but for what the unit hands over and knows alone."""
    sources = [*(ROOT / "app/clawdbot").rglob("*.py"), ROOT / "app/gunicorn.conf.py"]
    name = re.compile(r"[\"'`]((?:CLAWDBOT|MODEL)_[A-Z_]+[A-Z])[\"'`]")
    named = {found for path in sources for found in name.findall(path.read_text("utf-8"))}
    return named - NOT_THE_BOTS - {"CLAWDBOT_LISTENER"}


def test_what_the_bot_reads_is_what_the_role_sets(app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text("utf-8"))["argument_specs"]["main"]["options"]
    read: defaultdict[str, set[str]] = defaultdict(set)
    take = app.reader.Reader.take

    def recording(reader: Any, key: str, *rest: Any) -> Any:
        block = key == "until" or "until" in reader.values
        read[Path(reader.place).name + (" former" if block else "")].add(key)
        return take(reader, key, *rest)

    monkeypatch.setattr(app.reader.Reader, "take", recording)
    render(tmp_path, **everything_set())
    variables = environment(tmp_path)
    variables["CLAWDBOT_CONFIG_DIR"] = str(tmp_path)
    settings = app.load(variables)
    assert [str(problem) for problem in settings.problems] == []

    extra = set(VALUES["clawdbot_extra_environment"])
    environment_read = read.pop("environment (clawdbot.env)")
    assert set(variables) - extra - NOT_THE_BOTS == environment_read
    assert named_in_the_sources() <= environment_read, "read behind the configuration's back"
    for name, part in (("dingtalk.yaml", "dingtalk"), ("feishu.js", "feishu")):
        former = f"clawdbot_{part}_former"
        assert read.pop(f"{name} former") == set(options[former]["options"]) == set(VALUES[former])
    read = defaultdict(set, {name: keys for name, keys in read.items() if not name.startswith("bot.yaml")})
    for name, keys in read.items():
        text = (tmp_path / name).read_text("utf-8")
        # Of Redis there is one server, or several, see below; `primary` is the same name everywhere.
        assert set(re.findall(r"(?m)^ *(\w+): ", text)) == keys - {"servers", "sentinels", "primary"}, name

    end = datetime.datetime(2199, 2, 1, tzinfo=datetime.UTC).timestamp()
    for part, former in settings.former().items():
        given = VALUES[f"clawdbot_{part}_former"]
        assert (former.values, former.until) == ({name: given[name] for name in given if name != "until"}, end)
    assert set(settings.former()) == {"alerts", "dingtalk", "feishu"}
    assert settings.model.vision is True
    assert settings.model.stream is False
    assert settings.model.system_prompt == VALUES["clawdbot_model_system_prompt"]
    assert settings.model.extra_fields == VALUES["clawdbot_model_extra_fields"]
    assert (settings.model.temperature, settings.model.max_tokens, settings.model.total_seconds) == (0.5, 1, 301)
    assert settings.dingtalk.access.users == ("alice", "它's")
    assert settings.dingtalk.access.conversations == ("cid1",)
    assert (settings.dingtalk.card_calls, settings.feishu.cards, settings.model.show_reasoning) == (10, False, True)
    assert settings.connected() == ["dingtalk", "feishu"]
    assert settings.feishu.access.users == ("ou_1",)
    assert settings.feishu.access.conversations == ("oc_1",)
    voice = settings.bot.voice("feishu", "oc_1", "ou_1")
    assert (voice.greeting, voice.models, voice.may_write) == ("你好：# it's\nme", ("main", "big"), False)
    assert settings.bot.models["big"].extra_fields == {"stop": ["它's"]}
    assert (settings.bot.models["big"].api_key, settings.bot.prices["big"].output) == ("sk-1", 2.5)
    chats = ("elsewhere", "oc_1", "它's")
    spoken = [[language.code for language in settings.languages_of(chat)] for chat in chats]
    assert spoken == [["en", "zh"], ["en"], ["zh", "en"]]
    assert variables["NOTE"] == AWKWARD
    assert variables["NUMBER"] == "5"


def test_the_bot_knows_the_servers_of_redis_that_the_role_is_given(app: Any, tmp_path: Path) -> None:
    servers, sentinels = ["10.0.0.1:6379", "10.0.0.2:6379"], ["10.0.0.1:26379"]
    given = {"clawdbot_redis_servers": servers, "clawdbot_redis_sentinels": sentinels, "clawdbot_redis_tls": False}
    render(tmp_path, **(everything_set() | given))
    settings = app.load(environment(tmp_path) | {"CLAWDBOT_CONFIG_DIR": str(tmp_path)})
    assert [str(problem) for problem in settings.problems] == []
    told = (
        [f"{host}:{port}" for host, port in settings.redis.servers],
        [f"{host}:{port}" for host, port in settings.redis.sentinels],
    )
    assert told == (servers, sentinels)


def test_the_rules_of_the_documentation_are_sound(app: Any) -> None:
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/rules.md").read_text("utf-8"), re.DOTALL)
    assert block
    rules = yaml.safe_load(block[1].replace('"{{ vault_', '"').replace(' }}"', '"'))["clawdbot_rules"]
    voices = importlib.import_module("clawdbot.config.voices")
    found, problems = voices.read("bot.yaml", rules)
    assert [str(problem) for problem in problems] == []
    assert found.voice("feishu", "oc_1234", "ou_5678").models == ("wiki",)
    assert app


def test_by_default_everybody_is_let_in(app: Any, tmp_path: Path) -> None:
    render(tmp_path, clawdbot_feishu_app_id="cli_1")
    assert "allow" not in (tmp_path / "feishu.js").read_text("utf-8")
    assert app.load({"CLAWDBOT_CONFIG_DIR": str(tmp_path)}).alerts.token == ""


def test_role_and_bot_agree_on_the_languages_where_nothing_is_said(app: Any, tmp_path: Path) -> None:
    render(tmp_path, clawdbot_feishu_app_id="cli_1")
    here = {"CLAWDBOT_CONFIG_DIR": str(tmp_path)}
    with_role, without = app.load(environment(tmp_path) | here), app.load(here)
    assert with_role.languages == without.languages
    assert with_role.chat_languages == without.chat_languages == {}
