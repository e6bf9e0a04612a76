"""Copies of hosts, and how they come back, with stand-ins for restic, Redis and systemd."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TAKEN = 1764324000

# A repository is a folder with the files of its one copy.
RESTIC = """
copy=${RESTIC_REPOSITORY}/copy
[[ " $* " != *' init '* ]] || mkdir -p "$copy"
[ -d "$copy" ] || { echo 'Fatal: Is there a repository at the following location?'; exit 10; }
case " $* " in
    *' snapshots '*latest*) echo '[{"time":"2025-11-28T10:00:00.5Z","paths":["/x"]}]' ;;
    *' snapshots '*) echo 'Ignoring "id": no matching ID found' >&2 && echo '[]' ;;
    *' dump '*) cd "$copy" && tar --create * ;;
esac
"""
# It begins to answer after so many calls; "--rdb" writes a dump.
REDIS_CLI = """
echo "$*" >>"$FOLDER/asked"
case " $* " in
    *' --rdb '*)
        [ "$(grep -c rdb "$FOLDER/asked")" -gt "${FAILURES-0}" ] || { echo "SYNC with master failed: -$ERROR"; exit 1; }
        for dump; do :; done
        echo dump >"$dump" ;;
    *' info replication '*) printf 'role:master\\r\\n' ;;
    *) echo 2 ;;
