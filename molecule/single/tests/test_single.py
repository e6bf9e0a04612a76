"""One server of the smallest kind does everything: under load, through updates, and without much memory."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from bot import nobody_refused
from installation import NEVER_READY, ROOT, Installation, application
from testinfra.host import Host

GROUPS = ("loadbalancer", "clawdbot", "redis", "monitoring")
# How long the load is held; `make soak` holds it for ten minutes.
SECONDS = float(os.environ.get("SINGLE_SECONDS", "30"))
MOST_RESIDENT_MB = 1536
# Adds up what the processes of a unit have in memory; pages that they share are counted for each of them.
RESIDENT = r"""
for process in /proc/[0-9]*; do
    memory=$(awk '/^VmRSS/ { print $2 }' $process/status 2>/dev/null)
    unit=$(grep -o '[^/]*\.\(service\|scope\)' $process/cgroup 2>/dev/null | tail -n 1)
    echo ${unit:-other} ${memory:-0}
done | awk '{ sum[$1] += $2 } END { for (unit in sum) print unit, sum[unit] }'
"""


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Installation:
    """The installation."""
    inventory = request.config.getoption("--ansible-inventory")
    return Installation(inventory, {key: ["bot1"] for key in GROUPS} | {"internet": ["outside"]})


@pytest.fixture
def server(site: Installation) -> Host:
    """The server."""
    return site.on("bot1")


def resident_mb(server: Host) -> dict[str, float]:
    """Resident memory of each unit."""
    lines = server.check_output("sudo sh -c %s", RESIDENT).splitlines()
    return {unit: int(kilobytes) / 1024 for unit, kilobytes in (line.split() for line in lines)}


def test_it_is_the_inventory_for_one_server(site: Installation) -> None:
    inventory = yaml.safe_load((ROOT / "inventories/single/hosts.yml").read_text())
    assert {group: list(of["hosts"]) for group, of in inventory["all"]["children"].items()} == {
        group: list(site.groups[group]) for group in GROUPS
    }


def test_the_server_is_a_small_one(server: Host) -> None:
    greedy = "sudo systemd-run --quiet --wait --collect python3 -c 'b\"x\" * (5 << 30)'"
    assert server.check_output(f"if {greedy}; then echo 5 GB were there to be taken; fi") == ""


def test_it_carries_the_load_in_little_memory(
    site: Installation, server: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[dict[str, float]] = []
    with site.load() as report:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found.append(resident_mb(server))
            time.sleep(5)
    most = max(found, key=lambda units: sum(units.values()))
    with capsys.disabled():
        print(f"\n{SECONDS:.0f} s of load: {report['summary']}\nresident at most:")
        for unit, megabytes in sorted(most.items(), key=lambda each: -each[1]):
            print(f"{megabytes:8.0f} MB  {unit}")
        print(f"{sum(most.values()):8.0f} MB  in all")
    assert sum(most.values()) < MOST_RESIDENT_MB


def test_an_update_and_the_way_back_refuse_nobody(site: Installation, server: Host, tmp_path: Path) -> None:
    (first,) = site.releases("bot1")
    with site.load(), nobody_refused(server):
        site.play("playbooks/deploy.yml", application(tmp_path, "8.0.1"))
        (second,) = site.releases("bot1")
        site.play("playbooks/rollback.yml")
    assert second.startswith("8.0.1-")
    assert site.releases("bot1") == {first}


def test_a_release_that_is_never_ready_goes_back(site: Installation, server: Host, tmp_path: Path) -> None:
    first = site.releases("bot1")
    with site.load(), nobody_refused(server):
        said = site.refuse("playbooks/deploy.yml", application(tmp_path, "8.0.2", NEVER_READY))
    assert "release 8.0.2" in said
    assert site.releases("bot1") == first


def test_redis_is_away_while_all_else_dies(
    site: Installation, server: Host, table: list[tuple[str, dict[str, Any]]]
) -> None:
    """Callbacks wait on the disk and are answered afterwards in order; ``kill -9`` and a power cut harm none."""
    away = "/etc/systemd/system/redis-server.service.d/away.conf"
    seconds = min(SECONDS, 300)

    def redis(present: bool) -> None:
        # It has to stay away when the server starts.
        settle = f"rm {away}" if present else f"printf '[Unit]\\nConditionPathExists=/nonexistent\\n' >{away}"
        does = "start" if present else "stop"
        server.check_output("sudo sh -ec %s", f"{settle}; systemctl daemon-reload; systemctl {does} redis-server")

    with site.load(forgiving=True) as killed:
        redis(present=False)
        for unit in ("clawdbot", "clawdbot-worker"):
            time.sleep(seconds / 3)
            server.check_output(f"sudo systemctl kill --signal=KILL {unit}.service")
        time.sleep(seconds / 3)
        redis(present=True)
    table.append((f"Redis away for {seconds:.0f} s; web and worker killed", killed))
    with site.load(forgiving=True) as cut:
        redis(present=False)
        time.sleep(seconds / 3)
        site.start("bot1")
        time.sleep(seconds / 3)
        redis(present=True)
    table.append((f"Redis away for {2 * seconds / 3:.0f} s; power lost meanwhile", cut))
    for said in (killed, cut):
        assert (said["lost"], said["answered_twice"], said["out_of_order"]) == (0, 0, 0), said["summary"]
    # Whom the process was just answering when it died.
    assert killed["failed_requests"] <= 2, killed["summary"]


def test_messages_come_over_connections_as_well(site: Installation, server: Host) -> None:
    """Instead of callbacks, and back: nobody has to reach the server. Its receiver is killed meanwhile."""
    intakes = {"clawdbot_dingtalk_intake": "stream", "clawdbot_feishu_intake": "connection"}
    site.play("site.yml", "-e", json.dumps(intakes))
    with site.load(connected=True):
        for _ in range(3):
            server.check_output("sudo systemctl kill --signal=KILL clawdbot-receiver.service")
            time.sleep(4)
    site.play("site.yml")
    with site.load():
        pass
    assert server.run("systemctl cat clawdbot-receiver.service").rc != 0


# Floods the article's port, or sends it callbacks without a signature from a forged address. Prints each status once, 0
# for no answer.
STRANGER = """
import concurrent.futures, sys, urllib.error, urllib.request as u
base = f"http://{sys.argv[2]}:18789"
def status(path, data=None):
    request = u.Request(base + path, data, {"X-Forwarded-For": "192.0.2.66", "Content-Type": "application/json"})
    try:
        return u.urlopen(request, timeout=3).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
