"""A site is lost, the other one answers, the first comes back and answers again: under load, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from installation import RATE, Installation
from power import PREFIX, docker, eventually, inside
from site_secrets import link

SITES = {"shanghai": ("sh1", "sh2"), "beijing": ("bj1", "bj2")}
LINK_PORTS = {"shanghai": 7381, "beijing": 7382}
DELAY_SECONDS = 0.03  # each way
RECOVERY_TIME_SECONDS = 120
RECOVERY_POINT_SECONDS = 5
BACKLOG_SECONDS = 40
FRONT = "/run/front"


class Place:
    """One of the sites, by its inventory."""

    def __init__(self, name: str, inventory: str, variables: dict[str, Any]) -> None:
        self.name, self.hosts = name, SITES[name]
        front, back = self.hosts
        groups = {"loadbalancer": [front], "clawdbot": [front, back], "redis": [back], "internet": ["outside"]}
        mine = dict.fromkeys(self.hosts, variables | {"site_name": name})
        self.site = Installation(inventory, groups, name, mine)
        self.site.front = self.site.hosts["outside"]["ansible_host"]

    def play(self, playbook: str, active: str) -> str:
        """Run a playbook with the inventory's ``site_active``."""
        return self.site.play(playbook, "-e", f"site_active={active}")

    def power(self, *, on: bool) -> None:
        """Cut the power of all its hosts at once, or give it back."""
        docker("start" if on else "kill", *(PREFIX + host for host in self.hosts))

    def roles(self) -> set[str]:
        """What its nodes say that they do; "" of one that does not answer."""
        page = "urllib.request.urlopen('http://127.0.0.1:18789/ready', None, 3)"
        ask = f"import json, urllib.request; print(json.load({page})['status'])"
        return {inside(host, f'python3 -c "{ask}"') for host in self.hosts}

    @contextmanager
    def load(self, table: list[tuple[str, dict[str, Any]]], what: str) -> Iterator[dict[str, Any]]:
        """Load on whoever answers; its account becomes a row of the table."""
        with self.site.load(forgiving=True) as said:
            yield said
        print(said["summary"])
        table.append((what, said))


@pytest.fixture(scope="session")
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    """Both, with a link between them and a name that leads to one of them."""
    inventory = request.config.getoption("--ansible-inventory")
    addresses = Installation(inventory, {"internet": ["outside"], "loadbalancer": ["sh1"]}, "world").hosts
    outside = addresses["outside"]["ansible_host"]
    hook = tmp_path_factory.mktemp("hook") / "move"
    fronts = {name: addresses[front]["ansible_host"] for name, (front, _) in SITES.items()}
    cases = "\n".join(f"{name}) to={address} ;;" for name, address in fronts.items())
    hook.write_text(f'#!/bin/sh\ncase $1 in\n{cases}\nesac\ndocker exec {PREFIX}outside sh -c "echo $to >{FRONT}"\n')
    hook.chmod(0o755)
    certificate, key = link()
    variables = {
        "site_link_certificate": certificate,
        "site_link_key": key,
        "site_sites": {
            name: {"redis": f"{outside}:{port}", "addresses": [outside]} for name, port in LINK_PORTS.items()
        },
        "site_promote_hook": str(hook),
    }
    docker("cp", str(Path(__file__).with_name("world.py")), f"{PREFIX}outside:/opt/world.py")
    links = [
        f"{LINK_PORTS[name]}={addresses[back]['ansible_host']}:6380:{DELAY_SECONDS}"
        for name, (_, back) in SITES.items()
    ]
    docker("exec", PREFIX + "outside", "sh", "-c", f"echo {fronts['shanghai']} >{FRONT}")
    unit = ["systemd-run", "--quiet", "--unit=world", "python3", "/opt/world.py", FRONT, *links]
    docker("exec", PREFIX + "outside", *unit)
    return {name: Place(name, inventory, variables) for name in SITES}


def test_the_second_site_stands_by(places: dict[str, Place]) -> None:
    """Set up in any order of hours, the one that answers first; a second run of either changes nothing."""
    shanghai, beijing = places["shanghai"], places["beijing"]
    assert "has not been set up yet" in beijing.site.refuse("site.yml", "-e", "site_active=shanghai")
    shanghai.play("site.yml", "shanghai")
    assert shanghai.roles() == {"ready"}
    beijing.play("site.yml", "shanghai")
    assert beijing.roles() == {"standby"}
    for place in places.values():
        assert set(place.site.changed(place.play("site.yml", "shanghai")).values()) == {0}
    assert "site_active" in beijing.site.refuse("playbooks/promote_site.yml", "-e", "site_active=shanghai")


def test_a_site_is_lost_and_comes_back_by_itself(
    places: dict[str, Place], table: list[tuple[str, dict[str, Any]]]
) -> None:
    shanghai, beijing = places["shanghai"], places["beijing"]
    with shanghai.load(table, "shanghai loses its power, beijing is promoted") as said:
        time.sleep(5)
        shanghai.power(on=False)
        begun = time.monotonic()
        beijing.play("playbooks/promote_site.yml", "beijing")
        print(f"promote_site.yml took {time.monotonic() - begun:.0f} s")
        assert beijing.roles() == {"ready"}
        time.sleep(10)
        # With its network, and the claim of before.
        shanghai.power(on=True)
        eventually(lambda: shanghai.roles() == {"standby"})
        time.sleep(20)
        assert shanghai.roles() == {"standby"}
    assert said["ack_gap_ms"] < RECOVERY_TIME_SECONDS * 1000, said["summary"]
    assert said["lost"] <= RECOVERY_POINT_SECONDS * RATE, said["summary"]
    assert said["out_of_order"] == 0, said["summary"]
    # Answered in the last moments, and the other site did not hear of it any more.
    assert said["answered_twice"] <= RECOVERY_POINT_SECONDS * RATE, said["summary"]


