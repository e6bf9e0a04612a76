"""Putting the configuration together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clawdbot.config import rules, voices
from clawdbot.config.files import read_js, read_yaml
from clawdbot.config.reader import Problem, Reader
from clawdbot.config.settings import Settings
from clawdbot.config.voices import BotFile
from clawdbot.errors import ConfigError

PLATFORM_FILES = ("dingtalk.yaml", "feishu.js")
# Settings of the environment that something else reads: the scripts around the bot, and gunicorn.conf.py.
NOT_OURS = ("CLAWDBOT_RUNTIME", "CLAWDBOT_LISTENER")


def load(environ: Mapping[str, str]) -> Settings:
    """Read the configuration that ``environ`` points to. Never raises: see `Settings.problems`."""
    problems: list[Problem] = []
    env = Reader("environment (clawdbot.env)", environ)
    config_dir = Path(env.text("CLAWDBOT_CONFIG_DIR", "give a directory", default="/opt/clawdbot/config"))

    # One platform is enough; a bot without any has nobody to talk to.
    dingtalk, feishu = (config_dir / name for name in PLATFORM_FILES)
    dingtalk_file = _load_file(dingtalk, read_yaml, problems, optional=feishu.exists())
    feishu_file = _load_file(feishu, read_js, problems, optional=dingtalk.exists())
    cache_file = _load_file(config_dir / "cache.yaml", read_yaml, problems) or Reader("cache.yaml", {})
    bot, bot_problems = bot_file(config_dir / voices.FILE)
    problems += bot_problems
    password = env.text("CLAWDBOT_REDIS_PASSWORD", "give the password of Redis", default="")
    found = {
        "dingtalk": dingtalk_file and dingtalk_file.sound(rules.dingtalk),
        "feishu": feishu_file and feishu_file.sound(rules.feishu),
        "redis": rules.redis(cache_file, password),
        "site": rules.site(cache_file, password),
        "model": env.sound(rules.model),
        "alerts": rules.alerts(env),
        "config_dir": config_dir,
        "bot": bot,
        **rules.speech(env),
        **rules.service(env),
    }
    for reader in (dingtalk_file, feishu_file, cache_file):
        if reader:
            reader.unknown()
            problems += reader.problems
    env.unknown(but=NOT_OURS, starting_with=("CLAWDBOT_", "MODEL_"))
    return Settings(**found, problems=(*problems, *env.problems))


def bot_file(path: Path) -> tuple[BotFile, list[Problem]]:
    """Read ``bot.yaml``; a file that is not there, or is empty, says nothing."""
    try:
        path.stat()
    except FileNotFoundError:
        return BotFile(), []
    except OSError as error:
        return BotFile(), [Problem(str(path), "file", f"cannot be read ({error.strerror}); give its owner read access")]
    try:
        return voices.read(str(path), read_yaml(path))
    except ConfigError as error:
        return BotFile(), [Problem(str(path), "file", str(error))]


def _load_file(
    path: Path, read: Callable[[Path], Mapping[str, Any]], problems: list[Problem], *, optional: bool = False
) -> Reader | None:
    if optional and not path.exists():
        problems.append(Problem(str(path), "file", "is not there, so this platform is off", fatal=False))
        return None
    try:
        return Reader(str(path), read(path))
    except ConfigError as error:
        problems.append(Problem(str(path), "file", str(error)))
        return None
