"""What was backed up comes back on an empty server, and whoever cannot restore is told what to mend."""

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

testinfra_hosts = ["ansible://redis"]

ROOT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
KEY = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], ".cache/molecule/id_ed25519")
SSH_OPTIONS = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
METRICS = "/var/lib/prometheus/node-exporter"
METRIC = f"{METRICS}/clawdbot-backup.prom"
KEYS = 2000
STORE = AnsibleRunner(INVENTORY).get_variables("backup-store")["ansible_host"]
RECOVERY_POINT_SECONDS = 16 * 60
PROGRAM = "/usr/local/sbin/clawdbot-backup"
SETTINGS = "/etc/clawdbot-backup/settings"


def redis(host: Host, commands: str) -> str:
    """What Redis answers; commands go through standard input, one a line."""
    password = (EPHEMERAL / "redis").read_text().strip()
    with host.sudo():
        return str(
            host.check_output(f"printf '%%s\\n' %s | REDISCLI_AUTH={password} redis-cli -p 6379", commands)
        ).strip()


def backup(host: Host, arguments: str, setting: str = "") -> tuple[int, str]:
    """Status and output of the program, as it would be with a further line in its settings."""
    with host.sudo():
        command = f"{PROGRAM} {arguments}"
        if setting:
            settings = f"cp {SETTINGS} /run/settings && printf '%s\\n' {shlex.quote(setting)} >> /run/settings"
            program = f"sed s,{SETTINGS},/run/settings, {PROGRAM} > /run/program"
            command = f"{settings} && {program} && timeout 120 bash /run/program {arguments}"
        done = host.run(command)
    return done.rc, done.stdout + done.stderr


def short(host: Host) -> str:
    return str(host.check_output("hostname")).split("-")[-1]


def test_a_copy_is_taken_every_night_and_the_monitoring_is_told(host: Host) -> None:
    with host.sudo():
        timer = host.check_output(
            "systemctl show clawdbot-backup.timer -p ActiveState -p UnitFileState -p TimersCalendar"
        )
        for expected in ("ActiveState=active", "UnitFileState=enabled", "03:00"):
            assert expected in timer
        host.check_output("rm -f %s && systemctl start clawdbot-backup", METRIC)
    # The node exporter has an account of its own.
    told = host.check_output("cat %s", METRIC)
    taken = re.search(r"^clawdbot_backup_last_success_timestamp_seconds (\d+)$", told, re.MULTILINE)
    assert taken
    assert 0 <= time.time() - int(taken[1]) < 60


def told(host: Host, name: str) -> dict[str, float]:
    """What the node exporter says of it, by the names behind ``clawdbot_backup_``."""
    lines = host.check_output(f"grep -v '^#' {METRICS}/clawdbot-backup{name}.prom").splitlines()
    return {key.removeprefix("clawdbot_backup_"): float(value) for key, value in (line.split() for line in lines)}


def seconds(host: Host, unit: str, name: str) -> float:
    """A property of a unit that is a time: since the start of the machine, or a length."""
    value = host.check_output("systemctl show --property %s --value %s", name, unit)
    # Those of services are numbers, those of timers are for people.
    said = host.check_output("systemd-analyze timespan %s", f"{value}us" if value.isdigit() else value)
    return int(said.split("s: ")[1].split()[0]) / 1e6


def test_data_is_copied_all_day_so_that_no_more_than_sixteen_minutes_are_lost(host: Host) -> None:
    timer, service = "clawdbot-backup@often.timer", "clawdbot-backup@often.service"
    with host.sudo():
        assert host.service(timer).is_running
        begun = time.time()
        host.check_output("systemctl start %s", service)
        started, ended = (seconds(host, service, f"ExecMain{each}TimestampMonotonic") for each in ("Start", "Exit"))
        # Until then the data of this copy is the newest, if the host is lost in the last moment of the next one.
        next_start = seconds(host, timer, "NextElapseUSecMonotonic") + seconds(host, timer, "AccuracyUSec")
        assert next_start - started + (ended - started) < RECOVERY_POINT_SECONDS
        # A restart does not make it longer.
        assert "OnActiveUSec=10s" in host.check_output("systemctl show --property TimersMonotonic %s", timer)
    said = told(host, "-often")
    assert said["interval_seconds"] == 900
    assert -1 < said["last_copy_timestamp_seconds"] - begun < 60
    assert told(host, "")["bytes"] > 0


