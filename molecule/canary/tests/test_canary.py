"""No secret is found anywhere but in the files that own it: one story, whose tests go on where the last one ended.

What the runs say with ``-vvv --diff`` is kept. The arguments of all processes are looked at every 50 ms, those of the
hosts as well, since they are containers of this machine. At the end everything is searched, for each secret as it is,
in Base64 and as part of a URL. Messages name the secret, never its value.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from installation import NEVER_READY, ROOT, Installation, application

HOSTS = ("bot1", "monitor1")
LOUD = ("-vvv", "--diff")
DOCKER = "-eclawdbot_runtime=docker"
#: Files that may hold secrets, and which: patterns of their paths, of the secrets' names.
OWNERS = {
    r"/opt/clawdbot/config/clawdbot\.env": "model|redis|alerts",
    r"/opt/clawdbot/config/dingtalk\.yaml": "dingtalk",
    r"/opt/clawdbot/config/feishu\.js": "feishu",
    r"/etc/redis/clawdbot-(password|replication\.conf)": "redis",
    r"/var/lib/redis/clawdbot-main\.conf": "redis",
    r"/etc/clawdbot-backup/settings": "backup|redis",
    r"/etc/default/prometheus-redis-exporter": "redis",
    r"/etc/prometheus/alertmanager\.yml": "alerts",
    # The engine notes what a container was given for as long as that runs; root alone may look.
    r"/var/lib/docker/containers/[0-9a-f]+/config\.v2\.json": "model|redis|alerts",
}
#: Of a page of the bot or of the monitoring: host, its URL there, whether the dashboard's password goes along.
PAGES = [
    ("bot1", "http://127.0.0.1:18789/health", False),
    ("bot1", "http://127.0.0.1:18789/ready", False),
    ("bot1", "http://127.0.0.1:18789/metrics", False),
    ("bot1", "http://127.0.0.1:18789/nowhere", False),
    ("bot1", "http://127.0.0.1/metrics", False),
    ("bot1", "http://127.0.0.1:8080/stub_status", False),
    ("bot1", "http://127.0.0.1:9090/", False),
    ("monitor1", "http://127.0.0.1:9090/metrics", False),
    ("monitor1", "http://127.0.0.1:9090/api/v1/status/config", False),
    ("monitor1", "http://127.0.0.1:9090/api/v1/status/flags", False),
    ("monitor1", "http://127.0.0.1:9090/api/v1/targets", False),
    ("monitor1", "http://127.0.0.1:9090/api/v1/rules", False),
    ("monitor1", "http://127.0.0.1:9090/api/v1/series?match[]=%7B__name__%3D~%22.%2B%22%7D", False),
    ("monitor1", "http://127.0.0.1:9093/metrics", False),
    ("monitor1", "http://127.0.0.1:9093/api/v2/status", False),
    ("monitor1", "http://127.0.0.1:9093/api/v2/alerts", False),
    ("monitor1", "http://127.0.0.1:9095/", True),
    ("monitor1", "http://127.0.0.1:9095/", False),
    ("monitor1", "http://127.0.0.1:9095/api/v1/alerts", True),
    ("monitor1", "http://127.0.0.1:9095/api/v1/status/config", True),
]
#: Requests that fail in the bot, each in another place.
BROKEN = r"""
for platform in dingtalk feishu; do
    for body in '' '{' '[]' '{"encrypt": "x"}' '{"challenge": "a", "token": "wrong"}' '{"text": {"content": 5}}'; do
        curl --silent --max-time 10 --data "$body" --header 'Content-Type: application/json' --header 'sign: wrong' \
            --header "timestamp: $(date +%s000)" "http://127.0.0.1/api/$platform/callback?signature=x&timestamp=1&nonce=2"
    done
