"""What containers add to scenario `clawdbot`: one image for all nodes, an engine that may die, and the way back."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import testinfra
from bot import nobody_refused, wait_until_ready
from installation import ROOT, application
from testinfra.host import Host

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
NAMES = ("clawdbot-docker-debian12", "clawdbot-docker-debian13")


# A registry without accounts, in memory.
REGISTRY = "version: 0.1\nstorage: {filesystem: {rootdirectory: /run/registry}}\nhttp: {addr: '127.0.0.1:5000'}\n"


@pytest.fixture
def both() -> list[Host]:
    """The two hosts."""
    return [testinfra.get_host(f"ansible://{name}?ansible_inventory={INVENTORY}") for name in NAMES]


@pytest.fixture
def second(both: list[Host]) -> Host:
    """The host for what is tried only once; changes that succeed are part of scenario lifecycle."""
    return both[1]


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


def test_the_image_is_of_use_by_itself(second: Host) -> None:
    """For those who run it without the package: a first configuration, a number for the user, a worker that is well."""
    image = second.check_output("sudo docker image ls --format '{{.Repository}}:{{.Tag}}' clawdbot")
    folder = "/srv/plain"
    run = f"sudo docker run --network none --volume {folder}:/app/config"
    with second.sudo():
        second.check_output(f"install -d -o 10001 -g 10001 {folder}")
    second.check_output(f"{run} --rm {image} python -m clawdbot init --config-dir /app/config --model-type echo")
    assert second.check_output(f"sudo docker inspect --format '{{{{.Config.User}}}}' {image}") == "10001"
    second.check_output(f"{run} --detach --name plain --health-interval 1s {image} python -m clawdbot worker")
    try:
        well = "sudo docker inspect --format '{{.State.Health.Status}}' plain | grep -qx healthy"
        second.check_output("timeout 30 sh -c %s", f"until {well}; do sleep 1; done")
    finally:
        second.check_output(f"sudo docker rm --force plain; sudo rm -r {folder}")


def test_no_image_holds_the_networks_password(host: Host) -> None:
    """But for the stage that Python's packages are installed in, whose history shows the address of their index."""
    search = "grep --text --file /run/needle"
    with host.sudo():
        host.check_output("sh -c 'umask 077; head -c 24 /opt/closed_network/password >/run/needle'")
        for image in host.check_output(
            "docker image ls --quiet clawdbot; docker image ls --quiet clawdbot-base"
        ).split():
            described = f"docker history --no-trunc {image}; docker inspect {image}"
            assert host.run(f"sh -c '{described}' | {search}").stdout == ""
            host.check_output(f"docker create --name look {image} true")
            assert host.run(f"docker export look | {search} --count").stdout == "0\n"
            host.check_output("docker rm look")
        host.check_output("rm /run/needle")


@pytest.mark.every_host
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


def test_the_engine_restarts_without_a_refused_connection(host: Host) -> None:
    with nobody_refused(host):
        host.check_output("sudo systemctl restart docker.service")
        wait_until_ready(host)
    assert len(containers(host)) == 2


def test_a_killed_engine_costs_nothing_for_good(host: Host) -> None:
    host.check_output("sudo systemctl kill --signal=KILL docker.service; sleep 1")
    wait_until_ready(host)
    assert len(containers(host)) == 2


def test_a_broken_change_of_the_runtime_goes_back_without_a_refused_connection(second: Host, tmp_path: Path) -> None:
    before = second.check_output("readlink /opt/clawdbot/current")
    with nobody_refused(second):
        done = play("-eclawdbot_runtime=systemd", application(tmp_path, "8.3.0", "raise RuntimeError\n"))
        assert done.returncode != 0
        assert f"serves {before.rsplit('/', 1)[1]} again" in " ".join(done.stdout.split()), done.stdout[-3000:]
        wait_until_ready(second)
    assert len(containers(second)) == 2
    assert second.check_output("readlink /opt/clawdbot/current") == before
    second.check_output("sudo clawdbot check")


def test_an_image_of_a_registry_is_pulled(second: Host) -> None:
    image, other = "127.0.0.1:5000/clawdbot:1", "127.0.0.1:5000/clawdbot:none"
    before = second.check_output("basename $(readlink /opt/clawdbot/current)")
    steps = (
        "apt-get install --yes --quiet --no-install-recommends docker-registry",
        "systemctl disable --quiet --now docker-registry.service",
        "systemd-run --quiet --unit=registry docker-registry serve /run/registry.yml",
        f"docker tag clawdbot:{before} {image}",
        f"for try in 1 2 3 4 5; do docker push --quiet {image} && break; sleep 1; done",
        f"docker image rm {image}",
    )
    second.check_output("printf %s | sudo tee /run/registry.yml", REGISTRY)
    second.check_output("sudo sh -ec %s", "; ".join(steps))
    refused = play(f"-eclawdbot_image={other}")
    assert refused.returncode != 0
    assert other in refused.stdout
    assert second.check_output("basename $(readlink /opt/clawdbot/current)") == before

    done = play(f"-eclawdbot_image={image}")
    assert done.returncode == 0, done.stdout[-3000:]
    after = second.check_output("basename $(readlink /opt/clawdbot/current)")
    assert after != before
    assert [line.split()[1] for line in containers(second)] == [f"clawdbot:{after}"] * 2
    names = f"clawdbot:{before} clawdbot:{after}"
    identifiers = second.check_output(f"sudo docker image inspect --format '{{{{.Id}}}}' {names}").splitlines()
    assert identifiers[0] == identifiers[1]