def test_a_restore_is_rehearsed_apart_from_what_is_in_use(host: Host) -> None:
    redis(host, "set drill:1 x\nset drill:2 x ex 1000")
    with host.sudo():
        assert host.service("clawdbot-backup@drill.timer").is_enabled
        host.check_output("systemctl start clawdbot-backup@often")
        held = redis(host, "dbsize")
        redis(host, "set drill:3 later")
        host.check_output("systemctl start clawdbot-backup@drill")
        said = host.check_output("journalctl --unit clawdbot-backup@drill --output=cat --no-pager")
        assert f"Keys of Redis: {held} of {held} that still count" in said
        assert re.search("There was: keys: .*conversations: 0", said)
        assert not host.file("/var/lib/clawdbot-backup/drill").exists
        assert host.run("pgrep -f '[r]edis-server.*drill'").rc == 1
    assert redis(host, "get drill:3") == "later"
    figures = told(host, "-drill")
    assert figures["drill_success"] == 1
    assert 0 <= figures["drill_copy_age_seconds"] < 120
    assert 0 <= time.time() - figures["drill_last_success_timestamp_seconds"] < 60
    redis(host, "del drill:1 drill:2 drill:3")


def test_a_copy_that_fails_is_not_told_as_good(host: Host) -> None:
    before = host.check_output("cat %s", METRIC)
    status, said = backup(host, "run", "paths+=(/not/there)")
    assert status != 0
    assert "/not/there is to be kept and does not exist" in said
    assert host.check_output("cat %s", METRIC) == before


def test_a_full_store_harms_nothing_and_is_used_again_when_it_has_room(host: Host) -> None:
    before = host.check_output("cat %s", METRIC)
    setting = "RESTIC_REPOSITORY=/run/store; sftp=; paths+=(/root/much)"
    with host.sudo():
        host.check_output("mkdir /run/store && mount -t tmpfs -o size=3m tmpfs /run/store")
        host.check_output("head -c 8000000 /dev/urandom >/root/much")
    try:
        assert backup(host, "init", setting)[0] == 0
        status, said = backup(host, "run", setting)
        assert status != 0
        assert "no space left on device" in said
        assert host.check_output("cat %s", METRIC) == before
        assert redis(host, "ping") == "PONG"
        with host.sudo():
            host.check_output("mount -o remount,size=100m /run/store")
        status, said = backup(host, "run", setting)
        assert status == 0, said
    finally:
        with host.sudo():
            host.check_output("umount /run/store && rmdir /run/store && rm /root/much")


def test_the_lock_of_a_copy_that_was_killed_stops_nobody(host: Host) -> None:
    with host.sudo():
        restic = f'set -a; . {SETTINGS}; exec restic --quiet ${{sftp:+-o "sftp.command=$sftp"}}'
        # It waits for what is to be copied, with its lock in the repository.
        host.check_output(
            "systemd-run --quiet --unit=stale bash -c %s", f"tail -f /dev/null | bash -c '{restic} backup --stdin'"
        )
        locks = ["bash", "-c", f"{restic} list locks --no-lock"]
        listed = " ".join(shlex.quote(part) for part in locks)
        for _ in range(60):
            if host.run(listed).stdout.strip():
                break
            time.sleep(0.5)
        host.check_output("systemctl kill --signal=KILL stale")
        assert host.check_output(listed).strip(), "there is no lock, so this shows nothing"
    status, said = backup(host, "run")
    assert status == 0, said


def test_a_new_password_takes_the_place_of_the_former_ones(host: Host) -> None:
    """A change that dies before its copy, and one after it; whoever has a former password gets nothing any more."""
    present = (EPHEMERAL / "backup").read_text().strip()

    def asks(password: str, arguments: str, given: str = "") -> tuple[int, str]:
        # Not by sudo, which notes what it runs.
        host.check_output("printf %%s %s >/tmp/given", given)
        return backup(host, f"{arguments} </tmp/given", password and f"RESTIC_PASSWORD={password}")

    assert asks("first-new-password", "init") == (0, ""), "the role runs this, and is killed"
    assert asks("second-new-password", "init") == (0, "")
    assert "still opened" in asks("second-new-password", "refuses", present)[1]
    status, said = asks("second-new-password", "run")
    assert status == 0, said
    for former in (present, "first-new-password"):
        assert asks("second-new-password", "refuses", former) == (0, "")
    assert "still opened" in asks("second-new-password", "refuses", "second-new-password")[1]
    status, said = backup(host, "run")
    assert status == 0, said
    assert asks("", "refuses", "second-new-password") == (0, "")