if sys.argv[1] == "flood":
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        got = list(pool.map(lambda _: status("/health"), range(600)))
else:
    got = [status("/metrics")] + [status("/api/dingtalk/callback", b"{}") for _ in range(40)]
print(*sorted(set(got)))
"""


def test_the_articles_port_has_the_limits_bans_and_client_address_of_the_others(
    site: Installation, server: Host
) -> None:
    """On the server itself that port is the bot's own."""
    address = site.hosts["bot1"]["ansible_host"]
    outside = site.on("outside")
    try:
        said = outside.check_output(
            "cd /opt/simulator && sudo python3 -m clawdbot_simulator converse --config config.json"
            f" --callback-base http://{address}:18789"
        )
        assert "6 of 6 messages were answered" in said
        # Who has sent a callback that was accepted is not banned; this host has, as the platforms.
        server.check_output("sudo sh -c ': >/var/log/nginx/access.log; rm -f /var/log/nginx/access.log.1'")
        assert {"401", "404"} <= set(outside.check_output("python3 -c %s forge %s", STRANGER, address).split())
        banned = "until sudo fail2ban-client get clawdbot-callback banip | grep -qwF %s; do sleep 1; done"
        server.check_output("timeout 30 sh -c %s", banned % site.hosts["outside"]["ansible_host"])
        for port in (80, 443, 18789):
            assert outside.run(f"timeout 3 bash -c '</dev/tcp/{address}/{port}'").rc != 0
        server.check_output("sudo fail2ban-client unban --all")
        assert "429" in outside.check_output("python3 -c %s flood %s", STRANGER, address).split()
    finally:
        server.check_output("sudo fail2ban-client unban --all")