esac
"""
SYSTEMCTL = """
echo "$*" >>"$FOLDER/units"
[ "$1" != start ] || [[ " $* " != *' redis-server '* ]] || [ ! -e "$FOLDER/lib/redis/dump.rdb" ] || [ -z "${BROKEN-}" ]
"""
# Not everywhere is there an account of Redis.
INSTALL = 'cp "${@: -2}"'


@dataclass
class Machine:
    """A host with the program."""

    folder: Path

    def __call__(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Status and output of the program."""
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", self.folder / "program", *arguments],
            env={"PATH": path, "FOLDER": str(self.folder), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def holds(self) -> dict[str, str]:
        """What lies in the folders of Redis and of Sentinel."""
        names = ("lib/redis", "lib/clawdbot-sentinel")
        files = [file for name in names for file in sorted((self.folder / name).rglob("*")) if file.is_file()]
        return {str(file.relative_to(self.folder / "lib")): file.read_text() for file in files}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    program = (ROOT / "roles/backup/files/clawdbot-backup").read_text()
    for place in ("/var/lib/", "/etc/", "/usr/local/sbin/"):
        program = program.replace(place, f"{tmp_path}/{place.strip('/').split('/')[-1]}/")
    settings = f"""
        export RESTIC_REPOSITORY={tmp_path}/store/new1 RESTIC_PASSWORD=x
        host=new1 metric={tmp_path}/metrics/backup.prom redis_port=1 counts=() options=() paths=({tmp_path}/opt)
    """
    write(tmp_path, {"program": program, "etc/clawdbot-backup/settings": settings})
    programs = {
        "restic": RESTIC,
        "redis-cli": REDIS_CLI,
        "systemctl": SYSTEMCTL,
        "install": INSTALL,
        "redis-check-rdb": "echo '[info] 2 keys read'",
        "journalctl": "echo no such format",
    }
    write(tmp_path / "bin", {name: f"#!/bin/bash\n{text}" for name, text in programs.items()})
    for name in programs:
        (tmp_path / "bin" / name).chmod(0o755)
    write(
        tmp_path / "lib",
        {"redis/appendonlydir/base": "former", "redis/clawdbot-main.conf": "replicaof 10.0.0.9 1\n"},
    )
    return Machine(tmp_path)


@pytest.fixture
def fetched(machine: Machine) -> Machine:
    """The machine with what was copied under another name, of which it keeps a part."""
    inside = str(machine.folder).lstrip("/")
    copied = {f"{inside}/lib/clawdbot-backup/dump.rdb": "dump", f"{inside}/opt/file": "1", f"{inside}/other/file": "2"}
    write(machine.folder / "store/old1/copy", copied)
    status, said = machine("fetch", "latest", "old1")
    assert (status, said) == (0, f"Copy of old1, taken at {TAKEN}\n")
    return machine


def test_copies_of_another_name_lie_beside_ones_own(fetched: Machine) -> None:
    assert fetched("apply")[0] == 0
    assert (fetched.folder / "opt/file").read_text() == "1"
    assert not (fetched.folder / "other").exists(), "this host does not keep it"


def test_a_name_without_copies_says_what_to_mend(machine: Machine) -> None:
    for arguments, name in ((("latest", "gone1"), "gone1"), (("latest",), "new1")):
        status, said = machine("fetch", *arguments)
        assert status == 1
        assert f"There is no backup of {name} at {machine.folder}/store/{name}" in said
        assert "set backup_of to that" in said


def test_a_copy_of_one_host_is_not_one_of_another(fetched: Machine) -> None:
    status, said = fetched("fetch", "1a2b3c", "old1")
    assert status == 3
    assert "There is no copy '1a2b3c' of old1" in said


def test_a_copy_waits_until_the_servers_have_agreed_on_who_leads(machine: Machine) -> None:
    lost = "NOMASTERLINK Can't SYNC while not connected with my master"
    (machine.folder / "store/new1/copy").mkdir(parents=True)
    (machine.folder / "opt").mkdir()
    often = (machine.folder / "program").read_text().replace("rehearse | secure |", "copy | rehearse | secure |")
    (machine.folder / "program").write_text(often)
    status, said = machine("copy", FAILURES="2", ERROR=lost)
    assert status == 0, said
    (machine.folder / "asked").unlink()
    status, said = machine("copy", FAILURES="2", ERROR="ERR no")
    assert status == 1
    assert "Redis gave no dump: SYNC with master failed: -ERR no" in said


def test_what_is_replaced_is_copied_by_a_host_that_never_was(machine: Machine) -> None:
    (machine.folder / "opt").mkdir()
    status, said = machine("secure")
    assert status == 0, said
    assert "backup_last_success" in (machine.folder / "metrics/backup.prom").read_text()


@pytest.mark.parametrize(("own", "leads"), [("", ""), ("10.0.0.1", "10.0.0.1"), ("10.0.0.1", "10.0.0.2")])
def test_redis_starts_with_the_copy_or_has_its_former_data_again(fetched: Machine, own: str, leads: str) -> None:
    if own:
        group = f"own={own}\nport=6379\nservers='10.0.0.1 10.0.0.2 10.0.0.3'\n"
        write(fetched.folder, {"etc/redis/clawdbot-group": group, "etc/systemd/system/clawdbot-sentinel.service": ""})
        write(
            fetched.folder, {"lib/clawdbot-sentinel/sentinel.conf": "former", "sbin/clawdbot-redis-group": 'echo "$@"'}
        )
        (fetched.folder / "sbin/clawdbot-redis-group").chmod(0o755)
    former = fetched.holds()

    assert fetched("aside")[0] == 0
    assert not any("/before" not in name for name in fetched.holds()), "nothing of it is left"
    status, said = fetched("begin", leads, BROKEN="yes")
    assert status == (1 if own == leads else 0)
    assert ("no such format" in said) == (own == leads)
    assert fetched("back")[0] == 0
    assert fetched.holds() == former

    steps = (("aside",), ("begin", leads), ("join",), ("settle",))
    said = "".join(fetched(*step)[1] for step in steps)
    assert "Redis has 2 keys." in said
    expected = {"redis/dump.rdb": "dump"} if own == leads else {}
    if own:
        assert "check 2" in said
        expected["redis/clawdbot-main.conf"] = "" if own == leads else f"replicaof {leads} 6379\n"
        expected["clawdbot-sentinel/sentinel.conf"] = f"sentinel monitor clawdbot {leads}\n"
    assert fetched.holds() == expected


@pytest.mark.parametrize(
    ("limit", "missing"), [("all", ""), ("redis1,redis2", "redis3 does not answer or is left out by")]
)
def test_redis_is_restored_on_all_of_its_servers_at_once(tmp_path: Path, limit: str, missing: str) -> None:
    plays = yaml.safe_load((ROOT / "playbooks/restore.yml").read_text("utf-8"))
    fetch = next(play for play in plays if play["name"] == "Fetch the copies")
    fetch["tasks"] = [task for task in fetch["tasks"] if task["name"].startswith("Check that all servers")]
    hosts = {f"redis{number}": {"ansible_host": f"192.0.2.{number}"} for number in (1, 2, 3)}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([fetch]), "utf-8")
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": {"redis": {"hosts": hosts}}}}), "utf-8")
    command = ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), "--limit", limit, str(tmp_path / "play.yml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(missing), done.stdout
    assert missing in done.stdout