def test_root_of_a_host_deletes_nothing_in_a_store_that_only_takes(host: Host) -> None:
    setting = f"prune=; sftp=; RESTIC_REPOSITORY=rest:http://{STORE}:8000/{short(host)}"
    for command in ("init", "run"):
        status, said = backup(host, command, setting)
        assert status == 0, said
    with host.sudo():
        restic = f". {SETTINGS}; RESTIC_REPOSITORY=rest:http://{STORE}:8000/{short(host)} restic --quiet "
        copies = host.check_output("bash -c %s", restic + "snapshots --json")
        assert len(json.loads(copies)) == 1
        assert host.run("bash -c %s", restic + "forget --prune --keep-last=1 latest").rc != 0
        assert host.run("bash -c %s", restic + f"forget --prune {json.loads(copies)[0]['short_id']}").rc != 0
        assert host.check_output("bash -c %s", restic + "snapshots --json") == copies
    status, said = backup(host, "often", setting)
    assert status == 0, said


def test_a_store_that_cannot_be_reached_is_told_and_harms_nothing(host: Host) -> None:
    unit = "clawdbot-backup@often"
    before = told(host, "-often")
    with host.sudo():
        host.check_output("ip route add unreachable %s", STORE)
        try:
            assert host.run("systemctl start %s", unit).rc != 0
            # ServiceFailed looks at this, BackupBehind at the age of the copy.
            assert host.check_output("systemctl show --property ActiveState --value %s", unit) == "failed"
            said = host.check_output("journalctl --unit %s --output=cat --no-pager --lines=20", unit)
            assert re.search("cannot be used. restic says: .*No route to host", said, re.DOTALL), said
            assert told(host, "-often") == before
            assert redis(host, "ping") == "PONG"
        finally:
            host.check_output("ip route del unreachable %s", STORE)
        host.check_output("systemctl start %s", unit)
    assert told(host, "-often") != before


# Stands between ssh and the store: so many bytes a second each way, and none any more after so many.
NARROW = """
import os, socket, sys, threading, time
rate, most = int(sys.argv[2]), int(sys.argv[3])
store = socket.create_connection((sys.argv[1], 22))
def carry(source, target, left=most):
    while data := os.read(source, 1024):
        time.sleep(len(data) / rate)
        left -= len(data)
        if left < 0:
            time.sleep(3600)
        os.write(target, data)
threading.Thread(target=carry, args=(0, store.fileno()), daemon=True).start()
carry(store.fileno(), 1)
"""


def narrow(host: Host, rate: int, most: int = 1 << 30) -> str:
    """The setting with which a host reaches the store that way, and copies 300 kB more."""
    with host.sudo():
        host.check_output("printf %%s %s >/run/narrow.py", NARROW)
        host.check_output("echo ProxyCommand python3 /run/narrow.py %s >/run/narrow", f"{STORE} {rate} {most}")
        host.check_output("head -c 300000 /dev/urandom >/run/much")
    return 'sftp="ssh -F /run/narrow ${sftp#ssh }"; paths+=(/run/much)'


def test_a_slow_store_makes_copies_late_and_nothing_else(host: Host) -> None:
    setting = narrow(host, rate=60_000)
    password = (EPHEMERAL / "redis").read_text().strip()
    with host.sudo():
        # They take three seconds if each is answered at once.
        pings = "timeout 10 redis-cli -r 60 -i 0.05 ping"
        unit = "systemd-run --quiet --unit=pings --property=StandardOutput=truncate:/run/pings"
        host.check_output(f"{unit} --setenv=REDISCLI_AUTH=%s {pings}", password)
    begun = time.time()
    status, said = backup(host, "often", setting)
    took = time.time() - begun
    assert status == 0, said
    assert took > 5, "the store was not slow, so this shows nothing"
    assert host.check_output("cat /run/pings").split() == ["PONG"] * 60
    # BackupBehind counts from when the data was taken.
    assert time.time() - told(host, "-often")["last_copy_timestamp_seconds"] > took - 2


def test_a_store_that_falls_silent_is_given_up(host: Host) -> None:
    before = told(host, "-often")
    # After three times 15 seconds in production.
    patience = "sftp=${sftp/ServerAliveInterval=15/ServerAliveInterval=1}"
    begun = time.monotonic()
    status, said = backup(host, "often", f"{patience}; {narrow(host, rate=10_000_000, most=100_000)}")
    assert status != 0
    assert "not responding" in said
    assert time.monotonic() - begun < 60
    assert told(host, "-often") == before


