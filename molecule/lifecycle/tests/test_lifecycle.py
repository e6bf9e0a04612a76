"""The life of an installation under load: one story, in which each test goes on where the last one ended."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from installation import LONGEST_RUN, NEVER_READY, Installation, application
from testinfra.host import Host

# Molecule's scenario name and "-", with which the names of all hosts begin.
PREFIX = "lifecycle-"
DOCKER = "-eclawdbot_runtime=docker"


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Installation:
    """The installation with its two first nodes."""
    return Installation(
        request.config.getoption("--ansible-inventory"),
        {
            "loadbalancer": ["lb1"],
            "clawdbot": ["app1", "app2"],
            "redis": ["redis1"],
            "monitoring": ["redis1"],
            "internet": ["outside"],
        },
    )


def all_run(site: Installation, version: str, *nodes: str) -> None:
    """All of ``nodes``, and nobody else, serve the same release of ``version``."""
    (release,) = site.releases(*nodes)
    assert release.startswith(f"{version}-")
    assert site.members() == list(nodes)


def nothing_is_left(site: Installation, *gone: str) -> None:
    """None of those who stay knows the nodes that have ``gone`` or lets them in, and they get no requests."""
    assert site.members() == ["app1", "app2"]
    for name, host in ((name, site.on(name)) for name in ("lb1", "app1", "app2", "redis1")):
        for node in gone:
            address = site.hosts[node]["ansible_host"]
            for pattern in (address.replace(".", r"\."), PREFIX + node):
                assert host.run(f"sudo grep -rlwE '{pattern}' /etc").stdout == "", name
            assert not re.search(rf"\b{re.escape(address)}\b", host.check_output("sudo nft list ruleset")), name
            # Prometheus closes its idle connections to them in its own time.
            connections = host.check_output("ss -Htn state established '( sport = :6379 or sport = :18789 )'")
            assert not re.search(rf"\b{re.escape(address)}\b", connections), (name, connections)


def nothing_to_do(site: Installation, *nodes: str) -> None:
    """``site.yml`` finds everything as the inventory with ``nodes`` wants it."""
    said = site.play("site.yml")
    changed = dict(re.findall(rf"^{PREFIX}(\w+).*changed=(\d+)", said, re.MULTILINE))
    assert changed == dict.fromkeys(["lb1", *nodes, "redis1"], "0")


def test_mistakes_are_refused_with_the_way_out(site: Installation) -> None:
    site.nodes("app1", "app2")
    assert "Name the node: -e node=NAME" in site.refuse("playbooks/remove_node.yml")
    assert "app9: no such node" in site.refuse("playbooks/add_node.yml", "-e", "node=app9")
    assert "did you mean clawdbot_release?" in site.refuse("playbooks/rollback.yml", "-e", "clawdbot_relase=1")
    assert "No node has an earlier release" in site.refuse("playbooks/rollback.yml")
    said = site.refuse("playbooks/rollback.yml", "-e", "clawdbot_release=9.9.9-nowhere")
    assert "There is no release 9.9.9-nowhere" in said
    site.nodes("app1")
    assert "no node is left in regular service" in site.refuse("playbooks/remove_node.yml", "-e", f"node={PREFIX}app1")
    site.nodes("app1", "app2")


def test_a_third_node_joins_under_load(site: Installation) -> None:
    first_run = float((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "first-run").read_text())
    site.nodes("app1", "app2", "app3")
    with site.load():
        begin = time.monotonic()
        site.play("playbooks/add_node.yml", "-e", f"node={PREFIX}app3")
        seconds = time.monotonic() - begin
        time.sleep(3)
    assert site.callbacks("app3") > 10
    print(f"first run {first_run:.0f} s, one node more {seconds:.0f} s")
    nothing_to_do(site, "app1", "app2", "app3")


def test_updates_and_reboots_of_the_nodes_cost_no_request(site: Installation) -> None:
    nodes = ("app1", "app2", "app3")
    balancer = site.on("lb1")
    packages(site.on("app1"), "1", "2")
    # The only balancer goes on, and with the updated library.
    packages(balancer, "1", "2")
    library = balancer.check_output("sudo grep -o '/.*/libcrypto.*' /proc/$(cat /run/nginx.pid)/maps | head -n 1")
    balancer.check_output(f"sudo cp --archive {library} {library}.new && sudo mv {library}.new {library}")
    for name in nodes:
        site.reboots_like_a_machine(name)
        site.on(name).check_output("sudo touch /run/reboot-required")
    before = {name: booted(site.on(name)) for name in (*nodes, "lb1")}
    with site.load():
        said = site.play("playbooks/patch.yml")
        print(said)
    assert "package: clawdbot-test" in said
    assert balancer.run("sudo grep -q 'libcrypto.*(deleted)' /proc/$(cat /run/nginx.pid)/maps").rc == 1
    after = {name: booted(site.on(name)) for name in (*nodes, "lb1")}
    assert {name for name in before if before[name] != after[name]} == set(nodes)
    assert site.on("app1").check_output("dpkg-query --show clawdbot-test") == "clawdbot-test\t2"
    assert site.members() == list(nodes)
    site.play("playbooks/patch.yml")
    assert after == {name: booted(site.on(name)) for name in (*nodes, "lb1")}


def booted(host: Host) -> str:
    """When the host was started."""
    return str(host.check_output("systemctl show --property=UserspaceTimestamp --value"))


def packages(host: Host, installed: str, newer: str) -> None:
    """Gives a host an archive that has another version of a package than it has installed."""
    host.check_output(
        f"""sudo sh -euc '
        mkdir -p /opt/archive && cd /opt/archive
        for version in {installed} {newer}; do
            mkdir -p tree/DEBIAN
            printf "Package: clawdbot-test\nVersion: $version\nArchitecture: all\nMaintainer: nobody\n\
Description: of the tests\n" > tree/DEBIAN/control
            dpkg-deb --build --root-owner-group tree clawdbot-test_$version.deb
        done
        dpkg --install clawdbot-test_{installed}.deb
        {{ dpkg-deb --field clawdbot-test_{newer}.deb
           echo "Filename: ./clawdbot-test_{newer}.deb"
           echo "Size: $(stat -c %s clawdbot-test_{newer}.deb)"
           echo "SHA256: $(sha256sum clawdbot-test_{newer}.deb | cut -d" " -f1)"; }} > Packages
        echo "deb [trusted=yes] file:/opt/archive ./" > /etc/apt/sources.list.d/archive.list'"""
    )


