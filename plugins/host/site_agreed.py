"""The part of action ``site_agreed`` that runs on the host: knows which values it has accepted.

A dict of JSON on standard input, ``{"values": {name: value}, "close": [names], "open": bool, "check": bool}``, one on
standard output, ``{"former": {name: [values]}, "opened": [names], "closed": [names], "changed": bool}``. Needs nothing
but Python's standard library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

#: For each name the values that are accepted, the present one first.
RECORD = Path("/var/lib/clawdbot/agreed.json")


def known() -> dict[str, list[Any]]:
    """What was accepted last; nothing at the first time, or when a crash left half a record."""
    try:
        noted: dict[str, list[Any]] = json.loads(RECORD.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        noted = {}
    return noted


def main() -> None:
    """Entry point."""
    call: dict[str, Any] = json.load(sys.stdin)
    before = known()
    accepted = {
        name: [value, *(each for each in before.get(name, []) if each != value)]
        for name, value in call["values"].items()
    }
    opened = [name for name in accepted if name in before and before[name][0] != accepted[name][0]]
    closed = [name for name in call["close"] if len(accepted.get(name, [])) > 1]
    after = accepted | {name: accepted[name][:1] for name in closed}
    if opened and not call["open"]:
        after = before
    if after != before and not call["check"]:
        RECORD.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = RECORD.with_name(f".{RECORD.name}.new")
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(after), "utf-8")
        draft.replace(RECORD)
    former = {name: values[1:] for name, values in after.items() if values[1:]}
    json.dump({"former": former, "opened": opened, "closed": closed, "changed": after != before}, sys.stdout)


if __name__ == "__main__":
    main()
