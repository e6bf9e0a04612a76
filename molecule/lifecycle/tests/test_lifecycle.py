"""The life of an installation under load: one story, in which each test goes on where the last one ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import testinfra
import yaml
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

ROOT = Path(__file__).resolve().parents[3]
PREFIX = "lifecycle-"
# Messages a second; the platforms take 16 and 20 answers a second. Most come twice, which makes 50 requests a second.
RATE = 28
TWICE = 0.8
# Each user stays below the bot's limit of 60 messages a minute.
CONVERSATIONS = 100
DOCKER = "-eclawdbot_runtime=docker"
MEMBERS = "/etc/nginx/clawdbot_members.conf"


class Site:
    """The installation as the operator sees it: an inventory, playbooks, hosts, and a world that writes to the bot."""

    def __init__(self, runner: AnsibleRunner, folder: Path) -> None:
        self.folder = folder
        self.hosts = {
            name.removeprefix(PREFIX): {
                key: value
                for key, value in runner.get_variables(name).items()
                if key in ("ansible_host", "ansible_user", "ansible_private_key_file")
            }
            for name in runner.get_hosts("all")
        }
        folder.mkdir(exist_ok=True)
        if not (folder / "group_vars").exists():
            (folder / "group_vars").symlink_to(ROOT / "inventories/sandbox/group_vars")

    def nodes(self, *names: str) -> None:
        """Edits the inventory: these are the nodes."""
        members = {
            "loadbalancer": ["lb1"],
            "clawdbot": names,
            "redis": ["redis1"],
            "monitoring": ["redis1"],
            "internet": ["outside"],
        }
        children = {
            group: {"hosts": {PREFIX + host: self.hosts[host] for host in hosts}} for group, hosts in members.items()
        }
        (self.folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": children}}))

    def begin(self, playbook: str, *options: str, **environment: str) -> subprocess.Popen[str]:
        """Starts a playbook."""
        return subprocess.Popen(
            ["ansible-playbook", "-i", str(self.folder), playbook, *options],
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def play(self, playbook: str, *options: str) -> str:
        """Runs a playbook that succeeds; returns what it said."""
        run = self.begin(playbook, *options)
        said, _ = run.communicate(timeout=900)
        assert run.returncode == 0, said[-6000:]
        return said

    def refuse(self, playbook: str, *options: str) -> str:
        """Runs a playbook that fails; returns what it said, in one line."""
        run = self.begin(playbook, *options)
        said, _ = run.communicate(timeout=900)
        assert run.returncode != 0, said[-6000:]
        return " ".join(said.split())

    def on(self, name: str, port: int = 2222) -> Host:
        """A connection to a host."""
        host = self.hosts[name]
        return testinfra.get_host(
            f"ssh://{host['ansible_user']}@{host['ansible_host']}:{22 if name == 'outside' else port}",
            ssh_identity_file=host["ansible_private_key_file"],
            ssh_extra_args="-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
        )

    @contextmanager
    def load(self) -> Iterator[None]:
        """Signed load from outside as long as the block lasts; afterwards nothing of it may have failed."""
        host = self.hosts["outside"]
        run = subprocess.Popen(
            [
                *["ssh", "-i", host["ansible_private_key_file"], "-o", "StrictHostKeyChecking=no"],
                *["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"],
                f"{host['ansible_user']}@{host['ansible_host']}",
                "sudo systemd-run --quiet --collect --pipe --wait --unit=load --working-directory=/opt/simulator"
                " python3 -m clawdbot_simulator load --config config.json --duration 600 --settle 90"
                f" --rate {RATE} --duplicates {TWICE} --conversations {CONVERSATIONS} --callback-base http://{self.hosts['lb1']['ansible_host']}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            time.sleep(3)  # a few messages before anything happens
            yield
            time.sleep(1)
        finally:
            self.on("outside").run("sudo systemctl kill --signal=TERM load.service")
            said, complaint = run.communicate(timeout=300)
        print(complaint)
        assert json.loads(said)["ok"], complaint

    def members(self) -> list[str]:
        """Names of those that get requests."""
        lines = self.on("lb1").check_output(f"sudo cat {MEMBERS}").splitlines()
        return [line.split("# " + PREFIX)[1] for line in lines if line.startswith("server ") and " down;" not in line]

    def releases(self, *names: str) -> set[str]:
        """Releases that run on these nodes."""
        return {self.on(name).check_output("basename $(readlink /opt/clawdbot/current)") for name in names}

    def callbacks(self, name: str) -> int:
        """Number of callbacks that a node has answered."""
        # grep says 0 and fails when there is none.
        return int(self.on(name).check_output("sudo grep -c /callback /opt/clawdbot/logs/access.log || true"))


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Site:
    """The installation with its two first nodes."""
    runner = AnsibleRunner(request.config.getoption("--ansible-inventory"))
    return Site(runner, Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "lifecycle")


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """Makes a version of the application, with a text put in front of app.py; returns the option that deploys it."""

    def make(version: str, prologue: str = "") -> str:
        folder = tmp_path_factory.mktemp(version) / "app"
        shutil.copytree(ROOT / "app", folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))
        init = folder / "clawdbot/__init__.py"
        init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text()))
        entry = folder / "app.py"
        entry.write_text(entry.read_text() + prologue)
        return f"-eclawdbot_source={folder}"

    return make


def test_mistakes_are_refused_with_the_way_out(site: Site) -> None:
    site.nodes("app1", "app2")
    assert "Name the node: -e node=NAME" in site.refuse("playbooks/remove_node.yml")
    assert "app9 is no node" in site.refuse("playbooks/add_node.yml", "-e", "node=app9")
    assert "did you mean clawdbot_release?" in site.refuse("playbooks/rollback.yml", "-e", "clawdbot_relase=1")
    assert "No node has an earlier release" in site.refuse("playbooks/rollback.yml")
    said = site.refuse("playbooks/rollback.yml", "-e", "clawdbot_release=9.9.9-nowhere")
    assert "There is no release 9.9.9-nowhere" in said
    site.nodes("app1")
    assert "is the last node in regular service" in site.refuse("playbooks/remove_node.yml", "-e", f"node={PREFIX}app1")
    site.nodes("app1", "app2")


def test_a_third_node_joins_under_load(site: Site) -> None:
    first_run = float((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "first-run").read_text())
    site.nodes("app1", "app2", "app3")
    with site.load():
        begin = time.monotonic()
        site.play("playbooks/add_node.yml", "-e", f"node={PREFIX}app3")
        seconds = time.monotonic() - begin
        time.sleep(3)
    assert site.callbacks("app3") > 10
    print(f"first run {first_run:.0f} s, one node more {seconds:.0f} s")


def test_a_new_version_is_rolled_out_over_three_nodes(site: Site, application: Callable[[str, str], str]) -> None:
    with site.load():
        run = site.begin("playbooks/deploy.yml", application("8.0.1", ""))
        while not site.on("redis1").run("sudo cat /run/clawdbot-run").stdout and run.poll() is None:
            time.sleep(0.5)
        assert "Another run is changing this installation" in site.refuse("playbooks/deploy.yml")
        said, _ = run.communicate(timeout=600)
        assert run.returncode == 0, said[-6000:]
        for _ in range(5):
            site.on("lb1").check_output("sudo systemctl reload nginx")
            time.sleep(0.5)
    (release,) = site.releases("app1", "app2", "app3")
    assert release.startswith("8.0.1-")
    assert site.members() == ["app1", "app2", "app3"]


def test_a_release_that_is_never_ready_stops_at_the_first_node(
    site: Site, application: Callable[[str, str], str]
) -> None:
    broken = '\napp.view_functions["ready"] = lambda: ("not yet", 503)\n'
    with site.load():
        said = site.refuse("playbooks/deploy.yml", application("8.0.2", broken))
    assert f"{PREFIX}app1: release 8.0.2" in said
    assert "serves 8.0.1" in said
    assert "app2: release 8.0.2" not in said
    (release,) = site.releases("app1", "app2", "app3")
    assert release.startswith("8.0.1-")
    assert site.members() == ["app1", "app2", "app3"]


def test_a_run_that_is_killed_half_way_is_mended_by_the_next(
    site: Site, application: Callable[[str, str], str]
) -> None:
    source = application("8.0.3", "")
    with site.load():
        # The second node is switched over, not yet restarted, and out of the balancer.
        run = site.begin(
            "playbooks/deploy.yml",
            source,
            ANSIBLE_CALLBACK_PLUGINS=str(ROOT / "molecule/ssh/callback_plugins"),
            ANSIBLE_CALLBACKS_ENABLED="kill_before",
            KILL_BEFORE="2:clawdbot : Restart the bot",
        )
        run.communicate(timeout=600)
        assert run.returncode == -9
        assert site.members() == ["app1", "app3"]
        site.play("playbooks/deploy.yml", source)
    (release,) = site.releases("app1", "app2", "app3")
    assert release.startswith("8.0.3-")
    assert site.members() == ["app1", "app2", "app3"]


def test_back_to_the_release_before(site: Site) -> None:
    with site.load():
        site.play("playbooks/rollback.yml")
    (release,) = site.releases("app1", "app2", "app3")
    assert release.startswith("8.0.1-")


def test_a_limited_run_changes_one_node_and_nobodys_upstream(site: Site) -> None:
    first = site.on("app1").check_output("ls /opt/clawdbot/releases | grep -v ^8")
    with site.load():
        site.play("site.yml", "--limit", f"{PREFIX}app2", "-e", f"clawdbot_release={first}")
    assert site.releases("app2") == {first}
    assert site.releases("app1", "app3") != {first}
    assert site.members() == ["app1", "app2", "app3"]


def test_a_fourth_node_joins_by_the_inventory_alone(site: Site) -> None:
    site.nodes("app1", "app2", "app3", "app4")
    with site.load():
        # The bot of this source is the first release again, so the others follow app2.
        site.play("site.yml")
        time.sleep(3)
    assert len(site.releases("app1", "app2", "app3", "app4")) == 1
    assert site.callbacks("app4") > 10


def test_two_nodes_leave_one_of_them_dead(site: Site) -> None:
    with site.load():
        subprocess.run(["docker", "kill", f"clawdbot-{PREFIX}app3"], check=True, stdout=subprocess.DEVNULL)
        site.play("playbooks/remove_node.yml", "-e", f"node={PREFIX}app3")
        site.nodes("app1", "app2", "app4")
        site.play("playbooks/remove_node.yml", "-e", f"node={PREFIX}app4")
        site.nodes("app1", "app2")
    assert site.on("app4").run("systemctl is-active clawdbot.service clawdbot-worker.service").rc != 0


@pytest.mark.parametrize("name", ["lb1", "app1", "app2", "redis1"])
def test_nothing_is_left_of_those_who_have_gone(site: Site, name: str) -> None:
    host = site.on(name)
    for gone in ("app3", "app4"):
        address = site.hosts[gone]["ansible_host"]
        for pattern in (address.replace(".", r"\."), PREFIX + gone):
            assert host.run(f"sudo grep -rlwE '{pattern}' /etc").stdout == ""
        assert not re.search(rf"\b{re.escape(address)}\b", host.check_output("sudo nft list ruleset"))
        # Prometheus closes its idle connections to them in its own time.
        connections = host.check_output("ss -Htn state established '( sport = :6379 or sport = :18789 )'")
        assert not re.search(rf"\b{re.escape(address)}\b", connections), connections


def test_the_outcome_is_that_of_the_inventory(site: Site) -> None:
    said = site.play("site.yml")
    changed = dict(re.findall(rf"^{PREFIX}(\w+).*changed=(\d+)", said, re.MULTILINE))
    assert changed == dict.fromkeys(["lb1", "app1", "app2", "redis1"], "0")


def test_the_nodes_change_to_containers_and_take_a_new_version(
    site: Site, application: Callable[[str, str], str]
) -> None:
    site.nodes("app1", "app2")
    with site.load():
        site.play("playbooks/deploy.yml", DOCKER, application("8.1.0", ""))
    (release,) = site.releases("app1", "app2")
    assert release.startswith("8.1.0-")
    assert site.members() == ["app1", "app2"]
    images = {
        site.on(name).check_output("sudo docker ps --no-trunc --format '{{.Image}}'") for name in ("app1", "app2")
    }
    assert images == {f"clawdbot:{release}\nclawdbot:{release}"}


def test_a_new_version_is_rolled_out_over_containers(site: Site, application: Callable[[str, str], str]) -> None:
    with site.load():
        site.play("playbooks/deploy.yml", DOCKER, application("8.1.1", ""))
        broken = '\napp.view_functions["ready"] = lambda: ("not yet", 503)\n'
        said = site.refuse("playbooks/deploy.yml", DOCKER, application("8.1.2", broken))
    assert f"{PREFIX}app1: release 8.1.2" in said
    assert "serves 8.1.1" in said
    (release,) = site.releases("app1", "app2")
    assert release.startswith("8.1.1-")


def test_containers_go_back_to_the_release_before_and_to_the_other_runtime(site: Site) -> None:
    with site.load():
        site.play("playbooks/rollback.yml", DOCKER)
        (release,) = site.releases("app1", "app2")
        assert release.startswith("8.1.0-")
        site.play("playbooks/deploy.yml")
    assert site.on("app1").check_output("sudo docker ps --quiet") == ""
    assert site.members() == ["app1", "app2"]
