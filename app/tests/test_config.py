"""Every mistake in the configuration is named with its place, its key and its cure."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from clawdbot import config
from clawdbot.config import files
from clawdbot.models.presets import presets


def change(environ: dict[str, str], file: str, **values: Any) -> None:
    path = Path(environ["CLAWDBOT_CONFIG_DIR"]) / file
    start = "module.exports = " if file.endswith(".js") else ""
    data = json.loads(path.read_text().removeprefix(start)) | values
    data = {key: value for key, value in data.items() if value is not ...}
    path.write_text(start + json.dumps(data))


def problems(environ: dict[str, str]) -> list[str]:
    return [str(problem) for problem in config.load(environ).problems]


def test_good_configuration(environ: dict[str, str]) -> None:
    settings = config.load(environ)
    assert settings.problems == ()
    assert settings.dingtalk
    assert settings.feishu
    assert settings.dingtalk.robot_code == settings.dingtalk.app_key
    assert settings.feishu.api_base_url == settings.feishu.webhook_url.partition("/open-apis")[0]
    assert settings.model
    assert settings.model.name == "echo"


def test_secrets_are_not_shown(environ: dict[str, str]) -> None:
    environ |= {"MODEL_TYPE": "gpt", "MODEL_API_KEY": "sk-very-secret", "CLAWDBOT_REDIS_PASSWORD": "hush-hush"}
    settings = config.load(environ | {"CLAWDBOT_ALERTS_TOKEN": "alerts-secret"})
    assert len(settings.secrets()) == 9
    assert not [secret for secret in settings.secrets() if secret in repr(settings)]


@pytest.mark.parametrize(
    ("file", "values", "key", "cure"),
    [
        ("dingtalk.yaml", {"app_key": "your_app_key"}, "app_key", "developer console"),
        ("dingtalk.yaml", {"app_secret": ...}, "app_secret", "is missing"),
        ("dingtalk.yaml", {"aes_key": "short"}, "aes_key", "exactly 43"),
        ("dingtalk.yaml", {"aes_key": "generated or given"}, "aes_key", "init_env.sh"),
        ("dingtalk.yaml", {"token": 12345}, "token", "in quotes"),
        ("dingtalk.yaml", {"webhook_url": "oapi.dingtalk.com"}, "webhook_url", "http(s) URL"),
        ("dingtalk.yaml", {"allow_users": "me"}, "allow_users", "list"),
        ("dingtalk.yaml", {"card_calls": 2}, "card_calls", "at least 3"),
        ("dingtalk.yaml", {"card_calls": "many"}, "card_calls", "whole number"),
        ("feishu.js", {"cards": "yes"}, "cards", "true or false"),
        ("feishu.js", {"monthly_calls": -1}, "monthly_calls", "whole number"),
        ("feishu.js", {"app_id": "your_app_id"}, "app_id", "developer console"),
        ("feishu.js", {"encryption_key": "32 random characters"}, "encryption_key", "placeholder"),
        ("feishu.js", {"verification_token": "your token"}, "verification_token", "placeholder"),
    ],
)
def test_mistake_switches_only_its_platform_off(
    environ: dict[str, str], file: str, values: dict[str, Any], key: str, cure: str
) -> None:
    change(environ, file, **values)
    settings = config.load(environ)
    found = [str(problem) for problem in settings.problems]
    assert any(file in line and f" {key}: " in line and cure in line for line in found), found
    off, on = ("dingtalk", "feishu") if file == "dingtalk.yaml" else ("feishu", "dingtalk")
    assert getattr(settings, off) is None
    assert getattr(settings, on)


def test_several_servers_of_redis_and_a_managed_one(environ: dict[str, str]) -> None:
    servers, sentinels = ["10.0.0.1:6379", "[fd00::2]:6379"], ["10.0.0.1:26379", "10.0.0.3:26379"]
    change(environ, "cache.yaml", servers=servers, sentinels=sentinels, primary="bot")
    found = config.load(environ).redis
    assert problems(environ) == []
    assert found.servers == (("10.0.0.1", 6379), ("fd00::2", 6379))
    assert found.sentinels == (("10.0.0.1", 26379), ("10.0.0.3", 26379))
    assert (found.primary, found.place) == ("bot", "10.0.0.1:6379, fd00::2:6379")
    change(environ, "cache.yaml", servers=..., sentinels=..., username="bot", tls=True, tls_ca="/etc/ca.pem")
    found = config.load(environ).redis
    assert problems(environ) == []
    assert (found.username, found.tls, found.tls_ca) == ("bot", True, "/etc/ca.pem")


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        ({"servers": ["10.0.0.1:6379"]}, "servers: needs `sentinels` as well"),
        ({"sentinels": ["10.0.0.1:26379"]}, "servers: needs `sentinels` as well"),
        ({"servers": ["10.0.0.1"], "sentinels": ["10.0.0.1:26379"]}, "servers: must be a list such as"),
        ({"servers": "10.0.0.1:x", "sentinels": ["10.0.0.1:26379"]}, "servers: must be a list such as"),
        ({"servers": ["a:1"], "sentinels": ["a:2"], "tls": True}, "tls: does not go together with `servers`"),
    ],
)
def test_mistakes_in_the_servers_of_redis(environ: dict[str, str], values: dict[str, Any], cure: str) -> None:
    change(environ, "cache.yaml", **values)
    assert any(cure in each for each in problems(environ)), problems(environ)


def test_misspelled_key_is_only_a_warning(environ: dict[str, str]) -> None:
    change(environ, "dingtalk.yaml", app_sercet="x")
    settings = config.load(environ)
    assert [problem.fatal for problem in settings.problems] == [False]
    assert "not a known key" in str(settings.problems[0])
    assert settings.dingtalk


@pytest.mark.parametrize(
    ("name", "near"), [("MODEL_NAEM", "MODEL_NAME"), ("CLAWDBOT_WEB_WORKER", "CLAWDBOT_WEB_WORKERS")]
)
def test_misspelled_variable_is_only_a_warning(environ: dict[str, str], name: str, near: str) -> None:
    found = config.load(environ | {name: "1", "CLAWDBOT_RUNTIME": "docker", "HTTPS_PROXY": "http://proxy:3128"})
    assert [(problem.key, problem.fatal) for problem in found.problems] == [(name, False)]
    assert f"did you mean {near}?" in found.problems[0].cure


def test_all_problems_at_once(environ: dict[str, str]) -> None:
    change(environ, "dingtalk.yaml", app_key="", token="")
    change(environ, "feishu.js", app_id="<id>")
    change(environ, "cache.yaml", port="many", enabled="yes", host=1)
    environ |= {"CLAWDBOT_PORT": "99999", "MODEL_TYPE": "gtp", "MODEL_API_KEY_EXPIRES_AT": "soon"}
    text = "\n".join(problems(environ))
    for key in ("app_key", "token", "app_id", "port", "enabled", "host", "CLAWDBOT_PORT", "MODEL_TYPE", "EXPIRES_AT"):
        assert key in text
    assert "choose one of echo" in text


@pytest.mark.parametrize("file", ["dingtalk.yaml", "feishu.js", "cache.yaml"])
@pytest.mark.parametrize("text", [None, "{", "- a list", '"a text"', "\0"])
def test_unusable_file(environ: dict[str, str], file: str, text: str | None) -> None:
    path = Path(environ["CLAWDBOT_CONFIG_DIR"]) / file
    path.unlink()
    if text is not None:
        path.write_text("module.exports = 'text'" if file.endswith("js") and text == '"a text"' else text)
    found = problems(environ)
    assert len([line for line in found if str(path) in line and ": file: " in line]) == 1
    assert not [
        line for line in found if "{" in line.partition(": file: ")[2] and text == "{" and "exports" not in line
    ]


def test_javascript_goes_through_node(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments, single quotes, computed values: everything that only JavaScript can read."""
    monkeypatch.setenv("SECRET_OF_THE_ENVIRONMENT", "leaked")
    path = Path(environ["CLAWDBOT_CONFIG_DIR"]) / "feishu.js"
    path.write_text(
        """// a comment
        const id = ['cli', 'abc'].join('_')
        module.exports = {
          app_id: id,
          app_secret: process.env.SECRET_OF_THE_ENVIRONMENT || 'not visible',
          encryption_key: 'k'.repeat(32),
          verification_token: 'tok',
          webhook_url: 'https://open.feishu.cn/open-apis/im/v1/messages',
        }"""
    )
    feishu = config.load(environ).feishu
    assert feishu
    assert (feishu.app_id, feishu.app_secret, feishu.api_base_url) == (
        "cli_abc",
        "not visible",
        "https://open.feishu.cn",
    )


