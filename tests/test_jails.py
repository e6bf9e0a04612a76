"""The jails as Fail2ban understands them (``fail2ban-client -d``), and whom they ban."""

from __future__ import annotations

import ast
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import readers
from readers import read
from rendering import render

NOBODY = ["127.0.0.0/8", "::1"]
#: Lines of Nginx's log, and the address that is to be blamed for a refused callback; None: nobody.
LINES = {
    '192.0.2.7 - - [28/Nov/2026:10:00:00 +0000] "POST /api/dingtalk/callback HTTP/1.1" 401 12 "-" "x"': "192.0.2.7",
    '2001:db8::7 - - [28/Nov/2026:10:00:00 +0000] "POST /api/feishu/callback?a HTTP/2.0" 401 1 "-" "x"': "2001:db8::7",
    '192.0.2.7 - - [28/Nov/2026:10:00:00 +0000] "POST /api/dingtalk/callback HTTP/1.1" 200 12 "-" "x"': None,
    '192.0.2.7 - - [28/Nov/2026:10:00:00 +0000] "GET /api/dingtalk/callback HTTP/1.1" 401 12 "-" "x"': None,
    '192.0.2.7 - - [28/Nov/2026:10:00:00 +0000] "POST /api/alerts HTTP/1.1" 401 12 "-" "x"': None,
    # A path that tries to look like another line.
    '192.0.2.7 - - [28/Nov/2026:10:00:00 +0000] "GET /\\x22 198.51.100.1 - - [] \\x22POST /api/feishu/callback '
    'HTTP/1.1\\x22 401 HTTP/1.1" 404 0 "-" "x"': None,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The settings of Debian's package, and the logs of Nginx."""
    readers.reader("fail2ban-client")
    shipped = readers.FOLDER / "etc/fail2ban"
    shutil.copytree(shipped if shipped.exists() else "/etc/fail2ban", tmp_path / "fail2ban")
    for log in ("access.log", "error.log"):
        (tmp_path / "fail2ban" / log).touch()
    return tmp_path / "fail2ban"


def jails(folder: Path, **variables: Any) -> dict[str, dict[str, list[Any]]]:
    """What Fail2ban would set in each jail."""
    (folder / "jail.local").write_text(render("fail2ban", "jail.local", **variables), "utf-8")
    found: dict[str, dict[str, list[Any]]] = {}
    for line in read("fail2ban-client", "-c", folder, "-d").splitlines():
        if not line.startswith("["):
            continue
        verb, name, *rest = ast.literal_eval(line)
        if verb == "add":
            found[name] = defaultdict(list, {"backend": rest})
        elif verb in ("set", "multi-set") and name in found:
            found[name][rest[0]] += rest[1:]
    return found


def test_logins(folder: Path) -> None:
    found = jails(folder, fail2ban_ignore=["10.0.0.1"], fail2ban_ssh_ports=[2222, 22, 22])
    assert list(found) == ["sshd"]
    jail = found["sshd"]
    meant = {
        "backend": ["systemd"],
        "addjournalmatch": ["_UID=0", "SYSLOG_IDENTIFIER=sshd", "+", "_UID=0", "SYSLOG_IDENTIFIER=sshd-session"],
        "maxretry": [5],
        "findtime": ["10m"],
        "bantime": ["10m"],
        "bantime.increment": [True],
        "bantime.factor": ["1"],
        "bantime.maxtime": ["1w"],
        "addignoreip": [*NOBODY, "10.0.0.1"],
        "ignorecommand": [""],
        "addaction": ["nftables"],
    }
    assert {option: jail[option] for option in meant} == meant
    start = dict(jail["action"][1])["actionstart"]
    assert "dport \\{ $(echo '2222,22' | sed s/:/-/g) \\}" in start
    # Only the aggressive mode of Debian's filter counts those who have no key.
    assert any("No(?: supported)? authentication methods available" in regex for regex in jail["addfailregex"][0])


def test_those_whom_the_command_knows_are_not_banned(folder: Path) -> None:
    found = jails(folder, fail2ban_ignore_command="/usr/local/sbin/known <ip>")
    assert found["sshd"]["ignorecommand"] == ["/usr/local/sbin/known <ip>"]


def test_the_web(folder: Path) -> None:
    log = f"{folder}/access.log"
    known = {"fail2ban_ignore": ["10.0.0.1"], "fail2ban_platform_sources": ["1.2.3.4"]}
    found = jails(folder, fail2ban_nginx_access_log=log, **known)
    web = ("clawdbot-callback", "nginx-botsearch", "nginx-limit-req")
    assert set(found) == {"sshd", *web}
    assert found["sshd"]["addignoreip"] == [*NOBODY, "10.0.0.1"]
    for name in web:
        jail = found[name]
        assert jail["backend"] != ["systemd"]
        assert jail["addignoreip"] == [*NOBODY, "100.64.0.0/10", "10.0.0.1", "1.2.3.4"]
        assert jail["ignorecommand"] == [f"/usr/local/sbin/clawdbot-callback-sender <ip> {log}"]
        assert jail["ignorecache"] == ['key="<ip>", max-count=1000, max-time=1m']
        assert "'80,443'" in dict(jail["action"][1])["actionstart"]
        assert jail["bantime.increment"] == [True]
    callback, search, limit = (found[name] for name in web)
    assert [jail["maxretry"] for jail in (callback, search, limit)] == [[20], [30], [30]]
    assert [jail["addlogpath"][0] for jail in (callback, search, limit)] == [log, log, f"{folder}/error.log"]
    assert (callback["bantime"], callback["bantime.maxtime"]) == (["1m"], ["5m"])
    assert (search["bantime"], search["bantime.maxtime"]) == (["10m"], ["1w"])


def test_a_refused_callback_is_blamed_on_its_sender(folder: Path) -> None:
    log = folder / "access.log"
    log.write_text("".join(f"{line}\n" for line in LINES), "utf-8")
    jail = jails(folder, fail2ban_nginx_access_log=str(log))["clawdbot-callback"]
    (regex,), (date,) = jail["addfailregex"], jail["datepattern"]
    found = read("fail2ban-regex", "-c", folder, "--out", "ip", "-d", date, log, regex).split()
    assert found == [address for address in LINES.values() if address]


def test_further_jails(folder: Path) -> None:
    extra = [{"name": "mine", "enabled": "true", "filter": "sshd", "logpath": "/dev/null", "maxretry": 2}]
    assert jails(folder, fail2ban_extra_jails=extra)["mine"]["maxretry"] == [2]
