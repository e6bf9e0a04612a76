"""Configuration: four files and the environment, read once at start; ``bot.yaml`` again whenever it changes.

Files in ``CLAWDBOT_CONFIG_DIR``: ``dingtalk.yaml``, ``feishu.js`` (a Node.js module, read through Node and never
evaluated here), ``cache.yaml`` and, if it is there, ``bot.yaml``. Everything wrong is collected as a `Problem` that
names place, key and cure; a platform with a problem is switched off, the other one goes on.

``settings`` is what comes out, ``reader`` takes values out of a source, ``rules`` says what they have to look like,
``files`` reads the files and ``loading`` puts it together.
"""

from clawdbot.config.loading import PLATFORM_FILES, bot_file, load
from clawdbot.config.reader import Problem
from clawdbot.config.settings import (
    Access,
    AlertsConfig,
    DingTalkConfig,
    FeishuConfig,
    Former,
    ModelConfig,
    RedisConfig,
    Replaceable,
    Secret,
    Settings,
    SiteConfig,
)

__all__ = [
    "PLATFORM_FILES",
    "Access",
    "AlertsConfig",
    "DingTalkConfig",
    "FeishuConfig",
    "Former",
    "ModelConfig",
    "Problem",
    "RedisConfig",
    "Replaceable",
    "Secret",
    "Settings",
    "SiteConfig",
    "bot_file",
    "load",
]