def test_javascript_that_never_ends(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "NODE_TIMEOUT_SECONDS", 1)
    (Path(environ["CLAWDBOT_CONFIG_DIR"]) / "feishu.js").write_text("setInterval(() => {}, 1000)")
    assert "does not end" in "\n".join(problems(environ))


def test_without_node(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(files, "NODE_READ", ("node-that-is-not-there",))
    (Path(environ["CLAWDBOT_CONFIG_DIR"]) / "feishu.js").write_text("module.exports = require('./secrets')")
    assert "install the package nodejs" in "\n".join(problems(environ))


def test_broken_file_does_not_show_its_content(environ: dict[str, str]) -> None:
    (Path(environ["CLAWDBOT_CONFIG_DIR"]) / "dingtalk.yaml").write_text('app_secret: "hunter2\n  : [')
    assert "hunter2" not in "\n".join(problems(environ))


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_loads(environ: dict[str, str], name: str) -> None:
    environ["MODEL_TYPE"] = name
    needs_key = presets()[name].auth != "none"
    assert ("MODEL_API_KEY" in "\n".join(problems(environ))) is needs_key
    model = config.load(environ | {"MODEL_API_KEY": "key"}).model
    assert model
    assert model.model == presets()[name].model


def test_environment_overrides_the_preset(environ: dict[str, str]) -> None:
    environ |= {
        "MODEL_TYPE": "vllm",
        "MODEL_BASE_URL": "http://gpu:8000/v1/",
        "MODEL_NAME": "own",
        "MODEL_VISION": "true",
    }
    model = config.load(environ).model
    assert model
    assert (model.base_url, model.model, model.vision) == ("http://gpu:8000/v1", "own", True)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"MODEL_VISION": "perhaps"}, "MODEL_VISION"),
        ({"MODEL_TYPE": "gpt", "MODEL_API_KEY": "k", "MODEL_API_SECRET": "s"}, "MODEL_API_SECRET"),
        ({"MODEL_TYPE": "gpt", "MODEL_API_KEY": "k", "MODEL_BASE_URL": "nowhere"}, "MODEL_BASE_URL"),
    ],
)
def test_model_mistakes(environ: dict[str, str], values: dict[str, str], word: str) -> None:
    assert word in "\n".join(problems(environ | values))