def test_the_password_is_for_root_alone(host: Host) -> None:
    with host.sudo():
        assert host.file("/etc/clawdbot-backup").mode == 0o700
        assert host.file(SETTINGS).mode == 0o600
        password = (EPHEMERAL / "backup").read_text().strip()
        assert password not in host.check_output("journalctl --no-pager --output=cat")


def test_the_unit_may_do_little(host: Host) -> None:
    said = host.check_output("systemd-analyze security --no-pager clawdbot-backup.service")
    score = re.search(r"Overall exposure level for \S+ ([0-9.]+)", said)
    assert score
    assert float(score[1]) <= 2.0


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    """The two fresh hosts after playbooks/restore.yml: one has the name of the host that was lost, one its own."""
    lost = {short(host): host for host in testinfra.get_hosts(["ansible://redis"], ansible_inventory=INVENTORY)}
    for name, host in lost.items():
        redis(host, "\n".join(f"set key:{number} {name}-{number} ex 86400" for number in range(KEYS)))
        redis(host, "rpush queue first second\nzadd due 1.5 message\nset kept value")
        with host.sudo():
            host.check_output("systemctl start clawdbot-backup")
            host.check_output("systemctl stop redis-server")

    runner = AnsibleRunner(INVENTORY)
    addresses = {name: runner.get_variables(f"backup-fresh{name[-2:]}")["ansible_host"] for name in lost}
    # Each is an installation of its own, and both come back at the same time.
    runs = {name: restore(name, address, tmp_path_factory.mktemp(name)) for name, address in addresses.items()}
    for name, run in runs.items():
        assert run.wait(timeout=1200) == 0, said_by(name).read_text()[-6000:]
    return {
        name: testinfra.get_host(
            f"ssh://debian@{address}:2222",
            ssh_identity_file=str(KEY),
            ssh_extra_args=SSH_OPTIONS,
        )
        for name, address in addresses.items()
    }


def said_by(name: str) -> Path:
    """Where the run that restores ``name`` writes."""
    return EPHEMERAL / f"restore-{name}.log"


