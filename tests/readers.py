"""The programs that read on hosts what the roles render, unpacked by ``make unit`` and installed nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / ".cache/programs"
LIBRARIES = [FOLDER / place / f"{os.uname().machine}-linux-gnu" for place in ("usr/lib", "lib")]
#: The programs find each other, their libraries and their modules of Python.
ENVIRONMENT = os.environ | {
    "PATH": f"{FOLDER}/usr/sbin:{FOLDER}/usr/bin:{FOLDER}/sbin:{os.environ['PATH']}:/usr/sbin:/sbin",
    "LD_LIBRARY_PATH": ":".join(map(str, LIBRARIES)),
    "PYTHONPATH": str(FOLDER / "usr/lib/python3/dist-packages"),
}


def reader(name: str) -> str:
    """Where a program is; without it the test is left to the scenarios, which have all of them."""
    found = shutil.which(name, path=ENVIRONMENT["PATH"])
    if not found:
        pytest.skip(f"no {name} here; `make unit` fetches it")
    return found


def read(name: str, *arguments: object, before: tuple[str, ...] = (), entered: str | None = None) -> str:
    """What a program says on its standard output about what it is given.

    Args:
        name: of the program.
        arguments: of the program.
        before: a command that starts it.
        entered: its standard input.

    Raises:
        AssertionError: it fails; the message is what it said.
    """
    command = [*before, reader(name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, input=entered, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
