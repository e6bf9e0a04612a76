"""The logs of the bot: who may read them, how rsyslog writes them, and how they are rotated."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import readers
from readers import read_apart
from rendering import render

NAMES = ("access", "error", "model_api")
HOME = "/opt/clawdbot"
#: Folders and files, and who has them.
PLACES = {
    HOME: ("d", "0755", "root", "root"),
    f"{HOME}/releases": ("d", "0755", "root", "root"),
    f"{HOME}/venvs": ("d", "0755", "root", "root"),
    f"{HOME}/config": ("d", "0751", "root", "clawdbot"),
    f"{HOME}/logs": ("d", "0750", "root", "adm"),
    **{f"{HOME}/logs/{name}.log": ("f", "0640", "root", "adm") for name in NAMES},
    "/run/clawdbot-log": ("d", "0755", "root", "root"),
}
#: What services make for themselves is made for containers.
CONTAINERS = {
    "/run/clawdbot": ("d", "0750", "clawdbot", "clawdbot"),
    "/run/clawdbot/metrics": ("d", "0750", "clawdbot", "clawdbot"),
    "/var/lib/clawdbot-spool": ("d", "0700", "clawdbot", "clawdbot"),
}
#: Sends lines as the bot does, until all logs have theirs.
SENDER = """
import pathlib, socket, sys, time
places, logs = sys.argv[1], pathlib.Path(sys.argv[2])
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for attempt in range(100):
    try:
        sender.connect(places)
        break
    except OSError:
        time.sleep(0.1)
for name in ("clawdbot-access", "clawdbot-error", "clawdbot-model_api", "clawdbot-other", "sshd"):
    for number in range(300):
        sender.send(f"<14>Nov 28 10:00:00 {name}: {name} {number}\\n".encode())
for attempt in range(100):
    if sum(len(file.read_text().splitlines()) for file in logs.iterdir()) >= 900:
        break
    time.sleep(0.1)
"""


@pytest.mark.parametrize(("runtime", "meant"), [("systemd", PLACES), ("docker", PLACES | CONTAINERS)])
def test_places(runtime: str, meant: dict[str, tuple[str, ...]]) -> None:
    lines = render("clawdbot", "tmpfiles.conf", clawdbot_runtime=runtime).splitlines()[1:]
    found = {path: (kind, *rest[:3]) for kind, path, *rest in (line.split() for line in lines)}
    assert found == meant


def test_lines_come_into_their_files_whole_and_nothing_else_does(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    given = {"__clawdbot_home": str(tmp_path), "__clawdbot_log_socket": "/run/clawdbot-log/socket"}
    text = render("clawdbot", "rsyslog.conf", **given)
    assert text.count('fileOwner="root" fileGroup="adm" fileCreateMode="0640" createDirs="off"') == 1
    # In a namespace of one's own there is one group.
    main = f'module(load="imuxsock" SysSock.Use="off")\n{text}'.replace('fileGroup="adm"', 'fileGroup="root"')
    (tmp_path / "rsyslog.conf").write_text(main, "utf-8")
    (tmp_path / "sender.py").write_text(SENDER, "utf-8")
    modules = next((path / "rsyslog" for path in readers.LIBRARIES if (path / "rsyslog").exists()), "")
    options = f"-M {modules}" if modules else ""
    script = f"""
mkdir /run/clawdbot-log
rsyslogd {options} -f {tmp_path}/rsyslog.conf -i /run/rsyslog.pid -n & daemon=$!
/usr/bin/python3 {shlex.quote(str(tmp_path / "sender.py"))} /run/clawdbot-log/socket {logs}
kill $daemon
wait $daemon
stat -c '%a %n' {logs}/*
"""
    said = read_apart(tmp_path, script, "rsyslogd").split()
    assert said == [word for name in NAMES for word in ("640", f"{logs}/{name}.log")]
    for name in NAMES:
        expected = [f"clawdbot-{name} {number}" for number in range(300)]
        assert (logs / f"{name}.log").read_text("utf-8").splitlines() == expected


def test_a_week_is_kept_and_the_newest_day_is_readable(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    text = render("clawdbot", "logrotate", __clawdbot_home=str(tmp_path))
    assert re.search(r"(?m)^  daily$", text)
    told = tmp_path / "told"
    text = text.replace("/usr/lib/rsyslog/rsyslog-rotate", f"echo rotated >>{told}").replace("root adm", "root root")
    (tmp_path / "rotate.conf").write_text(text, "utf-8")
    script = f"""
umask 077
for day in $(seq 10); do
    echo "$day" >>{logs}/access.log
    echo "$day" >>{logs}/error.log
    logrotate --force --state {tmp_path}/state {tmp_path}/rotate.conf
done
logrotate --force --state {tmp_path}/state {tmp_path}/rotate.conf
stat -c '%a' {logs}/access.log
"""
    assert read_apart(tmp_path, script, "logrotate") == "640\n"
    kept = [f"access.log.{day}" + (".gz" if day > 1 else "") for day in range(1, 8)]
    assert sorted(file.name for file in logs.glob("access*")) == ["access.log", *kept]
    assert (logs / "access.log.1").read_text("utf-8") == "10\n"
    # For both logs at once, and not at all on the day without a line.
    assert told.read_text("utf-8") == "rotated\n" * 10
