"""What users of the balancer see, from outside: no failed request while nodes die, are drained or change."""

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

testinfra_hosts = ["ansible://loadbalancer"]

CALLBACK = "/api/dingtalk/callback"
SCENARIO = Path(__file__).parents[1]


@dataclass
class Answer:
    """What came back: status and, from the stand-in, what it received."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def seen(self) -> dict[str, Any]:
        """What arrived at the node."""
        seen: dict[str, Any] = json.loads(self.body)
        return seen


def address(host: Host) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


def ask(
    balancer: str,
    path: str = "/",
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    tls: bool = False,
) -> Answer:
    """Sends one request over a connection of its own."""
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    connection = (
        http.client.HTTPSConnection(balancer, timeout=15, context=unverified)
        if tls
        else http.client.HTTPConnection(balancer, timeout=15)
    )
    with contextlib.closing(connection):
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read())


@dataclass
class Load:
    """Constant load: about 50 requests a second, two thirds of them callbacks, each over a connection of its own."""

    balancer: str
    failures: list[str] = field(default_factory=list)
    nodes: Counter[str] = field(default_factory=Counter)
    slowest_callback: float = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def _run(self, method: str, path: str) -> None:
        while not self._over.wait(0.1):
            start = time.monotonic()
            try:
                answer = ask(self.balancer, path, method, body=b"x" if method == "POST" else None)
                if answer.status == 200:
                    self.nodes[answer.seen["node"]] += 1
                else:
                    self.failures.append(f"{method} {answer.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{method} {error!r}")
            if method == "POST":
                self.slowest_callback = max(self.slowest_callback, time.monotonic() - start)

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        """Runs during the block; fails after it if any request failed."""
        kinds = [("GET", "/")] * 2 + [("POST", CALLBACK)] * 2 + [("POST", "/api/feishu/callback")] * 2
        threads = [threading.Thread(target=self._run, args=kind) for kind in kinds]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            time.sleep(0.5)
            self._over.set()
            for thread in threads:
                thread.join()
        print(f"{sum(self.nodes.values())} answered {dict(self.nodes)}, slowest callback {self.slowest_callback:.2f} s")
        assert self.failures == []


@pytest.fixture
def balancer(host: Host) -> str:
    """Address of the balancer, once it serves from both nodes; a test before may have broken one."""
    found = address(host)
    deadline = time.monotonic() + 20
    while {ask(found).seen["node"] for _ in range(4)} != {"loadbalancer-app1", "loadbalancer-app2"}:
        assert time.monotonic() < deadline, "one of the nodes takes no requests"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def nodes() -> dict[str, Host]:
    """The nodes by their names."""
    found = testinfra.get_hosts(["ansible://clawdbot"], ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])
    return {host.backend.get_pytest_id().removeprefix("ansible://"): host for host in found}


def play(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a playbook of the scenario."""
    extra = [f"--extra-vars={key}={value}" for key, value in variables.items()]
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    return subprocess.run(
        ["ansible-playbook", "--inventory", inventory, SCENARIO / name, *extra],
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_nodes_are_used(balancer: str, nodes: dict[str, Host]) -> None:
    assert {ask(balancer).seen["node"] for _ in range(10)} == set(nodes)


def test_tls_beside_plain_http(balancer: str) -> None:
    for tls in (False, True):
        answer = ask(balancer, CALLBACK, "POST", body=b"{}", tls=tls)
        assert answer.status == 200
        assert answer.seen["headers"]["X-Forwarded-Proto"] == ("https" if tls else "http")


def test_client_cannot_forge_its_address(balancer: str) -> None:
    forged = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "X-Forwarded-Proto": "https", "Host": "bot.test"}
    headers = ask(balancer, CALLBACK, "POST", forged, b"{}").seen["headers"]
    assert "6.6.6.6" not in json.dumps(headers)
    assert headers["X-Forwarded-For"] == headers["X-Real-IP"]
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["Host"] == "bot.test"


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/x/../metrics", "/%6detrics", "/metrics?x", "/api/alerts"]
)
def test_what_is_for_the_monitoring_is_not_for_the_public(balancer: str, path: str) -> None:
    assert ask(balancer, path).status == 404


def test_body_limit(balancer: str) -> None:
    assert ask(balancer, CALLBACK, "POST", body=b"x" * 16_000).seen["length"] == 16_000
    assert ask(balancer, CALLBACK, "POST", body=b"x" * 17_000).status == 413


