"""What the base role promises, as the host itself sees it."""

from testinfra.host import Host


def test_only_security_updates_are_installed_unattended(host: Host) -> None:
    dump = host.check_output("apt-config dump")
    origins = [line for line in dump.splitlines() if "Origins-Pattern::" in line]
    assert len(origins) == 2
    assert all("label=Debian-Security" in origin for origin in origins)
    assert 'APT::Periodic::Unattended-Upgrade "1";' in dump
    assert 'Unattended-Upgrade::Package-Blacklist:: "nginx";' in dump


def test_unattended_upgrade_understands_its_configuration(host: Host) -> None:
    run = host.run("sudo unattended-upgrade --dry-run --verbose")
    assert run.rc == 0, run.stderr
    allowed = next(line for line in run.stderr.splitlines() + run.stdout.splitlines() if "Allowed origins" in line)
    assert "Debian-Security" in allowed
    assert "label=Debian," not in allowed
    assert host.service("apt-daily-upgrade.timer").is_enabled


def test_time_is_kept_where_the_host_may_set_its_clock(host: Host) -> None:
    assert host.service("chrony").is_enabled
    may_set = int(host.check_output("sed -n 's/^CapBnd:[[:space:]]*//p' /proc/1/status"), 16) >> 25 & 1
    assert host.service("chrony").is_running is bool(may_set)
    if may_set:
        assert "2.debian.pool.ntp.org" in host.check_output("cat /etc/chrony/chrony.conf")
        assert host.run("sudo chronyc -n tracking").rc == 0


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
