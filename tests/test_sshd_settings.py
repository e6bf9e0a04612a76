"""Settings of other files that count instead of the role's are found with file and line."""

import os
import subprocess
from pathlib import Path

ROLE = Path(__file__).resolve().parents[1] / "roles/ssh"
#: Answers like sshd 9.2 and 10.0 do: the first value counts, but for MaxStartups, Port and AllowGroups.
SSHD = """#!/usr/bin/env python3
import glob, sys
main = sys.argv[sys.argv.index("-f") + 1]
said, group = {}, False
for file in [*sorted(glob.glob(main + ".d/*.conf")), main]:
    group = False
    for line in open(file):
        key, _, value = line.replace("=", " ").strip().partition(" ")
        key, value = key.lower(), value.strip()
        group = group or key == "match"
        if not key or group:
            continue
        if key == "maxstartups":
            said[key] = [value]
        elif key in ("port", "allowgroups", "listenaddress"):
            said.setdefault(key, []).append(value)
        else:
            said.setdefault(key, [value])
for key, values in said.items():
    for value in values:
        print(key, value)
"""
OURS = """# Ansible managed
Port 2222
MaxStartups 10:30:60
PasswordAuthentication no
AllowTcpForwarding no
AllowGroups ssh-login
"""


def found(folder: Path, main: str = "", opts: str = "", **drop_ins: str) -> list[str]:
    """What is found beside our drop-in, without the folder."""
    (folder / "sshd").write_text(SSHD, "utf-8")
    (folder / "sshd").chmod(0o755)
    (folder / "install").symlink_to("/bin/true")  # of /run/sshd
    (folder / "sshd_config").write_text(main, "utf-8")
    (folder / "default").write_text(f"SSHD_OPTS={opts}\n", "utf-8")
    (folder / "sshd_config.d").mkdir()
    (folder / "sshd_config.d/00-clawdbot.conf").write_text(OURS, "utf-8")
    for name, text in drop_ins.items():
        (folder / f"sshd_config.d/{name}.conf").write_text(text, "utf-8")
    command = ["sh", "-eu", str(ROLE / "files/effective.sh"), str(folder), str(folder / "default")]
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [line.replace(f"{folder}/", "") for line in done.stdout.splitlines()]


def test_nothing_is_found_where_ours_counts(tmp_path: Path) -> None:
    later = "PasswordAuthentication yes\nX11Forwarding yes\nListenAddress 10.0.0.1:2222\n"
    assert found(tmp_path, later, later="Match User git\n AllowTcpForwarding no\n X11Forwarding yes\n") == []


def test_what_counts_instead_is_named(tmp_path: Path) -> None:
    later = "\nMaxStartups=100\n  Port 22\nListenAddress 2001:1::5\nListenAddress [::]:22\nAllowGroups users\n"
    match = "Match User bob\n PasswordAuthentication yes\nMatch all\nX11Forwarding yes\n"
    assert found(tmp_path, "# first\nPasswordAuthentication yes\n", "-4 -p 22", later=later, match=match) == [
        "lost sshd_config.d/later.conf:2: MaxStartups=100",
        "lost sshd_config.d/later.conf:3: Port 22",
        "lost sshd_config.d/later.conf:5: ListenAddress [::]:22",
        "kept sshd_config.d/later.conf:6: AllowGroups users",
        "kept sshd_config.d/match.conf:2: PasswordAuthentication yes (Match User bob)",
        "kept default:1: SSHD_OPTS=-4 -p 22",
    ]
