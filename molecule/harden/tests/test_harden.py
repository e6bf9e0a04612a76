"""The hardened hosts from outside: what is open, who is banned, what a mistake does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
CONVERGE = Path(__file__).parents[1] / "converge.yml"
SSH = 2222
#: Every port of the product, so that "closed" is not just "nobody listens".
PORTS = (22, 80, 443, 2222, 6379, 8080, 9090, 9100, 9113, 9121, 18789)
#: Who sees which of them open; the outside sees what the requirements promise.
OPEN = {
    ("outside", "lb"): {SSH, 80, 443, 18789},
    ("outside", "app"): {SSH},
    ("outside", "redis"): {SSH},
    ("outside", "monitor"): {SSH},
    ("app", "redis"): {SSH, 6379},
    ("lb", "redis"): {SSH},
    ("lb", "app"): {SSH, 18789},
    ("redis", "app"): {SSH},
    ("monitor", "app"): {SSH, 9100, 18789},
    ("monitor", "lb"): {SSH, 80, 443, 9100, 9113, 18789},
    ("monitor", "redis"): {SSH, 9100, 9121},
}
HARDENED = ("lb", "app", "redis", "monitor")


@cache
def machine(name: str) -> Host:
    """A host of the scenario, reached as root through Docker, which no firewall rule concerns."""
    return testinfra.get_host(f"docker://clawdbot-harden-{name}")


@cache
def address(name: str, family: int) -> str:
    shown = machine(name).check_output(f"ip -{family} -brief address show dev eth0 scope global")
    return str(shown.split()[2].split("/")[0])


def play(*arguments: str, timeout: int = 600) -> subprocess.CompletedProcess[str]:
    """Runs the two stages again."""
    command = ["ansible-playbook", "--inventory", INVENTORY, str(CONVERGE), *arguments]
    environment = os.environ | {"ANSIBLE_FORCE_COLOR": "false"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=environment)


def changed(run: subprocess.CompletedProcess[str]) -> dict[str, int]:
    return {host: int(count) for host, count in re.findall(r"^(harden-\w+) .*changed=(\d+)", run.stdout, re.MULTILINE)}


def can_connect(source: str, target: str, port: int) -> bool:
    return bool(machine(source).run(f"timeout 3 bash -c '</dev/tcp/{target}/{port}'").rc == 0)


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    for name in ("outside", "app", "lb", "redis", "monitor"):
        machine(name).check_output(
            "command -v nmap sshpass || DEBIAN_FRONTEND=noninteractive apt-get install -qq -y"
            " --no-install-recommends nmap sshpass >/dev/null"
        )
    machine("outside").check_output(
        "command -v ssh-audit || apt-get install -qq -y --no-install-recommends ssh-audit >/dev/null"
    )


@pytest.fixture(scope="module")
def _listeners() -> Iterator[None]:
    """Something listens on every port of every host, on IPv4 and IPv6."""
    program = (
        "import selectors, socket\n"
        "s = selectors.DefaultSelector()\n"
        f"for port in {[port for port in PORTS if port != SSH]}:\n"
        "    l = socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True)\n"
        "    s.register(l, selectors.EVENT_READ)\n"
        "while True:\n"
        "    for key, _ in s.select():\n"
        "        key.fileobj.accept()[0].close()\n"
    )
    for name in HARDENED:
        machine(name).check_output(f'systemd-run --quiet --collect --unit=listeners python3 -c "{program}"')
    yield
    for name in HARDENED:
        machine(name).run("systemctl stop listeners")


def open_ports(source: str, target: str, family: int) -> set[int]:
    scan = machine(source).check_output(
        f"nmap {'-6' if family == 6 else ''} -n -Pn -sT -T4 --max-retries 1 -oG - "
        f"-p {','.join(map(str, PORTS))} {address(target, family)}"
    )
    return {int(port) for port in re.findall(r"(\d+)/open/", scan)}


@pytest.mark.usefixtures("_listeners")
@pytest.mark.parametrize(("source", "target"), OPEN)
def test_exactly_the_promised_ports_are_open(source: str, target: str) -> None:
    assert open_ports(source, target, 4) == OPEN[source, target]


@pytest.mark.usefixtures("_listeners")
@pytest.mark.parametrize("target", HARDENED)
def test_the_same_over_ipv6(target: str) -> None:
    """The cluster talks IPv4 here, so over IPv6 only what is open for everyone is open at all."""
    assert open_ports("outside", target, 6) == OPEN["outside", target]


# Over IPv4: what OpenSSH of Debian 13 holds against the auditor would spoil the attack below, over IPv6.
@pytest.mark.parametrize("target", ["app", "redis"])
def test_ssh_audit_has_nothing_to_say(target: str) -> None:
    outside = address("outside", 4)
    # The auditor connects more often than the firewall lets a stranger.
    machine(target).check_output(f"nft add element inet clawdbot admin_4 '{{ {outside} }}'")
    machine(target).check_output(f"fail2ban-client set sshd addignoreip {outside}")
    audit = machine("outside").run(f"ssh-audit --no-colors --port {SSH} {address(target, 4)}")
    machine(target).check_output(f"nft delete element inet clawdbot admin_4 '{{ {outside} }}'")
    machine(target).check_output(f"fail2ban-client set sshd delignoreip {outside}")
    said = [line for line in audit.stdout.splitlines() if "[fail]" in line or "[warn]" in line]
    assert "sntrup761x25519-sha512@openssh.com" in audit.stdout
    assert (said, audit.rc) == ([], 0)


def attack(target: str, family: int) -> None:
    """Five failed logins lead to a ban; from the third on OpenSSH of Debian 13 makes the attacker wait by itself."""
    end = time.monotonic() + 90
    while time.monotonic() < end and "Currently banned:\t1" not in machine(target).check_output(
        "fail2ban-client status sshd"
    ):
        machine("outside").run(
            "timeout 10 sshpass -p wrong ssh -n -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            f" -o PubkeyAuthentication=no -p {SSH} root@{address(target, family)} true"
        )


def wait_until(condition: Any, seconds: int) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(1)
    return False


@pytest.mark.parametrize(("target", "family"), [("app", 6), ("redis", 4)])
def test_brute_force_is_banned_and_unbanned_later(target: str, family: int) -> None:
    attacker, other = address("outside", family), 10 - family
    # Long enough for all that is looked at while it lasts, also on a busy machine.
    machine(target).check_output("fail2ban-client set sshd bantime 45")
    try:
        attack(target, family)
        assert wait_until(lambda: attacker in machine(target).check_output("fail2ban-client get sshd banip"), 15)
        assert wait_until(lambda: not can_connect("outside", address(target, family), SSH), 5)
        assert can_connect("outside", address(target, other), SSH), "another address is not concerned"
        machine(target).check_output("systemctl reload nftables")
        assert not can_connect("outside", address(target, family), SSH), "the ban outlives a reload of the firewall"
        assert wait_until(lambda: can_connect("outside", address(target, family), SSH), 90)
    finally:
        machine(target).check_output("fail2ban-client unban --all")


def test_ten_fast_runs_do_not_ban_the_controller() -> None:
    for _ in range(10):
        run = subprocess.run(
            [
                "ansible",
                "loadbalancer:clawdbot:redis:monitoring",
                "--inventory",
                INVENTORY,
                "--module-name",
                "ansible.builtin.ping",
                "--extra-vars",
                json.dumps({"ansible_port": SSH, "ansible_ssh_extra_args": "-o ControlPath=none"}),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.stdout.count("SUCCESS") == len(HARDENED), run.stdout
    for name in HARDENED:
        assert machine(name).check_output("fail2ban-client get sshd banip") == ""


def test_refused_callbacks_ban_their_sender_and_nobody_else() -> None:
    balancer = machine("lb")
    balancer.run("systemctl stop listeners")
    balancer.check_output(
        "command -v nginx || DEBIAN_FRONTEND=noninteractive"
        " apt-get install -qq -y --no-install-recommends nginx-light >/dev/null"
    )
    balancer.check_output(
        "printf 'server { listen 80 default_server; listen [::]:80 default_server; location /api/ "
        "{ if ($http_sign != good) { return 401; } return 200; } }' > /etc/nginx/sites-enabled/default"
        " && systemctl restart nginx"
    )

    def call(family: int, sign: str) -> str:
        host = address("lb", family) if family == 4 else f"[{address('lb', family)}]"
        return str(
            machine("outside")
            .run(
                f"python3 - <<'END'\nimport urllib.request as u\n"
                f"r = u.Request('http://{host}/api/dingtalk/callback?timestamp=1', b'', {{'sign': '{sign}'}})\n"
                "try:\n    print(u.urlopen(r, timeout=3).status)\n"
                "except u.HTTPError as e:\n    print(e.code)\n"
                "except OSError:\n    print('banned')\nEND"
            )
            .stdout.strip()
        )

    for _ in range(19):
        assert call(4, "forged") == "401"
    time.sleep(3)
    assert call(4, "forged") == "401", "the threshold is patient"
    assert wait_until(lambda: call(4, "forged") == "banned", 15)
    assert call(6, "good") == "200", "signed ones from another address pass"
    assert address("outside", 4) in balancer.check_output("fail2ban-client get clawdbot-callback banip")
    balancer.check_output(f"fail2ban-client set clawdbot-callback unbanip {address('outside', 4)}")
    assert wait_until(lambda: call(4, "good") == "200", 5)


def test_a_rule_that_locks_us_out_is_rolled_back() -> None:
    before = machine("app").check_output("cat /etc/nftables.conf")
    start = time.monotonic()
    run = play(
        "--limit",
        "clawdbot",
        "--tags",
        "firewall",
        "--extra-vars",
        json.dumps({"firewall_extra_rules": [f"tcp dport {SSH} drop"]}),
    )
    assert run.returncode != 0
    assert "went back to the rules confirmed last" in run.stdout
    assert f"tcp dport {SSH} drop" not in machine("app").check_output("nft list table inet clawdbot")
    assert machine("app").check_output("cat /etc/nftables.conf") == before
    assert can_connect("outside", address("app", 4), SSH)
    assert time.monotonic() - start < 240


def test_rules_that_were_removed_by_hand_come_back() -> None:
    machine("app").check_output("nft delete table inet clawdbot")
    assert play("--limit", "clawdbot", "--tags", "firewall").returncode == 0
    assert "policy drop" in machine("app").check_output("nft list chain inet clawdbot input")
    again = play("--limit", "clawdbot", "--tags", "firewall")
    assert changed(again) == {"harden-app": 0}, again.stdout


def through_ssh(target: str, port: int) -> str:
    """What comes back through ``ssh -W``, the same request as that of a tunnel (``-L``), from the host's own port."""
    instances = yaml.safe_load(Path(os.environ["MOLECULE_INSTANCE_CONFIG"]).read_text("utf-8"))
    how = next(instance for instance in instances if instance["instance"] == f"harden-{target}")
    command = ["ssh", "-F", "none", "-i", how["identity_file"], "-p", str(SSH), "-W", f"127.0.0.1:{port}"]
    command += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]
    command += [f"{how['user']}@{how['address']}"]
    request = "GET / HTTP/1.0\r\n\r\n"
    return subprocess.run(command, input=request, capture_output=True, text=True, check=False, timeout=30).stdout


