"""What sshd makes of the role's drop-in, as sshd itself says it (``sshd -T``)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from readers import read, read_apart
from rendering import render

#: Who comes in: only people with a key, who have few tries and little time.
WAY_IN = {
    "permitrootlogin": "no",
    "pubkeyauthentication": "yes",
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "permitemptypasswords": "no",
    "hostbasedauthentication": "no",
    "ignorerhosts": "yes",
    "strictmodes": "yes",
    "usepam": "yes",
    "allowgroups": "ssh-login",
    "logingracetime": "30",
    "maxauthtries": "3",
    "maxsessions": "2",
    "maxstartups": "10:30:60",
}
#: What a session gives: a shell, and no way on from here.
SESSION = {
    "allowtcpforwarding": "no",
    "allowagentforwarding": "no",
    "allowstreamlocalforwarding": "no",
    "gatewayports": "no",
    "permittunnel": "no",
    "x11forwarding": "no",
    "permituserenvironment": "no",
    "permituserrc": "no",
    "clientaliveinterval": "300",
    "clientalivecountmax": "2",
    "tcpkeepalive": "no",
    "compression": "no",
    "usedns": "no",
    "printlastlog": "yes",
    "loglevel": "VERBOSE",
    "fingerprinthash": "SHA256",
    "banner": "/etc/issue.net",
}
#: Without what ssh-audit calls weak, and without key exchanges that a later quantum computer breaks.
KEY_TYPES = (
    "ssh-ed25519,ssh-ed25519-cert-v01@openssh.com,sk-ssh-ed25519@openssh.com,sk-ssh-ed25519-cert-v01@openssh.com"
)
ALGORITHMS = {
    "hostkeyalgorithms": "ssh-ed25519,rsa-sha2-512,rsa-sha2-256",
    "pubkeyacceptedalgorithms": f"{KEY_TYPES},sk-ecdsa-sha2-nistp256@openssh.com,rsa-sha2-512,rsa-sha2-256",
    "kexalgorithms": "sntrup761x25519-sha512@openssh.com",
    "ciphers": "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com",
    "macs": "hmac-sha2-512-etm@openssh.com,hmac-sha2-256-etm@openssh.com",
}
#: What sshd would do without the drop-in, where that differs: the drop-in and nothing else makes these values.
CONTRARY = """
Port 22
PermitRootLogin yes
PubkeyAuthentication no
PasswordAuthentication yes
KbdInteractiveAuthentication yes
PermitEmptyPasswords yes
HostbasedAuthentication yes
IgnoreRhosts no
StrictModes no
UsePAM no
LoginGraceTime 1000
AllowAgentForwarding yes
AllowStreamLocalForwarding yes
GatewayPorts yes
PermitTunnel yes
X11Forwarding yes
PermitUserEnvironment yes
PermitUserRC yes
TCPKeepAlive yes
Compression yes
UseDNS yes
PrintLastLog no
LogLevel QUIET
Banner none
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands in for /etc/ssh, with keys of the host."""
    folder = tmp_path_factory.mktemp("ssh")
    for kind in ("ed25519", "rsa"):
        read("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", folder / f"ssh_host_{kind}_key")
    return folder


def in_force(folder: Path, **variables: Any) -> dict[str, list[str]]:
    """The options of an sshd that reads the drop-in before a file that wants the contrary."""
    given = {"__ssh_ports": [2222], "ssh_login": {"version": "9.2", "user": "ansible"}}
    text = render("ssh", "sshd.conf", **given | variables) + CONTRARY.replace("Port 22\n", "")
    (folder / "sshd_config").write_text(text.replace("/etc/ssh/", f"{folder}/"), "utf-8")
    said = read_apart(folder, f"mkdir -m 755 /run/sshd; exec $(command -v sshd) -T -f {folder}/sshd_config", "sshd")
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in said.splitlines():
        option, _, value = line.partition(" ")
        found[option].append(value)
    return found


def test_what_is_in_force_is_what_was_meant(folder: Path) -> None:
    found = in_force(folder)
    meant = WAY_IN | SESSION | ALGORITHMS
    assert {option: ",".join(found[option]) for option in meant} == meant
    assert found["port"] == ["2222"]
    assert found["hostkey"] == [f"{folder}/ssh_host_{kind}_key" for kind in ("ed25519", "rsa")]


@pytest.mark.parametrize(
    ("variables", "meant"),
    [
        ({"__ssh_ports": [2222, 22]}, {"port": ["2222", "22"]}),
        ({"ssh_group": ""}, {"allowgroups": []}),
        ({"ssh_banner": False}, {"banner": ["none"]}),
        ({"ssh_login": {"version": "9.2", "user": "root"}}, {"permitrootlogin": ["without-password"]}),
        ({"ssh_jump_host": True}, {"allowtcpforwarding": ["local"]}),
        ({"ssh_permit_open": ["a:1", "b:2"]}, {"allowtcpforwarding": ["local"], "permitopen": ["a:1 b:2"]}),
        ({"ssh_host_keys": ["ed25519"]}, {"hostkeyalgorithms": ["ssh-ed25519"]}),
    ],
)
def test_choices(folder: Path, variables: dict[str, Any], meant: dict[str, list[str]]) -> None:
    found = in_force(folder, **variables)
    assert {option: found[option] for option in meant} == meant


def test_newer_releases_get_what_only_they_know() -> None:
    login = {"version": "10.0", "user": "ansible"}
    text = render("ssh", "sshd.conf", __ssh_ports=[2222], ssh_login=login, ssh_trusted_addresses=["192.0.2.1", "::1"])
    assert "\nPerSourcePenaltyExemptList 192.0.2.1,::1\n" in text
    assert "\nKexAlgorithms mlkem768x25519-sha256,sntrup761x25519-sha512,sntrup761x25519-sha512@openssh.com\n" in text
