"""Values change at noon: one story, in which each test goes on where the last one ended. At its end stands a table."""

from __future__ import annotations

import base64
import datetime
import itertools
import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from installation import Installation, lets_in
from values import VALUES

PREFIX = "change-"
PASSWORDS = ["the first new password of Redis", "the second: $HOME, #, %20 and spaces"]
BOT_PORT, REDIS_PORT = 18790, 6380
#: Where runs that change all of them die: when something is written and not in force, or in force and not confirmed.
DEATHS = [
    "base : Bring the configuration into force",
    "firewall : Connect anew",
    "ssh : Log in anew",
    "fail2ban : Bring the jails into force",
    "redis : Run Redis with this configuration, now and at boot",
    "clawdbot : Restart the bot",
    "loadbalancer : Put the configuration into effect",
    "exporters : Run these exporters with this configuration, now and at boot, and no others",
    "monitoring : Run Prometheus and Alertmanager with this configuration, now and at boot",
    "backup : Take a copy with these settings, and one every night",
]
REPLACED = {
    "dingtalk": ("app_secret", "aes_key", "token"),
    "feishu": ("app_secret", "encryption_key", "verification_token"),
}


@dataclass
class Story:
    """The installation, what its inventory says differently by now, and the table."""

    site: Installation
    variables: dict[str, Any] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)

    def options(self, *more: str) -> list[str]:
        """Of ansible-playbook, instead of an edit of the inventory."""
        return [*more, "-e", json.dumps(self.variables)]

    def change(self, **variables: Any) -> None:
        """The inventory is edited, and ``site.yml`` run."""
        self.variables |= variables
        self.site.play("site.yml", *self.options())

    def nothing_to_do(self) -> None:
        """Everything is as the inventory has it."""
        changed = self.site.changed(self.site.play("site.yml", *self.options()))
        assert set(changed.values()) == {0}, changed

    @contextmanager
    def under_load(self, what: str, *, pause: bool = False, notices: bool = False) -> Iterator[None]:
        """Load as long as the block lasts, and a row of the table. No message is lost.

        Args:
            what: name of the row.
            pause: requests may fail.
            notices: users may wait for so long that they are told so, which counts as an answer.
        """
        begun = time.monotonic()
        with self.site.load(forgiving=pause or notices) as report:
            yield
            seconds = time.monotonic() - begun
        figures = [report[name] for name in ("requests", "failed_requests", "lost", "answered_twice")]
        self.rows.append(f"{what:<66}{seconds:>8.0f}" + "".join(f"{figure:>10}" for figure in figures))
        assert report["lost"] == 0, report
        assert notices or report["answered_twice"] == 0, report
        assert pause or report["failed_requests"] == 0, report


@pytest.fixture(scope="session")
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """The one all tests tell."""
    groups = {"loadbalancer": ["lb1"], "clawdbot": ["app1", "app2"], "redis": ["redis1"], "monitoring": ["lb1"]}
    everybody = groups | {"internet": ["outside"]}
    story = Story(Installation(request.config.getoption("--ansible-inventory"), everybody))
    story.site.on("outside").check_output("sudo sh -c 'apt-get -qq update && apt-get -qq install curl >/dev/null'")
    yield story
    heading = f"{'change':<66}{'seconds':>8}{'requests':>10}{'failed':>10}{'lost':>10}{'twice':>10}"
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n".join(["", heading, *story.rows]))


def password_of(story: Story) -> str:
    """That of Redis as the inventory has it."""
    return str(story.variables.get("site_redis_password") or story.site.redis_password())


def new_secret(name: str) -> str:
    """One that takes its place."""
    return base64.b64encode(secrets.token_bytes(32)).decode()[:43] if name == "aes_key" else secrets.token_hex(16)


def reached(story: Story, name: str, port: int) -> bool:
    """Whether the balancer gets to a port of a host."""
    address = story.site.hosts[name]["ansible_host"]
    return bool(story.site.on("lb1").run(f"timeout 2 bash -c '</dev/tcp/{address}/{port}'").rc == 0)


