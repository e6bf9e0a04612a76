"""What the base role promises, as the host itself sees it."""

import base64
import os
import subprocess
from pathlib import Path

import pytest
from again import converge
from testinfra.host import Host

SHARED = Path(__file__).parents[2] / "shared"
CONVERGE = SHARED.parent / "base/converge.yml"
#: A caching proxy stands for a company's mirror: its addresses are those of a mirror, its packages are Debian's.
MIRROR = "http://127.0.0.1:3142/deb.debian.org/debian"


def prepare(host: Host, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs what the first stages of site.yml do for this host."""
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    command = ["ansible-playbook", "--inventory", inventory, "--limit", host.backend.get_hostname(), *options]
    environment = os.environ | {"ANSIBLE_FORCE_COLOR": "false"}
    playbook = str(SHARED / "prepare.yml")
    return subprocess.run([*command, playbook], capture_output=True, text=True, check=False, env=environment)


def test_only_security_updates_are_installed_unattended(host: Host) -> None:
    dump = host.check_output("apt-config dump")
    origins = [line for line in dump.splitlines() if "Origins-Pattern::" in line]
    assert len(origins) == 2
    assert all("label=Debian-Security" in origin for origin in origins)
    assert 'APT::Periodic::Unattended-Upgrade "1";' in dump
    assert 'Unattended-Upgrade::Package-Blacklist:: "nginx";' in dump


@pytest.mark.every_host
def test_unattended_upgrade_understands_its_configuration(host: Host) -> None:
    run = host.run("sudo unattended-upgrade --dry-run --verbose")
    assert run.rc == 0, run.stderr
    allowed = next(line for line in run.stderr.splitlines() + run.stdout.splitlines() if "Allowed origins" in line)
    assert "Debian-Security" in allowed
    assert "label=Debian," not in allowed
    assert host.service("apt-daily-upgrade.timer").is_enabled


def test_time_is_kept(host: Host) -> None:
    assert host.service("chrony").is_enabled
    # Sandbox hosts may not set the machine's clock, so the service rests; -x runs it without setting.
    host.check_output("sudo chronyd -x")
    sources = host.check_output("sudo chronyc activity; sudo chronyd -p")
    host.check_output("sudo pkill -x chronyd")
    assert "200 OK" in sources
    assert "server ntp.provider.example" in sources


def test_clock_sources_of_the_provider_stay(host: Host) -> None:
    """As prepare.yml of this scenario left them: one in chrony.conf, one each in its two folders, one for timesyncd."""
    shown = host.check_output("sudo chronyd -p; cat /etc/chrony/sources.d/*.sources")
    assert "server ntp.provider.example iburst" in shown
    assert "minsources 1" in shown
    assert "server 169.254.169.123" in shown
    assert "server ntp.timesyncd.example iburst" in shown
    assert "sourcedir /etc/chrony/sources.d" in shown


def test_time_servers_come_beside_them_and_go_with_the_last_of_the_list(host: Host) -> None:
    name = host.backend.get_hostname()
    own = "/etc/chrony/sources.d/clawdbot.sources"
    assert converge(CONVERGE, name, base_time_servers=["ntp.site.example"]).returncode == 0
    assert host.check_output(f"cat {own}") == "server ntp.site.example iburst prefer"
    assert converge(CONVERGE, name, base_time_servers=[]).returncode == 0
    assert not host.file(own).exists


def test_names_go_with_the_last_of_the_list(host: Host) -> None:
    name = host.backend.get_hostname()
    assert converge(CONVERGE, name, base_hosts={}).returncode == 0
    assert host.run("getent hosts app2.example").rc != 0
    assert "role base" not in host.check_output("cat /etc/hosts")
    assert converge(CONVERGE, name).returncode == 0
    assert host.check_output("getent hosts app2.example").split()[0] == "192.0.2.12"


def test_what_a_run_wrote_but_did_not_bring_into_force_is_made_good(host: Host) -> None:
    """The run dies between writing and restarting: the files are equal, and yet the next run restarts."""
    name = host.backend.get_hostname()
    started = "systemctl show --property ActiveEnterTimestampMonotonic --value systemd-journald"
    before = host.check_output(started)
    run = converge(CONVERGE, name, "base : Bring the configuration into force", base_journal_age="10day")
    assert run.returncode == -9, run.stdout[-3000:]
    assert "MaxRetentionSec=10day" in host.check_output("cat /etc/systemd/journald.conf.d/clawdbot.conf")
    assert host.check_output(started) == before
    assert converge(CONVERGE, name, base_journal_age="10day").returncode == 0
    assert host.check_output(started) != before
    assert converge(CONVERGE, name).returncode == 0
    assert "changed=0" in converge(CONVERGE, name).stdout


def test_hosts_with_two_interfaces_may_answer_through_the_other(host: Host) -> None:
    assert "net.ipv4.conf.all.rp_filter = 2" in host.check_output("cat /etc/sysctl.d/60-clawdbot.conf")


def test_other_hosts_are_known_by_name(host: Host) -> None:
    assert host.check_output("getent hosts app2.example").split()[0] == "192.0.2.12"


def test_journal_is_limited_and_survives_a_reboot(host: Host) -> None:
    settings = host.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert "SystemMaxUse=500M" in settings
    assert host.check_output("journalctl --header | grep -m 1 'File path'").startswith("File path: /var/log/journal")


def test_clock_and_language(host: Host) -> None:
    assert host.check_output("date +%Z") == "UTC"
    assert host.check_output("bash -lc 'locale charmap'") == "UTF-8"


def test_kernel_settings_are_in_force_where_the_host_may_change_them(host: Host) -> None:
    wanted = [
        line.lstrip("-").split(" = ")
        for line in host.check_output("grep '^-' /etc/sysctl.d/60-clawdbot.conf").splitlines()
    ]
    assert ["net.ipv4.tcp_syncookies", "1"] in wanted
    if host.run("sudo test -w /proc/sys/net/core/somaxconn").rc:
        return
    for name, value in wanted:
        current = host.run(f"sudo sysctl --values {name}")
        assert current.rc or current.stdout.strip() == value, name


def test_packages_come_from_the_company_mirror_only(host: Host) -> None:
    name = host.backend.get_hostname()
    proxy = "sudo DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends apt-cacher-ng"
    host.check_output(f"{proxy} && sudo systemctl start apt-cacher-ng")
    variables = [
        "base_apt_mirror=" + MIRROR.replace("//", "//bot:mirror%40s3cr3t@"),
        "base_pip_index=https://bot:index%40s3cr3t@pypi.example/simple",
        "base_npm_registry=https://npm.example",
    ]
    options = ["-vvv", *(word for variable in variables for word in ("--extra-vars", variable))]
    before = host.check_output("apt-get indextargets --format '$(SITE)'")
    for changed in ("changed=2", "changed=0"):
        run = prepare(host, *options)
        assert run.returncode == 0, run.stdout[-3000:]
        assert changed in run.stdout.rpartition(name)[2], run.stdout[-3000:]
        # The command line that Ansible was called with here stands in no output.
        assert "s3cr3t" not in run.stdout, "a password is shown"
    sources = host.check_output("apt-get indextargets --format '$(SITE)'").split()
    assert sources
    assert all(source.startswith(MIRROR) for source in sources), sources
    assert f"{MIRROR}-security" in sources
    assert host.run("sudo apt-get update -qq && apt-get download --print-uris hello").stdout.startswith(
        f"'{MIRROR}/pool"
    )
    asked = host.check_output("sudo apt-get -o Debug::Acquire::http=true update 2>&1")
    assert f"Authorization: Basic {base64.b64encode(b'bot:mirror@s3cr3t').decode()}" in asked
    assert host.run("cat /etc/pip.conf /etc/apt/auth.conf.d/clawdbot.conf").stdout == "", "anybody may read them"
    assert host.run("grep -r s3cr3t /etc/apt /etc/pip.conf").stdout == ""
    assert host.check_output("sudo cat /etc/pip.conf").endswith(
        "index-url = https://bot:index%40s3cr3t@pypi.example/simple"
    )
    assert host.check_output("tail -n 1 /etc/npmrc") == "registry=https://npm.example"
    # The network is open again: the host has the sources it came with, and only those.
    assert prepare(host).returncode == 0
    assert host.check_output("apt-get indextargets --format '$(SITE)'") == before
    assert not host.file("/etc/apt/auth.conf.d/clawdbot.conf").exists
    assert not host.file("/etc/pip.conf").exists
    assert not host.file("/etc/npmrc").exists


def test_new_server_is_left_alone_until_cloud_init_is_done(host: Host) -> None:
    stub = '#!/bin/sh\n[ "$*" = "status --wait" ] && touch /run/asked && exit {code}\necho the disk is too small\n'
    outcomes = []
    for code in (0, 2, 1):
        host.check_output(
            "printf %s | sudo tee /usr/bin/cloud-init; sudo chmod 755 /usr/bin/cloud-init", stub.format(code=code)
        )
        run = prepare(host)
        assert host.file("/run/asked").exists, run.stdout[-3000:]
        outcomes.append(run.returncode == 0)
    host.check_output("sudo rm /usr/bin/cloud-init /run/asked")
    assert outcomes == [True, True, True], "one failed module is no reason to leave the host as it is"
    assert "the disk is too small" in " ".join(run.stdout.split())


def test_installation_that_was_cut_off_is_finished(host: Host) -> None:
    # The machine dies between unpacking and configuring: dpkg says so, and apt refuses to do anything.
    host.check_output(
        "sudo sh -c 'apt-get install -y --download-only hello && dpkg --unpack /var/cache/apt/archives/hello_*.deb'"
    )
    host.check_output(
        "sudo sh -c 'sed -n \"/^Package: hello$/,/^$/p\" /var/lib/dpkg/status > /var/lib/dpkg/updates/0000'"
    )
    assert "dpkg was interrupted" in host.run("sudo apt-get install -y hello").stderr
    run = prepare(host)
    assert run.returncode == 0, run.stdout[-3000:]
    assert host.package("hello").is_installed
    assert host.run("sudo apt-get install -y hello").rc == 0