@pytest.mark.parametrize("key", ["sk-钥匙", "Bearer sk-1", "sk-1\u200b", "'sk-1'", "sk-1\n"])
def test_a_key_with_impossible_characters_is_found(environ: dict[str, str], key: str) -> None:
    found = config.load(environ | {"MODEL_TYPE": "glm", "MODEL_API_KEY": key, "MODEL_API_SECRET": key})
    assert [problem.key for problem in found.problems] == ["MODEL_API_KEY", "MODEL_API_SECRET"]
    assert "no key has" in found.problems[0].cure
    assert key not in "".join(map(str, found.problems))
    assert found.model is None


def test_settings_of_the_model(environ: dict[str, str]) -> None:
    environ |= {
        "MODEL_TYPE": "vllm",
        "MODEL_BASE_URL": "http://gpu:8000/v1/chat/completions",
        "MODEL_SYSTEM_PROMPT": "Be {mood} to {name}.",
        "MODEL_TEMPERATURE": "0.7",
        "MODEL_MAX_TOKENS": "800",
        "MODEL_EXTRA_FIELDS": '{"enable_thinking": false, "stop": null}',
        "MODEL_STREAM": "false",
        "MODEL_TOTAL_SECONDS": "600",
    }
    found = config.load(environ)
    assert found.model
    assert found.model.base_url == "http://gpu:8000/v1"
    assert (found.model.temperature, found.model.max_tokens, found.model.stream) == (0.7, 800, False)
    assert found.model.extra_fields == {"enable_thinking": False, "stop": None}
    assert (found.model.first_token_seconds, found.model.idle_seconds, found.model.total_seconds) == (200, 15, 600)
    assert [(problem.key, problem.fatal) for problem in found.problems] == [("MODEL_SYSTEM_PROMPT", False)]
    assert "{mood} stays as it is" in found.problems[0].cure


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("MODEL_TEMPERATURE", "hot", "from 0 to 2"),
        ("MODEL_TEMPERATURE", "nan", "from 0 to 2"),
        ("MODEL_EXTRA_FIELDS", "enable_thinking=false", "JSON object"),
        ("MODEL_EXTRA_FIELDS", "[1]", "JSON object"),
        ("MODEL_EXTRA_FIELDS", '{"model": "x"}', "use MODEL_NAME"),
        ("MODEL_STREAM", "yes", "true or false"),
        ("MODEL_IDLE_SECONDS", "0", "from 1 to 3600"),
    ],
)
def test_mistakes_in_the_settings_of_the_model(environ: dict[str, str], name: str, value: str, cure: str) -> None:
    [problem] = config.load(environ | {name: value}).problems
    assert (problem.key, problem.fatal) == (name, True)
    assert cure in problem.cure


