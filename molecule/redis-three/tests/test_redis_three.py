"""Three servers of Redis: one leads, any may die, and what a run or Sentinel changes stays."""

import hashlib
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import testinfra
from again import converge
from power import docker, eventually
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
CONVERGE = Path(__file__).parents[1] / "converge.yml"
RESTORE = Path(__file__).parents[1] / "restore.yml"
NAMES = [f"redis-three-{letter}" for letter in "abc"]
PASSWORD = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "redis_password").read_text().strip()

# Writes numbered keys as the bot writes, and prints number and time of each that is acknowledged.
WRITE = """
import contextlib, itertools, sys, time
import redis
from clawdbot.config import RedisConfig
from clawdbot.copies import durably
from clawdbot.store import connect

addresses, password = sys.argv[1:], sys.stdin.readline().strip()
servers, sentinels = ([(address, port) for address in addresses] for port in (6379, 26379))
client = connect(RedisConfig(password=password, servers=servers, sentinels=sentinels), timeout=1.5)
for number in itertools.count():
    with contextlib.suppress(redis.RedisError):
        durably(client, ["SET", f"written:{number}", ""])
        print(number, time.time(), flush=True)
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def hosts() -> dict[str, Host]:
    """Not over SSH, since hosts lose their power."""
    return {name: testinfra.get_host(f"docker://clawdbot-{name}") for name in NAMES}


def redis(host: Host, *arguments: str) -> str:
    done = host.run("clawdbot-redis " + " ".join(["%s"] * len(arguments)), *arguments)
    return str(done.stdout + done.stderr).strip()


def leader(hosts: dict[str, Host]) -> str:
    """Name of the one that leads, empty as long as they do not agree."""
    leads = [name for name, host in hosts.items() if redis(host, "role").startswith("master")]
    return leads[0] if len(leads) == 1 else ""


def whole(hosts: dict[str, Host]) -> str:
    """Name of the one that leads, empty as long as something is missing."""
    missing = any(host.run("timeout 5 clawdbot-redis-group check 2").rc for host in hosts.values())
    return "" if missing else leader(hosts)


@pytest.fixture
def written(hosts: dict[str, Host], tmp_path: Path) -> Iterator[Callable[[], tuple[int, float]]]:
    """Writes go on; what is returned is how many were acknowledged and the longest pause, all of them being there."""
    addresses = [host.check_output("hostname -I").split()[0] for host in hosts.values()]
    log = tmp_path / "written"
    with log.open("w") as out:
        writer = subprocess.Popen(
            [ROOT / "app/.venv/bin/python", "-c", WRITE, *addresses],
            cwd=ROOT / "app",
            stdin=subprocess.PIPE,
            stdout=out,
            text=True,
        )
    assert writer.stdin
    writer.stdin.write(PASSWORD + "\n")
    writer.stdin.close()

    def judge() -> tuple[int, float]:
        time.sleep(2)
        assert writer.poll() is None
        writer.kill()
        lines = [line.split() for line in log.read_text().splitlines()]
        moments = [float(moment) for _, moment in lines]
        leads = hosts[eventually(lambda: whole(hosts))]
        there = set(redis(leads, "keys", "written:*").split())
        assert {f"written:{number}" for number, _ in lines} <= there
        redis(leads, "flushall")
        return len(lines), max(after - before for before, after in itertools.pairwise(moments))

    try:
        eventually(log.read_text)
        yield judge
    finally:
        writer.kill()
        writer.wait()


def test_one_leads_and_the_others_copy(hosts: dict[str, Host]) -> None:
    first = eventually(lambda: whole(hosts))
    assert redis(hosts[first], "set", "greeting", "hello") == "OK"
    for name in NAMES:
        eventually(lambda name=name: redis(hosts[name], "get", "greeting") == "hello")  # type: ignore[misc]  # its default
    # Sentinel writes into files of its own, never into those of the package or of the role.
    for host in hosts.values():
        assert host.run("dpkg --verify redis-server redis-tools").stdout == ""


def test_power_is_lost_and_comes_back(hosts: dict[str, Host], written: Callable[[], tuple[int, float]]) -> None:
    before = eventually(lambda: whole(hosts))
    docker("kill", f"clawdbot-{before}")
    others = {name: host for name, host in hosts.items() if name != before}
    after = eventually(lambda: leader(others))
    time.sleep(3)
    docker("start", f"clawdbot-{before}")
    # It follows from its first moment on.
    eventually(lambda: whole(hosts))
    assert leader(hosts) == after
    count, pause = written()
    print(f"power lost: {count} written, longest pause {pause:.1f} s")


def test_a_hand_over_loses_nothing(hosts: dict[str, Host], written: Callable[[], tuple[int, float]]) -> None:
    for _ in range(2):
        before = eventually(lambda: whole(hosts))
        assert "leads now" in hosts[before].check_output("clawdbot-redis-group hand-over")
        assert eventually(lambda: leader(hosts)) != before
    count, pause = written()
    print(f"hand-over: {count} written, longest pause {pause:.1f} s")


def test_settings_change_server_after_server(hosts: dict[str, Host], written: Callable[[], tuple[int, float]]) -> None:
    eventually(lambda: whole(hosts))
    done = converge(CONVERGE, "all", redis_maxmemory="200mb")
    assert done.returncode == 0, done.stdout[-3000:]
    for host in hosts.values():
        assert "209715200" in redis(host, "config", "get", "maxmemory")
    count, pause = written()
    print(f"settings: {count} written, longest pause {pause:.1f} s")
    assert "changed=0" in converge(CONVERGE, "all", redis_maxmemory="200mb").stdout


def test_a_new_password_reaches_replicas_and_sentinels(hosts: dict[str, Host]) -> None:
    eventually(lambda: whole(hosts))
    former = hashlib.sha256(PASSWORD.encode()).hexdigest()
    try:
        for values in ({"former": former}, {}):
            done = converge(CONVERGE, "all", redis_maxmemory="200mb", wanted_password="n" * 32, **values)
            assert done.returncode == 0, done.stdout[-3000:]
        before = eventually(lambda: whole(hosts))
        hosts[before].check_output("systemctl restart redis-server")
        eventually(lambda: whole(hosts))
        hosts[leader(hosts)].check_output("clawdbot-redis-group hand-over")
        eventually(lambda: whole(hosts))
    finally:
        assert converge(CONVERGE, "all", redis_maxmemory="200mb").returncode == 0


def test_one_that_lost_its_data_does_not_make_the_others_forget(hosts: dict[str, Host]) -> None:
    before = eventually(lambda: whole(hosts))
    redis(hosts[before], "set", "precious", "1")
    eventually(lambda: [redis(host, "get", "precious") for host in hosts.values()] == ["1"] * 3)
    hosts[before].check_output("systemctl kill --signal=KILL redis-server; rm -rf /var/lib/redis/appendonlydir")
    eventually(lambda: whole(hosts), 120)
    assert [redis(host, "get", "precious") for host in hosts.values()] == ["1"] * 3
    assert leader(hosts) != before


def test_the_newest_copy_takes_the_place_of_what_all_servers_hold(hosts: dict[str, Host]) -> None:
    before = eventually(lambda: whole(hosts))
    newest = next(name for name in NAMES if name != before)
    redis(hosts[before], "set", "kept", "1")
    done = converge(RESTORE, "all", parts=["main"])
    assert done.returncode == 0, done.stdout[-3000:]
    redis(hosts[before], "set", "kept", "2")
    eventually(lambda: redis(hosts[newest], "get", "kept") == "2")
    hosts[newest].check_output("clawdbot-backup often")
    redis(hosts[before], "set", "kept", "3")
    eventually(lambda: [redis(host, "get", "kept") for host in hosts.values()] == ["3"] * 3)

    done = converge(RESTORE, "all", parts=["fetch", "fits", "apply"])
    assert done.returncode == 0, done.stdout[-3000:]
    assert whole(hosts) == newest
    assert [redis(host, "get", "kept") for host in hosts.values()] == ["2"] * 3
    for host in hosts.values():
        assert host.run("ls -d /var/lib/redis/before* /var/lib/clawdbot-sentinel/before*").stdout == ""


def test_redis_that_does_not_start_with_a_copy_has_its_former_data_on_all_servers(hosts: dict[str, Host]) -> None:
    before = eventually(lambda: whole(hosts))
    redis(hosts[before], "set", "kept", "4")
    eventually(lambda: [redis(host, "get", "kept") for host in hosts.values()] == ["4"] * 3)
    copy = hosts[before].check_output("clawdbot-backup list | grep -oE '^[0-9a-f]{8}' | head -n 1")
    adopt = "/usr/local/sbin/clawdbot-redis-adopt"
    spoil = f"[ -e /var/lib/redis/appendonlydir ] || echo x >/var/lib/redis/dump.rdb; exec {adopt}.whole /var/lib/redis"
    for host in hosts.values():
        host.check_output(f"mv {adopt} {adopt}.whole")
        host.check_output(f"printf '#!/bin/sh\n%%s\n' %s >{adopt} && chmod 755 {adopt}", spoil)
    done = converge(RESTORE, "all", parts=["fetch", "fits", "apply"], backup_copy=copy)
    assert done.returncode != 0
    assert "Redis has its former data again" in done.stdout
    assert "Redis does not start with the copy. It says:" in done.stdout
    for host in hosts.values():
        host.check_output(f"mv {adopt}.whole {adopt}")
    eventually(lambda: whole(hosts))
    assert leader(hosts) == before
    assert [redis(host, "get", "kept") for host in hosts.values()] == ["4"] * 3

    # One server has that copy, and all get it.
    done = converge(RESTORE, "all", parts=["fetch", "fits", "apply"], backup_copy=copy)
    assert done.returncode == 0, done.stdout[-3000:]
    assert whole(hosts) == before
    assert [redis(host, "get", "kept") for host in hosts.values()] == ["1"] * 3
