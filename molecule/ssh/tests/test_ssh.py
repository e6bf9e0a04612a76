"""The SSH port moves, the run dies, the key is wrong: the hosts stay reachable and the next run mends it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

SCENARIO = Path(__file__).parents[1]
INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
HOSTS = ("ssh-debian12", "ssh-debian13")
PORTS = (2222, 2022)
#: Where the run is killed, which time it gets there, and whether the host's own timers come before the next run.
#: `make soak` tries every one; otherwise those that leave the hosts in states that differ most: rules or settings in
#: force but not proven, with either timer at its end, and the old port closed in sshd only.
EVERY = [
    ("firewall : Load the rules, with a timer that undoes it", 1, False),
    ("firewall : Connect anew", 1, True),
    ("firewall : Confirm the rules", 1, False),
    ("ssh : Reload sshd, with a timer that undoes it", 1, False),
    ("ssh : Log in anew", 1, True),
    ("ssh : Stop the timer", 1, False),
    ("ssh : Go on with the new port", 1, False),
    ("ssh : Reload sshd, with a timer that undoes it", 2, False),
    ("ssh : Log in anew", 2, True),
    ("ssh : Stop the timer", 2, False),
    ("Close the port that sshd has left", 1, False),
    ("firewall : Connect anew", 2, True),
    ("firewall : Confirm the rules", 2, False),
]
SOME = [EVERY[1], EVERY[4], EVERY[10]]
DEATHS = EVERY if os.environ.get("SSH_DEATHS") == "every" else SOME


@cache
def machine(name: str) -> Host:
    """A host of the scenario, reached as root through Docker, which needs no SSH."""
    return testinfra.get_host(f"docker://clawdbot-{name}")


@cache
def connection(name: str) -> dict[str, Any]:
    instances = yaml.safe_load(Path(os.environ["MOLECULE_INSTANCE_CONFIG"]).read_text("utf-8"))
    return next(dict(instance) for instance in instances if instance["instance"] == name)


def can_log_in(name: str, port: int, user: str = "") -> bool:
    """Whether a new login with the controller's key works."""
    how = connection(name)
    options = ["ConnectTimeout=5", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"]
    command = ["ssh", "-n", "-F", "none", "-i", how["identity_file"], "-p", str(port)]
    command += [word for option in options for word in ("-o", option)]
    command += [f"{user or how['user']}@{how['address']}", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def listening(name: str) -> set[int]:
    sockets = machine(name).check_output("ss -Hltnp")
    return {int(match) for match in re.findall(r":(\d+) +\S+ +users:\(\(\"(?:sshd|systemd)\"", sockets)}


def play(port: int, kill_before: str = "", **variables: Any) -> subprocess.CompletedProcess[str]:
    """Runs the roles firewall and ssh; ``kill_before`` is ``occurrence:task`` before which the controller dies."""
    values = json.dumps({"site_ssh_port": port, **variables})
    command = ["ansible-playbook", "--inventory", INVENTORY, "--tags", "ssh", "--extra-vars", values]
    environment = os.environ | {
        "ANSIBLE_CALLBACK_PLUGINS": str(SCENARIO.parent / "shared/callback_plugins"),
        "ANSIBLE_CALLBACKS_ENABLED": "kill_before",
        "KILL_BEFORE": kill_before or "0:",
        "ANSIBLE_FORCE_COLOR": "false",
    }
    return subprocess.run(
        [*command, str(SCENARIO / "converge.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env=environment,
        start_new_session=True,
    )


def changes(run: subprocess.CompletedProcess[str]) -> list[int]:
    return [int(count) for count in re.findall(r"^ssh-debian.*changed=(\d+)", run.stdout, re.MULTILINE)]


def current_port() -> int:
    return next(iter(listening(HOSTS[0])))


def timers_rest(name: str) -> bool:
    shown = machine(name).check_output("systemctl list-units --plain --no-legend 'clawdbot-*-rollback.*'")
    return bool(shown == "")


def wait_for_timers() -> None:
    end = time.monotonic() + 150
    while not all(timers_rest(name) for name in HOSTS):
        assert time.monotonic() < end, "a timer never fired"
        time.sleep(1)


def assert_settled(port: int) -> None:
    for name in HOSTS:
        assert listening(name) == {port}
        assert can_log_in(name, port)
        assert f"tcp dport {port} jump" in machine(name).check_output("nft list chain inet clawdbot input")
        assert timers_rest(name)


@pytest.mark.parametrize(("task", "occurrence", "wait"), DEATHS)
def test_run_that_dies_is_mended_by_the_next(task: str, occurrence: int, wait: bool) -> None:
    old = current_port()
    new = next(port for port in PORTS if port != old)
    patience = {"firewall_rollback_after": 20, "ssh_rollback_after": 20} if wait else {}
    run = play(new, f"{occurrence}:{task}", **patience)
    assert run.returncode == -9, run.stdout[-2000:]
    for name in HOSTS:
        assert can_log_in(name, old) or can_log_in(name, new)
    if wait:
        wait_for_timers()
        for name in HOSTS:
            assert can_log_in(name, old) or can_log_in(name, new)
    run = play(new)
    assert run.returncode == 0, run.stdout[-4000:]
    assert_settled(new)


def test_port_of_another_program_is_refused_before_anything_changes() -> None:
    port = current_port()
    for name in HOSTS:
        machine(name).check_output("systemd-run --quiet --collect --unit=squatter python3 -m http.server 3333")
    time.sleep(1)
    before = [machine(name).check_output("nft -s -t list ruleset; cat /etc/ssh/sshd_config.d/*") for name in HOSTS]
    run = play(3333)
    after = [machine(name).check_output("nft -s -t list ruleset; cat /etc/ssh/sshd_config.d/*") for name in HOSTS]
    for name in HOSTS:
        machine(name).run("systemctl stop squatter")
    assert run.returncode != 0
    assert "Port 3333 is taken by python3" in re.sub(r"\s+", " ", run.stdout)
    assert after == before
    assert_settled(port)


def test_settings_that_lock_us_out_are_taken_back() -> None:
    """Also for a user whose own arguments share a connection, through which one gets in whatever the settings are."""
    port = current_port()
    shared = "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o ControlPath=~/.ansible/cp/own-%C"
    run = play(port, ssh_key_algorithms=["rsa-sha2-512"], ansible_ssh_common_args=shared)
    assert run.returncode != 0
    assert "was taken back" in run.stdout
    assert_settled(port)
    assert changes(play(port)) == [0, 0]


def test_socket_activation_is_replaced() -> None:
    """With ssh.socket the port in sshd's configuration counts for nothing: the host listens on 22."""
    port = current_port()
    for name in HOSTS:
        machine(name).check_output("systemctl disable --now ssh.service; systemctl enable --now ssh.socket")
        assert listening(name) == {22}
        machine(name).check_output(
            "nft add rule inet clawdbot ssh_new accept; nft insert rule inet clawdbot input tcp dport 22 accept"
        )
    run = play(port)
    assert run.returncode == 0, run.stdout[-4000:]
    assert_settled(port)
    for name in HOSTS:
        assert not machine(name).service("ssh.socket").is_enabled
        assert machine(name).service("ssh").is_enabled


def test_administrators_come_and_go_but_never_the_one_in_use(tmp_path: Path) -> None:
    port, how = current_port(), connection(HOSTS[0])
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text("utf-8").strip()
    own = Path(how["identity_file"] + ".pub").read_text("utf-8").strip()

    def may(name: str) -> bool:
        how = connection(name)
        command = [
            "ssh",
            "-n",
            "-F",
            "none",
            "-i",
            str(key),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=no",
        ]
        command += [
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
            "-p",
            str(port),
            f"ann@{how['address']}",
            "sudo id -un",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "root"

    assert (
        play(port, ssh_admins=[{"name": "ann", "keys": [public]}, {"name": how["user"], "keys": [own]}]).returncode == 0
    )
    assert all(may(name) for name in HOSTS)
    refused = play(port, ssh_admins=[{"name": how["user"], "keys": [public]}])
    assert refused.returncode != 0
    assert "with which this run has logged in" in re.sub(r"\s+", " ", refused.stdout)
    refused = play(port, ssh_admins=[{"name": how["user"], "state": "absent"}])
    assert refused.returncode != 0
    # The last one of the list goes, and with her what the list has given her; then her account, while she is logged in.
    refused = play(port, ssh_admins=[])
    assert refused.returncode != 0
    assert "no longer names" in re.sub(r"\s+", " ", refused.stdout)
    assert all(may(name) for name in HOSTS)
    for name in HOSTS:
        machine(name).check_output(
            f"sed -i '/^{how['user']} /d' /etc/sudoers.d/90-clawdbot-admins;"
            " systemd-run -q --collect --unit=ann-at-work runuser -u ann -- sleep 600"
        )
    assert play(port, ssh_admins=[]).returncode == 0
    assert not any(may(name) for name in HOSTS)
    assert all(not machine(name).file("/etc/sudoers.d/90-clawdbot-admins").exists for name in HOSTS)
    for name in HOSTS:
        machine(name).run("systemd-run -q --collect --unit=ann-at-home runuser -u ann -- sleep 600")
    assert play(port, ssh_admins=[{"name": "ann", "state": "absent"}]).returncode == 0
    assert not any(machine(name).user("ann").exists for name in HOSTS)
    assert changes(play(port)) == [0, 0]
    assert all(can_log_in(name, port) for name in HOSTS)


def test_configuration_without_include_is_read_as_well() -> None:
    """As left by an upgrade from Debian 10; and what comes before an Include wins over it."""
    old = current_port()
    new = next(port for port in PORTS if port != old)
    config = "/etc/ssh/sshd_config"
    machine(HOSTS[0]).check_output(f"sed -i '/^Include/d; 1i PasswordAuthentication yes' {config}")
    machine(HOSTS[1]).check_output(
        f"sed -i '/^Include/d' {config} && printf 'PasswordAuthentication yes\nInclude /etc/ssh/sshd_config.d/*.conf\n'"
        f" | cat - {config} >/root/new && mv /root/new {config}"
    )
    run = play(new)
    assert run.returncode == 0, run.stdout[-4000:]
    assert_settled(new)
    for name in HOSTS:
        settings = machine(name).check_output("sshd -T")
        assert "passwordauthentication no" in settings
        assert settings.splitlines().count(f"port {new}") == 1


def test_known_host_keys_are_not_thrown_away(tmp_path: Path) -> None:
    """A controller that knows only the ECDSA key is refused by the new settings: they are taken back, the key too."""
    port, known = current_port(), tmp_path / "known_hosts"
    run = play(port, ssh_host_keys=["ed25519", "rsa", "ecdsa"])
    assert run.returncode == 0, run.stdout[-4000:]

    def scan() -> str:
        addresses = [connection(name)["address"] for name in HOSTS]
        command = ["ssh-keyscan", "-p", str(port), "-t", "ecdsa", *addresses]
        shown = subprocess.run(
            command, capture_output=True, text=True, check=False
        ).stdout  # fails if none has such a key
        return "\n".join(sorted(line for line in shown.splitlines() if not line.startswith("#")))

    before = scan()
    assert before.count("ecdsa-sha2") == len(HOSTS)
    known.write_text(before + "\n")
    options = f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes -o UpdateHostKeys=no -o ControlPath=none"
    run = play(port, ansible_ssh_common_args=options, ansible_host_key_checking=True, ssh_rollback_after=20)
    assert run.returncode != 0
    assert "was taken back" in run.stdout
    assert "ssh_host_keys" in run.stdout
    wait_for_timers()
    assert scan() == before
    assert_settled(port)
    assert play(port).returncode == 0
    assert scan() == ""
    for name in HOSTS:
        assert machine(name).file("/etc/ssh/ssh_host_ecdsa_key").exists


def test_a_first_run_by_password_is_refused_and_by_keys_elsewhere_wins_over_the_provider() -> None:
    """Keys in a folder of root's, or known to a directory only; settings that add up, or whose last value counts."""
    port, how = current_port(), connection(HOSTS[0])
    provider = (
        f"Port {port}\nListenAddress 0.0.0.0:{port}\nMaxStartups 100\nPasswordAuthentication yes\n"
        "AuthorizedKeysFile /etc/ssh/authorized_keys/%u\n"
        "AuthorizedKeysCommand /usr/local/bin/keys\nAuthorizedKeysCommandUser nobody\n"
    )
    keys = '#!/bin/sh\n[ "$1" != carol ] || cat /etc/ssh/authorized_keys/debian\n'
    for name in HOSTS:
        machine(name).check_output(
            "set -eu; install -d /etc/ssh/authorized_keys; cd /etc/ssh;"
            " install -m 644 ~debian/.ssh/authorized_keys authorized_keys/debian; mv ~debian/.ssh ~debian/.ssh-away;"
            " useradd --create-home carol; useradd --create-home dave; useradd --create-home eve;"
            ' usermod --password "$(openssl passwd -6 s3cret)" eve;'
            " echo 'eve ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/eve;"
            f" printf '%s' {shlex.quote(keys)} >/usr/local/bin/keys; chmod 755 /usr/local/bin/keys;"
            f" printf '%s' {shlex.quote(provider)} >sshd_config.d/50-provider.conf; rm sshd_config.d/00-clawdbot.conf;"
            " sed -i '/^Include/d' sshd_config; sed -i '1i Include /etc/ssh/sshd_config.d/*.conf' sshd_config;"
            " groupdel ssh-login; systemctl reload ssh"
        )
    run = play(port, ansible_port=port, ansible_user="eve", ansible_password="s3cret")
    assert run.returncode != 0
    said = re.sub(r"\s+", " ", run.stdout)
    assert re.search(rf"Put your key there first: ssh-copy-id .*-p {port} eve@", said), run.stdout[-4000:]
    assert not any(machine(name).file("/etc/ssh/sshd_config.d/00-clawdbot.conf").exists for name in HOSTS)

    public = Path(how["identity_file"] + ".pub").read_text("utf-8").strip()
    run = play(port, ansible_port=port, ssh_admins=[{"name": "erin", "keys": [public]}])
    assert run.returncode == 0, run.stdout[-4000:]
    assert_settled(port)
    for name in HOSTS:
        members = machine(name).check_output("getent group ssh-login").rpartition(":")[2].split(",")
        assert {"debian", "carol"} <= set(members)
        assert not {"dave", "eve"} & set(members)
        settings = machine(name).check_output("sshd -T").splitlines()
        assert {"maxstartups 10:30:60", f"listenaddress 0.0.0.0:{port}", "passwordauthentication no"} <= set(settings)
        for user in ("carol", "erin"):
            assert can_log_in(name, port, user), user


def test_what_a_provider_writes_later_does_not_win() -> None:
    port = current_port()
    for name in HOSTS:
        machine(name).check_output("echo 'MaxStartups 7' >/etc/ssh/sshd_config.d/60-later.conf; systemctl reload ssh")
        assert "maxstartups 7:30:7" in machine(name).check_output("sshd -T")
    run = play(port)
    assert run.returncode == 0, run.stdout[-4000:]
    assert_settled(port)
    assert all("maxstartups 10:30:60" in machine(name).check_output("sshd -T") for name in HOSTS)