def test_the_password_of_redis(story: Story) -> None:
    former, redis = password_of(story), story.site.on("redis1")
    said = story.site.refuse("playbooks/deploy.yml", "-e", json.dumps({"site_redis_password": PASSWORDS[0]}))
    assert f"site_redis_password of {PREFIX}redis1 is another one than its neighbours use" in said
    with story.under_load("site_redis_password"):
        story.change(site_redis_password=PASSWORDS[0])
        time.sleep(3)
    assert lets_in(redis, PASSWORDS[0])
    assert not lets_in(redis, former)
    redis.check_output("sudo systemctl start clawdbot-backup.service")
    story.site.on("app1").check_output("sudo clawdbot check")
    story.nothing_to_do()


@pytest.mark.parametrize(
    "task",
    [
        "redis : Run Redis with this configuration, now and at boot",
        "2:clawdbot : Restart the bot",
        "Go on without it",
    ],
)
def test_the_password_of_redis_by_a_run_that_is_killed(story: Story, task: str) -> None:
    """Before Redis knows the new one, when one of two nodes has it, and when closing has begun."""
    former = password_of(story)
    story.variables["site_redis_password"] = PASSWORDS[1] if former != PASSWORDS[1] else PASSWORDS[0]
    with story.under_load(f"site_redis_password, killed before '{task.partition(':')[2].strip() or task}'"):
        place = task if task[0].isdigit() else f"1:{task}"
        run = story.site.begin("site.yml", *story.options(), kill_before=place)
        said, _ = run.communicate(timeout=900)
        assert run.returncode == -9, said[-6000:]
        story.change()
        time.sleep(3)
    redis = story.site.on("redis1")
    assert lets_in(redis, story.variables["site_redis_password"])
    assert not lets_in(redis, former)


def deaths() -> Iterator[str]:
    """Places for `kill_before`; with RUN_DEATHS=every before each task that there is, which takes hours."""
    if os.environ.get("RUN_DEATHS") == "every":
        yield from (f"{number}:" for number in itertools.count(1))
    yield from (f"1:{task}" for task in DEATHS)


def test_a_value_of_every_role_by_runs_that_are_killed_or_interrupted(story: Story) -> None:
    """Each run dies a little later than the one before it, so each finds written what none has put in force."""
    story.change(**{value.variable: value.values[0] for value in VALUES})
    story.variables |= {value.variable: value.values[1] for value in VALUES}
    died = 0
    # Redis is restarted, and some wait for their answer until a lease ends.
    with story.under_load("a value of every role, by runs that die", notices=True):
        for place in deaths():
            signal = ("SIGKILL", "SIGINT")[died % 2]
            run = story.site.begin("site.yml", *story.options(), kill_before=place, kill_by=signal)
            said, _ = run.communicate(timeout=900)
            if run.returncode == 0:
                break
            assert run.returncode == -9 or signal == "SIGINT", said[-6000:]
            died += 1
        story.change()
        time.sleep(3)
    story.rows[-1] = story.rows[-1].replace("runs that die", f"{died} runs that die", 1)
    assert died >= len(DEATHS)
    for value in VALUES:
        assert story.site.on(value.host).run(value.question).stdout.strip() == value.answers[1], value
    story.nothing_to_do()


def test_a_node_that_is_left_out_keeps_the_former_password_open(story: Story) -> None:
    former, redis = password_of(story), story.site.on("redis1")
    story.variables["site_redis_password"] = "a password that app2 does not know yet"
    with story.under_load("site_redis_password, one node left out, then there again"):
        said = story.site.play("site.yml", *story.options("--limit", f"all:!{PREFIX}app2"))
        assert "goes on to accept the former site_redis_password" in said
        assert f"{PREFIX}app2 may still use it" in said
        assert lets_in(redis, former)
        assert lets_in(redis, story.variables["site_redis_password"])
        story.change()
        time.sleep(3)
    assert not lets_in(redis, former)


def test_the_port_of_the_bot(story: Story) -> None:
    with story.under_load("site_bot_port"):
        story.change(site_bot_port=BOT_PORT)
        time.sleep(3)
    for name in ("app1", "app2"):
        assert reached(story, name, BOT_PORT)
        assert not reached(story, name, 18789)
        assert story.site.on(name).check_output("ss -Hltn 'sport = 18789'") == ""
    story.nothing_to_do()


