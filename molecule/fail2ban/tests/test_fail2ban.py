"""The jails live, count what they should, and ban in the kernel; attacks from outside are in the scenario harden."""

import time
from pathlib import Path

import pytest
from again import converge
from testinfra.host import Host

CONVERGE = Path(__file__).parents[1] / "converge.yml"
LOG = "/var/log/nginx/access.log"
JAIL = "clawdbot-callback"


def line(address: str, request: str = "POST /api/feishu/callback", status: int = 401, agent: str = "curl/8") -> str:
    """An entry of Nginx's access log in combined format."""
    now = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    return f'{address} - - [{now}] "{request} HTTP/1.1" {status} 12 "-" "{agent}"'


def write(host: Host, *lines: str) -> None:
    text = "\n".join(lines)
    host.check_output(f"printf '%s\\n' '{text}' | sudo tee -a {LOG} >/dev/null")


def banned(host: Host, address: str, jail: str = JAIL) -> bool:
    """Whether both Fail2ban and the kernel have the address."""
    said = address in host.check_output(f"sudo fail2ban-client get {jail} banip").split()
    sets = host.run("sudo nft list table inet f2b-table").stdout
    assert said == (address in sets), sets
    return said


def wait_for_ban(host: Host, address: str) -> bool:
    for _ in range(15):
        if address in host.check_output(f"sudo fail2ban-client get {JAIL} banip").split():
            return True
        time.sleep(1)
    return False


@pytest.mark.every_host
def test_all_jails_run(host: Host) -> None:
    status = host.check_output("sudo fail2ban-client status")
    for jail in ("sshd", JAIL, "nginx-botsearch", "nginx-limit-req", "recidive"):
        assert jail in status
    assert host.service("fail2ban").is_enabled


def test_twenty_refused_callbacks_ban_and_nineteen_do_not(host: Host) -> None:
    write(host, *[line("198.51.100.19")] * 19, *[line("2001:db8::20", "POST /api/dingtalk/callback?sign=x")] * 20)
    assert wait_for_ban(host, "2001:db8::20")
    assert banned(host, "2001:db8::20")
    assert not banned(host, "198.51.100.19")


def test_platforms_and_trusted_hosts_are_never_banned(host: Host) -> None:
    write(host, *[line("203.0.113.5")] * 40, *[line("172.20.1.1")] * 40, *[line("198.51.100.30")] * 20)
    assert wait_for_ban(host, "198.51.100.30")
    assert not banned(host, "203.0.113.5")
    assert not banned(host, "172.20.1.1")


def test_other_requests_and_forged_lines_do_not_count(host: Host) -> None:
    forged = '198.51.100.66 - - [x] \\"POST /api/feishu/callback HTTP/1.1\\" 401 '
    write(
        host,
        *[line("198.51.100.40", status=200)] * 30,
        *[line("198.51.100.41", "GET /api/feishu/callback")] * 30,
        *[line("198.51.100.42", agent=forged, status=200)] * 30,
        *[line("198.51.100.43")] * 20,
    )
    assert wait_for_ban(host, "198.51.100.43")
    for address in ("198.51.100.40", "198.51.100.41", "198.51.100.42", "198.51.100.66"):
        assert not banned(host, address)


def test_second_ban_is_longer(host: Host) -> None:
    def seconds() -> int:
        shown = host.check_output(f"sudo fail2ban-client get {JAIL} banip --with-time")
        return int(next(entry for entry in shown.splitlines() if "198.51.100.50" in entry).split("+")[1].split()[0])

    host.check_output(f"sudo fail2ban-client set {JAIL} bantime 10")
    write(host, *[line("198.51.100.50")] * 20)
    assert wait_for_ban(host, "198.51.100.50")
    first = seconds()
    # An unban by hand would make Fail2ban forget the first one.
    gone = f"! sudo fail2ban-client get {JAIL} banip | grep -qF 198.51.100.50"
    host.check_output(f"for i in $(seq 40); do {gone} && exit 0; sleep 1; done; exit 1")
    write(host, *[line("198.51.100.50")] * 20)
    assert wait_for_ban(host, "198.51.100.50")
    assert seconds() >= 2 * first


def test_who_had_a_callback_accepted_is_not_banned(host: Host) -> None:
    """A platform, or a balancer of the cloud in front of Nginx: a wrong secret on our side must not shut it out."""
    write(host, line("198.51.100.70", status=200), *[line("198.51.100.70")] * 40)
    # What looks like it is no proof: another address that ends the same, and a forged line.
    write(host, *[line("8.51.100.70")] * 20)
    assert wait_for_ban(host, "8.51.100.70")
    assert not banned(host, "198.51.100.70")


def test_balancers_of_clouds_are_not_banned(host: Host) -> None:
    write(host, *[line("100.125.3.4")] * 40, *[line("198.51.100.71")] * 20)
    assert wait_for_ban(host, "198.51.100.71")
    assert not banned(host, "100.125.3.4")


def test_refused_callbacks_are_forgiven_soon(host: Host) -> None:
    assert host.check_output(f"sudo fail2ban-client get {JAIL} bantime") in ("10", "60")
    assert int(host.check_output(f"sudo fail2ban-client get {JAIL} bantime.maxtime")) <= 300


def test_jails_that_were_written_but_not_loaded_are_loaded_by_the_next_run(host: Host) -> None:
    name, jails = host.backend.get_hostname(), [{"name": "recidive", "enabled": "true", "maxretry": 6}]
    run = converge(CONVERGE, name, "fail2ban : Bring the jails into force", fail2ban_extra_jails=jails)
    assert run.returncode == -9, run.stdout[-3000:]
    assert host.check_output("sudo fail2ban-client get recidive maxretry") == "5"
    assert converge(CONVERGE, name, fail2ban_extra_jails=jails).returncode == 0
    assert host.check_output("sudo fail2ban-client get recidive maxretry") == "6"


def test_last_jail_of_the_list_goes(host: Host) -> None:
    name = host.backend.get_hostname()
    assert converge(CONVERGE, name, fail2ban_extra_jails=[]).returncode == 0
    assert "recidive" not in host.check_output("sudo fail2ban-client status")
    assert converge(CONVERGE, name).returncode == 0
    assert "recidive" in host.check_output("sudo fail2ban-client status")
