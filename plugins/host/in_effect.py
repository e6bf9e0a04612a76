"""The part of action ``in_effect`` that runs on the host: has programs use what is written.

A dict of JSON on standard input, ``{"things": [...], "check": bool}``, one on standard output,
``{"applied": [names]}``. Needs nothing but Python's standard library.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

#: For each thing, digests of the files as they were when it last took them.
RECORDS = Path("/var/lib/clawdbot/in-effect")


def digest(patterns: list[str]) -> str:
    """Digest of the names and contents of all files that match."""
    total = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in Path("/").glob(pattern.lstrip("/"))}):
        if path.is_file():
            total.update(f"{path}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def written(thing: dict[str, Any]) -> dict[str, str]:
    """Digests of what the thing reads, as it is now."""
    return {kind: digest(thing[kind]) for kind in ("files", "reload_files")}


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script that stops at the first error; its output is for the caller to judge."""
    command = ["/bin/sh", "-euc", script]
    return subprocess.run(  # noqa: S603  # the role's own script
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def known(record: Path) -> dict[str, str]:
    """What was noted last; nothing at the first time, or when a crash left half a record."""
    try:
        noted: dict[str, str] = json.loads(record.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        noted = {}
    return noted


def main() -> None:
    """Entry point."""
    call: dict[str, Any] = json.load(sys.stdin)
    applied = []
    for thing in call["things"]:
        record = RECORDS / thing["name"]
        wanted, before = written(thing), known(record)
        differs = {kind for kind in wanted if thing[kind] and before.get(kind) != wanted[kind]}
        if run(thing["check"]).returncode or "files" in differs:
            script = thing["run"]
        elif differs:
            script = thing["reload"]
        else:
            continue
        applied.append(thing["name"])
        if call["check"]:
            continue
        done = run(script)
        if done.returncode:
            said = "\n".join(text for text in (done.stdout.strip(), done.stderr.strip()) if text)
            sys.exit(f"{thing['name']}: {said or f'exit status {done.returncode}'}")
        # After the deed: a run that dies before is made good by the next one. The script may have written files.
        RECORDS.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = record.with_name(f".{record.name}.new")
        draft.write_text(json.dumps(written(thing)), "utf-8")
        draft.replace(record)
    json.dump({"applied": applied}, sys.stdout)


if __name__ == "__main__":
    main()
