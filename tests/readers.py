"""The programs that read on hosts what the roles render, unpacked by ``make unit`` and installed nowhere."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / ".cache/programs"
LIBRARIES = [FOLDER / place / f"{os.uname().machine}-linux-gnu" for place in ("usr/lib", "lib")]
MEMORY = Path("/dev/shm")  # noqa: S108  # temporary files get names of their own
#: The programs find each other, their libraries and their modules of Python.
ENVIRONMENT = os.environ | {
    "PATH": f"{FOLDER}/usr/sbin:{FOLDER}/usr/bin:{FOLDER}/sbin:{os.environ['PATH']}:/usr/sbin:/sbin",
    "LD_LIBRARY_PATH": ":".join(map(str, LIBRARIES)),
    # promtool would wait for a disk at each of its tests.
    "TMPDIR": str(MEMORY) if MEMORY.is_dir() else tempfile.gettempdir(),
    "PYTHONPATH": str(FOLDER / "usr/lib/python3/dist-packages"),
}
#: Accounts that the packages would have made.
ACCOUNTS = "sshd:x:1:65534::/run/sshd:/bin/false\nkeepalived_script:x:2:65534::/:/bin/false\n"


def reader(name: str) -> str:
    """Where a program is; without it the test is left to the scenarios, which have all of them."""
    found = shutil.which(name, path=ENVIRONMENT["PATH"])
    if not found:
        pytest.skip(f"no {name} here; `make unit` fetches it")
    return found


def read(name: str, *arguments: object, well: tuple[int, ...] = (0,)) -> str:
    """What a program says on its standard output; its failure is the test's, with all that it said.

    Args:
        name: of the program.
        arguments: of the program.
        well: exit statuses that are no failure.
    """
    command = [reader(name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode in well, done.stdout + done.stderr
    return done.stdout


def read_apart(folder: Path, script: str, *programs: str) -> str:
    """What a shell script says that runs as root of namespaces of its own: users, network, mounts.

    Args:
        folder: for what it needs.
        script: the script; ``/run`` is empty there, and the packages' accounts exist.
        programs: that it calls.
    """
    for program in programs:
        reader(program)
    unshare = ["unshare", "--map-root-user", "--net", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces of one's own here; the scenarios have hosts")
    passwd = folder / "passwd"
    passwd.write_text(Path("/etc/passwd").read_text("utf-8") + ACCOUNTS, "utf-8")
    prepared = f"set -e\nmount --bind {shlex.quote(str(passwd))} /etc/passwd\nmount -t tmpfs run /run\n{script}"
    done = subprocess.run(
        [*unshare, "sh", "-c", prepared], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
