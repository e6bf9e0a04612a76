"""An address is at one host, whatever happens to the other one, and leaves without a failed request when it may."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import testinfra
from again import converge
from power import docker, eventually
from testinfra.host import Host

ADDRESS, SECOND = "10.213.191.101", "10.213.191.102"
NAMES = ("debian12", "debian13")
PLAYBOOK = Path(__file__).parents[1] / "converge.yml"


def container(name: str) -> str:
    return f"clawdbot-keepalived-{name}"


def on(name: str) -> Host:
    return testinfra.get_host(f"docker://{container(name)}")


def owners(address: str = ADDRESS) -> list[str]:
    """Hosts that have the address."""
    return [name for name in NAMES if on(name).run(f"timeout 5 ip -oneline address show to {address}").stdout]


def ask(path: str = "/", address: str = ADDRESS, seconds: float = 15) -> str:
    """The host that answers there, to a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=seconds)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return str(json.loads(connection.getresponse().read())["node"]).removeprefix("keepalived-")


@pytest.fixture
def owner() -> str:
    """The one host that has the address, once both are well."""

    def only() -> str:
        found = owners()
        return found[0] if len(found) == 1 and ask() == found[0] else ""

    for name in NAMES:
        on(name).check_output("systemctl start backend keepalived")
    time.sleep(3)  # both are found well by then
    return str(eventually(only, 30))


def other(name: str) -> str:
    return next(each for each in NAMES if each != name)


@contextlib.contextmanager
def load() -> Iterator[list[str]]:
    """Requests one after the other from six threads during the block; yields what failed."""
    failures: list[str] = []
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.05):
            try:
                ask()
            except (OSError, http.client.HTTPException, ValueError) as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1)
        yield failures
        time.sleep(3)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_it_leaves_a_host_that_is_stopped_without_a_failed_request(owner: str) -> None:
    slow: list[str] = []
    under_way = threading.Thread(target=lambda: slow.append(ask("/?seconds=1.5")))
    with load() as failures:
        under_way.start()
        time.sleep(0.3)
        on(owner).check_output("systemctl stop keepalived")
    under_way.join()
    assert failures == []
    assert slow == [owner]  # what was under way got its answer
    assert owners() == [other(owner)]
    assert "clawdbot_front" not in on(owner).check_output("nft list tables")
    # It stays where it went.
    on(owner).check_output("systemctl start keepalived")
    time.sleep(5)
    assert owners() == [other(owner)]


def test_the_hook_is_told(owner: str) -> None:
    on(owner).check_output("systemctl stop keepalived")
    eventually(lambda: owners() == [other(owner)], 30)
    said = on(other(owner)).check_output("journalctl --output=cat --identifier=hook")
    assert said.splitlines()[-1] == f"{ADDRESS} MASTER"


def test_it_leaves_a_host_that_freezes(owner: str) -> None:
    docker("pause", container(owner))
    try:
        eventually(lambda: answers(other(owner)), 10)
    finally:
        docker("unpause", container(owner))
    eventually(lambda: len(owners()) == 1, 30)


def answers(name: str) -> bool:
    with contextlib.suppress(OSError):
        return ask(seconds=1) == name
    return False


def test_it_leaves_a_host_that_does_not_serve_unless_nobody_does(owner: str) -> None:
    on(owner).check_output("systemctl stop backend")
    eventually(lambda: answers(other(owner)), 15)
    on(other(owner)).check_output("systemctl stop backend")
    time.sleep(6)
    assert owners() == [other(owner)]


def test_a_killed_keepalived_comes_back(owner: str) -> None:
    on(owner).check_output("systemctl kill --signal=KILL keepalived")
    time.sleep(3)
    eventually(lambda: len(owners()) == 1, 30)
    assert on(owner).service("keepalived").is_running
    assert ask() in NAMES


@pytest.mark.usefixtures("owner")
def test_of_two_addresses_each_host_has_one() -> None:
    done = converge(PLAYBOOK, "all", test_more=[f"{SECOND}/17"])
    assert done.returncode == 0, done.stdout
    eventually(lambda: len(owners()) == len(owners(SECOND)) == 1 and owners() != owners(SECOND), 30)
    (first,), (second,) = owners(), owners(SECOND)
    on(second).check_output("systemctl stop backend")
    eventually(lambda: owners(SECOND) == [first], 15)
    on(second).check_output("systemctl start backend")
    eventually(lambda: owners(SECOND) == [second], 15)
    assert owners() == [first]
    assert ask(address=SECOND) == second


def test_what_is_switched_off_is_gone(owner: str) -> None:
    done = converge(PLAYBOOK, f"keepalived-{owner}", test_entry="absent")
    assert done.returncode == 0, done.stdout
    host = on(owner)
    assert owners() == [other(owner)]
    assert not host.run("systemctl is-enabled keepalived || systemctl is-active keepalived").succeeded
    assert host.run("ls /usr/local/sbin/clawdbot-front* /etc/keepalived/keepalived.conf").stdout == ""
    assert host.run("getent passwd keepalived_script").rc == 2
    assert host.run("pgrep keepalived").stdout == ""