def restore(name: str, address: str, inventory: Path) -> subprocess.Popen[bytes]:
    """Begins to restore what was backed up as ``name`` onto the host at ``address``, which has its own name or that."""
    (inventory / "group_vars").symlink_to(ROOT / "molecule/backup/group_vars")
    hosts = {
        "debian12": {"backup-debian12": {"ansible_host": address}},
        "debian13": {"backup-fresh13": {"ansible_host": address, "backup_of": "backup-debian13"}},
    }
    members = {"hosts": hosts[name]}
    login = {
        "ansible_user": "debian",
        "ansible_private_key_file": str(KEY),
        "ansible_ssh_common_args": SSH_OPTIONS,
    }
    groups = {"redis": members, "clawdbot": members, "store": {"hosts": {"backup-store": {"ansible_host": STORE}}}}
    (inventory / "hosts.json").write_text(json.dumps({"all": {"vars": login, "children": groups}}))
    with said_by(name).open("wb") as said:
        return subprocess.Popen(
            ["ansible-playbook", "--inventory", str(inventory), str(ROOT / "playbooks/restore.yml")],
            stdout=said,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(params=["debian12", "debian13"])
def fresh(request: pytest.FixtureRequest, restored: dict[str, Host]) -> Host:
    """One of them."""
    return restored[request.param]


def test_an_empty_server_has_all_keys_again(request: pytest.FixtureRequest, fresh: Host) -> None:
    name = request.node.callspec.params["fresh"]
    assert redis(fresh, "get key:0\nget key:1999\nget kept") == f"{name}-0\n{name}-1999\nvalue"
    assert redis(fresh, "lrange queue 0 -1\nzscore due message") == "first\nsecond\n1.5"
    assert 80000 < int(redis(fresh, "ttl key:7")) <= 86400
    # They survive a restart, so they are in the append-only file as well.
    with fresh.sudo():
        fresh.check_output("systemctl restart redis-server")
    assert redis(fresh, "llen queue") == "2"


def test_later_copies_of_a_host_go_under_its_own_name(restored: dict[str, Host]) -> None:
    host = restored["debian13"]
    for arguments in ("list", "fetch"):
        status, said = backup(host, arguments)
        assert status == 0, said
        assert "backup-fresh13" in said
        assert "backup-debian13" not in said
    assert "take its backup_of out of the inventory" in said_by("debian13").read_text()
    assert "take its backup_of" not in said_by("debian12").read_text()


def test_the_configuration_is_back_with_its_owners(fresh: Host) -> None:
    with fresh.sudo():
        file = fresh.file("/opt/clawdbot/config/by_hand")
        assert file.content_string == "a secret that no inventory knows\n"
        assert (file.user, file.group, file.mode) == ("root", "clawdbot", 0o640)
        assert fresh.check_output("id -gn clawdbot") == "clawdbot"
        assert fresh.file("/opt/clawdbot/config/feishu.js").contains("cli_test")
        ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:18789/health').read().decode())"
        assert json.loads(fresh.check_output("python3 -c %s", ask)) == {"status": "healthy"}


def replace(host: Host) -> None:
    """Has what was fetched take the place of the data of Redis, and of the files."""
    for arguments in ("fits --overwrite", "secure", "aside", "begin", "join", "settle", "apply"):
        status, said = backup(host, arguments)
        assert status == 0, said


def test_keys_are_replaced_only_by_those_who_say_so_and_copied_before(fresh: Host) -> None:
    redis(fresh, "set later value")
    assert backup(fresh, "fetch")[0] == 0
    status, said = backup(fresh, "fits")
    assert status != 0
    assert "backup_overwrite=true" in said
    assert redis(fresh, "get later") == "value"

    replace(fresh)
    assert redis(fresh, "get later") == ""
    assert redis(fresh, "llen queue") == "2"
    # The copy that was taken before has it.
    assert backup(fresh, "fetch")[0] == 0
    replace(fresh)
    assert redis(fresh, "get later") == "value"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (
            "RESTIC_REPOSITORY+=-elsewhere",
            "There is no backup of backup-(debian12|fresh13) at sftp:keeper.*site_backup_repository names",
        ),
        ("RESTIC_PASSWORD=another-one-1234", "was made with another password: site_backup_password has to be"),
        ("RESTIC_REPOSITORY=sftp:keeper@192.0.2.1:copies sftp='false'", "cannot be used. restic says"),
        ("host=nobody", "There is no copy 'latest' of nobody at sftp:keeper"),
    ],
)
def test_a_repository_that_cannot_be_read_says_what_to_mend(fresh: Host, setting: str, expected: str) -> None:
    status, said = backup(fresh, "fetch", setting)
    assert status != 0
    assert re.search(expected, said), said
    assert (EPHEMERAL / "backup").read_text().strip() not in said


def test_a_damaged_copy_is_found_before_anything_is_touched(fresh: Host) -> None:
    store = testinfra.get_host("ansible://backup-store", ansible_inventory=INVENTORY)
    folder = f"/home/keeper/copies/{fresh.check_output('hostname').replace('fresh12', 'debian12')}"
    with store.sudo():
        store.check_output(f"rm -rf {folder}-damaged && cp -a {folder} {folder}-damaged")
        # A byte in the middle of each file of data.
        store.check_output(
            f"for file in $(find {folder}-damaged/data -type f); do chmod u+w $file; "
            "printf 'X' | dd of=$file bs=1 seek=$(($(stat -c %s $file) / 2)) conv=notrunc status=none; done"
        )
    assert backup(fresh, "drill")[0] == 0
    before = told(fresh, "-drill")
    assert backup(fresh, "drill", "RESTIC_REPOSITORY+=-damaged")[0] != 0
    after = told(fresh, "-drill")
    assert after["drill_success"] == 0
    assert after["drill_last_success_timestamp_seconds"] == before["drill_last_success_timestamp_seconds"]
    status, said = backup(fresh, "fetch", "RESTIC_REPOSITORY+=-damaged")
    assert status != 0
    assert "cannot be read from" in said
    assert "backup_copy=ID" in said
    assert redis(fresh, "llen queue") == "2"


def test_a_dump_of_a_newer_redis_is_refused(restored: dict[str, Host]) -> None:
    """Redis 7 of Debian 12 cannot load what Redis 8 of Debian 13 wrote."""
    host = restored["debian12"]
    status, said = backup(host, "fetch latest backup-debian13")
    assert status != 0
    assert "newer Redis" in said


def test_a_dump_of_an_older_redis_is_taken(restored: dict[str, Host]) -> None:
    """The last test: Debian 13 gets the data of Debian 12."""
    host = restored["debian13"]
    status, said = backup(host, "fetch latest backup-debian12")
    assert status == 0, said
    replace(host)
    assert redis(host, "get key:0") == "debian12-0"