def test_the_port_of_redis(story: Story) -> None:
    with story.under_load("site_redis_port"):
        story.change(site_redis_port=REDIS_PORT)
        time.sleep(3)
    redis = story.site.on("redis1")
    assert lets_in(redis, password_of(story), REDIS_PORT)
    assert redis.check_output("ss -Hltn 'sport = 6379'") == ""
    redis.check_output("sudo systemctl start clawdbot-backup.service")
    story.nothing_to_do()


def test_the_ports_of_the_exporters(story: Story) -> None:
    """The firewalls follow the monitoring, and nobody is alarmed meanwhile."""
    with story.under_load("ports of the exporters"):
        story.change(site_node_exporter_port=9103, site_nginx_exporter_port=9114, site_redis_exporter_port=9122)
        time.sleep(20)
    asked = "curl -s --data-urlencode 'query={}' 127.0.0.1:9090/api/v1/query"
    down = json.loads(story.site.on("lb1").check_output(asked.format("up == 0")))
    assert down["data"]["result"] == []
    rung = json.loads(
        story.site.on("lb1").check_output(asked.format('count_over_time(ALERTS{alertname=~".*Down"}[5m])'))
    )
    assert rung["data"]["result"] == []
    assert not reached(story, "app1", 9100)
    assert "9100" not in story.site.on("app1").check_output("sudo nft list table inet clawdbot")
    story.nothing_to_do()


def test_the_name(story: Story) -> None:
    """The consoles have the address until somebody has edited them; who asks for something else is not answered."""
    address, outside = story.site.hosts["lb1"]["ansible_host"], story.site.on("outside")
    with story.under_load("site_domain, while the consoles have the address"):
        story.change(site_domain="bot.example", site_former_domains=[address])
        time.sleep(3)
    url = f"http://{address}/health"
    assert "healthy" in outside.check_output(f"curl -s -H 'Host: bot.example' {url}")
    assert not outside.run(f"curl -s -H 'Host: somebody.else' {url}").succeeded
    names = story.site.on("lb1").check_output(
        "openssl s_client -connect 127.0.0.1:443 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName"
    )
    assert "DNS:bot.example" in names
    assert f"IP Address:{address}" in names
    story.nothing_to_do()


def issuer(story: Story) -> str:
    """Who issued the certificate that the balancer shows; nobody where it does not talk TLS."""
    address = story.site.hosts["lb1"]["ansible_host"]
    shown = f"openssl s_client -connect {address}:443 -servername bot.example </dev/null 2>/dev/null"
    said = story.site.on("outside").run(f"{shown} | openssl x509 -noout -issuer 2>/dev/null").stdout
    # Releases of OpenSSL write it with and without spaces.
    return str(said).strip().replace(" = ", "=")


def authority(story: Story) -> str:
    """Run an ACME authority in the outside world, by which the name leads to the balancer; return its address."""
    address, balancer = (story.site.hosts[name]["ansible_host"] for name in ("outside", "lb1"))
    settings = {"listenAddress": "0.0.0.0:14000", "managementListenAddress": "0.0.0.0:15000", "httpPort": 80}
    settings |= {"certificate": "/etc/pebble.pem", "privateKey": "/etc/pebble.key", "tlsPort": 443}
    script = f"""
        apt-get -qq update
        apt-get -qq install pebble >/dev/null
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=pebble \
            -addext subjectAltName=IP:{address} -keyout /etc/pebble.key -out /etc/pebble.pem 2>/dev/null
        printf '%s' '{json.dumps({"pebble": settings})}' >/etc/pebble.json
        echo '{balancer} bot.example' >>/etc/hosts
        systemd-run --quiet --unit=pebble --setenv=PEBBLE_VA_NOSLEEP=1 pebble -config /etc/pebble.json
        cat /etc/pebble.pem"""
    trusted = story.site.on("outside").check_output("sudo sh -ec %s", script)
    story.site.on("lb1").check_output("printf '%%s\n' %s | sudo tee /etc/pebble.pem", trusted)
    return str(address)