def test_who_sends_slowly_reaches_no_node(balancer: str, nodes: dict[str, Host]) -> None:
    """Two dozen of them would take all threads of a bot that stood alone with gunicorn."""

    def connections() -> int:
        found = [node.check_output("ss -Htn state established '( sport = :18789 )'") for node in nodes.values()]
        return sum(len(lines.splitlines()) for lines in found)

    before = connections()
    with contextlib.ExitStack() as stack:
        for _ in range(24):
            slow = stack.enter_context(socket.create_connection((balancer, 80), timeout=15))
            slow.sendall(f"POST {CALLBACK} HTTP/1.1\r\nHost: bot.test\r\nContent-Length: 9\r\n\r\nslow".encode())
        time.sleep(1)
        assert connections() < before + 12
        assert ask(balancer, "/health").status == 200


def test_rate_limit(balancer: str) -> None:
    """100 a second and 30 at once on top are allowed; 200 come at once."""
    connections = [socket.create_connection((balancer, 80), timeout=15) for _ in range(200)]
    start = time.monotonic()
    for connection in connections:
        connection.sendall(b"GET /?seconds=0 HTTP/1.1\r\nHost: flood\r\nConnection: close\r\n\r\n")
    statuses = Counter(connection.makefile("rb").readline().split()[1] for connection in connections)
    seconds = time.monotonic() - start
    for connection in connections:
        connection.close()
    assert set(statuses) == {b"200", b"429"}
    assert 30 <= statuses[b"200"] <= 31 + 100 * seconds
    time.sleep(0.5)
    assert ask(balancer).status == 200


def test_connections_to_nodes_are_kept(balancer: str) -> None:
    assert len({ask(balancer).seen["peer"] for _ in range(20)}) <= 8


def test_reloads_cost_no_request(host: Host, balancer: str) -> None:
    with Load(balancer).running(), host.sudo():
        for turn in range(5):
            host.check_output(f"echo '# {turn}' >> /etc/nginx/clawdbot_members.conf && clawdbot-nginx apply")


def test_killed_process_costs_no_request(balancer: str, nodes: dict[str, Host]) -> None:
    with Load(balancer).running(), nodes["loadbalancer-app1"].sudo():
        for _ in range(4):
            nodes["loadbalancer-app1"].check_output("systemctl kill --signal=KILL backend; sleep 0.5")


def test_vanished_node_costs_no_request(balancer: str, nodes: dict[str, Host]) -> None:
    app = nodes["loadbalancer-app1"]
    with app.sudo():
        app.check_output("systemd-run --collect sh -c 'sleep 1; ip link set eth0 down; sleep 8; ip link set eth0 up'")
    with Load(balancer).running() as load:
        time.sleep(12)
    # In time for the platforms, which wait for 3 s.
    assert load.slowest_callback < 3


def test_frozen_node_costs_no_callback(balancer: str, nodes: dict[str, Host]) -> None:
    app = nodes["loadbalancer-app1"]
    with app.sudo():
        app.check_output("systemctl kill --signal=STOP backend")
        try:
            for _ in range(6):
                assert ask(balancer, CALLBACK, "POST", body=b"x").seen["node"] == "loadbalancer-app2"
        finally:
            app.check_output("systemctl kill --signal=CONT backend")


def test_nodes_that_were_all_slow_for_a_moment_are_asked_again(balancer: str, nodes: dict[str, Host]) -> None:
    """Each is taken for dead after two callbacks that took too long; a bot that waits for its disk is not dead."""
    statuses: list[int] = []

    def send() -> None:
        statuses.append(ask(balancer, CALLBACK, "POST", body=b"x").status)

    threads = [threading.Thread(target=send) for _ in range(4)]
    freeze = "for signal in STOP CONT; do systemctl kill --signal=$signal backend; sleep 3; done"
    for node in nodes.values():
        with node.sudo():
            node.check_output("systemd-run --quiet --collect sh -c %s", freeze)
    time.sleep(0.3)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    send()
    assert statuses == [200] * 5


def test_other_posts_are_not_repeated(balancer: str, nodes: dict[str, Host]) -> None:
    """Only callbacks are deduplicated by the bot."""
    app = nodes["loadbalancer-app1"]
    time.sleep(6)  # the node is back after the tests before
    statuses: list[int] = []

    def send() -> None:
        statuses.append(ask(balancer, "/other?seconds=3", "POST", body=b"x").status)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    with app.sudo():
        app.check_output("systemctl kill --signal=KILL backend")
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 200, 502, 502]


