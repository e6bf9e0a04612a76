"""A login that does not work says what to do about it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ssh_login


def cure(**errors: str) -> str:
    """What is advised for the errors of ports, given as ``port22=...``."""
    said = {
        int(name.removeprefix("port")): f"Failed to connect to the host via ssh: {text}"
        for name, text in errors.items()
    }
    return ssh_login.cure(
        said, lambda program, port: f"{program} -p {port} debian@203.0.113.10", "debian", "203.0.113.10"
    )


# What Debian 12 and 13 say, each as it was seen.
@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ssh: connect to host 203.0.113.10 port 22: Connection refused", "ansible_host right"),
        ("ssh: connect to host 203.0.113.10 port 22: No route to host", "ansible_host right"),
        ("Connection timed out during banner exchange", "ansible_host right"),
        ("ssh: Could not resolve hostname bot.example.com: Name or service not known", "ansible_host right"),
        ("Host key verification failed.", "yes: ssh -p 22 debian@203.0.113.10"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @ Host key verification failed.",
            "ssh-keygen -R '203.0.113.10', then log in once and say yes to its new key: ssh -p 22 debian@203.0.113.10",
        ),
        ("the login was by password, which the first run switches off", "ssh-copy-id -p 22 debian@203.0.113.10"),
        ("debian@203.0.113.10: Permission denied (publickey,password).", "ssh-copy-id -p 22 debian@203.0.113.10"),
        (
            "Unable to execute ssh command line on a controller: [Errno 2] No such file or directory: b'ssh'",
            "openssh-client",
        ),
        ("Missing sudo password", "--ask-become-pass"),
        ("Incorrect sudo password", "another password"),
        ("logged in, but the host said: debian is not in the sudoers file.", "adduser debian sudo"),
        ("logged in, but the host said: /bin/sh: 1: sudo: not found", "apt install sudo"),
    ],
)
def test_each_way_to_fail_has_its_cure(said: str, advice: str) -> None:
    assert advice in cure(port22=said)


def test_the_port_that_came_farthest_counts() -> None:
    refused = "ssh: connect to host 203.0.113.10 port 2222: Connection refused"
    assert "say yes: ssh -p 22 " in cure(port2222=refused, port22="Host key verification failed.")
    changed = "REMOTE HOST IDENTIFICATION HAS CHANGED!"
    assert "ssh-keygen -R '[203.0.113.10]:2222'" in cure(port2222=changed, port22=refused)


def test_nothing_is_advised_where_nobody_knows() -> None:
    assert cure(port2222="Connection refused", port22="logged in, but the host said: out of paper") == ""


def objection(given: tuple[int, ...] = (), **login: Any) -> str:
    """What is said against a login on a host that is new, by a key, but for what ``login`` says."""
    return ssh_login.objection({"port": 22, "method": "publickey", "managed": False, **login}, given)


@pytest.mark.parametrize("method", ["password", "keyboard-interactive/pam"])
def test_a_first_login_by_password_is_refused(method: str) -> None:
    assert "was by password" in objection(method=method)


def test_a_later_login_is_not_refused() -> None:
    assert objection() == ""
    assert objection(method="") == ""  # a connection that is kept, of which the journal knows nothing any more
    assert objection(method="password", managed=True) == ""  # let in by a "Match" of the host's own


def test_another_machine_behind_the_address_is_refused() -> None:
    assert "ansible_port: 22" in objection(given=(10022,))
    assert objection(given=(10022,), managed=True) == ""
    assert objection(given=(22,)) == ""


@pytest.mark.parametrize(
    ("line", "method", "key"),
    [
        ("Accepted publickey for debian from 192.0.2.7 port 50022 ssh2: ED25519 SHA256:abc", "publickey", "SHA256:abc"),
        ("Accepted password for debian from 192.0.2.7 port 50022 ssh2", "password", ""),
        ("Accepted keyboard-interactive/pam for debian from 192.0.2.7 port 50022 ssh2", "keyboard-interactive/pam", ""),
        ("Accepted password for debian from 192.0.2.7 port 50023 ssh2", "", ""),
    ],
)
def test_the_host_says_how_the_login_was_accepted(tmp_path: Path, line: str, method: str, key: str) -> None:
    for program, said in {
        "journalctl": f"Server listening on 0.0.0.0 port 22.\n{line}",
        "ss": "LISTEN 0 128 0.0.0.0:22 0.0.0.0:*",
        "ip": "2: eth0 inet 203.0.113.10/24 brd 203.0.113.255 scope global eth0",
        "ssh": "",
    }.items():
        (tmp_path / program).write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n", "utf-8")
        (tmp_path / program).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SSH_CONNECTION": "192.0.2.7 50022 203.0.113.10 22",
        "SUDO_USER": "debian",
    }
    command = ["sh", "-eu", str(ssh_login.PROBE), "2222", "no"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    login = json.loads(done.stdout)
    assert (login["method"], login["key"]) == (method, key)


@pytest.mark.parametrize(
    ("said", "again"),
    [
        ("kex_exchange_identification: Connection closed by remote host", True),
        ("kex_exchange_identification: read: Connection reset by peer", True),
        ("Connection closed by UNKNOWN port 65535", True),
        ("connect to host 203.0.113.10 port 2222: Connection refused", False),
        ("debian@203.0.113.10: Permission denied (publickey).", False),
        # A bastion in between:
        (
            "channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed\n"
            "Connection closed by UNKNOWN port 65535",
            False,
        ),
    ],
)
def test_who_hung_up_is_asked_again_and_nobody_else(said: str, again: bool) -> None:
    assert ssh_login.hung_up(said) is again
