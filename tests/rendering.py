"""Templates of roles, as Ansible would write them on a host."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[1]


@cache
def _plugins() -> None:
    """The templates use filters of the package."""
    init_plugin_loader([])


def trusted(value: Any) -> Any:
    """Marks the texts in a value as templates, as Ansible does with its files."""
    if isinstance(value, dict):
        return {key: trusted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [trusted(inner) for inner in value]
    return trust_as_template(value) if isinstance(value, str) else value


def _templar(role: str, **variables: Any) -> Templar:
    _plugins()
    said: dict[str, Any] = {}
    for file in ("defaults", "vars"):
        if (path := ROOT / f"roles/{role}/{file}/main.yml").exists():
            said |= yaml.safe_load(path.read_text("utf-8"))
    return Templar(loader=DataLoader(), variables={"ansible_managed": "managed"} | trusted(said) | variables)


def evaluate(role: str, expression: str, **variables: Any) -> Any:
    """What an expression is worth in a role, with its defaults and what is given."""
    return _templar(role, **variables).template(trust_as_template(f"{{{{ {expression} }}}}"))


def render(role: str, name: str, **variables: Any) -> str:
    """A template of a role, with its defaults and what is given."""
    templates = ROOT / f"roles/{role}/templates"
    templar = _templar(role, **variables).copy_with_new_env(searchpath=[str(templates)])
    text = trust_as_template((templates / f"{name}.j2").read_text("utf-8"))
    return str(templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True}))
