#!/usr/bin/env python3
"""Writes roles/*/README.md from the roles' argument specs; with --check only says whether one is out of date."""

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]


def plain(text: str) -> str:
    """A description without Ansible's markup, fit for a table cell."""
    for mark in ("C(", "O(", "V(", "I(", "B("):
        while mark in text:
            head, _, rest = text.partition(mark)
            inner, _, tail = rest.partition(")")
            text = f"{head}`{inner}`{tail}"
    return text.replace("|", "\\|")


def sentences(description: str | list[str]) -> str:
    """A description, which may be a list, as one text."""
    return plain(" ".join([description] if isinstance(description, str) else description))


def default(option: dict[str, Any]) -> str:
    """The default of an option as a table cell."""
    if option.get("required"):
        return "**required**"
    if "default" not in option:
        return "derived"
    value = option["default"]
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value not in ("", [], {}) else "empty"


def kind(option: dict[str, Any]) -> str:
    """The type of an option as a table cell."""
    name = option.get("type", "str")
    if "elements" in option:
        name = f"{name} of {option['elements']}"
    return f"{name}: {', '.join(map(str, option['choices']))}" if "choices" in option else name


def readme(role: Path) -> str:
    """The README of ``role``."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text("utf-8"))["argument_specs"]
    parts = [f"# {role.name}\n"]
    for name, spec in specs.items():
        if len(specs) > 1 and name != "main":
            parts.append(f"## Entry point `{name}`\n")
        parts.append(f"{sentences(spec['short_description']).removesuffix('.')}.\n")
        described = spec.get("description", [])
        parts += [f"{plain(text)}\n" for text in ([described] if isinstance(described, str) else described)]
        if spec.get("options"):
            parts.append("| variable | type | default | meaning |\n|---|---|---|---|")
            parts += [
                f"| `{key}` | {kind(option)} | {default(option)} | {sentences(option['description'])} |"
                for key, option in spec["options"].items()
            ]
            parts.append("")
    if (ROOT / "molecule" / role.name).is_dir():
        parts.append(f"Proven by `molecule test -s {role.name}`.\n")
    parts.append("Written by `make docs` from `meta/argument_specs.yml`.")
    return "\n".join(parts) + "\n"


def main() -> int:
    """Write or check all READMEs."""
    check = sys.argv[1:] == ["--check"]
    stale = []
    for specs in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        role = specs.parents[1]
        text, path = readme(role), role / "README.md"
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(text, "utf-8")
    if check and stale:
        print(f"out of date, run `make docs`: {', '.join(stale)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