def test_a_new_version_is_rolled_out_over_three_nodes(site: Installation, tmp_path: Path) -> None:
    with site.load():
        run = site.begin("playbooks/deploy.yml", application(tmp_path, "8.0.1"))
        while not site.on("redis1").run("sudo cat /run/clawdbot-run").stdout and run.poll() is None:
            time.sleep(0.5)
        assert "Another run is changing this installation" in site.refuse("playbooks/deploy.yml")
        said, _ = run.communicate(timeout=600)
        assert run.returncode == 0, said[-6000:]
        for _ in range(5):
            site.on("lb1").check_output("sudo systemctl reload nginx")
            time.sleep(0.5)
    all_run(site, "8.0.1", "app1", "app2", "app3")


def test_a_release_that_is_never_ready_stops_at_the_first_node(site: Installation, tmp_path: Path) -> None:
    with site.load():
        said = site.refuse("playbooks/deploy.yml", application(tmp_path, "8.0.2", NEVER_READY))
    assert f"{PREFIX}app1: release 8.0.2" in said
    assert "serves 8.0.1" in said
    assert "app2: release 8.0.2" not in said
    all_run(site, "8.0.1", "app1", "app2", "app3")


def test_a_run_that_is_killed_half_way_is_mended_by_the_next(site: Installation, tmp_path: Path) -> None:
    source = application(tmp_path, "8.0.3")
    with site.load():
        # The second node is switched over, not yet restarted, and out of the balancer.
        run = site.begin("playbooks/deploy.yml", source, kill_before="2:clawdbot : Restart the bot")
        run.communicate(timeout=600)
        assert run.returncode == -9
        assert site.members() == ["app1", "app3"]
        site.play("playbooks/deploy.yml", source)
    all_run(site, "8.0.3", "app1", "app2", "app3")


def test_back_to_the_release_before(site: Installation) -> None:
    with site.load():
        site.play("playbooks/rollback.yml")
    all_run(site, "8.0.1", "app1", "app2", "app3")


def test_a_limited_run_changes_one_node_and_nobodys_upstream(site: Installation) -> None:
    first = site.on("app1").check_output("ls /opt/clawdbot/releases | grep -v ^8")
    with site.load():
        site.play("site.yml", "--limit", f"{PREFIX}app2", "-e", f"clawdbot_release={first}")
    assert site.releases("app2") == {first}
    assert site.releases("app1", "app3") != {first}
    assert site.members() == ["app1", "app2", "app3"]


def test_a_fourth_node_joins_by_the_inventory_alone(site: Installation) -> None:
    site.nodes("app1", "app2", "app3", "app4")
    with site.load():
        # The bot of this source is the first release again, so the others follow app2.
        site.play("site.yml")
        time.sleep(3)
    assert len(site.releases("app1", "app2", "app3", "app4")) == 1
    assert site.callbacks("app4") > 10


