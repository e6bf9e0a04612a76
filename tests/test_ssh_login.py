"""A login that does not work says what to do about it."""

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