def test_the_dashboard_is_reached_as_documented_and_nothing_else_is() -> None:
    for port in (9095, 9096):
        machine("monitor").check_output(
            f"systemd-run -q --collect --unit=page-{port} python3 -m http.server --bind 127.0.0.1 {port}"
        )
    assert wait_until(lambda: "200 OK" in through_ssh("monitor", 9095), 10)
    assert through_ssh("monitor", 9096) == ""
    machine("app").check_output("systemd-run -q --collect --unit=page python3 -m http.server --bind 127.0.0.1 9095")
    assert through_ssh("app", 9095) == ""


def test_a_run_from_elsewhere_changes_nothing_and_is_not_banned() -> None:
    """A second administrator, a CI runner, a laptop with a new address: here one that comes through `outside`."""
    outside, own = address("outside", 4), "nft list set inet clawdbot controller_4"
    relay = "docker exec -i clawdbot-harden-outside bash -c 'exec 3<>/dev/tcp/%h/%p; cat <&3 & exec cat >&3'"
    sockets = tempfile.mkdtemp(prefix="e", dir="/tmp")  # short: sockets allow no long path
    options = f'-o ControlPath={sockets}/%C -o ProxyCommand="{relay}"'
    run = play("--extra-vars", json.dumps({"ansible_ssh_extra_args": options}))
    assert run.returncode == 0, run.stdout[-3000:]
    assert set(changed(run).values()) == {0}, run.stdout
    for name in HARDENED:
        assert outside in machine(name).check_output(own)
        assert outside not in machine(name).check_output("cat /etc/nftables.conf /etc/fail2ban/jail.local")
        assert outside not in machine(name).check_output("cat /etc/ssh/sshd_config.d/00-clawdbot.conf")
    for _ in range(7):
        machine("outside").run(
            "timeout 10 sshpass -p wrong ssh -n -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            f" -o PubkeyAuthentication=no -p {SSH} root@{address('redis', 4)} true"
        )
    assert wait_until(
        lambda: "Total failed:\t0" not in machine("redis").check_output("fail2ban-client status sshd"), 10
    )
    assert machine("redis").check_output("fail2ban-client get sshd banip") == ""
    for name in HARDENED:
        machine(name).check_output(f"nft delete element inet clawdbot controller_4 '{{ {outside} }}'")