def test_two_nodes_leave_one_of_them_dead(site: Installation) -> None:
    with site.load():
        site.kill("app3")
        site.play("playbooks/remove_node.yml", "-e", f"node={PREFIX}app3")
        site.nodes("app1", "app2", "app4")
        site.play("playbooks/remove_node.yml", "-e", f"node={PREFIX}app4")
        site.nodes("app1", "app2")
    assert site.on("app4").run("systemctl is-active clawdbot.service clawdbot-worker.service").rc != 0
    nothing_is_left(site, "app3", "app4")
    nothing_to_do(site, "app1", "app2")


def test_two_nodes_join_and_leave_by_the_inventory_alone(site: Installation) -> None:
    site.start("app3")
    before = {name: site.callbacks(name) for name in ("app3", "app4")}
    with site.load():
        site.nodes("app1", "app2", "app3", "app4")
        site.play("site.yml")
        time.sleep(3)
        assert site.members() == ["app1", "app2", "app3", "app4"]
        for name, number in before.items():
            assert site.callbacks(name) > number + 10
        site.nodes("app1", "app2")
        site.play("site.yml")
    nothing_is_left(site, "app3", "app4")
    nothing_to_do(site, "app1", "app2")


def test_the_nodes_change_to_containers_and_take_a_new_version(site: Installation, tmp_path: Path) -> None:
    site.nodes("app1", "app2")
    with site.load():
        site.play("playbooks/deploy.yml", DOCKER, application(tmp_path, "8.1.0"))
    all_run(site, "8.1.0", "app1", "app2")
    (release,) = site.releases("app1", "app2")
    images = {
        site.on(name).check_output("sudo docker ps --no-trunc --format '{{.Image}}'") for name in ("app1", "app2")
    }
    assert images == {f"clawdbot:{release}\nclawdbot:{release}"}


def test_a_new_version_is_rolled_out_over_containers(site: Installation, tmp_path: Path) -> None:
    with site.load():
        site.play("playbooks/deploy.yml", DOCKER, application(tmp_path, "8.1.1"))
        said = site.refuse("playbooks/deploy.yml", DOCKER, application(tmp_path, "8.1.2", NEVER_READY))
    assert f"{PREFIX}app1: release 8.1.2" in said
    assert "serves 8.1.1" in said
    all_run(site, "8.1.1", "app1", "app2")


def test_containers_go_back_to_the_release_before_and_to_the_other_runtime(site: Installation) -> None:
    with site.load():
        site.play("playbooks/rollback.yml", DOCKER)
        all_run(site, "8.1.0", "app1", "app2")
        site.play("playbooks/deploy.yml")
    assert site.on("app1").check_output("sudo docker ps --quiet") == ""
    assert site.members() == ["app1", "app2"]


def test_a_node_gets_the_next_release_of_debian_by_a_run_that_dies(site: Installation) -> None:
    """Killed when the packages are there and the node has not been restarted; the next run goes on with it."""
    nodes = list(site.groups["clawdbot"])
    assert release_of_debian(site.on("app1")) == "12"
    site.reboots_like_a_machine("app1")
    only = ("--limit", f"{PREFIX}app1")
    before = site.on("app1").check_output("readlink /opt/clawdbot/current/venv")
    with site.load():
        reboot = "1:base : Reboot, and wait until the host answers"
        run = site.begin("playbooks/upgrade_release.yml", *only, kill_before=reboot)
        said, _ = run.communicate(timeout=LONGEST_RUN)
        assert run.returncode == -9, said[-6000:]
        assert site.members() == nodes[1:]
        said = site.play("playbooks/upgrade_release.yml", *only)
        assert "it has begun already" in said
        time.sleep(3)
    assert site.members() == nodes
    assert release_of_debian(site.on("app1")) == "13"
    assert site.on("app1").check_output("readlink /opt/clawdbot/current/venv") != before
    assert "Nothing to do." in site.play("playbooks/upgrade_release.yml", *only)


def test_the_host_of_redis_gets_the_next_release_of_debian(site: Installation) -> None:
    """There is no other, so callbacks are refused while it reboots; what was accepted is answered."""
    site.reboots_like_a_machine("redis1")
    with site.load(forgiving=True) as report:
        said = site.play("playbooks/upgrade_release.yml")
        assert "There is no other redis and no other monitoring" in said
        time.sleep(20)
    print(report["summary"])
    assert report["lost"] == 0, report
    assert release_of_debian(site.on("redis1")) == "13"
    nothing_to_do(site, *site.groups["clawdbot"])


def release_of_debian(host: Host) -> str:
    """Its number."""
    return str(host.check_output("cut -d. -f1 /etc/debian_version"))
