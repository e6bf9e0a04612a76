"""What Redis promises: a password, the given addresses only, no acknowledged write lost, no queue evicted.

Commands read the password on the host: what stands in a command line is in sudo's log.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from again import converge
from installation import lets_in
from testinfra.host import Host

CONVERGE = Path(__file__).parents[1] / "converge.yml"
PASSWORD = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "redis_password").read_text().strip()

# Eight connections write numbered keys, each as fast as it is acknowledged; after two seconds the server is killed.
# Prints how many writes each connection had acknowledged.
WRITE_AND_KILL = """
import json, os, socket, subprocess, threading, time
acknowledged = [0] * 8
def write(n):
    connection = socket.create_connection(("127.0.0.1", 6379))
    answers = connection.makefile("rb")
    connection.sendall(b"AUTH root %s\\r\\n" % os.environb[b"REDISCLI_AUTH"])
    assert answers.readline() == b"+OK\\r\\n"
    try:
        while True:
            connection.sendall(b"SET %d:%d x\\r\\n" % (n, acknowledged[n]))
            if answers.readline() != b"+OK\\r\\n":
                return
            acknowledged[n] += 1
    except OSError:
        pass
threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
[thread.start() for thread in threads]
time.sleep(2)
subprocess.run(["systemctl", "kill", "--signal=KILL", "redis-server"], check=True)
[thread.join() for thread in threads]
print(json.dumps(acknowledged))
"""


READ_PASSWORD = "export REDISCLI_AUTH=$(cat /etc/redis/clawdbot-root); "


def redis(host: Host, *arguments: str, check: bool = True) -> str:
    """Answer of the server on this host, asked by root; an error, too."""
    with host.sudo():
        result = host.run("clawdbot-redis " + " ".join(["%s"] * len(arguments)), *arguments)
    assert result.rc == 0 or not check, result.stdout + result.stderr
    return str(result.stdout + result.stderr).strip()


def wait_for_redis(host: Host) -> None:
    with host.sudo():
        host.check_output("timeout 30 sh -c 'until clawdbot-redis ping | grep -qx PONG; do sleep 0.1; done'")


@pytest.fixture(autouse=True)
def _empty_server(host: Host) -> Iterator[None]:
    redis(host, "flushall")
    yield
    redis(host, "flushall")


@pytest.mark.every_host
def test_password_is_needed(host: Host) -> None:
    assert "NOAUTH" in host.check_output("redis-cli ping")
    assert redis(host, "ping") == "PONG"


def test_only_given_addresses(host: Host) -> None:
    listening = host.check_output("ss --no-header -ltn 'sport = 6379' | awk '{print $4}'").split()
    address = host.check_output("hostname -I").split()[0]
    assert set(listening) == {"127.0.0.1:6379", f"{address}:6379"}
    assert lets_in(host, PASSWORD, address=address)


def test_password_is_kept_secret(host: Host) -> None:
    for file in ("clawdbot.acl", "clawdbot-root"):
        assert not host.run(f"cat /etc/redis/{file}").succeeded
    with host.sudo():
        assert PASSWORD not in host.check_output("find /etc/redis -type f -exec cat {} +")
        assert PASSWORD not in host.check_output("journalctl --no-pager; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


def test_acknowledged_writes_survive_a_kill(host: Host) -> None:
    with host.sudo():
        acknowledged = json.loads(host.check_output(READ_PASSWORD + "python3 -c %s", WRITE_AND_KILL))
    assert min(acknowledged) > 20
    wait_for_redis(host)
    assert redis(host, "config", "get", "appendfsync").split() == ["appendfsync", "always"]
    stored = set(redis(host, "--raw", "keys", "*").split())
    lost = [f"{n}:{i}" for n, count in enumerate(acknowledged) for i in range(count) if f"{n}:{i}" not in stored]
    assert lost == []


def test_full_memory_never_takes_a_queue(host: Host) -> None:
    fill = "for i = 1, {n} do redis.call('set', ARGV[1]..i, string.rep('x', 1000){ttl}) end"
    redis(host, "eval", fill.format(n=3000, ttl=""), "0", "queue:")
    redis(host, "eval", fill.format(n=3000, ttl=", 'EX', 3600"), "0", "cache:")
    for _ in range(40):
        redis(host, "eval", fill.format(n=300, ttl=", 'EX', 60"), "0", f"more{_}:", check=False)
    assert int(redis(host, "info", "stats").split("evicted_keys:")[1].split()[0]) > 0
    assert len(redis(host, "--raw", "keys", "queue:*").split()) == 3000
    # Nothing left to evict: a write is refused instead.
    for _ in range(60):
        said = redis(host, "eval", fill.format(n=300, ttl=""), "0", f"queue{_}:", check=False)
        if "OOM" in said:
            break
    assert "OOM" in said
    assert len(redis(host, "--raw", "keys", "queue:*").split()) == 3000


def test_restored_dump_is_adopted(host: Host) -> None:
    redis(host, "set", "from", "backup")
    with host.sudo():
        host.check_output("clawdbot-redis --rdb /var/lib/redis/backup.rdb")
        host.check_output(
            "systemctl stop redis-server && cd /var/lib/redis && rm -rf appendonlydir && mv backup.rdb dump.rdb"
            " && chown redis:redis dump.rdb && systemctl start redis-server"
        )
    wait_for_redis(host)
    assert redis(host, "get", "from") == "backup"
    redis(host, "set", "after", "restore")
    with host.sudo():
        host.check_output("systemctl restart redis-server")
    wait_for_redis(host)
    assert redis(host, "mget", "from", "after").split() == ["backup", "restore"]


def test_settings_that_were_written_but_not_taken_are_taken_by_the_next_run(host: Host) -> None:
    """The run dies between writing and restarting: the file is equal, and yet the next run restarts Redis."""
    name, task = host.backend.get_hostname(), "redis : Run Redis with this configuration, now and at boot"
    run = converge(CONVERGE, name, task, redis_maxmemory="13mb")
    assert run.returncode == -9, run.stdout[-3000:]
    assert redis(host, "config", "get", "maxmemory").split()[1] == str(12 << 20)
    run = converge(CONVERGE, name, redis_maxmemory="13mb")
    assert run.returncode == 0, run.stdout[-3000:]
    assert redis(host, "config", "get", "maxmemory").split()[1] == str(13 << 20)
    assert "changed=0" in converge(CONVERGE, name, redis_maxmemory="13mb").stdout
    assert converge(CONVERGE, name).returncode == 0


def test_password_and_port_change_in_three_steps(host: Host) -> None:
    """New beside former ones, also after a restart; then the former ones are gone. The data is nobody's business."""
    name, new = host.backend.get_hostname(), "another password of 32 letters.."
    former: dict[str, Any] = {"redis_former_passwords": [hashlib.sha256(PASSWORD.encode()).hexdigest()]}
    redis(host, "set", "before", "the change")
    started = redis(host, "info", "server").split("run_id:")[1].split()[0]
    run = converge(CONVERGE, name, redis_password=new, **former)
    assert run.returncode == 0, run.stdout[-3000:]
    assert lets_in(host, new)
    assert lets_in(host, PASSWORD)
    former |= {"redis_former_ports": [6379]}
    run = converge(CONVERGE, name, redis_password=new, redis_port=6380, **former)
    assert run.returncode == 0, run.stdout[-3000:]
    assert started in redis(host, "info", "server"), "neither needs a restart"
    address = host.check_output("hostname -I").split()[0]
    for port in (6379, 6380):
        for where in ("127.0.0.1", address):
            assert lets_in(host, PASSWORD, port, where), (port, where)
    assert "changed=0" in converge(CONVERGE, name, redis_password=new, redis_port=6380, **former).stdout
    with host.sudo():
        host.check_output("systemctl restart redis-server")
    wait_for_redis(host)
    assert lets_in(host, PASSWORD, 6379)
    run = converge(CONVERGE, name, redis_password=new, redis_port=6380)
    assert run.returncode == 0, run.stdout[-3000:]
    assert lets_in(host, new, 6380)
    assert not lets_in(host, PASSWORD, 6380)
    assert host.check_output("ss -Hltn 'sport = 6379'") == ""
    assert host.run("ls /etc/systemd/system | grep redis-former").stdout == ""
    assert redis(host, "get", "before") == "the change"
    assert "changed=0" in converge(CONVERGE, name, redis_password=new, redis_port=6380).stdout
    # The way back, and the way back from there.
    for port, before in ((6379, 6380), (6380, 6379), (6379, 6380)):
        run = converge(CONVERGE, name, redis_port=port, redis_former_ports=[before])
        assert run.returncode == 0, run.stdout[-3000:]
        assert lets_in(host, PASSWORD, port)
        assert lets_in(host, PASSWORD, before)
    assert converge(CONVERGE, name).returncode == 0
    assert host.check_output("ss -Hltn 'sport = 6380'") == ""


def test_comes_back_however_often_it_dies(host: Host) -> None:
    with host.sudo():
        host.check_output("for i in 1 2 3 4 5 6 7 8; do systemctl kill --signal=KILL redis-server; sleep 0.7; done")
    wait_for_redis(host)
