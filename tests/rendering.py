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


def render(role: str, name: str, **variables: Any) -> str:
    """A template of a role, with its defaults and what is given."""
    _plugins()
    said: dict[str, Any] = {}
    for file in ("defaults", "vars"):
        if (path := ROOT / f"roles/{role}/{file}/main.yml").exists():
            said |= yaml.safe_load(path.read_text("utf-8"))
    marked = {key: trust_as_template(value) if isinstance(value, str) else value for key, value in said.items()}
    templar = Templar(loader=DataLoader(), variables={"ansible_managed": "managed"} | marked | variables)
    templates = ROOT / f"roles/{role}/templates"
    templar = templar.copy_with_new_env(searchpath=[str(templates)])
    text = trust_as_template((templates / f"{name}.j2").read_text("utf-8"))
    return str(templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True}))