done
head -c 5000000 /dev/zero | curl --silent --max-time 20 --data-binary @- http://127.0.0.1/api/feishu/callback
curl --silent --max-time 10 --data '{}' --header 'Authorization: Bearer wrong' http://127.0.0.1:18789/api/alerts
"""
#: All layers of all images, unpacked.
LAYERS = """
mkdir /run/layers && cd /run/layers && docker image save $(docker images -q) | tar -x
find . -type f | while read -r file; do gzip -cd "$file" >"$file.plain" 2>/dev/null || rm -f "$file.plain"; done
find . -type f
"""
#: What is packed on a host since a moment, and its journal.
PACKED = """
find / -xdev -name '*.gz' -newermt @{} | while read -r file; do gzip -cd "$file"; done
journalctl --output=export --no-pager
"""
#: Files that a process which died left, since a moment.
DUMPS = (
    "find / -xdev -name 'core*' -newermt @{} -size +100k -type f; find /var/lib/systemd/coredump -type f 2>/dev/null"
)


def forms(value: str) -> set[str]:
    """A value, and what it may have become on its way."""
    raw = value.encode()
    # In Base64 three bytes are four letters, wherever in a text they begin: the part that is the same in any text.
    parts = {base64.b64encode(b"\0" * lead + raw)[4 if lead else 0 : -4].decode() for lead in range(3)}
    return {value, urllib.parse.quote_plus(value), urllib.parse.quote(value, safe="")} | parts


class Canaries:
    """The sandbox's secrets."""

    def __init__(self, file: Path) -> None:
        self.values: dict[str, str] = yaml.safe_load(file.read_text("utf-8"))
        self.names: dict[str, str] = {}
        self.watch(self.values)

    def watch(self, values: Mapping[str, str]) -> None:
        """Look for these as well."""
        self.names |= {form: name for name, value in values.items() for form in forms(value)}
        assert min(map(len, self.names)) >= 16, "short values are found by chance"
        self.pattern = re.compile("|".join(map(re.escape, sorted(self.names, key=len, reverse=True))))

    def within(self, text: str) -> set[str]:
        """Names of the secrets that a text holds."""
        return {self.names[found] for found in self.pattern.findall(text)}

    def files(self, command: list[str], folders: list[str]) -> dict[str, set[str]]:
        """Files below ``folders`` that hold secrets, and which.

        Args:
            command: runs a program as root where the files are.
            folders: where to look.
        """
        find = ["grep", "-raoFHD", "skip", "--exclude-dir=proc", "--exclude-dir=sys", "--exclude-dir=dev", "-f", "-"]
        done = subprocess.run([*command, *find, *folders], input="\n".join(self.names), capture_output=True, text=True)
        assert done.returncode in (0, 1, 2), done.stderr  # 2: a file went away meanwhile
        found: dict[str, set[str]] = {}
        for line in done.stdout.splitlines():
            path, _, value = line.rpartition(":")
            found.setdefault(path, set()).add(self.names[value])
        return found


