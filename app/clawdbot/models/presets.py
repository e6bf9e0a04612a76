"""The preset table, read from ``presets.yaml``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import yaml


@dataclasses.dataclass(frozen=True, slots=True)
class Preset:
    """What is known in advance about a model service.

    Attributes:
        base_url: OpenAI-compatible base URL; empty for ``echo``.
        model: default model name.
        vision: True if that model reads pictures.
        auth: ``none``, ``bearer``, ``zhipu-jwt`` or ``baidu-iam``.
        history_tokens: estimated tokens of history sent along.
        iam_url: where ``baidu-iam`` gets its short-lived keys.
        length_field: name of the request's field for the greatest length of the answer.
        dialect: how it is spoken to, see `clawdbot.models.dialects`; empty: OpenAI's chat completions.
    """

    base_url: str
    model: str
    vision: bool
    auth: str
    history_tokens: int
    iam_url: str = ""
    length_field: str = "max_tokens"
    dialect: str = ""


@functools.cache
def presets() -> Mapping[str, Preset]:
    """Return all presets by name."""
    data = yaml.safe_load(Path(__file__).with_name("presets.yaml").read_text("utf-8"))
    return {name: Preset(**fields) for name, fields in data.items()}
