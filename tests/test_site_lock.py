"""One run at a time, and a dead one blocks nobody."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import site_lock

Ask = Callable[..., str]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """What the host answers to a run."""

    def to(verb: str, run: str, lease: int = 60, dead: str = "") -> str:
        command = [
            "sh",
            "-c",
            site_lock.SCRIPT,
            "lock",
            str(tmp_path / "note"),
            verb,
            run,
            str(lease),
            f"who {run}",
            dead,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return to


def test_the_second_is_told_who_is_at_it_until_the_first_has_ended(ask: Ask) -> None:
    assert ask("take", "one") == "done"
    held, holder, seconds, who = ask("take", "two").split("|")
    assert (held, holder, who) == ("held", "one", "who one")
    assert 50 < int(seconds) <= 60
    assert ask("free", "two") == "done"
    assert ask("take", "two").startswith("held")
    assert ask("free", "one") == "done"
    assert ask("take", "two") == "done"


def test_the_lease_is_renewed_and_runs_out(ask: Ask) -> None:
    ask("take", "one", lease=0)
    assert ask("take", "two") == "done"
    ask("take", "two", lease=0)
    ask("take", "two")
    assert ask("take", "one").startswith("held|two")


@pytest.mark.parametrize("dead", ["one", "*"])
def test_a_dead_run_is_replaced(ask: Ask, dead: str) -> None:
    ask("take", "one")
    assert ask("take", "two", dead="three").startswith("held")
    assert ask("take", "two", dead=dead) == "done"
    assert ask("take", "one").startswith("held|two")


def test_only_a_run_of_this_place_is_known_to_be_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    here, own = site_lock.place(), os.getpid()
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert not site_lock.is_dead(f"{here}:{own}:{site_lock.start_of(own)}")
    assert site_lock.is_dead(f"{here}:{own}:1"), "another process had this number before"
    assert site_lock.is_dead(f"{here}:{gone.pid}:1")
    assert not site_lock.is_dead(f"elsewhere:{gone.pid}:1")
    monkeypatch.setattr(socket, "gethostname", lambda: "job-4711")
    assert site_lock.place() == here, "a job's new name is no new controller, and two of one name are not one"


def test_a_container_on_the_same_kernel_is_another_place() -> None:
    """Its process numbers are its own."""
    code = "import site_lock; print(site_lock.place())"
    inside = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(Path(site_lock.__file__).parent)}
    done = subprocess.run(inside, capture_output=True, text=True, check=False, env=environment)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"this machine makes no namespaces: {done.stderr}")
    assert done.stdout.strip()
    assert done.stdout.strip() != site_lock.place()


PLAYBOOK = """
- hosts: all
  gather_facts: false
  serial: 1
  tasks:
    - site_lock: {lease: 600, path: "{{ note }}"}
      delegate_to: keeper
      run_once: true
- hosts: app
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - name: End badly
      __BADLY__
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.command: touch "{{ note }}.reached"
"""
INVENTORY = """
keeper ansible_connection=local
app ansible_connection=local
dead ansible_host=192.0.2.1 ansible_ssh_common_args='-o ConnectTimeout=1' ansible_connection=ssh
"""
WAIT = """ansible.builtin.shell: touch "{{ note }}.running"; sleep 30"""


@pytest.fixture
def start(root: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Begins a run that takes the note ``tmp_path / "note"`` and then ends badly."""

    def begin(badly: str, *options: str) -> subprocess.Popen[str]:
        for kind in ("action", "callback"):
            (tmp_path / f"{kind}_plugins").symlink_to(root / "plugins" / kind)
        (tmp_path / "run.yml").write_text(PLAYBOOK.replace("__BADLY__", badly), "utf-8")
        (tmp_path / "hosts").write_text(INVENTORY, "utf-8")
        command = ["ansible-playbook", "-i", str(tmp_path / "hosts"), str(tmp_path / "run.yml")]
        command += ["-e", f"note={tmp_path}/note", "-e", f"ansible_python_interpreter={sys.executable}", *options]
        environment = {name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"}
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )

    return begin


@pytest.mark.parametrize(
    ("badly", "options"),
    [
        ("ansible.builtin.fail:", ()),
        ("ansible.builtin.fail:", ("--limit", "app")),
        ("ansible.builtin.ping:\n      delegate_to: dead", ()),
        ('ansible.builtin.debug: {msg: "{{ nothing }}"}', ("--forks", "1")),
        ("ansible.builtin.meta: end_play", ()),
    ],
)
def test_a_run_that_ends_frees_its_note_however_it_ends(
    badly: str, options: tuple[str, ...], start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    run = start(badly, "--limit", "app,keeper", *options)
    said, _ = run.communicate(timeout=60)
    assert run.returncode != 0 or "end_play" in badly, said
    assert (tmp_path / "note").read_text() == "", said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_frees_its_note(
    number: signal.Signals, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    run = start(WAIT, "--limit", "app,keeper")
    # Not at the moment when the task begins: Ansible itself may lose a signal while it starts a worker.
    while not (tmp_path / "note.running").exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    assert (tmp_path / "note").read_text()
    os.kill(run.pid, number)
    said, _ = run.communicate(timeout=25)
    assert run.returncode, said
    assert (tmp_path / "note").read_text() == "", said
    assert not (tmp_path / "note.reached").exists()
