"""Three equal servers under load: whatever dies, every message that was accepted is answered once and in order."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import yaml
from installation import ROOT, Installation
from power import docker, eventually, inside

GROUPS = ("loadbalancer", "clawdbot", "redis", "monitoring")
SERVERS = ("bot1", "bot2", "bot3")
FRONT = "10.213.191.100"
REDIS = "/var/lib/redis"
# Faults at random: for how long, in loads of ten minutes at most, and what repeats them.
RANDOM_SECONDS = int(os.environ.get("HA_SECONDS", "3600"))
LOAD_SECONDS = 600
SEED = int(os.environ.get("HA_SEED") or random.SystemRandom().randrange(10**6))


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Installation:
    """The installation."""
    groups = dict.fromkeys(GROUPS[:3], SERVERS) | {"monitoring": SERVERS[:2], "internet": ["outside"]}
    settings: dict[str, Any] = yaml.safe_load((ROOT / "molecule/ha/group_vars/all/main.yml").read_text())
    inventory = request.config.getoption("--ansible-inventory")
    site = Installation(inventory, groups, variables=dict.fromkeys(SERVERS, settings))
    site.front = FRONT
    return site


def owners() -> list[str]:
    """Servers that have the address."""
    return [name for name in SERVERS if inside(name, f"ip -oneline address show to {FRONT}")]


def leaders() -> list[str]:
    """Servers whose Redis leads."""
    return [name for name in SERVERS if inside(name, "clawdbot-redis role").startswith("master")]


def whole() -> bool:
    """Whether nothing is missing: one owner, one primary that two copy, and bots that are ready."""
    copied = "timeout 3 clawdbot-redis-group check 2 && curl -sf http://127.0.0.1:18789/ready && echo yes"
    return len(owners()) == len(leaders()) == 1 and all("yes" in inside(name, copied) for name in SERVERS)


#: Units, and the servers where it matters that their processes die.
UNITS: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "redis": ("redis-server", leaders),
    "sentinel": ("clawdbot-sentinel", leaders),
    "web": ("clawdbot", owners),
    "worker": ("clawdbot-worker", owners),
    "keepalived": ("keepalived", owners),
    "nginx": ("nginx", owners),
}


def repeated(said: dict[str, Any]) -> set[str]:
    """Platforms where a user got the same answer twice, and not first a notice that it takes long."""
    return {kind for kind in said["doubled"] if not kind.endswith("in other words")}


@pytest.fixture
def fault(site: Installation, table: list[tuple[str, dict[str, Any]]]) -> Callable[..., Any]:
    """A block under load, whose account becomes a row of the table; no message that was accepted may be harmed."""

    @contextmanager
    def run(name: str) -> Iterator[dict[str, Any]]:
        eventually(whole)
        with site.load(forgiving=True) as said:
            yield said
        table.append((name, said))
        print(said["summary"])
        harmed = ("lost", "out_of_order")
        assert {key: said[key] for key in harmed} == dict.fromkeys(harmed, 0), said["summary"]
        # DingTalk would not know a repetition: what was just being sent may be there twice (docs/engine.md).
        assert repeated(said) <= {"dingtalk"}, said["summary"]

    return run


def test_it_is_the_inventory_for_three_equal_servers(site: Installation) -> None:
    inventory = yaml.safe_load((ROOT / "inventories/ha/hosts.yml").read_text())
    assert {group: list(of["hosts"]) for group, of in inventory["all"]["children"].items()} == {
        group: list(site.groups[group]) for group in GROUPS
    }


@contextmanager
def killed(unit: str, name: str) -> Iterator[None]:
    """Processes that die by a signal; their unit starts them again."""
    inside(name, f"systemctl kill --signal=KILL {unit}")
    yield


@contextmanager
def powered_off(name: str) -> Iterator[None]:
    """A server without power."""
    docker("kill", f"clawdbot-ha-{name}")
    try:
        yield
    finally:
        docker("start", f"clawdbot-ha-{name}")


@contextmanager
def frozen(name: str) -> Iterator[None]:
    """A server that stands still, and does not know it when it wakes up."""
    docker("pause", f"clawdbot-ha-{name}")
    try:
        yield
    finally:
        docker("unpause", f"clawdbot-ha-{name}")


@contextmanager
def cut_off(site: Installation, name: str, *others: str) -> Iterator[None]:
    """A server that these others do not hear, and that does not hear them; nor does it hear that it is alone."""
    addresses = ", ".join(site.hosts[other]["ansible_host"] for other in others)
    rules = "; ".join(
        f"chain {hook} {{ type filter hook {hook} priority -300; ip {end} {{ {addresses} }} drop; }}"
        for hook, end in {"input": "saddr", "output": "daddr"}.items()
    )
    inside(name, f"nft 'table inet cut {{ {rules} }}'")
    try:
        yield
    finally:
        inside(name, "nft delete table inet cut")


@contextmanager
def slow_disk(name: str) -> Iterator[None]:
    """A disk that takes 0.3 s for everything that Redis wants to have there for good."""
    pid = inside(name, "systemctl show --property=MainPID --value redis-server")
    delay = "--trace=fdatasync,fsync --inject=fdatasync,fsync:delay_enter=300000"
    inside(
        name, f"systemd-run --quiet --unit=slow-disk strace --follow-forks --output=/dev/null {delay} --attach={pid}"
    )
    assert inside(name, "sleep 1; systemctl is-active slow-disk") == "active"
    try:
        yield
    finally:
        inside(name, "systemctl stop slow-disk")


def others(name: str) -> list[str]:
    """The other servers."""
    return [other for other in SERVERS if other != name]


@pytest.mark.parametrize("process", ["redis", "sentinel", "web", "worker", "keepalived", "nginx"])
def test_a_process_is_killed(fault: Callable[..., Any], process: str) -> None:
    """Where it matters: at the primary, or at the owner of the address. Its unit starts it again."""
    unit, where = UNITS[process]
    with fault(f"{process} killed, and started by its unit") as said, killed(unit, where()[0]):
        time.sleep(12)
    assert not repeated(said), said["summary"]
    # Who is connected when Nginx dies, or the address is taken away for a moment, loses the connection.
    assert said["failed_requests"] == 0 or process in ("nginx", "keepalived"), said["summary"]


def test_the_owner_of_the_address_loses_its_power(fault: Callable[..., Any]) -> None:
    with fault("owner of the address powered off, and back") as said:
        (owner,) = owners()
        with powered_off(owner):
            time.sleep(20)
            assert owner not in owners()
        eventually(whole, 180)
    assert said["ack_gap_ms"] < 4000, said["summary"]


def test_the_primarys_server_freezes(fault: Callable[..., Any]) -> None:
    with fault("server of the primary frozen for 30 s, and woken") as said:
        with frozen(leaders()[0]):
            time.sleep(30)
        eventually(whole, 120)
    assert said["answer_gap_ms"] < 20000, said["summary"]


def test_the_primary_is_cut_off_from_the_others(site: Installation, fault: Callable[..., Any]) -> None:
    """And not from those who write to it: it goes on for its clients, and has to count for nothing."""
    with fault("primary cut off from both others for 20 s") as said:
        (alone,) = leaders()
        with cut_off(site, alone, *others(alone)):
            time.sleep(20)
        eventually(whole, 120)
    assert said["answer_gap_ms"] < 20000, said["summary"]


@pytest.mark.parametrize("link", ["primary and a copy", "primary and the other copy", "both copies"])
def test_a_link_is_cut(site: Installation, fault: Callable[..., Any], link: str) -> None:
    """Two servers do not hear each other, and both hear the third."""
    eventually(whole)
    (primary,) = leaders()
    one, two = others(primary)
    ends = {
        "primary and a copy": (primary, one),
        "primary and the other copy": (primary, two),
        "both copies": (one, two),
    }
    with fault(f"link cut for 20 s: {link}") as said:
        with cut_off(site, *ends[link]):
            time.sleep(20)
        eventually(whole, 120)
    assert said["answer_gap_ms"] < 20000, said["summary"]


def test_the_primarys_disk_is_slow(fault: Callable[..., Any]) -> None:
    eventually(whole)
    (primary,) = leaders()
    docker(
        "exec", f"clawdbot-ha-{primary}", "apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "strace"
    )
    with fault("disk of the primary takes 0.3 s for each write, for 20 s") as said:
        with slow_disk(primary):
            time.sleep(20)
        eventually(whole, 120)
    assert said["answer_gap_ms"] < 20000, said["summary"]


@pytest.fixture
def small_disk() -> Iterator[str]:
    """The server of the primary, whose data has a disk of its own meanwhile."""
    eventually(whole)
    (primary,) = leaders()
    inside(primary, "systemctl stop redis-server")
    inside(
        primary,
        f"set -e; cp -a {REDIS} /run/kept; mount -t tmpfs -o size=64m tmpfs {REDIS}; cp -aT /run/kept {REDIS};"
        " systemctl start redis-server",
    )
    for _ in range(6):
        eventually(whole, 120)
        if leaders() == [primary]:
            break
        inside(leaders()[0], "clawdbot-redis-group hand-over")
    yield primary
    inside(
        primary,
        f"set -e; systemctl stop redis-server; rm -rf /run/kept; cp -a {REDIS} /run/kept; umount {REDIS};"
        f" find {REDIS} -mindepth 1 -delete; cp -aT /run/kept {REDIS}; systemctl start redis-server; rm -rf /run/kept",
    )
    eventually(whole, 120)


def test_the_primarys_disk_is_full(fault: Callable[..., Any], small_disk: str) -> None:
    assert leaders() == [small_disk]
    with fault("disk of the primary full for 20 s") as said:
        inside(small_disk, f"dd if=/dev/zero of={REDIS}/fill bs=1M || true")
        time.sleep(20)
        assert leaders() != [small_disk]
        inside(small_disk, f"rm {REDIS}/fill")
        eventually(whole, 180)
    assert said["answer_gap_ms"] < 20000, said["summary"]


def test_two_servers_lose_their_power(site: Installation, table: list[tuple[str, dict[str, Any]]]) -> None:
    """More than is promised: nobody can answer, but what the third accepts waits on its disk."""
    eventually(whole)
    with site.load(forgiving=True) as said:
        (primary,) = leaders()
        third = next(name for name in SERVERS if name not in (primary, *owners()))
        with powered_off(primary), powered_off(next(name for name in others(primary) if name != third)):
            time.sleep(20)
        eventually(whole, 180)
    table.append(("primary and another server powered off for 20 s", said))
    assert said["lost"] == 0, said["summary"]


LISTENER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        with open("/tmp/alerts", "ab") as file:
            file.write(self.rfile.read(int(self.headers["Content-Length"])) + b"\\n")
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("", 9099), Handler).serve_forever()
"""


