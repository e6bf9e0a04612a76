"""The units of the bot, and the script that restarts them, on a systemd that only writes down what it is told."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rendering import evaluate, render

UNITS = ("clawdbot.service", "clawdbot-worker.service", "clawdbot-receiver.service")
RECEIVER = "clawdbot-receiver.service"
# What the tasks register.
REGISTERED = {
    "__clawdbot_account": {"uid": 990, "group": 990},
    "__clawdbot_archive": {"version": "r1"},
    "__clawdbot_environment": ["MODEL_API_KEY"],
}
SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$TOLD"
case "$1" in
    is-active) for last; do :; done; grep -qx "$last" "$ACTIVE" ;;
    start) [ "$2" != "${BROKEN:-}" ] ;;
esac
"""


def rendered(name: str, **variables: Any) -> str:
    """A template of the role as its tasks write it."""
    return render("clawdbot", name, **(REGISTERED | variables))


@pytest.mark.parametrize(
    ("variables", "services"),
    [
        ({}, 2),
        ({"clawdbot_dingtalk_intake": "stream"}, 2),
        ({"clawdbot_dingtalk_intake": "stream", "clawdbot_dingtalk_app_key": "d"}, 3),
        ({"clawdbot_feishu_intake": "connection", "clawdbot_feishu_app_id": "f"}, 3),
        ({"clawdbot_feishu_app_id": "f"}, 2),
    ],
)
def test_there_is_a_receiver_where_a_platform_wants_one(variables: dict[str, str], services: int) -> None:
    assert evaluate("clawdbot", "__clawdbot_services", **variables) == list(UNITS[:services])


@pytest.mark.parametrize("runtime", ["systemd", "docker"])
def test_all_services_are_sandboxed_alike(runtime: str) -> None:
    hardening = rendered("_hardening")
    for unit in UNITS:
        text = rendered(unit, clawdbot_runtime=runtime)
        assert hardening.strip() in text
        assert ("docker run" in text) == (runtime == "docker")
    assert re.search(r"^Type=notify$", rendered(RECEIVER), re.MULTILINE)
    assert "clawdbot:r1 python -m clawdbot receiver\n" in rendered(RECEIVER, clawdbot_runtime="docker")


@pytest.mark.parametrize("runtime", ["systemd", "docker"])
def test_systemd_understands_the_units(runtime: str, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd here; the scenario clawdbot starts them")
    for name in (*UNITS, "clawdbot.socket"):
        text = rendered(name, clawdbot_runtime=runtime)
        # Programs and files of a host.
        text = re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", text, flags=re.MULTILINE)
        text = re.sub(r"^(WorkingDirectory|EnvironmentFile|Requires)=.*\n", "", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text, "utf-8")
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in said.stderr.splitlines() if "clawdbot" in line] == []


class Host:
    """Folders of a host, and what its systemd was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.units = folder / "etc/systemd/system"
        self.standins = folder / "run/systemd/system"
        self.config = folder / "config"
        (self.units / "multi-user.target.wants").mkdir(parents=True)
        (folder / "bin").mkdir()
        self.config.mkdir()
        (folder / "bin/systemctl").write_text(SYSTEMCTL, "utf-8")
        (folder / "bin/systemctl").chmod(0o755)
        (folder / "active").write_text("", "utf-8")
        self.install("clawdbot.service", "clawdbot-worker.service")
        self.runtime("systemd")

    def install(self, *units: str) -> None:
        """Write units, as the tasks do."""
        for unit in units:
            (self.units / unit).write_text(rendered(unit), "utf-8")

    def runtime(self, name: str) -> None:
        """Set what the services run in."""
        (self.config / "service.env").write_text(f"CLAWDBOT_RUNTIME={name}\n", "utf-8")

    def active(self, *units: str) -> None:
        """Have units run."""
        (self.folder / "active").write_text("".join(f"{unit}\n" for unit in units), "utf-8")

    def restart(self, **environ: str) -> tuple[int, list[str]]:
        """Run the script; return its exit status, and what systemd was told to do."""
        script = rendered("clawdbot-restart.sh", __clawdbot_home=str(self.folder))
        for place in ("/etc/systemd/system", "/run/systemd/system"):
            script = script.replace(place, f"{self.folder}{place}")
        told = self.folder / "told"
        told.write_text("", "utf-8")
        environ |= {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "TOLD": str(told)}
        environ["ACTIVE"] = str(self.folder / "active")
        done = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True, check=False)
        verbs = ("start", "stop", "restart", "enable")
        return done.returncode, [line for line in told.read_text().splitlines() if line.split()[0] in verbs]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_node_without_a_receiver(host: Host) -> None:
    host.active("clawdbot.service")
    assert host.restart() == (
        0,
        [
            "enable --quiet clawdbot.service clawdbot-worker.service",
            "start clawdbot-standin.service",
            "restart clawdbot.service clawdbot-worker.service",
            "stop clawdbot-standin.service",
        ],
    )


def test_a_receiver_is_connected_while_it_restarts(host: Host) -> None:
    host.install(RECEIVER)
    host.active("clawdbot.service", RECEIVER)
    code, told = host.restart()
    assert (code, told[1:]) == (
        0,
        [
            "start clawdbot-standin.service",
            "start clawdbot-receiver-standin.service",
            "restart clawdbot.service clawdbot-worker.service clawdbot-receiver.service",
            "stop clawdbot-standin.service",
            "stop clawdbot-receiver-standin.service",
        ],
    )
    assert list(host.standins.iterdir()) == []


def test_a_receiver_that_cannot_start_changes_nothing(host: Host) -> None:
    host.install(RECEIVER)
    host.active("clawdbot.service", RECEIVER)
    code, told = host.restart(BROKEN="clawdbot-receiver-standin.service")
    assert code != 0
    assert not [line for line in told if line.startswith("restart")]
    assert list(host.standins.iterdir()) == []


def test_a_receiver_that_is_new_has_no_stand_in(host: Host) -> None:
    host.install(RECEIVER)
    code, told = host.restart()
    assert (code, told[1:]) == (0, ["restart clawdbot.service clawdbot-worker.service clawdbot-receiver.service"])


def test_a_receiver_that_is_not_wanted_any_more_is_stopped(host: Host) -> None:
    wants = host.units / "multi-user.target.wants" / RECEIVER
    wants.symlink_to(host.units / RECEIVER)
    host.active(RECEIVER)
    code, told = host.restart()
    assert (code, told[0]) == (0, f"stop {RECEIVER}")
    assert not wants.is_symlink()


def test_containers_have_no_stand_in(host: Host) -> None:
    host.install(RECEIVER)
    host.runtime("docker")
    host.active("clawdbot.service", RECEIVER)
    assert not [line for line in host.restart()[1] if "standin" in line]