def expiry(environ: dict[str, str], **values: str) -> float | None:
    model = config.load(environ | {"MODEL_TYPE": "gpt", "MODEL_API_KEY": "k", **values}).model
    assert model
    return model.expires_at


def test_key_expiry(environ: dict[str, str]) -> None:
    def token(payload: object) -> str:
        return f"h.{base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip('=')}.s"

    day = datetime.datetime(2027, 1, 31, tzinfo=datetime.UTC).timestamp()
    assert expiry(environ) is None
    assert expiry(environ, MODEL_API_KEY_EXPIRES_AT="2027-01-31") == day
    assert expiry(environ, MODEL_API_KEY_EXPIRES_AT="2027-01-31T08:00:00+08:00") == day
    assert expiry(environ, MODEL_API_KEY=token({"exp": 1900000000}), MODEL_API_KEY_EXPIRES_AT="2027-01-31") == 1.9e9
    assert expiry(environ, MODEL_API_KEY=token({"sub": "x"}), MODEL_API_KEY_EXPIRES_AT="2027-01-31") == day
    assert expiry(environ, MODEL_API_KEY="a.b.c") is None


def spoken(settings: config.Settings, conversation: str) -> list[str]:
    return [language.code for language in settings.languages_of(conversation)]


def test_chinese_first_and_english_for_those_who_write_it(environ: dict[str, str]) -> None:
    del environ["CLAWDBOT_LANGUAGES"]
    assert spoken(config.load(environ), "anywhere") == ["zh", "en"]


def test_a_chat_may_have_languages_of_its_own(environ: dict[str, str]) -> None:
    chats = {"oc_1": ["en"], "cid 它": ["en", "zh"]}
    found = config.load(environ | {"CLAWDBOT_LANGUAGES": "zh", "CLAWDBOT_CHAT_LANGUAGES": json.dumps(chats)})
    assert found.problems == ()
    assert [spoken(found, name) for name in ("oc_1", "cid 它", "oc_2")] == [["en"], ["en", "zh"], ["zh"]]


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("CLAWDBOT_LANGUAGES", "zh,fr", "'fr' is no language of the bot; choose of en, zh"),
        ("CLAWDBOT_LANGUAGES", "zh,en,zh", "names zh twice"),
        ("CLAWDBOT_LANGUAGES", "zh,", "'' is no language"),
        ("CLAWDBOT_CHAT_LANGUAGES", "oc_1", 'must be a JSON object such as {"oc_1": ["en"]}'),
        ("CLAWDBOT_CHAT_LANGUAGES", '{"oc_1": "en"}', 'oc_1: must be a list such as ["en"]'),
        ("CLAWDBOT_CHAT_LANGUAGES", '{"oc_1": []}', 'oc_1: must be a list such as ["en"]'),
        ("CLAWDBOT_CHAT_LANGUAGES", '{"oc_1": [7]}', "oc_1: '7' is no language"),
    ],
)
def test_mistakes_in_the_languages(environ: dict[str, str], name: str, value: str, cure: str) -> None:
    found = config.load(environ | {name: value})
    [problem] = found.problems
    assert (problem.key, problem.fatal) == (name, True)
    assert cure in problem.cure
    assert spoken(found, "oc_1"), "the bot speaks all the same"