def test_an_alert_comes_once_whichever_monitoring_host_dies(site: Installation) -> None:
    outside, watching = site.on("outside"), site.groups["monitoring"]
    outside.check_output("sudo systemd-run --quiet --unit=listener python3 -c %s", LISTENER)

    def ring(name: str, *hosts: str) -> None:
        alert = json.dumps([{"labels": {"alertname": name, "severity": "critical"}}])
        for host in hosts:
            rung = (
                f"curl -sf -H 'Content-Type: application/json' -d '{alert}' 127.0.0.1:9093/api/v2/alerts && echo rung"
            )
            assert inside(host, rung) == "rung"

    def heard(name: str) -> int:
        return int(outside.run(f"grep -c {name} /tmp/alerts || true").stdout or 0)

    ring("BothSeeIt", *watching)
    eventually(lambda: heard("BothSeeIt"))
    time.sleep(40)  # twice what they wait for each other, and some
    assert heard("BothSeeIt") == 1
    docker("kill", f"clawdbot-ha-{watching[0]}")
    ring("OneSeesIt", watching[1])
    eventually(lambda: heard("OneSeesIt"))
    docker("start", f"clawdbot-ha-{watching[0]}")
    eventually(whole, 180)
    assert heard("OneSeesIt") == 1


def test_all_reboot_in_turn(site: Installation, fault: Callable[..., Any]) -> None:
    for name in SERVERS:
        site.reboots_like_a_machine(name)
        inside(name, "touch /run/reboot-required")
    before = {name: inside(name, "cat /proc/1/stat | cut -d' ' -f22") for name in SERVERS}
    with fault("all three rebooted in turn by playbooks/patch.yml") as said:
        site.play("playbooks/patch.yml")
    assert not set(before.items()) & {(name, inside(name, "cat /proc/1/stat | cut -d' ' -f22")) for name in SERVERS}
    assert said["failed_requests"] == 0, said["summary"]
    assert not repeated(said), said["summary"]