def test_the_certificate(story: Story, tmp_path: Path) -> None:
    """One of each kind takes the place of that before it."""
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90"]
    names = f"subjectAltName=DNS:bot.example,IP:{story.site.hosts['lb1']['ansible_host']}"
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    subprocess.run(["openssl", *made, "-subj", "/CN=ours", "-addext", names, *files], check=True, capture_output=True)
    kinds = [
        ("acme", "CN=Pebble", {"loadbalancer_acme_directory": f"https://{authority(story)}:14000/dir"}),
        (
            "provided",
            "CN=ours",
            {f"loadbalancer_tls_{part}": str(tmp_path / f"{part}.pem") for part in ("key", "certificate")},
        ),
        ("none", "", {}),
        ("selfsigned", "CN=bot.example", {}),
    ]
    story.variables |= {"site_domain": "bot.example", "site_former_domains": [story.site.hosts["lb1"]["ansible_host"]]}
    story.variables |= {"loadbalancer_acme_ca_bundle": "/etc/pebble.pem", "loadbalancer_acme_email": "ops@bot.example"}
    for kind, by, more in kinds:
        with story.under_load(f"loadbalancer_tls: {kind}"):
            story.change(loadbalancer_tls=kind, **more)
            time.sleep(3)
        assert issuer(story).startswith(f"issuer={by}" if by else ""), kind
        assert bool(issuer(story)) == bool(by), kind
    assert story.site.on("lb1").run("systemctl is-active certbot.timer").stdout.strip() == "inactive"
    story.nothing_to_do()


def test_the_limits_of_the_balancer(story: Story) -> None:
    url = f"http://{story.site.hosts['lb1']['ansible_host']}/api/dingtalk/callback"

    def refused_by_the_bot() -> bool:
        """Which has a limit of its own, and says so in JSON."""
        said = story.site.on("outside").run(f"head -c 1500000 /dev/zero | curl -s --data-binary @- {url}").stdout
        assert "Request Entity Too Large" in said
        return bool(said.startswith("{"))

    assert not refused_by_the_bot()
    with story.under_load("loadbalancer_max_body, loadbalancer_rate, loadbalancer_burst"):
        story.change(loadbalancer_max_body="2m", loadbalancer_rate=200, loadbalancer_burst=400)
        time.sleep(3)
    assert refused_by_the_bot()
    story.nothing_to_do()


def test_the_address_of_a_node(story: Story) -> None:
    """It has the new one before anybody knows; until the run ends the other node has all requests."""
    container, host = f"clawdbot-{PREFIX}app2", story.site.hosts["app2"]
    former = host["ansible_host"]
    addresses = ["10.213.190.200", former]
    for address, leaves in zip(addresses, [former, *addresses], strict=False):
        before = story.site.callbacks("app2") if address == former else 0
        # What the node had in hand is taken over when its lease ends.
        with story.under_load(f"address of a node, {'there' if leaves == former else 'back'}", notices=True):
            moves = (
                f"ip address delete {leaves}/17 dev eth0; ip address add {address}/17 dev eth0; ip route add $gateway"
            )
            moves = f"gateway=$(ip route show default); {moves}"
            subprocess.run(["docker", "exec", container, "sh", "-ec", moves], check=True)
            host["ansible_host"] = address
            story.site.nodes("app1", "app2")
            story.change()
            time.sleep(5)
        assert reached(story, "app2", story.variables.get("site_bot_port", 18789))
        assert story.site.callbacks("app2") > before
        rules = story.site.on("redis1").check_output("sudo nft list ruleset")
        assert address in rules
        assert leaves not in rules
    story.nothing_to_do()