def test_drained_member_finishes_what_it_has(host: Host, balancer: str, nodes: dict[str, Host]) -> None:
    answers: list[Answer] = []

    def send() -> None:
        answers.append(ask(balancer, "/?seconds=3"))

    threads = [threading.Thread(target=send) for _ in range(4)]
    with host.sudo(), Load(balancer).running() as load:
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        start = time.monotonic()
        assert host.check_output("clawdbot-member loadbalancer-app1 down") == "changed: loadbalancer-app1 is down"
        assert time.monotonic() - start > 1.5
        # Nothing is in flight, so that the node may be stopped at once.
        with nodes["loadbalancer-app1"].sudo():
            nodes["loadbalancer-app1"].check_output("systemctl stop backend")
        load.nodes.clear()
        time.sleep(1)
        assert set(load.nodes) == {"loadbalancer-app2"}
        with nodes["loadbalancer-app1"].sudo():
            nodes["loadbalancer-app1"].check_output("systemctl start backend; sleep 0.5")
        assert host.check_output("clawdbot-member loadbalancer-app1 up") == "changed: loadbalancer-app1 is up"
        time.sleep(1)
        assert set(load.nodes) == set(nodes)
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 4
    assert {answer.seen["node"] for answer in answers} == set(nodes)


def test_drain_tells_when_it_takes_too_long(host: Host, balancer: str) -> None:
    thread = [threading.Thread(target=ask, args=(balancer, "/?seconds=5")) for _ in range(2)]
    for each in thread:
        each.start()
    time.sleep(0.5)
    with host.sudo():
        said = host.run("clawdbot-member loadbalancer-app1 down --drain 1")
        assert said.rc == 75
        assert "loadbalancer-app1 takes no new requests, but 1 are in flight" in said.stderr
        for each in thread:
            each.join()
        assert host.run("clawdbot-member loadbalancer-app1 down").rc == 0
        host.check_output("clawdbot-member loadbalancer-app1 up")


def test_last_and_unknown_members(host: Host, balancer: str) -> None:
    with host.sudo():
        host.check_output("clawdbot-member loadbalancer-app1 down")
        assert "only member" in host.check_output("clawdbot-member loadbalancer-app2 down")
        assert ask(balancer).seen["node"] == "loadbalancer-app2"
        host.check_output("clawdbot-member loadbalancer-app1 up")
        assert "no member" in host.check_output("clawdbot-member app9 down")


def test_member_down_in_the_inventory_stays_down(host: Host, balancer: str) -> None:
    with host.sudo():
        host.check_output(
            "sed -i 's/; # loadbalancer-app1$/ down&/' /etc/nginx/clawdbot_members.conf && clawdbot-nginx apply"
        )
        host.check_output("clawdbot-member loadbalancer-app1 down && clawdbot-member loadbalancer-app1 up")
        assert {ask(balancer).seen["node"] for _ in range(6)} == {"loadbalancer-app2"}
        host.check_output(
            "sed -i 's/ down; # loadbalancer-app1$/; # loadbalancer-app1/' /etc/nginx/clawdbot_members.conf"
        )
        host.check_output("clawdbot-nginx apply")


def nodes_behind_each_balancer() -> list[set[str]]:
    """Names of the nodes that answer, for each balancer."""
    balancers = testinfra.get_hosts(["ansible://loadbalancer"], ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])
    return [{ask(address(each)).seen["node"] for _ in range(8)} for each in balancers]


def test_member_is_switched_everywhere_and_repaired_by_the_next_run() -> None:
    done = play("member.yml", test_member="loadbalancer-app2", test_state="down")
    assert done.returncode == 0, done.stdout
    assert nodes_behind_each_balancer() == [{"loadbalancer-app1"}] * 2
    # As if the roll-out was killed here.
    done = play("converge.yml")
    assert done.returncode == 0, done.stdout
    assert nodes_behind_each_balancer() == [{"loadbalancer-app1", "loadbalancer-app2"}] * 2


def test_refused_configuration_changes_nothing() -> None:
    done = play("converge.yml", test_max_body="nonsense")
    assert done.returncode != 0
    assert '"client_max_body_size" directive invalid value' in done.stdout
    assert nodes_behind_each_balancer() == [{"loadbalancer-app1", "loadbalancer-app2"}] * 2
    done = play("converge.yml")
    assert done.returncode == 0, done.stdout