def test_all_get_the_next_release_of_debian(site: Installation, fault: Callable[..., Any]) -> None:
    """An older Redis cannot read what a newer one sends, so the one that leads comes last."""
    for name in SERVERS:
        site.reboots_like_a_machine(name)
    with fault("all three upgraded to Debian 13 in turn by playbooks/upgrade_release.yml") as said:
        site.play("playbooks/upgrade_release.yml")
        eventually(whole)
    assert {inside(name, "cut -d. -f1 /etc/debian_version") for name in SERVERS} == {"13"}
    assert said["failed_requests"] == 0, said["summary"]
    assert not repeated(said), said["summary"]


@pytest.mark.parametrize("part", range(max(1, RANDOM_SECONDS // LOAD_SECONDS)))
def test_faults_at_random(
    site: Installation, fault: Callable[..., Any], capsys: pytest.CaptureFixture[str], part: int
) -> None:
    """One after the other and never at two servers at once, at any server and for any time below half a minute."""
    chance = random.Random(f"{SEED} {part}")  # noqa: S311  # has to be repeatable
    kinds: dict[str, Callable[[str], Any]] = {
        "powered off": powered_off,
        "frozen": frozen,
        "cut off from one": lambda name: cut_off(site, name, chance.choice(others(name))),
        "cut off from both": lambda name: cut_off(site, name, *others(name)),
        **{f"{process} killed": partial(killed, unit) for process, (unit, _) in UNITS.items()},
    }
    end = time.monotonic() + min(LOAD_SECONDS, RANDOM_SECONDS)
    happened = 0
    with fault(f"faults at random, seed {SEED}, part {part + 1}"):
        while time.monotonic() < end:
            kind, name, seconds = chance.choice(sorted(kinds)), chance.choice(SERVERS), chance.uniform(1, 30)
            with capsys.disabled():
                print(f"{time.strftime('%T')} {name}: {kind}, {seconds:.0f} s", flush=True)
            with kinds[kind](name):
                time.sleep(seconds)
            eventually(whole, 180)
            happened += 1
    assert happened, "nothing happened"