def test_the_ports_of_the_balancers(story: Story) -> None:
    """The consoles have the former ones until somebody has edited them; the front door at the bot's port stays."""
    outside, name = story.site.on("outside"), "-H 'Host: bot.example'"
    address = story.site.hosts["lb1"]["ansible_host"]

    def served() -> list[bool]:
        ends = (f"http://{address}:80", f"http://{address}:8080", f"https://{address}:443", f"https://{address}:8443")
        return ["healthy" in outside.run(f"curl -sk -m 5 {name} {end}/health").stdout for end in ends]

    assert served() == [True, False, True, False]
    with story.under_load("site_http_port, site_https_port, while the consoles have the former"):
        former = {"site_former_http_ports": [80], "site_former_https_ports": [443]}
        story.change(site_http_port=8080, site_https_port=8443, **former)
    assert served() == [True, True, True, True]
    with story.under_load("the former ones are closed"):
        story.change(site_former_http_ports=[], site_former_https_ports=[])
    assert served() == [False, True, False, True]
    story.nothing_to_do()


def test_the_secrets_of_the_platforms(story: Story) -> None:
    """New ones here first, then in the consoles, then nowhere the former ones."""
    outside, node = story.site.on("outside"), story.site.on("app1")
    console = json.loads(outside.check_output("sudo cat /opt/simulator/config.json"))
    until = f"{datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2):%Y-%m-%d}"
    new = {platform: {name: new_secret(name) for name in names} for platform, names in REPLACED.items()}
    former = {
        f"clawdbot_{platform}_former": {name: console[platform][name] for name in names} | {"until": until}
        for platform, names in REPLACED.items()
    }
    present = {f"clawdbot_{platform}_{name}": value for platform in new for name, value in new[platform].items()}
    with story.under_load("secrets of the platforms, new here, former in their consoles"):
        story.change(**present, **former)
        time.sleep(3)
    said = node.check_output("sudo clawdbot check")
    # What messages are signed and encrypted with; events, which the load has none of, take the others.
    for used in ("dingtalk: the former app_secret", "feishu: the former encryption_key"):
        assert re.search(rf"{used} is accepted until .*; last used ", said), said
    assert "dingtalk: the former token is accepted until" in said

    entered = json.dumps(console | {platform: console[platform] | new[platform] for platform in new})
    outside.check_output("printf '%%s' %s | sudo tee /opt/simulator/config.json >/dev/null", entered)
    outside.check_output("sudo systemctl restart clawdbot-simulator.service")
    with story.under_load("secrets of the platforms, new in their consoles, former ones closed"):
        time.sleep(10)
        story.change(**{name: {} for name in former})
        time.sleep(3)
    assert "former" not in node.check_output("sudo clawdbot check")
    assert "former" not in node.check_output(
        "sudo cat /opt/clawdbot/config/dingtalk.yaml /opt/clawdbot/config/feishu.js"
    )
    story.nothing_to_do()


def test_redis_is_restarted(story: Story) -> None:
    # What a worker had in hand just then is taken over when its lease ends, after half a minute.
    with story.under_load("Redis is restarted five times", notices=True):
        for _ in range(5):
            story.site.on("redis1").check_output("sudo systemctl restart redis-server")
            time.sleep(3)


@pytest.mark.parametrize("way", ["stop start", "kill --signal=STOP;kill --signal=CONT"])
def test_redis_is_away(story: Story, way: str) -> None:
    """The nodes keep callbacks on their disks, and none is taken for dead: all goes on the moment Redis is back."""
    redis = story.site.on("redis1")
    away, back = ("kill --signal=STOP", "kill --signal=CONT") if "kill" in way else ("stop", "start")
    balancer = story.site.on("lb1")
    balancer.check_output("sudo truncate --size=0 /var/log/nginx/error.log")
    # Who waits for long is told so, and what a worker had in hand is taken over when its lease ends.
    with story.under_load(f"Redis is away for 15 s ({away})", notices=True):
        redis.check_output(f"sudo systemctl {away} redis-server")
        time.sleep(15)
        redis.check_output(f"sudo systemctl {back} redis-server")
        time.sleep(8)
    said = balancer.run("sudo grep -cE 'no live upstreams|upstream timed out' /var/log/nginx/error.log").stdout.strip()
    assert said == "0", balancer.check_output("sudo tail -n 20 /var/log/nginx/error.log")
    kept = [
        story.site.on(name).check_output("sudo grep -c '\"spooled\"' /opt/clawdbot/logs/access.log")
        for name in ("app1", "app2")
    ]
    assert all(int(count) for count in kept), kept