class Processes(threading.Thread):
    """Looks every 50 ms at the arguments of all processes of this machine, and of its containers."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self.looks = 0
        self.end = threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        while not self.end.wait(0.05):
            self.looks += 1
            for entry in os.scandir("/proc"):
                if entry.name.isdigit():
                    try:
                        self.seen.add(Path(entry.path, "cmdline").read_bytes())
                    except OSError:
                        continue  # it has ended


class Story:
    """The installation, its secrets, and all that was heard and seen of it."""

    def __init__(self, site: Installation) -> None:
        self.site = site
        self.canaries = Canaries(ROOT / "inventories/sandbox/group_vars/all/secrets.yml")
        self.said: dict[str, str] = {}
        self.processes = Processes()
        self.begun = time.time()

    def play(self, what: str, playbook: str, *options: str, succeeds: bool = True, kill_before: str = "") -> None:
        """Run a playbook as loud as can be, and keep what it says under ``what``."""
        run = self.site.begin(playbook, *LOUD, *options, kill_before=kill_before)
        self.said[what], _ = run.communicate(timeout=1800)
        # Of what it said nothing is shown here, since that is what is in doubt.
        assert (run.returncode == 0) == succeeds, what
        assert self.canaries.within(self.said[what]) == set(), what

    def root(self, host: str) -> list[str]:
        """A command that runs another one as root of a host."""
        return ["docker", "exec", "-i", f"clawdbot-{self.site.prefix}{host}"]

    def shell(self, host: str, script: str, entered: str = "") -> str:
        """What a script says as root of a host, its mistakes included."""
        command = [*self.root(host), "bash", "-c", script]
        done = subprocess.run(command, input=entered, capture_output=True, text=True, errors="replace", check=False)
        return done.stdout + done.stderr


@pytest.fixture(scope="session")
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """The story, with the processes watched from its beginning."""
    groups = {name: ["bot1"] for name in ("loadbalancer", "clawdbot", "redis")}
    groups |= {"monitoring": ["monitor1"], "internet": ["outside"]}
    told = Story(Installation(request.config.getoption("--ansible-inventory"), groups))
    told.processes.start()
    yield told
    told.processes.end.set()
    told.processes.join()


def test_the_watch_sees_the_processes_of_the_hosts(story: Story) -> None:
    """Else what follows proves nothing."""
    story.shell("bot1", "exec -a a-canary-that-sings sleep 0.5")
    assert any(b"a-canary-that-sings" in seen for seen in story.processes.seen)
    value = next(iter(story.canaries.names))
    story.shell("bot1", "cat >/root/canary", value)
    assert list(story.canaries.files(story.root("bot1"), ["/root"])) == ["/root/canary"]
    story.shell("bot1", "rm /root/canary")


def test_the_installation(story: Story) -> None:
    story.play("a preview of the first run", "site.yml", "--check")
    story.play("the first run", "site.yml")
    story.play("a run with nothing to do", "site.yml")


def test_runs_that_fail(story: Story, tmp_path: Path) -> None:
    broken = application(tmp_path, "8.1.0", NEVER_READY)
    story.play("a release that is never ready", "playbooks/deploy.yml", broken, succeeds=False)
    story.play("a release that is nowhere", "playbooks/rollback.yml", "-eclawdbot_release=9.9.9-x", succeeds=False)
    other = "-eclawdbot_cache_ttl=1800"
    for task in ("redis : Write who may log in", "clawdbot : Write the configuration"):
        story.play(f"a run that dies before: {task}", "site.yml", other, kill_before=f"1:{task}", succeeds=False)
    # What cannot write says what it was given.
    story.shell("bot1", "cd /opt/clawdbot/config && mv dingtalk.yaml away && mkdir dingtalk.yaml")
    story.play("a file that cannot be written", "site.yml", other, "-esite_take_over=true", succeeds=False)
    story.shell("bot1", "cd /opt/clawdbot/config && rm -r dingtalk.yaml && mv away dingtalk.yaml")
    story.play("what mends it", "site.yml")


def test_values_that_change_are_not_shown(story: Story) -> None:
    """With other secrets for a while, which are looked for as well; in a file, since arguments are seen."""
    others = {
        "clawdbot_model_api_key": "another-key-of-the-model",
        "clawdbot_feishu_app_secret": "another-secret-of-feishu",
    }
    story.canaries.watch(others)
    file = story.site.folder / "others.json"
    file.write_text(json.dumps(others), "utf-8")
    story.play("other secrets", "site.yml", "-e", f"@{file}")
    story.play("the first secrets again", "site.yml")


def test_trouble_at_the_bot(story: Story) -> None:
    """Requests that it refuses, platforms that are away, and deaths that leave a dump where the system takes one."""
    pages = [story.shell("bot1", BROKEN)]
    story.shell("outside", "systemctl stop clawdbot-simulator.service")
    with story.site.load(forgiving=True):
        time.sleep(20)
    story.shell("outside", "systemctl start clawdbot-simulator.service")
    for signal in ("SEGV", "ABRT"):
        for unit in ("clawdbot", "clawdbot-worker", "redis-server", "nginx"):
            story.shell("bot1", f"systemctl kill --signal={signal} {unit}.service; sleep 3")
            pages.append(story.shell("bot1", f"systemctl status --full --lines=100 {unit}.service"))
    commands = (
        "clawdbot check",
        "clawdbot queue",
        "clawdbot dead list",
        "clawdbot-redis info",
        "clawdbot-redis slowlog get 128",
    )
    pages += [story.shell("bot1", command) for command in commands]
    assert [story.canaries.within(page) for page in pages] == [set()] * len(pages)


def test_backups_and_an_alert(story: Story) -> None:
    story.play("a backup", "playbooks/backup.yml")
    story.play("a rehearsal of a restore", "playbooks/drill.yml")
    story.shell("monitor1", "systemctl stop prometheus-node-exporter.service")
    time.sleep(180)  # HostDown
    story.shell("monitor1", "systemctl start prometheus-node-exporter.service")


def test_pages(story: Story) -> None:
    login = f'user = "operator:{story.canaries.values["site_dashboard_password"]}"\n'
    for host, url, known in PAGES:
        ask = f"curl --silent --insecure --globoff --include --max-time 20 --config - '{url}'"
        page = story.shell(host, ask, login if known else "")
        assert page.startswith("HTTP/"), url
        assert story.canaries.within(page) == set(), url


def test_containers_and_their_images(story: Story) -> None:
    story.play("a change to containers", "site.yml", DOCKER)
    described = "docker image history --no-trunc $(docker images -q); docker image inspect $(docker images -q)"
    logged = "docker logs clawdbot; docker logs clawdbot-worker"
    for command in (described, logged):
        assert story.canaries.within(story.shell("bot1", command)) == set(), command
    layers = story.shell("bot1", LAYERS).split()
    assert len(layers) > 5
    assert story.canaries.files(story.root("bot1"), ["/run/layers"]) == {}
    story.shell("bot1", "rm -r /run/layers")


@pytest.mark.parametrize("host", HOSTS)
def test_files_of_a_host(story: Story, host: str) -> None:
    """But for those that own a secret, and none of these is for everybody."""
    assert story.canaries.within(story.shell(host, PACKED.format(story.begun))) == set()
    found = story.canaries.files(story.root(host), ["/"])
    strange = {path: names for path, names in found.items() if not owns(path, names)}
    assert strange == {}
    public = [path for path in found if story.shell(host, f"runuser -u nobody -- cat {path} 2>/dev/null")]
    assert public == []


def owns(path: str, names: set[str]) -> bool:
    """Whether a file may hold these secrets."""
    return any(
        re.fullmatch(owner, path) and all(re.search(those, name) for name in names) for owner, those in OWNERS.items()
    )


def test_dumps(story: Story) -> None:
    assert story.shell("bot1", DUMPS.format(story.begun)) == ""


def test_files_of_the_controller(story: Story) -> None:
    folders = (ROOT / ".cache/releases", ROOT / ".cache/ssh-ports", Path.home() / ".ansible")
    assert story.canaries.files([], [str(folder) for folder in folders if folder.exists()]) == {}
    for archive in (ROOT / ".cache/releases").glob("*.tar.gz"):
        packed = subprocess.run(["gzip", "-cd", str(archive)], capture_output=True, check=True).stdout
        assert story.canaries.within(packed.decode(errors="replace")) == set(), archive


def test_arguments_of_processes(story: Story) -> None:
    seen = [b" ".join(arguments.split(b"\0")).decode(errors="replace") for arguments in story.processes.seen]
    assert story.processes.looks > 1000
    held = [(arguments.split()[0], names) for arguments in seen if (names := story.canaries.within(arguments))]
    assert held == []
