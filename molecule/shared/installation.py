"""An installation as its operator sees it: an inventory, playbooks, hosts, and a world that writes to the bot."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import testinfra
import yaml
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

ROOT = Path(__file__).resolve().parents[2]
# Messages a second; the platforms take 16 and 20 answers a second. Most come twice, which makes 50 requests a second.
RATE = 28
TWICE = 0.8
# Each user stays below the bot's limit of 60 messages a minute.
CONVERSATIONS = 100
LONGEST_LOAD = LONGEST_RUN = 1800
# Seconds for the last answers: what has waited for Redis comes at the pace that the platforms allow.
SETTLE = 300
MEMBERS = "/etc/nginx/clawdbot_members.conf"
# What makes a version of the application that starts and is never ready, see `application`.
NEVER_READY = '\napp.view_functions["ready"] = lambda: ("not yet", 503)\n'


class Installation:
    """The hosts of a scenario, called by their names without the scenario's, with an inventory that can be edited.

    The inventory's group ``internet`` has the host that plays the rest of the world.
    """

    def __init__(
        self,
        inventory: str,
        groups: Mapping[str, Sequence[str]],
        name: str = "installation",
        variables: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Takes hosts of ``inventory``, Molecule's, into an inventory of its own.

        Args:
            inventory: path.
            groups: names of the hosts of each group.
            name: of the inventory, where a scenario has several.
            variables: more of each host's, which win over Molecule's.
        """
        self.prefix = os.environ["MOLECULE_SCENARIO_NAME"] + "-"
        runner = AnsibleRunner(inventory)
        self.hosts: dict[str, dict[str, Any]] = {
            host.removeprefix(self.prefix): {
                key: value
                for key, value in runner.get_variables(host).items()
                if key in ("ansible_host", "ansible_user", "ansible_private_key_file")
            }
            for host in runner.get_hosts("all")
        }
        for host, more in (variables or {}).items():
            self.hosts[host].update(more)
        self.groups = dict(groups)
        self.outside, self.balancer = groups["internet"][0], groups["loadbalancer"][0]
        #: Address to which the world writes, if it is not that of `balancer`.
        self.front = ""
        self.folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / name
        self.folder.mkdir(exist_ok=True)
        if not (self.folder / "group_vars").exists():
            (self.folder / "group_vars").symlink_to(ROOT / "inventories/sandbox/group_vars")
        self._write()

    def nodes(self, *names: str) -> None:
        """Edits the inventory: these are the nodes."""
        self.groups["clawdbot"] = names
        self._write()

    def _write(self) -> None:
        children = {
            group: {"hosts": {self.prefix + name: self.hosts[name] for name in names}}
            for group, names in self.groups.items()
        }
        (self.folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": children}}))

    def begin(
        self, playbook: str, *options: str, kill_before: str = "", kill_by: str = "SIGKILL"
    ) -> subprocess.Popen[str]:
        """Starts a playbook; ``kill_before`` is ``occurrence:task`` before which the controller dies by a signal."""
        killer = {
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "molecule/shared/callback_plugins"),
            "ANSIBLE_CALLBACKS_ENABLED": "kill_before",
            "KILL_BEFORE": kill_before,
            "KILL_BY": kill_by,
        }
        return subprocess.Popen(
            ["ansible-playbook", "-i", str(self.folder), playbook, *options],
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"} | (killer if kill_before else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def play(self, playbook: str, *options: str) -> str:
        """Runs a playbook that succeeds; returns what it said."""
        run = self.begin(playbook, *options)
        said, _ = run.communicate(timeout=LONGEST_RUN)
        assert run.returncode == 0, said[-6000:]
        return said

    def refuse(self, playbook: str, *options: str) -> str:
        """Runs a playbook that fails; returns what it said, in one line."""
        run = self.begin(playbook, *options)
        said, _ = run.communicate(timeout=LONGEST_RUN)
        assert run.returncode != 0, said[-6000:]
        return " ".join(said.split())

    def changed(self, said: str) -> dict[str, int]:
        """How much a run changed on each host, from what it said."""
        counts = re.findall(rf"^{re.escape(self.prefix)}(\S+) .*changed=(\d+)", said, re.MULTILINE)
        return {host: int(count) for host, count in counts}

    def on(self, name: str, port: int = 2222) -> Host:
        """A connection to a host."""
        host = self.hosts[name]
        return testinfra.get_host(
            f"ssh://{host['ansible_user']}@{host['ansible_host']}:{22 if name == self.outside else port}",
            ssh_identity_file=host["ansible_private_key_file"],
            controlpath="none",  # a shared connection would not notice at once that its host has restarted
            ssh_extra_args="-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
        )

    @contextmanager
    def load(self, *, forgiving: bool = False, connected: bool = False) -> Iterator[dict[str, Any]]:
        """Signed load from outside as long as the block lasts; afterwards nothing of it may have failed.

        Args:
            forgiving: something may.
            connected: over the connections that the bot has opened.

        Yields:
            a dict that gets the simulator's report when the load is over, and a summary for people.
        """
        report: dict[str, Any] = {}
        host, front = self.hosts[self.outside], self.front or self.hosts[self.balancer]["ansible_host"]
        run = subprocess.Popen(
            [
                *["ssh", "-i", host["ansible_private_key_file"], "-o", "StrictHostKeyChecking=no"],
                *["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"],
                f"{host['ansible_user']}@{host['ansible_host']}",
                "sudo systemd-run --quiet --collect --pipe --wait --unit=load --working-directory=/opt/simulator"
                f" python3 -m clawdbot_simulator load --config config.json --settle {SETTLE} --duration {LONGEST_LOAD}"
                f" --rate {RATE} --duplicates {TWICE} --conversations {CONVERSATIONS}"
                + ("" if connected else f" --callback-base http://{front}"),
            ],
            # Of its own: ssh does not let it block, and Ansible, which would share it, wants it to.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            time.sleep(3)  # a few messages before anything happens
            yield report
            time.sleep(1)
        finally:
            self.on(self.outside).run("sudo systemctl kill --signal=TERM load.service")
            said, complaint = run.communicate(timeout=SETTLE + 60)
        report |= json.loads(said) | {"summary": complaint.strip()}
        assert report["ok"] or forgiving, complaint

    def members(self) -> list[str]:
        """Names of those that get requests."""
        lines = self.on(self.balancer).check_output(f"sudo cat {MEMBERS}").splitlines()
        serving = (line for line in lines if line.startswith("server ") and " down;" not in line)
        return list(dict.fromkeys(line.split("# " + self.prefix)[1] for line in serving))

    def kill(self, name: str) -> None:
        """Takes a host away, as the others see it. It keeps its address, which a host of another scenario might get."""
        cut = ["docker", "exec", f"clawdbot-{self.prefix}{name}", "ip", "link", "set", "eth0", "down"]
        subprocess.run(cut, check=True)

    def start(self, name: str) -> None:
        """Cuts its power and gives it back, and waits until the host can be reached."""
        container = f"clawdbot-{self.prefix}{name}"
        subprocess.run(["docker", "restart", "--time=0", container], check=True, stdout=subprocess.DEVNULL)
        reachable = "until systemctl is-active --quiet ssh.service; do sleep 0.5; done 2>/dev/null"
        subprocess.run(["docker", "exec", container, "sh", "-c", reachable], check=True, timeout=60)

    def reboots_like_a_machine(self, name: str) -> None:
        """Has a host that is told to reboot start again, as a container does not by itself."""
        container = f"clawdbot-{self.prefix}{name}"
        # Sandbox hosts do without logind, which Debian 12 asks to reboot.
        command = ["docker", "exec", container, "systemctl", "unmask", "--quiet", "systemd-logind.service"]
        subprocess.run(command, check=True)
        command = ["docker", "update", "--restart=unless-stopped", container]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def releases(self, *names: str) -> set[str]:
        """Releases that run on these nodes."""
        return {self.on(name).check_output("basename $(readlink /opt/clawdbot/current)") for name in names}

    def redis_password(self) -> str:
        """That of Redis, which the first node uses; one without quotes, such as the sandbox's."""
        file = "/opt/clawdbot/config/clawdbot.env"
        line = str(self.on(self.groups["clawdbot"][0]).check_output(f"sudo grep ^CLAWDBOT_REDIS_PASSWORD= {file}"))
        return line.partition("=")[2].strip("'")

    def callbacks(self, name: str) -> int:
        """Number of callbacks that a node has answered."""
        # grep says 0 and fails when there is none.
        return int(self.on(name).check_output("sudo grep -c /callback /opt/clawdbot/logs/access.log || true"))


def lets_in(host: Host, password: str, port: int = 6379, address: str = "127.0.0.1") -> bool:
    """Whether Redis lets the bot in with it."""
    ask = "IFS= read -r REDISCLI_AUTH; export REDISCLI_AUTH; exec redis-cli"
    asked = host.run("printf '%%s\\n' %s | sh -c %s", password, f"{ask} -h {address} -p {port} ping")
    return bool(asked.stdout.strip() == "PONG")


def application(folder: Path, version: str, epilogue: str = "") -> str:
    """Makes a version of the application in ``folder``, ``epilogue`` being put behind app.py.

    Returns:
        the option of ansible-playbook that deploys it.
    """
    source = folder / version
    shutil.copytree(ROOT / "app", source, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))
    init = source / "clawdbot/__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text()))
    entry = source / "app.py"
    entry.write_text(entry.read_text() + epilogue)
    return f"-eclawdbot_source={source}"
