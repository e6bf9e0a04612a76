"""What containers add to scenario `clawdbot`: one image for all nodes, an engine that may die, and the way back."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
NAMES = ("clawdbot-docker-debian12", "clawdbot-docker-debian13")

# Connects without a pause; the first connection that is refused or cut ends it, and is said.
KNOCK = """
import urllib.request
while True:
    urllib.request.urlopen("http://127.0.0.1:18789/health", timeout=60).read()
"""


@pytest.fixture
def both() -> list[Host]:
    """The two hosts."""
    return [testinfra.get_host(f"ansible://{name}?ansible_inventory={INVENTORY}") for name in NAMES]


@pytest.fixture
def knock(host: Host) -> Iterator[None]:
    """Requests from the host itself as long as the test lasts; none may fail."""
    host.check_output(f"sudo systemd-run --unit=knock python3 -c '{KNOCK}'")
    yield
    said = host.check_output("systemctl is-active knock.service || sudo journalctl --unit=knock --output=cat")
    host.run("sudo systemctl stop knock.service; sudo systemctl reset-failed knock.service")
    assert said.strip() == "active"


def wait_until_ready(host: Host) -> None:
    """Waits up to 30 s for bot and worker."""
    ready = "python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:18789/ready\")' 2>/dev/null"
    units = "systemctl is-active --quiet clawdbot.service clawdbot-worker.service"
    host.check_output("timeout 30 sh -c %s", f"until {units} && {ready}; do sleep 0.3; done")


def containers(host: Host) -> list[str]:
    """What runs: name, image and identifier."""
    said = host.check_output("sudo docker ps --all --format '{{.Names}} {{.Image}} {{.ID}}'")
    return sorted(said.splitlines())


def play(*options: str) -> subprocess.CompletedProcess[str]:
    """Runs the scenario's play on the second host."""
    return subprocess.run(
        ["ansible-playbook", "-i", INVENTORY, "molecule/clawdbot/converge.yml", "--limit", NAMES[1], *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_image_is_built_once_and_shipped(both: list[Host]) -> None:
    identifiers = {host.check_output("sudo docker image ls --quiet --no-trunc clawdbot") for host in both}
    assert len(identifiers) == 1, "an image that is built again gets another identifier"
    bases = [host.check_output("sudo docker image ls --quiet clawdbot-base") for host in both]
    assert sorted(map(bool, bases)) == [False, True], "the other node has nothing to build on"


def test_the_containers_run_the_current_release(host: Host) -> None:
    release = host.check_output("basename $(readlink /opt/clawdbot/current)")
    assert [line.split()[:2] for line in containers(host)] == [
        ["clawdbot", f"clawdbot:{release}"],
        ["clawdbot-worker", f"clawdbot:{release}"],
    ]


@pytest.mark.parametrize("name", ["clawdbot", "clawdbot-worker"])
def test_a_container_may_nothing_that_the_bot_does_not_need(host: Host, name: str) -> None:
    status = host.check_output(f"sudo docker exec {name} cat /proc/1/status")
    assert re.search(r"^Uid:\t([1-9]\d*)\t\1\t\1\t\1$", status, re.MULTILINE), "it runs as root"
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    for path in ("/app/x", "/opt/clawdbot/config/x", "/run/clawdbot-log/x"):
        assert host.run(f"sudo docker exec {name} touch {path}").rc != 0, path
        # Not even root could.
        assert "Read-only file system" in host.run(f"sudo docker exec --user 0 {name} touch {path}").stderr
    assert host.run(f"sudo docker exec {name} cat /opt/clawdbot/config/clawdbot.env").rc != 0
    assert host.run(f"sudo docker exec {name} sh -c 'ls /var/run/docker.sock'").rc != 0


@pytest.mark.parametrize("name", ["clawdbot", "clawdbot-worker"])
def test_a_killed_container_comes_back(host: Host, name: str) -> None:
    before = containers(host)
    host.check_output(f"sudo docker kill {name}; sleep 1")
    wait_until_ready(host)
    assert len(containers(host)) == 2
    assert len(set(containers(host)) - set(before)) == 1


def test_a_killed_client_leaves_no_second_container(host: Host) -> None:
    before = containers(host)
    host.check_output("sudo systemctl kill --signal=KILL --kill-whom=main clawdbot.service; sleep 1")
    wait_until_ready(host)
    assert len(containers(host)) == 2
    assert len(set(containers(host)) - set(before)) == 1


@pytest.mark.usefixtures("knock")
def test_the_engine_restarts_without_a_refused_connection(host: Host) -> None:
    host.check_output("sudo systemctl restart docker.service")
    wait_until_ready(host)
    assert len(containers(host)) == 2


def test_a_killed_engine_costs_nothing_for_good(host: Host) -> None:
    host.check_output("sudo systemctl kill --signal=KILL docker.service; sleep 1")
    wait_until_ready(host)
    assert len(containers(host)) == 2


@pytest.mark.usefixtures("knock")
def test_a_broken_change_of_the_runtime_goes_back_without_a_refused_connection(host: Host, tmp_path: Path) -> None:
    if NAMES[1] not in host.backend.get_pytest_id():
        pytest.skip("once is enough; changes that succeed are part of scenario lifecycle")
    before = host.check_output("readlink /opt/clawdbot/current")
    source = tmp_path / "app"
    shutil.copytree(ROOT / "app", source, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))
    (source / "app.py").write_text("raise RuntimeError\n")
    done = play("-eclawdbot_runtime=systemd", f"-eclawdbot_source={source}")
    assert done.returncode != 0
    assert f"serves {before.rsplit('/', 1)[1]} again" in " ".join(done.stdout.split()), done.stdout[-3000:]
    wait_until_ready(host)
    assert len(containers(host)) == 2
    assert host.check_output("readlink /opt/clawdbot/current") == before
    host.check_output("sudo clawdbot check")