def test_the_lost_site_is_asked_to_stand_by(places: dict[str, Place], table: list[tuple[str, dict[str, Any]]]) -> None:
    """What it had accepted in its last moments, and on its nodes' disks, is answered now."""
    shanghai, beijing = places["shanghai"], places["beijing"]
    refused = shanghai.site.refuse("site.yml", "-e", "site_active=shanghai")
    assert "beijing answers since it was promoted (epoch 2)" in refused
    with beijing.load(table, "shanghai follows beijing") as said:
        shanghai.play("site.yml", "beijing")
    assert said["ok"], said["summary"]
    assert shanghai.roles() == {"standby"}
    for place in places.values():
        assert set(place.site.changed(place.play("site.yml", "beijing")).values()) == {0}
        assert inside(place.hosts[1], "clawdbot-redis zcard clawdbot:waiting") == "0"


def test_it_answers_again(places: dict[str, Place], table: list[tuple[str, dict[str, Any]]]) -> None:
    """Planned, so nothing fails; the consoles lead to the other site for a while after the move."""
    shanghai, beijing = places["shanghai"], places["beijing"]
    with shanghai.load(table, "back to shanghai by fail_back.yml") as said:
        time.sleep(3)
        shanghai.play("playbooks/fail_back.yml", "shanghai")
        assert shanghai.roles() == {"ready"}
        assert beijing.roles() == {"standby"}
        # A console that nobody has changed.
        inside("outside", f"echo {beijing.site.hosts['bj1']['ansible_host']} >{FRONT}")
        time.sleep(10)
    assert said["failed_requests"] == said["lost"] == said["answered_twice"] == said["out_of_order"] == 0, said[
        "summary"
    ]
    for place in places.values():
        place.play("site.yml", "shanghai")
        assert set(place.site.changed(place.play("site.yml", "shanghai")).values()) == {0}


def test_two_hosts_come_back_as_one_by_their_copies_alone(
    request: pytest.FixtureRequest, places: dict[str, Place], table: list[tuple[str, dict[str, Any]]]
) -> None:
    """Of Debian 12 and lost; what comes is of Debian 13 and has another name. What the copy holds is answered.

    Before the copy messages pile up, so that much would be lost without it. Between it and the end some are answered,
    which are answered again, and some are accepted, which are lost.
    """
    inventory = request.config.getoption("--ansible-inventory")
    everywhere = {"loadbalancer": ["new1"], "clawdbot": ["new1"], "redis": ["new1"], "internet": ["outside"]}
    outside = places["shanghai"].site.hosts["outside"]
    store = {
        "site_backup_repository": f"sftp:{outside['ansible_user']}@{outside['ansible_host']}:copies",
        "backup_ssh_key_file": outside["ansible_private_key_file"],
    }
    old = Installation(
        inventory,
        everywhere | {"loadbalancer": ["old1"], "clawdbot": ["old1"], "redis": ["old2"]},
        "old",
        {"old1": store, "old2": store},
    )
    new = Installation(inventory, everywhere, "new", {"new1": store | {"backup_of": f"{old.prefix}old2"}})
    old.front = outside["ansible_host"]

    def leads_to(name: str) -> None:
        inside("outside", f"echo {old.hosts[name]['ansible_host']} >{FRONT}")

    def waiting() -> int:
        return int(inside("old2", "clawdbot-redis zcard clawdbot:waiting"))

    old.play("site.yml")
    leads_to("old1")
    with old.load(forgiving=True) as said:
        old.on("old1").check_output("sudo systemctl stop clawdbot-worker")
        time.sleep(BACKLOG_SECONDS)
        before, begun = waiting(), time.monotonic()
        old.on("old2").check_output("sudo systemctl start clawdbot-backup@often")
        after = waiting()
        old.on("old1").check_output("sudo systemctl start clawdbot-worker")
        time.sleep(10)
        docker("kill", PREFIX + "old1", PREFIX + "old2")
        since = time.monotonic() - begun
        new.play("playbooks/restore.yml")
        leads_to("new1")
        print(
            f"{before} to {after} waited when the copy was taken, the last {since:.0f} s of both hosts; restored after"
        )
        print(f"{time.monotonic() - begun - since:.0f} s")
        time.sleep(10)
    print(said["summary"])
    table.append(("two hosts are lost with all they had, one has their copies", said))
    assert before > RATE * since, "this would not show a queue that did not come back"
    assert 0 < said["lost"] <= RATE * since, said["summary"]
    assert 0 < sum(said["doubled"].get(platform, 0) for platform in ("dingtalk", "feishu")) <= after, said["summary"]
    assert said["out_of_order"] == 0, said["summary"]
